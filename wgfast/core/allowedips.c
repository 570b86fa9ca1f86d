/* Allowed IPs: a trie per family (trie.c) that the packets read, and beside it, for the control plane
 * alone, one list of prefixes per owner, so that what concerns one peer costs no more than that peer
 * has. The lists begin in an array indexed by owner, for owners are dense, and run through the tries'
 * own nodes: whatever takes memory comes first, so that a change that fails has changed nothing. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "allowedips.h"
#include "bytes.h"
#include "trie.h"

struct wgf_allowedips {
	struct wgf_trie ipv4, ipv6;
	struct wgf_epoch *epoch;
	pthread_mutex_t lock;         /* everything below, and who may change the tries */
	struct wgf_trie_node **lists; /* by owner: any of its prefixes, from there on `later` */
	size_t lists_size;
	size_t count;
};

struct wgf_allowedips *wgf_allowedips_create(struct wgf_epoch *epoch)
{
	struct wgf_allowedips *table = calloc(1, sizeof(*table));
	if (!table)
		return NULL;
	if (pthread_mutex_init(&table->lock, NULL) != 0) {
		free(table);
		return NULL;
	}
	table->epoch = epoch;
	wgf_trie_init(&table->ipv4, epoch, WGF_IPV4);
	wgf_trie_init(&table->ipv6, epoch, WGF_IPV6);
	return table;
}

void wgf_allowedips_destroy(struct wgf_allowedips *table)
{
	if (!table)
		return;
	wgf_trie_destroy(&table->ipv4);
	wgf_trie_destroy(&table->ipv6);
	pthread_mutex_destroy(&table->lock);
	free(table->lists);
	free(table);
}

/* ---- Addresses as the trie has them ---- */

static struct wgf_trie_key key4(uint32_t address)
{
	return (struct wgf_trie_key){(uint64_t)address << 32, 0};
}

static struct wgf_trie_key key6(const uint8_t *address)
{
	return (struct wgf_trie_key){wgf_load_be64(address), wgf_load_be64(address + 8)};
}

/* The family's trie and the address as its key; NULL if family or length is out of range. Host bits
 * need no masking here: the trie compares what a length covers, and masks what it keeps. */
static struct wgf_trie *trie_of(struct wgf_allowedips *table, enum wgf_family family,
				const uint8_t *address, unsigned length, struct wgf_trie_key *key)
{
	if (family == WGF_IPV4 && length <= 32) {
		*key = key4(wgf_load_be32(address));
		return &table->ipv4;
	}
	if (family == WGF_IPV6 && length <= 128) {
		*key = key6(address);
		return &table->ipv6;
	}
	return NULL;
}

/* ---- The lists, under the lock ---- */

static int lists_reach(struct wgf_allowedips *table, uint32_t owner)
{
	if (owner < table->lists_size)
		return 0;
	size_t size = table->lists_size ? table->lists_size : 16;
	while (size <= owner)
		size *= 2;
	struct wgf_trie_node **lists = realloc(table->lists, size * sizeof(*lists));
	if (!lists)
		return -ENOMEM;
	memset(lists + table->lists_size, 0, (size - table->lists_size) * sizeof(*lists));
	table->lists = lists;
	table->lists_size = size;
	return 0;
}

static void list_enter(struct wgf_allowedips *table, struct wgf_trie_node *node, uint32_t owner)
{
	node->earlier = NULL;
	node->later = table->lists[owner];
	if (node->later)
		node->later->earlier = node;
	table->lists[owner] = node;
}

static void list_leave(struct wgf_allowedips *table, struct wgf_trie_node *node, uint32_t owner)
{
	if (node->earlier)
		node->earlier->later = node->later;
	else
		table->lists[owner] = node->later;
	if (node->later)
		node->later->earlier = node->earlier;
}

/* IPv4 before IPv6, then by address, then by length. */
static bool stands_before(const struct wgf_trie_node *a, const struct wgf_trie_node *b)
{
	if (a->family != b->family)
		return a->family < b->family;
	if (a->key.high != b->key.high)
		return a->key.high < b->key.high;
	if (a->key.low != b->key.low)
		return a->key.low < b->key.low;
	return a->length < b->length;
}

