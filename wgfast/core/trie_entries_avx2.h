/* What the kernels with AVX2 have in common: what eight of the table's entries say, worked out at once, and the choices that
 * are made for one answer. */
#ifndef WGF_TRIE_ENTRIES_AVX2_H
#define WGF_TRIE_ENTRIES_AVX2_H

#include <immintrin.h>

#include "trie_lookup.h"

/* Of eight addresses in a row: of those with even places, then of those with odd ones. So an entry has the place that the
 * address has when eight are taken for four numbers of 64 bits, and what is worked out of it is moved by a shift. */
struct eight {
	_Alignas(32) uint64_t even[4];
	_Alignas(32) uint64_t odd[4];
};

static inline __m256i load8(const uint32_t *from)
{
	return _mm256_loadu_si256((const __m256i *)(const void *)from);
}

static inline void store8(uint32_t *to, __m256i values)
{
	_mm256_storeu_si256((__m256i *)(void *)to, values);
}

static inline __m256i load4(const uint64_t *from)
{
	return _mm256_load_si256((const __m256i *)(const void *)from);
}

static inline void store4(uint64_t *to, __m256i values)
{
	_mm256_store_si256((__m256i *)(void *)to, values);
}

static inline __m256i entries4(_Atomic uint64_t *table, size_t a, size_t b, size_t c, size_t d)
{
	__m128i low = _mm_set_epi64x((long long)lookup_table(table, b), (long long)lookup_table(table, a));
	__m128i high = _mm_set_epi64x((long long)lookup_table(table, d), (long long)lookup_table(table, c));
	return _mm256_inserti128_si256(_mm256_castsi128_si256(low), high, 1);
}

/* even: in the lower halves; odd: in the upper ones. */
static inline __m256i joined(__m256i even, __m256i odd)
{
	return _mm256_and_si256(_mm256_blend_epi32(even, odd, 0xaa), _mm256_set1_epi32(0xffffff));
}

/* What four entries say of the slots in the lowest six bits, as wgf_entry_answer has it. */
static inline __m256i answers4(__m256i entries, __m256i slots)
{
	__m256i from_first = _mm256_sub_epi64(slots, _mm256_srli_epi64(entries, 48));
	from_first = _mm256_and_si256(from_first, _mm256_set1_epi64x(WGF_NODE_SLOTS - 1));
	__m256i beyond = _mm256_cmpgt_epi64(from_first, _mm256_srli_epi64(entries, 54));
	return _mm256_srlv_epi64(entries, _mm256_and_si256(beyond, _mm256_set1_epi64x(24)));
}

/* addresses: the first 32 bits of each. */
static inline __m256i answers8(__m256i addresses, __m256i even, __m256i odd)
{
	even = answers4(even, _mm256_srli_epi64(addresses, SLOT_SHIFT));
	odd = answers4(odd, _mm256_srli_epi64(addresses, SLOT_SHIFT + 32));
	return joined(even, _mm256_slli_epi64(odd, 32));
}

static inline __m256i outside8(__m256i even, __m256i odd)
{
	return joined(_mm256_srli_epi64(even, 24), _mm256_slli_epi64(odd, 32 - 24));
}

static inline __m256i are_nodes(__m256i answers)
{
	return _mm256_cmpgt_epi32(answers, _mm256_set1_epi32((int)WGF_ANSWER_NODE - 1));
}

static inline uint64_t bits8(__m256i which)
{
	return (unsigned)_mm256_movemask_ps(_mm256_castsi256_ps(which));
}

static inline __m256i owners8(__m256i answers)
{
	return _mm256_or_si256(answers, _mm256_cmpeq_epi32(answers, _mm256_set1_epi32(WGF_ANSWER_NONE)));
}

/* ---- One answer. Written out, for a compiler makes a branch of these, which is mispredicted. ---- */

/* lookup_covered */
static inline uint32_t covered(uint32_t answer, uint32_t cover)
{
	__asm__("cmp %[inherit], %[answer]\n\tcmove %[cover], %[answer]"
		: [answer] "+r"(answer)
		: [cover] "rm"(cover), [inherit] "i"(WGF_ANSWER_INHERIT)
		: "cc");
	return answer;
}

/* lookup_owner */
static inline uint32_t owner(uint32_t answer)
{
	__asm__("cmp %[none], %[answer]\n\tcmove %[nobody], %[answer]"
		: [answer] "+r"(answer)
		: [nobody] "r"(WGF_OWNER_NONE), [none] "i"(WGF_ANSWER_NONE)
		: "cc");
	return answer;
}

#endif
