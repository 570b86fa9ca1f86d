/* All of a trie's records in order. A node's own list is in order; what its children have stands between those
 * that begin at or before the child's slot, which are shorter, and those that begin behind it. */
#include "trie_build.h"

struct walk {
	const struct wgf_trie *trie;
	bool (*visit)(void *context, uint32_t number);
	void *context;
	bool over;
};

/* What is still to come of a list, and of those that go on where it ends. */
struct rest {
	uint32_t number;
	unsigned lists;
	const uint32_t *list;
};

static unsigned slot_of(const struct walk *walk, uint32_t number, unsigned depth)
{
	const struct wgf_record *record = wgf_prefixes_at(walk->trie->prefixes, number);
	return wgf_key_slot(wgf_record_key(walk->trie->prefixes, record), depth);
}

static uint32_t first_of(struct rest *rest)
{
	for (; !rest->number && rest->lists > 0; rest->lists--)
		rest->number = *rest->list++;
	return rest->number;
}

/* Visits what begins at or before the slot. */
static void visit_until(struct walk *walk, struct rest *rest, unsigned slot, unsigned depth)
{
	while (!walk->over && first_of(rest) && slot_of(walk, rest->number, depth) <= slot) {
		uint32_t number = rest->number;
		rest->number = wgf_prefixes_at(walk->trie->prefixes, number)->next;
		walk->over = !walk->visit(walk->context, number);
	}
}

/* No deeper than addresses have strides. */
static void visit_node(struct walk *walk, uint32_t at, struct rest rest, unsigned depth)
{
	const struct wgf_trie *trie = walk->trie;
	struct wgf_runs runs;
	uint32_t answer;
	wgf_runs_begin(&runs, trie, at, depth);
	while (!walk->over && wgf_runs_next(&runs, &answer)) {
		if (answer < WGF_ANSWER_NODE)
			continue;
		uint32_t child = answer - WGF_ANSWER_NODE;
		struct rest below = {.number = wgf_node_list(trie, child)};
		visit_until(walk, &rest, runs.slot, depth);
		visit_node(walk, child, below, wgf_node_depth(trie, child, depth + WGF_STRIDE));
	}
	visit_until(walk, &rest, WGF_NODE_SLOTS, depth);
}

void wgf_trie_walk(struct wgf_trie *trie, bool (*visit)(void *context, uint32_t number), void *context)
{
	struct walk walk = {.trie = trie, .visit = visit, .context = context};
	trie->prefixes->work += (uint64_t)1 << trie->bits;
	for (size_t place = 0; place < (size_t)1 << trie->bits && !walk.over; place++) {
		uint64_t entry = atomic_load_explicit(&wgf_trie_table(trie)[place], memory_order_relaxed);
		unsigned parts = wgf_trie_parts(trie);
		struct rest rest = {.lists = parts, .list = &trie->lists[place * parts]};
		if (wgf_entry_inside(entry) < WGF_ANSWER_NODE) {
			visit_until(&walk, &rest, WGF_NODE_SLOTS, trie->bits);
			continue;
		}
		uint32_t at = wgf_entry_inside(entry) - WGF_ANSWER_NODE;
		unsigned depth = wgf_node_depth(trie, at, trie->bits);
		if (depth > trie->bits) { /* the table's own are all shorter than what the node skips */
			visit_until(&walk, &rest, WGF_NODE_SLOTS, trie->bits);
			rest = (struct rest){.number = wgf_node_list(trie, at)};
		}
		visit_node(&walk, at, rest, depth);
	}
}
