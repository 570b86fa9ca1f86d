/* Staged packets: a slab of chunks and lists through it, all under one lock.
 *
 * A packet is a chain of chunks, described by the link of its first one. It stands in two lists: its
 * peer's, singly linked, and that of all packets, doubly linked, both oldest first. Whatever is
 * removed is the oldest of its peer, hence a packet leaves the first list always at its head and only
 * the second ever in the middle. Everything costs a constant per packet, except closing a peer that
 * stands in the list of peers to flush, which looks for it there.
 *
 * A keepalive is a mark in its peer's queue and stands in neither list: were it a packet, those owed to some
 * thousand peers without a session would push out all data that waits.
 *
 * The lock is held for a copy of the packet. This is the path of packets without a session, so nobody
 * fast waits here; readers of `flushing` and of a queue's `count` do not take it. */
#include "staged.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "device.h"

#define CHUNKS (WGF_STAGED_BYTES / WGF_STAGED_CHUNK)
#define TRIM_AFTER 64u /* chunks written since the pages were last given back to the system */

_Static_assert(WGF_MTU_MAX <= WGF_STAGED_BYTES, "every packet fits once all others are gone");

struct wgf_staged_link {
	struct wgf_peer *peer;
	uint32_t next_chunk;          /* of the packet; of the free list while free */
	uint32_t newer_of_peer;
	uint32_t newer, older;        /* of all */
	uint32_t length;
};

int wgf_staged_init(struct wgf_staged *staged)
{
	memset(staged, 0, sizeof(*staged));
	staged->links = calloc(CHUNKS, sizeof(*staged->links));
	staged->chunks = wgf_secret_map(WGF_STAGED_BYTES);
	int error = staged->links && staged->chunks ? -pthread_mutex_init(&staged->lock, NULL) : -ENOMEM;
	if (error) {
		wgf_secret_unmap(staged->chunks, WGF_STAGED_BYTES);
		free(staged->links);
		memset(staged, 0, sizeof(*staged));
		return error;
	}
	for (uint32_t i = 0; i < CHUNKS; i++)
		staged->links[i].next_chunk = i + 1 < CHUNKS ? i + 1 : WGF_STAGED_NONE;
	staged->free = 0;
	staged->oldest = staged->newest = WGF_STAGED_NONE;
	return 0;
}

void wgf_staged_destroy(struct wgf_staged *staged)
{
	if (!staged->chunks)
		return;
	pthread_mutex_destroy(&staged->lock);
	wgf_secret_unmap(staged->chunks, WGF_STAGED_BYTES);
	free(staged->links);
	staged->chunks = NULL;
	staged->links = NULL;
}

void wgf_staged_open(struct wgf_peer *peer)
{
	peer->staged.oldest = peer->staged.newest = WGF_STAGED_NONE;
	atomic_init(&peer->staged.count, 0);
	peer->staged.keepalive = false;
	peer->staged.flushing = false;
	peer->staged.closed = false;
	peer->staged.next_flush = NULL;
}

/* ---- Everything below to the next rule: the lock is held ---- */

static void add_count(struct wgf_staged_queue *queue, uint32_t change)
{
	uint32_t count = atomic_load_explicit(&queue->count, memory_order_relaxed);
	atomic_store_explicit(&queue->count, count + change, memory_order_relaxed);
}

/* A packet or a keepalive. */
static bool waits(const struct wgf_staged_queue *queue)
{
	return queue->keepalive || queue->oldest != WGF_STAGED_NONE;
}

static void put_keepalive(struct wgf_staged_queue *queue)
{
	queue->keepalive = true;
	add_count(queue, 1);
}

/* False: there was none. It is nothing anybody sent: dropped, it goes uncounted. */
static bool remove_keepalive(struct wgf_staged_queue *queue)
{
	if (!queue->keepalive)
		return false;
	queue->keepalive = false;
	add_count(queue, UINT32_MAX);
	return true;
}

/* Copies out (unless out is NULL) and gives back a packet's chunks, wiped. */
static void empty_chunks(struct wgf_staged *staged, uint32_t first, uint8_t *out)
{
	uint32_t left = staged->links[first].length;
	for (uint32_t chunk = first, next; chunk != WGF_STAGED_NONE; chunk = next) {
		uint8_t *data = staged->chunks + (size_t)chunk * WGF_STAGED_CHUNK;
		uint32_t n = left < WGF_STAGED_CHUNK ? left : WGF_STAGED_CHUNK;
		if (out) {
			memcpy(out, data, n);
			out += n;
		}
		wgf_wipe(data, n);
		left -= n;
		next = staged->links[chunk].next_chunk;
		staged->links[chunk].next_chunk = staged->free;
		staged->free = chunk;
		staged->in_use--;
	}
	if (staged->in_use == 0 && staged->written >= TRIM_AFTER) {
		madvise(staged->chunks, WGF_STAGED_BYTES, MADV_DONTNEED);
		staged->written = 0;
	}
}

