/* Allowed IPs under load: readers that never stop beside a writer, and very many prefixes. */
#include <pthread.h>
#include <stdbool.h>

#include "allowedips_table.h"

static double seconds(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* ---- Readers against a writer ----
 *
 * The address 10.0.0.1 always has an owner: 1 or 2 through its own prefix, while all around it and
 * above it prefixes come and go; 10.9.0.1 has one through a long prefix or a short one, of which there
 * is always at least one; 10.200.0.0/16 lies beside and is loaded and emptied at once. */

#define READERS 2

static _Atomic bool stop;

static void *look_up(void *argument)
{
	struct wgf_reader reader;
	uint64_t rounds = 0, sevens = 0, eights = 0;
	wgf_epoch_join(&epoch, &reader);
	while (!atomic_load(&stop)) {
		wgf_epoch_enter(&epoch, &reader);
		for (int i = 0; i < 20; i++) {
			uint32_t moved = wgf_allowedips_lookup4(table, ip4(0x0a000001));
			CHECK(moved == 1 || moved == 2);
			uint32_t swapped = wgf_allowedips_lookup4(table, ip4(0x0a090001));
			CHECK(swapped == 7 || swapped == 8);
			sevens += swapped == 7;
			eights += swapped == 8;
		}
		wgf_epoch_exit(&reader);
		rounds++;
	}
	wgf_epoch_leave(&epoch, &reader);
	CHECK(rounds > 0 && sevens > 0 && eights > 0);
	*(uint64_t *)argument = rounds * 40;
	return NULL;
}

static void disturb(struct check_random *random)
{
	unsigned length = 9 + (unsigned)check_random_below(random, 24);
	uint32_t near = 0x0a000001u ^ 1u << check_random_below(random, 23);
	if ((near ^ 0x0a000001u) >> (32 - length) == 0) {
		CHECK(insert4(near, length, 3) == 0); /* above the prefix that moves */
		CHECK(remove4(near, length, 3) == 0);
		return;
	}
	CHECK(insert4(near, length, 4) == 0);
	if (check_random_below(random, 4) == 0)
		wgf_allowedips_remove_owner(table, 4);
}

static void writer_round(struct check_random *random, uint32_t round)
{
	CHECK(insert4(0x0a000001, 32, 1 + round % 2) == 0);
	disturb(random);
	/* A shorter prefix in before the longer goes, and the other way round: never a gap. */
	for (int i = 0; i < 5; i++) {
		CHECK(insert4(0x0a090000, 16, 7) == 0);
		CHECK(remove4(0x0a090001, 32, 8) == 0);
		if (i == 0)
			disturb(random);
		CHECK(insert4(0x0a090001, 32, 8) == 0);
		CHECK(remove4(0x0a090000, 16, 7) == 0);
	}
	if (round % 64 == 0) {
		for (uint32_t i = 0; i < 32; i++)
			CHECK(insert4(0x0ac80000 + 8 * i, 29, 5) == 0);
		CHECK(wgf_allowedips_remove_owner(table, 5) == 32);
	}
}

static void test_readers_against_writer(struct check_random *random)
{
	pthread_t threads[READERS];
	uint64_t lookups[READERS];
	uint32_t rounds = 0;
	begin();
	CHECK(insert4(0x0a000001, 32, 1) == 0);
	CHECK(insert4(0x0a090001, 32, 8) == 0);
	for (unsigned length = 17; length <= 32; length++) /* a long way from the short to the long one */
		CHECK(insert4(0x0a090001 ^ 1u << (32 - length), length, 6) == 0);
	for (int i = 0; i < READERS; i++)
		CHECK(pthread_create(&threads[i], NULL, look_up, &lookups[i]) == 0);
	for (double until = seconds() + 0.8; seconds() < until; wgf_epoch_collect(&epoch))
		for (int i = 0; i < 50; i++)
			writer_round(random, rounds++);
	atomic_store(&stop, true);
	for (int i = 0; i < READERS; i++)
		pthread_join(threads[i], NULL);
	printf("allowedips: %" PRIu64 " lookups beside %u rounds of changes\n",
	       lookups[0] + lookups[1], rounds);
	for (uint32_t owner = 0; owner < 10; owner++)
		wgf_allowedips_remove_owner(table, owner);
	CHECK(wgf_allowedips_count(table) == 0);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	end();
}

/* ---- Many prefixes ---- */

#define MANY 65000u

static void measure_lookups(struct check_random *random, const char *what)
{
	enum { n = 1 << 16 };
	uint32_t *addresses = malloc(n * sizeof(*addresses)), *owners = malloc(n * sizeof(*owners));
	CHECK(addresses && owners);
	for (size_t i = 0; i < n; i++)
		addresses[i] = 0x0a000000 | (uint32_t)check_random_below(random, MANY << 8);
	double start = seconds();
	for (int round = 0; round < 4; round++)
		wgf_allowedips_lookup4_many(table, addresses, n, owners);
	printf("allowedips: %s: %.0f ns a lookup\n", what, (seconds() - start) * 1e9 / (4 * n));
	for (size_t i = 0; i < n; i++)
		CHECK(owners[i] == (addresses[i] >> 8 & 0xffff) % 10000 || owners[i] == 0);
	free(addresses);
	free(owners);
}

static void test_many(struct check_random *random, uint32_t owners, const char *what)
{
	struct wgf_prefix *all = malloc(MANY * sizeof(*all));
	CHECK(all);
	begin();
	double start = seconds();
	for (uint32_t i = 0; i < MANY; i++)
		CHECK(insert4(0x0a000000 + (i << 8), 24, i % owners) == 0);
	double loaded = seconds();
	printf("allowedips: %s: loaded in %.0f ms\n", what, (loaded - start) * 1e3);
	measure_lookups(random, what);
	start = seconds();
	size_t listed = 0;
	for (uint32_t owner = 0; owner < owners; owner++)
		listed += wgf_allowedips_list(table, owner, all, MANY);
	CHECK(listed == MANY);
	CHECK(wgf_allowedips_list(table, WGF_OWNER_NONE, all, MANY) == MANY);
	double walked = seconds();
	size_t removed = 0;
	for (uint32_t owner = 0; owner < owners; owner++)
		removed += wgf_allowedips_remove_owner(table, owner);
	CHECK(removed == MANY && wgf_allowedips_count(table) == 0);
	printf("allowedips: %s: listed in %.0f ms, removed in %.0f ms\n", what,
	       (walked - start) * 1e3, (seconds() - walked) * 1e3);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	end();
	free(all);
}

int main(void)
{
	struct check_random random = check_random_begin("allowedips_load");
	test_readers_against_writer(&random);
	test_many(&random, 1, "65,000 prefixes of one owner");
	test_many(&random, 10000, "65,000 prefixes of 10,000 owners");
	return 0;
}
