/* Receiver index -> whose it is: every handshake we began or answered, then the keypair it became.
 *
 * Indices are random 32-bit numbers, so an index is its own hash and nobody can choose where it
 * falls. Open addressing over an array of atomic pointers; a removed entry leaves a mark that keeps
 * probes going until the array is built anew, whole, and swapped in. Lookups take no lock. */
#ifndef WGF_INDEXTABLE_H
#define WGF_INDEXTABLE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "epoch.h"

struct wgf_peer;
struct wgf_keypair;

struct wgf_index_entry {
	struct wgf_retired retired;
	uint32_t index;
	struct wgf_peer *peer;                    /* never changes */
	_Atomic(struct wgf_keypair *) keypair;    /* NULL while the handshake runs */
};

struct wgf_indextable {
	struct wgf_epoch *epoch;
	pthread_mutex_t lock;                        /* all changes */
	_Atomic(struct wgf_index_array *) array;
	size_t live, marks;                          /* under lock */
};

int wgf_indextable_init(struct wgf_indextable *table, struct wgf_epoch *epoch);
void wgf_indextable_destroy(struct wgf_indextable *table);

/* A new entry under an unused random index. NULL: out of memory or of randomness. */
struct wgf_index_entry *wgf_indextable_insert(struct wgf_indextable *table, struct wgf_peer *peer);
/* Unlinks and retires; the entry must be in the table. */
void wgf_indextable_remove(struct wgf_indextable *table, struct wgf_index_entry *entry);
/* Inside a reader. NULL: no such index. */
struct wgf_index_entry *wgf_indextable_find(struct wgf_indextable *table, uint32_t index);
/* The same, before they are looked for: brings what finding them takes into the cache, for all at once. */
void wgf_indextable_fetch(struct wgf_indextable *table, const uint32_t *indices, size_t n);
size_t wgf_indextable_count(struct wgf_indextable *table);

#endif
