/* Allowed IPs beyond the small case: tens of thousands of prefixes of both families against a hash of them that is
 * searched length by length; what the table takes and gives back; what removals cost; and a short prefix above very many
 * others. */
#include <stdbool.h>
#include <string.h>

#include "allowedips_table.h"
#include "bytes.h"

/* ---- The oracle: prefixes by exact value ---- */

#define BUCKETS (1u << 18)

static struct wgf_prefix prefixes[BUCKETS / 4]; /* in no order */
static size_t prefix_count;
static uint32_t buckets[BUCKETS]; /* one more than the place in prefixes; 0: free */

static void mask(struct wgf_prefix *prefix)
{
	for (unsigned i = prefix->length; i < 128; i++)
		prefix->address[i / 8] &= (uint8_t)~(0x80u >> i % 8);
}

static bool same(const struct wgf_prefix *a, const struct wgf_prefix *b)
{
	return a->family == b->family && a->length == b->length && memcmp(a->address, b->address, 16) == 0;
}

static size_t bucket_of(const struct wgf_prefix *prefix)
{
	uint64_t hash = (uint64_t)prefix->length * 0x9e3779b97f4a7c15u + prefix->family;
	for (int i = 0; i < 16; i++)
		hash = (hash ^ prefix->address[i]) * 0x100000001b3u;
	size_t at = (size_t)(hash >> 20) % BUCKETS;
	while (buckets[at] && !same(&prefixes[buckets[at] - 1], prefix))
		at = (at + 1) % BUCKETS;
	return at;
}

static void rehash_behind(size_t at)
{
	for (at = (at + 1) % BUCKETS; buckets[at]; at = (at + 1) % BUCKETS) {
		uint32_t moved = buckets[at];
		buckets[at] = 0;
		buckets[bucket_of(&prefixes[moved - 1])] = moved;
	}
}

static void oracle_insert(const struct wgf_prefix *prefix)
{
	size_t at = bucket_of(prefix);
	if (!buckets[at]) {
		buckets[at] = (uint32_t)++prefix_count;
		prefixes[prefix_count - 1] = *prefix;
	}
	prefixes[buckets[at] - 1].owner = prefix->owner;
}

static void oracle_remove(size_t which)
{
	struct wgf_prefix last = prefixes[prefix_count - 1];
	size_t at = bucket_of(&prefixes[which]);
	buckets[at] = 0;
	rehash_behind(at);
	if (which != prefix_count - 1) {
		buckets[bucket_of(&last)] = (uint32_t)which + 1;
		prefixes[which] = last;
	}
	prefix_count--;
}

static uint32_t oracle_lookup(unsigned family, const uint8_t *address)
{
	struct wgf_prefix prefix = {.family = (uint8_t)family};
	for (int length = family == WGF_IPV4 ? 32 : 128; length >= 0; length--) {
		memset(prefix.address, 0, 16);
		memcpy(prefix.address, address, family == WGF_IPV4 ? 4 : 16);
		prefix.length = (uint8_t)length;
		mask(&prefix);
		size_t at = bucket_of(&prefix);
		if (buckets[at])
			return prefixes[buckets[at] - 1].owner;
	}
	return WGF_OWNER_NONE;
}

/* ---- Random changes ---- */

#if defined(__SANITIZE_THREAD__)
#define OFTEN 512 /* the oracle is what takes the time */
#define LESS 8    /* there is one thread here, and much of this is done elsewhere */
#elif defined(__SANITIZE_ADDRESS__)
#define OFTEN 512
#define LESS 1
#else
#define OFTEN 64
#define LESS 1
#endif

/* Crowded places and empty ones, long common beginnings, and lengths at the strides' edges. */
static void random_address(struct check_random *random, uint8_t address[16])
{
	check_random_fill(random, address, 16);
	size_t kind = check_random_below(random, 4);
	if (kind == 3)
		return;
	address[0] = 0x20;
	address[1] = kind == 0 ? 1 : address[1] & 7;
	for (int i = 2; i < 14; i++)
		address[i] &= kind == 0 ? 0x03 : kind == 1 ? 0x11 : 0xff;
}

static struct wgf_prefix random_prefix(struct check_random *random)
{
	static const uint8_t usual[] = {0, 1, 6, 7, 16, 17, 18, 19, 20, 22, 24, 25, 28, 30, 31, 32};
	struct wgf_prefix prefix = {.family = check_random_below(random, 2) ? WGF_IPV4 : WGF_IPV6};
	random_address(random, prefix.address);
	if (prefix.family == WGF_IPV4) {
		memset(prefix.address + 4, 0, 12);
		size_t which = check_random_below(random, 2 * sizeof(usual));
		prefix.length = which < sizeof(usual) ? usual[which] : 24;
	} else {
		prefix.length = (uint8_t)check_random_below(random, 129);
	}
	mask(&prefix);
	prefix.owner = (uint32_t)check_random_below(random, check_random_below(random, 2) ? 5 : 3000);
	return prefix;
}

