/* Every kernel for IPv4 lookups that this processor can run, not only the one it would choose, against a plain list of
 * prefixes: crowded and lonely ones, longer than 24 bits, with a default route and without, in a large trie and in a small
 * one, any number of addresses at once, and both ways to look up, for what decides between them is only a hint. */
#include <string.h>

#include "check.h"
#include "trie_lookup6.h"

#define PREFIXES 300u
#define MOST 200u /* addresses at once */

static struct wgf_epoch epoch;
static struct wgf_prefixes prefixes;
static struct wgf_trie *trie;
static struct {
	uint32_t address, length, owner;
} oracle[PREFIXES];
static size_t count;

static uint32_t mask(uint32_t length)
{
	return length ? UINT32_MAX << (32 - length) : 0;
}

static uint32_t oracle_lookup(uint32_t address)
{
	uint32_t owner = WGF_OWNER_NONE, beyond = 0; /* one more than the longest so far */
	for (size_t i = 0; i < count; i++)
		if (oracle[i].length >= beyond && ((address ^ oracle[i].address) & mask(oracle[i].length)) == 0) {
			owner = oracle[i].owner;
			beyond = oracle[i].length + 1;
		}
	return owner;
}

static void insert(uint32_t address, uint32_t length, uint32_t owner)
{
	struct wgf_key key = wgf_key_masked((struct wgf_key){(uint64_t)address << 32, 0}, length);
	if (count == PREFIXES || wgf_trie_find(trie, key, length))
		return;
	uint32_t number = wgf_prefixes_add(&prefixes, key, length, owner);
	CHECK(number && wgf_trie_insert(trie, number) == 0);
	oracle[count].address = (uint32_t)(key.high >> 32);
	oracle[count].length = length;
	oracle[count++].owner = owner;
}

static uint32_t some_address(struct check_random *random)
{
	uint32_t address;
	check_random_fill(random, (uint8_t *)&address, sizeof(address));
	switch (check_random_below(random, 4)) {
	case 0: /* so few that nodes have all of their slots filled, and more nodes below */
		return 0x0a000000 | (address & 0x00004fff);
	case 1:
		return 0x0a000000 | (address & 0x0300c0c3);
	default:
		return address;
	}
}

static const uint8_t lengths[] = {1, 8, 12, 17, 18, 19, 20, 22, 23, 24, 24, 24, 24, 25, 26, 28, 30, 31, 32, 32};
/* Where in them prefixes begin: longer ones leave nodes slots in which there is nothing, without a default route. */
enum { ALL = 0, OF_NODES = 3, DEEP = 13 };

static void fill(struct check_random *random, size_t n, size_t shortest)
{
	static const uint32_t owners[] = {1, 2, 12, 100000, WGF_OWNER_MAX};
	if (shortest == ALL)
		insert(0, 0, 7);
	for (size_t tries = 0; tries < 4 * n && count < n; tries++)
		insert(some_address(random), lengths[shortest + check_random_below(random, sizeof(lengths) - shortest)],
		       owners[check_random_below(random, 5)]);
}

typedef void lookup(const struct wgf_trie *, const uint32_t *, size_t, uint32_t *);

static void check(lookup *kernel, const uint32_t *addresses, const uint32_t *expected, size_t n)
{
	uint32_t owners[MOST + 1];
	memset(owners, 0xa5, sizeof(owners));
	kernel(trie, addresses, n, owners);
	CHECK(memcmp(owners, expected, n * sizeof(*owners)) == 0);
	CHECK(owners[n] == 0xa5a5a5a5); /* nor anything behind */
}

static void check_kernels(const uint32_t *addresses, const uint32_t *expected, size_t n)
{
	check(wgf_trie_lookup4, addresses, expected, n);
	check(lookup4, addresses, expected, n);
#if defined(__x86_64__)
	if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
		check(wgf_trie_lookup4_bmi, addresses, expected, n);
	if (wgf_trie_has_avx2() && trie->bits == WGF_BITS_LARGE)
		check(wgf_trie_lookup4_avx2, addresses, expected, n);
	if (wgf_trie_has_avx512() && trie->bits == WGF_BITS_LARGE) {
		check(wgf_trie_lookup4_avx512, addresses, expected, n);
		check(wgf_trie_lookup4_intel, addresses, expected, n);
	}
#endif
}

static void check_lookups(struct check_random *random, size_t shortest)
{
	uint32_t addresses[MOST + 1], expected[MOST];
	size_t nobody = 0;
	for (size_t n = 0; n <= MOST; n++) {
		size_t near = check_random_below(random, 3); /* none, some or all are in a prefix */
		size_t crowd = check_random_below(random, 2) ? n : check_random_below(random, 8); /* or most where few are */
		uint32_t *from = addresses + check_random_below(random, 2); /* also where vectors are not aligned */
		for (size_t i = 0; i < n; i++) {
			from[i] = some_address(random);
			if (check_random_below(random, n) >= crowd)
				from[i] = from[i] >> 8 | 0xf0000000;
			else if (count && check_random_below(random, 2) < near) {
				size_t which = check_random_below(random, count);
				from[i] = oracle[which].address | (from[i] & ~mask(oracle[which].length));
			}
			expected[i] = oracle_lookup(from[i]);
			nobody += expected[i] == WGF_OWNER_NONE;
		}
		for (int dense = 0; dense < 2; dense++) {
			atomic_store(&trie->dense, dense);
			check_kernels(from, expected, n);
		}
	}
	CHECK((nobody == 0) == (shortest == ALL));
}

static void test_kernels(struct check_random *random, unsigned bits, size_t n, size_t shortest)
{
	CHECK(wgf_epoch_init(&epoch) == 0);
	wgf_prefixes_init(&prefixes, 1);
	trie = wgf_trie_create(&epoch, &prefixes, bits, bits == WGF_BITS_SMALL ? 8192 : 0);
	CHECK(trie);
	count = 0;
	fill(random, n, shortest);
	check_lookups(random, shortest);
	wgf_trie_destroy(trie);
	wgf_prefixes_destroy(&prefixes);
	wgf_epoch_destroy(&epoch);
}

int main(void)
{
	static const size_t shortest[] = {ALL, OF_NODES, DEEP}, sizes[] = {0, 1, 20, PREFIXES, PREFIXES, PREFIXES, PREFIXES};
	struct check_random random = check_random_begin("trie_lookups");
	for (size_t i = 0; i < sizeof(shortest) / sizeof(shortest[0]); i++)
		for (size_t k = 0; k < sizeof(sizes) / sizeof(sizes[0]); k++) {
			test_kernels(&random, WGF_BITS_LARGE, sizes[k], shortest[i]);
			test_kernels(&random, WGF_BITS_SMALL, sizes[k], shortest[i]);
		}
	return 0;
}
