/* A path-compressed binary trie, chosen because each change of it is one atomic store: a new node is
 * complete before its parent's link shows it, an owner is one word, and what goes is bypassed by one
 * link. A node that was bypassed keeps its links, so a reader standing on it still finds every
 * prefix that stayed.
 *
 * A lookup reads many words, and changes may fall between them. Insertions and moves do no harm: what
 * was the longest match when its owner was read was so at that moment. A removal can: a /16 put in
 * above where the reader is, then a /24 taken out below, and it would meet neither. So removals are
 * counted before they are stored, and a lookup during which the count moved is done again: its answer
 * is right for one moment. Removals of one owner's prefixes in a row count once, for whatever mixture
 * of them a reader meets, it answers with that owner, as before the first, or as after the last; so
 * a large owner's end makes a lookup repeat once, not for as long as it takes. No fence is needed: the
 * count is stored before the releasing store of a change, and read again after the acquiring loads
 * that may have seen that change. */
#include <stdbool.h>
#include <stdlib.h>

#include "allowedips.h"
#include "trie.h"

/* The writer's own reading of a link: nobody else stores there. */
static struct wgf_trie_node *peek(_Atomic(struct wgf_trie_node *) *link)
{
	return atomic_load_explicit(link, memory_order_relaxed);
}

/* The bit at a depth below 128. At 128, where no node has children, any answer does. */
static unsigned bit_of(struct wgf_trie_key key, unsigned depth)
{
	uint64_t word = depth < 64 ? key.high : key.low;
	return (unsigned)(word >> (63 - depth % 64)) & 1;
}

static struct wgf_trie_key mask_of(unsigned length)
{
	struct wgf_trie_key mask = {0, 0};
	if (length > 0)
		mask.high = length < 64 ? UINT64_MAX << (64 - length) : UINT64_MAX;
	if (length > 64)
		mask.low = UINT64_MAX << (128 - length);
	return mask;
}

static bool covers(const struct wgf_trie_node *node, struct wgf_trie_key key)
{
	return (((key.high ^ node->key.high) & node->mask.high) |
		((key.low ^ node->key.low) & node->mask.low)) == 0;
}

/* How many bits two addresses have in common from the first on. */
static unsigned common_bits(struct wgf_trie_key a, struct wgf_trie_key b)
{
	if (a.high != b.high)
		return (unsigned)__builtin_clzll(a.high ^ b.high);
	return a.low == b.low ? 128 : 64 + (unsigned)__builtin_clzll(a.low ^ b.low);
}

/* ---- Readers ---- */

static uint32_t walk(const struct wgf_trie *trie, struct wgf_trie_key key)
{
	uint32_t best = WGF_OWNER_NONE;
	const struct wgf_trie_node *node = atomic_load_explicit(&trie->root, memory_order_acquire);
	while (node && covers(node, key)) {
		uint32_t owner = atomic_load_explicit(&node->owner, memory_order_acquire);
		if (owner != WGF_OWNER_NONE)
			best = owner;
		node = atomic_load_explicit(&node->child[bit_of(key, node->length)],
					    memory_order_acquire);
	}
	return best;
}

uint32_t wgf_trie_lookup(const struct wgf_trie *trie, struct wgf_trie_key key)
{
	uint64_t removals = atomic_load_explicit(&trie->removals, memory_order_acquire);
	for (;;) {
		uint32_t owner = walk(trie, key);
		uint64_t again = atomic_load_explicit(&trie->removals, memory_order_acquire);
		if (again == removals)
			return owner;
		removals = again;
	}
}

/* ---- Nodes ---- */

static struct wgf_trie_node *node_create(struct wgf_trie *trie, struct wgf_trie_key key,
					 unsigned length, uint32_t owner)
{
	struct wgf_trie_node *node = malloc(sizeof(*node));
	if (!node)
		return NULL;
	struct wgf_trie_key mask = mask_of(length);
	node->mask = mask;
	node->key = (struct wgf_trie_key){key.high & mask.high, key.low & mask.low};
	atomic_init(&node->child[0], NULL);
	atomic_init(&node->child[1], NULL);
	atomic_init(&node->owner, owner);
	node->length = (uint8_t)length;
	node->family = trie->family;
	node->parent = node->earlier = node->later = NULL;
	return node;
}

static void node_release(struct wgf_retired *retired)
{
	free((char *)retired - offsetof(struct wgf_trie_node, retired));
}

/* Before the parent is published, or while it has no child on that side. */
static void adopt(struct wgf_trie_node *parent, struct wgf_trie_node *child)
{
	child->parent = parent;
	atomic_init(&parent->child[bit_of(child->key, parent->length)], child);
}

static _Atomic(struct wgf_trie_node *) *link_to(struct wgf_trie *trie, struct wgf_trie_node *node)
{
	struct wgf_trie_node *parent = node->parent;
	return parent ? &parent->child[bit_of(node->key, parent->length)] : &trie->root;
}

/* ---- Changes ---- */

