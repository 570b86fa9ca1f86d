/* Changes of a trie: which nodes one affects, and in what order they are built and shown. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "trie_build.h"

#define NOWHERE_UNITS WGF_LINE_UNITS

/* The nodes from the table on that lead towards a prefix's own. */
struct path {
	uint32_t at[24];
	unsigned depth[24];
	unsigned count;
	bool home;      /* the last is the prefix's own */
	uint32_t clash; /* else: a node in the way, which skips past where the prefix's would be; or 0 */
};

/* ---- The whole ---- */

struct wgf_trie *wgf_trie_create(struct wgf_epoch *epoch, struct wgf_prefixes *prefixes, unsigned bits, uint32_t units)
{
	size_t places = (size_t)1 << bits;
	struct wgf_trie *trie = calloc(1, sizeof(*trie));
	if (!trie)
		return NULL;
	uint32_t table = (uint32_t)(places * sizeof(uint64_t) / WGF_UNIT);
	trie->bits = bits;
	trie->skips = prefixes->words == 4 || bits == WGF_BITS_SMALL;
	trie->prefixes = prefixes;
	trie->list_bits = trie->skips ? bits : bits + WGF_PART_BITS;
	trie->lists = calloc((size_t)1 << trie->list_bits, sizeof(*trie->lists));
	trie->covers = calloc(places, sizeof(*trie->covers));
	trie->pool = wgf_nodepool_create(epoch, table + NOWHERE_UNITS, units, bits == WGF_BITS_LARGE);
	if (!trie->lists || !trie->covers || !trie->pool) {
		wgf_trie_destroy(trie);
		return NULL;
	}
	trie->base = trie->pool->base;
	trie->nowhere = table;
	for (size_t place = 0; place < places; place++)
		atomic_init(&wgf_trie_table(trie)[place], wgf_entry_empty(WGF_ANSWER_NONE));
	return trie;
}

void wgf_trie_destroy(struct wgf_trie *trie)
{
	if (!trie)
		return;
	if (trie->pool)
		wgf_nodepool_leave(trie->pool);
	free(trie->lists);
	free(trie->covers);
	free(trie);
}

static void trie_release(struct wgf_retired *retired)
{
	wgf_trie_destroy((struct wgf_trie *)((char *)retired - offsetof(struct wgf_trie, retired)));
}

void wgf_trie_retire(struct wgf_trie *trie)
{
	wgf_epoch_retire(trie->pool->epoch, &trie->retired, trie_release);
}

size_t wgf_trie_memory(const struct wgf_trie *trie)
{
	size_t place = wgf_trie_parts(trie) * sizeof(*trie->lists) + sizeof(*trie->covers);
	return sizeof(*trie) + (place << trie->bits) + wgf_nodepool_memory(trie->pool);
}

/* ---- Where a prefix is ---- */

static uint64_t table_at(const struct wgf_trie *trie, size_t place)
{
	return atomic_load_explicit(&wgf_trie_table(trie)[place], memory_order_relaxed);
}

static void table_set(struct wgf_trie *trie, size_t place, uint64_t entry)
{
	trie->leading -= wgf_entry_inside(table_at(trie, place)) >= WGF_ANSWER_NODE;
	trie->leading += wgf_entry_inside(entry) >= WGF_ANSWER_NODE;
	atomic_store_explicit(&trie->dense, trie->leading > (size_t)1 << trie->bits >> 2, memory_order_relaxed);
	atomic_store_explicit(&wgf_trie_table(trie)[place], entry, memory_order_release);
}

static void descend(const struct wgf_trie *trie, struct wgf_key key, unsigned length, struct path *path)
{
	unsigned home = wgf_trie_home(trie, length), depth = trie->bits;
	size_t place = wgf_trie_place(trie, key);
	path->count = 0;
	path->home = false;
	path->clash = 0;
	uint32_t answer = wgf_entry_inside(table_at(trie, place));
	for (; !path->home && answer >= WGF_ANSWER_NODE; depth += WGF_STRIDE) {
		uint32_t at = answer - WGF_ANSWER_NODE;
		depth = wgf_node_depth(trie, at, depth);
		if (depth > home || (trie->skips && !wgf_key_agrees(key, wgf_node_key(trie, at), depth))) {
			path->clash = at;
			return;
		}
		path->at[path->count] = at;
		path->depth[path->count++] = depth;
		path->home = depth == home;
		answer = wgf_node_answer(trie, at, key, depth);
	}
}

static uint32_t search(const struct wgf_trie *trie, uint32_t number, struct wgf_key key, unsigned length)
{
	for (; number; number = wgf_prefixes_at(trie->prefixes, number)->next) {
		const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, number);
		trie->prefixes->work++;
		int order = wgf_key_order(wgf_record_key(trie->prefixes, record), wgf_record_length(record), key, length);
		if (order == 0)
			return number;
		if (order > 0)
			return 0;
	}
	return 0;
}

