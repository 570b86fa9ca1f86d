/* A million moves under the eyes of a reader: prefixes of every kind there is in the table belong to 1 or 2, and whoever
 * looks up their addresses, one by one or in batches, finds one of the two, never none and never a third, whatever
 * happens to the prefixes above, below and beside, and whatever form the table takes meanwhile. */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#include "allowedips_table.h"

#if defined(__SANITIZE_THREAD__)
#define MOVES 30000u
#else
#define MOVES 500000u /* in a small table, and as many in a large one */
#endif

static const struct {
	uint32_t address;
	unsigned length;
} moving[] = {{0x0a010203, 32}, {0x0a020200, 23}, {0x0a030000, 16}, {0x0a048000, 19}, {0x0a050600, 24}, {0x0b000000, 8}};

#define MOVING (sizeof(moving) / sizeof(moving[0]))

static const uint8_t moving6[16] = {0x20, 1, 0x0d, 0xb8, 0, 7, 0, 9};

static _Atomic bool stop;

static void *watch(void *argument)
{
	uint32_t addresses[64], owners[64];
	uint8_t addresses6[64][16];
	struct wgf_reader reader;
	uint64_t seen[3] = {0};
	for (size_t i = 0; i < 64; i++) {
		addresses[i] = moving[i % MOVING].address;
		memcpy(addresses6[i], moving6, 16);
		addresses6[i][15] = (uint8_t)i;
	}
	wgf_epoch_join(&epoch, &reader);
	while (!atomic_load(&stop)) {
		wgf_epoch_enter(&epoch, &reader);
		wgf_allowedips_batch4(table, addresses, 64, owners);
		for (size_t i = 0; i < 64; i++) {
			CHECK(owners[i] == 1 || owners[i] == 2);
			seen[owners[i]]++;
		}
		wgf_allowedips_batch6(table, addresses6[0], 64, owners);
		for (size_t i = 0; i < 64; i++)
			CHECK(owners[i] == 1 || owners[i] == 2);
		for (size_t i = 0; i < MOVING; i++) {
			uint32_t owner = wgf_allowedips_lookup4(table, ip4(moving[i].address));
			CHECK(owner == 1 || owner == 2);
		}
		wgf_epoch_exit(&reader);
	}
	wgf_epoch_leave(&epoch, &reader);
	CHECK(seen[1] > 0 && seen[2] > 0);
	*(uint64_t *)argument = seen[1] + seen[2];
	return NULL;
}

static void move_all(uint32_t owner)
{
	for (size_t i = 0; i < MOVING; i++)
		CHECK(insert4(moving[i].address, moving[i].length, owner) == 0);
	CHECK(wgf_allowedips_insert(table, WGF_IPV6, moving6, 64, owner) == 0);
}

/* Other prefixes, above, below and beside, never between a moving one and the addresses watched. */
static void disturb(struct check_random *random)
{
	uint32_t near = moving[check_random_below(random, MOVING)].address ^ (uint32_t)1 << check_random_below(random, 24);
	CHECK(insert4(near, 32, 7) == 0);
	if (check_random_below(random, 8) == 0)
		wgf_allowedips_remove_owner(table, 7);
	if (check_random_below(random, 64) == 0)
		CHECK(insert4(0, 0, 6) == 0 && remove4(0, 0, 6) == 0);
	uint8_t address[16];
	memcpy(address, moving6, 16);
	address[check_random_below(random, 8)] ^= (uint8_t)(1u << check_random_below(random, 8));
	CHECK(wgf_allowedips_insert(table, WGF_IPV6, address, 64, 7) == 0);
}

static pthread_t begin_watching(uint64_t *lookups)
{
	pthread_t thread;
	atomic_store(&stop, false);
	CHECK(pthread_create(&thread, NULL, watch, lookups) == 0);
	return thread;
}

static void end_watching(pthread_t thread)
{
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
}

static void test_moves(struct check_random *random, bool large)
{
	uint64_t lookups;
	begin();
	move_all(1);
	for (uint32_t i = 0; large && i < 4000; i++)
		CHECK(insert4(0x40000000 + 4096 * i, 24, 8) == 0);
	for (uint8_t i = 0; large && i < 250; i++)
		for (uint8_t j = 0; j < 4; j++)
			CHECK(wgf_allowedips_insert(table, WGF_IPV6, (uint8_t[16]){0x2a, i, j}, 40, 8) == 0);
	pthread_t thread = begin_watching(&lookups);
	for (uint32_t move = 0; move < MOVES; move += MOVING + 1) {
		move_all(1 + move / (MOVING + 1) % 2);
		if (move / (MOVING + 1) % 16 == 0)
			disturb(random);
	}
	end_watching(thread);
	printf("allowedips_moves: %" PRIu64 " lookups beside %u moves\n", lookups, MOVES);
	end();
}

/* The table takes its large form and its small one by turns, and becomes dense and sparse. */
static void test_forms(void)
{
	uint64_t lookups;
	begin();
	move_all(1);
	pthread_t thread = begin_watching(&lookups);
	for (uint32_t round = 0; round < MOVES / 5000; round++) {
		uint32_t many = round % 10 ? 600 : 9000;
		move_all(1 + round % 2);
		for (uint32_t i = 0; i < many; i++)
			CHECK(insert4(0x40000000 + 16384 * i, 24, 8) == 0);
		for (uint32_t i = 0; i < 600; i++)
			CHECK(wgf_allowedips_insert(table, WGF_IPV6, (uint8_t[16]){0x2a, (uint8_t)(i >> 8), (uint8_t)i}, 40,
						    8) == 0);
		CHECK(wgf_allowedips_memory(table) > (round % 10 ? 65536u : 1u << 20));
		CHECK(wgf_allowedips_remove_owner(table, 8) == many + 600);
		CHECK(wgf_allowedips_memory(table) < 65536);
	}
	end_watching(thread);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	printf("allowedips_moves: %" PRIu64 " lookups beside %u changes of form\n", lookups, 4 * (MOVES / 5000));
	end();
}

int main(void)
{
	struct check_random random = check_random_begin("allowedips_moves");
	test_moves(&random, false);
	test_moves(&random, true);
	test_forms();
	return 0;
}
