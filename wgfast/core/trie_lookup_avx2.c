/* Lookups of IPv4 for processors with AVX2: what eight entries say is worked out at once, nodes are looked at one by one.
 * All lines that a batch needs are asked for before the first is waited for, first the table's and then the nodes': that
 * is most of the time once they come from the last cache, and looking at some nodes while others are on their way was
 * slower. What was stored one by one and is loaded together must first reach the cache, so whole batches lie between the
 * two; and no answer is chosen by what a compiler could make a branch, for it would be mispredicted. */
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

bool wgf_trie_has_avx2(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") &&
	       __builtin_cpu_supports("bmi2");
}

struct batch {
	struct eight entries[WGF_LOOKUP_BATCH / 8];
	const struct wgf_node4 *nodes[WGF_LOOKUP_BATCH]; /* to be looked at */
	_Alignas(32) uint32_t covers[WGF_LOOKUP_BATCH];  /* what entries say is outside */
	_Alignas(32) uint32_t found[WGF_LOOKUP_BATCH];   /* the nodes' answers; the upper byte is not theirs */
	_Alignas(32) uint32_t inherits[WGF_LOOKUP_BATCH]; /* lowest bit: the answer is INHERIT, whatever was found */
};

/* Two addresses in one load: the entry of the first, that of the second. */
static inline uint64_t pair(const uint32_t *addresses)
{
	uint64_t two;
	memcpy(&two, addresses, sizeof(two));
	return two;
}

static inline size_t first_place(uint64_t two)
{
	return (uint32_t)two >> PLACE_SHIFT;
}

static inline size_t second_place(uint64_t two)
{
	return (size_t)(two >> (32 + PLACE_SHIFT));
}

static inline uint64_t run_of(const struct wgf_node4 *node, uint32_t address)
{
	return (uint64_t)__builtin_popcountll(node->bitmap << (~(address >> SLOT_SHIFT) & 63));
}

/* The upper byte is not the answer's. */
static inline uint32_t found_at(const struct wgf_node4 *node, uint64_t run, uint64_t inherits)
{
	uint64_t left_out = (uint64_t)__builtin_popcountll(_bzhi_u64(inherits, (unsigned)run + 1));
	return wgf_load_le32((const uint8_t *)node + WGF_HEADER4_TABLE + 3 * (run - left_out));
}

/* lookup4_node at the table's level, the choice of INHERIT left to who has eight. */
static inline void look(struct batch *batch, size_t to, const struct wgf_node4 *node, uint32_t address)
{
	uint64_t inherits = node->inherits, run = run_of(node, address);
	batch->found[to] = found_at(node, run, inherits);
	batch->inherits[to] = (uint32_t)(inherits >> run);
}

static inline void keep_covers(struct batch *batch)
{
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		store8(batch->covers + i, outside8(load4(batch->entries[i / 8].even), load4(batch->entries[i / 8].odd)));
}

static inline uint64_t with_nodes(const uint32_t *owners)
{
	uint64_t nodes = 0;
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		nodes |= bits8(are_nodes(load8(owners + i))) << i;
	return nodes;
}

/* Those whose answer is yet another node, as it stands among the owners. */
static void look_deeper(const struct wgf_trie *trie, const uint32_t *addresses, struct batch *batch, uint32_t *owners)
{
	keep_covers(batch);
	lookup4_deeper(trie, addresses, with_nodes(owners), batch->covers, owners);
}

/* ---- Where nodes are few: only those that entries lead to are looked at ---- */

/* Returns what the entries of eight say, which it keeps. */
static inline __m256i say8(_Atomic uint64_t *table, const uint32_t *addresses, struct eight *entries)
{
	uint64_t a = pair(addresses), b = pair(addresses + 2), c = pair(addresses + 4), d = pair(addresses + 6);
	__m256i even = entries4(table, first_place(a), first_place(b), first_place(c), first_place(d));
	__m256i odd = entries4(table, second_place(a), second_place(b), second_place(c), second_place(d));
	store4(entries->even, even);
	store4(entries->odd, odd);
	return answers8(load8(addresses), even, odd);
}

/* lookup4_node at the table's level and lookup_covered. */
static inline uint32_t visit(const struct wgf_node4 *node, uint32_t address, uint32_t cover)
{
	uint64_t inherits = node->inherits, run = run_of(node, address);
	uint32_t answer = found_at(node, run, inherits) & 0xffffff;
	__asm__("bt %[run], %[inherits]\n\tcmovc %[cover], %[answer]"
		: [answer] "+r"(answer)
		: [run] "r"(run), [inherits] "r"(inherits), [cover] "r"(cover)
		: "cc");
	return covered(answer, cover);
}

/* which: of the batch lead to a node, which is among the owners. Returns all their answers, one over the other. */
static inline uint32_t visit_some(const struct wgf_trie *trie, const uint32_t *addresses, struct batch *batch,
				  uint64_t which, uint32_t *owners)
{
	struct lookup_view view = lookup_view(trie);
	uint32_t all = 0;
	for (uint64_t left = which; left; left &= left - 1)
		__builtin_prefetch(lookup_node(view, owners[__builtin_ctzll(left)]));
	keep_covers(batch);
	for (; which; which &= which - 1) {
		unsigned i = (unsigned)__builtin_ctzll(which);
		uint32_t answer = visit(lookup_node(view, owners[i]), addresses[i], batch->covers[i]);
		all |= answer;
		owners[i] = owner(answer);
	}
	return all;
}

