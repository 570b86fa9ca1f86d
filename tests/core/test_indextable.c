/* Receiver indices: every entry is found until it is removed, and never after, whatever is rebuilt. */
#include <errno.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "indextable.h"

#define PEERS 4096

static struct wgf_epoch epoch;
static struct wgf_indextable table;
static char peers[PEERS]; /* the table only carries the address of a peer */

static struct wgf_peer *peer_at(size_t i)
{
	return (struct wgf_peer *)(void *)&peers[i];
}

static void begin(void)
{
	CHECK(wgf_epoch_init(&epoch) == 0);
	CHECK(wgf_indextable_init(&table, &epoch) == 0);
}

static void end(void)
{
	wgf_indextable_destroy(&table);
	wgf_epoch_destroy(&epoch);
}

static void test_random_changes(struct check_random *random)
{
	static struct wgf_index_entry *entries[PEERS];
	size_t live = 0;
	begin();
	for (int i = 0; i < 200000; i++) {
		/* The crowd grows and goes, so that arrays grow and shrink. */
		size_t crowd = i / 50000 % 2 ? 50 : PEERS, at = check_random_below(random, PEERS);
		if (!entries[at] && live < crowd) {
			entries[at] = wgf_indextable_insert(&table, peer_at(at));
			CHECK(entries[at] && entries[at]->peer == peer_at(at));
			CHECK(atomic_load(&entries[at]->keypair) == NULL);
			live++;
		} else if (entries[at]) {
			uint32_t index = entries[at]->index;
			CHECK(wgf_indextable_find(&table, index) == entries[at]);
			wgf_indextable_remove(&table, entries[at]);
			CHECK(wgf_indextable_find(&table, index) == NULL);
			entries[at] = NULL;
			live--;
		}
		CHECK(wgf_indextable_count(&table) == live);
		if (i % 1000 == 0) {
			wgf_epoch_collect(&epoch);
			for (size_t j = 0; j < PEERS; j++)
				CHECK(!entries[j] ||
				      wgf_indextable_find(&table, entries[j]->index) == entries[j]);
		}
	}
	for (size_t i = 0; i < PEERS; i++) {
		if (entries[i])
			wgf_indextable_remove(&table, entries[i]);
		entries[i] = NULL;
	}
	CHECK(wgf_indextable_count(&table) == 0);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	end();
}

/* Indices that a counter could have made would tell strangers how many sessions there are. */
static void test_indices_are_spread(void)
{
	uint32_t ones = 0, zeros = 0;
	begin();
	for (int i = 0; i < 1000; i++) {
		struct wgf_index_entry *entry = wgf_indextable_insert(&table, peer_at(0));
		CHECK(entry);
		ones |= entry->index;
		zeros |= ~entry->index;
	}
	CHECK(ones == UINT32_MAX && zeros == UINT32_MAX);
	CHECK(wgf_indextable_count(&table) == 1000);
	end(); /* with entries still in it: the leak check watches */
}

/* ---- Randomness that is not, or fails ---- */

#define REAL (-1)

static struct {
	int error;               /* REAL: the system's; 0: those below, in turn; else what fails */
	uint32_t values[4];
	size_t next;
} chance = {.error = REAL};

/* In place of the library's. */
ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
	if (chance.error == REAL)
		return (ssize_t)syscall(SYS_getrandom, buffer, size, flags);
	if (chance.error) {
		errno = chance.error;
		chance.error = chance.error == EINTR ? 0 : chance.error;
		return -1;
	}
	CHECK(size == 4 && chance.next < 4);
	memcpy(buffer, &chance.values[chance.next++], 4);
	return 4;
}

static struct wgf_index_entry *insert_by_chance(int error, uint32_t a, uint32_t b, uint32_t c)
{
	chance.error = error;
	memcpy(chance.values, (uint32_t[]){a, b, c, 0}, sizeof(chance.values));
	chance.next = 0;
	struct wgf_index_entry *entry = wgf_indextable_insert(&table, peer_at(0));
	chance.error = REAL;
	return entry;
}

