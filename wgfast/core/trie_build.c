/* A trie's nodes: built from what was painted (trie_paint.c), copied, given back. */
#include <string.h>

#include "trie_build.h"

static unsigned char *node_at(const struct wgf_trie *trie, uint32_t at)
{
	return trie->base + (size_t)at * WGF_UNIT;
}

static struct wgf_node4 *node4_at(const struct wgf_trie *trie, uint32_t at)
{
	return (struct wgf_node4 *)(void *)node_at(trie, at);
}

static struct wgf_node6 *node6_at(const struct wgf_trie *trie, uint32_t at)
{
	return (struct wgf_node6 *)(void *)node_at(trie, at);
}

static bool is_leaf(const struct wgf_trie *trie, uint32_t at)
{
	return trie->skips && wgf_node6_row(node6_at(trie, at))->leaf;
}

/* Bytes before the answers of a node at a depth. */
static size_t header_of(const struct wgf_trie *trie, unsigned depth)
{
	if (trie->skips)
		return WGF_HEADER6;
	return depth > trie->bits ? WGF_HEADER4 : WGF_HEADER4_TABLE;
}

/* Nodes fill halves of a cache line or whole ones, so that none that fits one crosses it, and a piece that one node leaves
 * fits another. */
static uint32_t rounded(size_t bytes)
{
	uint32_t units = (uint32_t)((bytes + WGF_UNIT - 1) / WGF_UNIT);
	if (units <= WGF_LINE_UNITS / 2)
		return WGF_LINE_UNITS / 2;
	return (units + WGF_LINE_UNITS - 1) / WGF_LINE_UNITS * WGF_LINE_UNITS;
}

/* Its answers and below the table the list; at IPv4's table one more byte, because answers are read four bytes at a time. */
static uint32_t units_for(const struct wgf_trie *trie, unsigned answers, unsigned depth)
{
	size_t bytes = header_of(trie, depth) + 3 * (size_t)answers;
	if (trie->skips)
		return (uint32_t)((bytes + 3) / WGF_UNIT / WGF_LINE_UNITS + 1) * WGF_LINE_UNITS;
	return rounded(depth > trie->bits ? (bytes + 3) / 4 * 4 + 4 : bytes + 1);
}

static uint64_t bitmap_of(const struct wgf_trie *trie, uint32_t at)
{
	if (is_leaf(trie, at))
		return 0;
	return trie->skips ? node6_at(trie, at)->bitmap & ~UINT64_C(1) : node4_at(trie, at)->bitmap;
}

/* By run: it has no answer, for it is INHERIT. */
static uint64_t inherits_of(const struct wgf_trie *trie, uint32_t at)
{
	return trie->skips ? 0 : node4_at(trie, at)->inherits;
}

static uint32_t units_of(const struct wgf_trie *trie, uint32_t at, unsigned depth)
{
	if (is_leaf(trie, at))
		return WGF_LEAF_UNITS;
	unsigned runs = 1 + (unsigned)__builtin_popcountll(bitmap_of(trie, at));
	return units_for(trie, runs - (unsigned)__builtin_popcountll(inherits_of(trie, at)), depth);
}

/* Of a node that is no leaf. */
static uint32_t *list_of(const struct wgf_trie *trie, uint32_t at, uint32_t units)
{
	return (uint32_t *)(void *)(node_at(trie, at + units) - 4);
}

static const unsigned char *answers_of(const struct wgf_trie *trie, uint32_t at, unsigned depth)
{
	return node_at(trie, at) + header_of(trie, depth);
}

void wgf_runs_begin(struct wgf_runs *runs, const struct wgf_trie *trie, uint32_t at, unsigned depth)
{
	runs->starts = bitmap_of(trie, at) | 1;
	runs->inherits = inherits_of(trie, at);
	runs->answers = answers_of(trie, at, depth);
}

