/* The inside of the allowed IPs: a path-compressed binary trie of one family's prefixes.
 *
 * Every node is a prefix. It has an owner, or it is a fork: ownerless, with two children, there only
 * because they part at its length. Lookups take no lock; changes are the caller's one at a time. */
#ifndef WGF_TRIE_H
#define WGF_TRIE_H

#include <stdatomic.h>
#include <stdint.h>

#include "epoch.h"

/* An address, its first bit the highest of high; an IPv4 address is the upper half of high. */
struct wgf_trie_key {
	uint64_t high, low;
};

/* key, mask, length and family never change; child and owner are the changer's, read by all. The rest
 * is the changer's alone. */
struct wgf_trie_node {
	struct wgf_trie_key key, mask;
	_Atomic(struct wgf_trie_node *) child[2]; /* by the bit that follows the prefix */
	_Atomic uint32_t owner;
	uint8_t length;
	uint8_t family;
	struct wgf_trie_node *parent;
	struct wgf_trie_node *earlier, *later; /* in the list of the owner's prefixes */
	struct wgf_retired retired;
};

struct wgf_trie {
	_Atomic(struct wgf_trie_node *) root;
	_Atomic uint64_t removals; /* how often some began; see trie.c */
	struct wgf_epoch *epoch;
	uint8_t family;
};

void wgf_trie_init(struct wgf_trie *trie, struct wgf_epoch *epoch, uint8_t family);
void wgf_trie_destroy(struct wgf_trie *trie); /* no reader is left */

/* Gives the prefix to the owner; *previous is whose it was. NULL: out of memory, nothing changed. */
struct wgf_trie_node *wgf_trie_claim(struct wgf_trie *trie, struct wgf_trie_key key, unsigned length,
				     uint32_t owner, uint32_t *previous);
/* The node of exactly this prefix if it has an owner, else NULL. */
struct wgf_trie_node *wgf_trie_find(struct wgf_trie *trie, struct wgf_trie_key key, unsigned length);
/* Once before one drop, or several in a row of one owner's prefixes with no other change between. */
void wgf_trie_begin_drops(struct wgf_trie *trie);
/* Takes the node's prefix out; the node, and a fork no longer needed, are retired. */
void wgf_trie_drop(struct wgf_trie *trie, struct wgf_trie_node *node);

/* Inside a reader of the epoch. */
uint32_t wgf_trie_lookup(const struct wgf_trie *trie, struct wgf_trie_key key);

/* All nodes, forks too, in order of address, then length: start with NULL, NULL is the end. */
struct wgf_trie_node *wgf_trie_next(struct wgf_trie *trie, struct wgf_trie_node *node);

#endif
