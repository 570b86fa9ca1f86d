/* The path between two devices whose interfaces have several queues: each queue has two flows, every flow keeps its
 * order, and what waited for a session comes before what was written later. */
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "path.h"

enum { QUEUES = 4, PER_QUEUE = 2, FLOWS = QUEUES * PER_QUEUE, PACKETS = 800, STAGED = 12, NUMBERS = 100000 };

struct traffic {
	struct end *from, *to;
	uint32_t packets;                /* of each flow, in all */
	_Atomic uint32_t arrived[FLOWS]; /* of each */
};

/* A packet's number says which flow it is of. */
static void *source(void *argument)
{
	struct traffic *t = argument;
	uint8_t packet[INNER_MAX];
	for (uint32_t n = atomic_load(&t->arrived[0]); n < t->packets; n++)
		for (uint32_t flow = 0; flow < FLOWS; flow++) {
			while (n - atomic_load(&t->arrived[flow]) >= WINDOW / FLOWS && t->packets > STAGED)
				usleep(50);
			size_t len = make_packet(packet, t->from, t->to, flow * NUMBERS + n);
			CHECK(write(t->from->lanes[flow / PER_QUEUE], packet, len) == (ssize_t)len);
		}
	return NULL;
}

static void *sink(void *argument)
{
	struct traffic *t = argument;
	uint8_t got[65536], want[INNER_MAX];
	uint32_t missing = 0;
	for (uint32_t flow = 0; flow < FLOWS; flow++)
		missing += t->packets - atomic_load(&t->arrived[flow]);
	while (missing--) {
		struct pollfd ready = {.fd = t->to->inner, .events = POLLIN};
		CHECK(poll(&ready, 1, 20000) == 1);
		ssize_t len = read(t->to->inner, got, sizeof got);
		CHECK(len >= HEADER + 4);
		uint32_t flow = wgf_load_be32(got + HEADER) / NUMBERS;
		CHECK(flow < FLOWS);
		uint32_t number = flow * NUMBERS + atomic_load(&t->arrived[flow]);
		CHECK(len == (ssize_t)make_packet(want, t->from, t->to, number) && !memcmp(got, want, (size_t)len));
		atomic_fetch_add(&t->arrived[flow], 1);
	}
	return NULL;
}

static void wait_staged(const struct end *end, uint32_t n)
{
	struct wgf_peer_info info = {.staged = 0};
	for (int i = 0; i < 5000 && info.staged != n; i++) {
		usleep(1000);
		CHECK(!wgf_peer_info(end->device, end->peer, &info));
	}
	CHECK(info.staged == n);
}

int main(void)
{
	static struct end a, b;
	static struct traffic there = {.from = &a, .to = &b}, back = {.from = &b, .to = &a};
	struct traffic *both[2] = {&there, &back};
	pthread_t threads[4];
	make_end_of(&a, 1, QUEUES);
	make_end_of(&b, 2, QUEUES);
	meet(&a, &b);
	meet(&b, &a);

	there.packets = STAGED;
	source(&there);
	wait_staged(&a, FLOWS * STAGED);
	begin_session(&a, &b);
	sink(&there);

	for (size_t i = 0; i < 2; i++) {
		both[i]->packets = PACKETS;
		CHECK(!pthread_create(&threads[2 * i], NULL, sink, both[i]));
		CHECK(!pthread_create(&threads[2 * i + 1], NULL, source, both[i]));
	}
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(all_drops(a.device) == 0 && all_drops(b.device) == 0);
	wgf_device_destroy(a.device);
	wgf_device_destroy(b.device);
	return 0;
}
