/* ChaCha20 (RFC 8439 section 2.3) of eight blocks at once, one in each 32-bit lane of sixteen vectors:
 * the rounds and the transposition, for aead_avx2.c alone, which puts other work between the rounds. */
#ifndef WGF_CHACHA20_AVX2_H
#define WGF_CHACHA20_AVX2_H

#include "bytes.h"
#include "words_avx2.h"

#define STEP static TARGET
#define KERNEL static __attribute__((noinline)) TARGET
#define BLOCK ((size_t)64)

/* Bytes are moved for the rotations by 16 and 8: one instruction instead of three. */
static const uint8_t rotate_by[2][sizeof(vec)] __attribute__((aligned(32))) = {
	{2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13, 2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13},
	{3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14, 3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14},
};

/* The empty asm keeps the compiler from holding the two above in registers, which are all needed. */
INLINE void half_quarter(vec *a, vec *b, vec *c, vec *d, const uint8_t (**by)[sizeof(vec)], size_t half)
{
	__asm__("" : "+r"(*by));
	*a = _mm256_add_epi32(*a, *b);
	*d = _mm256_shuffle_epi8(_mm256_xor_si256(*d, *a), _mm256_load_si256((const vec *)(*by)[half]));
	*c = _mm256_add_epi32(*c, *d);
	*b = rotate(_mm256_xor_si256(*b, *c), half == 0 ? 12 : 7);
}

/* Two quarter rounds side by side. */
#define PAIR(a0, b0, c0, d0, a1, b1, c1, d1) do { \
	half_quarter(&a0, &b0, &c0, &d0, &by, 0); \
	half_quarter(&a1, &b1, &c1, &d1, &by, 0); \
	half_quarter(&a0, &b0, &c0, &d0, &by, 1); \
	half_quarter(&a1, &b1, &c1, &d1, &by, 1); \
} while (0)

/* Exchanges the two rows of 8 to 11 in registers for the two in memory. The empty asm keeps the
 * compiler from putting another row into memory, with loads and stores on the critical path. */
#define PARK(out, in) do { \
	s->parked[out] = c0; \
	s->parked[out + 1] = c1; \
	__asm__("" : "+m"(s->parked[out]), "+m"(s->parked[out + 1])); \
	c0 = s->parked[in]; \
	c1 = s->parked[in + 1]; \
} while (0)

/* `one` to `four` are what the chains do meanwhile. */
#define DOUBLE_ROUND(one, two, three, four) do { \
	PAIR(a0, b0, c0, d0, a1, b1, c1, d1); \
	one; \
	PARK(0, 2); \
	PAIR(a2, b2, c0, d2, a3, b3, c1, d3); \
	two; \
	PAIR(a0, b1, c0, d3, a1, b2, c1, d0); \
	three; \
	PARK(2, 0); \
	PAIR(a2, b3, c0, d1, a3, b0, c1, d2); \
	four; \
} while (0)

/* Rows 4 to 11 for lanes with keys of their own. */
KERNEL void set_keys(uint32_t state[16][LANES], const uint8_t *const keys[LANES])
{
	vec x[8];
	for (size_t i = 0; i < LANES; i++)
		x[i] = _mm256_loadu_si256((const vec *)keys[i]);
	transpose(x);
	for (size_t i = 0; i < 8; i++)
		_mm256_store_si256((vec *)state[4 + i], x[i]);
}

KERNEL void set_one_key(uint32_t state[16][LANES], const uint8_t *key)
{
	for (size_t i = 0; i < 8; i++)
		_mm256_store_si256((vec *)state[4 + i],
				   _mm256_set1_epi32((int)wgf_load_le32(key + 4 * i)));
}

INLINE vec row(const uint32_t state[LANES])
{
	return _mm256_load_si256((const vec *)state);
}

/* dst := src ^ stream; in place or apart, at any address. */
INLINE void apply(uint8_t *dst, const uint8_t *src, const uint8_t *stream, size_t len)
{
	for (; len >= sizeof(vec); len -= sizeof(vec)) {
		vec x = _mm256_loadu_si256((const vec *)src);
		x = _mm256_xor_si256(x, _mm256_load_si256((const vec *)stream));
		_mm256_storeu_si256((vec *)dst, x);
		src += sizeof(vec);
		dst += sizeof(vec);
		stream += sizeof(vec);
	}
	for (; len >= 8; len -= 8) {
		wgf_store_le64(dst, wgf_load_le64(src) ^ wgf_load_le64(stream));
		src += 8;
		dst += 8;
		stream += 8;
	}
	for (size_t i = 0; i < len; i++)
		dst[i] = src[i] ^ stream[i];
}

/* Eight of the rows after the last round, with what they were before the first: half of each block. */
INLINE void put_half(vec *out, vec x[8], const uint32_t before[8][LANES])
{
	for (size_t i = 0; i < 8; i++)
		x[i] = _mm256_add_epi32(x[i], row(before[i]));
	transpose(x);
	for (size_t i = 0; i < LANES; i++)
		out[2 * i] = x[i];
}

#endif
