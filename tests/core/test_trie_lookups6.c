/* Every kernel for IPv6 lookups that this processor can run, against a plain list of prefixes compared bit by bit: of every
 * length, nested deeply, side by side below one node, under a default route and not, some of them taken out again, in a
 * large trie and in a small one, any number of addresses at once; and for each length what one wrong bit does. */
#include "check.h"
#include "trie_lookup6.h"

#define PREFIXES 400u
#define MOST 200u /* addresses at once */

static struct wgf_epoch epoch;
static struct wgf_prefixes prefixes;
static struct wgf_trie *trie;
static struct entry {
	uint8_t address[16];
	unsigned length;
	uint32_t owner;
} oracle[PREFIXES];
static size_t count;

static bool begins_with(const uint8_t address[16], const struct entry *entry)
{
	for (unsigned bit = 0; bit < entry->length; bit++)
		if ((address[bit / 8] ^ entry->address[bit / 8]) >> (7 - bit % 8) & 1)
			return false;
	return true;
}

static uint32_t oracle_lookup(const uint8_t address[16])
{
	const struct entry *longest = NULL;
	for (const struct entry *entry = oracle; entry < oracle + count; entry++)
		if ((!longest || entry->length > longest->length) && begins_with(address, entry))
			longest = entry;
	return longest ? longest->owner : WGF_OWNER_NONE;
}

static struct wgf_key key_of(const uint8_t address[16], unsigned length)
{
	return wgf_key_masked((struct wgf_key){wgf_load_be64(address), wgf_load_be64(address + 8)}, length);
}

static void insert(const uint8_t address[16], unsigned length, uint32_t owner)
{
	struct wgf_key key = key_of(address, length);
	if (count == PREFIXES || wgf_trie_find(trie, key, length))
		return;
	uint32_t number = wgf_prefixes_add(&prefixes, key, length, owner);
	CHECK(number && wgf_trie_insert(trie, number) == 0);
	struct entry *entry = &oracle[count++];
	wgf_store_be64(entry->address, key.high);
	wgf_store_be64(entry->address + 8, key.low);
	entry->length = length;
	entry->owner = owner;
}

static void remove_entry(struct entry *entry)
{
	uint32_t number = wgf_trie_find(trie, key_of(entry->address, entry->length), entry->length);
	CHECK(number && wgf_trie_remove(trie, number) == 0);
	wgf_prefixes_remove(&prefixes, number);
	*entry = oracle[--count];
}

static void remove_some(struct check_random *random)
{
	for (size_t n = count / 4; n > 0; n--)
		remove_entry(&oracle[check_random_below(random, count)]);
}

/* In a prefix, but for the bits behind some length that is at least its own: so prefixes nest, and addresses leave what they
 * are in at any depth. */
static void some_address(struct check_random *random, uint8_t address[16])
{
	check_random_fill(random, address, 16);
	address[0] = 0x20;
	address[1] = check_random_below(random, 2) ? address[1] : 1;
	if (!count || check_random_below(random, 4) == 0)
		return;
	const struct entry *near = &oracle[check_random_below(random, count)];
	size_t kept = near->length + check_random_below(random, 129 - near->length);
	kept -= check_random_below(random, 2) ? check_random_below(random, kept + 1) / 4 : 0;
	for (size_t bit = 0; bit < kept; bit++) {
		uint8_t mask = (uint8_t)(0x80 >> bit % 8);
		address[bit / 8] = (uint8_t)((address[bit / 8] & ~mask) | (near->address[bit / 8] & mask));
	}
}

static void fill(struct check_random *random, size_t n, bool covered)
{
	static const uint32_t owners[] = {1, 2, 12, 100000, WGF_OWNER_MAX};
	uint8_t address[16] = {0};
	unsigned shortest = covered ? 1 : 20; /* that nodes have slots in which there is nothing */
	if (covered)
		insert(address, 0, 7);
	for (size_t tries = 0; tries < 4 * n && count < n; tries++) {
		unsigned length = shortest + (unsigned)check_random_below(random, 129 - shortest);
		some_address(random, address);
		insert(address, check_random_below(random, 3) ? length : (length + 7) / 8 * 8, owners[check_random_below(random, 5)]);
	}
}

typedef void lookup(const struct wgf_trie *, const uint8_t *, size_t, uint32_t *);

static void check(lookup *kernel, const uint8_t *addresses, const uint32_t *expected, size_t n)
{
	uint32_t owners[MOST + 1];
	memset(owners, 0xa5, sizeof(owners));
	kernel(trie, addresses, n, owners);
	CHECK(memcmp(owners, expected, n * sizeof(*owners)) == 0);
	CHECK(owners[n] == 0xa5a5a5a5); /* nor anything behind */
}