static inline void answer_sparse(const struct wgf_trie *trie, const uint32_t *addresses, uint32_t *owners)
{
	struct batch batch;
	_Atomic uint64_t *table = wgf_trie_table(trie);
	uint64_t nodes = 0;
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8) {
		__m256i said = say8(table, addresses + i, &batch.entries[i / 8]);
		store8(owners + i, owners8(said));
		nodes |= bits8(are_nodes(said)) << i;
	}
	if (nodes && visit_some(trie, addresses, &batch, nodes, owners) >= WGF_ANSWER_NODE)
		look_deeper(trie, addresses, &batch, owners);
}

/* ---- Where they are many: a node for every address, the empty one where an entry leads to none ---- */

/* lookup_fetch; in 64 bits, for of 32 gcc 12 finds the larger one in a vector register. */
static inline const struct wgf_node4 *fetch(struct lookup_view view, uint64_t entry)
{
	uint64_t inside = entry & 0xffffff, least = view.least;
	const struct wgf_node4 *node = (const struct wgf_node4 *)(view.base + (inside > least ? inside : least) * WGF_UNIT);
	__builtin_prefetch(node);
	return node;
}

static inline void fetch_entries(_Atomic uint64_t *table, const uint32_t *addresses)
{
#pragma GCC unroll 8
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 2) {
		uint64_t two = pair(addresses + i);
		__builtin_prefetch((const char *)table + sizeof(uint64_t) * first_place(two));
		__builtin_prefetch((const char *)table + sizeof(uint64_t) * second_place(two));
	}
}

static inline void fetch_nodes8(_Atomic uint64_t *table, struct lookup_view view, const uint32_t *addresses,
				struct eight *entries, const struct wgf_node4 **nodes)
{
#pragma GCC unroll 4
	for (unsigned k = 0; k < 4; k++) {
		uint64_t two = pair(addresses + 2 * k);
		uint64_t even = lookup_table(table, first_place(two)), odd = lookup_table(table, second_place(two));
		entries->even[k] = even;
		entries->odd[k] = odd;
		nodes[2 * k] = fetch(view, even);
		nodes[2 * k + 1] = fetch(view, odd);
	}
}

/* The answers of eight, an owner or another node. */
static inline __m256i settle8(const struct batch *batch, unsigned i, const uint32_t *addresses)
{
	const struct eight *entries = &batch->entries[i / 8];
	__m256i even = load4(entries->even), odd = load4(entries->odd), said = answers8(load8(addresses + i), even, odd);
	__m256i found = _mm256_and_si256(load8(batch->found + i), _mm256_set1_epi32(0xffffff));
	__m256i inherits = _mm256_cmpeq_epi32(found, _mm256_set1_epi32(WGF_ANSWER_INHERIT));
	inherits = _mm256_or_si256(inherits, _mm256_slli_epi32(load8(batch->inherits + i), 31));
	__m256 answers = _mm256_blendv_ps(_mm256_castsi256_ps(found), _mm256_castsi256_ps(outside8(even, odd)),
					  _mm256_castsi256_ps(inherits));
	return _mm256_blendv_epi8(said, _mm256_castps_si256(answers), are_nodes(said));
}

static inline void answer_dense(const struct wgf_trie *trie, const uint32_t *addresses, uint32_t *owners)
{
	struct batch batch;
	__m256i all = _mm256_setzero_si256();
	struct lookup_view view = lookup_view(trie);
	fetch_entries(wgf_trie_table(trie), addresses);
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
		fetch_nodes8(wgf_trie_table(trie), view, addresses + i, &batch.entries[i / 8], batch.nodes + i);
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8)
#pragma GCC unroll 8
		for (unsigned k = i; k < i + 8; k++)
			look(&batch, k, batch.nodes[k], addresses[k]);
	for (unsigned i = 0; i < WGF_LOOKUP_BATCH; i += 8) {
		__m256i answers = settle8(&batch, i, addresses);
		all = _mm256_or_si256(all, answers);
		store8(owners + i, owners8(answers));
	}
	if (!_mm256_testz_si256(all, _mm256_set1_epi32((int)(UINT32_C(0x1000000) - WGF_ANSWER_NODE))))
		look_deeper(trie, addresses, &batch, owners);
}

void wgf_trie_lookup4_avx2(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	size_t done = 0;
	for (; done + WGF_LOOKUP_BATCH <= n; done += WGF_LOOKUP_BATCH)
		if (atomic_load_explicit(&trie->dense, memory_order_relaxed))
			answer_dense(trie, addresses + done, owners + done);
		else
			answer_sparse(trie, addresses + done, owners + done);
	if (done < n)
		lookup4_some(trie, addresses + done, n - done, owners + done);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#pragma GCC pop_options

#endif
