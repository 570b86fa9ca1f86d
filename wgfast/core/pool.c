/* Batches and the memory of their slots.
 *
 * One mapping for all of a pool, its size known when the pool is made: that is the ceiling. Nothing of
 * it is reserved or touched in advance; a slot has room for the largest datagram, but ordinary packets
 * touch only the first page or two of it. Huge pages are declined for the same reason: one would make
 * thirty slots resident for the first packet in one of them. Packets in flight are somebody's
 * plaintext, so core dumps leave them out. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "packet.h"

#define BATCH_MEMORY ((size_t)WGF_BATCH_PACKETS * WGF_SLOT_STRIDE)
#define OUTER_ROOM 65536u
#define INNER_ROOM (OUTER_ROOM - (uint32_t)WGF_DATA_OVERHEAD)

_Static_assert(OUTER_ROOM > WGF_MESSAGE_MAX, "an oversized datagram shows");
_Static_assert(OUTER_ROOM <= WGF_SLOT_STRIDE, "slots do not overlap");
_Static_assert(INNER_ROOM >= WGF_MTU_MAX, "whatever a datagram can carry");
_Static_assert(WGF_SLOT_STRIDE % 64 == 0 && WGF_SLOT_STRIDE / 64 % 2 == 1, "slots start a cache line");
_Static_assert(sizeof(struct wgf_batch) % _Alignof(struct wgf_batch) == 0, "for aligned_alloc");

static uint8_t *map_slots(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (madvise(memory, size, MADV_DONTDUMP) != 0) {
		munmap(memory, size);
		return NULL;
	}
	(void)madvise(memory, size, MADV_NOHUGEPAGE); /* EINVAL: the kernel knows no huge pages */
	return memory;
}

struct wgf_batch *wgf_pool_create(size_t batches, struct wgf_epoch *epoch, size_t *ceiling)
{
	if (batches == 0 || batches > SIZE_MAX / BATCH_MEMORY)
		return NULL;
	size_t size = batches * BATCH_MEMORY;
	struct wgf_batch *pool = aligned_alloc(_Alignof(struct wgf_batch), batches * sizeof(*pool));
	uint8_t *memory = pool ? map_slots(size) : NULL;
	if (!memory) {
		free(pool);
		return NULL;
	}
	memset(pool, 0, batches * sizeof(*pool));
	for (size_t i = 0; i < batches; i++) {
		pool[i].memory = memory + i * BATCH_MEMORY;
		wgf_batch_reset(&pool[i], 0);
		wgf_epoch_join(epoch, &pool[i].reader);
	}
	*ceiling += size;
	return pool;
}

void wgf_pool_destroy(struct wgf_batch *pool, size_t batches, struct wgf_epoch *epoch)
{
	if (!pool)
		return;
	for (size_t i = 0; i < batches; i++)
		wgf_epoch_leave(epoch, &pool[i].reader);
	munmap(pool[0].memory, batches * BATCH_MEMORY);
	free(pool);
}

void wgf_batch_reset(struct wgf_batch *batch, uint64_t now)
{
	batch->limit = WGF_BATCH_PACKETS;
	batch->count = 0;
	batch->bytes = 0;
	batch->now = now;
	uint8_t *slot = batch->memory;
	/* All of them, however few were used: one cache line each, and no stage has to promise that it
	 * left the others alone. The endpoint behind that line is written before it is read. */
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++, slot += WGF_SLOT_STRIDE) {
		struct wgf_packet *packet = &batch->packets[i];
		packet->outer = slot;
		packet->inner = slot + sizeof(struct wgf_message_data);
		packet->outer_room = OUTER_ROOM;
		packet->inner_room = INNER_ROOM;
		packet->outer_len = 0;
		packet->inner_len = 0;
		packet->drop = WGF_DROP_NOT;
		packet->tos = 0;
		packet->counter = 0;
		packet->peer = NULL;
		packet->keypair = NULL;
	}
}
