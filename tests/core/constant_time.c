/* No branch and no address depends on a secret: the kernels that valgrind can execute, with keys,
 * plaintexts and everything that follows from them marked undefined. Memcheck reports each conditional
 * jump and each address that depends on such a value; what is public by design (whether a tag was
 * right, see wgf_declassify) is marked defined again. Lengths, counters and ciphertexts are public.
 *
 * Run by tests/test_constant_time.py: make -C tests/core run VARIANT=secrets */
#include <valgrind/memcheck.h>

#include "aead.h"
#include "check.h"

#define JOBS 24u
#define LONGEST ((size_t)9000)

static uint8_t keys[JOBS][WGF_KEY_SIZE], ads[JOBS][40];
static uint8_t texts[JOBS][LONGEST], sealed[JOBS][LONGEST + WGF_TAG_SIZE], opened[JOBS][LONGEST];

/* A branch on a secret and an address that is one: valgrind must report both, or it would prove nothing. */
static void leak(const char *how)
{
	volatile uint8_t secret = 1;

	VALGRIND_MAKE_MEM_UNDEFINED(&secret, 1);
	if (strcmp(how, "address") == 0)
		printf("constant_time: %d\n", ads[0][secret]);
	else if (secret & 1)
		printf("constant_time: branched\n");
}

static void batch(const struct wgf_aead_kernel *kernel, const size_t *lengths, size_t n, bool tamper)
{
	struct wgf_aead_job jobs[JOBS];

	for (size_t i = 0; i < n; i++) {
		const size_t len = lengths[i];
		for (size_t k = 0; k < WGF_KEY_SIZE; k++)
			keys[i][k] = (uint8_t)(i * 17 + k);
		memset(texts[i], (int)i, len);
		VALGRIND_MAKE_MEM_UNDEFINED(keys[i], WGF_KEY_SIZE);
		VALGRIND_MAKE_MEM_UNDEFINED(texts[i], len);
		jobs[i] = (struct wgf_aead_job){.key = n % 2 == 0 ? keys[0] : keys[i], .counter = i, .src = texts[i],
						.ad = ads[i], .ad_len = i % 5 == 4 ? 33 : 0,
						.dst = sealed[i], .len = len};
	}
	kernel->seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		VALGRIND_MAKE_MEM_DEFINED(sealed[i], lengths[i] + WGF_TAG_SIZE);
		if (tamper && i % 3 == 0)
			sealed[i][lengths[i] + i % WGF_TAG_SIZE] ^= 1;
		jobs[i].src = sealed[i];
		jobs[i].dst = i % 2 == 0 ? sealed[i] : opened[i];
	}
	kernel->open(jobs, n);
	for (size_t i = 0; i < n; i++) {
		CHECK(jobs[i].ok == !(tamper && i % 3 == 0));
		VALGRIND_MAKE_MEM_DEFINED(jobs[i].dst, lengths[i]);
		for (size_t k = 0; k < lengths[i]; k++)
			CHECK(jobs[i].dst[k] == (jobs[i].ok ? i : 0));
	}
}

static void test_kernel(const struct wgf_aead_kernel *kernel)
{
	static const size_t mixes[][JOBS] = {
		{0, 1, 15, 16, 17, 31, 32, 63, 64, 65, 127, 128, 129, 240, 255, 256, 257, 300, 511, 512, 513, 640},
		{64, 64, 594, 64, 64, 594, 64, 1420, 594, 64, 594, 64, 1420, 64, 1420, 64, 1420, 64, 1420, 64, 1420},
		{1420, 1420, 1420, 1420, 1420, 1420, 1420, 1420, 5000, 9000, 64, 64, 64, 64, 64, 64, 64, 64, 64, 4097},
	};
	for (size_t i = 0; i < sizeof(mixes) / sizeof(mixes[0]); i++)
		for (int tamper = 0; tamper < 2; tamper++) {
			batch(kernel, mixes[i], JOBS, tamper);
			batch(kernel, mixes[i], JOBS - 3, tamper);
			for (size_t k = 0; k < 12; k++)
				batch(kernel, mixes[i] + k, 1, tamper);
		}
	printf("constant_time: %s\n", kernel->name);
}

/* With an argument, `branch` or `address`, it does what it looks for. */
int main(int argc, char **argv)
{
	static const char *const names[] = {"avx2", "portable"};

	if (argc > 1)
		leak(argv[1]);
	for (size_t i = 0; argc == 1 && i < sizeof(names) / sizeof(names[0]); i++) {
		const struct wgf_aead_kernel *kernel = wgf_aead_find(names[i]);
		if (kernel != NULL && kernel->supported())
			test_kernel(kernel);
	}
	printf("constant_time: ok\n");
	return 0;
}
