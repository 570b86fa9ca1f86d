/* ChaCha20 for the AVX-512 kernels: up to 32 blocks side by side, one in each 32-bit lane.
 *
 * A lane knows nothing of its neighbours: word i of 16 blocks stands in x[i], so a quarter round is
 * twelve instructions for 16 blocks of as many packets, and nothing moves between lanes until the
 * end, when 64 shuffles turn words into blocks. Rows (one block's words in one vector) would need 60
 * shuffles for every four blocks. On Zen 4, in ticks of 2.6 GHz without transposing: 8 blocks 310, 16
 * 432, 24 604, 32 778. Rotations by bytes as shuffles cost a tenth more there. Included once the
 * including file has turned the instructions on. */
#ifndef WGF_CHACHA20_AVX512_H
#define WGF_CHACHA20_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define INLINE static inline __attribute__((always_inline))
#define UNROLLED _Pragma("GCC unroll 16") /* gcc -O2 leaves arrays of vectors in memory otherwise */

typedef uint32_t wide_words __attribute__((vector_size(64)));
typedef uint32_t narrow_words __attribute__((vector_size(32)));

/* One step of four quarter rounds: a += b; d = (d ^ a) <<< bits. The compiler makes one instruction
 * of each rotation. */
#define CHACHA20_STEP(x, bits, a0, a1, a2, a3, b0, b1, b2, b3, d0, d1, d2, d3) \
	x[a0] += x[b0], x[a1] += x[b1], x[a2] += x[b2], x[a3] += x[b3]; \
	x[d0] ^= x[a0], x[d1] ^= x[a1], x[d2] ^= x[a2], x[d3] ^= x[a3]; \
	x[d0] = x[d0] << (bits) | x[d0] >> (32 - (bits)), x[d1] = x[d1] << (bits) | x[d1] >> (32 - (bits)); \
	x[d2] = x[d2] << (bits) | x[d2] >> (32 - (bits)), x[d3] = x[d3] << (bits) | x[d3] >> (32 - (bits))

#define CHACHA20_TWO_STEPS(x, y, ...) CHACHA20_STEP(x, __VA_ARGS__); CHACHA20_STEP(y, __VA_ARGS__)

/* A column round, then a diagonal round. */
#define CHACHA20_DOUBLE_ROUND(x) \
	CHACHA20_STEP(x, 16, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15); \
	CHACHA20_STEP(x, 12, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7); \
	CHACHA20_STEP(x, 8, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15); \
	CHACHA20_STEP(x, 7, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7); \
	CHACHA20_STEP(x, 16, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14); \
	CHACHA20_STEP(x, 12, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4); \
	CHACHA20_STEP(x, 8, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14); \
	CHACHA20_STEP(x, 7, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)

/* Of two sets of blocks side by side. Four quarter rounds are too few to hide a rotation's latency of
 * two cycles: 32 blocks take 1.8 times as long as 16, though the registers do not suffice. */
#define CHACHA20_TWO_DOUBLE_ROUNDS(x, y) \
	CHACHA20_TWO_STEPS(x, y, 16, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15); \
	CHACHA20_TWO_STEPS(x, y, 12, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7); \
	CHACHA20_TWO_STEPS(x, y, 8, 0, 1, 2, 3, 4, 5, 6, 7, 12, 13, 14, 15); \
	CHACHA20_TWO_STEPS(x, y, 7, 8, 9, 10, 11, 12, 13, 14, 15, 4, 5, 6, 7); \
	CHACHA20_TWO_STEPS(x, y, 16, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14); \
	CHACHA20_TWO_STEPS(x, y, 12, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4); \
	CHACHA20_TWO_STEPS(x, y, 8, 0, 1, 2, 3, 5, 6, 7, 4, 15, 12, 13, 14); \
	CHACHA20_TWO_STEPS(x, y, 7, 10, 11, 8, 9, 15, 12, 13, 14, 5, 6, 7, 4)

static const uint32_t chacha20_constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};

/* x := constants ("expand 32-byte k"), then the input of a pass: key, block counter, nonce. */
INLINE void chacha20_load_wide(wide_words x[16], const __m512i input[12])
{
	UNROLLED for (unsigned i = 0; i < 4; i++)
		x[i] = (wide_words)_mm512_set1_epi32((int)chacha20_constants[i]);
	UNROLLED for (unsigned i = 0; i < 12; i++)
		x[4 + i] = (wide_words)input[i];
}

INLINE void chacha20_add_wide(wide_words x[16], const __m512i input[12])
{
	UNROLLED for (unsigned i = 0; i < 4; i++)
		x[i] += (wide_words)_mm512_set1_epi32((int)chacha20_constants[i]);
	UNROLLED for (unsigned i = 0; i < 12; i++)
		x[4 + i] += (wide_words)input[i];
}

