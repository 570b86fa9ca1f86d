/* What bench/allowedips.py measures, called the same way: wgfast's table of allowed IPs out of a built extension, and
 * DPDK's rte_lpm, rte_fib and rte_fib6 where libdpdk-dev is installed (HAVE_DPDK).
 *
 * A contestant answers 64 addresses a call into the same 64 results, as a packet path does. wgfast is inside a reader of
 * its epoch all the while; DPDK's callers would need as much and are spared it. */
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "allowedips.h"

#ifdef HAVE_DPDK
#include <rte_eal.h>
#include <rte_fib.h>
#include <rte_fib6.h>
#include <rte_lpm.h>
#endif

#define BATCH 64
#define DPDK_NONE 0xffffffu

enum kind { WGFAST, LPM, FIB, FIB6 };

struct wgfast {
	void *library;
	struct wgf_epoch *epoch;
	struct wgf_reader *reader;
	struct wgf_allowedips *table;
	int (*insert)(struct wgf_allowedips *, enum wgf_family, const uint8_t *, unsigned, uint32_t);
	int (*remove)(struct wgf_allowedips *, enum wgf_family, const uint8_t *, unsigned, uint32_t);
	uint32_t (*lookup[2])(const struct wgf_allowedips *, const void *);
	void (*batch[2])(const struct wgf_allowedips *, const void *, size_t, uint32_t *); /* NULL before there were batches */
	size_t (*memory)(struct wgf_allowedips *);
	size_t (*collect)(struct wgf_epoch *);
};

struct contestant {
	enum kind kind;
	int family; /* 4 or 6 */
	struct wgfast wgfast;
	void *dpdk;
};

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- wgfast ---- */

struct contestant *wgfast_make(const char *library, int family)
{
	struct contestant *c = calloc(1, sizeof(*c));
	struct wgfast *w = &c->wgfast;
	c->kind = WGFAST;
	c->family = family;
	w->library = dlopen(library, RTLD_NOW | RTLD_LAZY);
	if (!w->library) {
		fprintf(stderr, "%s\n", dlerror());
		return NULL;
	}
	int (*init)(struct wgf_epoch *) = (int (*)(struct wgf_epoch *))dlsym(w->library, "wgf_epoch_init");
	void (*join)(struct wgf_epoch *, struct wgf_reader *) =
		(void (*)(struct wgf_epoch *, struct wgf_reader *))dlsym(w->library, "wgf_epoch_join");
	struct wgf_allowedips *(*create)(struct wgf_epoch *) =
		(struct wgf_allowedips * (*)(struct wgf_epoch *)) dlsym(w->library, "wgf_allowedips_create");
	*(void **)&w->insert = dlsym(w->library, "wgf_allowedips_insert");
	*(void **)&w->remove = dlsym(w->library, "wgf_allowedips_remove");
	*(void **)&w->lookup[0] = dlsym(w->library, "wgf_allowedips_lookup4");
	*(void **)&w->lookup[1] = dlsym(w->library, "wgf_allowedips_lookup6");
	*(void **)&w->batch[0] = dlsym(w->library, "wgf_allowedips_batch4");
	*(void **)&w->batch[1] = dlsym(w->library, "wgf_allowedips_batch6");
	*(void **)&w->memory = dlsym(w->library, "wgf_allowedips_memory");
	*(void **)&w->collect = dlsym(w->library, "wgf_epoch_collect");
	w->epoch = aligned_alloc(64, (sizeof(*w->epoch) + 63) / 64 * 64);
	w->reader = aligned_alloc(64, (sizeof(*w->reader) + 63) / 64 * 64);
	if (!init || init(w->epoch))
		return NULL;
	join(w->epoch, w->reader);
	w->table = create(w->epoch);
	return w->table ? c : NULL;
}

static void wgfast_lookup(const struct wgfast *w, int six, const uint8_t *addresses, uint32_t *owners)
{
	if (w->batch[six])
		w->batch[six](w->table, addresses, BATCH, owners);
	else
		for (int i = 0; i < BATCH; i++) {
			uint32_t big;
			memcpy(&big, addresses + 4 * (six ? 0 : i), 4);
			big = __builtin_bswap32(big);
			owners[i] = w->lookup[six](w->table, six ? (const void *)(addresses + 16 * i) : &big);
		}
}

/* ---- DPDK ---- */