static void check_batch(struct check_random *random, size_t n)
{
	enum { MOST = 200 };
	uint32_t numbers[MOST] = {0}, owners4[MOST], owners6[MOST];
	uint8_t addresses[MOST][16];
	for (size_t i = 0; i < n; i++) {
		random_address(random, addresses[i]);
		if (prefix_count && check_random_below(random, 3)) {
			const struct wgf_prefix *near = &prefixes[check_random_below(random, prefix_count)];
			memcpy(addresses[i], near->address, near->length / 8);
			if (check_random_below(random, 4) == 0)
				addresses[i][check_random_below(random, 16)] ^= (uint8_t)(1u << check_random_below(random, 8));
		}
		numbers[i] = wgf_load_be32(addresses[i]);
	}
	wgf_allowedips_lookup4_many(table, numbers, n, owners4);
	wgf_allowedips_lookup6_many(table, addresses[0], n, owners6);
	for (size_t i = 0; i < n; i++) {
		CHECK(owners4[i] == oracle_lookup(WGF_IPV4, addresses[i]));
		CHECK(owners6[i] == oracle_lookup(WGF_IPV6, addresses[i]));
	}
}

static int by_order(const void *left, const void *right)
{
	const struct wgf_prefix *a = left, *b = right;
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	int order = memcmp(a->address, b->address, 16);
	return order ? order : (int)a->length - (int)b->length;
}

static void check_listing(void)
{
	struct wgf_prefix *listed = malloc((prefix_count + 1) * sizeof(*listed));
	struct wgf_prefix *expected = malloc((prefix_count + 1) * sizeof(*expected));
	CHECK(listed && expected);
	memcpy(expected, prefixes, prefix_count * sizeof(*expected));
	qsort(expected, prefix_count, sizeof(*expected), by_order);
	CHECK(wgf_allowedips_list(table, WGF_OWNER_NONE, listed, prefix_count) == prefix_count);
	for (size_t i = 0; i < prefix_count; i++)
		CHECK(same(&listed[i], &expected[i]) && listed[i].owner == expected[i].owner);
	free(listed);
	free(expected);
}

static void insert(const struct wgf_prefix *prefix)
{
	oracle_insert(prefix);
	CHECK(wgf_allowedips_insert(table, prefix->family, prefix->address, prefix->length, prefix->owner) == 0);
}

static void remove_one(size_t which)
{
	struct wgf_prefix prefix = prefixes[which];
	oracle_remove(which);
	CHECK(wgf_allowedips_remove(table, prefix.family, prefix.address, prefix.length, prefix.owner) == 0);
}

static void remove_owner(uint32_t owner)
{
	size_t before = prefix_count;
	for (size_t i = prefix_count; i-- > 0;)
		if (prefixes[i].owner == owner)
			oracle_remove(i);
	CHECK(wgf_allowedips_remove_owner(table, owner) == before - prefix_count);
}

/* Changes until the table has about so many, then some more. */
static void wander(struct check_random *random, size_t towards, size_t changes)
{
	for (size_t i = 0; i < changes; i++) {
		size_t kind = check_random_below(random, 100);
		bool more = prefix_count < towards;
		if (kind < 10 && prefix_count) { /* a move */
			struct wgf_prefix prefix = prefixes[check_random_below(random, prefix_count)];
			prefix.owner = (uint32_t)check_random_below(random, 3000);
			insert(&prefix);
		} else if (prefix_count && (more ? kind < 20 : kind < 90)) {
			remove_one(check_random_below(random, prefix_count));
		} else if (prefix_count < BUCKETS / 4) {
			struct wgf_prefix prefix = random_prefix(random);
			insert(&prefix);
		}
		if (i % OFTEN == 0)
			check_batch(random, i % (2 * OFTEN) ? 200 : 1 + check_random_below(random, 70));
	}
	CHECK(wgf_allowedips_count(table) == prefix_count);
	check_listing();
}

/* ---- One place of the table, where prefixes touch, nest and have the same owners ---- */

#define ELSEWHERE 600u /* so that the table is a large one */