uint32_t wgf_node_answer(const struct wgf_trie *trie, uint32_t at, struct wgf_key key, unsigned depth)
{
	unsigned slot = wgf_key_slot(key, depth), run = wgf_node_run(bitmap_of(trie, at), slot);
	uint64_t inherits = inherits_of(trie, at);
	if (inherits >> run & 1)
		return WGF_ANSWER_INHERIT;
	uint32_t answer = wgf_answer(answers_of(trie, at, depth), wgf_node4_answered(inherits, run) - 1);
	if (answer < WGF_ANSWER_NODE || !trie->skips)
		return answer;
	struct wgf_key child = wgf_node_key(trie, answer - WGF_ANSWER_NODE);
	return wgf_key_slot(child, depth) == slot ? answer : WGF_ANSWER_INHERIT;
}

uint32_t wgf_node_list(const struct wgf_trie *trie, uint32_t at)
{
	if (is_leaf(trie, at))
		return (uint32_t)(node6_at(trie, at)->bitmap >> 1);
	return *list_of(trie, at, units_of(trie, at, trie->bits + 1));
}

/* Of nodes that skip nothing, the one they are met at. */
unsigned wgf_node_depth(const struct wgf_trie *trie, uint32_t at, unsigned depth)
{
	if (!trie->skips)
		return depth;
	unsigned bits = wgf_node6_row(node6_at(trie, at))->bits;
	return is_leaf(trie, at) ? wgf_trie_home(trie, bits) : bits;
}

struct wgf_key wgf_node_key(const struct wgf_trie *trie, uint32_t at)
{
	const uint8_t *key = node6_at(trie, at)->key;
	return (struct wgf_key){wgf_load_le64(key + 8), wgf_load_le64(key)};
}

static void write_answers(unsigned char *to, const uint32_t *answers, unsigned count)
{
	for (unsigned i = 0; i < count; i++, to += 3) {
		to[0] = (unsigned char)answers[i];
		to[1] = (unsigned char)(answers[i] >> 8);
		to[2] = (unsigned char)(answers[i] >> 16);
	}
}

static uint32_t cover_of(const struct wgf_trie *trie, uint32_t at)
{
	return trie->skips ? wgf_answer(node6_at(trie, at)->cover, 0) : wgf_load_le32(node4_at(trie, at)->cover);
}

static void set_cover(const struct wgf_trie *trie, uint32_t at, uint32_t cover)
{
	if (trie->skips)
		write_answers(node6_at(trie, at)->cover, &cover, 1);
	else
		wgf_store_le32(node4_at(trie, at)->cover, cover);
}

/* ---- Pieces of one change ---- */

void wgf_change_begin(struct wgf_change *change, struct wgf_trie *trie, bool removal)
{
	change->trie = trie;
	change->removal = removal;
	change->failed = false;
	change->fresh_count = change->stale_count = 0;
}

static uint32_t take(struct wgf_change *change, uint32_t units)
{
	change->trie->prefixes->work++;
	uint32_t at = change->failed ? 0 : wgf_nodepool_take(change->trie->pool, units, change->removal);
	if (at)
		change->fresh[change->fresh_count++] = (struct wgf_piece){at, units};
	else
		change->failed = true;
	return at;
}

static bool is_fresh(const struct wgf_change *change, uint32_t at)
{
	for (uint32_t i = 0; i < change->fresh_count; i++)
		if (change->fresh[i].at == at)
			return true;
	return false;
}

void wgf_change_drop(struct wgf_change *change, uint32_t at, unsigned depth)
{
	change->stale[change->stale_count++] = (struct wgf_piece){at, units_of(change->trie, at, depth)};
}

void wgf_change_done(struct wgf_change *change)
{
	for (uint32_t i = 0; i < change->stale_count; i++)
		if (change->trie->shown)
			wgf_nodepool_retire(change->trie->pool, change->stale[i].at, change->stale[i].units);
		else
			wgf_nodepool_give(change->trie->pool, change->stale[i].at, change->stale[i].units);
}