#ifdef HAVE_DPDK
int dpdk_begin(const char *megabytes)
{
	char *arguments[] = {(char *)"bench", (char *)"--no-huge", (char *)"--no-pci", (char *)"--no-telemetry",
			     (char *)"--no-shconf", (char *)"--log-level=error", (char *)"-m", (char *)megabytes,
			     (char *)"--force-max-simd-bitwidth=512", NULL};
	return rte_eal_init(9, arguments) < 0 ? -1 : 0;
}

struct contestant *dpdk_make(int kind, unsigned prefixes, unsigned groups)
{
	static int number;
	char name[32];
	snprintf(name, sizeof(name), "bench%d", number++);
	struct contestant *c = calloc(1, sizeof(*c));
	c->kind = (enum kind)kind;
	c->family = kind == FIB6 ? 6 : 4;
	if (kind == LPM) {
		struct rte_lpm_config config = {.max_rules = prefixes, .number_tbl8s = groups};
		c->dpdk = rte_lpm_create(name, -1, &config);
	} else if (kind == FIB) {
		struct rte_fib_conf config = {.type = RTE_FIB_DIR24_8, .default_nh = DPDK_NONE, .max_routes = (int)prefixes,
					      .dir24_8 = {.nh_sz = RTE_FIB_DIR24_8_4B, .num_tbl8 = groups}};
		c->dpdk = rte_fib_create(name, -1, &config);
		if (c->dpdk) /* what it cannot do it leaves as it was */
			rte_fib_select_lookup(c->dpdk, RTE_FIB_LOOKUP_DIR24_8_VECTOR_AVX512);
	} else {
		struct rte_fib6_conf config = {.type = RTE_FIB6_TRIE, .default_nh = DPDK_NONE, .max_routes = (int)prefixes,
					       .trie = {.nh_sz = RTE_FIB6_TRIE_4B, .num_tbl8 = groups}};
		c->dpdk = rte_fib6_create(name, -1, &config);
		if (c->dpdk)
			rte_fib6_select_lookup(c->dpdk, RTE_FIB6_LOOKUP_TRIE_VECTOR_AVX512);
	}
	return c->dpdk ? c : NULL;
}

void dpdk_free(struct contestant *c)
{
	if (c->kind == LPM)
		rte_lpm_free(c->dpdk);
	else if (c->kind == FIB)
		rte_fib_free(c->dpdk);
	else
		rte_fib6_free(c->dpdk);
	free(c);
}

static int dpdk_insert(struct contestant *c, const uint8_t *address, unsigned length, uint32_t owner)
{
	uint32_t number;
	memcpy(&number, address, 4);
	if (c->kind == LPM)
		return rte_lpm_add(c->dpdk, number, (uint8_t)length, owner);
	if (c->kind == FIB)
		return rte_fib_add(c->dpdk, number, (uint8_t)length, owner);
	return rte_fib6_add(c->dpdk, address, (uint8_t)length, owner);
}

static int dpdk_remove(struct contestant *c, const uint8_t *address, unsigned length)
{
	uint32_t number;
	memcpy(&number, address, 4);
	if (c->kind == LPM)
		return rte_lpm_delete(c->dpdk, number, (uint8_t)length);
	if (c->kind == FIB)
		return rte_fib_delete(c->dpdk, number, (uint8_t)length);
	return rte_fib6_delete(c->dpdk, address, (uint8_t)length);
}

static void dpdk_lookup(struct contestant *c, const uint8_t *addresses, uint32_t *owners, uint64_t *hops)
{
	if (c->kind == LPM)
		rte_lpm_lookup_bulk((struct rte_lpm *)c->dpdk, (const uint32_t *)(const void *)addresses, owners, BATCH);
	else if (c->kind == FIB)
		rte_fib_lookup_bulk(c->dpdk, (uint32_t *)(uintptr_t)addresses, hops, BATCH);
	else
		rte_fib6_lookup_bulk(c->dpdk, (uint8_t(*)[16])(uintptr_t)addresses, hops, BATCH);
}
#endif

/* ---- What the bench calls. Addresses are uint32 in host order, or 16 bytes each. ---- */

