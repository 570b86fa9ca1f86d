/* Sums and copies against a sum taken byte by byte: every short length, every alignment, ends that fault one
 * byte further, the largest carries. The path for machines without AVX2 is compiled in beside the library's,
 * since the machine that runs this has one of the two. */
#include <stdbool.h>
#include <stddef.h>

#define wgf_checksum_add narrow_add
#define wgf_checksum_copy narrow_copy
#define wgf_checksum_pseudo narrow_pseudo
#define __builtin_cpu_supports(name) 0
#include "../../wgfast/core/checksum.c"
#undef wgf_checksum_add
#undef wgf_checksum_copy
#undef wgf_checksum_pseudo

#include "guard.h"

uint64_t wgf_checksum_add(uint64_t sum, const uint8_t *p, size_t len);
uint64_t wgf_checksum_copy(uint64_t sum, uint8_t *dst, const uint8_t *src, size_t len);
uint64_t wgf_checksum_pseudo(const uint8_t *ip, uint32_t transport_len, uint8_t protocol);

#define LONGEST ((size_t)1 << 20)

/* Modulo 2^16 - 1, as big-endian words. */
static uint64_t sum_of(const uint8_t *p, size_t n)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? p[i] : (uint64_t)p[i] << 8;
	return sum % 65535;
}

/* What a sum in memory order says, as sum_of has it. */
static uint64_t value_of(uint64_t sum)
{
	uint16_t folded = wgf_checksum_fold(sum);
	uint8_t bytes[2];
	memcpy(bytes, &folded, 2);
	return sum_of(bytes, 2);
}

static void check_range(const uint8_t *p, size_t n, uint8_t *to)
{
	uint64_t expected = sum_of(p, n);
	CHECK(value_of(wgf_checksum_add(0, p, n)) == expected);
	CHECK(value_of(narrow_add(0, p, n)) == expected);
	memset(to, 0x5a, n);
	CHECK(value_of(wgf_checksum_copy(0, to, p, n)) == expected && memcmp(to, p, n) == 0);
	memset(to, 0x5a, n);
	CHECK(value_of(narrow_copy(0, to, p, n)) == expected && memcmp(to, p, n) == 0);
}

/* Both ends of both ranges lie where one byte further faults. */
static void test_lengths(struct check_random *random)
{
	struct guard from = guard_map(4096), to = guard_map(4096);
	check_random_fill(random, from.first, from.size);
	for (size_t n = 0; n <= 1500; n++) {
		check_range(guard_last(from, n), n, guard_last(to, n));
		check_range(from.first, n, to.first);
	}
	guard_unmap(from);
	guard_unmap(to);
}

static void test_alignments(struct check_random *random)
{
	uint8_t from[512], to[512];
	check_random_fill(random, from, sizeof(from));
	for (size_t at = 0; at < 64; at++)
		for (size_t n = 120; n < 140; n++)
			check_range(from + at, n, to + check_random_below(random, 64));
}

/* The bytes before and behind a copy are nobody's business. */
static void test_copy_stays_inside(void)
{
	uint8_t from[300], to[320];
	memset(from, 0xee, sizeof(from));
	for (size_t n = 0; n <= sizeof(from); n++) {
		memset(to, 0x11, sizeof(to));
		wgf_checksum_copy(0, to + 10, from, n);
		CHECK(to[9] == 0x11 && to[10 + n] == 0x11);
		memset(to, 0x11, sizeof(to));
		narrow_copy(0, to + 10, from, n);
		CHECK(to[9] == 0x11 && to[10 + n] == 0x11);
	}
}

static void test_largest(void)
{
	uint8_t *from = malloc(LONGEST), *to = malloc(LONGEST);
	CHECK(from && to);
	memset(from, 0xff, LONGEST);
	check_range(from, LONGEST, to);
	/* All ones are zero in ones' complement, but not written so. */
	CHECK(wgf_checksum_fold(wgf_checksum_add(0, from, LONGEST)) == 0xffff);
	CHECK(wgf_checksum_add(0, from, LONGEST) < UINT64_C(1) << 51);
	check_range(from, LONGEST - 1, to);
	memset(from, 0, LONGEST);
	CHECK(wgf_checksum_add(0, from, LONGEST) == 0);
	free(from);
	free(to);
}

/* A message in even pieces, its sum carried on. */
static void test_pieces(struct check_random *random)
{
	uint8_t from[4000], to[4000];
	check_random_fill(random, from, sizeof(from));
	for (int round = 0; round < 200; round++) {
		uint64_t added = 0, copied = 0;
		for (size_t at = 0, n; at < sizeof(from); at += n) {
			n = 2 * check_random_below(random, 500) + 2;
			if (n > sizeof(from) - at)
				n = sizeof(from) - at;
			added = wgf_checksum_add(added, from + at, n);
			copied = wgf_checksum_copy(copied, to + at, from + at, n);
		}
		CHECK(value_of(added) == sum_of(from, sizeof(from)) && value_of(copied) == value_of(added));
		CHECK(memcmp(from, to, sizeof(from)) == 0);
	}
}

static void test_fold(void)
{
	CHECK(wgf_checksum_fold(0) == 0);
	CHECK(wgf_checksum_fold(1) == 1);
	CHECK(wgf_checksum_fold(0xffff) == 0xffff);
	CHECK(wgf_checksum_fold(0x10000) == 1);
	CHECK(wgf_checksum_fold(UINT64_MAX) == 0xffff);
	CHECK(wgf_checksum_fold(UINT64_MAX - 1) == 0xfffe);
	CHECK(wgf_checksum_fold(UINT64_C(0xffffffff00000000)) == 0xffff);
	CHECK(wgf_checksum_fold(UINT64_C(0xfffffffeffff0001)) == 0xffff);
}

static void test_pseudo(struct check_random *random)
{
	uint8_t packet[40], expected[40] = {0};
	check_random_fill(random, packet, sizeof(packet));
	packet[0] = 0x45;
	memcpy(expected, packet + 12, 8);
	memcpy(expected + 8, (uint8_t[]){0, 17, 0x12, 0x34}, 4);
	CHECK(value_of(wgf_checksum_pseudo(packet, 0x1234, 17)) == sum_of(expected, 12));
	packet[0] = 0x60;
	memcpy(expected, packet + 8, 32);
	memcpy(expected + 32, (uint8_t[]){0, 0xab, 0xcd, 0xef, 0, 0, 0, 6}, 8);
	CHECK(value_of(wgf_checksum_pseudo(packet, 0xabcdef, 6)) == sum_of(expected, 40));
	CHECK(value_of(narrow_pseudo(packet, 0xabcdef, 6)) == sum_of(expected, 40));
}

int main(void)
{
	struct check_random random = check_random_begin("test_checksum");
	test_lengths(&random);
	test_alignments(&random);
	test_copy_stays_inside();
	test_largest();
	test_pieces(&random);
	test_fold();
	test_pseudo(&random);
	return 0;
}