static uint32_t fill_chunks(struct wgf_staged *staged, const uint8_t *inner, uint32_t len)
{
	uint32_t first = staged->free, chunk = first, left = len;
	for (;;) {
		uint32_t n = left < WGF_STAGED_CHUNK ? left : WGF_STAGED_CHUNK;
		memcpy(staged->chunks + (size_t)chunk * WGF_STAGED_CHUNK, inner, n);
		inner += n;
		staged->written++;
		staged->in_use++;
		left -= n;
		if (left == 0)
			break;
		chunk = staged->links[chunk].next_chunk;
	}
	staged->free = staged->links[chunk].next_chunk;
	staged->links[chunk].next_chunk = WGF_STAGED_NONE;
	staged->links[first].length = len;
	return first;
}

static void append(struct wgf_staged *staged, struct wgf_peer *peer, uint32_t first)
{
	struct wgf_staged_queue *queue = &peer->staged;
	struct wgf_staged_link *links = staged->links, *link = &links[first];
	link->peer = peer;
	link->newer_of_peer = WGF_STAGED_NONE;
	link->newer = WGF_STAGED_NONE;
	link->older = staged->newest;
	*(queue->newest == WGF_STAGED_NONE ? &queue->oldest : &links[queue->newest].newer_of_peer) = first;
	*(staged->newest == WGF_STAGED_NONE ? &staged->oldest : &links[staged->newest].newer) = first;
	queue->newest = first;
	staged->newest = first;
	add_count(queue, 1);
}

/* Takes the peer's oldest packet out of both lists; its chunks are still full. */
static uint32_t unlink_oldest(struct wgf_staged *staged, struct wgf_peer *peer)
{
	struct wgf_staged_queue *queue = &peer->staged;
	struct wgf_staged_link *links = staged->links;
	uint32_t first = queue->oldest;
	const struct wgf_staged_link *link = &links[first];
	queue->oldest = link->newer_of_peer;
	if (queue->oldest == WGF_STAGED_NONE)
		queue->newest = WGF_STAGED_NONE;
	*(link->older == WGF_STAGED_NONE ? &staged->oldest : &links[link->older].newer) = link->newer;
	*(link->newer == WGF_STAGED_NONE ? &staged->newest : &links[link->newer].older) = link->older;
	add_count(queue, UINT32_MAX);
	return first;
}

static void drop_oldest(struct wgf_device *device, struct wgf_peer *peer, enum wgf_drop reason)
{
	wgf_drop_count(device, reason);
	empty_chunks(&device->staged, unlink_oldest(&device->staged, peer), NULL);
}

static void drop_all(struct wgf_device *device, struct wgf_peer *peer)
{
	remove_keepalive(&peer->staged);
	while (peer->staged.oldest != WGF_STAGED_NONE)
		drop_oldest(device, peer, WGF_DROP_SEND_NO_SESSION);
}

static void make_room(struct wgf_device *device, struct wgf_peer *peer, uint32_t chunks)
{
	struct wgf_staged *staged = &device->staged;
	while (atomic_load_explicit(&peer->staged.count, memory_order_relaxed) >= WGF_STAGED_PER_PEER)
		if (!remove_keepalive(&peer->staged))
			drop_oldest(device, peer, WGF_DROP_SEND_STAGED_FULL);
	while (CHUNKS - staged->in_use < chunks)
		drop_oldest(device, staged->links[staged->oldest].peer, WGF_DROP_SEND_STAGED_FULL);
}

/* The order of `flushing` is sequentially consistent: who raises it and then finds the send direction
 * claimed must be seen by the holder, who looks at it again after letting go (send.c). */
static void flush_append(struct wgf_staged *staged, struct wgf_peer *peer)
{
	peer->staged.flushing = true;
	peer->staged.next_flush = NULL;
	if (staged->flush_last)
		staged->flush_last->staged.next_flush = peer;
	else
		staged->flush_first = peer;
	staged->flush_last = peer;
	atomic_fetch_add(&staged->flushing, 1);
}

