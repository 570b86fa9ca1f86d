/* Endpoints: no reader ever sees half of one writer's words and half of another's; sources are let go
 * only while they are the ones that failed; addresses survive the way through the system's form. */
#include <pthread.h>
#include <string.h>

#include "../../wgfast/core/endpoint.h"
#include "check.h"

#define ROUNDS 20000

static struct wgf_endpoint_cell cell;
static _Atomic bool over;

/* Every field follows from k, so that a torn read shows. Every fourth k has no source. */
static struct wgf_endpoint made_of(uint32_t k)
{
	struct wgf_endpoint e = {.scope = k, .port = (uint16_t)k, .family = 6};
	memset(e.address, (int)(k & 0xff), sizeof(e.address));
	if (k % 4) {
		memset(e.source, (int)(k & 0xff), sizeof(e.source));
		e.interface = k;
		e.has_source = 1;
	}
	return e;
}

static bool is_whole(const struct wgf_endpoint *e)
{
	struct wgf_endpoint expected = made_of(e->scope);
	if (!e->has_source) { /* it may have been let go */
		memset(expected.source, 0, sizeof(expected.source));
		expected.interface = 0;
		expected.has_source = 0;
	}
	return memcmp(e, &expected, sizeof(expected)) == 0;
}

static void *reader(void *argument)
{
	struct wgf_endpoint e;
	uint64_t seen = 0;
	(void)argument;
	do {
		wgf_endpoint_load(&cell, &e);
		CHECK(is_whole(&e));
		seen++;
	} while (!atomic_load(&over));
	CHECK(seen > 0);
	return NULL;
}

static void *writer(void *argument)
{
	struct check_random random = {(uintptr_t)argument};
	for (int i = 0; i < ROUNDS; i++) {
		struct wgf_endpoint e = made_of((uint32_t)check_random_next(&random) & 0xffff);
		switch (i % 3) {
		case 0:
			wgf_endpoint_store(&cell, &e);
			break;
		case 1:
			wgf_endpoint_roam(&cell, &e);
			break;
		default:
			wgf_endpoint_load(&cell, &e);
			wgf_endpoint_clear_source(&cell, i % 2 ? &e : NULL);
		}
	}
	return NULL;
}

static void test_race(void)
{
	pthread_t readers[2], writers[3];
	struct wgf_endpoint first = made_of(1);
	wgf_endpoint_store(&cell, &first);
	for (size_t i = 0; i < 2; i++)
		CHECK(pthread_create(&readers[i], NULL, reader, NULL) == 0);
	for (size_t i = 0; i < 3; i++)
		CHECK(pthread_create(&writers[i], NULL, writer, (void *)(uintptr_t)(i + 1)) == 0);
	for (size_t i = 0; i < 3; i++)
		pthread_join(writers[i], NULL);
	atomic_store(&over, true);
	for (size_t i = 0; i < 2; i++)
		pthread_join(readers[i], NULL);
	CHECK(cell.sequence % 2 == 0);
}

static void test_roam(void)
{
	struct wgf_endpoint a = made_of(5), b = a, seen;
	wgf_endpoint_store(&cell, &a);
	uint32_t before = cell.sequence;
	CHECK(!wgf_endpoint_roam(&cell, &a));
	CHECK(cell.sequence == before); /* nothing was written */
	b.source[3] ^= 1;
	CHECK(!wgf_endpoint_roam(&cell, &b)); /* only the source */
	wgf_endpoint_load(&cell, &seen);
	CHECK(memcmp(&seen, &b, sizeof(b)) == 0);
	b.port++;
	CHECK(wgf_endpoint_roam(&cell, &b));
	b.address[15]++;
	CHECK(wgf_endpoint_roam(&cell, &b));
	b.scope++;
	CHECK(wgf_endpoint_roam(&cell, &b));
	b.family = 4;
	CHECK(wgf_endpoint_roam(&cell, &b));
	const struct wgf_endpoint none = {0};
	wgf_endpoint_store(&cell, &none);
	CHECK(!wgf_endpoint_roam(&cell, &a)); /* who was nowhere has not roamed */
	wgf_endpoint_load(&cell, &seen);
	CHECK(memcmp(&seen, &a, sizeof(a)) == 0);
}

static void test_clear_source(void)
{
	struct wgf_endpoint a = made_of(5), other = made_of(6), seen;
	wgf_endpoint_store(&cell, &a);
	wgf_endpoint_clear_source(&cell, &other);
	wgf_endpoint_load(&cell, &seen);
	CHECK(memcmp(&seen, &a, sizeof(a)) == 0); /* learnt after that one failed: it stays */
	wgf_endpoint_clear_source(&cell, &a);
	wgf_endpoint_load(&cell, &seen);
	CHECK(!seen.has_source && seen.interface == 0 && seen.source[0] == 0);
	CHECK(wgf_endpoint_same_address(&seen, &a));
	wgf_endpoint_store(&cell, &a);
	wgf_endpoint_clear_source(&cell, NULL);
	wgf_endpoint_load(&cell, &seen);
	CHECK(!seen.has_source && wgf_endpoint_same_address(&seen, &a));
}

static void test_sockaddr(void)
{
	struct sockaddr_storage name;
	struct wgf_endpoint v6 = made_of(8), v4 = {.address = {192, 0, 2, 7}, .port = 51820, .family = 4};
	struct wgf_endpoint none = {0}, back;
	memset(&name, 0xaa, sizeof(name));
	CHECK(wgf_endpoint_to_sockaddr(&v4, &name) == sizeof(struct sockaddr_in));
	CHECK(wgf_endpoint_from_sockaddr(&back, &name) && memcmp(&back, &v4, sizeof(v4)) == 0);
	CHECK(wgf_endpoint_to_sockaddr(&v6, &name) == sizeof(struct sockaddr_in6));
	CHECK(wgf_endpoint_from_sockaddr(&back, &name) && memcmp(&back, &v6, sizeof(v6)) == 0);
	CHECK(wgf_endpoint_to_sockaddr(&none, &name) == 0);
	name.ss_family = AF_UNIX;
	CHECK(!wgf_endpoint_from_sockaddr(&back, &name) && back.family == 0);
}

int main(void)
{
	test_race();
	test_roam();
	test_clear_source();
	test_sockaddr();
	return 0;
}
