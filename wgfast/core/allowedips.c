/* Allowed IPs: for each family the prefixes (prefixes.c), from which changes are made, and the trie (trie.c) that
 * packets read, or where prefixes are few a copy of them (few.c). What cannot be done without memory comes first,
 * so that a change that fails has changed nothing.
 *
 * A small trie that has no room for a change, or has become too many prefixes, gives way to a larger one, built beside
 * it and shown by one store; so do trie and records that have lost nearly all they held. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "allowedips_family.h"
#include "bytes.h"

#define SMALL_UNITS 512u        /* of the first trie: 4 KiB */
#define SMALL_UNITS_MAX 8192u
#define SMALL_PREFIXES 512u     /* more: a large trie */
#define LARGE_PREFIXES 128u     /* fewer: a small one again */
#define TABLE_UNITS (1u << WGF_BITS_LARGE) /* of a large trie */
#define FEW_RECORDS 4096u       /* not worth the while to give back */

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
	wgf_prefixes_init(&table->ipv4.prefixes, 1);
	wgf_prefixes_init(&table->ipv6.prefixes, 4);
	atomic_init(&table->ipv4.trie, NULL);
	atomic_init(&table->ipv6.trie, NULL);
	atomic_init(&table->ipv4.few, NULL);
	atomic_init(&table->ipv6.few, NULL);
	return table;
}

void wgf_allowedips_destroy(struct wgf_allowedips *table)
{
	if (!table)
		return;
	wgf_trie_destroy(trie_of(&table->ipv4));
	wgf_trie_destroy(trie_of(&table->ipv6));
	wgf_few_destroy(few_of(&table->ipv4));
	wgf_few_destroy(few_of(&table->ipv6));
	wgf_prefixes_destroy(&table->ipv4.prefixes);
	wgf_prefixes_destroy(&table->ipv6.prefixes);
	pthread_mutex_destroy(&table->lock);
	free(table);
}

/* The family and the prefix as its key, masked; NULL if family or length is out of range. */
static struct family *family_of(struct wgf_allowedips *table, enum wgf_family family, const uint8_t *address,
				unsigned length, struct wgf_key *key)
{
	if (family == WGF_IPV4 && length <= 32) {
		*key = wgf_key_masked((struct wgf_key){(uint64_t)wgf_load_be32(address) << 32, 0}, length);
		return &table->ipv4;
	}
	if (family == WGF_IPV6 && length <= 128) {
		*key = wgf_key_masked((struct wgf_key){wgf_load_be64(address), wgf_load_be64(address + 8)}, length);
		return &table->ipv6;
	}
	return NULL;
}

/* ---- One trie in place of another, under the lock ---- */

static void show(struct family *family, struct wgf_trie *trie)
{
	struct wgf_trie *old = trie_of(family);
	if (trie)
		trie->shown = true;
	atomic_store_explicit(&family->trie, trie, memory_order_release);
	if (old)
		wgf_trie_retire(old);
}

/* Another trie with the same prefixes. 0, or -ENOMEM, also where the units are too few: then all is as it was. */
static int replace(struct wgf_allowedips *table, struct family *family, unsigned bits, uint32_t units)
{
	struct wgf_trie *trie = wgf_trie_create(table->epoch, &family->prefixes, bits, units);
	if (!trie)
		return -ENOMEM;
	int error = trie_of(family) ? wgf_trie_adopt(trie, trie_of(family)) : 0;
	if (error)
		wgf_trie_destroy(trie);
	else
		show(family, trie);
	return error;
}

static int replace_small(struct wgf_allowedips *table, struct family *family, uint32_t units)
{
	while (units <= SMALL_UNITS_MAX && replace(table, family, WGF_BITS_SMALL, units))
		units *= 2;
	return units <= SMALL_UNITS_MAX ? 0 : -ENOMEM;
}

/* More room than the trie has. */
static int grow(struct wgf_allowedips *table, struct family *family)
{
	const struct wgf_trie *trie = trie_of(family);
	if (trie && trie->bits == WGF_BITS_LARGE)
		return -ENOMEM;
	if (family->prefixes.count <= SMALL_PREFIXES &&
	    !replace_small(table, family, trie ? 2 * trie->pool->size : SMALL_UNITS))
		return 0;
	return replace(table, family, WGF_BITS_LARGE, 0);
}

