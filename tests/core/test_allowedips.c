/* Allowed IPs against a plain list of prefixes, at its limits, and where memory ends. */
#include <errno.h>
#include <stdbool.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "allowedips_family.h"
#include "allowedips_table.h"
#include "bytes.h"

/* ---- The oracle: prefixes in a plain array ---- */

#define ORACLE_MAX 512

static struct wgf_prefix oracle[ORACLE_MAX];
static size_t oracle_count;

static unsigned width(unsigned family)
{
	return family == WGF_IPV4 ? 32 : 128;
}

static bool bit(const uint8_t *address, unsigned i)
{
	return address[i / 8] >> (7 - i % 8) & 1;
}

static bool oracle_covers(const struct wgf_prefix *prefix, unsigned family, const uint8_t *address)
{
	if (prefix->family != family)
		return false;
	for (unsigned i = 0; i < prefix->length; i++)
		if (bit(prefix->address, i) != bit(address, i))
			return false;
	return true;
}

static uint32_t oracle_lookup(unsigned family, const uint8_t *address)
{
	int best = -1;
	uint32_t owner = WGF_OWNER_NONE;
	for (size_t i = 0; i < oracle_count; i++)
		if (oracle[i].length > best && oracle_covers(&oracle[i], family, address)) {
			best = oracle[i].length;
			owner = oracle[i].owner;
		}
	return owner;
}

static struct wgf_prefix *oracle_find(const struct wgf_prefix *prefix)
{
	for (size_t i = 0; i < oracle_count; i++)
		if (oracle[i].length == prefix->length &&
		    oracle_covers(&oracle[i], prefix->family, prefix->address))
			return &oracle[i];
	return NULL;
}

static void oracle_insert(const struct wgf_prefix *prefix)
{
	struct wgf_prefix *there = oracle_find(prefix);
	if (there) {
		there->owner = prefix->owner;
		return;
	}
	struct wgf_prefix *added = &oracle[oracle_count++];
	*added = *prefix;
	for (unsigned i = prefix->length; i < 128; i++)
		added->address[i / 8] &= (uint8_t)~(0x80u >> i % 8);
}

static int oracle_remove(const struct wgf_prefix *prefix, uint32_t owner)
{
	struct wgf_prefix *there = oracle_find(prefix);
	if (!there || (owner != WGF_OWNER_NONE && there->owner != owner))
		return -ENOENT;
	*there = oracle[--oracle_count];
	return 0;
}

static size_t oracle_remove_owner(uint32_t owner)
{
	size_t before = oracle_count;
	for (size_t i = oracle_count; i-- > 0;)
		if (oracle[i].owner == owner)
			oracle[i] = oracle[--oracle_count];
	return before - oracle_count;
}

static int oracle_order(const void *left, const void *right)
{
	const struct wgf_prefix *a = left, *b = right;
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	int order = memcmp(a->address, b->address, 16);
	return order ? order : (int)a->length - (int)b->length;
}

/* ---- Random changes ---- */

static int insert_prefix(const struct wgf_prefix *prefix)
{
	return wgf_allowedips_insert(table, prefix->family, prefix->address, prefix->length,
				     prefix->owner);
}

/* Addresses of few different bits, so that prefixes nest, part and meet again. */
static void random_address(struct check_random *random, uint8_t address[16])
{
	check_random_fill(random, address, 16);
	uint8_t mask = check_random_below(random, 2) ? 0x81 : 0x18;
	for (int i = 0; i < 16; i++)
		address[i] &= mask;
	if (check_random_below(random, 4) == 0)
		memset(address + 2, 0, 14);
}

static struct wgf_prefix random_prefix(struct check_random *random)
{
	struct wgf_prefix prefix = {.family = check_random_below(random, 2) ? WGF_IPV4 : WGF_IPV6};
	random_address(random, prefix.address);
	prefix.length = (uint8_t)check_random_below(random, width(prefix.family) + 1);
	if (check_random_below(random, 4) == 0) /* the ends and the word's middle more often */
		prefix.length = (uint8_t)(prefix.length / 32 * 32);
	prefix.owner = (uint32_t)check_random_below(random, 12);
	return prefix;
}

