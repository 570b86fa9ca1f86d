/* The event queue: capacity, one signal per drain, and many writers
 * against a reader that really sleeps on the descriptor, so that a lost wake-up is a time-out. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <unistd.h>

#include "check.h"
#include "events.h"

#define WRITERS 4u
#define EACH 20000u

static bool readable(const struct wgf_events *events, int milliseconds)
{
	struct pollfd poller = {.fd = events->fd, .events = POLLIN};
	return poll(&poller, 1, milliseconds) == 1;
}

static size_t put_many(struct wgf_events *events, uint32_t kind, size_t n)
{
	size_t put = 0;
	for (size_t i = 0; i < n; i++)
		put += wgf_events_put(events, &(struct wgf_event){.kind = kind, .value = (uint32_t)i});
	return put;
}

static void test_capacity(void)
{
	struct wgf_events events;
	struct wgf_event out[16];
	CHECK(wgf_events_init(&events) == 0);
	for (int lap = 0; lap < 3; lap++) {
		CHECK(put_many(&events, WGF_EVENT_ROAMED, WGF_EVENTS + 5) == WGF_EVENTS);
		uint32_t expected = 0;
		for (size_t n; (n = wgf_events_take(&events, out, 16));)
			for (size_t i = 0; i < n; i++)
				CHECK(out[i].kind == WGF_EVENT_ROAMED && out[i].value == expected++);
		CHECK(expected == WGF_EVENTS);
		CHECK(put_many(&events, WGF_EVENT_ROAMED, 3) == 3); /* laps begin at different cells */
		CHECK(wgf_events_take(&events, out, 16) == 3);
	}
	CHECK(wgf_events_take(&events, out, 0) == 0);
	wgf_events_destroy(&events);
}

/* Full as the ring is, that the interface is gone is said, once, and before all else. */
static void test_tun_gone(void)
{
	struct wgf_events events;
	struct wgf_event out[4];
	CHECK(wgf_events_init(&events) == 0);
	CHECK(put_many(&events, WGF_EVENT_ROAMED, WGF_EVENTS + 1) == WGF_EVENTS);
	CHECK(wgf_events_quiet(&events) && !readable(&events, 0));
	CHECK(put_many(&events, WGF_EVENT_TUN_GONE, 1) == 1 && readable(&events, 0));
	CHECK(put_many(&events, WGF_EVENT_ROAMED, 1) == 0);
	CHECK(wgf_events_quiet(&events));
	CHECK(wgf_events_take(&events, out, 0) == 0 && wgf_events_take(&events, out, 1) == 1);
	CHECK(out[0].kind == WGF_EVENT_TUN_GONE && out[0].peer == 0);
	for (size_t left = WGF_EVENTS; left; left -= 4) {
		CHECK(wgf_events_take(&events, out, 4) == 4);
		for (size_t i = 0; i < 4; i++)
			CHECK(out[i].kind == WGF_EVENT_ROAMED);
	}
	CHECK(put_many(&events, WGF_EVENT_TUN_GONE, 1) == 1); /* with room it is one like the others */
	CHECK(wgf_events_take(&events, out, 4) == 1 && out[0].kind == WGF_EVENT_TUN_GONE);
	CHECK(wgf_events_take(&events, out, 4) == 0 && !wgf_events_quiet(&events));
	wgf_events_destroy(&events);
}

static void test_signals(void)
{
	struct wgf_events events;
	struct wgf_event out[4];
	uint64_t count = 0;
	CHECK(wgf_events_init(&events) == 0);
	CHECK(!readable(&events, 0) && !wgf_events_quiet(&events));
	CHECK(put_many(&events, WGF_EVENT_LOAD, 3) == 3);
	wgf_events_wake(&events);
	CHECK(read(events.fd, &count, sizeof(count)) == sizeof(count) && count == 1);
	CHECK(wgf_events_quiet(&events)); /* three are waiting */
	CHECK(wgf_events_take(&events, out, 4) == 3);
	CHECK(!wgf_events_quiet(&events) && !readable(&events, 0));
	wgf_events_wake(&events);
	CHECK(readable(&events, 0));
	CHECK(wgf_events_quiet(&events)); /* the wake might have come after the scan */
	CHECK(!wgf_events_quiet(&events) && !readable(&events, 0));
	CHECK(put_many(&events, WGF_EVENT_LOAD, 1) == 1 && readable(&events, 0));
	wgf_events_destroy(&events);
}

struct writer {
	struct wgf_events *events;
	uint32_t number;
};

static void *write_many(void *argument)
{
	const struct writer *writer = argument;
	struct wgf_event event = {.peer = writer->number};
	for (uint32_t i = 0; i < EACH; i++) {
		event.kind = i % 3 ? WGF_EVENT_ROAMED : WGF_EVENT_CONFIRMED;
		event.value = i;
		memset(&event.endpoint, (int)(i & 0xff), sizeof(event.endpoint));
		while (!wgf_events_put(writer->events, &event))
			sched_yield();
		if (i % 64 == 0)
			sched_yield(); /* let the reader run dry and sleep */
	}
	return NULL;
}

static void check_event(const struct wgf_event *event, uint32_t next[WRITERS])
{
	const uint8_t *endpoint = (const uint8_t *)&event->endpoint;
	CHECK(event->peer < WRITERS);
	CHECK(event->value == next[event->peer]++); /* what one thread puts stays in order */
	for (size_t i = 0; i < sizeof(event->endpoint); i++)
		CHECK(endpoint[i] == (uint8_t)event->value);
}

static void test_many_writers(void)
{
	struct wgf_events events;
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	static struct wgf_event out[50];
	uint32_t next[WRITERS] = {0};
	size_t total = 0, slept = 0;
	CHECK(wgf_events_init(&events) == 0);
	for (uint32_t i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){&events, i};
		CHECK(pthread_create(&threads[i], NULL, write_many, &writers[i]) == 0);
	}
	while (total < WRITERS * EACH) {
		size_t n = wgf_events_take(&events, out, 50);
		for (size_t i = 0; i < n; i++)
			check_event(&out[i], next);
		total += n;
		if (total < WRITERS * EACH && !wgf_events_quiet(&events)) {
			CHECK(readable(&events, 20000)); /* a lost wake-up ends here */
			slept++;
		}
	}
	for (uint32_t i = 0; i < WRITERS; i++)
		pthread_join(threads[i], NULL);
	CHECK(wgf_events_take(&events, out, 50) == 0);
	printf("events: %zu taken, slept %zu times\n", total, slept);
	wgf_events_destroy(&events);
}

int main(void)
{
	test_capacity();
	test_tun_gone();
	test_signals();
	test_many_writers();
	return 0;
}
