/* Readers never lock: epoch-based reclamation.
 *
 * A reader enters before its first look at shared memory and exits after its last; whoever unlinks
 * something retires it, and it is freed once every reader that could still see it has exited. What
 * is "a reader" here is not a thread but a unit of work: a batch stays entered from the moment its
 * packets are taken until they are emitted, whichever threads touch it in between, so a keypair or
 * peer that a packet points to cannot go away under it. A worker asleep in poll holds no batch and
 * is quiet by construction.
 *
 * Enter stores the epoch and looks again whether it moved, all sequentially consistent, so that no
 * fence is needed: a retirer that misses the reader's store in its scan is one whose increment the
 * reader's second look has seen. */
#ifndef WGF_EPOCH_H
#define WGF_EPOCH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wgf_reader {
	_Alignas(64) _Atomic uint64_t entered; /* epoch of entry, 0 while quiet; written by the reader */
	struct wgf_reader *next;               /* under epoch->lock */
};

/* Stands inside whatever can be retired. */
struct wgf_retired {
	struct wgf_retired *next;
	uint64_t epoch;
	void (*release)(struct wgf_retired *self);
};

struct wgf_epoch {
	_Alignas(64) _Atomic uint64_t now; /* starts at 1 */
	pthread_mutex_t lock;              /* the lists below; never taken by a reader at work */
	struct wgf_reader *readers;
	struct wgf_retired *oldest;
	struct wgf_retired **newest;
	_Atomic size_t waiting;            /* written under the lock */
};

int wgf_epoch_init(struct wgf_epoch *epoch);
void wgf_epoch_destroy(struct wgf_epoch *epoch); /* no reader is left: everything retired is released */

void wgf_epoch_join(struct wgf_epoch *epoch, struct wgf_reader *reader);
void wgf_epoch_leave(struct wgf_epoch *epoch, struct wgf_reader *reader); /* the reader is quiet */

static inline void wgf_epoch_enter(struct wgf_epoch *epoch, struct wgf_reader *reader)
{
	uint64_t seen = atomic_load(&epoch->now);
	for (;;) {
		atomic_store(&reader->entered, seen);
		uint64_t again = atomic_load(&epoch->now);
		if (again == seen)
			return;
		seen = again;
	}
}

static inline void wgf_epoch_exit(struct wgf_reader *reader)
{
	atomic_store_explicit(&reader->entered, 0, memory_order_release);
}

/* Any thread, after the item was unlinked. Takes the lock for a moment, never waits for readers. */
void wgf_epoch_retire(struct wgf_epoch *epoch, struct wgf_retired *item,
		      void (*release)(struct wgf_retired *self));

/* Is there anything to collect, as far as this thread has heard? Takes no lock. */
static inline bool wgf_epoch_waits(struct wgf_epoch *epoch)
{
	return atomic_load_explicit(&epoch->waiting, memory_order_relaxed) != 0;
}

/* Releases what every reader has passed. Any thread that is not inside a reader; the control
 * plane after a change, and workers between batches, so that what a busy reader held up does not wait for
 * the next change. Returns how many items still wait. Release functions run without the lock held. */
size_t wgf_epoch_collect(struct wgf_epoch *epoch);

#endif