/* What a change at this place is going to look at: it comes while the records are searched. */
static void fetch(const struct wgf_trie *trie, size_t place)
{
	uint32_t inside = wgf_entry_inside(table_at(trie, place));
	const uint32_t *lists = &trie->lists[place * wgf_trie_parts(trie)];
	if (inside >= WGF_ANSWER_NODE)
		__builtin_prefetch(wgf_trie_node(trie, inside - WGF_ANSWER_NODE));
	for (unsigned part = 0; part < wgf_trie_parts(trie); part++)
		__builtin_prefetch(wgf_prefixes_at(trie->prefixes, lists[part]));
}

uint32_t wgf_trie_find(struct wgf_trie *trie, struct wgf_key key, unsigned length)
{
	fetch(trie, wgf_trie_place(trie, key));
	if (length > trie->bits + WGF_STRIDE) {
		struct path path;
		descend(trie, key, length, &path);
		return path.home ? search(trie, wgf_node_list(trie, path.at[path.count - 1]), key, length) : 0;
	}
	return search(trie, *wgf_trie_list(trie, key), key, length);
}

/* ---- A node's list ---- */

/* The link that leads to the record, or where it belongs. */
static uint32_t *link_of(struct wgf_trie *trie, uint32_t *list, uint32_t number)
{
	const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, number);
	struct wgf_key key = wgf_record_key(trie->prefixes, record);
	for (;; list = &wgf_prefixes_at(trie->prefixes, *list)->next) {
		if (!*list || *list == number)
			return list;
		const struct wgf_record *there = wgf_prefixes_at(trie->prefixes, *list);
		trie->prefixes->work++;
		if (wgf_key_order(wgf_record_key(trie->prefixes, there), wgf_record_length(there), key,
				  wgf_record_length(record)) > 0)
			return list;
	}
}

static void list_enter(struct wgf_trie *trie, uint32_t *list, uint32_t number)
{
	uint32_t *link = link_of(trie, list, number);
	wgf_prefixes_at(trie->prefixes, number)->next = *link;
	*link = number;
}

static void list_leave(struct wgf_trie *trie, uint32_t *list, uint32_t number)
{
	*link_of(trie, list, number) = wgf_prefixes_at(trie->prefixes, number)->next;
}

/* ---- Prefixes longer than the table's bits ---- */

enum edit { ENTER, LEAVE, STAY };

static void edit_list(struct wgf_trie *trie, uint32_t *list, uint32_t number, enum edit edit)
{
	if (edit == ENTER)
		list_enter(trie, list, number);
	else if (edit == LEAVE)
		list_leave(trie, list, number);
}

/* What hangs where no node of the prefix was: its node, and below `above` whatever leads to it. A node in the way
 * goes below it, or beside it, unless that is at the table's level; then it is left as *clash. */
static uint32_t hang(struct wgf_change *change, struct wgf_key key, unsigned length, uint32_t list,
		     uint32_t *clash, unsigned above)
{
	struct wgf_trie *trie = change->trie;
	unsigned home = wgf_trie_home(trie, length), depth = home;
	struct wgf_plan plan;
	wgf_plan_begin(&plan, key, home);
	plan.list = list;
	struct wgf_key other = *clash ? wgf_node_key(trie, *clash) : key;
	while (!wgf_key_agrees(key, other, depth))
		depth -= WGF_STRIDE;
	if (*clash && depth == home) { /* it lies deeper, for the way ended there */
		wgf_plan_put(&plan, wgf_key_slot(other, home), *clash);
		*clash = 0;
	}
	uint32_t at = wgf_change_settle(change, &plan);
	if (*clash && depth > trie->bits && at) {
		wgf_plan_begin(&plan, key, depth);
		wgf_plan_put(&plan, wgf_key_slot(key, depth), at);
		wgf_plan_put(&plan, wgf_key_slot(other, depth), *clash);
		*clash = 0;
		return wgf_change_settle(change, &plan);
	}
	for (depth = home; !trie->skips && at && depth > above;) {
		depth -= WGF_STRIDE;
		wgf_plan_begin(&plan, key, depth);
		wgf_plan_put(&plan, wgf_key_slot(key, depth), at);
		at = wgf_change_settle(change, &plan);
	}
	return at;
}

