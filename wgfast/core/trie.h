/* The inside of the allowed IPs, chosen by measurement (bench/allowedips.py): a trie of 6 bits a step under
 * a table of the first 18 bits, its nodes compressed to the places where the answer changes.
 *
 *   table   2^18 entries of 64 bits (2 MiB). An entry says what is answered outside of a range of the 64 slots
 *           below it, and inside: an owner, if one run of slots is all that differs, or a node
 *   node    a bitmap of 64 bits, one for each slot whose answer differs from that of the slot before, so that the
 *           slots fall into runs, and the runs' answers, 3 bytes each: an owner, a node for what is longer, nothing,
 *           or INHERIT. Every other run inherits where prefixes do not touch, so in IPv4 the first 16 runs have a bit
 *           for that, in the place of an answer
 *
 * So an IPv4 lookup is one load where prefixes are few and far between, and three where they are many: the table's,
 * and two from a node that mostly lies within one cache line. None of it branches; what is longer than 24 bits is done
 * after the others of its batch, level by level. What decides is how much of it all stays in the cache: a million prefixes
 * are 10 MiB here against 64 MiB for a table of the first 24 bits. (Answers of 4 bytes were slower for being larger. Nodes
 * fill halves of a line or whole ones: packed without a gap they cross one in two of five, are a ninth smaller, and lookups 4
 * to 9 % slower. On Zen 4, gathering nodes and answers by AVX-512 was slower than fetching the nodes of 64 addresses ahead
 * and then loading one by one; on Sapphire Rapids it is the other way round (trie_lookup_intel.c). A table that tells
 * answers from nodes by a branch is mispredicted.)
 *
 * In IPv6 what lies between two nodes is skipped, so a node begins with the bits that lead to it, and an address that has
 * others ends there, with what lies before the first answer: the cover. A batch goes down level by level, and each node is
 * fetched as soon as the answer that leads to it is there: when those of a level were fetched together, that was more lines
 * at once than a core can wait for, and lookups took 2.5 times as long. Here no node that fits a cache line crosses one.
 * What is left is instructions: a node takes 38 (with AVX2; eight side by side with AVX-512 take two thirds of the time),
 * for it is laid out so that the last nodes are read like all others, and what depends on how many bits lead there comes out
 * of a table. (A table of 14 bits is as quick for prefixes nested deeply and takes a third longer for others; one of 20 bits
 * is a tenth quicker and 10 MiB larger.)
 *
 * Up to some hundred prefixes the table is one of 6 bits, and the whole a few KiB. There IPv4 has the nodes of IPv6, for a
 * host route would lie five nodes down and is one or two that way: 9 ns a lookup instead of 27. Of a dozen prefixes it is
 * not even that which is read (few.h).
 *
 * Nodes never change. A change builds those it affects anew, in free memory, and shows them by one store into the
 * table; the old ones go through the epoch. So whatever entry a reader got hold of is the answer of one moment, and
 * an address changes hands in one step. Prefixes no longer than the table's bits stand only in the
 * entries, as what is answered outside, for a default route may lie under a million others: a change of one is a store
 * for each place it covers, without a look at what lies below. INHERIT means: what covers this node. For a node
 * below the table's level it is a prefix of the parent node, and is known when the node is built (`cover`); so a change
 * costs at most the nodes on its way and 64 children that are covered anew.
 *
 * Changes are the caller's, one at a time; they work from the records (prefixes.h), each of which is in the list of
 * the node it belongs to. Records lie anywhere, so a list is a row of cache misses, each waiting for the one before. At the
 * table's level, where IPv4 has nearly all of its prefixes, there is one for each quarter of a place's slots instead: they
 * are shorter, and begin to be fetched together. */
#ifndef WGF_TRIE_H
#define WGF_TRIE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "nodepool.h"
#include "prefixes.h"

#define WGF_STRIDE 6u
#define WGF_NODE_SLOTS 64u
#define WGF_BITS_SMALL 6u
#define WGF_BITS_LARGE 18u
#define WGF_PART_BITS 2u /* that name a part of a place; where nodes skip lists are short here, and it is one part */

/* An answer: an owner below 2^20, or one of these. */
#define WGF_ANSWER_NONE UINT32_C(0x100000)
#define WGF_ANSWER_INHERIT UINT32_C(0x100001)
#define WGF_ANSWER_NODE UINT32_C(0x200000) /* and above: the node at this unit of the pool */

/* IPv4's nodes in a large trie. At the table's level answers begin where the cover is; below it they follow, and in the last
 * word is the number of the first of its records. */
struct wgf_node4 {
	uint64_t bitmap;   /* bit 0 is never set */
	uint16_t inherits; /* by run, if it is one of the first 16: it has no answer, for it is INHERIT */
	uint8_t cover[4];  /* an owner or INHERIT */
};

