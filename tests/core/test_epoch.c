/* Reclamation: nothing is released while a reader may see it, everything once none can, in order. */
#include <pthread.h>
#include <stdbool.h>

#include "check.h"
#include "epoch.h"

/* ---- One thread: when exactly is an item released ---- */

struct item {
	struct wgf_retired retired;
	int number;
};

static struct wgf_epoch epoch;
static int released[16], released_count;
static struct item second_life;

static struct item *item_of(struct wgf_retired *retired)
{
	return (struct item *)((char *)retired - offsetof(struct item, retired));
}

static void note(struct wgf_retired *retired)
{
	CHECK(pthread_mutex_trylock(&epoch.lock) == 0); /* releases run without the lock */
	pthread_mutex_unlock(&epoch.lock);
	released[released_count++] = item_of(retired)->number;
}

static void note_and_retire_another(struct wgf_retired *retired)
{
	note(retired);
	wgf_epoch_retire(&epoch, &second_life.retired, note);
}

static void test_order_and_waiting(void)
{
	struct item a = {.number = 1}, b = {.number = 2}, c = {.number = 3};
	struct wgf_reader early, late;
	CHECK(wgf_epoch_init(&epoch) == 0);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	wgf_epoch_join(&epoch, &early);
	wgf_epoch_join(&epoch, &late);
	released_count = 0;

	wgf_epoch_enter(&epoch, &early);
	wgf_epoch_retire(&epoch, &a.retired, note);
	wgf_epoch_enter(&epoch, &late); /* cannot see a any more, but b and c */
	wgf_epoch_retire(&epoch, &b.retired, note);
	wgf_epoch_retire(&epoch, &c.retired, note);
	CHECK(wgf_epoch_collect(&epoch) == 3);
	CHECK(released_count == 0);

	wgf_epoch_exit(&early);
	CHECK(wgf_epoch_collect(&epoch) == 2);
	CHECK(released_count == 1 && released[0] == 1);

	wgf_epoch_enter(&epoch, &early); /* entered after all of them: holds back nothing */
	wgf_epoch_exit(&late);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	CHECK(released_count == 3 && released[1] == 2 && released[2] == 3);

	wgf_epoch_exit(&early);
	wgf_epoch_leave(&epoch, &early);
	wgf_epoch_leave(&epoch, &late);
	CHECK(epoch.readers == NULL);
	wgf_epoch_destroy(&epoch);
}

static void test_release_may_retire(void)
{
	struct item first = {.number = 1};
	second_life.number = 2;
	released_count = 0;
	CHECK(wgf_epoch_init(&epoch) == 0);
	wgf_epoch_retire(&epoch, &first.retired, note_and_retire_another);
	CHECK(wgf_epoch_collect(&epoch) == 1);
	CHECK(released_count == 1);
	wgf_epoch_destroy(&epoch);
	CHECK(released_count == 2 && released[1] == 2);

	released_count = 0;
	CHECK(wgf_epoch_init(&epoch) == 0);
	wgf_epoch_retire(&epoch, &first.retired, note_and_retire_another);
	wgf_epoch_destroy(&epoch); /* both at once */
	CHECK(released_count == 2);
}

/* ---- Many threads: readers look at what a writer keeps replacing ---- */

#define ALIVE UINT64_C(0x616c697665)
#define READERS 2

struct thing {
	struct wgf_retired retired;
	uint64_t state;
};

static _Atomic(struct thing *) current;
static _Atomic bool stop;
static _Atomic uint64_t made, gone;

static void thing_release(struct wgf_retired *retired)
{
	struct thing *thing = (struct thing *)((char *)retired - offsetof(struct thing, retired));
	thing->state = 0;
	free(thing);
	atomic_fetch_add(&gone, 1);
}

static struct thing *thing_create(void)
{
	struct thing *thing = malloc(sizeof(*thing));
	CHECK(thing);
	thing->state = ALIVE;
	atomic_fetch_add(&made, 1);
	return thing;
}

static void *read_things(void *unused)
{
	(void)unused;
	uint64_t rounds = 0;
	while (!atomic_load(&stop)) {
		struct wgf_reader reader; /* joins and leaves too, as lookup_many does */
		wgf_epoch_join(&epoch, &reader);
		for (int i = 0; i < 100; i++) {
			wgf_epoch_enter(&epoch, &reader);
			struct thing *thing = atomic_load_explicit(&current, memory_order_acquire);
			for (int look = 0; look < 10; look++)
				CHECK(*(volatile uint64_t *)&thing->state == ALIVE);
			wgf_epoch_exit(&reader);
			rounds++;
		}
		wgf_epoch_leave(&epoch, &reader);
	}
	CHECK(rounds > 0);
	return NULL;
}

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void test_readers_against_writer(void)
{
	pthread_t threads[READERS];
	CHECK(wgf_epoch_init(&epoch) == 0);
	atomic_store(&current, thing_create());
	for (int i = 0; i < READERS; i++)
		CHECK(pthread_create(&threads[i], NULL, read_things, NULL) == 0);
	double end = seconds() + 0.6;
	while (seconds() < end) {
		for (int i = 0; i < 50; i++) {
			struct thing *old = atomic_exchange(&current, thing_create());
			wgf_epoch_retire(&epoch, &old->retired, thing_release);
		}
		wgf_epoch_collect(&epoch);
	}
	CHECK(atomic_load(&gone) > 0); /* collected under readers, not only after them */
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	thing_release(&atomic_load(&current)->retired);
	wgf_epoch_destroy(&epoch);
	CHECK(atomic_load(&made) == atomic_load(&gone));
}

int main(void)
{
	test_order_and_waiting();
	test_release_may_retire();
	test_readers_against_writer();
	return 0;
}
