/* Epoch-based reclamation: one clock that ticks at every retirement, a list of readers, a queue of
 * what was retired.
 *
 * An item retired while the clock stood at N is reachable only for readers that entered at N or
 * before: one that entered later has seen the tick, and with it the unlinking that came before the
 * tick. So an item may be released once every reader is quiet or has entered later than N. Ticks are
 * taken under the lock, so the queue is in order of epoch and collecting is cutting off its head.
 * A tick at every retirement is one atomic addition; in return nothing waits longer than the
 * readers that could really see it. */
#include "epoch.h"

int wgf_epoch_init(struct wgf_epoch *epoch)
{
	atomic_init(&epoch->now, 1);
	epoch->readers = NULL;
	epoch->oldest = NULL;
	epoch->newest = &epoch->oldest;
	atomic_init(&epoch->waiting, 0);
	return -pthread_mutex_init(&epoch->lock, NULL);
}

void wgf_epoch_destroy(struct wgf_epoch *epoch)
{
	/* No reader is left: one round releases all, unless releasing retires more. */
	epoch->readers = NULL;
	while (wgf_epoch_collect(epoch) != 0)
		;
	pthread_mutex_destroy(&epoch->lock);
}

void wgf_epoch_join(struct wgf_epoch *epoch, struct wgf_reader *reader)
{
	atomic_init(&reader->entered, 0);
	pthread_mutex_lock(&epoch->lock);
	reader->next = epoch->readers;
	epoch->readers = reader;
	pthread_mutex_unlock(&epoch->lock);
}

void wgf_epoch_leave(struct wgf_epoch *epoch, struct wgf_reader *reader)
{
	pthread_mutex_lock(&epoch->lock);
	struct wgf_reader **link = &epoch->readers;
	while (*link && *link != reader)
		link = &(*link)->next;
	if (*link)
		*link = reader->next;
	pthread_mutex_unlock(&epoch->lock);
}

/* Under the lock. */
static void change_waiting(struct wgf_epoch *epoch, size_t change)
{
	size_t waiting = atomic_load_explicit(&epoch->waiting, memory_order_relaxed);
	atomic_store_explicit(&epoch->waiting, waiting + change, memory_order_relaxed);
}

void wgf_epoch_retire(struct wgf_epoch *epoch, struct wgf_retired *item,
		      void (*release)(struct wgf_retired *self))
{
	item->next = NULL;
	item->release = release;
	pthread_mutex_lock(&epoch->lock);
	item->epoch = atomic_fetch_add(&epoch->now, 1);
	*epoch->newest = item;
	epoch->newest = &item->next;
	change_waiting(epoch, 1);
	pthread_mutex_unlock(&epoch->lock);
}

/* The epoch of the reader inside for longest. Under the lock; the loads are sequentially consistent,
 * which is half of what spares wgf_epoch_enter its fence. */
static uint64_t earliest_entry(struct wgf_epoch *epoch)
{
	uint64_t earliest = UINT64_MAX;
	for (struct wgf_reader *reader = epoch->readers; reader; reader = reader->next) {
		uint64_t entered = atomic_load(&reader->entered);
		if (entered != 0 && entered < earliest)
			earliest = entered;
	}
	return earliest;
}

/* Cuts off what no reader can see any more. Under the lock. */
static struct wgf_retired *take_passed(struct wgf_epoch *epoch)
{
	if (!epoch->oldest)
		return NULL;
	uint64_t earliest = earliest_entry(epoch);
	struct wgf_retired *passed = epoch->oldest, **end = &epoch->oldest;
	while (*end && (*end)->epoch < earliest) {
		end = &(*end)->next;
		change_waiting(epoch, SIZE_MAX);
	}
	if (end == &epoch->oldest)
		return NULL;
	epoch->oldest = *end;
	*end = NULL;
	if (!epoch->oldest)
		epoch->newest = &epoch->oldest;
	return passed;
}

size_t wgf_epoch_collect(struct wgf_epoch *epoch)
{
	pthread_mutex_lock(&epoch->lock);
	struct wgf_retired *item = take_passed(epoch);
	pthread_mutex_unlock(&epoch->lock);
	while (item) {
		struct wgf_retired *next = item->next; /* gone with the item */
		item->release(item);
		item = next;
	}
	pthread_mutex_lock(&epoch->lock);
	size_t waiting = atomic_load_explicit(&epoch->waiting, memory_order_relaxed);
	pthread_mutex_unlock(&epoch->lock);
	return waiting;
}