static void check_lookups(struct check_random *random, size_t n)
{
	struct wgf_reader reader;
	wgf_epoch_join(&epoch, &reader);
	wgf_epoch_enter(&epoch, &reader);
	for (size_t i = 0; i < n; i++) {
		uint8_t address[16];
		random_address(random, address);
		if (oracle_count && check_random_below(random, 2)) /* somewhere at a prefix's edge */
			memcpy(address, oracle[check_random_below(random, oracle_count)].address, 16);
		if (check_random_below(random, 2))
			address[check_random_below(random, 16)] ^=
				(uint8_t)(1u << check_random_below(random, 8));
		CHECK(wgf_allowedips_lookup4(table, address) == oracle_lookup(WGF_IPV4, address));
		CHECK(wgf_allowedips_lookup6(table, address) == oracle_lookup(WGF_IPV6, address));
	}
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&epoch, &reader);
}

static void check_many(struct check_random *random)
{
	uint32_t addresses4[50], owners4[50], owners6[50];
	uint8_t addresses6[50 * 16];
	for (size_t i = 0; i < 50; i++) {
		random_address(random, addresses6 + 16 * i);
		const uint8_t *p = addresses6 + 16 * i;
		addresses4[i] = (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
	}
	wgf_allowedips_lookup4_many(table, addresses4, 50, owners4);
	wgf_allowedips_lookup6_many(table, addresses6, 50, owners6);
	for (size_t i = 0; i < 50; i++) {
		CHECK(owners4[i] == oracle_lookup(WGF_IPV4, addresses6 + 16 * i));
		CHECK(owners6[i] == oracle_lookup(WGF_IPV6, addresses6 + 16 * i));
	}
}

static void check_list(uint32_t owner)
{
	static struct wgf_prefix listed[ORACLE_MAX], expected[ORACLE_MAX];
	size_t n = 0;
	for (size_t i = 0; i < oracle_count; i++)
		if (owner == WGF_OWNER_NONE || oracle[i].owner == owner)
			expected[n++] = oracle[i];
	qsort(expected, n, sizeof(expected[0]), oracle_order);
	CHECK(wgf_allowedips_list(table, owner, NULL, 0) == n);
	for (size_t max = n / 2;; max = ORACLE_MAX) {
		memset(listed, 0xff, sizeof(listed));
		CHECK(wgf_allowedips_list(table, owner, listed, max) == n);
		for (size_t i = 0; i < n && i < max; i++)
			CHECK(oracle_order(&listed[i], &expected[i]) == 0 &&
			      listed[i].owner == expected[i].owner);
		CHECK(max >= ORACLE_MAX || listed[max].length == 0xff); /* no more than asked for */
		if (max == ORACLE_MAX)
			break;
	}
}

static void change(struct check_random *random)
{
	struct wgf_prefix prefix = random_prefix(random);
	size_t kind = check_random_below(random, 100);
	if (kind < 55 && oracle_count < ORACLE_MAX) {
		oracle_insert(&prefix);
		CHECK(insert_prefix(&prefix) == 0);
		return;
	}
	if (kind == 99) {
		uint32_t owner = (uint32_t)check_random_below(random, 20);
		CHECK(wgf_allowedips_remove_owner(table, owner) == oracle_remove_owner(owner));
		return;
	}
	uint32_t owner = WGF_OWNER_NONE;
	if (oracle_count && kind < 95)
		prefix = oracle[check_random_below(random, oracle_count)];
	if (kind % 2)
		owner = kind % 4 == 1 ? prefix.owner : 5;
	int expected = oracle_remove(&prefix, owner);
	CHECK(wgf_allowedips_remove(table, prefix.family, prefix.address, prefix.length, owner) ==
	      expected);
}

static void test_random_changes(struct check_random *random)
{
	begin();
	oracle_count = 0;
	for (int i = 0; i < 6000; i++) {
		change(random);
		CHECK(wgf_allowedips_count(table) == oracle_count);
		check_lookups(random, 5);
		if (i % 50 == 0) {
			check_list(WGF_OWNER_NONE);
			check_list((uint32_t)check_random_below(random, 14));
			check_many(random);
			CHECK(wgf_epoch_collect(&epoch) == 0);
		}
	}
	for (uint32_t owner = 0; owner < 12; owner++)
		CHECK(wgf_allowedips_remove_owner(table, owner) == oracle_remove_owner(owner));
	CHECK(wgf_allowedips_count(table) == 0);
	check_lookups(random, 10);
	end();
}

/* ---- Few prefixes (few.h) ---- */

#define BATCH_MOST 1300u

/* Nothing behind the batch is touched. */
static void check_batch(struct check_random *random, size_t n)
{
	static uint32_t addresses4[BATCH_MOST], owners4[BATCH_MOST + 1], owners6[BATCH_MOST + 1];
	static uint8_t addresses6[BATCH_MOST][16];
	for (size_t i = 0; i < n; i++) {
		random_address(random, addresses6[i]);
		if (oracle_count && check_random_below(random, 2))
			memcpy(addresses6[i], oracle[check_random_below(random, oracle_count)].address, 16);
		if (check_random_below(random, 4) == 0)
			addresses6[i][check_random_below(random, 16)] ^= (uint8_t)(1u << check_random_below(random, 8));
		addresses4[i] = wgf_load_be32(addresses6[i]);
	}
	owners4[n] = owners6[n] = 77;
	wgf_allowedips_lookup4_many(table, addresses4, n, owners4);
	wgf_allowedips_lookup6_many(table, addresses6[0], n, owners6);
	for (size_t i = 0; i < n; i++) {
		CHECK(owners4[i] == oracle_lookup(WGF_IPV4, addresses6[i]));
		CHECK(owners6[i] == oracle_lookup(WGF_IPV6, addresses6[i]));
	}
	CHECK(owners4[n] == 77 && owners6[n] == 77);
}

/* What is few is kept apart, and nothing else. */
static void check_kept(void)
{
	size_t count4 = 0, count6;
	for (size_t i = 0; i < oracle_count; i++)
		count4 += oracle[i].family == WGF_IPV4;
	count6 = oracle_count - count4;
	CHECK((few_of(&table->ipv4) != NULL) == (count4 > 0 && count4 <= WGF_FEW4));
	CHECK((few_of(&table->ipv6) != NULL) == (count6 > 0 && count6 <= WGF_FEW6));
}

/* So many as are compared one by one, one more, one less, and none, by turns; batches of every size, also of just as many
 * as are looked up at once. */
static void test_few(struct check_random *random)
{
	size_t wanted = 0;
	begin();
	oracle_count = 0;
	for (int i = 0; i < 6000; i++) {
		struct wgf_prefix prefix = random_prefix(random);
		if (i % 40 == 0)
			wanted = check_random_below(random, 2 * (WGF_FEW4 + WGF_FEW6));
		if (oracle_count && check_random_below(random, 3) == 0) { /* a move, to the same owner at times */
			prefix = oracle[check_random_below(random, oracle_count)];
			prefix.owner = (uint32_t)check_random_below(random, 12);
		} else if (oracle_count > wanted) {
			prefix = oracle[check_random_below(random, oracle_count)];
			CHECK(wgf_allowedips_remove(table, prefix.family, prefix.address, prefix.length, prefix.owner) == 0);
			CHECK(oracle_remove(&prefix, prefix.owner) == 0);
			prefix.length = 255;
		}
		if (prefix.length != 255) {
			oracle_insert(&prefix);
			CHECK(insert_prefix(&prefix) == 0);
		}
		check_batch(random, i % 50 ? check_random_below(random, 40) : 500 + check_random_below(random, BATCH_MOST - 500));
		check_kept();
		CHECK(atomic_load(&epoch.waiting) < 100);
	}
	for (size_t n = 505; n < 520; n++)
		check_batch(random, n);
	for (uint32_t owner = 0; owner < 12; owner++)
		CHECK(wgf_allowedips_remove_owner(table, owner) == oracle_remove_owner(owner));
	check_batch(random, 40);
	check_kept();
	end();
}

/* A table of which nobody but its changer takes care gives back what changes leave, too. */
static void test_nothing_piles_up(void)
{
	begin();
	for (uint32_t i = 0; i < 10000; i++) {
		CHECK(insert4(0, 0, i % 2) == 0);
		CHECK(atomic_load(&epoch.waiting) < 100);
	}
	for (uint32_t i = 0; i < 10000; i++) {
		CHECK(remove4(0, 0, 1) == (i ? -ENOENT : 0));
		CHECK(insert4(0x0a000000, 32, 2) == 0 && wgf_allowedips_remove_owner(table, 2) == 1);
		CHECK(atomic_load(&epoch.waiting) < 100);
	}
	end();
}

static void test_limits(void)
{
	uint8_t address[16] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
			       0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
	begin();
	CHECK(wgf_allowedips_insert(table, WGF_IPV4, address, 33, 0) == -EINVAL);
	CHECK(wgf_allowedips_insert(table, WGF_IPV6, address, 129, 0) == -EINVAL);
	CHECK(wgf_allowedips_insert(table, (enum wgf_family)5, address, 1, 0) == -EINVAL);
	CHECK(wgf_allowedips_insert(table, WGF_IPV4, address, 32, WGF_OWNER_NONE) == -EINVAL);
	CHECK(wgf_allowedips_insert(table, WGF_IPV4, address, 32, WGF_OWNER_MAX + 1) == -EINVAL);
	CHECK(wgf_allowedips_remove(table, WGF_IPV4, address, 33, 0) == -EINVAL);
	CHECK(wgf_allowedips_remove(table, WGF_IPV4, address, 32, WGF_OWNER_MAX + 1) == -EINVAL);
	CHECK(wgf_allowedips_remove(table, WGF_IPV4, address, 32, 0) == -ENOENT);
	CHECK(wgf_allowedips_remove_owner(table, WGF_OWNER_NONE) == 0);
	CHECK(wgf_allowedips_remove_owner(table, WGF_OWNER_MAX) == 0);
	CHECK(wgf_allowedips_count(table) == 0);

	CHECK(wgf_allowedips_insert(table, WGF_IPV6, address, 128, WGF_OWNER_MAX) == 0);
	CHECK(wgf_allowedips_insert(table, WGF_IPV6, address, 0, 3) == 0);
	CHECK(wgf_allowedips_insert(table, WGF_IPV4, address, 0, 4) == 0);
	CHECK(wgf_allowedips_lookup6(table, address) == WGF_OWNER_MAX);
	address[15] = 0xfe;
	CHECK(wgf_allowedips_lookup6(table, address) == 3);
	CHECK(wgf_allowedips_lookup4(table, address) == 4);
	CHECK(wgf_allowedips_remove_owner(table, WGF_OWNER_MAX) == 1);
	struct wgf_prefix all[2];
	CHECK(wgf_allowedips_list(table, WGF_OWNER_NONE, all, 2) == 2);
	CHECK(all[0].family == WGF_IPV4 && all[0].length == 0 && all[0].owner == 4);
	CHECK(all[1].family == WGF_IPV6 && all[1].address[0] == 0 && all[1].owner == 3);
	end(); /* with prefixes in it: the leak check watches */
}

/* ---- Memory runs out: what was refused left no trace ---- */

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
static void test_out_of_memory(void) /* sanitizers reserve more address space than any limit allows */
{
}
#else
static void fill_until_refused(void)
{
	struct rlimit limit = {.rlim_cur = 64 << 20, .rlim_max = 64 << 20};
	uint32_t n = 0, value;
	int error;
	begin();
	CHECK(setrlimit(RLIMIT_AS, &limit) == 0);
	/* Owners grow with the prefixes, so that now the lists, now a node, now a fork is refused. */
	do {
		value = n * 2654435761u;
		error = insert4(value, 32, n % WGF_PEERS_MAX);
		n += error == 0;
	} while (error == 0);
	CHECK((error == -ENOMEM || error == -ENOSPC) && n > 1000);
	for (int i = 0; i < 100; i++) { /* refused in every way there is while memory is this short */
		error = insert4(value ^ 1u << i % 32, 32 - (unsigned)i % 7, (uint32_t)i);
		CHECK(error == 0 || error == -ENOMEM || error == -ENOSPC);
		if (error == 0)
			CHECK(remove4(value ^ 1u << i % 32, 32 - (unsigned)i % 7, (uint32_t)i) == 0);
	}
	CHECK(wgf_allowedips_count(table) == n);
	CHECK(wgf_allowedips_lookup4(table, ip4(value)) == WGF_OWNER_NONE);
	for (uint32_t i = 0; i < n; i++)
		CHECK(wgf_allowedips_lookup4(table, ip4(i * 2654435761u)) == i % WGF_PEERS_MAX);
	for (uint32_t i = 0; i < n; i++)
		CHECK(remove4(i * 2654435761u, 32, i % WGF_PEERS_MAX) == 0);
	CHECK(wgf_allowedips_count(table) == 0);
	end();
}

static void test_out_of_memory(void)
{
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		fill_until_refused();
		exit(0);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}
#endif

int main(void)
{
	struct check_random random = check_random_begin("allowedips");
	test_limits();
	test_out_of_memory();
	test_random_changes(&random);
	test_few(&random);
	test_nothing_piles_up();
	return 0;
}
