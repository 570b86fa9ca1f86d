/* The whole path between two devices in one process (path.h). Checks that everything arrives once, in order, byte for byte, that packets sent before
 * there was a session leave when there is one, and that a device goes away under traffic. */
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <unistd.h>

#include "path.h"

enum { PACKETS = 4000 };

struct flow {
	struct end *from, *to;
	uint32_t first, count;
	_Atomic uint32_t arrived;
};

static void *sink(void *argument)
{
	struct flow *flow = argument;
	uint8_t got[65536], want[INNER_MAX];
	for (uint32_t n = flow->first; n < flow->first + flow->count; n++) {
		struct pollfd ready = {.fd = flow->to->inner, .events = POLLIN};
		CHECK(poll(&ready, 1, 20000) == 1);
		ssize_t len = read(flow->to->inner, got, sizeof got);
		CHECK(len == (ssize_t)make_packet(want, flow->from, flow->to, n));
		CHECK(!memcmp(got, want, (size_t)len));
		atomic_fetch_add(&flow->arrived, 1);
	}
	return NULL;
}

static void *source(void *argument)
{
	struct flow *flow = argument;
	uint8_t packet[INNER_MAX];
	for (uint32_t n = 0; n < flow->count; n++) {
		while (n - atomic_load(&flow->arrived) >= WINDOW)
			usleep(50);
		size_t len = make_packet(packet, flow->from, flow->to, flow->first + n);
		CHECK(write(flow->from->inner, packet, len) == (ssize_t)len);
	}
	return NULL;
}

static void both_ways(struct end *a, struct end *b, uint32_t first, uint32_t count)
{
	struct flow flows[2] = {{.from = a, .to = b, .first = first, .count = count},
				{.from = b, .to = a, .first = first, .count = count}};
	pthread_t threads[4];
	for (size_t i = 0; i < 2; i++) {
		CHECK(!pthread_create(&threads[2 * i], NULL, sink, &flows[i]));
		CHECK(!pthread_create(&threads[2 * i + 1], NULL, source, &flows[i]));
	}
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
}

/* Packets written before there is a session wait, and come first when there is one. */
static void test_staged(struct end *a, struct end *b)
{
	struct flow flow = {.from = a, .to = b, .first = 0, .count = 20};
	struct wgf_peer_info info;
	source(&flow);
	for (int i = 0; i < 2000; i++) {
		CHECK(!wgf_peer_info(a->device, a->peer, &info));
		if (info.staged == flow.count)
			break;
		usleep(1000);
	}
	CHECK(info.staged == flow.count);
	begin_session(a, b);
	sink(&flow);
	CHECK(!wgf_peer_info(a->device, a->peer, &info));
	CHECK(info.staged == 0 && info.session_initiator);
}

static void test_traffic(struct end *a, struct end *b)
{
	struct wgf_peer_info info;
	both_ways(a, b, 100, PACKETS);
	begin_session(b, a); /* rekeying in the other direction loses nothing */
	both_ways(a, b, 5000, PACKETS / 4);
	CHECK(all_drops(a->device) == 0);
	CHECK(all_drops(b->device) == 0);
	CHECK(!wgf_peer_info(b->device, b->peer, &info));
	CHECK(info.received_packets == 20 + PACKETS + PACKETS / 4);
}

/* Reads what is still on its way: a flow keeps its order, so behind a packet that is known to have been sent last there
 * is nothing. Some may be lost, that one too: then another is. */
static void drain(struct end *from, struct end *to)
{
	uint8_t packet[INNER_MAX], got[65536];
	uint32_t number = 10000; /* above what came before, below what comes then */
	for (;;) {
		struct pollfd ready = {.fd = to->inner, .events = POLLIN};
		if (poll(&ready, 1, number > 10000 ? 2000 : 0) == 1) {
			CHECK(read(to->inner, got, sizeof got) >= HEADER + 4);
			if (number > 10000 && wgf_load_be32(got + HEADER) == number)
				return;
		} else {
			size_t len = make_packet(packet, from, to, ++number);
			CHECK(write(from->inner, packet, len) == (ssize_t)len);
		}
	}
}

/* The port moves while packets are on their way: some are lost, the tunnel is not. */
static void test_rebind(struct end *a, struct end *b)
{
	uint8_t packet[INNER_MAX];
	uint16_t port;
	for (uint32_t n = 0; n < 400; n++) {
		size_t len = make_packet(packet, a, b, n);
		CHECK(write(a->inner, packet, len) == (ssize_t)len);
		if (n % 100 == 50) {
			CHECK(!wgf_device_bind(a->device, 0, 0, &port));
			CHECK(port && port != a->port);
			a->port = port;
		}
		usleep(100);
	}
	drain(a, b);
	both_ways(a, b, 20000, 200); /* b has learnt a's new port */
}

/* Nothing is waited for, nothing leaks, whoever still writes gets an error. */
static void test_close_under_traffic(struct end *a, struct end *b)
{
	uint8_t packet[INNER_MAX];
	for (uint32_t n = 0; n < 64; n++) {
		size_t len = make_packet(packet, a, b, n);
		CHECK(write(a->inner, packet, len) == (ssize_t)len);
	}
	CHECK(!wgf_device_remove_peer(b->device, b->peer));
	CHECK(wgf_device_remove_peer(b->device, b->peer) == -ESTALE);
	wgf_device_destroy(a->device);
	wgf_device_destroy(b->device);
}

int main(void)
{
	struct end a, b;
	make_end(&a, 1);
	make_end(&b, 2);
	meet(&a, &b);
	meet(&b, &a);
	test_staged(&a, &b);
	test_traffic(&a, &b);
	test_rebind(&a, &b);
	test_close_under_traffic(&a, &b);
	return 0;
}
