/* What the tests of the ports share: a device with nothing but counters, offloads and an inner port, and
 * batches of both kinds: packets of exactly so many bytes each, so that a sanitizer sees a byte too many, and
 * a pool's memory, where they lie side by side. */
#ifndef WGF_PORTS_H
#define WGF_PORTS_H

#include <string.h>

#include "../../wgfast/core/device.h"
#include "check.h"

static struct wgf_device *device;

static inline struct wgf_device *new_device_of(uint32_t queues)
{
	size_t ceiling = 0;
	struct wgf_device *made = aligned_alloc(_Alignof(struct wgf_device), sizeof(*made));
	CHECK(made);
	memset(made, 0, sizeof(*made));
	for (uint32_t i = 0; i < WGF_QUEUES_MAX; i++)
		atomic_store(&made->tun.queues[i].fd, -1);
	CHECK(wgf_epoch_init(&made->epoch) == 0);
	CHECK(wgf_tun_init(&made->tun, queues, 1, &made->epoch, &ceiling) == 0 && ceiling > WGF_SUPER_MAX);
	return made;
}

static inline struct wgf_device *new_device(void)
{
	return new_device_of(1);
}

static inline void free_device(struct wgf_device *made)
{
	wgf_tun_destroy(&made->tun, &made->epoch);
	wgf_epoch_destroy(&made->epoch);
	free(made);
}

static inline void make_device(void)
{
	device = new_device();
}

static inline struct wgf_batch *make_batch(uint32_t room)
{
	struct wgf_batch *batch = aligned_alloc(_Alignof(struct wgf_batch), sizeof(*batch));
	CHECK(batch);
	memset(batch, 0, sizeof(*batch));
	batch->limit = WGF_BATCH_PACKETS;
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		packet->outer = malloc(room);
		CHECK(packet->outer);
		packet->inner = packet->outer + 16;
		packet->outer_room = room;
		packet->inner_room = room - 32;
		packet->drop = WGF_DROP_NOT;
	}
	return batch;
}

static inline void free_batch(struct wgf_batch *batch)
{
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++)
		free(batch->packets[i].outer);
	free(batch);
}

/* A pool of one. */
static inline struct wgf_batch *make_pool_batch(size_t room)
{
	size_t ceiling = 0;
	struct wgf_batch *batch = wgf_pool_create(1, room, &device->epoch, &ceiling);
	CHECK(batch && ceiling == room);
	return batch;
}

static inline void free_pool_batch(struct wgf_batch *batch)
{
	wgf_pool_destroy(batch, 1, &device->epoch);
}

/* Reading a counter empties it. */
static inline uint64_t drops(enum wgf_drop reason)
{
	return atomic_exchange(&device->drops[reason], 0);
}

static inline uint64_t all_drops(void)
{
	uint64_t sum = 0;
	for (int i = 0; i < WGF_DROP_COUNT; i++)
		sum += drops((enum wgf_drop)i);
	return sum;
}

/* Empty, but for its limit, its MTU and its time. */
static inline void clear(struct wgf_batch *batch)
{
	batch->count = 0;
	batch->bytes = 0;
	batch->used = 0;
}

/* The offload is in this state, of that errno. */
static inline bool is_state(enum wgf_offload offload, enum wgf_offload_state state, int error)
{
	return atomic_load(&device->offloads.state[offload]) == ((uint32_t)state | (uint32_t)error << 8);
}

static inline void forget_offloads(void)
{
	memset(&device->offloads, 0, sizeof(device->offloads));
}

#endif
