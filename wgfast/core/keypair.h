/* A session's two transport keys. A row of secret memory, wiped when it is given back. */
#ifndef WGF_KEYPAIR_H
#define WGF_KEYPAIR_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epoch.h"
#include "limits.h"
#include "replay.h"

struct wgf_device;
struct wgf_handshake;
struct wgf_index_entry;
struct wgf_peer;

/* One cache line for sending and one, with a word of the window, for receiving: so each direction has what it
 * needs in its own, the same twice if need be. */
struct wgf_keypair {
	_Alignas(64) _Atomic uint64_t next_counter; /* any sender reserves from it */
	uint8_t send_key[WGF_KEY_SIZE];
	uint64_t birth;
	uint32_t remote_index;
	bool initiator;                /* we began the handshake */
	struct wgf_index_entry *entry; /* our receiver index */

	_Alignas(64) uint8_t receive_key[WGF_KEY_SIZE];
	uint64_t birth_too;
	bool initiator_too;
	struct wgf_device *device;
	struct wgf_replay replay;      /* only the thread that holds the receive order */

	struct wgf_retired retired;
};
_Static_assert(offsetof(struct wgf_keypair, replay.seen) == 2 * 64, "a line for each direction");

/* Takes a row and derives the keys from a finished handshake. The entry now
 * belongs to the keypair; lookups find the keypair once it is published. NULL: out of memory. */
struct wgf_keypair *wgf_keypair_create(struct wgf_device *device, struct wgf_handshake *hs,
				       struct wgf_index_entry *entry, uint32_t remote_index,
				       bool initiator, uint64_t now);
/* Takes the index out of the table and retires the row. NULL is allowed. */
void wgf_keypair_retire(struct wgf_keypair *keypair);

/* May be used to send, at this time: young enough, and messages left. */
bool wgf_keypair_can_send(const struct wgf_keypair *keypair, uint64_t now);
/* May be used to receive, at this time, a packet of this counter. */
bool wgf_keypair_can_receive(const struct wgf_keypair *keypair, uint64_t counter, uint64_t now);
/* Reserves up to n counters below WGF_REJECT_AFTER_MESSAGES; returns how many, the first in *first.
 * A counter that may not be used is never handed out and the count never wraps. */
size_t wgf_keypair_reserve(struct wgf_keypair *keypair, size_t n, uint64_t *first);

#endif