static struct wgf_trie_node *merge(struct wgf_trie_node *a, struct wgf_trie_node *b)
{
	struct wgf_trie_node *merged = NULL, **end = &merged;
	while (a && b) {
		struct wgf_trie_node **less = stands_before(b, a) ? &b : &a;
		*end = *less;
		end = &(*less)->later;
		*less = *end;
	}
	*end = a ? a : b;
	return merged;
}

/* Merge sort within the list, for listing must not fail for want of memory. runs[i] is sorted and
 * 2^i long, or empty; 32 of them hold more than there is memory for. */
static void list_sort(struct wgf_allowedips *table, uint32_t owner)
{
	struct wgf_trie_node *runs[32] = {NULL};
	struct wgf_trie_node *rest = table->lists[owner];
	while (rest) {
		struct wgf_trie_node *run = rest;
		rest = rest->later;
		run->later = NULL;
		unsigned i = 0;
		for (; i < 31 && runs[i]; i++) {
			run = merge(runs[i], run);
			runs[i] = NULL;
		}
		runs[i] = merge(runs[i], run);
	}
	struct wgf_trie_node *sorted = NULL, *earlier = NULL;
	for (unsigned i = 0; i < 32; i++)
		sorted = merge(runs[i], sorted);
	table->lists[owner] = sorted;
	for (struct wgf_trie_node *node = sorted; node; node = node->later) {
		node->earlier = earlier;
		earlier = node;
	}
}

/* ---- Changes ---- */

static int insert(struct wgf_allowedips *table, struct wgf_trie *trie, struct wgf_trie_key key,
		  unsigned length, uint32_t owner)
{
	int error = lists_reach(table, owner);
	if (error)
		return error;
	uint32_t previous;
	struct wgf_trie_node *node = wgf_trie_claim(trie, key, length, owner, &previous);
	if (!node)
		return -ENOMEM;
	if (previous == WGF_OWNER_NONE)
		table->count++;
	else
		list_leave(table, node, previous);
	list_enter(table, node, owner);
	return 0;
}

int wgf_allowedips_insert(struct wgf_allowedips *table, enum wgf_family family,
			  const uint8_t *address, unsigned length, uint32_t owner)
{
	struct wgf_trie_key key;
	struct wgf_trie *trie = trie_of(table, family, address, length, &key);
	if (!trie || owner > WGF_OWNER_MAX)
		return -EINVAL;
	pthread_mutex_lock(&table->lock);
	int error = insert(table, trie, key, length, owner);
	pthread_mutex_unlock(&table->lock);
	return error;
}

static void drop(struct wgf_allowedips *table, struct wgf_trie_node *node, uint32_t owner)
{
	list_leave(table, node, owner);
	wgf_trie_drop(node->family == WGF_IPV4 ? &table->ipv4 : &table->ipv6, node);
	table->count--;
}

int wgf_allowedips_remove(struct wgf_allowedips *table, enum wgf_family family,
			  const uint8_t *address, unsigned length, uint32_t owner)
{
	struct wgf_trie_key key;
	struct wgf_trie *trie = trie_of(table, family, address, length, &key);
	if (!trie || (owner > WGF_OWNER_MAX && owner != WGF_OWNER_NONE))
		return -EINVAL;
	int error = -ENOENT;
	pthread_mutex_lock(&table->lock);
	struct wgf_trie_node *node = wgf_trie_find(trie, key, length);
	if (node) {
		uint32_t has = atomic_load_explicit(&node->owner, memory_order_relaxed);
		if (owner == has || owner == WGF_OWNER_NONE) {
			wgf_trie_begin_drops(trie);
			drop(table, node, has);
			error = 0;
		}
	}
	pthread_mutex_unlock(&table->lock);
	return error;
}

