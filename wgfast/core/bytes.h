/* Loads and stores of a fixed byte order at any address, and the two things one must not leave to
 * the compiler: wiping, and comparing secrets in constant time. */
#ifndef WGF_BYTES_H
#define WGF_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint16_t wgf_load_le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static inline uint32_t wgf_load_le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t wgf_load_le64(const uint8_t *p)
{
	return (uint64_t)wgf_load_le32(p) | (uint64_t)wgf_load_le32(p + 4) << 32;
}

/* Stores copy a word whose bytes stand in the right order: from single bytes GCC's vectorizer (-O3)
 * makes eight shifts and a slow gathering. */
static inline void wgf_store_le32(uint8_t *p, uint32_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	v = __builtin_bswap32(v);
#endif
	memcpy(p, &v, sizeof(v));
}

static inline void wgf_store_le64(uint8_t *p, uint64_t v)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	v = __builtin_bswap64(v);
#endif
	memcpy(p, &v, sizeof(v));
}

static inline uint16_t wgf_load_be16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t wgf_load_be32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | (uint32_t)p[3];
}

static inline uint64_t wgf_load_be64(const uint8_t *p)
{
	return (uint64_t)wgf_load_be32(p) << 32 | (uint64_t)wgf_load_be32(p + 4);
}

static inline void wgf_store_be16(uint8_t *p, uint16_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static inline void wgf_store_be32(uint8_t *p, uint32_t v)
{
	wgf_store_be16(p, (uint16_t)(v >> 16));
	wgf_store_be16(p + 2, (uint16_t)v);
}

static inline void wgf_store_be64(uint8_t *p, uint64_t v)
{
	wgf_store_be32(p, (uint32_t)(v >> 32));
	wgf_store_be32(p + 4, (uint32_t)v);
}

/* A wipe the optimiser may not drop. */
static inline void wgf_wipe(void *p, size_t n)
{
	explicit_bzero(p, n);
}

/* Wipes the stack below the caller, where the compiler has put what did not fit into registers while a
 * function that the caller called was at work. */
static __attribute__((noinline, unused)) void wgf_wipe_stack(void)
{
	uint8_t dead[2048];
	wgf_wipe(dead, sizeof(dead));
}

/* What a secret led to is public from here on: tells valgrind, in the build of tests/core that has it
 * report each branch that depends on a secret. Nothing in any other build. */
#ifdef WGF_VALGRIND
#include <valgrind/memcheck.h>
#define wgf_declassify(p, n) ((void)VALGRIND_MAKE_MEM_DEFINED(p, n))
#else
#define wgf_declassify(p, n) ((void)(p), (void)(n))
#endif

/* Equal or not, in time that depends on n alone; the answer is public. */
static inline bool wgf_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint32_t difference = 0;
	for (size_t i = 0; i < n; i++)
		difference |= (uint32_t)(a[i] ^ b[i]);
	difference = ((difference - 1) >> 31) & 1;
	wgf_declassify(&difference, sizeof(difference));
	return difference;
}

#endif