static void test_collision_and_failure(void)
{
	begin();
	struct wgf_index_entry *first = insert_by_chance(0, 7, 99, 99);
	CHECK(first && first->index == 7);
	struct wgf_index_entry *second = insert_by_chance(0, 7, 7, 8);
	CHECK(second && second->index == 8);
	CHECK(wgf_indextable_find(&table, 7) == first && wgf_indextable_find(&table, 8) == second);
	CHECK(insert_by_chance(ENOSYS, 9, 9, 9) == NULL);
	CHECK(wgf_indextable_count(&table) == 2 && !wgf_indextable_find(&table, 9));
	struct wgf_index_entry *third = insert_by_chance(EINTR, 9, 99, 99);
	CHECK(third && third->index == 9);
	end();
}

/* All in one place: slow, and right. */
static void test_crowded_slots(void)
{
	struct wgf_index_entry *entries[64];
	begin();
	for (uint32_t i = 0; i < 64; i++) {
		entries[i] = insert_by_chance(0, i << 16 | 15, 99, 99);
		CHECK(entries[i] && entries[i]->index == (i << 16 | 15));
	}
	for (uint32_t i = 0; i < 64; i += 2)
		wgf_indextable_remove(&table, entries[i]);
	for (uint32_t i = 0; i < 64; i++)
		CHECK(wgf_indextable_find(&table, i << 16 | 15) == (i % 2 ? entries[i] : NULL));
	CHECK(!wgf_indextable_find(&table, 64u << 16 | 15));
	end();
}

/* ---- Readers against a writer ---- */

#define STABLE 64
#define READERS 2

static uint32_t stable[STABLE];
static _Atomic uint32_t passing; /* an index that was in the table a moment ago */
static _Atomic bool stop;

static void *find_all(void *unused)
{
	(void)unused;
	struct wgf_reader reader;
	uint64_t rounds = 0;
	wgf_epoch_join(&epoch, &reader);
	while (!atomic_load(&stop)) {
		wgf_epoch_enter(&epoch, &reader);
		for (size_t i = 0; i < STABLE; i++) {
			struct wgf_index_entry *entry = wgf_indextable_find(&table, stable[i]);
			CHECK(entry && entry->index == stable[i] && entry->peer == peer_at(i));
		}
		uint32_t index = atomic_load_explicit(&passing, memory_order_relaxed);
		struct wgf_index_entry *entry = wgf_indextable_find(&table, index);
		CHECK(!entry || entry->index == index);
		wgf_epoch_exit(&reader);
		rounds++;
	}
	wgf_epoch_leave(&epoch, &reader);
	CHECK(rounds > 0);
	return NULL;
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_readers_against_writer(struct check_random *random)
{
	struct wgf_index_entry *kept[STABLE], *crowd[256] = {NULL};
	pthread_t threads[READERS];
	begin();
	for (size_t i = 0; i < STABLE; i++) {
		kept[i] = wgf_indextable_insert(&table, peer_at(i));
		CHECK(kept[i]);
		stable[i] = kept[i]->index;
	}
	for (int i = 0; i < READERS; i++)
		CHECK(pthread_create(&threads[i], NULL, find_all, NULL) == 0);
	for (double until = seconds() + 0.6; seconds() < until; wgf_epoch_collect(&epoch)) {
		for (int i = 0; i < 100; i++) {
			struct wgf_index_entry **entry = &crowd[check_random_below(random, 256)];
			if (*entry) {
				atomic_store_explicit(&passing, (*entry)->index, memory_order_relaxed);
				wgf_indextable_remove(&table, *entry);
				*entry = NULL;
			} else {
				*entry = wgf_indextable_insert(&table, peer_at(PEERS - 1));
				CHECK(*entry);
				atomic_store_explicit(&passing, (*entry)->index, memory_order_relaxed);
			}
		}
	}
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	for (int i = 0; i < 256; i++)
		if (crowd[i])
			wgf_indextable_remove(&table, crowd[i]);
	for (int i = 0; i < STABLE; i++)
		wgf_indextable_remove(&table, kept[i]);
	CHECK(wgf_indextable_count(&table) == 0);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	end();
}

int main(void)
{
	struct check_random random = check_random_begin("indextable");
	test_random_changes(&random);
	test_indices_are_spread();
	test_collision_and_failure();
	test_crowded_slots();
	test_readers_against_writer(&random);
	return 0;
}
