/* Packets that wait for a session, and keepalives that are to be sent.
 *
 * Copies in fixed chunks of one mapping per device: per peer at most WGF_STAGED_PER_PEER, per device
 * at most WGF_STAGED_BYTES; the oldest makes room, a keepalive takes none. Off the fast path: one lock. A peer whose packets
 * may go (it has a session) stands in the device's list of those to flush; the send direction reads
 * from that list before it reads from the interface. */
#ifndef WGF_STAGED_H
#define WGF_STAGED_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WGF_STAGED_CHUNK 2048u
#define WGF_STAGED_NONE UINT32_MAX

struct wgf_batch;
struct wgf_device;
struct wgf_packet;
struct wgf_peer;

/* In the peer's row; all but count under the device's staged lock. */
struct wgf_staged_queue {
	uint32_t oldest, newest;     /* chunk numbers of first chunks */
	_Atomic uint32_t count;      /* packets, and the keepalive; read without the lock */
	bool keepalive;              /* one waits, before all packets */
	bool flushing;               /* stands in the list of peers to flush */
	bool closed;                 /* the peer was removed: nothing is staged any more */
	struct wgf_peer *next_flush;
};

struct wgf_staged {
	pthread_mutex_t lock;
	uint8_t *chunks;                    /* one secret mapping */
	struct wgf_staged_link *links;      /* per chunk: of its packet, of its peer, of all */
	uint32_t free;
	uint32_t in_use;                    /* chunks */
	uint32_t written;                   /* chunks, since their pages were last given back */
	uint32_t oldest, newest;            /* packets of all peers */
	struct wgf_peer *flush_first, *flush_last;
	_Atomic uint32_t flushing;          /* peers in that list; read without the lock */
	_Atomic uint32_t under_way;         /* batches of packets that were staged, not emitted yet */
};

int wgf_staged_init(struct wgf_staged *staged);
void wgf_staged_destroy(struct wgf_staged *staged);
void wgf_staged_open(struct wgf_peer *peer);

/* Copies an inner packet in (len 0: a keepalive, staged only if nothing else waits). Counts what it
 * has to drop, be it this packet (larger than WGF_MTU_MAX). False if the peer is closed. */
bool wgf_staged_put(struct wgf_device *device, struct wgf_peer *peer, const uint8_t *inner, uint32_t len);
/* Asks for the peer's packets to be sent by whoever reads next. */
void wgf_staged_flush(struct wgf_device *device, struct wgf_peer *peer);
/* Fills a batch, from batch->count on, with packets of peers to flush, oldest first, peer already set in
 * each; a peer leaves the list when it has none left. The batch's reader has entered. Returns their number. */
uint32_t wgf_staged_take(struct wgf_device *device, struct wgf_batch *batch);
/* Drops what waits, counted under WGF_DROP_SEND_NO_SESSION. */
void wgf_staged_purge(struct wgf_device *device, struct wgf_peer *peer);
/* The same for good, before the peer is retired. */
void wgf_staged_close(struct wgf_device *device, struct wgf_peer *peer);

#endif
