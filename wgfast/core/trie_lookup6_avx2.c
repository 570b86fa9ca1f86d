/* Lookups of IPv6 for processors with AVX2, level by level as in trie_lookup6.h. Nodes are in the cache before they are looked
 * at, so what counts is how few instructions a node takes, and that none of them is a branch, for it would be mispredicted. */
#include "trie.h"

#if defined(__x86_64__)

#pragma GCC push_options
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,popcnt,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx2,popcnt,bmi,bmi2")
#endif

#include <immintrin.h>

#include "trie_entries_avx2.h"
#include "trie_lookup6.h"

struct batch {
	_Alignas(32) uint8_t bits[WGF_LOOKUP_BATCH][32]; /* as in struct lookup6; the last eight are nobody's */
	_Alignas(32) uint32_t answers[WGF_LOOKUP_BATCH]; /* so far */
	_Alignas(32) uint32_t covers[WGF_LOOKUP_BATCH];
};

static inline __m128i load16(const uint8_t *from)
{
	return _mm_loadu_si128((const __m128i *)(const void *)from);
}

/* ---- Entries ---- */

static inline void invert(const uint8_t *address, uint8_t *bits)
{
	const __m128i backwards = _mm_set_epi8(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m128i inverted = _mm_xor_si128(_mm_shuffle_epi8(load16(address), backwards), _mm_set1_epi32(-1));
	memset(bits, 0xff, 8);
	_mm_storeu_si128((__m128i *)(void *)(bits + 8), inverted);
}

static inline size_t place_of(uint32_t first)
{
	return first >> PLACE_SHIFT;
}

/* Eight addresses; their nodes are fetched. */
static inline void begin8(_Atomic uint64_t *table, struct lookup_view view, const uint8_t *addresses, struct batch *batch,
			  size_t i)
{
	uint32_t first[8];
#pragma GCC unroll 8
	for (unsigned k = 0; k < 8; k++) {
		invert(addresses + 16 * k, batch->bits[i + k]);
		first[k] = wgf_load_be32(addresses + 16 * k);
	}
	__m256i firsts = _mm256_set_epi32((int)first[7], (int)first[6], (int)first[5], (int)first[4], (int)first[3],
					  (int)first[2], (int)first[1], (int)first[0]);
	__m256i even = entries4(table, place_of(first[0]), place_of(first[2]), place_of(first[4]), place_of(first[6]));
	__m256i odd = entries4(table, place_of(first[1]), place_of(first[3]), place_of(first[5]), place_of(first[7]));
	store8(batch->answers + i, answers8(firsts, even, odd));
	store8(batch->covers + i, outside8(even, odd));
#pragma GCC unroll 8
	for (unsigned k = 0; k < 8; k++)
		lookup_fetch(view, batch->answers[i + k]);
}

/* ---- Nodes ---- */

static inline uint64_t with_nodes(const uint32_t *answers)
{
	uint64_t nodes = 0;
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		nodes |= bits8(are_nodes(load8(answers + i))) << i;
	return nodes;
}

/* lookup6_agrees: the carry says whether all bits of the mask are among those that the two have in common. */
static inline uint64_t agrees(const struct wgf_node6 *node, const struct wgf_lookup6_row *row, const uint8_t *bits)
{
	uint64_t all;
	__m128i common = _mm_xor_si128(load16(bits + 8), load16(node->key)); /* bits are inverted */
	__asm__("vptest %[mask], %[common]\n\tsbb %[all], %[all]"
		: [all] "=r"(all)
		: [common] "x"(common), [mask] "m"(row->mask)
		: "cc");
	return all;
}

/* lookup6_step */
static inline void step(struct lookup_view view, struct batch *batch, unsigned i)
{
	const uint8_t *bits = batch->bits[i];
	const struct wgf_node6 *node = lookup_node(view, batch->answers[i]);
	const struct wgf_lookup6_row *row = wgf_node6_row(node);
	uint64_t run = lookup6_run(node, row, bits) & agrees(node, row, bits);
	uint32_t cover = covered(lookup6_answer(node, 0), batch->covers[i]);
	uint32_t answer = covered(lookup6_answer(node, run), cover);
	batch->covers[i] = cover;
	batch->answers[i] = answer;
	lookup_fetch(view, answer);
}

static inline void answer64(const struct wgf_trie *trie, const uint8_t *addresses, uint32_t *owners)
{
	struct batch batch;
	struct lookup_view view = lookup_view(trie);
	uint64_t nodes;
	for (size_t i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		begin8(wgf_trie_table(trie), view, addresses + 16 * i, &batch, i);
	while ((nodes = with_nodes(batch.answers)))
		for (; nodes; nodes &= nodes - 1)
			step(view, &batch, (unsigned)__builtin_ctzll(nodes));
	for (size_t i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		store8(owners + i, owners8(load8(batch.answers + i)));
}

void wgf_trie_lookup6_avx2(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
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