static void check_kernels(const uint8_t *addresses, const uint32_t *expected, size_t n)
{
	check(wgf_trie_lookup6, addresses, expected, n);
	check(lookup6, addresses, expected, n);
#if defined(__x86_64__)
	if (__builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2"))
		check(wgf_trie_lookup6_bmi, addresses, expected, n);
	if (wgf_trie_has_avx2() && trie->bits == WGF_BITS_LARGE)
		check(wgf_trie_lookup6_avx2, addresses, expected, n);
	if (wgf_trie_has_vbmi2() && trie->bits == WGF_BITS_LARGE)
		check(wgf_trie_lookup6_avx512, addresses, expected, n);
#endif
}

static void check_lookups(struct check_random *random, bool covered)
{
	static uint8_t addresses[16 * MOST + 1];
	uint32_t expected[MOST];
	size_t nobody = 0;
	for (size_t n = 0; n <= MOST; n += n < 70 ? 1 : 13) {
		uint8_t *from = addresses + check_random_below(random, 2); /* also where vectors are not aligned */
		for (size_t i = 0; i < n; i++) {
			some_address(random, from + 16 * i);
			expected[i] = oracle_lookup(from + 16 * i);
			nobody += expected[i] == WGF_OWNER_NONE;
		}
		check_kernels(from, expected, n);
	}
	CHECK(covered || nobody > 0);
}

/* units: the room of a small one. */
static void begin(unsigned bits, uint32_t units)
{
	CHECK(wgf_epoch_init(&epoch) == 0);
	wgf_prefixes_init(&prefixes, 4);
	trie = wgf_trie_create(&epoch, &prefixes, bits, units);
	CHECK(trie);
	count = 0;
}

static void end(void)
{
	wgf_trie_destroy(trie);
	wgf_prefixes_destroy(&prefixes);
	wgf_epoch_destroy(&epoch);
}

static void test_kernels(struct check_random *random, unsigned bits, size_t n, bool covered)
{
	begin(bits, bits == WGF_BITS_SMALL ? 8192 : 0);
	fill(random, n, covered);
	check_lookups(random, covered);
	remove_some(random);
	check_lookups(random, covered);
	end();
}

static void flip(uint8_t address[16], unsigned bit)
{
	address[bit / 8] ^= (uint8_t)(0x80 >> bit % 8);
}

/* An address, and all that differ from it in one bit. */
static void check_around(const uint8_t address[16])
{
	uint8_t addresses[16 * 129];
	uint32_t expected[129];
	for (unsigned i = 0; i < 129; i++) {
		memcpy(addresses + 16 * i, address, 16);
		if (i < 128)
			flip(addresses + 16 * i, i);
		expected[i] = oracle_lookup(addresses + 16 * i);
	}
	check_kernels(addresses, expected, 129);
}

/* A leaf of each length by itself, then a node of two prefixes that differ in their last bit: of each depth. */
static void test_one_bit(struct check_random *random, unsigned bits)
{
	uint8_t address[16];
	begin(bits, bits == WGF_BITS_SMALL ? 2048 : 0);
	for (unsigned length = 1; length <= 128; length++) {
		check_random_fill(random, address, 16);
		insert(address, length, 1);
		check_around(address);
		flip(address, length - 1);
		insert(address, length, 2);
		check_around(address);
		while (count)
			remove_entry(oracle);
	}
	end();
}

static bool count_record(void *context, uint32_t number)
{
	(void)number;
	++*(size_t *)context;
	return true;
}

/* All of a batch, so that every kernel looks. */
static void check_leaf(const uint8_t address[16], uint32_t owner)
{
	uint8_t addresses[16 * WGF_LOOKUP_BATCH];
	uint32_t expected[WGF_LOOKUP_BATCH];
	for (size_t i = 0; i < WGF_LOOKUP_BATCH; i++) {
		memcpy(addresses + 16 * i, address, 16);
		expected[i] = owner;
	}
	check_kernels(addresses, expected, WGF_LOOKUP_BATCH);
}

/* Removals may use the memory to its last byte, and there they put leaves: nothing reads behind them. */
static void test_last_leaf(void)
{
	uint8_t address[16] = {0x20, 1};
	uint32_t pairs = 0, number = 1;
	begin(WGF_BITS_SMALL, 2048);
	for (; number; pairs++) { /* in one node each, until the memory is used up */
		wgf_store_be32(address + 10, pairs);
		for (unsigned length = 122; length <= 124 && number; length += 2) {
			number = wgf_prefixes_add(&prefixes, key_of(address, length), length, pairs);
			if (number && wgf_trie_insert(trie, number)) {
				wgf_prefixes_remove(&prefixes, number);
				number = 0;
			}
		}
	}
	CHECK(pairs > 100);
	for (uint32_t i = 0; i + 1 < pairs; i++) {
		size_t left = 0, before = prefixes.count;
		wgf_store_be32(address + 10, i);
		number = wgf_trie_find(trie, key_of(address, 124), 124);
		if (!number || wgf_trie_remove(trie, number))
			break; /* what is kept is used up */
		wgf_prefixes_remove(&prefixes, number);
		wgf_trie_walk(trie, count_record, &left);
		CHECK(left == before - 1);
		check_leaf(address, i);
	}
	CHECK(trie->pool->used == trie->pool->size);
	end();
}

int main(void)
{
	static const size_t sizes[] = {0, 1, 20, PREFIXES, PREFIXES};
	struct check_random random = check_random_begin("trie_lookups6");
	test_last_leaf();
	test_one_bit(&random, WGF_BITS_LARGE);
	test_one_bit(&random, WGF_BITS_SMALL);
	for (int covered = 0; covered < 2; covered++)
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			test_kernels(&random, WGF_BITS_LARGE, sizes[i], covered);
			test_kernels(&random, WGF_BITS_SMALL, sizes[i], covered);
		}
	return 0;
}
