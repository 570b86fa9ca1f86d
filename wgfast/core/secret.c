/* Secret memory: regions of equal rows, a list of the rows given back.
 *
 * What describes a region is kept on the ordinary heap, not in the region: the region reads as zeros
 * in a forked child, which must still be able to unmap it. Rows are cut from the newest region as
 * they are needed, so a pool touches only the pages it uses. Regions go when the pool goes: rows of
 * peers and keypairs come and go at the same level, and a row may be anywhere. */
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "bytes.h"
#include "secret.h"

#define ROW_ALIGNMENT 64u
#define REGION_SIZE 65536u

struct wgf_secret_region {
	struct wgf_secret_region *next;
	uint8_t *memory;
	size_t size;
	size_t used; /* bytes cut into rows so far */
};

/* 0 where the size cannot be represented. */
static size_t whole_pages(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	return size > SIZE_MAX - page ? 0 : (size + page - 1) / page * page;
}

/* Kernels before 4.14 know no MADV_WIPEONFORK and say EINVAL; that is no reason not to run. */
static bool advise(void *memory, size_t size, int advice)
{
	return madvise(memory, size, advice) == 0 || errno == EINVAL;
}

void *wgf_secret_map(size_t size)
{
	size = whole_pages(size);
	if (size == 0)
		return NULL;
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (memory == MAP_FAILED)
		return NULL;
	if (!advise(memory, size, MADV_DONTDUMP) || !advise(memory, size, MADV_WIPEONFORK)) {
		munmap(memory, size);
		return NULL;
	}
	return memory;
}

void wgf_secret_unmap(void *memory, size_t size)
{
	wgf_secret_unmap_used(memory, size, size);
}

void wgf_secret_unmap_used(void *memory, size_t size, size_t used)
{
	if (!memory)
		return;
	wgf_wipe(memory, used);
	munmap(memory, whole_pages(size));
}

/* What was advised belongs to the mapping and goes with it. */
void *wgf_secret_remap(void *memory, size_t size, size_t larger)
{
	void *moved = mremap(memory, whole_pages(size), whole_pages(larger), MREMAP_MAYMOVE);
	return moved == MAP_FAILED ? NULL : moved;
}

int wgf_secret_pool_init(struct wgf_secret_pool *pool, size_t row_size)
{
	if (row_size == 0 || row_size > SIZE_MAX / 2)
		return -EINVAL;
	pool->row_size = (row_size + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
	pool->free = NULL;
	pool->regions = NULL;
	pool->in_use = 0;
	return -pthread_mutex_init(&pool->lock, NULL);
}

void wgf_secret_pool_destroy(struct wgf_secret_pool *pool)
{
	while (pool->regions) {
		struct wgf_secret_region *region = pool->regions;
		pool->regions = region->next;
		wgf_wipe(region->memory, region->used);
		munmap(region->memory, region->size);
		free(region);
	}
	pool->free = NULL;
	pool->in_use = 0;
	pthread_mutex_destroy(&pool->lock);
}

static struct wgf_secret_region *add_region(struct wgf_secret_pool *pool)
{
	struct wgf_secret_region *region = malloc(sizeof(*region));
	if (!region)
		return NULL;
	region->size = whole_pages(pool->row_size > REGION_SIZE ? pool->row_size : REGION_SIZE);
	region->used = 0;
	region->memory = wgf_secret_map(region->size);
	if (!region->memory) {
		free(region);
		return NULL;
	}
	region->next = pool->regions;
	pool->regions = region;
	return region;
}

/* A row never used before: zeros, as the kernel made it. */
static void *cut_row(struct wgf_secret_pool *pool)
{
	struct wgf_secret_region *region = pool->regions;
	if (!region || region->size - region->used < pool->row_size)
		region = add_region(pool);
	if (!region)
		return NULL;
	void *row = region->memory + region->used;
	region->used += pool->row_size;
	return row;
}

void *wgf_secret_take(struct wgf_secret_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	struct wgf_secret_row *row = pool->free;
	if (row) {
		pool->free = row->next;
		row->next = NULL; /* the one word of it that was not zero */
	} else {
		row = cut_row(pool);
	}
	if (row)
		pool->in_use++;
	pthread_mutex_unlock(&pool->lock);
	return row;
}

void wgf_secret_give(struct wgf_secret_pool *pool, void *row)
{
	if (!row)
		return;
	wgf_wipe(row, pool->row_size);
	struct wgf_secret_row *given = row;
	pthread_mutex_lock(&pool->lock);
	given->next = pool->free;
	pool->free = given;
	pool->in_use--;
	pthread_mutex_unlock(&pool->lock);
}

size_t wgf_secret_pool_in_use(struct wgf_secret_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	size_t in_use = pool->in_use;
	pthread_mutex_unlock(&pool->lock);
	return in_use;
}
