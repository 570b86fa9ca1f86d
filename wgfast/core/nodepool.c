/* Free pieces are kept by their exact size: sizes are few, and a table that changes asks for those it gave
 * back. A piece of another size is cut up only when the room is at its end. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "nodepool.h"

#define HUGE_PAGE (UINT32_C(2) << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif
#define STEP (HUGE_PAGE / WGF_UNIT)  /* a large pool is backed by so many units at a time */
#define SPARE_LARGE (65536 / WGF_UNIT) /* kept for removals, which must not fail */
#define SPARE_SMALL (2048 / WGF_UNIT)

static uint32_t *word_at(const struct wgf_nodepool *pool, uint32_t at)
{
	return (uint32_t *)(void *)(pool->base + (size_t)at * WGF_UNIT);
}

/* ---- The whole ---- */

static int back(struct wgf_nodepool *pool, uint32_t units)
{
	if (units > pool->size)
		units = pool->size;
	size_t from = (size_t)pool->backed * WGF_UNIT, to = (size_t)units * WGF_UNIT;
	if (to <= from)
		return -ENOMEM;
	if (mprotect(pool->base + from, to - from, PROT_READ | PROT_WRITE))
		return -ENOMEM;
	pool->backed = units;
	return 0;
}

/* Once the first nodes fill a huge page they get one, where the system can; readers do not notice. */
static int grow(struct wgf_nodepool *pool)
{
	int error = back(pool, pool->backed + STEP);
	if (!error && pool->backed == 3 * STEP && madvise(pool->base + HUGE_PAGE, HUGE_PAGE, MADV_HUGEPAGE) == 0)
		madvise(pool->base + HUGE_PAGE, HUGE_PAGE, MADV_COLLAPSE); /* else it happens by and by */
	return error;
}

