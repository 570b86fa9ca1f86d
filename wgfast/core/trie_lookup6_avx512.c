/* Lookups of IPv6 for processors with AVX-512, level by level as in trie_lookup6.h, but eight side by side: whatever a node
 * says is worked out at once for eight nodes, which are loaded one by one and turned. Those of eight that are done look at
 * the empty node until the last is. A row of wgf_lookup6_rows is not looked up here, for what it says follows from where
 * it stands. */
#include "trie.h"

#if defined(__x86_64__)

#pragma GCC push_options
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512ifma,avx512vbmi2,popcnt,bmi,bmi2"))), \
			     apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512ifma,avx512vbmi2,popcnt,bmi,bmi2")
#endif

#include "trie_entries_avx512.h"
#include "trie_lookup6.h"

bool wgf_trie_has_vbmi2(void)
{
	return wgf_trie_has_avx512() && __builtin_cpu_supports("avx512vbmi2");
}

/* Eight of each are a vector. */
struct batch {
	_Alignas(64) uint64_t high[WGF_LOOKUP_BATCH]; /* of the address, inverted: a slot is how many slots lie behind it */
	_Alignas(64) uint64_t low[WGF_LOOKUP_BATCH];
	_Alignas(64) uint64_t answers[WGF_LOOKUP_BATCH]; /* so far */
	_Alignas(64) uint64_t covers[WGF_LOOKUP_BATCH];  /* of the nodes that they lead to, where those do not know */
	_Alignas(64) const void *nodes[WGF_LOOKUP_BATCH];
	__mmask8 on[WGF_LOOKUP_BATCH / 8]; /* whose answers are nodes */
};

static inline __m512i all(uint64_t value)
{
	return _mm512_set1_epi64((long long)value);
}

static inline __m512i low24(__m512i values)
{
	return _mm512_and_si512(values, all(0xffffff));
}

/* The answers of eight so far; the nodes that they lead to are fetched. */
static inline void advance(struct lookup_view view, struct batch *batch, unsigned i, __m512i answers)
{
	_mm512_store_si512(batch->answers + i, answers);
	batch->on[i / 8] = _mm512_cmpge_epu64_mask(answers, all(WGF_ANSWER_NODE));
	store_apart(batch->nodes + i, nodes8(view, answers, 0));
#pragma GCC unroll 8
	for (unsigned k = i; k < i + 8; k++)
		__builtin_prefetch(batch->nodes[k]);
}

/* ---- Entries ---- */

static inline __m512i load_addresses4(const uint8_t *addresses)
{
	const __m128i backwards = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	return _mm512_shuffle_epi8(_mm512_loadu_si512(addresses), _mm512_broadcast_i32x4(backwards));
}

static inline __m512i entries8(_Atomic uint64_t *table, const uint8_t *addresses)
{
	long long e[8];
#pragma GCC unroll 8
	for (unsigned k = 0; k < 8; k++)
		e[k] = (long long)lookup_table(table, wgf_load_be32(addresses + 16 * k) >> PLACE_SHIFT);
	return _mm512_set_epi64(e[7], e[6], e[5], e[4], e[3], e[2], e[1], e[0]);
}

/* wgf_entry_answer; slots: in the lowest six bits. */
static inline __m512i said8(__m512i entries, __m512i slots)
{
	__m512i from_first = _mm512_sub_epi64(slots, _mm512_srli_epi64(entries, 48));
	from_first = _mm512_and_si512(from_first, all(WGF_NODE_SLOTS - 1));
	__mmask8 beyond = _mm512_cmpgt_epu64_mask(from_first, _mm512_srli_epi64(entries, 54));
	return low24(_mm512_mask_srli_epi64(entries, beyond, entries, 24));
}

static inline void begin8(const struct wgf_trie *trie, struct lookup_view view, const uint8_t *addresses, struct batch *batch,
			  unsigned i)
{
	__m512i first = load_addresses4(addresses), second = load_addresses4(addresses + 64);
	__m512i low = _mm512_permutex2var_epi64(first, _mm512_set_epi64(14, 12, 10, 8, 6, 4, 2, 0), second);
	__m512i high = _mm512_permutex2var_epi64(first, _mm512_set_epi64(15, 13, 11, 9, 7, 5, 3, 1), second);
	__m512i entries = entries8(wgf_trie_table(trie), addresses);
	_mm512_store_si512(batch->high + i, _mm512_xor_si512(high, all(UINT64_MAX)));
	_mm512_store_si512(batch->low + i, _mm512_xor_si512(low, all(UINT64_MAX)));
	_mm512_store_si512(batch->covers + i, low24(_mm512_srli_epi64(entries, 24)));
	advance(view, batch, i, said8(entries, _mm512_srli_epi64(high, 32 + SLOT_SHIFT)));
}