size_t wgf_allowedips_remove_owner(struct wgf_allowedips *table, uint32_t owner)
{
	size_t removed = 0;
	pthread_mutex_lock(&table->lock);
	if (owner < table->lists_size && table->lists[owner]) {
		wgf_trie_begin_drops(&table->ipv4);
		wgf_trie_begin_drops(&table->ipv6);
		while (table->lists[owner]) {
			drop(table, table->lists[owner], owner);
			removed++;
		}
	}
	pthread_mutex_unlock(&table->lock);
	return removed;
}

/* ---- Lookups ---- */

uint32_t wgf_allowedips_lookup4(const struct wgf_allowedips *table, const uint8_t address[4])
{
	return wgf_trie_lookup(&table->ipv4, key4(wgf_load_be32(address)));
}

uint32_t wgf_allowedips_lookup6(const struct wgf_allowedips *table, const uint8_t address[16])
{
	return wgf_trie_lookup(&table->ipv6, key6(address));
}

void wgf_allowedips_lookup4_many(struct wgf_allowedips *table, const uint32_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct wgf_reader reader;
	wgf_epoch_join(table->epoch, &reader);
	wgf_epoch_enter(table->epoch, &reader);
	for (size_t i = 0; i < n; i++)
		owners[i] = wgf_trie_lookup(&table->ipv4, key4(addresses[i]));
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(table->epoch, &reader);
}

void wgf_allowedips_lookup6_many(struct wgf_allowedips *table, const uint8_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct wgf_reader reader;
	wgf_epoch_join(table->epoch, &reader);
	wgf_epoch_enter(table->epoch, &reader);
	for (size_t i = 0; i < n; i++)
		owners[i] = wgf_trie_lookup(&table->ipv6, key6(addresses + 16 * i));
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(table->epoch, &reader);
}

/* ---- What is in it ---- */

size_t wgf_allowedips_count(struct wgf_allowedips *table)
{
	pthread_mutex_lock(&table->lock);
	size_t count = table->count;
	pthread_mutex_unlock(&table->lock);
	return count;
}

static struct wgf_prefix prefix_of(const struct wgf_trie_node *node)
{
	struct wgf_prefix prefix = {.family = node->family, .length = node->length};
	prefix.owner = atomic_load_explicit(&node->owner, memory_order_relaxed);
	/* The lower half of an IPv4 address's first word is zero, so this fits either family. */
	for (unsigned i = 0; i < 8; i++) {
		prefix.address[i] = (uint8_t)(node->key.high >> (56 - 8 * i));
		prefix.address[8 + i] = (uint8_t)(node->key.low >> (56 - 8 * i));
	}
	return prefix;
}

static size_t list_owner(struct wgf_allowedips *table, uint32_t owner, struct wgf_prefix *out,
			 size_t max)
{
	if (owner >= table->lists_size)
		return 0;
	size_t n = 0;
	if (max > 0)
		list_sort(table, owner);
	for (struct wgf_trie_node *node = table->lists[owner]; node; node = node->later, n++)
		if (n < max)
			out[n] = prefix_of(node);
	return n;
}

static void list_all(struct wgf_trie *trie, struct wgf_prefix *out, size_t *n, size_t max)
{
	struct wgf_trie_node *node = wgf_trie_next(trie, NULL);
	for (; node && *n < max; node = wgf_trie_next(trie, node))
		if (atomic_load_explicit(&node->owner, memory_order_relaxed) != WGF_OWNER_NONE)
			out[(*n)++] = prefix_of(node);
}

size_t wgf_allowedips_list(struct wgf_allowedips *table, uint32_t owner, struct wgf_prefix *out,
			   size_t max)
{
	pthread_mutex_lock(&table->lock);
	size_t total = table->count, copied = 0;
	if (owner == WGF_OWNER_NONE) {
		list_all(&table->ipv4, out, &copied, max);
		list_all(&table->ipv6, out, &copied, max);
	} else {
		total = list_owner(table, owner, out, max);
	}
	pthread_mutex_unlock(&table->lock);
	return total;
}
