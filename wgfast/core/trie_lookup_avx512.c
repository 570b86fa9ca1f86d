/* Lookups of IPv4 for processors with AVX-512: what sixteen entries say is worked out at once. Entries, nodes
 * and answers are still loaded one by one, which is quicker than a gather. */
#include "trie.h"

#if defined(__x86_64__)

#pragma GCC push_options
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,popcnt,bmi,bmi2"))), \
			     apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,popcnt,bmi,bmi2")
#endif

#include <immintrin.h>

#include "trie_lookup.h"

bool wgf_trie_has_avx512(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static inline __m512i joined(__m512i low, __m512i high)
{
	__m512i both = _mm512_castsi256_si512(_mm512_cvtepi64_epi32(low));
	both = _mm512_inserti64x4(both, _mm512_cvtepi64_epi32(high), 1);
	return _mm512_and_si512(both, _mm512_set1_epi32(0xffffff));
}

/* What eight entries say of eight slots; see wgf_entry_answer. */
static inline __m512i answers8(__m512i entries, __m256i slots)
{
	__m512i from_first = _mm512_sub_epi64(_mm512_cvtepu32_epi64(slots), _mm512_srli_epi64(entries, 48));
	from_first = _mm512_and_si512(from_first, _mm512_set1_epi64(63));
	__mmask8 beyond = _mm512_cmpgt_epu64_mask(from_first, _mm512_srli_epi64(entries, 54));
	return _mm512_mask_srli_epi64(entries, beyond, entries, 24);
}

static inline __m512i outside16(const uint64_t *entries)
{
	return joined(_mm512_srli_epi64(_mm512_load_si512(entries), 24),
		      _mm512_srli_epi64(_mm512_load_si512(entries + 8), 24));
}

/* What their entries say of sixteen addresses. */
static inline __m512i answers16(const uint32_t *addresses, const uint64_t *entries)
{
	__m512i slots = _mm512_srli_epi32(_mm512_loadu_si512(addresses), 26 - WGF_BITS_LARGE);
	slots = _mm512_and_si512(slots, _mm512_set1_epi32(63));
	return joined(answers8(_mm512_load_si512(entries), _mm512_castsi512_si256(slots)),
		      answers8(_mm512_load_si512(entries + 8), _mm512_extracti64x4_epi64(slots, 1)));
}

static inline __mmask16 are_nodes(__m512i answers)
{
	return _mm512_cmpge_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_NODE));
}

struct batch {
	_Alignas(64) uint64_t entries[WGF_LOOKUP_BATCH];
	_Alignas(64) uint32_t said[WGF_LOOKUP_BATCH];  /* where nodes are few: the entries' answers */
	_Alignas(64) uint32_t found[WGF_LOOKUP_BATCH]; /* nodes' answers; the upper byte is not theirs */
	const struct wgf_node4 *nodes[WGF_LOOKUP_BATCH];
	uint32_t list[WGF_LOOKUP_BATCH + 16];
};

/* Where nodes are few: what the entries say comes first, and only those that say a node are looked at. The list is filled
 * up with any, so that how often the loops run is easily predicted. */
static inline void answer_sparse(const struct wgf_trie *trie, const uint32_t *addresses, struct batch *batch)
{
	__m512i index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
	struct lookup_view view = lookup_view(trie);
	_Atomic uint64_t *table = wgf_trie_table(trie);
	size_t count = 0;
#pragma GCC unroll 4
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i++)
		batch->entries[i] = lookup_table(table, addresses[i] >> (32 - WGF_BITS_LARGE));
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 16) {
		__m512i answers = answers16(addresses + i, batch->entries + i);
		__mmask16 nodes = are_nodes(answers);
		_mm512_store_si512(batch->said + i, answers);
		_mm512_storeu_si512(batch->list + count, _mm512_maskz_compress_epi32(nodes, index));
		count += (unsigned)__builtin_popcount(nodes);
		index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
	}
	_mm512_storeu_si512(batch->list + count, _mm512_setzero_si512());
	for (size_t j = 0; j < (count + 7) / 8 * 8; j++) {
		uint32_t i = batch->list[j];
		batch->nodes[i] = lookup4_fetch(view, batch->entries[i]);
	}
	for (size_t j = 0; j < (count + 7) / 8 * 8; j++) {
		uint32_t i = batch->list[j];
		batch->found[i] = lookup4_node(batch->nodes[i], addresses[i], WGF_BITS_LARGE);
	}
}

/* Where they are many, each is fetched as soon as its entry is there, and none is skipped. */
static inline void answer_dense(const struct wgf_trie *trie, const uint32_t *addresses, struct batch *batch)
{
	struct lookup_view view = lookup_view(trie);
	_Atomic uint64_t *table = wgf_trie_table(trie);
#pragma GCC unroll 4
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i++) {
		uint64_t entry = lookup_table(table, addresses[i] >> (32 - WGF_BITS_LARGE));
		batch->entries[i] = entry;
		batch->nodes[i] = lookup4_fetch(view, entry);
	}
#pragma GCC unroll 4
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i++)
		batch->found[i] = lookup4_node(batch->nodes[i], addresses[i], WGF_BITS_LARGE);
}

/* The owners of sixteen, but for those whose answer is yet another node: returns which. */
static inline __mmask16 owners16(const struct batch *batch, unsigned first, __m512i answers, uint32_t *owners)
{
	__m512i found = _mm512_and_si512(_mm512_load_si512(batch->found + first), _mm512_set1_epi32(0xffffff));
	answers = _mm512_mask_mov_epi32(answers, are_nodes(answers), found);
	__mmask16 inherit = _mm512_cmpeq_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_INHERIT));
	answers = _mm512_mask_mov_epi32(answers, inherit, outside16(batch->entries + first));
	__mmask16 none = _mm512_cmpeq_epu32_mask(answers, _mm512_set1_epi32(WGF_ANSWER_NONE));
	_mm512_storeu_si512(owners, _mm512_mask_set1_epi32(answers, none, -1));
	return are_nodes(answers);
}

static inline void lookup64(const struct wgf_trie *trie, const uint32_t *addresses, uint32_t *owners)
{
	struct batch batch;
	uint64_t deep = 0;
	if (atomic_load_explicit(&trie->dense, memory_order_relaxed)) {
		answer_dense(trie, addresses, &batch);
		for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 16) {
			__m512i answers = answers16(addresses + i, batch.entries + i);
			deep |= (uint64_t)owners16(&batch, i, answers, owners + i) << i;
		}
	} else {
		answer_sparse(trie, addresses, &batch);
		for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 16)
			deep |= (uint64_t)owners16(&batch, i, _mm512_load_si512(batch.said + i), owners + i) << i;
	}
	for (; deep; deep &= deep - 1) {
		unsigned i = (unsigned)__builtin_ctzll(deep);
		owners[i] = lookup4_deep(trie, batch.found[i] & 0xffffff, wgf_entry_outside(batch.entries[i]), addresses[i]);
	}
}

void wgf_trie_lookup4_avx512(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	size_t done = 0;
	for (; done + WGF_LOOKUP_BATCH <= n; done += WGF_LOOKUP_BATCH)
		lookup64(trie, addresses + done, owners + done);
	if (done < n)
		lookup4_some(trie, addresses + done, n - done, owners + done, WGF_BITS_LARGE);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#pragma GCC pop_options

#endif
