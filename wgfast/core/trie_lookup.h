/* How a trie is read, for the files that compile it for one instruction set each: a large one of IPv4 here, those that skip
 * in trie_lookup6.h. Counting a bitmap's bits is one instruction there and a dozen elsewhere. Whole batches have kernels of
 * their own where vectors are wide. */
#ifndef WGF_TRIE_LOOKUP_H
#define WGF_TRIE_LOOKUP_H

#include <string.h>

#include "allowedips.h"
#include "trie.h"

/* Of IPv4's addresses: what stands before the place in a large table, and before the slot at its level. */
#define PLACE_SHIFT (32 - WGF_BITS_LARGE)
#define SLOT_SHIFT (PLACE_SHIFT - WGF_STRIDE)

#define WGF_LOOKUP_BATCH 64u /* so many are on their way at once: as many misses overlap as a core can have */
#if defined(__x86_64__)
bool wgf_trie_has_avx512(void);
bool wgf_trie_gathers(void);
bool wgf_trie_has_vbmi2(void);
bool wgf_trie_has_avx2(void);
#endif
/* These where the table has WGF_BITS_LARGE. */
void wgf_trie_lookup4_intel(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup4_avx512(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup4_avx2(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup6_avx512(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup6_avx2(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup4_bmi(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup6_bmi(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners);

static inline uint64_t lookup_table(_Atomic uint64_t *table, size_t place)
{
	return atomic_load_explicit(&table[place], memory_order_acquire);
}

/* These two by arithmetic, for a branch would be mispredicted. */
static inline uint32_t lookup_owner(uint32_t answer)
{
	return answer | -(uint32_t)(answer == WGF_ANSWER_NONE);
}

static inline uint32_t lookup_covered(uint32_t answer, uint32_t cover)
{
	return answer ^ ((answer ^ cover) & -(uint32_t)(answer == WGF_ANSWER_INHERIT));
}

/* What it says of a slot; the upper byte is not the answer's. Where the run inherits, what is read instead of its answer
 * is the node's own as well. */
static inline uint32_t lookup4_node(const struct wgf_node4 *node, unsigned slot, size_t header)
{
	uint64_t inherits = node->inherits;
	unsigned run = wgf_node_run(node->bitmap, slot);
	size_t index = wgf_node4_answered(inherits, run);
	uint32_t answer = wgf_load_le32((const uint8_t *)node + header - 3 + 3 * index);
	return answer ^ ((answer ^ WGF_ANSWER_INHERIT) & -(uint32_t)(inherits >> run & 1));
}

/* What of a trie a lookup needs over and over, so that stores in between do not make the compiler load it again. */
struct lookup_view {
	uintptr_t base;  /* so that an answer times the size of a unit leads to its node */
	uint32_t least;  /* the answer that leads to the empty node; none that leads to a node is below it */
};

static inline struct lookup_view lookup_view(const struct wgf_trie *trie)
{
	return (struct lookup_view){(uintptr_t)trie->base - (uintptr_t)WGF_ANSWER_NODE * WGF_UNIT,
				    WGF_ANSWER_NODE + trie->nowhere};
}

static inline const void *lookup_node(struct lookup_view view, uint32_t answer)
{
	return (const void *)(view.base + (uintptr_t)answer * WGF_UNIT);
}

/* The node that an answer leads to, or, so that there always is one, the empty one; fetched. */
static inline const void *lookup_fetch(struct lookup_view view, uint32_t answer)
{
	const void *node = lookup_node(view, answer > view.least ? answer : view.least);
	__builtin_prefetch(node);
	return node;
}

/* Nodes below the table's level, for prefixes longer than 24 bits, level by level, so that those that need them wait together.
 * which: of the batch, where an owner is still a node; covers: what their entries say is outside. */
static inline void lookup4_deeper(const struct wgf_trie *trie, const uint32_t *addresses, uint64_t which, uint32_t *covers,
				  uint32_t *owners)
{
	struct lookup_view view = lookup_view(trie);
	unsigned depth = WGF_BITS_LARGE;
	for (uint64_t left = which; left; left &= left - 1)
		lookup_fetch(view, owners[__builtin_ctzll(left)]);
	for (uint64_t on; which; which = on) {
		depth += WGF_STRIDE;
		for (on = 0; which; which &= which - 1) {
			unsigned i = (unsigned)__builtin_ctzll(which);
			const struct wgf_node4 *node = lookup_node(view, owners[i]);
			unsigned slot = (unsigned)((uint64_t)addresses[i] << 32 << depth >> 58);
			covers[i] = lookup_covered(wgf_load_le32(node->cover), covers[i]);
			uint32_t answer = lookup_covered(lookup4_node(node, slot, WGF_HEADER4) & 0xffffff, covers[i]);
			lookup_fetch(view, answer);
			owners[i] = lookup_owner(answer);
			on |= (uint64_t)(answer >= WGF_ANSWER_NODE) << i;
		}
	}
}

/* At most WGF_LOOKUP_BATCH: all nodes are fetched before the first is looked at. */
static inline void lookup4_some(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	uint64_t entries[WGF_LOOKUP_BATCH], deep = 0;
	const struct wgf_node4 *nodes[WGF_LOOKUP_BATCH];
	uint32_t covers[WGF_LOOKUP_BATCH];
	struct lookup_view view = lookup_view(trie);
	_Atomic uint64_t *table = wgf_trie_table(trie);
	for (size_t i = 0; i < n; i++) {
		entries[i] = lookup_table(table, addresses[i] >> PLACE_SHIFT);
		nodes[i] = lookup_fetch(view, wgf_entry_inside(entries[i]));
	}
	for (size_t i = 0; i < n; i++) {
		unsigned slot = addresses[i] >> SLOT_SHIFT & (WGF_NODE_SLOTS - 1);
		uint32_t answer = wgf_entry_answer(entries[i], slot);
		uint32_t found = lookup4_node(nodes[i], slot, WGF_HEADER4_TABLE) & 0xffffff;
		covers[i] = wgf_entry_outside(entries[i]);
		answer ^= (answer ^ found) & -(uint32_t)(answer >= WGF_ANSWER_NODE);
		answer = lookup_covered(answer, covers[i]);
		owners[i] = lookup_owner(answer);
		deep |= (uint64_t)(answer >= WGF_ANSWER_NODE) << i;
	}
	if (deep)
		lookup4_deeper(trie, addresses, deep, covers, owners);
}

#endif