/* The way to the prefix anew, whose node's records are now `list`, from the bottom up: the entry for the table. */
static uint64_t rebuild(struct wgf_change *change, struct wgf_key key, unsigned length, const struct path *path,
			uint32_t list)
{
	struct wgf_trie *trie = change->trie;
	size_t place = wgf_trie_place(trie, key);
	bool below = wgf_trie_home(trie, length) > trie->bits;
	unsigned left = path->count;
	uint32_t at = 0, clash = path->clash;
	struct wgf_plan plan;
	if (below && path->home) {
		left--;
		wgf_plan_load(trie, &plan, path->at[left], key, path->depth[left]);
		plan.list = list;
		wgf_change_drop(change, path->at[left], path->depth[left]);
		at = wgf_change_settle(change, &plan);
	} else if (below) {
		unsigned above = (left ? path->depth[left - 1] : trie->bits) + WGF_STRIDE;
		at = hang(change, key, length, list, &clash, above);
	}
	while (left > 0 && path->depth[left - 1] > trie->bits && !change->failed) {
		left--;
		wgf_plan_load(trie, &plan, path->at[left], key, path->depth[left]);
		wgf_plan_put(&plan, wgf_key_slot(key, path->depth[left]), at);
		wgf_change_drop(change, path->at[left], path->depth[left]);
		at = wgf_change_settle(change, &plan);
	}
	wgf_plan_begin(&plan, key, trie->bits);
	if (left > 0) {
		wgf_plan_load(trie, &plan, path->at[0], key, trie->bits);
		wgf_change_drop(change, path->at[0], trie->bits);
	}
	if (below)
		wgf_plan_put(&plan, wgf_key_slot(key, trie->bits), at);
	if (clash)
		wgf_plan_put(&plan, wgf_key_slot(wgf_node_key(trie, clash), trie->bits), clash);
	return wgf_change_enter(change, &plan, wgf_entry_outside(table_at(trie, place)));
}

static int change_long(struct wgf_trie *trie, uint32_t number, enum edit edit)
{
	struct wgf_change change;
	const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, number);
	struct wgf_key key = wgf_record_key(trie->prefixes, record);
	unsigned length = wgf_record_length(record);
	size_t place = wgf_trie_place(trie, key);
	bool below = wgf_trie_home(trie, length) > trie->bits;
	struct path path;
	wgf_change_begin(&change, trie, edit == LEAVE);
	descend(trie, key, length, &path);
	uint32_t first = below && path.home ? wgf_node_list(trie, path.at[path.count - 1]) : 0;
	uint32_t *list = below ? &first : wgf_trie_list(trie, key);
	edit_list(trie, list, number, edit);
	uint64_t entry = rebuild(&change, key, length, &path, *list);
	if (change.failed) {
		wgf_change_undo(&change);
		edit_list(trie, list, number, edit == ENTER ? LEAVE : edit == LEAVE ? ENTER : STAY);
		return -ENOMEM;
	}
	table_set(trie, place, entry);
	wgf_change_done(&change);
	return 0;
}

/* ---- Prefixes of the table's bits or fewer ---- */

/* The longest prefix that covers this one. 0: none. */
static uint32_t parent_of(struct wgf_trie *trie, struct wgf_key key, unsigned length)
{
	while (length-- > 0) {
		uint32_t number = wgf_trie_find(trie, wgf_key_masked(key, length), length);
		if (number)
			return number;
	}
	return 0;
}

static void change_short(struct wgf_trie *trie, uint32_t number, enum edit edit)
{
	const struct wgf_record *record = wgf_prefixes_at(trie->prefixes, number);
	struct wgf_key key = wgf_record_key(trie->prefixes, record);
	unsigned length = wgf_record_length(record), code = length + 1;
	size_t place = wgf_trie_place(trie, key), end = place + ((size_t)1 << (trie->bits - length));
	uint32_t parent = edit == LEAVE ? parent_of(trie, key, length) : number;
	const struct wgf_record *covering = wgf_prefixes_at(trie->prefixes, parent);
	uint32_t outside = parent ? wgf_record_owner(covering) : WGF_ANSWER_NONE;
	unsigned anew = parent ? wgf_record_length(covering) + 1 : 0;
	edit_list(trie, wgf_trie_list(trie, key), number, edit);
	for (; place < end; place++) {
		unsigned has = trie->covers[place];
		if (edit == ENTER ? has > code : has != code)
			continue;
		trie->covers[place] = (uint8_t)anew;
		table_set(trie, place, wgf_entry_covered(table_at(trie, place), outside));
	}
}

/* ---- Changes ---- */

static int change(struct wgf_trie *trie, uint32_t number, enum edit edit)
{
	if (wgf_record_length(wgf_prefixes_at(trie->prefixes, number)) <= trie->bits) {
		change_short(trie, number, edit);
		return 0;
	}
	if (wgf_nodepool_prepare(trie->pool, WGF_CHANGE_PIECES))
		return -ENOMEM;
	return change_long(trie, number, edit);
}

int wgf_trie_insert(struct wgf_trie *trie, uint32_t number)
{
	return change(trie, number, ENTER);
}

int wgf_trie_move(struct wgf_trie *trie, uint32_t number)
{
	return change(trie, number, STAY);
}

int wgf_trie_remove(struct wgf_trie *trie, uint32_t number)
{
	return change(trie, number, LEAVE);
}
