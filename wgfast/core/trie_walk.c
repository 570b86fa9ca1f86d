/* All of a trie's records in order. A node's own list is in order; what its children have stands between those
 * that begin at or before the child's slot, which are shorter, and those that begin behind it. */
#include "trie_build.h"

struct walk {
	const struct wgf_trie *trie;
	bool (*visit)(void *context, uint32_t number);
	void *context;
	bool over;
};

static unsigned slot_of(const struct walk *walk, uint32_t number, unsigned depth)
{
	const struct wgf_record *record = wgf_prefixes_at(walk->trie->prefixes, number);
	return wgf_key_slot(wgf_record_key(walk->trie->prefixes, record), depth);
}

/* Visits the list as far as it begins at or before the slot; returns the rest. */
static uint32_t visit_until(struct walk *walk, uint32_t number, unsigned slot, unsigned depth)
{
	while (number && !walk->over && slot_of(walk, number, depth) <= slot) {
		uint32_t next = wgf_prefixes_at(walk->trie->prefixes, number)->next;
		walk->over = !walk->visit(walk->context, number);
		number = next;
	}
	return number;
}

/* No deeper than addresses have strides. */
static void visit_node(struct walk *walk, uint32_t at, uint32_t list, unsigned depth)
{
	const struct wgf_trie *trie = walk->trie;
	struct wgf_runs runs;
	uint32_t answer;
	wgf_runs_begin(&runs, trie, at, depth);
	while (!walk->over && wgf_runs_next(&runs, &answer)) {
		if (answer < WGF_ANSWER_NODE)
			continue;
		uint32_t child = answer - WGF_ANSWER_NODE;
		list = visit_until(walk, list, runs.slot, depth);
		visit_node(walk, child, wgf_node_list(trie, child), wgf_node_depth(trie, child, depth + WGF_STRIDE));
	}
	visit_until(walk, list, WGF_NODE_SLOTS, depth);
}

void wgf_trie_walk(struct wgf_trie *trie, bool (*visit)(void *context, uint32_t number), void *context)
{
	struct walk walk = {.trie = trie, .visit = visit, .context = context};
	for (size_t place = 0; place < (size_t)1 << trie->bits && !walk.over; place++) {
		uint64_t entry = atomic_load_explicit(&wgf_trie_table(trie)[place], memory_order_relaxed);
		uint32_t list = trie->lists[place];
		if (wgf_entry_inside(entry) < WGF_ANSWER_NODE) {
			visit_until(&walk, list, WGF_NODE_SLOTS, trie->bits);
			continue;
		}
		uint32_t at = wgf_entry_inside(entry) - WGF_ANSWER_NODE;
		unsigned depth = wgf_node_depth(trie, at, trie->bits);
		if (depth > trie->bits) { /* the table's own are all shorter than what the node skips */
			visit_until(&walk, list, WGF_NODE_SLOTS, trie->bits);
			list = wgf_node_list(trie, at);
		}
		visit_node(&walk, at, list, depth);
	}
}