#define WGF_INHERITS 16u /* runs */
#define WGF_HEADER4_TABLE 10u
#define WGF_HEADER4 14u

/* IPv6's, and those of any small trie, before the answers. A leaf is a node of one prefix and nothing below it, the most
 * there are: all bits of the prefix lead to it, and it has one answer, so that it is half a cache line. It is read like any
 * other: the slot that is looked at is always its first, whatever the rest of the bitmap says. */
struct wgf_node6 {
	uint8_t key[16];  /* lowest byte first; zeros behind the bits that lead here */
	uint64_t bitmap;  /* bit 0 is always set; the others of a leaf's are the number of its record */
	uint16_t row;     /* the offset of its row in wgf_lookup6_rows */
	uint8_t cover[3]; /* an owner or INHERIT */
};

/* What a lookup does at a node, by how many bits lead there: first the leaves of each length, then the nodes of each depth
 * that is a multiple of the stride. */
struct wgf_lookup6_row {
	uint8_t mask[16]; /* of these bits, lowest byte first */
	uint32_t at;      /* in the bits of a lookup: the byte in which the slot begins */
	uint32_t shift;   /* and where in it */
	uint32_t bits;    /* the changer's, as is the next */
	uint32_t leaf;    /* 1: it is one */
};

#define WGF_LOOKUP6_ROWS (129u + 128u / WGF_STRIDE)
extern const struct wgf_lookup6_row wgf_lookup6_rows[WGF_LOOKUP6_ROWS]; /* trie_lookup.c */
#define WGF_HEADER6 29u
#define WGF_LEAF_UNITS 4u /* half a cache line */
_Static_assert(offsetof(struct wgf_node4, cover) == WGF_HEADER4_TABLE, "a node's header");
_Static_assert(offsetof(struct wgf_node6, cover) + 3 == WGF_HEADER6, "a node's header");
_Static_assert(WGF_HEADER6 + 3 == WGF_LEAF_UNITS * WGF_UNIT, "a leaf");

struct wgf_trie {
	unsigned char *base; /* of the pool; it begins with the table */
	unsigned bits;       /* the table has 2^bits entries */
	bool skips;          /* nodes lie at any depth: IPv6, and IPv4 in a small one */
	uint32_t nowhere;    /* a node without answers, for who must look at one: its unit */
	_Atomic bool dense;  /* more than a quarter of the table leads to nodes; the changer's, a hint to lookups */
	/* The changer's: */
	size_t leading;      /* entries of the table that lead to nodes */
	bool shown;          /* readers may see it */
	struct wgf_nodepool *pool;
	struct wgf_prefixes *prefixes;
	uint32_t *lists;     /* by part of a place: prefixes that begin there, up to 6 bits longer than the table's */
	unsigned list_bits;  /* the table's, and those that name a part */
	uint8_t *covers;     /* by place: one more than the length of the prefix that covers it; 0: none does */
	struct wgf_retired retired;
};

/* For the family of the prefixes, with none of them in it. units: the room of a small one. NULL: no memory. */
struct wgf_trie *wgf_trie_create(struct wgf_epoch *epoch, struct wgf_prefixes *prefixes, unsigned bits, uint32_t units);
void wgf_trie_destroy(struct wgf_trie *trie); /* no reader sees it */
void wgf_trie_retire(struct wgf_trie *trie);  /* readers may still see it */

/* The record of exactly this prefix, or 0. Keys are masked to the length, here and below. */
uint32_t wgf_trie_find(struct wgf_trie *trie, struct wgf_key key, unsigned length);
/* Each in one step, or -ENOMEM and nothing changed. An insertion's record is in no node's list; a move's
 * has its new owner already; a removal may use what others may not and leaves the record to the caller. */
int wgf_trie_insert(struct wgf_trie *trie, uint32_t number);
int wgf_trie_move(struct wgf_trie *trie, uint32_t number);
int wgf_trie_remove(struct wgf_trie *trie, uint32_t number);
/* Calls for every record in order of address, then length, until it returns false. */
void wgf_trie_walk(struct wgf_trie *trie, bool (*visit)(void *context, uint32_t number), void *context);
/* All records of another trie into this empty one: the same ones, and the other is done with, or copies of them among its
 * own prefixes. 0; -ENOMEM: the other is as it was. */
int wgf_trie_adopt(struct wgf_trie *trie, struct wgf_trie *from);
int wgf_trie_copy(struct wgf_trie *trie, struct wgf_trie *from);
size_t wgf_trie_memory(const struct wgf_trie *trie);
/* Would it hold so many more prefixes while so many others change hands (wgf_allowedips_admit)? NULL: there is none yet. */
bool wgf_trie_admits(struct wgf_trie *trie, const struct wgf_prefixes *prefixes, uint64_t added, uint64_t moved);

