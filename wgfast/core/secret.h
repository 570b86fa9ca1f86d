/* Memory for keys: rows of one size in mappings that core dumps leave out (MADV_DONTDUMP) and that
 * read as zeros in a forked child (MADV_WIPEONFORK), so that no child can reuse a nonce or a key.
 * A row is wiped when it is given back. Rows are aligned to 64 bytes. Memory follows the rows that are taken: regions
 * of which every row was given back go, but for one. */
#ifndef WGF_SECRET_H
#define WGF_SECRET_H

#include <pthread.h>
#include <stddef.h>

struct wgf_secret_row {
	struct wgf_secret_row *next;
};

struct wgf_secret_region;

struct wgf_secret_pool {
	pthread_mutex_t lock;
	size_t row_size;
	size_t region_size;
	struct wgf_secret_region *first, *last; /* with rows taken; those that have room come first */
	struct wgf_secret_region *spare;        /* with none, or NULL */
	size_t regions;                         /* the spare included */
	size_t in_use;
};

/* One mapping by itself, zeroed: whole pages. NULL: out of memory. */
void *wgf_secret_map(size_t size);
void wgf_secret_unmap(void *memory, size_t size); /* wipes */
/* The same where only the first `used` bytes were ever written: the rest need not exist to be wiped. */
void wgf_secret_unmap_used(void *memory, size_t size, size_t used);
/* Another size, another place perhaps, the same contents, new bytes zero; nothing is copied. NULL: as it was. */
void *wgf_secret_remap(void *memory, size_t size, size_t larger);

int wgf_secret_pool_init(struct wgf_secret_pool *pool, size_t row_size);
void wgf_secret_pool_destroy(struct wgf_secret_pool *pool); /* wipes and unmaps everything */
void *wgf_secret_take(struct wgf_secret_pool *pool);        /* a zeroed row, NULL: out of memory */
void wgf_secret_give(struct wgf_secret_pool *pool, void *row);
size_t wgf_secret_pool_in_use(struct wgf_secret_pool *pool); /* rows taken and not given back */
size_t wgf_secret_pool_memory(struct wgf_secret_pool *pool); /* bytes that are mapped */

#endif
