/* The inside of the allowed IPs, for the file that changes them (allowedips.c) and the one that looks up
 * (allowedips_lookup.c). */
#ifndef WGF_ALLOWEDIPS_FAMILY_H
#define WGF_ALLOWEDIPS_FAMILY_H

#include <pthread.h>
#include <stdatomic.h>

#include "allowedips.h"
#include "few.h"
#include "prefixes.h"
#include "trie.h"

struct family {
	struct wgf_prefixes prefixes;      /* under the lock */
	_Atomic(struct wgf_trie *) trie;   /* changed under the lock; NULL while there are no prefixes */
	_Atomic(struct wgf_few *) few;     /* read in its place; NULL: too many, none, or no memory */
};

struct wgf_allowedips {
	struct family ipv4, ipv6;
	struct wgf_epoch *epoch;
	pthread_mutex_t lock;
};

static inline struct wgf_trie *trie_of(const struct family *family) /* under the lock */
{
	return atomic_load_explicit(&family->trie, memory_order_relaxed);
}

static inline struct wgf_few *few_of(const struct family *family) /* under the lock */
{
	return atomic_load_explicit(&family->few, memory_order_relaxed);
}

#endif