/* ---- Lookups, inside a reader of the epoch; any n. WGF_OWNER_NONE where nothing matches. ---- */

void wgf_trie_lookup4(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_trie_lookup6(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners);

/* ---- The layout, for readers and changers ---- */

static inline const void *wgf_trie_node(const struct wgf_trie *trie, uint32_t at)
{
	return trie->base + (size_t)at * WGF_UNIT;
}

/* Bits of an entry: inside 0 to 23, outside 24 to 47, the first slot inside 48 to 53, how many follow it 54 to 59;
 * bit 60: nothing lies inside, whatever it says. An empty entry says the same inside as outside. */
static inline _Atomic uint64_t *wgf_trie_table(const struct wgf_trie *trie)
{
	return (_Atomic uint64_t *)(void *)trie->base;
}

static inline uint64_t wgf_entry(uint32_t inside, uint32_t outside, unsigned first, unsigned follow)
{
	return inside | (uint64_t)outside << 24 | (uint64_t)first << 48 | (uint64_t)follow << 54;
}

static inline uint64_t wgf_entry_empty(uint32_t outside)
{
	return wgf_entry(outside, outside, 0, 2 * WGF_NODE_SLOTS - 1);
}

/* The same entry, covered by something else. */
static inline uint64_t wgf_entry_covered(uint64_t entry, uint32_t outside)
{
	if (entry >> 60)
		return wgf_entry_empty(outside);
	return (entry & ~((uint64_t)0xffffff << 24)) | (uint64_t)outside << 24;
}

static inline uint32_t wgf_entry_inside(uint64_t entry)
{
	return (uint32_t)entry & 0xffffff;
}

static inline uint32_t wgf_entry_outside(uint64_t entry)
{
	return (uint32_t)(entry >> 24) & 0xffffff;
}

/* What it says of a slot. By shifting, for a branch would be mispredicted. */
static inline uint32_t wgf_entry_answer(uint64_t entry, unsigned slot)
{
	unsigned from_first = (slot - (unsigned)(entry >> 48)) & 63;
	return (uint32_t)(entry >> (24u & -(unsigned)(from_first > entry >> 54))) & 0xffffff;
}

static inline size_t wgf_trie_place(const struct wgf_trie *trie, struct wgf_key key)
{
	return (size_t)(key.high >> (64 - trie->bits));
}

/* The list of what begins at this key, up to 6 bits longer than the table's. Those of a place follow each other. */
static inline uint32_t *wgf_trie_list(const struct wgf_trie *trie, struct wgf_key key)
{
	return &trie->lists[key.high >> (64 - trie->list_bits)];
}

static inline unsigned wgf_trie_parts(const struct wgf_trie *trie)
{
	return 1u << (trie->list_bits - trie->bits);
}

/* The six bits at a depth; what lies behind the address is zero. */
static inline unsigned wgf_key_slot(struct wgf_key key, unsigned depth)
{
	if (depth >= 64)
		return (unsigned)(key.low << (depth - 64) >> 58);
	return (unsigned)((key.high << depth | key.low >> 1 >> (63 - depth)) >> 58);
}

/* Do two addresses agree in their first bits, fewer than 128 of them? */
static inline bool wgf_key_agrees(struct wgf_key a, struct wgf_key b, unsigned bits)
{
	if (bits < 64)
		return (a.high ^ b.high) >> 1 >> (63 - bits) == 0;
	return a.high == b.high && (a.low ^ b.low) >> 1 >> (127 - bits) == 0;
}

static inline const struct wgf_lookup6_row *wgf_node6_row(const struct wgf_node6 *node)
{
	return (const struct wgf_lookup6_row *)(const void *)((const char *)wgf_lookup6_rows + node->row);
}

static inline uint16_t wgf_row_of_leaf(unsigned bits)
{
	return (uint16_t)(bits * sizeof(struct wgf_lookup6_row));
}

static inline uint16_t wgf_row_of_depth(unsigned depth)
{
	return wgf_row_of_leaf(128 + depth / WGF_STRIDE);
}

/* An answer among those that stand at a place: its three bytes and no more, for a leaf ends there, and so may the memory. */
static inline uint32_t wgf_answer(const void *answers, size_t index)
{
	const uint8_t *p = (const uint8_t *)answers + 3 * index;
	return (uint32_t)wgf_load_le16(p) | (uint32_t)p[2] << 16;
}

/* Which of a node's runs is the slot's. */
static inline unsigned wgf_node_run(uint64_t bitmap, unsigned slot)
{
	return (unsigned)__builtin_popcountll(bitmap << (63 - slot));
}

/* How many of them up to this one have an answer in a node of IPv4. */
static inline unsigned wgf_node4_answered(uint64_t inherits, unsigned run)
{
	return run + 1 - (unsigned)__builtin_popcountll(inherits & ((UINT64_C(2) << run) - 1));
}

#endif
