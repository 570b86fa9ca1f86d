/* What the tests of the ports share: a device with nothing but counters, and batches whose slots end
 * where their room ends, so that a sanitizer sees a byte too many. */
#ifndef WGF_PORTS_H
#define WGF_PORTS_H

#include <string.h>

#include "../../wgfast/core/device.h"
#include "check.h"

static struct wgf_device *device;

static inline void make_device(void)
{
	device = aligned_alloc(_Alignof(struct wgf_device), sizeof(*device));
	CHECK(device);
	memset(device, 0, sizeof(*device));
	atomic_store(&device->tun, -1);
}

static inline struct wgf_batch *make_batch(uint32_t room)
{
	struct wgf_batch *batch = aligned_alloc(_Alignof(struct wgf_batch), sizeof(*batch));
	CHECK(batch);
	memset(batch, 0, sizeof(*batch));
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

static inline void clear(struct wgf_batch *batch)
{
	batch->count = 0;
	batch->bytes = 0;
}

#endif
