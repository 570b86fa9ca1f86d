/* A packet on its way, and a batch of them.
 *
 * A packet between a TUN and a socket lies so that sealing and opening happen in place:
 *
 *     outer                inner = outer + 16
 *     | data header (16) | inner packet, padded | tag (16) |
 *
 * A batch that is sent has its packets one behind the other, without gaps, so that datagrams of one
 * length are one piece of memory for UDP_SEGMENT. A batch that is received has slots, each for one
 * message of the system, which UDP_GRO makes of several datagrams; its packets lie in there. A batch
 * over a caller's arrays (the Engine) points inner and outer at two different places; the stages do
 * not care. */
#ifndef WGF_PACKET_H
#define WGF_PACKET_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "drops.h"
#include "endpoint.h"
#include "epoch.h"
#include "limits.h"
#include "messages.h"

struct wgf_device;
struct wgf_keypair;
struct wgf_peer;

struct wgf_packet {
	uint8_t *inner;
	uint8_t *outer;
	uint32_t inner_room, outer_room; /* bytes that may be written there */
	uint32_t inner_len, outer_len;   /* bytes that are there */
	enum wgf_drop drop;              /* WGF_DROP_NOT, or why the packet goes no further */
	enum wgf_drop refusal;           /* receive: what it will be dropped for if it is new, or WGF_DROP_NOT */
	uint8_t tos;                     /* of the outer header */
	uint64_t counter;
	struct wgf_peer *peer;           /* pinned by the batch's reader, with the keypair */
	struct wgf_keypair *keypair;
	struct wgf_endpoint endpoint;    /* receive: where from. send: where to */
};

struct wgf_batch {
	struct wgf_reader reader;   /* entered from the moment packets are taken until they are emitted */
	_Atomic bool done;          /* the parallel stages are: whoever emits next may take it */
	uint32_t limit;             /* packets it may hold, at most WGF_BATCH_PACKETS */
	uint32_t count;
	uint32_t bytes;
	uint32_t used;              /* of the memory: bytes when sending, slots when receiving */
	uint32_t mtu;               /* sending: padding never goes past it; 0: there is none */
	bool more;                  /* receiving: it was full before the sockets were empty */
	bool staged;                /* sending: its packets had been staged */
	uint64_t now;
	uint8_t *memory;            /* NULL when the packets lie in a caller's arrays */
	size_t room;                /* bytes of it */
	struct wgf_packet packets[WGF_BATCH_PACKETS];
};

/* One slot's stride: the largest message and one more byte (so that an oversized datagram shows),
 * plus an odd number of cache lines so that slots do not all fall into the same cache sets. */
#define WGF_SLOT_ROOM 65536u
#define WGF_SLOT_STRIDE (WGF_SLOT_ROOM + 25u * 64u)
#define WGF_SLOTS 64u
#define WGF_RECEIVE_ROOM ((size_t)WGF_SLOTS * WGF_SLOT_STRIDE)
/* A batch's bytes, what a packet has around it, and one packet more that began when it was not full yet. */
#define WGF_SEND_ROOM ((size_t)2 * WGF_BATCH_BYTES + WGF_BATCH_PACKETS * (WGF_DATA_OVERHEAD + WGF_PADDING))

/* pool.c: memory for packets, touched as needed and left out of core dumps; NULL: none left. munmap frees it. */
uint8_t *wgf_pool_map(size_t size);
/* Batches (at least one) with `room` bytes of memory each, from one mapping whose size, added to
 * *ceiling, is the most they can ever use: pages are touched only as far as packets reach. Returns NULL when
 * out of memory. */
struct wgf_batch *wgf_pool_create(size_t batches, size_t room, struct wgf_epoch *epoch, size_t *ceiling);
void wgf_pool_destroy(struct wgf_batch *pool, size_t batches, struct wgf_epoch *epoch);
void wgf_batch_reset(struct wgf_batch *batch, uint64_t now);
/* An empty packet at `outer`, where `room` bytes may be written. */
void wgf_packet_place(struct wgf_packet *packet, uint8_t *outer, size_t room);
/* Where the next packet of a batch to be sent goes. */
struct wgf_packet *wgf_batch_next(struct wgf_batch *batch);
/* It has come, its inner length is set. */
void wgf_batch_take(struct wgf_batch *batch);

/* Bytes that are added to a packet: to the next 16, but never past the MTU (whitepaper 5.4.6; longer packets
 * as Linux counts). */
static inline uint32_t wgf_padding(uint32_t len, uint32_t mtu)
{
	uint32_t last = mtu && len > mtu ? len % mtu : len;
	uint32_t padded = (last + WGF_PADDING - 1) / WGF_PADDING * WGF_PADDING;
	return (mtu && padded > mtu ? mtu : padded) - last;
}

/* ring.c: tickets. A bounded ring of batches for one direction: a read takes the next one, whoever
 * finishes marks it, and one thread at a time emits every finished batch from the head. Nobody waits
 * for a turn and nobody is woken for one.
 *
 * A claim is an exchange on a flag. Whoever fails to claim leaves its work to the holder, who looks again
 * after letting go; that both cannot miss each other needs the total order of sequentially consistent
 * atomics, which is why these are no mutexes. */
struct wgf_ring {
	struct wgf_batch *batches;
	size_t size;
	_Atomic bool reading;        /* claimed by the one thread that may take the next batch */
	_Atomic bool emitting;       /* claimed by the one thread that may emit from the head */
	_Atomic uint64_t taken;      /* batches taken so far; written by the reading thread */
	_Atomic uint64_t emitted;    /* batches emitted so far; written by the emitting thread */
};

int wgf_ring_init(struct wgf_ring *ring, size_t size, size_t room, struct wgf_epoch *epoch, size_t *ceiling);
void wgf_ring_destroy(struct wgf_ring *ring, struct wgf_epoch *epoch);

/* Claims the reading and the next batch, empty, its reader entered. NULL: another thread reads, or every
 * batch is on its way. */
struct wgf_batch *wgf_ring_claim(struct wgf_ring *ring, struct wgf_epoch *epoch, uint64_t now);
/* Ends the claim: with packets in it the batch has its place in the order, without it was never taken. */
void wgf_ring_pass(struct wgf_ring *ring, struct wgf_batch *batch);
/* The batch's parallel stages are done. Emits what stands finished at the head, unless another thread
 * is at it. */
void wgf_ring_finish(struct wgf_ring *ring, struct wgf_batch *batch, struct wgf_device *device,
		     void (*emit)(struct wgf_device *device, struct wgf_batch *batch));

#endif