/* ---- Nodes ---- */

/* Of eight nodes, a vector for every eight bytes. */
struct turned {
	__m512i key_low, key_high, bitmap, rest;
};

static inline __m512i load_pair(const void *a, const void *b)
{
	__m512i low = _mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a));
	return _mm512_inserti64x4(low, _mm256_loadu_si256((const __m256i *)b), 1);
}

static inline struct turned turn8(const void *const nodes[8])
{
	const __m512i front = _mm512_set_epi64(13, 12, 5, 4, 9, 8, 1, 0), back = _mm512_set_epi64(15, 14, 7, 6, 11, 10, 3, 2);
	__m512i a = load_pair(nodes[0], nodes[4]), b = load_pair(nodes[1], nodes[5]);
	__m512i c = load_pair(nodes[2], nodes[6]), d = load_pair(nodes[3], nodes[7]);
	__m512i even_ab = _mm512_unpacklo_epi64(a, b), odd_ab = _mm512_unpackhi_epi64(a, b);
	__m512i even_cd = _mm512_unpacklo_epi64(c, d), odd_cd = _mm512_unpackhi_epi64(c, d);
	return (struct turned){
		.key_low = _mm512_permutex2var_epi64(even_ab, front, even_cd),
		.key_high = _mm512_permutex2var_epi64(odd_ab, front, odd_cd),
		.bitmap = _mm512_permutex2var_epi64(even_ab, back, even_cd),
		.rest = _mm512_permutex2var_epi64(odd_ab, back, odd_cd),
	};
}

/* How many bits lead to a node, and which are leaves. */
struct depths {
	__m512i bits;
	__mmask8 leaves;
};

_Static_assert(sizeof(struct wgf_lookup6_row) == 32 && WGF_STRIDE == 6, "what a row's place is multiplied by");

/* The row's place is the lowest 16 bits. */
static inline struct depths depths8(__m512i rest)
{
	const __mmask32 lowest = 0x11111111;
	const __m512i first = all(128 * WGF_STRIDE); /* of the rows that are no leaves' */
	__m512i bits = _mm512_maskz_mulhi_epu16(lowest, rest, all(65536 / 32));
	__m512i times = _mm512_maskz_mulhi_epu16(lowest, rest, all(65536 / 32 * WGF_STRIDE));
	__mmask8 leaves = _mm512_cmple_epu64_mask(times, first);
	return (struct depths){_mm512_mask_sub_epi64(bits, (__mmask8)~leaves, times, first), leaves};
}

/* Do the addresses begin with the nodes' bits? */
static inline __mmask8 agree8(const struct turned *nodes, __m512i bits, __m512i high, __m512i low)
{
	__m512i behind_high = _mm512_srlv_epi64(all(UINT64_MAX), bits);
	__m512i behind_low = _mm512_srlv_epi64(all(UINT64_MAX), _mm512_subs_epu16(bits, all(64)));
	/* ~a & ~(b ^ c): the bits that differ, for the address is inverted. */
	__m512i differ = _mm512_ternarylogic_epi64(behind_high, high, nodes->key_high, 0x09);
	differ = _mm512_or_si512(differ, _mm512_ternarylogic_epi64(behind_low, low, nodes->key_low, 0x09));
	return _mm512_testn_epi64_mask(differ, differ);
}

/* How many slots lie behind that of the address. A leaf's is the first. (At 126 bits, four of the slot's are not the address's
 * and may be anything, for there runs begin at every sixteenth.) */
static inline __m512i behind8(struct depths depths, __m512i high, __m512i low)
{
	__m512i from = _mm512_mask_mov_epi64(high, _mm512_test_epi64_mask(depths.bits, all(64)), low);
	__m512i slots = _mm512_srli_epi64(_mm512_shldv_epi64(from, low, depths.bits), 64 - WGF_STRIDE);
	return _mm512_mask_mov_epi64(slots, depths.leaves, all(WGF_NODE_SLOTS - 1));
}

