/* Every usable AEAD kernel where lanes, groups and passes end, against the portable one: batches around
 * 8, 16, 32 and 64 packets of lengths around whole passes, one long packet among short ones at every
 * place, few packets with and without additional data, and forgeries at every place of a batch.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_aead_edges.c wgfast/core/{aead*,poly1305,selftest,
 * blake2s,xchacha}.c -pthread */
#include "aead.h"
#include "check.h"

#define JOBS 66u
#define LONGEST 9000u
#define STRAY 0x3c

static uint8_t keys[JOBS][WGF_KEY_SIZE], ads[JOBS][80], texts[JOBS][LONGEST];
static uint8_t expected[JOBS][LONGEST + WGF_TAG_SIZE], sealed[JOBS][LONGEST + WGF_TAG_SIZE + 1];
static uint8_t opened[JOBS][LONGEST + WGF_TAG_SIZE + 1];
static struct wgf_aead_job jobs[JOBS];

/* Jobs of these lengths sealed and opened; the one at `forged`, if there is one, is tampered with. Out of
 * place, in place where the number is odd. */
static void round_trip(const struct wgf_aead_kernel *kernel, size_t n, size_t forged, struct check_random *random)
{
	for (size_t i = 0; i < n; i++) {
		jobs[i].src = texts[i];
		jobs[i].dst = expected[i];
	}
	wgf_aead_portable.seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		sealed[i][jobs[i].len + WGF_TAG_SIZE] = STRAY;
		memcpy(sealed[i], texts[i], jobs[i].len);
		jobs[i].src = i % 2 == 1 ? sealed[i] : texts[i];
		jobs[i].dst = sealed[i];
	}
	kernel->seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		size_t size = jobs[i].len + WGF_TAG_SIZE;
		CHECK(memcmp(sealed[i], expected[i], size) == 0 && sealed[i][size] == STRAY);
		if (i == forged)
			sealed[i][check_random_below(random, size)] ^= (uint8_t)(1u << check_random_below(random, 8));
		memcpy(opened[i], sealed[i], size);
		opened[i][jobs[i].len + (i % 2 == 1 ? WGF_TAG_SIZE : 0)] = STRAY;
		jobs[i].src = i % 2 == 1 ? opened[i] : sealed[i];
		jobs[i].dst = opened[i];
		jobs[i].ok = i == forged;
	}
	kernel->open(jobs, n);
	for (size_t i = 0; i < n; i++) {
		CHECK(jobs[i].ok == (i != forged));
		for (size_t k = 0; k < jobs[i].len; k++)
			CHECK(opened[i][k] == (i == forged ? 0 : texts[i][k]));
		CHECK(opened[i][jobs[i].len + (i % 2 == 1 ? WGF_TAG_SIZE : 0)] == STRAY);
	}
}

/* Everything but the lengths. */
static void deal(size_t n, struct check_random *random)
{
	for (size_t i = 0; i < n; i++) {
		check_random_fill(random, keys[i], WGF_KEY_SIZE);
		jobs[i].key = keys[check_random_below(random, 3) > 0 ? 0 : i];
		jobs[i].counter = check_random_next(random) >> check_random_below(random, 64);
		jobs[i].prefix = (uint32_t)check_random_below(random, 2) * (uint32_t)check_random_next(random);
		jobs[i].ad = ads[i];
		jobs[i].ad_len = 0;
	}
}

/* As many blocks as fill 8, 16, 24 or 32 lanes, and one more or less, with one key block for each. */
static void test_passes(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static const size_t counts[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65};
	for (size_t c = 0; c < sizeof(counts) / sizeof(counts[0]); c++)
		for (size_t lanes = 8; lanes <= 64; lanes += 8)
			for (size_t edge = 0; edge < 3; edge++) {
				size_t n = counts[c], blocks = lanes + edge - 1 > n ? lanes + edge - 1 - n : 0;
				deal(n, random);
				for (size_t i = 0; i < n; i++) /* the blocks dealt out evenly, then cut short */
					jobs[i].len = 64 * (blocks / n + (i < blocks % n));
				jobs[0].len -= jobs[0].len > 0 ? check_random_below(random, 64) : 0;
				round_trip(kernel, n, check_random_below(random, 2 * n), random);
			}
}

static void test_outliers(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static const size_t longs[] = {1024, 1500, 2047, 2048, 4100, 8975, 9000};
	for (size_t n = 3; n <= 18; n += 3)
		for (size_t place = 0; place < n; place++)
			for (size_t k = 0; k < sizeof(longs) / sizeof(longs[0]); k++) {
				deal(n, random);
				for (size_t i = 0; i < n; i++)
					jobs[i].len = check_random_below(random, 65);
				jobs[place].len = longs[k];
				if (k % 2 == 1)
					jobs[(place + 1) % n].len = longs[k] - check_random_below(random, 1000);
				jobs[n / 2].ad_len = k % 3 == 0 ? check_random_below(random, 80) : 0;
				round_trip(kernel, n, check_random_below(random, 2 * n), random);
			}
}

/* One, two or three packets, the additional data of one beside another without any. */
static void test_few(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	for (size_t n = 1; n <= 3; n++)
		for (size_t len = 0; len <= 1600; len += len < 700 ? 1 : 7) {
			deal(n, random);
			for (size_t i = 0; i < n; i++) {
				jobs[i].len = i == 0 ? len : check_random_below(random, 1600);
				jobs[i].ad_len = check_random_below(random, 2) * check_random_below(random, 80);
			}
			round_trip(kernel, n, check_random_below(random, 2 * n), random);
		}
}

static void test_forged_everywhere(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	for (size_t forged = 0; forged < JOBS; forged++) {
		deal(JOBS, random);
		for (size_t i = 0; i < JOBS; i++)
			jobs[i].len = check_random_below(random, forged % 2 ? 1500 : 130);
		round_trip(kernel, JOBS, forged, random);
	}
}

int main(void)
{
	struct check_random random = check_random_begin("test_aead_edges");

	for (size_t i = 0; i < JOBS; i++) {
		check_random_fill(&random, ads[i], sizeof(ads[i]));
		check_random_fill(&random, texts[i], sizeof(texts[i]));
	}
	for (size_t i = 0; wgf_aead_kernels[i] != NULL; i++) {
		const struct wgf_aead_kernel *kernel = wgf_aead_kernels[i];
		if (wgf_aead_examine(kernel) != WGF_AEAD_USABLE)
			continue;
		test_passes(kernel, &random);
		test_outliers(kernel, &random);
		test_few(kernel, &random);
		test_forged_everywhere(kernel, &random);
		printf("test_aead_edges: %s\n", kernel->name);
	}
	printf("test_aead_edges: ok\n");
	return 0;
}
