/* Tickets: the order of a direction, kept without anybody waiting for it. packet.h says how. */
#include <errno.h>
#include <string.h>

#include "packet.h"

int wgf_ring_init(struct wgf_ring *ring, size_t size, size_t room, struct wgf_epoch *epoch, size_t *ceiling)
{
	memset(ring, 0, sizeof *ring);
	ring->size = size;
	ring->batches = wgf_pool_create(size, room, epoch, ceiling);
	return ring->batches ? 0 : -ENOMEM;
}

void wgf_ring_destroy(struct wgf_ring *ring, struct wgf_epoch *epoch)
{
	if (ring->batches)
		wgf_pool_destroy(ring->batches, ring->size, epoch);
	ring->batches = NULL;
}

static bool is_full(struct wgf_ring *ring)
{
	/* `emitted` first: it follows the other, and may move on meanwhile. */
	uint64_t emitted = atomic_load(&ring->emitted);
	return atomic_load(&ring->taken) - emitted >= ring->size;
}

struct wgf_batch *wgf_ring_claim(struct wgf_ring *ring, struct wgf_epoch *epoch, uint64_t now)
{
	if (atomic_exchange(&ring->reading, true))
		return NULL;
	while (is_full(ring)) {
		atomic_store(&ring->reading, false);
		/* Who emitted before that and came here found us, and left it to us. Whoever emits later will come. */
		if (is_full(ring) || atomic_exchange(&ring->reading, true))
			return NULL;
	}
	uint64_t taken = atomic_load_explicit(&ring->taken, memory_order_relaxed);
	struct wgf_batch *batch = &ring->batches[taken % ring->size];
	wgf_batch_reset(batch, now);
	wgf_epoch_enter(epoch, &batch->reader);
	return batch;
}

void wgf_ring_pass(struct wgf_ring *ring, struct wgf_batch *batch)
{
	if (batch->count)
		atomic_fetch_add_explicit(&ring->taken, 1, memory_order_release);
	else
		wgf_epoch_exit(&batch->reader);
	atomic_store(&ring->reading, false);
}

/* The batch at the head, if its stages are done. Sequentially consistent throughout: a finisher that saw
 * an old head, and went, would leave its batch lying. */
static struct wgf_batch *finished(struct wgf_ring *ring)
{
	uint64_t emitted = atomic_load(&ring->emitted);
	if (emitted == atomic_load(&ring->taken))
		return NULL;
	struct wgf_batch *batch = &ring->batches[emitted % ring->size];
	return atomic_load(&batch->done) ? batch : NULL;
}

void wgf_ring_finish(struct wgf_ring *ring, struct wgf_batch *batch, struct wgf_device *device,
		     void (*emit)(struct wgf_device *device, struct wgf_batch *batch))
{
	atomic_store(&batch->done, true);
	/* A batch that is done after our last look and before we let go has only us to emit it. */
	while (finished(ring) && !atomic_exchange(&ring->emitting, true)) {
		while ((batch = finished(ring))) {
			emit(device, batch);
			atomic_store_explicit(&batch->done, false, memory_order_relaxed);
			wgf_epoch_exit(&batch->reader);
			atomic_fetch_add(&ring->emitted, 1);
		}
		atomic_store(&ring->emitting, false);
	}
}
