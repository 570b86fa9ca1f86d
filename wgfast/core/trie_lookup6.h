/* How a trie is read that skips, of IPv6 or a small one: level by level, so that all addresses of a batch wait for their
 * nodes together. Which of them have another node to look at are bits of a word: a list that shrinks while it is read took a
 * sixth more time, it seems because no entry can be read before it is known where the ones before were written. */
#ifndef WGF_TRIE_LOOKUP6_H
#define WGF_TRIE_LOOKUP6_H

#include "trie_lookup.h"

struct lookup6 {
	uint8_t bits[24]; /* the address inverted, lowest byte first, behind ones, so that there are six bits at every depth */
	uint32_t answer;  /* so far */
	uint32_t cover;   /* of the node that it leads to, where that does not know */
};

/* Which of a node's runs the address is in, from 1 on. Inverted, the slot is how many slots lie behind it. */
static inline uint64_t lookup6_run(const struct wgf_node6 *node, const struct wgf_lookup6_row *row, const uint8_t *bits)
{
	unsigned behind = (unsigned)wgf_load_le16(bits + row->at) >> row->shift & 63;
	return (uint64_t)__builtin_popcountll(node->bitmap << behind);
}

/* The answer of a run, or of none the cover, which lies before them. The byte before each is read with it: the last one may
 * end where the node does. */
static inline uint32_t lookup6_answer(const struct wgf_node6 *node, uint64_t run)
{
	return wgf_load_le32((const uint8_t *)node + WGF_HEADER6 - 4 + 3 * run) >> 8;
}

static inline uint64_t lookup6_word(const uint8_t *p)
{
	uint64_t word;
	memcpy(&word, p, sizeof(word));
	return word;
}

/* All bits set if the address begins with the node's bits, else none. */
static inline uint64_t lookup6_agrees(const struct wgf_node6 *node, const struct wgf_lookup6_row *row, const uint8_t *bits)
{
	const uint8_t *key = node->key, *mask = row->mask;
	uint64_t differs = ~(lookup6_word(bits + 8) ^ lookup6_word(key)) & lookup6_word(mask);
	differs |= ~(lookup6_word(bits + 16) ^ lookup6_word(key + 8)) & lookup6_word(mask + 8);
	return -(uint64_t)(differs == 0);
}

/* One node: another one, or the answer. */
static inline void lookup6_step(struct lookup_view view, struct lookup6 *lookup)
{
	const struct wgf_node6 *node = lookup_node(view, lookup->answer);
	const struct wgf_lookup6_row *row = wgf_node6_row(node);
	uint64_t run = lookup6_run(node, row, lookup->bits) & lookup6_agrees(node, row, lookup->bits);
	lookup->cover = lookup_covered(lookup6_answer(node, 0), lookup->cover);
	lookup->answer = lookup_covered(lookup6_answer(node, run), lookup->cover);
}

static inline void lookup6_begin(const struct wgf_trie *trie, uint64_t high, uint64_t low, struct lookup6 *lookup)
{
	memset(lookup->bits, 0xff, 8);
	wgf_store_le64(lookup->bits + 8, ~low);
	wgf_store_le64(lookup->bits + 16, ~high);
	uint64_t entry = lookup_table(wgf_trie_table(trie), (size_t)(high >> (64 - trie->bits)));
	lookup->answer = wgf_entry_answer(entry, (unsigned)(high >> (64 - WGF_STRIDE - trie->bits)) & 63);
	lookup->cover = wgf_entry_outside(entry);
}

/* Those that were begun, all the way down. */
static inline void lookup6_finish(const struct wgf_trie *trie, struct lookup6 *lookups, size_t n, uint32_t *owners)
{
	struct lookup_view view = lookup_view(trie);
	uint64_t nodes = 0;
	for (size_t i = 0; i < n; i++) {
		lookup_fetch(view, lookups[i].answer);
		nodes |= (uint64_t)(lookups[i].answer >= WGF_ANSWER_NODE) << i;
	}
	for (uint64_t on; nodes; nodes = on)
		for (on = 0; nodes; nodes &= nodes - 1) {
			unsigned i = (unsigned)__builtin_ctzll(nodes);
			lookup6_step(view, &lookups[i]);
			lookup_fetch(view, lookups[i].answer);
			on |= (uint64_t)(lookups[i].answer >= WGF_ANSWER_NODE) << i;
		}
	for (size_t i = 0; i < n; i++)
		owners[i] = lookup_owner(lookups[i].answer);
}

static inline void lookup6_batch(const struct wgf_trie *trie, const uint8_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct lookup6 lookups[WGF_LOOKUP_BATCH];
	for (size_t i = 0; i < n; i++, addresses += 16)
		lookup6_begin(trie, wgf_load_be64(addresses), wgf_load_be64(addresses + 8), &lookups[i]);
	lookup6_finish(trie, lookups, n, owners);
}

/* IPv4 in a small trie. */
static inline void lookup4_small(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	struct lookup6 lookups[WGF_LOOKUP_BATCH];
	for (size_t i = 0; i < n; i++)
		lookup6_begin(trie, (uint64_t)addresses[i] << 32, 0, &lookups[i]);
	lookup6_finish(trie, lookups, n, owners);
}

static inline void lookup6(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	for (size_t done = 0; done < n; done += WGF_LOOKUP_BATCH) {
		size_t some = n - done < WGF_LOOKUP_BATCH ? n - done : WGF_LOOKUP_BATCH;
		lookup6_batch(trie, addresses + 16 * done, some, owners + done);
	}
}

static inline void lookup4(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	for (size_t done = 0; done < n; done += WGF_LOOKUP_BATCH) {
		size_t some = n - done < WGF_LOOKUP_BATCH ? n - done : WGF_LOOKUP_BATCH;
		if (trie->skips)
			lookup4_small(trie, addresses + done, some, owners + done);
		else
			lookup4_some(trie, addresses + done, some, owners + done);
	}
}

#endif