/* Addresses that begin at a huge page, nothing behind them yet. */
static unsigned char *reserve(size_t bytes)
{
	unsigned char *from = mmap(NULL, bytes + HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (from == MAP_FAILED)
		return NULL;
	size_t before = (HUGE_PAGE - (uintptr_t)from % HUGE_PAGE) % HUGE_PAGE;
	if (before)
		munmap(from, before);
	if (before < HUGE_PAGE)
		munmap(from + before + bytes, HUGE_PAGE - before);
	from += before;
	/* A lookup misses translations too. The first nodes go without until they fill a huge page (grow). */
	madvise(from, HUGE_PAGE, MADV_HUGEPAGE);
	madvise(from + 2 * (size_t)HUGE_PAGE, bytes - 2 * (size_t)HUGE_PAGE, MADV_HUGEPAGE);
	return from;
}

/* Where addresses are limited (RLIMIT_AS), fewer units will do. */
static unsigned char *reserve_most(uint32_t *units)
{
	unsigned char *base = NULL;
	for (; !base && *units >= 2 * STEP; *units = base ? *units : *units / 2 / STEP * STEP)
		base = reserve((size_t)*units * WGF_UNIT);
	return base;
}

static void pool_free(struct wgf_nodepool *pool)
{
	struct wgf_limbo *limbo = atomic_load_explicit(&pool->returned, memory_order_acquire);
	while (limbo) {
		struct wgf_limbo *next = limbo->next;
		free(limbo);
		limbo = next;
	}
	free(pool->open);
	free(pool->kept);
	if (pool->large && pool->base)
		munmap(pool->base, (size_t)pool->size * WGF_UNIT);
	else
		free(pool->base);
	free(pool);
}

struct wgf_nodepool *wgf_nodepool_create(struct wgf_epoch *epoch, uint32_t taken, uint32_t size, bool large)
{
	struct wgf_nodepool *pool = calloc(1, sizeof(*pool));
	if (!pool)
		return NULL;
	pool->epoch = epoch;
	pool->large = large;
	pool->used = pool->living = taken;
	pool->size = large ? WGF_POOL_UNITS : size;
	pool->backed = large ? 0 : size;
	atomic_init(&pool->returned, NULL);
	atomic_init(&pool->holders, 1);
	pool->base = large ? reserve_most(&pool->size) : calloc(size, WGF_UNIT);
	if (!pool->base || (large && back(pool, (taken / STEP + 1) * STEP))) {
		pool_free(pool);
		return NULL;
	}
	return pool;
}

static void release(struct wgf_nodepool *pool)
{
	if (atomic_fetch_sub_explicit(&pool->holders, 1, memory_order_acq_rel) == 1)
		pool_free(pool);
}

void wgf_nodepool_leave(struct wgf_nodepool *pool)
{
	release(pool);
}

bool wgf_nodepool_full(const struct wgf_nodepool *pool)
{
	return pool->large && pool->size - pool->used < SPARE_LARGE + 2 * WGF_UNITS_MAX;
}

size_t wgf_nodepool_memory(const struct wgf_nodepool *pool)
{
	return sizeof(*pool) + (size_t)(pool->large ? pool->used : pool->size) * WGF_UNIT;
}

/* ---- Pieces ---- */

static void keep(struct wgf_nodepool *pool, uint32_t at, uint32_t units)
{
	*word_at(pool, at) = pool->free[units];
	pool->free[units] = at;
}

void wgf_nodepool_give(struct wgf_nodepool *pool, uint32_t at, uint32_t units)
{
	keep(pool, at, units);
	pool->living -= units;
}

static uint32_t take_free(struct wgf_nodepool *pool, uint32_t units)
{
	uint32_t at = pool->free[units];
	if (at)
		pool->free[units] = *word_at(pool, at);
	return at;
}

static uint32_t take_fresh(struct wgf_nodepool *pool, uint32_t units, bool spare)
{
	uint32_t behind = pool->used % WGF_LINE_UNITS; /* of a line's beginning */
	uint32_t gap = behind + units > WGF_LINE_UNITS && behind ? WGF_LINE_UNITS - behind : 0;
	uint32_t wanted = gap + units + (spare ? 0 : pool->large ? SPARE_LARGE : SPARE_SMALL);
	if (pool->backed - pool->used < wanted &&
	    (!pool->large || grow(pool) || pool->backed - pool->used < wanted))
		return 0;
	if (gap)
		keep(pool, pool->used, gap);
	uint32_t at = pool->used + gap;
	pool->used = at + units;
	return at;
}

/* From a larger piece, whose rest is kept. */
static uint32_t take_part(struct wgf_nodepool *pool, uint32_t units)
{
	for (uint32_t whole = units + 1; whole <= WGF_UNITS_MAX; whole++) {
		uint32_t at = take_free(pool, whole);
		if (!at)
			continue;
		keep(pool, at + units, whole - units);
		return at;
	}
	return 0;
}

/* What the epoch gave back goes to the free pieces. */
static void take_back(struct wgf_nodepool *pool)
{
	struct wgf_limbo *limbo = atomic_exchange_explicit(&pool->returned, NULL, memory_order_acquire);
	while (limbo) {
		struct wgf_limbo *next = limbo->next;
		for (uint32_t i = 0; i < limbo->count; i++)
			wgf_nodepool_give(pool, limbo->pieces[i] / 64, limbo->pieces[i] % 64);
		free(pool->kept);
		pool->kept = limbo;
		limbo = next;
	}
}

uint32_t wgf_nodepool_take(struct wgf_nodepool *pool, uint32_t units, bool spare)
{
	if (atomic_load_explicit(&pool->returned, memory_order_relaxed))
		take_back(pool);
	uint32_t at = take_free(pool, units);
	if (!at)
		at = take_fresh(pool, units, spare);
	if (!at)
		at = take_part(pool, units);
	if (at)
		pool->living += units;
	return at;
}

/* ---- Limbo ---- */

/* By whoever collects, in any thread. */
static void limbo_return(struct wgf_retired *retired)
{
	struct wgf_limbo *limbo = (struct wgf_limbo *)((char *)retired - offsetof(struct wgf_limbo, retired));
	struct wgf_nodepool *pool = limbo->pool;
	limbo->next = atomic_load_explicit(&pool->returned, memory_order_relaxed);
	while (!atomic_compare_exchange_weak_explicit(&pool->returned, &limbo->next, limbo,
						      memory_order_release, memory_order_relaxed))
		;
	release(pool);
}

static void send_off(struct wgf_nodepool *pool)
{
	struct wgf_limbo *limbo = pool->open;
	pool->open = NULL;
	atomic_fetch_add_explicit(&pool->holders, 1, memory_order_relaxed);
	wgf_epoch_retire(pool->epoch, &limbo->retired, limbo_return);
	wgf_epoch_collect(pool->epoch);
}

int wgf_nodepool_prepare(struct wgf_nodepool *pool, uint32_t pieces)
{
	if (pool->open && pool->open->count + pieces <= WGF_LIMBO_PIECES)
		return 0;
	struct wgf_limbo *limbo = malloc(sizeof(*limbo));
	if (!limbo) {
		limbo = pool->kept;
		pool->kept = NULL;
	}
	if (!limbo)
		return -ENOMEM;
	if (pool->open)
		send_off(pool);
	limbo->pool = pool;
	limbo->count = 0;
	pool->open = limbo;
	return 0;
}

void wgf_nodepool_retire(struct wgf_nodepool *pool, uint32_t at, uint32_t units)
{
	pool->open->pieces[pool->open->count++] = at * 64 + units;
}

void wgf_nodepool_flush(struct wgf_nodepool *pool)
{
	if (pool->open && pool->open->count > 0)
		send_off(pool);
	else
		wgf_epoch_collect(pool->epoch);
	take_back(pool);
}
