/* Buckets by source: burst, rate, what counts as one source, and that nobody spends another's. */
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "ratelimit.h"
#include "resident.h"

#define START (1000 * WGF_SECOND)

static struct wgf_endpoint ipv4(uint32_t address)
{
	struct wgf_endpoint endpoint = {.family = 4, .port = 1};
	wgf_store_be32(endpoint.address, address);
	return endpoint;
}

static struct wgf_endpoint ipv6(uint64_t network, uint64_t host)
{
	struct wgf_endpoint endpoint = {.family = 6, .port = 1};
	wgf_store_be32(endpoint.address, (uint32_t)(network >> 32));
	wgf_store_be32(endpoint.address + 4, (uint32_t)network);
	wgf_store_be32(endpoint.address + 8, (uint32_t)(host >> 32));
	wgf_store_be32(endpoint.address + 12, (uint32_t)host);
	return endpoint;
}

static size_t allowed(struct wgf_ratelimit *limit, struct wgf_endpoint from, uint64_t now, size_t tries)
{
	size_t n = 0;
	for (size_t i = 0; i < tries; i++) {
		from.port = (uint16_t)i; /* not part of the source */
		n += wgf_ratelimit_allow(limit, &from, now);
	}
	return n;
}

static void test_burst_and_rate(void)
{
	struct wgf_ratelimit limit;
	struct wgf_endpoint from = ipv4(0xc0000201);
	CHECK(wgf_ratelimit_init(&limit) == 0);
	CHECK(resident_pages(limit.buckets, WGF_RATE_BUCKETS * sizeof *limit.buckets) == 0); /* before it is needed */
	CHECK(allowed(&limit, from, START, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, from, START + WGF_SECOND / 20 - 1, 10) == 0);
	CHECK(allowed(&limit, from, START + WGF_SECOND / 20, 10) == 1);
	CHECK(allowed(&limit, from, START + WGF_SECOND / 10, 10) == 1);
	CHECK(allowed(&limit, from, START, 10) == 0); /* a clock read earlier earns nothing */
	CHECK(allowed(&limit, from, START + 3600 * WGF_SECOND, 10) == WGF_RATE_BURST);

	/* Tried every millisecond for ten seconds: the burst, then twenty a second. */
	size_t n = 0;
	for (uint64_t i = 0; i < 10000; i++)
		n += allowed(&limit, from, START + 7200 * WGF_SECOND + i * WGF_SECOND / 1000, 1);
	CHECK(n >= WGF_RATE_BURST + 199 && n <= WGF_RATE_BURST + 200);
	wgf_ratelimit_destroy(&limit);
}

static void test_time_zero(void)
{
	struct wgf_ratelimit limit;
	CHECK(wgf_ratelimit_init(&limit) == 0);
	CHECK(allowed(&limit, ipv4(1), 0, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, ipv4(1), 0, 10) == 0);
	wgf_ratelimit_destroy(&limit);
}

static void test_sources(void)
{
	struct wgf_ratelimit limit;
	CHECK(wgf_ratelimit_init(&limit) == 0);
	CHECK(allowed(&limit, ipv4(0x0a000001), START, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, ipv4(0x0a000002), START, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, ipv6(7, 1), START, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, ipv6(7, 2), START, 10) == 0); /* the same /64 */
	CHECK(allowed(&limit, ipv6(8, 1), START, 10) == WGF_RATE_BURST);
	CHECK(allowed(&limit, ipv4(8), START, 10) == WGF_RATE_BURST); /* the same number, another family */
	CHECK(allowed(&limit, ipv4(0), START, 10) == WGF_RATE_BURST);
	wgf_ratelimit_destroy(&limit);
}

/* One source shouts; honest ones that come once a second never notice. */
static void test_no_starving(void)
{
	struct wgf_ratelimit limit;
	CHECK(wgf_ratelimit_init(&limit) == 0);
	for (uint64_t second = 0; second < 20; second++) {
		uint64_t now = START + second * WGF_SECOND;
		CHECK(allowed(&limit, ipv4(0xffffffff), now, 5000) == WGF_RATE_BURST);
		for (uint32_t honest = 0; honest < 200; honest++)
			CHECK(allowed(&limit, ipv4(honest), now, 1) == 1);
	}
	wgf_ratelimit_destroy(&limit);
}

/* More sources than buckets: the table stays as large as it is, the idlest makes room, and the one that
 * is busy all the time keeps its bucket, hence its limit. */
static void test_full_table(struct check_random *random)
{
	struct wgf_ratelimit limit;
	CHECK(wgf_ratelimit_init(&limit) == 0);
	struct wgf_endpoint busy = ipv4(1);
	size_t got = 0;
	for (uint32_t i = 0; i < 20 * WGF_RATE_BUCKETS; i++) {
		uint64_t now = START + i * UINT64_C(1000); /* 0.16 s in all */
		CHECK(allowed(&limit, ipv6(check_random_next(random), 0), now, 1) == 1);
		got += allowed(&limit, busy, now, 1);
	}
	CHECK(got >= WGF_RATE_BURST && got <= WGF_RATE_BURST + 4);
	size_t used = 0;
	for (size_t i = 0; i < WGF_RATE_BUCKETS; i++)
		used += limit.buckets[i].last != 0;
	CHECK(used == WGF_RATE_BUCKETS);
	wgf_ratelimit_destroy(&limit);
}

int main(void)
{
	struct check_random random = check_random_begin("ratelimit");
	test_burst_and_rate();
	test_time_zero();
	test_sources();
	test_no_starving();
	test_full_table(&random);
	return 0;
}
