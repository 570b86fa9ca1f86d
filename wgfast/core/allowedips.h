/* Allowed IPs: longest-prefix match from address to owner, one table per family.
 *
 * Owners are small dense integers (a device's peer identifiers). Lookups take no lock and may run
 * in any number of threads, each inside a reader of the table's epoch; changes are serialised by the
 * table's own lock, and a lookup meets all of one or nothing. A prefix has one owner: inserting it again
 * moves it, and every lookup meanwhile yields the old or the new owner. (Where a table has just become so small
 * that it is read in another way, few.h, a lookup that had begun before may already meet the next change.)
 * How it is done: trie.h, few.h, prefixes.h. */
#ifndef WGF_ALLOWEDIPS_H
#define WGF_ALLOWEDIPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epoch.h"
#include "limits.h"

#define WGF_OWNER_NONE UINT32_MAX
#define WGF_OWNER_MAX (WGF_PEERS_MAX - 1)

enum wgf_family { WGF_IPV4 = 4, WGF_IPV6 = 6 };

struct wgf_prefix {
	uint8_t family;   /* enum wgf_family */
	uint8_t length;   /* 0 to 32 or 128 */
	uint8_t address[16]; /* network order; IPv4 in the first four bytes; host bits are zero */
	uint32_t owner;
};

struct wgf_allowedips;

struct wgf_allowedips *wgf_allowedips_create(struct wgf_epoch *epoch); /* NULL: out of memory */
void wgf_allowedips_destroy(struct wgf_allowedips *table);             /* no reader is left */

/* Host bits are masked. 0; -EINVAL (family, length, owner out of range), -ENOMEM or -ENOSPC (the table is at its limit: never
 * below a million prefixes): then it is unchanged. */
int wgf_allowedips_insert(struct wgf_allowedips *table, enum wgf_family family,
			  const uint8_t *address, unsigned length, uint32_t owner);
/* n prefixes, addresses as wgf_allowedips_lookup4_many takes them (or ..6_many), one after the other. 0; -EINVAL before
 * anything changed: *at is the first whose length or owner is out of range; -ENOMEM, -ENOSPC: those before *at are in. */
int wgf_allowedips_insert_many(struct wgf_allowedips *table, enum wgf_family family, const void *addresses,
			       const uint8_t *lengths, const uint32_t *owners, size_t n, size_t *at);
/* Whether a change of many prefixes can be held, asked before the first of them is applied: undoing half of one would
 * move prefixes back, which takes memory as any move does and so might fail in turn. */
struct wgf_demand {
	uint64_t added[2], moved[2]; /* prefixes, of IPv4 and of IPv6 */
};
/* Adds a prefix that is meant for an owner (WGF_OWNER_NONE: one that is not there yet) to the demand, unless it is that
 * owner's. Said twice it counts twice. */
void wgf_allowedips_demand(struct wgf_allowedips *table, struct wgf_demand *demand, enum wgf_family family,
			   const uint8_t *address, unsigned length, uint32_t owner);
/* 0 or -ENOSPC. Up to a million prefixes of a family, always 0. Beyond, or where addresses are limited (RLIMIT_AS), it goes
 * by what a prefix takes at most by itself and half as much again, and trusts little of what was given back, for
 * pieces may be too small. So it may refuse what would fit one by one; tests/test_full_table.py looks for changes
 * that are admitted and do not fit. Prefixes that are to go are not set off: what is taken away goes last. */
int wgf_allowedips_admit(struct wgf_allowedips *table, const struct wgf_demand *demand);
/* Removals never fail for want of memory: some is kept for them, and when it is used up they wait for readers to
 * pass, so nobody removes from inside a reader.
 * Removes the prefix if owner has it (or whoever has it, with WGF_OWNER_NONE). 0, -EINVAL, -ENOENT. */
int wgf_allowedips_remove(struct wgf_allowedips *table, enum wgf_family family,
			  const uint8_t *address, unsigned length, uint32_t owner);
/* All prefixes of one owner, in time proportional to their number. Returns how many there were. */
size_t wgf_allowedips_remove_owner(struct wgf_allowedips *table, uint32_t owner);
/* At most so many of them, whichever. Fewer: it has none any more. */
size_t wgf_allowedips_remove_some(struct wgf_allowedips *table, uint32_t owner, size_t most);

/* Inside a reader of the epoch. WGF_OWNER_NONE where nothing matches. */
uint32_t wgf_allowedips_lookup4(const struct wgf_allowedips *table, const uint8_t address[4]);
uint32_t wgf_allowedips_lookup6(const struct wgf_allowedips *table, const uint8_t address[16]);
/* n addresses: IPv4 as integers in host order, IPv6 as n times 16 bytes. They enter a reader of their own. */
void wgf_allowedips_lookup4_many(struct wgf_allowedips *table, const uint32_t *addresses, size_t n,
				 uint32_t *owners);
void wgf_allowedips_lookup6_many(struct wgf_allowedips *table, const uint8_t *addresses, size_t n,
				 uint32_t *owners);

/* The same inside a reader of the caller's, as a batch of packets is. */
void wgf_allowedips_batch4(const struct wgf_allowedips *table, const uint32_t *addresses, size_t n,
			   uint32_t *owners);
void wgf_allowedips_batch6(const struct wgf_allowedips *table, const uint8_t *addresses, size_t n,
			   uint32_t *owners);

/* Bytes for lookups and changes together, what waits for readers included; addresses that are only reserved are not. */
size_t wgf_allowedips_memory(struct wgf_allowedips *table);
/* What changes have cost so far, whatever the machine: nodes built and records looked at. */
uint64_t wgf_allowedips_work(struct wgf_allowedips *table);
size_t wgf_allowedips_count(struct wgf_allowedips *table);
/* Copies out up to max prefixes of one owner, or of all (WGF_OWNER_NONE), IPv4 before IPv6, each
 * in order of address, then length; returns how many there are in all. max may be 0. */
size_t wgf_allowedips_list(struct wgf_allowedips *table, uint32_t owner, struct wgf_prefix *out,
			   size_t max);

#endif
