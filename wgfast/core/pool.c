/* Batches and their memory.
 *
 * One mapping for all of a pool, its size known when the pool is made: that is the ceiling. Nothing of
 * it is reserved or touched in advance; a slot has room for the largest message, but ordinary packets
 * touch only the first page or two of it. Huge pages are declined for the same reason: one would make
 * thirty slots resident for the first packet in one of them. Packets in flight are somebody's
 * plaintext, so core dumps leave them out. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "packet.h"

_Static_assert(WGF_SLOT_ROOM > WGF_MESSAGE_MAX, "an oversized datagram shows");
_Static_assert(WGF_SLOT_ROOM <= WGF_SLOT_STRIDE, "slots do not overlap");
_Static_assert(WGF_BATCH_BYTES >= WGF_MTU_MAX + WGF_PADDING, "a packet more than a batch's bytes fits");
_Static_assert(WGF_SLOT_STRIDE % 64 == 0 && WGF_SLOT_STRIDE / 64 % 2 == 1, "slots start a cache line");
_Static_assert(sizeof(struct wgf_batch) % _Alignof(struct wgf_batch) == 0, "for aligned_alloc");

uint8_t *wgf_pool_map(size_t size)
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

struct wgf_batch *wgf_pool_create(size_t batches, size_t room, struct wgf_epoch *epoch, size_t *ceiling)
{
	if (batches == 0 || batches > SIZE_MAX / room)
		return NULL;
	size_t size = batches * room;
	struct wgf_batch *pool = aligned_alloc(_Alignof(struct wgf_batch), batches * sizeof(*pool));
	uint8_t *memory = pool ? wgf_pool_map(size) : NULL;
	if (!memory) {
		free(pool);
		return NULL;
	}
	memset(pool, 0, batches * sizeof(*pool));
	for (size_t i = 0; i < batches; i++) {
		pool[i].memory = memory + i * room;
		pool[i].room = room;
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
	munmap(pool[0].memory, batches * pool[0].room);
	free(pool);
}

void wgf_batch_reset(struct wgf_batch *batch, uint64_t now)
{
	batch->limit = WGF_BATCH_PACKETS;
	batch->count = 0;
	batch->bytes = 0;
	batch->used = 0;
	batch->mtu = 0;
	batch->more = false;
	batch->staged = false;
	batch->now = now;
}

void wgf_packet_place(struct wgf_packet *packet, uint8_t *outer, size_t room)
{
	packet->outer = outer;
	packet->inner = outer + sizeof(struct wgf_message_data);
	packet->outer_room = (uint32_t)room;
	packet->inner_room = room > WGF_DATA_OVERHEAD ? (uint32_t)(room - WGF_DATA_OVERHEAD) : 0;
	packet->outer_len = 0;
	packet->inner_len = 0;
	packet->drop = WGF_DROP_NOT;
	packet->tos = 0;
	packet->counter = 0;
	packet->peer = NULL;
	packet->keypair = NULL;
}

struct wgf_packet *wgf_batch_next(struct wgf_batch *batch)
{
	struct wgf_packet *packet = &batch->packets[batch->count];
	if (batch->memory)
		wgf_packet_place(packet, batch->memory + batch->used, batch->room - batch->used);
	return packet;
}

void wgf_batch_take(struct wgf_batch *batch)
{
	uint32_t len = batch->packets[batch->count++].inner_len;
	batch->bytes += len;
	batch->used += (uint32_t)WGF_DATA_OVERHEAD + len + wgf_padding(len, batch->mtu);
}
