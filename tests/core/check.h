/* What every C test needs: CHECK, vectors in hexadecimal, and random numbers that can be repeated.
 *
 * A test is a plain program. The first CHECK that fails prints its place and ends the program with
 * status 1, so that a sanitizer's report or a guard page's fault is never mistaken for it. */
#ifndef WGF_CHECK_H
#define WGF_CHECK_H

#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define CHECK(condition) \
	do { \
		if (!(condition)) { \
			fprintf(stderr, "%s:%d: CHECK failed: %s\n", __FILE__, __LINE__, #condition); \
			exit(1); \
		} \
	} while (0)

/* Bytes of a vector written in hexadecimal; n is what the vector must have. */
static inline void check_hex(uint8_t *out, size_t n, const char *hex)
{
	CHECK(strlen(hex) == 2 * n);
	for (size_t i = 0; i < n; i++) {
		char digits[3] = {hex[2 * i], hex[2 * i + 1], 0};
		char *end;
		out[i] = (uint8_t)strtoul(digits, &end, 16);
		CHECK(end == digits + 2);
	}
}

/* n bytes at p are those of the vector. */
static inline int check_equals_hex(const uint8_t *p, size_t n, const char *hex)
{
	uint8_t expected[512];
	CHECK(n <= sizeof(expected));
	check_hex(expected, n, hex);
	return memcmp(p, expected, n) == 0;
}

/* A generator per thread of the test; splitmix64. */
struct check_random {
	uint64_t state;
};

/* Seeded by the environment (WGFAST_TEST_SEED), else by the time; prints the seed either way. */
static inline struct check_random check_random_begin(const char *test)
{
	const char *given = getenv("WGFAST_TEST_SEED");
	struct timespec now = {0};
	timespec_get(&now, TIME_UTC);
	uint64_t seed = given ? strtoull(given, NULL, 0)
			      : (uint64_t)now.tv_sec * 1000000007u ^ (uint64_t)now.tv_nsec;
	printf("%s: WGFAST_TEST_SEED=%" PRIu64 "\n", test, seed);
	fflush(stdout);
	return (struct check_random){seed};
}

static inline uint64_t check_random_next(struct check_random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);
	z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
	return z ^ z >> 31;
}

/* 0 to limit - 1; limit is not 0. */
static inline size_t check_random_below(struct check_random *random, size_t limit)
{
	return (size_t)(check_random_next(random) % limit);
}

static inline void check_random_fill(struct check_random *random, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		p[i] = (uint8_t)check_random_next(random);
}

#endif