void wgf_change_undo(struct wgf_change *change)
{
	for (uint32_t i = 0; i < change->fresh_count; i++)
		wgf_nodepool_give(change->trie->pool, change->fresh[i].at, change->fresh[i].units);
}

/* ---- Plans ---- */

void wgf_plan_begin(struct wgf_plan *plan, struct wgf_key key, unsigned depth)
{
	plan->key = wgf_key_masked(key, depth);
	plan->depth = depth;
	plan->cover = WGF_ANSWER_INHERIT;
	plan->list = 0;
	plan->children = 0;
}

void wgf_plan_put(struct wgf_plan *plan, unsigned slot, uint32_t child)
{
	plan->children &= ~(UINT64_C(1) << slot);
	plan->children |= (uint64_t)(child != 0) << slot;
	plan->child[slot] = child;
}

/* key: of any address below the node. */
void wgf_plan_load(const struct wgf_trie *trie, struct wgf_plan *plan, uint32_t at, struct wgf_key key,
		   unsigned depth)
{
	struct wgf_runs runs;
	uint32_t answer;
	wgf_plan_begin(plan, key, depth);
	if (depth > trie->bits) {
		plan->cover = cover_of(trie, at);
		plan->list = wgf_node_list(trie, at);
	}
	wgf_runs_begin(&runs, trie, at, depth);
	while (wgf_runs_next(&runs, &answer))
		if (answer >= WGF_ANSWER_NODE)
			wgf_plan_put(plan, runs.slot, answer - WGF_ANSWER_NODE);
}

/* ---- Nodes ---- */

static struct wgf_node6 *begin_node6(const struct wgf_trie *trie, uint32_t at, struct wgf_key key, uint16_t row,
				     uint32_t cover)
{
	struct wgf_node6 *node = node6_at(trie, at);
	wgf_store_le64(node->key, key.low);
	wgf_store_le64(node->key + 8, key.high);
	node->row = row;
	write_answers(node->cover, &cover, 1);
	return node;
}

/* From runs. */
static uint32_t build(struct wgf_change *change, const struct wgf_plan *plan, struct wgf_painting *painting)
{
	struct wgf_trie *trie = change->trie;
	uint16_t inherits = 0;
	unsigned count = trie->skips ? painting->runs : wgf_painting_leave_out(painting, &inherits);
	uint32_t units = units_for(trie, count, plan->depth), at = take(change, units);
	if (!at)
		return 0;
	if (trie->skips) {
		uint16_t row = wgf_row_of_depth(plan->depth);
		begin_node6(trie, at, plan->key, row, plan->cover)->bitmap = painting->edges | 1;
	} else {
		node4_at(trie, at)->bitmap = painting->edges;
		node4_at(trie, at)->inherits = inherits;
		if (plan->depth > trie->bits)
			wgf_store_le32(node4_at(trie, at)->cover, plan->cover);
	}
	if (plan->depth > trie->bits)
		*list_of(trie, at, units) = plan->list;
	write_answers(node_at(trie, at) + header_of(trie, plan->depth), painting->answers, count);
	return at;
}

static uint32_t build_leaf(struct wgf_change *change, const struct wgf_plan *plan)
{
	struct wgf_trie *trie = change->trie;
	const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, plan->list);
	uint32_t at = take(change, WGF_LEAF_UNITS), answer = wgf_record_owner(record);
	if (!at)
		return 0;
	struct wgf_key key = wgf_record_key(trie->prefixes, record);
	uint16_t row = wgf_row_of_leaf(wgf_record_length(record));
	begin_node6(trie, at, key, row, plan->cover)->bitmap = (uint64_t)plan->list << 1 | 1;
	write_answers(node_at(trie, at) + WGF_HEADER6, &answer, 1);
	return at;
}

