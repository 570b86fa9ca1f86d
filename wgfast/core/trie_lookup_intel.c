/* Lookups of IPv4 for Intel's processors from Sapphire Rapids on. They look so far ahead in a program that most of a batch is
 * on its way together without being asked for, so what counts is that it has few instructions: fetching nodes beforehand,
 * as trie_lookup_avx512.c does, takes a tenth more time. Entries and answers are gathered, which is quick here and nowhere
 * else: slow on AMD's, and on older ones of Intel's since it was made safe (Downfall). */
#include "trie.h"

#if defined(__x86_64__)

#pragma GCC push_options
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512ifma,popcnt,bmi,bmi2"))), \
			     apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512vpopcntdq,avx512ifma,popcnt,bmi,bmi2")
#endif

#include <cpuid.h>

#include "trie_entries_avx512.h"

/* AVX512-FP16 came with Sapphire Rapids. ThreadSanitizer does not see what a gather reads, nor that it is in order. */
bool wgf_trie_gathers(void)
{
#if defined(__SANITIZE_THREAD__)
	return false;
#else
	unsigned a, b, c, d;
	return wgf_trie_has_avx512() && __builtin_cpu_is("intel") && __get_cpuid_count(7, 0, &a, &b, &c, &d) && d >> 23 & 1;
#endif
}

#define FEW 4u /* of a batch: if entries lead to no more nodes, they are looked at one by one */

struct batch {
	__m512i entries[WGF_LOOKUP_BATCH / 8];
};

/* ---- Loads ---- */

static inline __m512i entries8(const struct wgf_trie *trie, const uint32_t *addresses)
{
	__m256i eight = _mm256_loadu_si256((const __m256i *)(const void *)addresses);
	return _mm512_i32gather_epi64(_mm256_srli_epi32(eight, PLACE_SHIFT), (const void *)trie->base, sizeof(uint64_t));
}

/* Answers that stand at sixteen places. */
static inline __m512i load16(__m512i low, __m512i high)
{
	__m512i found = _mm512_castsi256_si512(_mm512_i64gather_epi32(low, NULL, 1));
	found = _mm512_inserti64x4(found, _mm512_i64gather_epi32(high, NULL, 1), 1);
	return _mm512_and_si512(found, _mm512_set1_epi32(0xffffff));
}

static inline struct halves halves(const struct batch *batch, unsigned i)
{
	return halves16(batch->entries[2 * i], batch->entries[2 * i + 1]);
}

/* ---- Answers ---- */

/* Sixteen; returns which answers are nodes. */
static inline uint64_t settle(struct halves entries, unsigned i, __m512i answers, uint32_t *owners)
{
	_mm512_storeu_si512(owners + 16 * i, owners16(answers, entries));
	return (uint64_t)are_nodes(answers) << 16 * i;
}

/* Where entries lead to few nodes: to each address that is in one by itself. */
static inline void ask_entries(const struct wgf_trie *trie, const uint32_t *addresses, const struct batch *batch,
			       uint32_t *owners)
{
	uint64_t left = 0;
	for (unsigned i = 0; i < 4; i++) {
		struct halves entries = halves(batch, i);
		left |= settle(entries, i, answers16(entries, slots16(addresses + 16 * i)), owners);
	}
	for (; left; left &= left - 1) {
		unsigned i = (unsigned)__builtin_ctzll(left);
		lookup4_some(trie, addresses + i, 1, owners + i);
	}
}

/* For longer prefixes than 24 bits. which: has yet another node among the owners. */
static void look_deeper(const struct wgf_trie *trie, const uint32_t *addresses, const struct batch *batch, uint64_t which,
			uint32_t *owners)
{
	uint32_t covers[WGF_LOOKUP_BATCH];
	for (unsigned i = 0; i < 4; i++)
		_mm512_storeu_si512(covers + 16 * i, outside16(halves(batch, i)));
	lookup4_deeper(trie, addresses, which, covers, owners);
}

/* Where they lead to many. One that leads to none is taken for one that leads to the empty node. */
static inline void ask_nodes(const struct wgf_trie *trie, const uint32_t *addresses, const struct batch *batch,
			     uint32_t *owners)
{
	struct lookup_view view = lookup_view(trie);
	_Alignas(64) const void *nodes[WGF_LOOKUP_BATCH];
	struct located located[WGF_LOOKUP_BATCH / 8];
	uint64_t left = 0;
#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++)
		store_apart(nodes + 8 * i, nodes8(view, batch->entries[i], 0));
#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++)
		located[i] = locate8((const struct wgf_node4 *const *)(nodes + 8 * i),
				     nodes8(view, batch->entries[i], BEFORE_ANSWERS), slots8(addresses + 8 * i));
#pragma GCC unroll 4
	for (unsigned i = 0; i < 4; i++) {
		struct halves entries = halves(batch, i);
		__m512i said = answers16(entries, slots16(addresses + 16 * i));
		struct located low = located[2 * i], high = located[2 * i + 1];
		__m512i found = load16(low.places, high.places);
		__mmask16 inherit = (__mmask16)(low.inherit | high.inherit << 8);
		found = _mm512_mask_set1_epi32(found, inherit, WGF_ANSWER_INHERIT);
		left |= settle(entries, i, _mm512_mask_mov_epi32(said, are_nodes(said), found), owners);
	}
	if (left)
		look_deeper(trie, addresses, batch, left, owners);
}

/* Do entries lead to more than a few nodes? */
static inline bool lead_to_nodes(const struct batch *batch)
{
	const __m512i one = _mm512_set1_epi64(1), node = _mm512_set1_epi64(0x1000000 - WGF_ANSWER_NODE);
	__m512i leading = _mm512_setzero_si512();
	for (unsigned i = 0; i < 8; i++)
		leading = _mm512_mask_add_epi64(leading, _mm512_test_epi64_mask(batch->entries[i], node), leading, one);
	return _mm512_reduce_add_epi64(leading) > FEW;
}

static inline void answer64(const struct wgf_trie *trie, const uint32_t *addresses, uint32_t *owners)
{
	struct batch batch;
#pragma GCC unroll 8
	for (unsigned i = 0; i < 8; i++)
		batch.entries[i] = entries8(trie, addresses + 8 * i);
	if (atomic_load_explicit(&trie->dense, memory_order_relaxed) || lead_to_nodes(&batch))
		ask_nodes(trie, addresses, &batch, owners);
	else
		ask_entries(trie, addresses, &batch, owners);
}

void wgf_trie_lookup4_intel(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	size_t done = 0;
	for (; done + WGF_LOOKUP_BATCH <= n; done += WGF_LOOKUP_BATCH)
		answer64(trie, addresses + done, owners + done);
	if (done < n)
		lookup4_some(trie, addresses + done, n - done, owners + done);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#pragma GCC pop_options

#endif