static struct wgf_peer *flush_pop(struct wgf_staged *staged)
{
	struct wgf_peer *peer = staged->flush_first;
	staged->flush_first = peer->staged.next_flush;
	if (!staged->flush_first)
		staged->flush_last = NULL;
	peer->staged.flushing = false;
	atomic_fetch_sub(&staged->flushing, 1);
	return peer;
}

static void flush_remove(struct wgf_staged *staged, struct wgf_peer *peer)
{
	if (!peer->staged.flushing)
		return;
	if (staged->flush_first == peer) {
		flush_pop(staged);
		return;
	}
	struct wgf_peer *before = staged->flush_first;
	while (before->staged.next_flush != peer)
		before = before->staged.next_flush;
	before->staged.next_flush = peer->staged.next_flush;
	if (staged->flush_last == peer)
		staged->flush_last = before;
	peer->staged.flushing = false;
	atomic_fetch_sub(&staged->flushing, 1);
}

/* The batch's next packet, its inner bytes in place. */
static void hand_over(struct wgf_batch *batch, struct wgf_packet *packet, struct wgf_peer *peer, uint32_t len)
{
	packet->inner_len = len;
	packet->peer = peer;
	packet->keypair = NULL;
	packet->drop = WGF_DROP_NOT;
	wgf_batch_take(batch);
}

/* Moves packets of one peer into the batch, as long as there are any and the batch has room. A keepalive goes
 * first: it was staged before them, or it would not be there. */
static void take_from(struct wgf_device *device, struct wgf_peer *peer, struct wgf_batch *batch)
{
	struct wgf_staged *staged = &device->staged;
	if (batch->count < batch->limit && remove_keepalive(&peer->staged))
		hand_over(batch, wgf_batch_next(batch), peer, 0);
	while (peer->staged.oldest != WGF_STAGED_NONE && batch->count < batch->limit) {
		uint32_t len = staged->links[peer->staged.oldest].length;
		struct wgf_packet *packet = wgf_batch_next(batch);
		if (len > packet->inner_room) { /* a row of the Engine's caller may be that short */
			drop_oldest(device, peer, WGF_DROP_SEND_TOO_LARGE);
			continue;
		}
		if (batch->count && batch->bytes + len > WGF_BATCH_BYTES)
			return;
		empty_chunks(staged, unlink_oldest(staged, peer), packet->inner);
		hand_over(batch, packet, peer, len);
	}
}

/* ---- Calls that take the lock ---- */

bool wgf_staged_put(struct wgf_device *device, struct wgf_peer *peer, const uint8_t *inner, uint32_t len)
{
	struct wgf_staged *staged = &device->staged;
	if (len > WGF_MTU_MAX) {
		wgf_drop_count(device, WGF_DROP_SEND_TOO_LARGE);
		return true;
	}
	pthread_mutex_lock(&staged->lock);
	bool open = !peer->staged.closed;
	if (open && len) {
		make_room(device, peer, (len + WGF_STAGED_CHUNK - 1) / WGF_STAGED_CHUNK);
		append(staged, peer, fill_chunks(staged, inner, len));
	} else if (open && !waits(&peer->staged)) {
		put_keepalive(&peer->staged);
	}
	pthread_mutex_unlock(&staged->lock);
	return open;
}

void wgf_staged_flush(struct wgf_device *device, struct wgf_peer *peer)
{
	pthread_mutex_lock(&device->staged.lock);
	if (waits(&peer->staged) && !peer->staged.flushing)
		flush_append(&device->staged, peer);
	pthread_mutex_unlock(&device->staged.lock);
}

uint32_t wgf_staged_take(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_staged *staged = &device->staged;
	uint32_t before = batch->count;
	pthread_mutex_lock(&staged->lock);
	bool full = false;
	while (staged->flush_first && !full) {
		struct wgf_peer *peer = staged->flush_first;
		take_from(device, peer, batch);
		full = waits(&peer->staged);
		if (full && peer == staged->flush_last)
			break;
		flush_pop(staged);
		if (full) /* the others first, next time */
			flush_append(staged, peer);
	}
	pthread_mutex_unlock(&staged->lock);
	return batch->count - before;
}

void wgf_staged_purge(struct wgf_device *device, struct wgf_peer *peer)
{
	pthread_mutex_lock(&device->staged.lock);
	drop_all(device, peer);
	flush_remove(&device->staged, peer);
	pthread_mutex_unlock(&device->staged.lock);
}

void wgf_staged_close(struct wgf_device *device, struct wgf_peer *peer)
{
	pthread_mutex_lock(&device->staged.lock);
	drop_all(device, peer);
	flush_remove(&device->staged, peer);
	peer->staged.closed = true;
	pthread_mutex_unlock(&device->staged.lock);
}
