/* A peer: one row of secret memory, found by a dense identifier (the owner in the allowed IPs) and,
 * by the control plane, by public key. Python names a peer by its handle, identifier and generation
 * in one number, so that a handle outlives its peer harmlessly. */
#ifndef WGF_PEER_H
#define WGF_PEER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cookie.h"
#include "endpoint.h"
#include "epoch.h"
#include "limits.h"
#include "staged.h"
#include "timers.h"

struct wgf_device;
struct wgf_keypair;
struct wgf_limiter;
struct wgf_packet;

/* What a packet touches comes first, in three cache lines: of a device's ten thousand peers hardly one is in
 * the first cache when its packet arrives. */
struct wgf_peer {
	/* Read by both directions, written a few times in two minutes. */
	_Alignas(64) _Atomic(struct wgf_keypair *) current; /* the session we send with */
	struct wgf_endpoint_cell endpoint;

	_Alignas(64) _Atomic(struct wgf_keypair *) next;    /* we answered, and wait for the first packet */
	struct wgf_timers timers;

	/* Written by whoever sends or receives, read by anybody. */
	_Alignas(64) uint64_t handle;              /* generation << 32 | identifier; never 0; never changes */
	_Atomic(struct wgf_limiter *) limiter;     /* NULL: it has no limits; changes under device->config */
	_Atomic uint64_t sent_bytes;               /* of UDP payload, handshakes and keepalives included */
	_Atomic uint64_t received_bytes;
	_Atomic uint64_t sent_packets, received_packets; /* inner packets, keepalives not included */
	_Atomic uint64_t whole_until;              /* its path refused UDP_SEGMENT; not before then again */
	_Atomic uint32_t persistent_interval;      /* seconds, 0 off */
	_Atomic bool replaced_source;              /* the system refused the sticky source; it was let go */

	/* The rest: the control plane's, and for what is rare. */
	_Alignas(64) struct wgf_retired retired;
	struct wgf_device *device;
	uint8_t public_key[WGF_KEY_SIZE];
	pthread_mutex_t sessions;                  /* changes of current, next and: */
	_Atomic(struct wgf_keypair *) previous;    /* still receives */
	struct wgf_index_entry *handshake;         /* index of our running initiation */
	struct wgf_index_entry *answer;            /* index of a response that is no session yet */
	struct wgf_staged_queue staged;
	_Atomic uint64_t handshake_at;             /* last completed handshake, 0 never */
	_Atomic uint64_t loop_reported;            /* time we last said that the endpoint is in the tunnel */

	/* Under device->config. */
	uint8_t psk[WGF_KEY_SIZE];
	uint8_t shared[WGF_KEY_SIZE];              /* static-static secret */
	bool has_shared;
	uint8_t doom;                              /* setting_apply.c's: what the plan means to do with it */
	bool withheld;                             /* the same: some of its prefixes are to go at the end */
	uint64_t plan;                             /* of which both speak, 0 none */
	uint8_t latest_timestamp[WGF_TIMESTAMP_SIZE]; /* greatest TAI64N of its initiations */
	uint64_t initiation_consumed;
	struct wgf_cookie_jar jar;
};
_Static_assert(offsetof(struct wgf_peer, retired) == 3 * 64, "a packet touches three cache lines");

/* The table of a device: identifiers to rows, and a hash from public key to identifier. */
struct wgf_peertable {
	_Atomic(struct wgf_peer *) *rows;          /* WGF_PEERS_MAX pointers, pages touched as needed */
	_Atomic uint64_t *looks;                   /* timers.c's: one for WGF_PEERS_A_LOOK identifiers */
	uint32_t *generations;                     /* as rows; under device->config, as all below */
	uint32_t *by_key;                          /* open addressing, identifier + 1; 0 free */
	uint32_t by_key_size;
	uint64_t hash_key[2];
	pthread_mutex_t free_lock;                 /* the stack: rows are released by whoever collects */
	uint32_t *free;                            /* identifiers given back */
	uint32_t free_count;
	_Atomic uint32_t high;                     /* identifiers ever used: [0, high) */
	uint32_t count;
};

int wgf_peertable_init(struct wgf_peertable *table);
void wgf_peertable_destroy(struct wgf_peertable *table);

/* All below: control plane, device->config held. */

/* -EEXIST: there is a peer of that key. -ENOSPC, -ENOMEM. */
int wgf_peer_create(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle);
struct wgf_peer *wgf_peer_find(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE]);
struct wgf_peer *wgf_peer_get(struct wgf_device *device, uint64_t handle); /* NULL: removed */
/* Routes, sessions, staged packets, timers, then the row itself when every reader has passed. */
void wgf_peer_remove(struct wgf_peer *peer);
/* Live peers in order of identifier, from *cursor on; NULL at the end. */
struct wgf_peer *wgf_peer_next(struct wgf_device *device, uint32_t *cursor);

/* Any thread inside a reader: the row of an owner from the allowed IPs. */
static inline struct wgf_peer *wgf_peer_of_owner(struct wgf_peertable *table, uint32_t owner)
{
	return owner < WGF_PEERS_MAX ? atomic_load_explicit(&table->rows[owner], memory_order_acquire)
				     : NULL;
}

/* The same: whose an address (network order) is; NULL: nobody's. For who found the row of an owner gone: its peer
 * was removed after the look at the table, hence after the table had changed, so that another look finds who has
 * the address now. An owner alone does not say that much. */
struct wgf_peer *wgf_peer_of_address(struct wgf_device *device, uint8_t family, const uint8_t *address);

/* Asks for what a packet touches of the row, before it is needed. */
static inline void wgf_peer_fetch(const struct wgf_peer *peer)
{
	__builtin_prefetch(&peer->current);
	__builtin_prefetch(&peer->next, 1);
	__builtin_prefetch(&peer->handle, 1);
}

/* The same of up to WGF_BATCH_PACKETS owners and the sessions that they send with: rows of many peers come from all
 * over memory, those of one are in the cache. */
void wgf_peers_fetch(struct wgf_peertable *table, const uint32_t *owners, uint32_t n);

/* Sessions; they take peer->sessions themselves. */

/* Puts a new keypair in its slot: ours becomes current, one we answered waits as next. */
void wgf_peer_begin_session(struct wgf_peer *peer, struct wgf_keypair *keypair, uint64_t now);
/* The first packet of `next` has arrived: it becomes current. True if that is what happened. */
bool wgf_peer_confirm_session(struct wgf_peer *peer, struct wgf_keypair *keypair);
/* Forgets the index of our running handshake: a response to it finds nothing. */
void wgf_peer_drop_handshake(struct wgf_peer *peer);
/* Retires every keypair and the indices of handshakes under way. */
void wgf_peer_end_sessions(struct wgf_peer *peer);

/* current, if it may send now; otherwise NULL, and the caller stages and wants a handshake. */
struct wgf_keypair *wgf_peer_sending_keypair(struct wgf_peer *peer, uint64_t now);

#endif