static inline __m128i load2(const void *a, const void *b)
{
	return _mm_set_epi64x((long long)lookup6_word(b), (long long)lookup6_word(a));
}

/* Eight bytes from each of eight places. Taken out of the register one by one, which is quicker than by way of the cache where
 * what is loaded is waited for. */
static inline __m512i load8(__m512i places)
{
	__m128i a = _mm512_castsi512_si128(places), b = _mm512_extracti64x2_epi64(places, 1);
	__m128i c = _mm512_extracti64x2_epi64(places, 2), d = _mm512_extracti64x2_epi64(places, 3);
	a = load2((const void *)_mm_cvtsi128_si64(a), (const void *)_mm_extract_epi64(a, 1));
	b = load2((const void *)_mm_cvtsi128_si64(b), (const void *)_mm_extract_epi64(b, 1));
	c = load2((const void *)_mm_cvtsi128_si64(c), (const void *)_mm_extract_epi64(c, 1));
	d = load2((const void *)_mm_cvtsi128_si64(d), (const void *)_mm_extract_epi64(d, 1));
	__m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(a), b, 1);
	return _mm512_inserti64x4(_mm512_castsi256_si512(low), _mm256_inserti128_si256(_mm256_castsi128_si256(c), d, 1), 1);
}

static inline __m512i covered8(__m512i answers, __m512i covers)
{
	return _mm512_mask_mov_epi64(answers, _mm512_cmpeq_epi64_mask(answers, all(WGF_ANSWER_INHERIT)), covers);
}

/* lookup6_step. Returns whether one of the eight goes on. */
static inline bool step8(struct lookup_view view, struct batch *batch, unsigned i)
{
	__m512i high = _mm512_load_si512(batch->high + i), low = _mm512_load_si512(batch->low + i);
	struct turned nodes = turn8(batch->nodes + i);
	struct depths depths = depths8(nodes.rest);
	__mmask8 agree = agree8(&nodes, depths.bits, high, low);
	__m512i runs = _mm512_maskz_popcnt_epi64(agree, _mm512_sllv_epi64(nodes.bitmap, behind8(depths, high, low)));
	/* Eight bytes that end with the answer, for nothing needs to follow the last. */
	__m512i places = nodes8(view, _mm512_load_si512(batch->answers + i), WGF_HEADER6 - 8);
	__m512i found = _mm512_srli_epi64(load8(_mm512_madd52lo_epu64(places, runs, all(3))), 40);
	__m512i covers = covered8(low24(_mm512_srli_epi64(nodes.rest, 16)), _mm512_load_si512(batch->covers + i));
	_mm512_store_si512(batch->covers + i, covers);
	__m512i before = _mm512_load_si512(batch->answers + i);
	advance(view, batch, i, _mm512_mask_mov_epi64(before, batch->on[i / 8], covered8(found, covers)));
	return batch->on[i / 8] != 0;
}

static inline void answer64(const struct wgf_trie *trie, const uint8_t *addresses, uint32_t *owners)
{
	struct batch batch;
	struct lookup_view view = lookup_view(trie);
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		begin8(trie, view, addresses + 16 * i, &batch, i);
	for (unsigned eights = 0xff, on; eights; eights = on)
		for (on = 0; eights; eights &= eights - 1) {
			unsigned eight = (unsigned)__builtin_ctz(eights);
			on |= (unsigned)step8(view, &batch, 8 * eight) << eight;
		}
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8) {
		__m512i answers = _mm512_load_si512(batch.answers + i);
		__mmask8 none = _mm512_cmpeq_epi64_mask(answers, all(WGF_ANSWER_NONE));
		__m256i found = _mm512_cvtepi64_epi32(_mm512_mask_set1_epi64(answers, none, -1));
		_mm256_storeu_si256((__m256i *)(void *)(owners + i), found);
	}
}

void wgf_trie_lookup6_avx512(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	size_t done = 0;
	for (; done + WGF_LOOKUP_BATCH <= n; done += WGF_LOOKUP_BATCH)
		answer64(trie, addresses + 16 * done, owners + done);
	if (done < n)
		lookup6_batch(trie, addresses + 16 * done, n - done, owners + done);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#pragma GCC pop_options

#endif
