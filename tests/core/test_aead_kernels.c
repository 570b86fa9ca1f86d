/* Every usable AEAD kernel against the portable one, byte by byte: all lengths to 2100 at all
 * alignments, long packets and mixed batches in place and apart, Poly1305 at its carries, and block
 * counters far from zero. What tests/core/test_aead.c asks with guard pages is not repeated here.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_aead_kernels.c wgfast/core/{aead*,poly1305,selftest,
 * blake2s,xchacha}.c -pthread */
#include "aead.h"
#include "check.h"

#define JOBS 70u /* more than a kernel takes at once */
#define LONGEST ((size_t)70000)
#define ROOM (LONGEST + WGF_TAG_SIZE + 64 + 64)
#define STRAY 0x5a

static uint8_t *texts[JOBS], *expected[JOBS], *places[JOBS];
static uint8_t keys[JOBS][WGF_KEY_SIZE], ads[JOBS][64];
static struct wgf_aead_job jobs[JOBS];
static size_t offsets[JOBS];

/* Seals the jobs' texts with the portable kernel into `expected`, then with this one into `places`, at
 * offsets[i] there; in place where the number is odd. Then opens all, the other way about, some tampered
 * with. Nothing beside the output may change. */
static void compare(const struct wgf_aead_kernel *kernel, size_t n, struct check_random *random)
{
	bool tampered[JOBS];

	for (size_t i = 0; i < n; i++) {
		jobs[i].src = texts[i];
		jobs[i].dst = expected[i];
	}
	wgf_aead_portable.seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		uint8_t *place = places[i] + offsets[i];
		memset(places[i], STRAY, offsets[i]);
		memset(place + jobs[i].len + WGF_TAG_SIZE, STRAY, 64);
		if (i % 2 == 1)
			memcpy(place, texts[i], jobs[i].len);
		jobs[i].src = i % 2 == 1 ? place : texts[i];
		jobs[i].dst = place;
	}
	kernel->seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		uint8_t *place = places[i] + offsets[i];
		const size_t sealed = jobs[i].len + WGF_TAG_SIZE;
		CHECK(memcmp(place, expected[i], sealed) == 0);
		for (size_t k = 0; k < offsets[i]; k++)
			CHECK(places[i][k] == STRAY);
		for (size_t k = 0; k < 64; k++)
			CHECK(place[sealed + k] == STRAY);
		tampered[i] = check_random_below(random, 4) == 0;
		if (tampered[i])
			place[check_random_below(random, sealed)] ^= (uint8_t)(1 << check_random_below(random, 8));
		jobs[i].src = place;
		jobs[i].dst = i % 2 == 0 ? place : expected[i];
		jobs[i].ok = tampered[i];
	}
	kernel->open(jobs, n);
	for (size_t i = 0; i < n; i++) {
		CHECK(jobs[i].ok == !tampered[i]);
		for (size_t k = 0; tampered[i] && k < jobs[i].len; k++)
			CHECK(jobs[i].dst[k] == 0);
		CHECK(tampered[i] || memcmp(jobs[i].dst, texts[i], jobs[i].len) == 0);
	}
}

static void deal(size_t i, size_t len, size_t ad_len, struct check_random *random)
{
	check_random_fill(random, keys[i], WGF_KEY_SIZE);
	check_random_fill(random, ads[i], ad_len);
	jobs[i] = (struct wgf_aead_job){.key = keys[i], .counter = check_random_next(random), .ad = ads[i],
					.ad_len = ad_len, .len = len};
	offsets[i] = check_random_below(random, 64);
}

/* Batches of 64 neighbouring lengths, one key; each at another alignment of source and destination. */
static void test_lengths(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	for (size_t len = 0; len <= 2100; len += 64) {
		for (size_t i = 0; i < 64; i++) {
			deal(i, len + i, 0, random);
			jobs[i].key = keys[0];
			offsets[i] = i;
		}
		compare(kernel, 64, random);
	}
	for (size_t len = 0; len <= 1500; len += 11)
		for (size_t n = 1; n <= 3; n++) {
			for (size_t i = 0; i < n; i++)
				deal(i, len, len % 3 * 7, random);
			compare(kernel, n, random);
		}
}