/* In 10.1.64.0/18, or the same bits of IPv6: its quarters, slots, what lies below them and what covers it all. */
static struct wgf_prefix prefix_in_place(struct check_random *random, unsigned family)
{
	struct wgf_prefix prefix = {.family = (uint8_t)family, .address = {10, 1, 0x40}};
	size_t kind = check_random_below(random, 8);
	prefix.length = (uint8_t)(kind == 0 ? check_random_below(random, 19)
				  : kind == 1 ? 25 + check_random_below(random, 8) : 19 + check_random_below(random, 6));
	prefix.address[2] |= (uint8_t)check_random_below(random, 64);
	prefix.address[3] = (uint8_t)(check_random_below(random, 4) << 6 | check_random_below(random, 2));
	prefix.owner = (uint32_t)check_random_below(random, 4);
	mask(&prefix);
	return prefix;
}

/* Each slot's first and last address, something between, and those on either side of the place. */
static void check_place(struct check_random *random, unsigned family)
{
	enum { MOST = 3 * 64 + 2 };
	uint32_t numbers[MOST], owners[MOST];
	uint8_t addresses[MOST][16] = {{0}};
	for (uint32_t i = 0; i < 64; i++) {
		uint32_t slot = 0x0a014000 + (i << 8);
		numbers[3 * i] = slot;
		numbers[3 * i + 1] = slot + 1 + (uint32_t)check_random_below(random, 254);
		numbers[3 * i + 2] = slot + 255;
	}
	numbers[MOST - 2] = 0x0a013fff;
	numbers[MOST - 1] = 0x0a018000;
	for (size_t i = 0; i < MOST; i++)
		wgf_store_be32(addresses[i], numbers[i]);
	if (family == WGF_IPV4)
		wgf_allowedips_lookup4_many(table, numbers, MOST, owners);
	else
		wgf_allowedips_lookup6_many(table, addresses[0], MOST, owners);
	for (size_t i = 0; i < MOST; i++)
		CHECK(owners[i] == oracle_lookup(family, addresses[i]));
}

/* Owners are few, so that neighbours become one run and part again. */
static void test_one_place(struct check_random *random, unsigned family, size_t changes)
{
	begin();
	for (uint32_t i = 0; i < ELSEWHERE; i++) {
		struct wgf_prefix prefix = {.family = (uint8_t)family, .length = 24, .owner = 9};
		wgf_store_be32(prefix.address, 0x40000000 + 4096 * i);
		insert(&prefix);
	}
	for (size_t i = 0; i < changes; i++) { /* towards none, few and many by turns */
		size_t towards = ELSEWHERE + (i / 200 % 3) * (i / 200 % 3) * 15;
		bool more = prefix_count < towards || (prefix_count == towards && towards > ELSEWHERE);
		struct wgf_prefix prefix = prefix_in_place(random, family);
		if (more || check_random_below(random, 4) == 0)
			insert(&prefix);
		else if (prefix_count > ELSEWHERE)
			remove_one(ELSEWHERE + check_random_below(random, prefix_count - ELSEWHERE));
		check_place(random, family);
		if (i % 100 == 0)
			check_listing();
	}
	while (prefix_count > 0)
		remove_one(prefix_count - 1);
	end();
}

static void test_random_changes(struct check_random *random)
{
	begin();
	size_t empty = wgf_allowedips_memory(table);
	wander(random, 30000 / LESS, 40000 / LESS);
	wander(random, 300, 30000 / LESS);
	wander(random, 8000 / LESS, 10000 / LESS);
	for (uint32_t owner = 0; owner < 3000; owner += 7)
		remove_owner(owner);
	check_listing();
	check_batch(random, 200);
	for (uint32_t owner = 0; owner < 3000; owner++)
		remove_owner(owner);
	CHECK(prefix_count == 0 && wgf_allowedips_count(table) == 0);
	check_batch(random, 100);
	CHECK(wgf_allowedips_memory(table) == empty);
	CHECK(wgf_epoch_collect(&epoch) == 0);
	end();
}

/* ---- Memory, and what lies under a default route ---- */

static void test_sizes(struct check_random *random)
{
	begin();
	size_t empty = wgf_allowedips_memory(table);
	struct wgf_prefix one = {.family = WGF_IPV6, .length = 128, .address = {0x20, 1}};
	CHECK(wgf_allowedips_insert(table, WGF_IPV6, one.address, 128, 0) == 0 && insert4(0x0a000001, 32, 0) == 0);
	CHECK(wgf_allowedips_memory(table) < 16384);
	for (uint32_t i = 0; i < 200; i++)
		CHECK(insert4(0x0a000000 + 256 * i, 24, i) == 0);
	CHECK(wgf_allowedips_memory(table) < 65536);
	for (uint32_t i = 0; i < 20000; i++)
		CHECK(insert4((uint32_t)check_random_below(random, 1u << 24) << 8, 24, i) == 0);
	size_t full = wgf_allowedips_memory(table);
	for (int i = 0; i < 300000 / LESS; i++) { /* what comes back is used again */
		uint32_t address = (uint32_t)check_random_below(random, 1u << 18) << 14;
		CHECK(insert4(address, 24, 9) == 0 && remove4(address, 24, 9) == 0);
	}
	CHECK(wgf_allowedips_memory(table) < full + full / 4);
	for (uint32_t i = 0; i < 20000; i++)
		wgf_allowedips_remove_owner(table, i);
	CHECK(wgf_allowedips_memory(table) == empty);
	end();
}

