/* Receiver indices: open addressing with linear probing over an array that is at least half empty.
 *
 * A slot is empty, a mark, or an entry, and goes from entry to mark and from mark to entry but never
 * back to empty, so a probe that began before a change still ends and still meets every entry that
 * stayed. Marks and entries together fill at most half of an array; then the entries alone move to a
 * new one, a quarter full or less, which also shrinks again after a crowd has gone. The old array is
 * retired: a reader inside it finds what was there when it entered. */
#include <stdbool.h>
#include <stdlib.h>

#include "indextable.h"
#include "random.h"

#define SMALLEST ((size_t)16)

struct wgf_index_array {
	struct wgf_retired retired;
	size_t mask; /* number of slots, a power of two, less one */
	_Atomic(struct wgf_index_entry *) slots[];
};

/* Stands where an entry was removed; only its address matters. */
static struct wgf_index_entry mark;

static struct wgf_index_array *array_create(size_t slots)
{
	struct wgf_index_array *array = malloc(sizeof(*array) + slots * sizeof(array->slots[0]));
	if (!array)
		return NULL;
	array->mask = slots - 1;
	for (size_t i = 0; i < slots; i++)
		atomic_init(&array->slots[i], NULL);
	return array;
}

static void array_release(struct wgf_retired *retired)
{
	free((char *)retired - offsetof(struct wgf_index_array, retired));
}

static void entry_release(struct wgf_retired *retired)
{
	free((char *)retired - offsetof(struct wgf_index_entry, retired));
}

int wgf_indextable_init(struct wgf_indextable *table, struct wgf_epoch *epoch)
{
	struct wgf_index_array *array = array_create(SMALLEST);
	if (!array)
		return -ENOMEM;
	table->epoch = epoch;
	table->live = 0;
	table->marks = 0;
	atomic_init(&table->array, array);
	int error = pthread_mutex_init(&table->lock, NULL);
	if (error)
		free(array);
	return -error;
}

void wgf_indextable_destroy(struct wgf_indextable *table)
{
	struct wgf_index_array *array = atomic_load_explicit(&table->array, memory_order_acquire);
	if (!array) /* it was never made */
		return;
	for (size_t i = 0; i <= array->mask; i++) {
		struct wgf_index_entry *entry =
			atomic_load_explicit(&array->slots[i], memory_order_relaxed);
		if (entry != &mark)
			free(entry);
	}
	free(array);
	pthread_mutex_destroy(&table->lock);
}

struct wgf_index_entry *wgf_indextable_find(struct wgf_indextable *table, uint32_t index)
{
	struct wgf_index_array *array = atomic_load_explicit(&table->array, memory_order_acquire);
	for (size_t i = index & array->mask;; i = (i + 1) & array->mask) {
		struct wgf_index_entry *entry =
			atomic_load_explicit(&array->slots[i], memory_order_acquire);
		if (!entry)
			return NULL;
		if (entry != &mark && entry->index == index)
			return entry;
	}
}

/* The first slot on an index's way is mostly the only one. */
void wgf_indextable_fetch(struct wgf_indextable *table, const uint32_t *indices, size_t n)
{
	struct wgf_index_array *array = atomic_load_explicit(&table->array, memory_order_acquire);
	for (size_t i = 0; i < n; i++)
		__builtin_prefetch(&array->slots[indices[i] & array->mask]);
	for (size_t i = 0; i < n; i++)
		__builtin_prefetch(atomic_load_explicit(&array->slots[indices[i] & array->mask], memory_order_relaxed));
}

/* The first slot on the index's way that holds no entry. Under the lock; the index is not in. */
static size_t vacancy(struct wgf_index_array *array, uint32_t index)
{
	size_t i = index & array->mask;
	for (;;) {
		struct wgf_index_entry *entry =
			atomic_load_explicit(&array->slots[i], memory_order_relaxed);
		if (!entry || entry == &mark)
			return i;
		i = (i + 1) & array->mask;
	}
}

/* The entries move to an array of which they and one more fill at most a quarter. */
static bool rebuild(struct wgf_indextable *table)
{
	size_t slots = SMALLEST;
	while (slots / 4 < table->live + 1)
		slots *= 2;
	struct wgf_index_array *fresh = array_create(slots);
	if (!fresh)
		return false;
	struct wgf_index_array *old = atomic_load_explicit(&table->array, memory_order_relaxed);
	for (size_t i = 0; i <= old->mask; i++) {
		struct wgf_index_entry *entry =
			atomic_load_explicit(&old->slots[i], memory_order_relaxed);
		if (entry && entry != &mark)
			atomic_store_explicit(&fresh->slots[vacancy(fresh, entry->index)], entry,
					      memory_order_relaxed);
	}
	atomic_store_explicit(&table->array, fresh, memory_order_release);
	table->marks = 0;
	wgf_epoch_retire(table->epoch, &old->retired, array_release);
	return true;
}

/* A random index that is not in the table. Under the lock. */
static bool draw(struct wgf_indextable *table, uint32_t *index)
{
	do {
		if (!wgf_random(index, sizeof(*index)))
			return false;
	} while (wgf_indextable_find(table, *index));
	return true;
}

/* Puts the entry under an index of its own. Under the lock. */
static bool place(struct wgf_indextable *table, struct wgf_index_entry *entry)
{
	struct wgf_index_array *array = atomic_load_explicit(&table->array, memory_order_relaxed);
	if ((table->live + table->marks + 1) * 2 > array->mask + 1) {
		if (!rebuild(table))
			return false;
		array = atomic_load_explicit(&table->array, memory_order_relaxed);
	}
	if (!draw(table, &entry->index))
		return false;
	size_t i = vacancy(array, entry->index);
	if (atomic_load_explicit(&array->slots[i], memory_order_relaxed) == &mark)
		table->marks--;
	atomic_store_explicit(&array->slots[i], entry, memory_order_release);
	table->live++;
	return true;
}

struct wgf_index_entry *wgf_indextable_insert(struct wgf_indextable *table, struct wgf_peer *peer)
{
	struct wgf_index_entry *entry = malloc(sizeof(*entry));
	if (!entry)
		return NULL;
	entry->peer = peer;
	atomic_init(&entry->keypair, NULL);
	pthread_mutex_lock(&table->lock);
	bool placed = place(table, entry);
	pthread_mutex_unlock(&table->lock);
	if (!placed) {
		free(entry);
		return NULL;
	}
	return entry;
}

void wgf_indextable_remove(struct wgf_indextable *table, struct wgf_index_entry *entry)
{
	pthread_mutex_lock(&table->lock);
	struct wgf_index_array *array = atomic_load_explicit(&table->array, memory_order_relaxed);
	size_t i = entry->index & array->mask;
	while (atomic_load_explicit(&array->slots[i], memory_order_relaxed) != entry)
		i = (i + 1) & array->mask;
	atomic_store_explicit(&array->slots[i], &mark, memory_order_release);
	table->live--;
	table->marks++;
	pthread_mutex_unlock(&table->lock);
	wgf_epoch_retire(table->epoch, &entry->retired, entry_release);
}

size_t wgf_indextable_count(struct wgf_indextable *table)
{
	pthread_mutex_lock(&table->lock);
	size_t live = table->live;
	pthread_mutex_unlock(&table->lock);
	return live;
}
