/* What the kernels with AVX-512 have in common: what sixteen of the table's entries say, and where in eight nodes of IPv4 the
 * answers stand, worked out at once. */
#ifndef WGF_TRIE_ENTRIES_AVX512_H
#define WGF_TRIE_ENTRIES_AVX512_H

#include <immintrin.h>

#include "trie_lookup.h"

/* Eight addresses of memory that are loaded from one by one: in two halves, for Intel's processors are slow to load a part of
 * a store of 64 bytes; and stored indeed, for a compiler would take them out of the register, where one at a time can be. */
static inline void store_apart(const void **to, __m512i addresses)
{
	_mm256_store_si256((__m256i *)(void *)to, _mm512_castsi512_si256(addresses));
	_mm256_store_si256((__m256i *)(void *)(to + 4), _mm512_extracti64x4_epi64(addresses, 1));
	__asm__("" : "+m"(*(const void *(*)[8])(void *)to));
}

/* Sixteen entries: the lower halves, the upper ones, each in the order of the entries. */
struct halves {
	__m512i low, high;
};

static inline struct halves halves16(__m512i first, __m512i second)
{
	const __m512i even = _mm512_set_epi32(30, 28, 26, 24, 22, 20, 18, 16, 14, 12, 10, 8, 6, 4, 2, 0);
	return (struct halves){_mm512_permutex2var_epi32(first, even, second),
			       _mm512_permutex2var_epi32(first, _mm512_or_si512(even, _mm512_set1_epi32(1)), second)};
}

static inline __m512i inside16(struct halves entries)
{
	return _mm512_and_si512(entries.low, _mm512_set1_epi32(0xffffff));
}

static inline __m512i outside16(struct halves entries)
{
	__m512i outside = _mm512_or_si512(_mm512_slli_epi32(entries.high, 8), _mm512_srli_epi32(entries.low, 24));
	return _mm512_and_si512(outside, _mm512_set1_epi32(0xffffff));
}

/* What they say of sixteen slots, in the lowest six bits; see wgf_entry_answer. */
static inline __m512i answers16(struct halves entries, __m512i slots)
{
	__m512i from_first = _mm512_sub_epi32(slots, _mm512_srli_epi32(entries.high, 48 - 32));
	from_first = _mm512_and_si512(from_first, _mm512_set1_epi32(WGF_NODE_SLOTS - 1));
	__mmask16 beyond = _mm512_cmpgt_epu32_mask(from_first, _mm512_srli_epi32(entries.high, 54 - 32));
	return _mm512_mask_mov_epi32(inside16(entries), beyond, outside16(entries));
}

/* The owners that answers are, but where they are nodes. */
static inline __m512i owners16(__m512i answers, struct halves entries)
{
	__mmask16 inherit = _mm512_cmpeq_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_INHERIT));
	answers = _mm512_mask_mov_epi32(answers, inherit, outside16(entries));
	__mmask16 none = _mm512_cmpeq_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_NONE));
	return _mm512_mask_set1_epi32(answers, none, -1);
}

/* Of addresses of IPv4, in the lowest six bits. */
static inline __m512i slots16(const uint32_t *addresses)
{
	return _mm512_srli_epi32(_mm512_loadu_si512(addresses), SLOT_SHIFT);
}

static inline __m512i slots8(const uint32_t *addresses)
{
	__m256i eight = _mm256_loadu_si256((const __m256i *)(const void *)addresses);
	return _mm512_cvtepu32_epi64(_mm256_srli_epi32(eight, SLOT_SHIFT));
}

static inline __mmask16 are_nodes(__m512i answers)
{
	return _mm512_cmpge_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_NODE));
}

/* What lies so many bytes behind the beginning of nodes. answers: the lower 24 bits; one that is no node leads to the empty
 * one, so that there always is one. */
static inline __m512i nodes8(struct lookup_view view, __m512i answers, size_t behind)
{
	__m512i units = _mm512_and_si512(answers, _mm512_set1_epi64(0xffffff));
	units = _mm512_max_epu64(units, _mm512_set1_epi64(view.least));
	return _mm512_madd52lo_epu64(_mm512_set1_epi64((long long)(view.base + behind)), units, _mm512_set1_epi64(WGF_UNIT));
}

/* ---- Nodes of IPv4, at the table's level ---- */

static inline __m128i head(const struct wgf_node4 *node)
{
	return _mm_loadu_si128((const __m128i *)(const void *)node);
}

/* Together in a register: stored one by one they could not be loaded side by side for a while. */
static inline __m512i heads4(const struct wgf_node4 *const nodes[4])
{
	__m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(head(nodes[0])), head(nodes[1]), 1);
	__m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(head(nodes[2])), head(nodes[3]), 1);
	return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

/* Where the answers of eight nodes stand, and which of them inherit. */
struct located {
	__m512i places;
	__mmask8 inherit;
};

#define BEFORE_ANSWERS (WGF_HEADER4_TABLE - 3) /* where the answer in front of the first would stand */

/* As lookup4_node has it. before: BEFORE_ANSWERS of the same nodes; slots: in the lowest six bits. */
static inline struct located locate8(const struct wgf_node4 *const nodes[8], __m512i before, __m512i slots)
{
	const __m512i last = _mm512_set1_epi64(63);
	__m512i low = heads4(nodes), high = heads4(nodes + 4);
	__m512i bitmaps = _mm512_permutex2var_epi64(low, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), high);
	__m512i inherits = _mm512_permutex2var_epi64(low, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1), high);
	__m512i runs = _mm512_popcnt_epi64(_mm512_sllv_epi64(bitmaps, _mm512_andnot_si512(slots, last)));
	/* ~(a & b): the runs that have an answer, then those up to this one, which is the highest bit. */
	__m512i answered = _mm512_ternarylogic_epi64(inherits, _mm512_set1_epi64((1 << WGF_INHERITS) - 1), inherits, 0x3f);
	answered = _mm512_sllv_epi64(answered, _mm512_sub_epi64(last, runs));
	__m512i places = _mm512_madd52lo_epu64(before, _mm512_popcnt_epi64(answered), _mm512_set1_epi64(3));
	return (struct located){places, (__mmask8)~_mm512_movepi64_mask(answered)};
}

#endif
