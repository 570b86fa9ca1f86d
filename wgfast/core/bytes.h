/* Loads and stores of a fixed byte order at any address, and the two things one must not leave to
 * the compiler: wiping, and comparing secrets in constant time. */
#ifndef WGF_BYTES_H
#define WGF_BYTES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

static inline uint32_t wgf_load_le32(const uint8_t *p)
{
	return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t wgf_load_le64(const uint8_t *p)
{
	return (uint64_t)wgf_load_le32(p) | (uint64_t)wgf_load_le32(p + 4) << 32;
}

static inline void wgf_store_le32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)v;
	p[1] = (uint8_t)(v >> 8);
	p[2] = (uint8_t)(v >> 16);
	p[3] = (uint8_t)(v >> 24);
}

static inline void wgf_store_le64(uint8_t *p, uint64_t v)
{
	wgf_store_le32(p, (uint32_t)v);
	wgf_store_le32(p + 4, (uint32_t)(v >> 32));
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

/* A wipe the optimiser may not drop. */
static inline void wgf_wipe(void *p, size_t n)
{
	explicit_bzero(p, n);
}

/* Equal or not, in time that depends on n alone. */
static inline bool wgf_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint32_t difference = 0;
	for (size_t i = 0; i < n; i++)
		difference |= (uint32_t)(a[i] ^ b[i]);
	return ((difference - 1) >> 31) & 1;
}

#endif