static void test_default_route(void)
{
	uint32_t owners[128], addresses[128];
	begin();
	for (uint32_t i = 0; i < 50000; i++)
		CHECK(insert4(0x0a000000 + 512 * i, 24, 1 + i % 100) == 0);
	for (uint32_t round = 0; round < 4; round++) {
		if (round % 2)
			CHECK(remove4(0, 0, 500 + round - 1) == 0);
		else
			CHECK(insert4(0, 0, 500 + round) == 0);
		for (uint32_t i = 0; i < 128; i++)
			addresses[i] = 0x0a000000 + 256 * i;
		wgf_allowedips_lookup4_many(table, addresses, 128, owners);
		for (uint32_t i = 0; i < 128; i++)
			CHECK(owners[i] == (i % 2 == 0 ? 1 + i / 2 % 100 : round % 2 ? WGF_OWNER_NONE : 500 + round));
	}
	end();
}

/* ---- What removing an owner costs ---- */

static uint64_t work_of_removal(uint32_t owner, size_t prefixes_of_it)
{
	uint64_t before = wgf_allowedips_work(table);
	CHECK(wgf_allowedips_remove_owner(table, owner) == prefixes_of_it);
	return wgf_allowedips_work(table) - before;
}

/* In proportion to its prefixes, whatever others there are. */
static void test_work_of_removals(void)
{
	begin();
	for (uint32_t i = 0; i < 50000; i++)
		CHECK(insert4(0x0a000000 + 256 * i, 24, i % 10 ? 1 : i < 1000 ? 2 : 3) == 0);
	uint64_t few = work_of_removal(2, 100), many = work_of_removal(3, 4900);
	CHECK(few > 0 && few < 100 * 256); /* a node's list has 127 at most, and is gone through to find and to build */
	CHECK(many > 25 * few && many < 100 * few);
	CHECK(work_of_removal(4, 0) == 0);
	CHECK(work_of_removal(1, 45000) < 45000 * 512 && wgf_allowedips_count(table) == 0);
	end();
	begin(); /* a large table that is not crowded anywhere, of which nothing or next to nothing is left */
	for (uint32_t left = 0; left < 20; left += 10) {
		for (uint32_t i = 0; i < 700; i++)
			CHECK(insert4(0x0a000000 + 0x20000 * i, 24, i < left ? 1 : 2) == 0);
		CHECK(work_of_removal(2, 700 - left) < 700 * 512 && wgf_allowedips_count(table) == left);
	}
	end();
}

/* Nearly all go: so does their memory, and the rest answers as before. */
static void test_few_are_left(struct check_random *random)
{
	begin();
	for (uint32_t i = 0; i < 20000; i++)
		CHECK(insert4(0x0a000000 + 256 * i, 24, i < 1000 ? 1 : 2) == 0);
	size_t full = wgf_allowedips_memory(table);
	CHECK(wgf_allowedips_remove_owner(table, 2) == 19000);
	CHECK(wgf_allowedips_memory(table) < full - 19000 * 20);
	for (uint32_t i = 0; i < 1000; i++) {
		uint32_t address = 0x0a000000 + (uint32_t)check_random_below(random, 1000 << 8), owner;
		wgf_allowedips_lookup4_many(table, &address, 1, &owner);
		CHECK(owner == 1);
	}
	for (uint32_t i = 10; i < 1000; i++)
		CHECK(remove4(0x0a000000 + 256 * i, 24, 1) == 0);
	CHECK(wgf_allowedips_memory(table) < 65536);
	struct wgf_prefix left[11];
	CHECK(wgf_allowedips_list(table, 1, left, 11) == 10);
	for (uint32_t i = 0; i < 10; i++)
		CHECK(left[i].length == 24 && left[i].address[2] == i && left[i].owner == 1);
	end();
}

int main(void)
{
	struct check_random random = check_random_begin("allowedips_large");
	test_sizes(&random);
	test_default_route();
	test_work_of_removals();
	test_few_are_left(&random);
	test_one_place(&random, WGF_IPV4, 3000 / LESS);
	test_one_place(&random, WGF_IPV6, 800 / LESS);
	test_random_changes(&random);
	return 0;
}