/* Records and their trie anew, beside the old ones, in as little memory as they take. Numbers of records change. */
static int condense(struct wgf_allowedips *table, struct family *family, unsigned bits, uint32_t units)
{
	struct wgf_prefixes prefixes;
	wgf_prefixes_init(&prefixes, family->prefixes.words);
	struct wgf_trie *trie = wgf_trie_create(table->epoch, &prefixes, bits, units);
	int error = trie ? wgf_trie_copy(trie, trie_of(family)) : -ENOMEM;
	if (error) {
		wgf_trie_destroy(trie);
		wgf_prefixes_destroy(&prefixes);
		return error;
	}
	prefixes.work += family->prefixes.work;
	wgf_prefixes_destroy(&family->prefixes);
	family->prefixes = prefixes;
	trie->prefixes = &family->prefixes;
	show(family, trie);
	return 0;
}

static void condense_small(struct wgf_allowedips *table, struct family *family)
{
	uint32_t units = SMALL_UNITS;
	while (units <= SMALL_UNITS_MAX && condense(table, family, WGF_BITS_SMALL, units))
		units *= 2;
}

static bool is_sparse(const struct family *family, const struct wgf_trie *trie)
{
	const struct wgf_prefixes *prefixes = &family->prefixes;
	return (prefixes->used > FEW_RECORDS && prefixes->count < prefixes->used / 8) ||
	       (trie->pool->used > 2 * TABLE_UNITS &&
		trie->pool->living - TABLE_UNITS < (trie->pool->used - TABLE_UNITS) / 8);
}

/* After removals, in time proportional to them. What fails here leaves what is larger than it need be. */
static void shrink(struct wgf_allowedips *table, struct family *family)
{
	const struct wgf_trie *trie = trie_of(family);
	if (!trie)
		return;
	if (family->prefixes.count == 0)
		show(family, NULL);
	else if (trie->bits == WGF_BITS_LARGE && family->prefixes.count < LARGE_PREFIXES)
		condense_small(table, family);
	else if (trie->bits == WGF_BITS_LARGE && is_sparse(family, trie))
		condense(table, family, WGF_BITS_LARGE, 0);
}

/* Last in a change of the trie, which until then only those readers see that asked for the few before there were any.
 * Without memory for them the trie is read. */
static void show_few(struct wgf_allowedips *table, struct family *family)
{
	struct wgf_trie *trie = trie_of(family);
	struct wgf_few *old = few_of(family), *few = trie ? wgf_few_create(trie) : NULL;
	if (few != old)
		atomic_store_explicit(&family->few, few, memory_order_release);
	if (old)
		wgf_few_retire(old, table->epoch);
}

/* Ends a change. In a small table more is retired than its pool of nodes, which collects when it needs room, knows of. */
static void unlock(struct wgf_allowedips *table, const struct family *family)
{
	const struct wgf_trie *trie = trie_of(family);
	bool small = !trie || trie->bits == WGF_BITS_SMALL;
	pthread_mutex_unlock(&table->lock);
	if (small && wgf_epoch_waits(table->epoch))
		wgf_epoch_collect(table->epoch);
}

/* ---- Changes, under the lock ---- */

typedef int wgf_trie_change(struct wgf_trie *trie, uint32_t number);

/* Does it with what memory there is, then with what readers have passed, then with more. -ENOSPC: there is no more, whatever
 * memory the machine has; then, and at -ENOMEM, nothing has changed. A trie built for a move has moved it. */
static int attempt(struct wgf_allowedips *table, struct family *family, wgf_trie_change *change, uint32_t number)
{
	if (!trie_of(family) && grow(table, family))
		return -ENOMEM;
	int error = change(trie_of(family), number);
	if (error) {
		wgf_nodepool_flush(trie_of(family)->pool);
		error = change(trie_of(family), number);
	}
	while (error && !grow(table, family))
		error = change == wgf_trie_move ? 0 : change(trie_of(family), number);
	return error && wgf_nodepool_full(trie_of(family)->pool) ? -ENOSPC : error;
}

static int move(struct wgf_allowedips *table, struct family *family, uint32_t number, uint32_t owner)
{
	uint32_t previous = wgf_record_owner(wgf_prefixes_at(&family->prefixes, number));
	if (previous == owner)
		return 0;
	wgf_prefixes_move(&family->prefixes, number, owner);
	int error = attempt(table, family, wgf_trie_move, number);
	if (error)
		wgf_prefixes_move(&family->prefixes, number, previous);
	else
		show_few(table, family);
	return error;
}