void wgf_trie_init(struct wgf_trie *trie, struct wgf_epoch *epoch, uint8_t family)
{
	atomic_init(&trie->root, NULL);
	atomic_init(&trie->removals, 0);
	trie->epoch = epoch;
	trie->family = family;
}

void wgf_trie_destroy(struct wgf_trie *trie)
{
	struct wgf_trie_node *node = peek(&trie->root);
	while (node) {
		struct wgf_trie_node *child = peek(&node->child[0]);
		if (!child)
			child = peek(&node->child[1]);
		if (!child) {
			child = node->parent;
			atomic_store_explicit(link_to(trie, node), NULL, memory_order_relaxed);
			free(node);
		}
		node = child;
	}
}

/* Where a prefix is or would hang: the first node on its way that is not a shorter prefix of it, or
 * NULL; *parent is the node before. */
static struct wgf_trie_node *locate(struct wgf_trie *trie, struct wgf_trie_key key, unsigned length,
				    struct wgf_trie_node **parent)
{
	struct wgf_trie_node *node = peek(&trie->root);
	*parent = NULL;
	while (node && node->length < length && covers(node, key)) {
		*parent = node;
		node = peek(&node->child[bit_of(key, node->length)]);
	}
	return node;
}

struct wgf_trie_node *wgf_trie_claim(struct wgf_trie *trie, struct wgf_trie_key key, unsigned length,
				     uint32_t owner, uint32_t *previous)
{
	struct wgf_trie_node *parent;
	struct wgf_trie_node *there = locate(trie, key, length, &parent);
	if (there && there->length == length && covers(there, key)) {
		*previous = atomic_load_explicit(&there->owner, memory_order_relaxed);
		atomic_store_explicit(&there->owner, owner, memory_order_release);
		return there;
	}
	struct wgf_trie_node *leaf = node_create(trie, key, length, owner);
	if (!leaf)
		return NULL;
	struct wgf_trie_node *top = leaf;
	if (there) {
		unsigned common = common_bits(key, there->key);
		if (common < length) { /* they part before either ends: no prefix covers the other */
			top = node_create(trie, key, common, WGF_OWNER_NONE);
			if (!top) {
				free(leaf);
				return NULL;
			}
			adopt(top, leaf);
		}
	}
	top->parent = parent;
	if (there)
		adopt(top, there);
	atomic_store_explicit(link_to(trie, top), top, memory_order_release);
	*previous = WGF_OWNER_NONE;
	return leaf;
}

struct wgf_trie_node *wgf_trie_find(struct wgf_trie *trie, struct wgf_trie_key key, unsigned length)
{
	struct wgf_trie_node *parent;
	struct wgf_trie_node *node = locate(trie, key, length, &parent);
	if (!node || node->length != length || !covers(node, key) ||
	    atomic_load_explicit(&node->owner, memory_order_relaxed) == WGF_OWNER_NONE)
		return NULL;
	return node;
}

/* Puts the heir, which may be NULL, where the node hangs. What is bypassed keeps its own links. */
static void bypass(struct wgf_trie *trie, struct wgf_trie_node *node, struct wgf_trie_node *heir)
{
	if (heir)
		heir->parent = node->parent;
	atomic_store_explicit(link_to(trie, node), heir, memory_order_release);
	wgf_epoch_retire(trie->epoch, &node->retired, node_release);
}

void wgf_trie_begin_drops(struct wgf_trie *trie)
{
	uint64_t removals = atomic_load_explicit(&trie->removals, memory_order_relaxed);
	atomic_store_explicit(&trie->removals, removals + 1, memory_order_release);
}

void wgf_trie_drop(struct wgf_trie *trie, struct wgf_trie_node *node)
{
	struct wgf_trie_node *left = peek(&node->child[0]), *right = peek(&node->child[1]);
	if (left && right) { /* a fork from now on */
		atomic_store_explicit(&node->owner, WGF_OWNER_NONE, memory_order_release);
		return;
	}
	struct wgf_trie_node *parent = node->parent;
	if (left || right || !parent ||
	    atomic_load_explicit(&parent->owner, memory_order_relaxed) != WGF_OWNER_NONE) {
		bypass(trie, node, left ? left : right);
		return;
	}
	/* A leaf of a fork: the other branch takes the fork's place, and one store unlinks both. The
	 * leaf is retired after that store, for until then the fork still leads to it. */
	bypass(trie, parent, peek(&parent->child[!bit_of(node->key, parent->length)]));
	wgf_epoch_retire(trie->epoch, &node->retired, node_release);
}

struct wgf_trie_node *wgf_trie_next(struct wgf_trie *trie, struct wgf_trie_node *node)
{
	if (!node)
		return peek(&trie->root);
	for (unsigned side = 0; side < 2; side++)
		if (peek(&node->child[side]))
			return peek(&node->child[side]);
	for (struct wgf_trie_node *up = node->parent; up; node = up, up = up->parent)
		if (bit_of(node->key, up->length) == 0 && peek(&up->child[1]))
			return peek(&up->child[1]);
	return NULL;
}