uint32_t wgf_change_cover(struct wgf_change *change, uint32_t at, uint32_t cover, unsigned depth)
{
	struct wgf_trie *trie = change->trie;
	if (cover_of(trie, at) == cover)
		return at;
	if (is_fresh(change, at)) {
		set_cover(trie, at, cover);
		return at;
	}
	uint32_t units = units_of(trie, at, depth), copy = take(change, units);
	if (!copy)
		return 0;
	memcpy(node_at(trie, copy), node_at(trie, at), units * WGF_UNIT);
	set_cover(trie, copy, cover);
	wgf_change_drop(change, at, depth);
	return copy;
}

/* In a trie that skips a node finds out by itself whose addresses are not its own, and answers with its cover. So it may
 * stand in the slots behind its own as well where they have that answer, which leaves nodes half as many. */
static void spread_children(const struct wgf_trie *trie, struct wgf_painting *painting)
{
	uint32_t *answers = painting->answers, cover = 0;
	for (unsigned slot = 0; slot + 1 < WGF_NODE_SLOTS; slot++) {
		if (answers[slot] < WGF_ANSWER_NODE)
			continue;
		if (slot == 0 || answers[slot] != answers[slot - 1])
			cover = cover_of(trie, answers[slot] - WGF_ANSWER_NODE);
		if (answers[slot + 1] == cover)
			wgf_painting_put(painting, slot + 1, slot + 2, answers[slot]);
	}
}

/* The children under the covers that the node's own prefixes give them, among its answers. */
static void put_children(struct wgf_change *change, const struct wgf_plan *plan, struct wgf_painting *painting)
{
	struct wgf_trie *trie = change->trie;
	for (uint64_t children = plan->children; children; children &= children - 1) {
		unsigned slot = (unsigned)__builtin_ctzll(children);
		unsigned depth = wgf_node_depth(trie, plan->child[slot], plan->depth + WGF_STRIDE);
		uint32_t child = wgf_change_cover(change, plan->child[slot], painting->answers[slot], depth);
		wgf_painting_put(painting, slot, slot + 1, WGF_ANSWER_NODE + child);
	}
	if (trie->skips && !change->failed)
		spread_children(trie, painting);
}

static bool has_only_child(const struct wgf_plan *plan)
{
	return plan->children && (plan->children & (plan->children - 1)) == 0;
}

static uint32_t only_child(struct wgf_change *change, const struct wgf_plan *plan)
{
	uint32_t child = plan->child[__builtin_ctzll(plan->children)];
	return wgf_change_cover(change, child, plan->cover, wgf_node_depth(change->trie, child, 0));
}

uint32_t wgf_change_settle(struct wgf_change *change, struct wgf_plan *plan)
{
	struct wgf_painting painting;
	bool some = wgf_paint(change->trie, plan, &painting);
	if (!some && plan->children == 0)
		return 0;
	if (!some && has_only_child(plan) && change->trie->skips)
		return only_child(change, plan);
	if (plan->children == 0 && change->trie->skips && !wgf_prefixes_at(change->trie->prefixes, plan->list)->next)
		return build_leaf(change, plan);
	put_children(change, plan, &painting);
	wgf_painting_find_runs(&painting);
	return build(change, plan, &painting);
}

uint64_t wgf_change_enter(struct wgf_change *change, struct wgf_plan *plan, uint32_t outside)
{
	struct wgf_painting painting;
	uint64_t entry;
	uint32_t at;
	bool some = wgf_paint(change->trie, plan, &painting);
	if (!some && plan->children == 0)
		return wgf_entry_empty(outside);
	if (!some && has_only_child(plan) && change->trie->skips) {
		at = only_child(change, plan);
	} else {
		put_children(change, plan, &painting);
		wgf_painting_find_runs(&painting);
		if (plan->children == 0 && wgf_painting_is_one_run(&painting, outside, &entry))
			return entry;
		at = build(change, plan, &painting);
	}
	return wgf_entry(WGF_ANSWER_NODE + at, outside, 0, WGF_NODE_SLOTS - 1);
}