static int insert(struct wgf_allowedips *table, struct family *family, struct wgf_key key, unsigned length,
		  uint32_t owner)
{
	if (wgf_prefixes_reach(&family->prefixes, owner))
		return -ENOMEM;
	uint32_t number = trie_of(family) ? wgf_trie_find(trie_of(family), key, length) : 0;
	if (number)
		return move(table, family, number, owner);
	if (family->prefixes.count == SMALL_PREFIXES && trie_of(family)->bits == WGF_BITS_SMALL)
		replace(table, family, WGF_BITS_LARGE, 0); /* if not, the small one will do as long as it has room */
	number = wgf_prefixes_add(&family->prefixes, key, length, owner);
	if (!number)
		return -ENOMEM;
	int error = attempt(table, family, wgf_trie_insert, number);
	if (error) {
		wgf_prefixes_remove(&family->prefixes, number);
		shrink(table, family);
	} else {
		show_few(table, family);
	}
	return error;
}

int wgf_allowedips_insert(struct wgf_allowedips *table, enum wgf_family family, const uint8_t *address,
			  unsigned length, uint32_t owner)
{
	struct wgf_key key;
	struct family *of = family_of(table, family, address, length, &key);
	if (!of || owner > WGF_OWNER_MAX)
		return -EINVAL;
	pthread_mutex_lock(&table->lock);
	int error = insert(table, of, key, length, owner);
	unlock(table, of);
	return error;
}

int wgf_allowedips_insert_many(struct wgf_allowedips *table, enum wgf_family family, const void *addresses,
			       const uint8_t *lengths, const uint32_t *owners, size_t n, size_t *at)
{
	unsigned most = family == WGF_IPV4 ? 32 : 128;
	for (*at = 0; *at < n; ++*at)
		if (lengths[*at] > most || owners[*at] > WGF_OWNER_MAX)
			return -EINVAL;
	for (*at = 0; *at < n; ++*at) {
		uint8_t four[4];
		const uint8_t *address = (const uint8_t *)addresses + 16 * *at;
		if (family == WGF_IPV4) {
			wgf_store_be32(four, ((const uint32_t *)addresses)[*at]);
			address = four;
		}
		int error = wgf_allowedips_insert(table, family, address, lengths[*at], owners[*at]);
		if (error)
			return error;
	}
	return 0;
}

/* ---- What can be held ---- */

void wgf_allowedips_demand(struct wgf_allowedips *table, struct wgf_demand *demand, enum wgf_family family,
			   const uint8_t *address, unsigned length, uint32_t owner)
{
	struct wgf_key key;
	struct family *of = family_of(table, family, address, length, &key);
	if (!of)
		return;
	pthread_mutex_lock(&table->lock);
	uint32_t number = trie_of(of) ? wgf_trie_find(trie_of(of), key, length) : 0;
	if (!number)
		demand->added[of == &table->ipv6]++;
	else if (wgf_record_owner(wgf_prefixes_at(&of->prefixes, number)) != owner)
		demand->moved[of == &table->ipv6]++;
	pthread_mutex_unlock(&table->lock);
}

int wgf_allowedips_admit(struct wgf_allowedips *table, const struct wgf_demand *demand)
{
	pthread_mutex_lock(&table->lock);
	bool held = wgf_trie_admits(trie_of(&table->ipv4), &table->ipv4.prefixes, demand->added[0], demand->moved[0]) &&
		    wgf_trie_admits(trie_of(&table->ipv6), &table->ipv6.prefixes, demand->added[1], demand->moved[1]);
	pthread_mutex_unlock(&table->lock);
	return held ? 0 : -ENOSPC;
}

static void drop(struct wgf_allowedips *table, struct family *family, uint32_t number)
{
	while (attempt(table, family, wgf_trie_remove, number))
		sched_yield();
	wgf_prefixes_remove(&family->prefixes, number);
}

int wgf_allowedips_remove(struct wgf_allowedips *table, enum wgf_family family, const uint8_t *address,
			  unsigned length, uint32_t owner)
{
	struct wgf_key key;
	struct family *of = family_of(table, family, address, length, &key);
	if (!of || (owner > WGF_OWNER_MAX && owner != WGF_OWNER_NONE))
		return -EINVAL;
	int error = -ENOENT;
	pthread_mutex_lock(&table->lock);
	uint32_t number = trie_of(of) ? wgf_trie_find(trie_of(of), key, length) : 0;
	if (number && (owner == WGF_OWNER_NONE ||
		       owner == wgf_record_owner(wgf_prefixes_at(&of->prefixes, number)))) {
		drop(table, of, number);
		shrink(table, of);
		show_few(table, of);
		error = 0;
	}
	unlock(table, of);
	return error;
}