/* Every alignment with every other. */
static void test_alignments(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static const size_t lengths[] = {1, 63, 64, 257, 600};
	for (size_t k = 0; k < sizeof(lengths) / sizeof(lengths[0]); k++)
		for (size_t from = 0; from < 64; from++) {
			for (size_t i = 0; i < 64; i++) {
				deal(i, lengths[k], 0, random);
				texts[i] += from;
				offsets[i] = i;
			}
			compare(kernel, 64, random);
			for (size_t i = 0; i < 64; i++)
				texts[i] -= from;
		}
}

/* The mixes of bench/aead.py, uniformly random ones, and long packets between short ones. */
static void test_batches(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static const size_t imix[] = {64, 64, 594, 64, 64, 594, 64, 1420, 594, 64, 594, 64};
	for (size_t round = 0; round < 60; round++) {
		const size_t n = 1 + check_random_below(random, JOBS);
		for (size_t i = 0; i < n; i++) {
			size_t len = check_random_below(random, 2101), ad_len = 0;
			if (round % 6 == 0)
				len = imix[i % 12];
			else if (round % 6 == 1)
				len = i % 2 == 0 ? 1420 : 64;
			else if (round % 6 == 2)
				len = check_random_below(random, 8) == 0 ? check_random_below(random, LONGEST + 1) : len / 8;
			else if (round % 6 == 3)
				len = check_random_below(random, 12000);
			else if (round % 6 == 4)
				ad_len = check_random_below(random, 65);
			deal(i, len, ad_len, random);
			if (round % 2 == 0)
				jobs[i].key = keys[check_random_below(random, i + 1)];
		}
		compare(kernel, n, random);
	}
	for (size_t n = 1; n <= 3; n++) {
		for (size_t i = 0; i < n; i++)
			deal(i, LONGEST - i * 4097, 0, random);
		compare(kernel, n, random);
	}
}

/* Texts whose ciphertext is all ones but for the block before the end, which is swept: sums around
 * 2^130 - 5, carries through every limb, in every lane. */
static void test_carries(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	for (size_t round = 0; round < 48; round++) {
		for (size_t i = 0; i < 64; i++) {
			deal(i, round < 24 ? 16 * (1 + (i + round) % 20) : 16 * (i + 10 * (round - 20)), 0, random);
			memset(texts[i], 0, jobs[i].len);
			jobs[i].src = texts[i];
			jobs[i].dst = expected[i];
		}
		wgf_aead_portable.seal(jobs, 64);
		for (size_t i = 0; i < 64; i++) {
			for (size_t k = 0; k < jobs[i].len; k++)
				texts[i][k] = (uint8_t)~expected[i][k];
			if (jobs[i].len >= 32)
				texts[i][jobs[i].len - 32] ^= (uint8_t)(i * 4 + round);
		}
		compare(kernel, 64, random);
	}
}

/* The nonce's words at their limits: no carry from one into the other. */
static void test_nonces(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static const uint64_t counters[] = {0, 1, UINT32_MAX, UINT64_C(1) << 32, UINT64_MAX - 1, UINT64_MAX};
	for (size_t i = 0; i < 60; i++) {
		deal(i, 300 * (i % 7), 0, random);
		jobs[i].counter = counters[i % 6];
		jobs[i].prefix = i % 4 == 0 ? UINT32_MAX : 0;
	}
	compare(kernel, 60, random);
}

int main(void)
{
	struct check_random random = check_random_begin("test_aead_kernels");

	for (size_t i = 0; i < JOBS; i++) {
		texts[i] = malloc(ROOM);
		expected[i] = malloc(ROOM);
		places[i] = malloc(ROOM);
		CHECK(texts[i] != NULL && expected[i] != NULL && places[i] != NULL);
		for (size_t k = 0; k < ROOM; k++)
			texts[i][k] = (uint8_t)(k * 2654435761u >> 16 ^ i);
	}
	for (size_t i = 0; wgf_aead_kernels[i] != NULL; i++) {
		const struct wgf_aead_kernel *kernel = wgf_aead_kernels[i];
		if (kernel == &wgf_aead_portable || wgf_aead_examine(kernel) != WGF_AEAD_USABLE)
			continue;
		test_lengths(kernel, &random);
		test_alignments(kernel, &random);
		test_batches(kernel, &random);
		test_nonces(kernel, &random);
		test_carries(kernel, &random);
		printf("test_aead_kernels: %s\n", kernel->name);
	}
	for (size_t i = 0; i < JOBS; i++) {
		free(texts[i]);
		free(expected[i]);
		free(places[i]);
	}
	printf("test_aead_kernels: ok\n");
	return 0;
}
