/* Vectors of eight words, for what is computed in eight lanes: blocks of ChaCha20, messages of BLAKE2s. */
#ifndef WGF_WORDS_AVX2_H
#define WGF_WORDS_AVX2_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

/* No file of the core is compiled for more than the least processor: each function says what it needs. */
#define TARGET __attribute__((target("avx2,bmi2")))
#define INLINE static inline __attribute__((always_inline)) TARGET

typedef __m256i vec;

#define LANES 8u

INLINE vec rotate(vec x, int bits)
{
	return _mm256_or_si256(_mm256_slli_epi32(x, bits), _mm256_srli_epi32(x, 32 - bits));
}

/* Eight rows of eight words become eight columns. */
INLINE void transpose(vec x[8])
{
	vec t[8], u[8];
	for (size_t i = 0; i < 8; i += 2) {
		t[i] = _mm256_unpacklo_epi32(x[i], x[i + 1]);
		t[i + 1] = _mm256_unpackhi_epi32(x[i], x[i + 1]);
	}
	for (size_t i = 0; i < 8; i += 4)
		for (size_t k = 0; k < 2; k++) {
			u[i + 2 * k] = _mm256_unpacklo_epi64(t[i + k], t[i + k + 2]);
			u[i + 2 * k + 1] = _mm256_unpackhi_epi64(t[i + k], t[i + k + 2]);
		}
	for (size_t i = 0; i < 4; i++) {
		x[i] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x20);
		x[i + 4] = _mm256_permute2x128_si256(u[i], u[i + 4], 0x31);
	}
}

#endif