static int insert_one(struct contestant *c, const uint8_t *address, unsigned length, uint32_t owner)
{
#ifdef HAVE_DPDK
	if (c->kind != WGFAST)
		return dpdk_insert(c, address, length, owner);
#endif
	uint32_t big;
	memcpy(&big, address, 4);
	big = __builtin_bswap32(big);
	return c->wgfast.insert(c->wgfast.table, (enum wgf_family)c->family,
				c->family == 4 ? (const uint8_t *)&big : address, length, owner);
}

static int remove_one(struct contestant *c, const uint8_t *address, unsigned length)
{
#ifdef HAVE_DPDK
	if (c->kind != WGFAST)
		return dpdk_remove(c, address, length);
#endif
	uint32_t big;
	memcpy(&big, address, 4);
	big = __builtin_bswap32(big);
	return c->wgfast.remove(c->wgfast.table, (enum wgf_family)c->family,
				c->family == 4 ? (const uint8_t *)&big : address, length, WGF_OWNER_NONE);
}

static void lookup_batch(struct contestant *c, const uint8_t *addresses, uint32_t *owners, uint64_t *hops)
{
#ifdef HAVE_DPDK
	if (c->kind != WGFAST) {
		dpdk_lookup(c, addresses, owners, hops);
		return;
	}
#endif
	(void)hops;
	wgfast_lookup(&c->wgfast, c->family == 6, addresses, owners);
}

static void read_begin(struct contestant *c)
{
	if (c->kind == WGFAST)
		wgf_epoch_enter(c->wgfast.epoch, c->wgfast.reader);
}

static void read_end(struct contestant *c)
{
	if (c->kind == WGFAST)
		wgf_epoch_exit(c->wgfast.reader);
}

/* Returns how many were refused, and the seconds. */
size_t bench_insert(struct contestant *c, const uint8_t *addresses, const uint8_t *lengths, const uint32_t *owners,
		    size_t n, double *seconds)
{
	size_t refused = 0, size = c->family == 4 ? 4 : 16;
	double begin = now();
	for (size_t i = 0; i < n; i++)
		refused += insert_one(c, addresses + size * i, lengths[i], owners[i]) != 0;
	*seconds = now() - begin;
	if (c->kind == WGFAST)
		c->wgfast.collect(c->wgfast.epoch);
	return refused;
}

size_t bench_remove(struct contestant *c, const uint8_t *addresses, const uint8_t *lengths, size_t n, double *seconds)
{
	size_t refused = 0, size = c->family == 4 ? 4 : 16;
	double begin = now();
	for (size_t i = 0; i < n; i++)
		refused += remove_one(c, addresses + size * i, lengths[i]) != 0;
	*seconds = now() - begin;
	if (c->kind == WGFAST)
		c->wgfast.collect(c->wgfast.epoch);
	return refused;
}

/* One pass over whole batches, results kept: UINT32_MAX where nothing matched. */
void bench_answers(struct contestant *c, const uint8_t *addresses, size_t n, uint32_t *out)
{
	uint64_t hops[BATCH] = {0};
	size_t size = c->family == 4 ? 4 : 16;
	read_begin(c);
	for (size_t i = 0; i < n; i += BATCH) {
		lookup_batch(c, addresses + size * i, out + i, hops);
		for (size_t j = 0; j < BATCH; j++) {
			uint32_t owner = out[i + j];
			if (c->kind == FIB || c->kind == FIB6)
				owner = hops[j] == DPDK_NONE ? UINT32_MAX : (uint32_t)hops[j];
			else if (c->kind == LPM)
				owner = owner >> 24 & 1 ? owner & DPDK_NONE : UINT32_MAX;
			out[i + j] = owner;
		}
	}
	read_end(c);
}

/* Seconds for `passes` passes, after one that warms the caches. */
double bench_lookup(struct contestant *c, const uint8_t *addresses, size_t n, int passes)
{
	uint32_t owners[BATCH];
	uint64_t hops[BATCH];
	size_t size = c->family == 4 ? 4 : 16;
	double begin = 0;
	read_begin(c);
	for (int pass = 0; pass <= passes; pass++) {
		if (pass == 1)
			begin = now();
		for (size_t i = 0; i < n; i += BATCH)
			lookup_batch(c, addresses + size * i, owners, hops);
	}
	double seconds = now() - begin;
	read_end(c);
	return seconds;
}

size_t bench_memory(struct contestant *c)
{
	return c->kind == WGFAST && c->wgfast.memory ? c->wgfast.memory(c->wgfast.table) : 0;
}
