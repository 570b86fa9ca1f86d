/* Secret memory: regions of equal rows, each with a list of its rows that were given back.
 *
 * A row's region is found by its address: regions begin at a multiple of 64 KiB, with a pointer to what describes
 * them. That is kept on the ordinary heap, for the region reads as zeros in a forked child, which must still be
 * able to unmap it. Rows are cut from a region as they are needed, so a pool touches only the pages it uses.
 *
 * Rows are taken where others are in use, so that regions become empty and go. One empty region stays: a row that
 * is taken and given back again and again costs no system call. */
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
#define REGION_ALIGNMENT 65536u
#define HEAD_SIZE ROW_ALIGNMENT /* of a region: the pointer */

struct wgf_secret_region {
	struct wgf_secret_region *next, *previous;
	struct wgf_secret_row *free;
	uint8_t *memory;
	size_t cut;    /* bytes cut so far, the head included */
	size_t in_use; /* rows */
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

/* ---- Regions ---- */

/* The highest there is room for within a larger mapping, whose rest goes: regions that follow each other touch, and
 * the kernel keeps them as one. */
static void *map_aligned(size_t size)
{
	size_t larger = size + REGION_ALIGNMENT;
	uint8_t *from = wgf_secret_map(larger);
	if (!from)
		return NULL;
	uint8_t *end = from + larger;
	size_t below = ((uintptr_t)end - size) % REGION_ALIGNMENT;
	uint8_t *memory = end - size - below;
	if (memory > from)
		munmap(from, (size_t)(memory - from));
	if (below)
		munmap(memory + size, below);
	return memory;
}

static struct wgf_secret_region *region_create(const struct wgf_secret_pool *pool)
{
	struct wgf_secret_region *region = calloc(1, sizeof(*region));
	if (!region)
		return NULL;
	region->memory = map_aligned(pool->region_size);
	if (!region->memory) {
		free(region);
		return NULL;
	}
	*(struct wgf_secret_region **)(void *)region->memory = region;
	region->cut = HEAD_SIZE;
	return region;
}

static void region_destroy(const struct wgf_secret_pool *pool, struct wgf_secret_region *region)
{
	if (!region)
		return;
	wgf_wipe(region->memory, region->cut);
	munmap(region->memory, pool->region_size);
	free(region);
}

/* NULL in a forked child, if the row is older than the fork. */
static struct wgf_secret_region *region_of(void *row)
{
	return *(struct wgf_secret_region **)((uintptr_t)row / REGION_ALIGNMENT * REGION_ALIGNMENT);
}

static bool has_room(const struct wgf_secret_pool *pool, const struct wgf_secret_region *region)
{
	return region->free || pool->region_size - region->cut >= pool->row_size;
}

static void *region_take(const struct wgf_secret_pool *pool, struct wgf_secret_region *region)
{
	struct wgf_secret_row *row = region->free;
	region->in_use++;
	if (row) {
		region->free = row->next;
		row->next = NULL; /* the one word of it that was not zero */
		return row;
	}
	uint8_t *fresh = region->memory + region->cut; /* zeros, as the kernel made it */
	region->cut += pool->row_size;
	return fresh;
}

/* ---- The list of regions, under the lock ---- */

static void enter_first(struct wgf_secret_pool *pool, struct wgf_secret_region *region)
{
	region->previous = NULL;
	region->next = pool->first;
	*(pool->first ? &pool->first->previous : &pool->last) = region;
	pool->first = region;
}

static void enter_last(struct wgf_secret_pool *pool, struct wgf_secret_region *region)
{
	region->next = NULL;
	region->previous = pool->last;
	*(pool->last ? &pool->last->next : &pool->first) = region;
	pool->last = region;
}

static void leave(struct wgf_secret_pool *pool, struct wgf_secret_region *region)
{
	*(region->previous ? &region->previous->next : &pool->first) = region->next;
	*(region->next ? &region->next->previous : &pool->last) = region->previous;
}

/* The region of which the next row is taken. */
static struct wgf_secret_region *region_with_room(struct wgf_secret_pool *pool)
{
	if (pool->first && has_room(pool, pool->first))
		return pool->first;
	struct wgf_secret_region *region = pool->spare;
	pool->spare = NULL;
	if (!region) {
		region = region_create(pool);
		pool->regions += region != NULL;
	}
	if (region)
		enter_first(pool, region);
	return region;
}

/* ---- The pool ---- */

int wgf_secret_pool_init(struct wgf_secret_pool *pool, size_t row_size)
{
	if (row_size == 0 || row_size > SIZE_MAX / 2)
		return -EINVAL;
	pool->row_size = (row_size + ROW_ALIGNMENT - 1) / ROW_ALIGNMENT * ROW_ALIGNMENT;
	size_t least = HEAD_SIZE + pool->row_size;
	pool->region_size = whole_pages(least > REGION_SIZE ? least : REGION_SIZE);
	pool->first = pool->last = pool->spare = NULL;
	pool->regions = 0;
	pool->in_use = 0;
	return -pthread_mutex_init(&pool->lock, NULL);
}

void wgf_secret_pool_destroy(struct wgf_secret_pool *pool)
{
	while (pool->first) {
		struct wgf_secret_region *region = pool->first;
		leave(pool, region);
		region_destroy(pool, region);
	}
	region_destroy(pool, pool->spare);
	pool->spare = NULL;
	pool->regions = 0;
	pool->in_use = 0;
	pthread_mutex_destroy(&pool->lock);
}

void *wgf_secret_take(struct wgf_secret_pool *pool)
{
	void *row = NULL;
	pthread_mutex_lock(&pool->lock);
	struct wgf_secret_region *region = region_with_room(pool);
	if (region) {
		row = region_take(pool, region);
		pool->in_use++;
	}
	if (region && !has_room(pool, region)) {
		leave(pool, region);
		enter_last(pool, region);
	}
	pthread_mutex_unlock(&pool->lock);
	return row;
}

/* Under the lock. What is to be unmapped without it, or NULL. */
static struct wgf_secret_region *give(struct wgf_secret_pool *pool, struct wgf_secret_region *region,
				      struct wgf_secret_row *row)
{
	bool had_room = has_room(pool, region);
	row->next = region->free;
	region->free = row;
	pool->in_use--;
	if (--region->in_use == 0) {
		leave(pool, region);
		if (pool->spare) {
			pool->regions--;
			return region;
		}
		pool->spare = region;
	} else if (!had_room) {
		leave(pool, region);
		enter_first(pool, region);
	}
	return NULL;
}

void wgf_secret_give(struct wgf_secret_pool *pool, void *row)
{
	if (!row)
		return;
	wgf_wipe(row, pool->row_size);
	struct wgf_secret_region *region = region_of(row), *emptied = NULL;
	if (!region)
		return;
	pthread_mutex_lock(&pool->lock);
	emptied = give(pool, region, row);
	pthread_mutex_unlock(&pool->lock);
	region_destroy(pool, emptied);
}

size_t wgf_secret_pool_in_use(struct wgf_secret_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	size_t in_use = pool->in_use;
	pthread_mutex_unlock(&pool->lock);
	return in_use;
}

size_t wgf_secret_pool_memory(struct wgf_secret_pool *pool)
{
	pthread_mutex_lock(&pool->lock);
	size_t bytes = pool->regions * pool->region_size;
	pthread_mutex_unlock(&pool->lock);
	return bytes;
}