static size_t remove_some(struct wgf_allowedips *table, struct family *family, uint32_t owner, size_t most)
{
	size_t removed = 0;
	while (removed < most && owner < family->prefixes.lists_size && family->prefixes.lists[owner]) {
		drop(table, family, family->prefixes.lists[owner]);
		removed++;
	}
	shrink(table, family);
	if (removed)
		show_few(table, family);
	return removed;
}

size_t wgf_allowedips_remove_some(struct wgf_allowedips *table, uint32_t owner, size_t most)
{
	pthread_mutex_lock(&table->lock);
	size_t removed = remove_some(table, &table->ipv4, owner, most);
	unlock(table, &table->ipv4);
	pthread_mutex_lock(&table->lock);
	removed += remove_some(table, &table->ipv6, owner, most - removed);
	unlock(table, &table->ipv6);
	return removed;
}

size_t wgf_allowedips_remove_owner(struct wgf_allowedips *table, uint32_t owner)
{
	return wgf_allowedips_remove_some(table, owner, SIZE_MAX);
}

/* ---- What is in it ---- */

static size_t memory_of(const struct family *family)
{
	const struct wgf_trie *trie = trie_of(family);
	const struct wgf_few *few = few_of(family);
	return wgf_prefixes_memory(&family->prefixes) + (trie ? wgf_trie_memory(trie) : 0) +
	       (few ? wgf_few_memory(few) : 0);
}

size_t wgf_allowedips_memory(struct wgf_allowedips *table)
{
	pthread_mutex_lock(&table->lock);
	size_t bytes = sizeof(*table) + memory_of(&table->ipv4) + memory_of(&table->ipv6);
	pthread_mutex_unlock(&table->lock);
	return bytes;
}

uint64_t wgf_allowedips_work(struct wgf_allowedips *table)
{
	pthread_mutex_lock(&table->lock);
	uint64_t work = table->ipv4.prefixes.work + table->ipv6.prefixes.work;
	pthread_mutex_unlock(&table->lock);
	return work;
}

size_t wgf_allowedips_count(struct wgf_allowedips *table)
{
	pthread_mutex_lock(&table->lock);
	size_t count = table->ipv4.prefixes.count + table->ipv6.prefixes.count;
	pthread_mutex_unlock(&table->lock);
	return count;
}

struct listing {
	const struct wgf_prefixes *prefixes;
	struct wgf_prefix *out;
	size_t n, max;
};

static bool note(void *context, uint32_t number)
{
	struct listing *listing = context;
	if (listing->n >= listing->max)
		return false;
	const struct wgf_record *record = wgf_prefixes_at(listing->prefixes, number);
	bool ipv4 = listing->prefixes->words == 1;
	struct wgf_prefix *prefix = &listing->out[listing->n++];
	*prefix = (struct wgf_prefix){.family = ipv4 ? WGF_IPV4 : WGF_IPV6,
				      .length = (uint8_t)wgf_record_length(record),
				      .owner = wgf_record_owner(record)};
	for (unsigned word = 0; word < listing->prefixes->words; word++)
		wgf_store_be32(prefix->address + 4 * word, record->address[word]);
	return true;
}

static size_t list_owner(struct family *family, uint32_t owner, struct listing *listing)
{
	struct wgf_prefixes *prefixes = &family->prefixes;
	size_t n = 0;
	if (owner >= prefixes->lists_size)
		return 0;
	listing->prefixes = prefixes;
	if (listing->n < listing->max)
		wgf_prefixes_sort(prefixes, owner);
	for (uint32_t number = prefixes->lists[owner]; number; number = wgf_prefixes_at(prefixes, number)->later, n++)
		note(listing, number);
	return n;
}

static size_t list_all(struct family *family, struct listing *listing)
{
	listing->prefixes = &family->prefixes;
	if (trie_of(family))
		wgf_trie_walk(trie_of(family), note, listing);
	return family->prefixes.count;
}

size_t wgf_allowedips_list(struct wgf_allowedips *table, uint32_t owner, struct wgf_prefix *out, size_t max)
{
	struct listing listing = {.out = out, .max = max};
	size_t total = 0;
	pthread_mutex_lock(&table->lock);
	for (int i = 0; i < 2; i++) {
		struct family *family = i == 0 ? &table->ipv4 : &table->ipv6;
		total += owner == WGF_OWNER_NONE ? list_all(family, &listing) : list_owner(family, owner, &listing);
	}
	pthread_mutex_unlock(&table->lock);
	return total;
}
