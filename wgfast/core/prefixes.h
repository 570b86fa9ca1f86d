/* The prefixes themselves, one family's: what an update works from and a listing shows, never read by a
 * packet. A record is named by its number, so that four links cost 16 bytes, and stands in two lists: that of
 * the trie's node it belongs to, in order of address, then length, and that of its owner, in no order. All of
 * it is the changer's alone. */
#ifndef WGF_PREFIXES_H
#define WGF_PREFIXES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An address, its first bit the highest of high; an IPv4 address is the upper half of high. */
struct wgf_key {
	uint64_t high, low;
};

struct wgf_record {
	uint32_t next;           /* in the list of its node; of a free record, the next free one */
	uint32_t earlier, later; /* in the list of its owner; 0 ends each list */
	uint32_t is;             /* owner and, in the upper byte, length */
	uint32_t address[];      /* one word of IPv4, four of IPv6, the first bit the highest of the first */
};

struct wgf_prefixes {
	unsigned char *records;
	uint32_t *lists; /* by owner, for they are dense: any of its prefixes, from there on `later` */
	uint32_t lists_size;
	uint32_t size, used, free; /* records there is room for; numbers given out so far; the first free one */
	uint32_t count;
	uint32_t words; /* of an address */
	uint64_t work;  /* records looked at and nodes built from them */
};

void wgf_prefixes_init(struct wgf_prefixes *prefixes, unsigned words);
void wgf_prefixes_destroy(struct wgf_prefixes *prefixes);

/* A record of this prefix in the owner's list and in no node's; 0: out of memory. */
uint32_t wgf_prefixes_add(struct wgf_prefixes *prefixes, struct wgf_key key, unsigned length, uint32_t owner);
void wgf_prefixes_remove(struct wgf_prefixes *prefixes, uint32_t number);
/* To another owner, for whom wgf_prefixes_reach succeeded. */
void wgf_prefixes_move(struct wgf_prefixes *prefixes, uint32_t number, uint32_t owner);
int wgf_prefixes_reach(struct wgf_prefixes *prefixes, uint32_t owner); /* 0 or -ENOMEM */
/* Puts the owner's list in order of address, then length; needs no memory. */
void wgf_prefixes_sort(struct wgf_prefixes *prefixes, uint32_t owner);
size_t wgf_prefixes_memory(const struct wgf_prefixes *prefixes);

static inline struct wgf_record *wgf_prefixes_at(const struct wgf_prefixes *prefixes, uint32_t number)
{
	size_t size = sizeof(struct wgf_record) + 4 * (size_t)prefixes->words;
	return (struct wgf_record *)(void *)(prefixes->records + number * size);
}

static inline uint32_t wgf_record_owner(const struct wgf_record *record)
{
	return record->is & 0xffffff;
}

static inline unsigned wgf_record_length(const struct wgf_record *record)
{
	return record->is >> 24;
}

static inline struct wgf_key wgf_record_key(const struct wgf_prefixes *prefixes,
					    const struct wgf_record *record)
{
	struct wgf_key key = {(uint64_t)record->address[0] << 32, 0};
	if (prefixes->words == 4) {
		key.high |= record->address[1];
		key.low = (uint64_t)record->address[2] << 32 | record->address[3];
	}
	return key;
}

/* In order of address, then length: below, at or above zero. */
static inline int wgf_key_order(struct wgf_key a, unsigned a_length, struct wgf_key b, unsigned b_length)
{
	if (a.high != b.high)
		return a.high < b.high ? -1 : 1;
	if (a.low != b.low)
		return a.low < b.low ? -1 : 1;
	return (int)a_length - (int)b_length;
}

/* The key with what lies behind the length cleared. */
static inline struct wgf_key wgf_key_masked(struct wgf_key key, unsigned length)
{
	if (length <= 64) {
		key.low = 0;
		key.high &= length ? UINT64_MAX << (64 - length) : 0;
	} else {
		key.low &= UINT64_MAX << (128 - length);
	}
	return key;
}

#endif