INLINE void chacha20_load_narrow(narrow_words x[16], const __m512i input[12])
{
	UNROLLED for (unsigned i = 0; i < 4; i++)
		x[i] = (narrow_words)_mm256_set1_epi32((int)chacha20_constants[i]);
	UNROLLED for (unsigned i = 0; i < 12; i++)
		x[4 + i] = (narrow_words)_mm512_castsi512_si256(input[i]);
}

INLINE void chacha20_add_narrow(narrow_words x[16], const __m512i input[12])
{
	UNROLLED for (unsigned i = 0; i < 4; i++)
		x[i] += (narrow_words)_mm256_set1_epi32((int)chacha20_constants[i]);
	UNROLLED for (unsigned i = 0; i < 12; i++)
		x[4 + i] += (narrow_words)_mm512_castsi512_si256(input[i]);
}

/* A 4 x 4 matrix of 128-bit pieces, transposed. */
INLINE void transpose_pieces(__m512i t[4])
{
	__m512i a = _mm512_shuffle_i64x2(t[0], t[1], 0x88), b = _mm512_shuffle_i64x2(t[2], t[3], 0x88);
	__m512i c = _mm512_shuffle_i64x2(t[0], t[1], 0xdd), d = _mm512_shuffle_i64x2(t[2], t[3], 0xdd);
	t[0] = _mm512_shuffle_i64x2(a, b, 0x88);
	t[1] = _mm512_shuffle_i64x2(c, d, 0x88);
	t[2] = _mm512_shuffle_i64x2(a, b, 0xdd);
	t[3] = _mm512_shuffle_i64x2(c, d, 0xdd);
}

/* In every 128-bit piece, a 4 x 4 matrix of words, transposed. */
INLINE void transpose_words(__m512i t[4])
{
	__m512i a = _mm512_unpacklo_epi32(t[0], t[1]), b = _mm512_unpacklo_epi32(t[2], t[3]);
	__m512i c = _mm512_unpackhi_epi32(t[0], t[1]), d = _mm512_unpackhi_epi32(t[2], t[3]);
	t[0] = _mm512_unpacklo_epi64(a, b);
	t[1] = _mm512_unpackhi_epi64(a, b);
	t[2] = _mm512_unpacklo_epi64(c, d);
	t[3] = _mm512_unpackhi_epi64(c, d);
}

/* A place in memory for every block of a pass: what it is added to, and where the sum goes. Blocks
 * that are no whole block of a text are added to zeros and kept. Eight are written at a time: what
 * is written past the last one wanted is overwritten, or not used. */
struct aims {
	const uint8_t *src[32 + 8];
	uint8_t *dst[32 + 8];
};

INLINE void chacha20_deliver(const struct aims *to, unsigned i, __m512i block)
{
	_mm512_storeu_si512(to->dst[i], _mm512_xor_si512(block, _mm512_loadu_si512(to->src[i])));
}

/* The blocks in the lanes of the words x; lane 0 is the pass's block `first`. */
INLINE void chacha20_deliver_wide(const struct aims *to, unsigned first, const wide_words x[16])
{
	__m512i t[16];

	UNROLLED for (unsigned i = 0; i < 16; i++)
		t[i] = (__m512i)x[i];
	UNROLLED for (unsigned i = 0; i < 16; i += 4)
		transpose_words(t + i); /* t[i + j] piece k: words i to i + 3 of block 4 k + j */
	UNROLLED for (unsigned j = 0; j < 4; j++) {
		__m512i u[4] = {t[j], t[4 + j], t[8 + j], t[12 + j]};
		transpose_pieces(u);
		UNROLLED for (unsigned k = 0; k < 4; k++)
			chacha20_deliver(to, first + 4 * k + j, u[k]);
	}
}

INLINE void chacha20_deliver_narrow(const struct aims *to, unsigned first, const narrow_words x[16])
{
	const __m512i low = _mm512_setr_epi64(0, 1, 8, 9, 4, 5, 12, 13);
	const __m512i high = _mm512_setr_epi64(2, 3, 10, 11, 6, 7, 14, 15);
	__m512i t[8];

	UNROLLED for (unsigned i = 0; i < 8; i++)
		t[i] = _mm512_inserti64x4(_mm512_castsi256_si512((__m256i)x[i]), (__m256i)x[i + 8], 1);
	/* t[4 i + j] pieces: words 4 i.. of blocks j and j + 4, then words 8 + 4 i.. of the same. */
	transpose_words(t);
	transpose_words(t + 4);
	UNROLLED for (unsigned j = 0; j < 4; j++) {
		chacha20_deliver(to, first + j, _mm512_permutex2var_epi64(t[j], low, t[4 + j]));
		chacha20_deliver(to, first + 4 + j, _mm512_permutex2var_epi64(t[j], high, t[4 + j]));
	}
}

#endif
