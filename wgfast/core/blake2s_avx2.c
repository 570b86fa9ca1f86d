/* BLAKE2s of eight messages side by side, for processors with AVX2: a vector holds the same word of all eight, so
 * that a round is the portable one. Messages of one length have their last block at the same place; what is behind
 * their end is loaded as zeros, and nothing there is touched.
 *
 * Eight take less than two one by one. (Sixteen, with AVX-512, would save some nanoseconds more of a message that
 * costs the system two thousand: not worth a kernel.) */
#include "blake2s.h"

#if defined(__x86_64__)

#include "bytes.h"
#include "words_avx2.h"

#define BLOCK ((size_t)64)
_Static_assert(LANES == WGF_BLAKE2S_LANES, "a message a lane");

typedef uint32_t word __attribute__((vector_size(32)));

/* Those by whole bytes are one instruction. */
INLINE word rotate_right(word x, int bits)
{
	const vec by16 = _mm256_broadcastsi128_si256(
		_mm_setr_epi8(2, 3, 0, 1, 6, 7, 4, 5, 10, 11, 8, 9, 14, 15, 12, 13));
	const vec by8 = _mm256_broadcastsi128_si256(
		_mm_setr_epi8(1, 2, 3, 0, 5, 6, 7, 4, 9, 10, 11, 8, 13, 14, 15, 12));
	switch (bits) {
	case 16:
		return (word)_mm256_shuffle_epi8((vec)x, by16);
	case 8:
		return (word)_mm256_shuffle_epi8((vec)x, by8);
	default:
		return (word)rotate((vec)x, 32 - bits);
	}
}

#include "blake2s_rounds.h"

bool wgf_blake2s_has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

/* Half a block of every message, of which `words` are there. */
INLINE void load_half(word m[8], const uint8_t *const *messages, size_t at, size_t words)
{
	const vec number = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
	vec there = _mm256_cmpgt_epi32(_mm256_set1_epi32((int)words), number), x[LANES];
	for (size_t i = 0; i < LANES; i++)
		x[i] = _mm256_maskload_epi32((const int *)(const void *)(messages[i] + at), there);
	transpose(x);
	for (size_t i = 0; i < 8; i++)
		m[i] = (word)x[i];
}

INLINE word all_lanes(uint32_t value)
{
	return (word)_mm256_set1_epi32((int)value);
}

/* counted includes this block; last is all ones for the last block, else 0. */
INLINE void compress(word h[8], const word m[16], uint64_t counted, uint32_t last)
{
	word v[16];
	for (size_t i = 0; i < 8; i++) {
		v[i] = h[i];
		v[8 + i] = all_lanes(iv[i]);
	}
	v[12] ^= all_lanes((uint32_t)counted);
	v[13] ^= all_lanes((uint32_t)(counted >> 32));
	v[14] ^= all_lanes(last);
	ten_rounds(v, m);
	for (size_t i = 0; i < 8; i++)
		h[i] ^= v[i] ^ v[8 + i];
}

TARGET void wgf_blake2s_avx2(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t len,
			     uint8_t (*digests)[WGF_HASH_SIZE])
{
	word h[8], m[16];
	vec out[8];
	for (size_t i = 0; i < 8; i++)
		h[i] = all_lanes(start->h[i]);
	for (size_t at = 0; at < len; at += BLOCK) {
		size_t left = len - at, some = left < BLOCK ? left : BLOCK;
		load_half(m, messages, at, some / 4);
		load_half(m + 8, messages, at + BLOCK / 2, some < BLOCK / 2 ? 0 : (some - BLOCK / 2) / 4);
		compress(h, m, start->counted + at + some, left <= BLOCK ? UINT32_MAX : 0);
	}
	for (size_t i = 0; i < 8; i++)
		out[i] = (vec)h[i];
	transpose(out);
	for (size_t i = 0; i < LANES; i++)
		_mm256_storeu_si256((vec *)(void *)digests[i], out[i]);
}

#endif
