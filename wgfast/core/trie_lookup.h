/* How a trie is read, for the files that compile it for one instruction set each. Counting a bitmap's bits is
 * one instruction there and a dozen elsewhere. Whole batches of IPv4 have kernels of their own where vectors are wide. */
#ifndef WGF_TRIE_LOOKUP_H
#define WGF_TRIE_LOOKUP_H

#include <string.h>

#include "allowedips.h"
#include "trie.h"

#define WGF_LOOKUP_BATCH 64u /* so many are on their way at once: as many misses overlap as a core can have */
#if defined(__x86_64__)
bool wgf_trie_has_avx512(void);
bool wgf_trie_has_avx2(void);
#endif
/* These two where the table has WGF_BITS_LARGE. */
void wgf_trie_lookup4_avx512(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup4_avx2(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
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

/* ---- IPv4 ---- */

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

/* Nodes below the table's level, for prefixes longer than 24 bits. */
static inline uint32_t lookup4_deep(const struct wgf_trie *trie, uint32_t answer, uint32_t cover,
				    uint32_t address)
{
	unsigned depth = trie->bits;
	while (answer >= WGF_ANSWER_NODE) {
		depth += WGF_STRIDE;
		const struct wgf_node4 *node = wgf_trie_node(trie, answer - WGF_ANSWER_NODE);
		cover = lookup_covered(wgf_load_le32(node->cover), cover);
		unsigned slot = (unsigned)((uint64_t)address << 32 << depth >> 58);
		answer = lookup4_node(node, slot, WGF_HEADER4) & 0xffffff;
	}
	return lookup_owner(lookup_covered(answer, cover));
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

/* With the line after the one it begins in, where the answer may be. */
static inline void lookup4_prefetch(const struct wgf_node4 *node)
{
	__builtin_prefetch(node);
	__builtin_prefetch((const char *)node + 28);
}

/* The node that an entry says is inside, or, so that there always is one, the empty one; fetched. */
static inline const struct wgf_node4 *lookup4_fetch(struct lookup_view view, uint32_t inside)
{
	uint32_t answer = inside > view.least ? inside : view.least;
	const struct wgf_node4 *node = (const struct wgf_node4 *)(view.base + (uintptr_t)answer * WGF_UNIT);
	lookup4_prefetch(node);
	return node;
}

/* Of the table's level. */
static inline uint32_t lookup4_first(const struct wgf_node4 *node, uint32_t address, unsigned bits)
{
	return lookup4_node(node, address >> (26 - bits) & 63, WGF_HEADER4_TABLE);
}

/* At most WGF_LOOKUP_BATCH: all nodes are fetched before the first is looked at. */
static inline void lookup4_some(const struct wgf_trie *trie, const uint32_t *addresses, size_t n,
				uint32_t *owners, unsigned bits)
{
	uint64_t entries[WGF_LOOKUP_BATCH];
	const struct wgf_node4 *nodes[WGF_LOOKUP_BATCH];
	uint32_t answers[WGF_LOOKUP_BATCH], all = 0;
	struct lookup_view view = lookup_view(trie);
	_Atomic uint64_t *table = wgf_trie_table(trie);
	for (size_t i = 0; i < n; i++) {
		entries[i] = lookup_table(table, addresses[i] >> (32 - bits));
		nodes[i] = lookup4_fetch(view, wgf_entry_inside(entries[i]));
	}
	for (size_t i = 0; i < n; i++) {
		uint32_t answer = wgf_entry_answer(entries[i], addresses[i] >> (26 - bits) & 63);
		uint32_t found = lookup4_first(nodes[i], addresses[i], bits) & 0xffffff;
		answer ^= (answer ^ found) & -(uint32_t)(answer >= WGF_ANSWER_NODE);
		answers[i] = lookup_covered(answer, wgf_entry_outside(entries[i]));
		owners[i] = lookup_owner(answers[i]);
		all |= answers[i];
	}
	if (all < WGF_ANSWER_NODE)
		return;
	for (size_t i = 0; i < n; i++)
		if (answers[i] >= WGF_ANSWER_NODE)
			owners[i] = lookup4_deep(trie, answers[i], wgf_entry_outside(entries[i]), addresses[i]);
}

static inline void lookup4(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	for (size_t done = 0; done < n; done += WGF_LOOKUP_BATCH) {
		size_t some = n - done < WGF_LOOKUP_BATCH ? n - done : WGF_LOOKUP_BATCH;
		if (trie->bits == WGF_BITS_LARGE)
			lookup4_some(trie, addresses + done, some, owners + done, WGF_BITS_LARGE);
		else
			lookup4_some(trie, addresses + done, some, owners + done, WGF_BITS_SMALL);
	}
}

/* ---- IPv6: level by level, so that all addresses of a batch wait for their nodes together ---- */

struct lookups6 {
	uint8_t address[WGF_LOOKUP_BATCH][24]; /* and zeros, so that there are six bits at every depth */
	uint32_t answer[WGF_LOOKUP_BATCH];
	uint32_t cover[WGF_LOOKUP_BATCH];
	uint8_t nodes[WGF_LOOKUP_BATCH]; /* which of them have another node to look at */
};

/* The first bits of an address, as in a packet; in trie_lookup.c. */
extern const uint8_t wgf_lookup_masks[129][16];

static inline uint64_t lookup6_word(const uint8_t *p)
{
	uint64_t word;
	memcpy(&word, p, sizeof(word));
	return word;
}

/* The node that an answer leads to, as soon as the answer is there; else the empty one, for a branch would be mispredicted. */
static inline void lookup6_fetch(struct lookup_view view, uint32_t answer)
{
	answer = answer > view.least ? answer : view.least;
	__builtin_prefetch((const char *)(view.base + (uintptr_t)answer * WGF_UNIT));
}

/* One node: another one, or the answer. A leaf has one answer, whatever stands where others have their bitmap. */
static inline uint32_t lookup6_step(const struct wgf_trie *trie, const uint8_t *address, uint32_t at, uint32_t *cover)
{
	const struct wgf_node6 *node = wgf_trie_node(trie, at - WGF_ANSWER_NODE);
	uint32_t is = node->is, leaf = is >> 23 & 1, bits = is >> 24;
	const uint8_t *mask = wgf_lookup_masks[bits];
	uint64_t differs = (lookup6_word(address) ^ lookup6_word(node->key)) & lookup6_word(mask);
	differs |= (lookup6_word(address + 8) ^ lookup6_word(node->key + 8)) & lookup6_word(mask + 8);
	unsigned slot = (unsigned)wgf_load_be16(address + bits / 8) >> (10 - bits % 8) & 63;
	unsigned index = wgf_node_run(node->bitmap & ((uint64_t)leaf - 1), slot);
	uint32_t answer = wgf_answer((const char *)node + WGF_HEADER6 - 8 * leaf, index);
	*cover = lookup_covered(is & WGF_COVER, *cover);
	answer ^= (answer ^ WGF_ANSWER_INHERIT) & -(uint32_t)(differs != 0);
	return lookup_covered(answer, *cover);
}

static inline void lookup6_batch(const struct wgf_trie *trie, const uint8_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct lookups6 lookups;
	_Atomic uint64_t *table = wgf_trie_table(trie);
	unsigned bits = trie->bits;
	size_t left = 0;
	struct lookup_view view = lookup_view(trie);
	for (size_t i = 0; i < n; i++) {
		memcpy(lookups.address[i], addresses + 16 * i, 16);
		memset(lookups.address[i] + 16, 0, 8);
		uint32_t first = wgf_load_be32(addresses + 16 * i);
		uint64_t entry = lookup_table(table, first >> (32 - bits));
		uint32_t answer = wgf_entry_answer(entry, first >> (26 - bits) & 63);
		lookups.answer[i] = answer;
		lookups.cover[i] = wgf_entry_outside(entry);
		lookup6_fetch(view, answer);
		lookups.nodes[left] = (uint8_t)i;
		left += answer >= WGF_ANSWER_NODE;
	}
	while (left > 0) {
		size_t on = 0;
		for (size_t j = 0; j < left; j++) {
			size_t i = lookups.nodes[j];
			uint32_t answer = lookup6_step(trie, lookups.address[i], lookups.answer[i], &lookups.cover[i]);
			lookups.answer[i] = answer;
			lookup6_fetch(view, answer);
			lookups.nodes[on] = (uint8_t)i;
			on += answer >= WGF_ANSWER_NODE;
		}
		left = on;
	}
	for (size_t i = 0; i < n; i++)
		owners[i] = lookup_owner(lookups.answer[i]);
}

static inline void lookup6(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	for (size_t done = 0; done < n; done += WGF_LOOKUP_BATCH) {
		size_t some = n - done < WGF_LOOKUP_BATCH ? n - done : WGF_LOOKUP_BATCH;
		lookup6_batch(trie, addresses + 16 * done, some, owners + done);
	}
}

#endif
