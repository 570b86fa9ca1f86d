/* Building a trie's nodes: for trie.c alone. */
#ifndef WGF_TRIE_BUILD_H
#define WGF_TRIE_BUILD_H

#include "trie.h"

/* No change makes or replaces more: a node on each of the 21 levels, twice where one is copied to be covered
 * anew, and the children of one. */
#define WGF_CHANGE_PIECES 128u

/* One change on its way: what was built for it and what it replaces. Neither here nor in a plan are arrays cleared, for
 * that took longer than writing the few places that are used. */
struct wgf_change {
	struct wgf_trie *trie;
	bool removal; /* may use the spare memory */
	bool failed;  /* out of memory: what comes out is worthless */
	uint32_t fresh_count, stale_count;
	struct wgf_piece {
		uint32_t at, units;
	} fresh[WGF_CHANGE_PIECES], stale[WGF_CHANGE_PIECES];
};

/* A node before it is built, or taken apart again. */
struct wgf_plan {
	struct wgf_key key;
	unsigned depth;
	uint32_t cover;    /* an owner or INHERIT */
	uint32_t list;     /* the first of its records, if below the table's level */
	uint64_t children; /* the slots that have one */
	uint32_t child[WGF_NODE_SLOTS];
};

/* What a node is going to say: by slot, and then, once its runs are found, by run. */
struct wgf_painting {
	uint32_t answers[WGF_NODE_SLOTS];
	uint64_t edges; /* slots that may differ from the one before; then those that do. Bit 0 of the former means nothing */
	unsigned runs;
};

void wgf_plan_begin(struct wgf_plan *plan, struct wgf_key key, unsigned depth);
void wgf_plan_load(const struct wgf_trie *trie, struct wgf_plan *plan, uint32_t at, struct wgf_key key,
		   unsigned depth);
void wgf_plan_put(struct wgf_plan *plan, unsigned slot, uint32_t child); /* 0: takes it out */

/* The plan's records, each over those that are shorter. False: there are none. */
bool wgf_paint(const struct wgf_trie *trie, const struct wgf_plan *plan, struct wgf_painting *painting);
void wgf_painting_put(struct wgf_painting *painting, unsigned first, unsigned end, uint32_t answer);
void wgf_painting_find_runs(struct wgf_painting *painting);
/* Of runs: is one all that does not inherit? Then they fit an entry, whose cover is `outside`. */
bool wgf_painting_is_one_run(const struct wgf_painting *painting, uint32_t outside, uint64_t *entry);
/* Which of the first runs inherit; of their answers the others remain: how many, of all runs. */
unsigned wgf_painting_leave_out(struct wgf_painting *painting, uint16_t *inherits);

void wgf_change_begin(struct wgf_change *change, struct wgf_trie *trie, bool removal);
/* The node of a plan, or what can stand in for it: its only child, or, as 0, nothing at all. */
uint32_t wgf_change_settle(struct wgf_change *change, struct wgf_plan *plan);
/* The same at the table's level, as an entry, `outside` its cover. */
uint64_t wgf_change_enter(struct wgf_change *change, struct wgf_plan *plan, uint32_t outside);
/* The same node under another cover; a copy, unless no reader has seen it. */
uint32_t wgf_change_cover(struct wgf_change *change, uint32_t at, uint32_t cover, unsigned depth);
void wgf_change_drop(struct wgf_change *change, uint32_t at, unsigned depth); /* it is replaced */
void wgf_change_done(struct wgf_change *change);
void wgf_change_undo(struct wgf_change *change);

/* ---- A node, whichever family's. depth: that it is met at, which decides nothing where nodes skip. ---- */

/* Its runs of slots with one answer. */
struct wgf_runs {
	uint64_t starts, inherits; /* of those that are still to come */
	const unsigned char *answers;
	unsigned slot;             /* where the last one began */
};

void wgf_runs_begin(struct wgf_runs *runs, const struct wgf_trie *trie, uint32_t at, unsigned depth);
/* What it says of the key's slot, unless that is a node which belongs to an earlier one. */
uint32_t wgf_node_answer(const struct wgf_trie *trie, uint32_t at, struct wgf_key key, unsigned depth);
uint32_t wgf_node_list(const struct wgf_trie *trie, uint32_t at); /* if below the table's level */
unsigned wgf_node_depth(const struct wgf_trie *trie, uint32_t at, unsigned depth); /* its own, where its slots begin */
struct wgf_key wgf_node_key(const struct wgf_trie *trie, uint32_t at); /* one that skips */

/* The depth of the node that a prefix longer than the table's bits belongs to. */
static inline unsigned wgf_trie_home(const struct wgf_trie *trie, unsigned length)
{
	return trie->bits + (length - trie->bits - 1) / WGF_STRIDE * WGF_STRIDE;
}

/* False: there was no more. */
static inline bool wgf_runs_next(struct wgf_runs *runs, uint32_t *answer)
{
	if (!runs->starts)
		return false;
	bool inherited = runs->inherits & 1;
	runs->slot = (unsigned)__builtin_ctzll(runs->starts);
	runs->starts &= runs->starts - 1;
	runs->inherits >>= 1;
	*answer = inherited ? WGF_ANSWER_INHERIT : wgf_answer(runs->answers, 0);
	runs->answers += inherited ? 0 : 3;
	return true;
}

#endif
