/* Times a kernel over two classes of input, for bench/constant_time.py.
 *
 * Class 0 is fixed, class 1 random, in one thing (the contest) and the same in all else. Compiled into a
 * library by the Python program. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aead.h"
#include "bytes.h"

#if defined(__x86_64__)
#include <x86intrin.h>
#endif

enum verb { SEAL, OPEN };
enum contest { KEYS, TEXTS, FORGERIES };

struct packets {
	size_t n, len;
	struct wgf_aead_job *jobs;
	uint8_t *keys[3], *texts[3]; /* fixed, random, and where the kernel reads */
	uint8_t *sealed;
	uint64_t random;
};

#define WORK 2

/* Where the fixed inputs come from, in every call the same. They are not zeros: on Zen 4 even memcpy takes
 * less for 90 KB of zeros than for anything else. */
#define FIXED UINT64_C(0x9e3779b97f4a7c15)

static uint64_t ticks(void)
{
#if defined(__x86_64__)
	unsigned cpu;
	_mm_lfence();
	uint64_t now = __rdtscp(&cpu);
	_mm_lfence();
	return now;
#else
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

static uint64_t next_random(struct packets *packets)
{
	uint64_t x = packets->random;
	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return packets->random = x;
}

static void fill(struct packets *packets, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint64_t x = next_random(packets);
		memcpy(p + i, &x, n - i < 8 ? n - i : 8);
	}
}

/* The bytes of this class. Both are read in the same order whichever it is, so that nothing but their values
 * can differ when the kernel begins; two copies, one after the other, showed in the times. */
static void choose(uint8_t *const from[3], size_t n, unsigned class)
{
	const uint8_t mask = (uint8_t)(0u - class);
	for (size_t i = 0; i < n; i++)
		from[WORK][i] = from[0][i] ^ ((from[0][i] ^ from[1][i]) & mask);
}

/* Wrong in the first byte of the tag, or in any: comparing must take as long. */
static void forge(struct packets *packets, unsigned class)
{
	for (size_t i = 0; i < packets->n; i++) {
		uint8_t *tag = packets->sealed + i * (packets->len + WGF_TAG_SIZE) + packets->len;
		uint64_t dice = next_random(packets);
		tag[class * (dice % WGF_TAG_SIZE)] ^= (uint8_t)(1u << (dice >> 8) % 8);
	}
}

static void prepare(struct packets *packets, const struct wgf_aead_kernel *kernel, enum verb verb,
		    enum contest contest, unsigned class)
{
	const size_t stride = packets->len + WGF_TAG_SIZE;

	fill(packets, packets->keys[1], packets->n * WGF_KEY_SIZE);
	fill(packets, packets->texts[1], packets->n * packets->len);
	choose(packets->keys, packets->n * WGF_KEY_SIZE, contest == KEYS ? class : 0);
	choose(packets->texts, packets->n * packets->len, contest == TEXTS ? class : 0);
	for (size_t i = 0; i < packets->n; i++) {
		packets->jobs[i].src = packets->texts[WORK] + i * packets->len;
		packets->jobs[i].dst = packets->sealed + i * stride;
	}
	if (verb == SEAL)
		return;
	kernel->seal(packets->jobs, packets->n);
	if (contest == FORGERIES)
		forge(packets, class);
	for (size_t i = 0; i < packets->n; i++) {
		packets->jobs[i].src = packets->sealed + i * stride;
		packets->jobs[i].dst = packets->texts[WORK] + i * packets->len;
	}
}

static void destroy(struct packets *packets)
{
	for (size_t i = 0; i < 3; i++) {
		free(packets->keys[i]);
		free(packets->texts[i]);
	}
	free(packets->jobs);
	free(packets->sealed);
}

static bool create(struct packets *packets, size_t n, size_t len, uint64_t seed)
{
	*packets = (struct packets){.n = n, .len = len, .random = FIXED};
	bool right = (packets->jobs = calloc(n, sizeof(packets->jobs[0]))) != NULL &&
		     (packets->sealed = calloc(n, len + WGF_TAG_SIZE)) != NULL;
	for (size_t i = 0; i < 3; i++)
		right &= (packets->keys[i] = calloc(n, WGF_KEY_SIZE)) != NULL &&
			 (packets->texts[i] = calloc(n, len + 1)) != NULL;
	if (!right) {
		destroy(packets);
		return false;
	}
	fill(packets, packets->keys[0], n * WGF_KEY_SIZE);
	fill(packets, packets->texts[0], n * len);
	packets->random = seed | 1;
	for (size_t i = 0; i < n; i++) {
		packets->jobs[i].key = packets->keys[WORK] + i * WGF_KEY_SIZE;
		packets->jobs[i].counter = i;
		packets->jobs[i].len = len;
	}
	return true;
}

/* One sample for each of the classes, in ticks; false: no memory. */
bool constant_time_measure(const struct wgf_aead_kernel *kernel, int verb, int contest, size_t n, size_t len,
			   const uint8_t *classes, uint64_t *taken, size_t samples, uint64_t seed);
bool constant_time_measure(const struct wgf_aead_kernel *kernel, int verb, int contest, size_t n, size_t len,
			   const uint8_t *classes, uint64_t *taken, size_t samples, uint64_t seed)
{
	struct packets packets;

	if (!create(&packets, n, len, seed))
		return false;
	for (size_t i = 0; i < samples; i++) {
		prepare(&packets, kernel, (enum verb)verb, (enum contest)contest, classes[i]);
		uint64_t begin = ticks();
		(verb == SEAL ? kernel->seal : kernel->open)(packets.jobs, n);
		taken[i] = ticks() - begin;
	}
	destroy(&packets);
	return true;
}

/* ---- the control: a kernel with a branch on keys and texts, and a comparison that stops early ---- */

static const struct wgf_aead_kernel *honest;
static uint8_t right_tag[WGF_TAG_SIZE];

static void dawdle(void)
{
	for (volatile int i = 0; i < 20; i++)
		;
}

static void control_seal(struct wgf_aead_job *jobs, size_t n)
{
	if (jobs[0].key[0] & 1)
		dawdle();
	if (jobs[0].len > 0 && jobs[0].src[0] & 1)
		dawdle();
	honest->seal(jobs, n);
	memcpy(right_tag, jobs[0].dst + jobs[0].len, sizeof(right_tag));
}

static void control_open(struct wgf_aead_job *jobs, size_t n)
{
	const uint8_t *tag = jobs[0].src + jobs[0].len;
	for (size_t i = 0; i < WGF_TAG_SIZE && tag[i] == right_tag[i]; i++)
		dawdle();
	if (jobs[0].key[0] & 1)
		dawdle();
	honest->open(jobs, n);
	if (jobs[0].len > 0 && jobs[0].dst[0] & 1)
		dawdle();
}

const struct wgf_aead_kernel *constant_time_control(const struct wgf_aead_kernel *kernel);
const struct wgf_aead_kernel *constant_time_control(const struct wgf_aead_kernel *kernel)
{
	static struct wgf_aead_kernel control = {.name = "control"};
	honest = kernel;
	control.seal = control_seal;
	control.open = control_open;
	control.supported = kernel->supported;
	return &control;
}
