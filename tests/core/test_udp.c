/* The outer port over loopback in both families. What a healthy system never says is played by a
 * sendmmsg of the test's own, which the linker puts before the C library's. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../wgfast/core/udp.h"
#include "ports.h"

/* ---- A system that refuses ---- */

static int refuse_errno;      /* 0: nothing is refused */
static unsigned refuse_times; /* so often, then no more */
static _Atomic unsigned calls;

int sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
	calls++;
	if (refuse_errno && refuse_times) {
		refuse_times--;
		errno = refuse_errno;
		return -1;
	}
	return (int)syscall(SYS_sendmmsg, fd, messages, n, flags);
}

static void refuse(int error, unsigned times)
{
	refuse_errno = error;
	refuse_times = times;
	calls = 0;
}

/* ---- Tools ---- */

static struct wgf_endpoint loopback(uint8_t family, uint16_t port)
{
	struct wgf_endpoint e = {.family = family, .port = port};
	if (family == 4)
		memcpy(e.address, (uint8_t[]){127, 0, 0, 1}, 4);
	else
		e.address[15] = 1;
	return e;
}

static struct wgf_packet *put(struct wgf_batch *batch, struct wgf_endpoint to, uint32_t len, uint8_t fill)
{
	struct wgf_packet *packet = &batch->packets[batch->count++];
	CHECK(len <= packet->outer_room);
	memset(packet->outer, fill, len);
	packet->outer_len = len;
	packet->drop = WGF_DROP_NOT;
	packet->tos = 0;
	packet->peer = NULL;
	packet->endpoint = to;
	return packet;
}

/* Loopback delivers before the send returns. */
static uint32_t receive(struct wgf_udp *udp, struct wgf_batch *batch)
{
	clear(batch);
	uint32_t n = (uint32_t)wgf_udp_receive(device, udp, batch);
	CHECK(n == batch->count);
	return n;
}

static void drain(struct wgf_udp *udp, struct wgf_batch *batch)
{
	while (receive(udp, batch))
		;
	clear(batch);
}

/* ---- Tests ---- */

static void test_open(void)
{
	struct wgf_udp *a, *b;
	CHECK(wgf_udp_open(&a, 0, 0) == 0);
	CHECK(a->port != 0 && a->fd4 >= 0);
	CHECK(fcntl(a->fd4, F_GETFL) & O_NONBLOCK && fcntl(a->fd4, F_GETFD) & FD_CLOEXEC);
	CHECK(wgf_udp_open(&b, a->port, 0) == -EADDRINUSE);
	CHECK(wgf_udp_set_mark(a, 7) == (geteuid() ? -EPERM : 0) && wgf_udp_set_mark(a, 0) <= 0);
	uint16_t port = a->port;
	wgf_udp_close(a);
	CHECK(wgf_udp_open(&b, port, 0) == 0 && b->port == port);
	if (geteuid() == 0) {
		struct wgf_udp *marked;
		uint32_t mark = 0;
		socklen_t size = sizeof(mark);
		CHECK(wgf_udp_open(&marked, 0, 0x80000001) == 0);
		CHECK(getsockopt(marked->fd4, SOL_SOCKET, SO_MARK, &mark, &size) == 0 && mark == 0x80000001);
		wgf_udp_close(marked);
	}
	wgf_udp_close(b);
}

static void check_arrived(const struct wgf_packet *packet, uint8_t family, uint16_t from, uint32_t len,
			  uint8_t fill, uint8_t tos)
{
	struct wgf_endpoint expected = loopback(family, from);
	CHECK(packet->drop == WGF_DROP_NOT && packet->outer_len == len && packet->tos == tos);
	CHECK(len == 0 || (packet->outer[0] == fill && packet->outer[len - 1] == fill));
	CHECK(wgf_endpoint_same_address(&packet->endpoint, &expected));
	CHECK(packet->endpoint.has_source && packet->endpoint.interface != 0);
	CHECK(memcmp(packet->endpoint.source, expected.address, 16) == 0);
}

static void test_both_families(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
			       struct wgf_batch *in)
{
	for (uint8_t i = 0; i < 12; i++) /* runs of two: 4 4 6 6 4 4 ... */
		put(out, loopback(i / 2 % 2 ? 6 : 4, b->port), 100u + i, i)->tos = i % 3 ? (uint8_t)(i * 17) : 0;
	out->packets[4].drop = WGF_DROP_SEND_NO_PEER; /* dropped before: must not leave */
	out->packets[5].outer_len = 0;                /* staged */
	wgf_udp_send(device, a, out);
	CHECK(all_drops() == 0);
	CHECK(receive(b, in) == 10);
	uint8_t expected4[] = {0, 1, 8, 9}, expected6[] = {2, 3, 6, 7, 10, 11}, at4 = 0, at6 = 0;
	for (uint32_t i = 0; i < in->count; i++) {
		uint8_t family = in->packets[i].endpoint.family;
		uint8_t k = family == 4 ? expected4[at4++] : expected6[at6++];
		check_arrived(&in->packets[i], family, a->port, 100u + k, k,
			      k % 3 ? (uint8_t)(k * 17) : 0);
	}
	clear(out);
	for (uint32_t i = 0; i < in->count; i++) /* answers, by the source that was learnt */
		put(out, in->packets[i].endpoint, 50, (uint8_t)i)->tos = 0x88;
	wgf_udp_send(device, b, out);
	CHECK(all_drops() == 0 && receive(a, in) == 10);
	for (uint32_t i = 0; i < in->count; i++)
		CHECK(in->packets[i].tos == 0x88 && in->packets[i].endpoint.port == b->port);
	clear(out);
}

static void test_answers_from_where_it_was_asked(struct wgf_udp *a, struct wgf_udp *b,
						 struct wgf_batch *out, struct wgf_batch *in)
{
	struct wgf_endpoint to = loopback(4, b->port);
	to.address[3] = 77; /* 127.0.0.77 */
	put(out, to, 40, 1);
	wgf_udp_send(device, a, out);
	clear(out);
	CHECK(receive(b, in) == 1 && in->packets[0].endpoint.source[3] == 77);
	bool refused = true;
	CHECK(wgf_udp_send_one(device, b, &in->packets[0].endpoint, 0x88, (const uint8_t *)"hello", 5,
			       &refused) == 0 && !refused);
	CHECK(receive(a, in) == 1 && in->packets[0].endpoint.address[3] == 77);
	CHECK(in->packets[0].outer_len == 5 && memcmp(in->packets[0].outer, "hello", 5) == 0);
	CHECK(in->packets[0].tos == 0x88);
}

static void test_sizes(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in)
{
	struct wgf_batch *narrow = make_batch(200);
	put(out, loopback(4, b->port), 200, 1);
	put(out, loopback(4, b->port), 201, 2);
	put(out, loopback(4, b->port), 65507, 3);
	put(out, loopback(4, b->port), 10, 4);
	wgf_udp_send(device, a, out);
	clear(out);
	CHECK(receive(b, narrow) == 4);
	CHECK(narrow->packets[0].drop == WGF_DROP_NOT && narrow->packets[3].drop == WGF_DROP_NOT);
	CHECK(narrow->packets[1].drop == WGF_DROP_RECEIVE_OVERSIZED);
	CHECK(narrow->packets[2].drop == WGF_DROP_RECEIVE_OVERSIZED);
	CHECK(drops(WGF_DROP_RECEIVE_OVERSIZED) == 2 && all_drops() == 0);
	free_batch(narrow);

	put(out, loopback(4, b->port), WGF_MESSAGE_MAX, 5);
	put(out, loopback(6, b->port), WGF_MESSAGE_MAX, 6);
	put(out, loopback(6, b->port), 65527, 7); /* only IPv6 carries it */
	put(out, loopback(4, b->port), 65527, 8); /* and IPv4 says so */
	wgf_udp_send(device, a, out);
	CHECK(out->packets[3].drop == WGF_DROP_SEND_REFUSED && drops(WGF_DROP_SEND_REFUSED) == 1);
	clear(out);
	uint32_t whole = 0, n;
	while ((n = receive(b, in)) != 0)
		for (uint32_t i = 0; i < n; i++)
			whole += in->packets[i].drop == WGF_DROP_NOT && in->packets[i].outer_len == 65507;
	CHECK(whole == 2 && drops(WGF_DROP_RECEIVE_OVERSIZED) == 1 && all_drops() == 0);

	/* Empty datagrams do not come from wgf_udp_send; anybody else may send them. */
	struct sockaddr_storage name;
	struct wgf_endpoint to = loopback(4, b->port);
	socklen_t size = wgf_endpoint_to_sockaddr(&to, &name);
	CHECK(sendto(a->fd4, "", 0, 0, (struct sockaddr *)&name, size) == 0);
	CHECK(receive(b, in) == 1 && in->packets[0].outer_len == 0 && in->packets[0].drop == WGF_DROP_NOT);
}

static void test_batches_end(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
			     struct wgf_batch *in)
{
	for (int round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < WGF_BATCH_PACKETS; i++)
			put(out, loopback(round % 2 ? 6 : 4, b->port), 64, (uint8_t)i);
		wgf_udp_send(device, a, out);
		clear(out);
	}
	/* Either family fills two batches, so they come in turns. */
	for (uint8_t round = 0, last = 0; round < 4; round++) {
		CHECK(receive(b, in) == WGF_BATCH_PACKETS && in->packets[0].endpoint.family != last);
		last = in->packets[0].endpoint.family;
		for (uint32_t i = 0; i < WGF_BATCH_PACKETS; i++)
			CHECK(in->packets[i].endpoint.family == last && in->packets[i].outer[0] == i);
	}
	CHECK(receive(b, in) == 0);

	for (uint32_t i = 0; i < WGF_BATCH_PACKETS; i++)
		put(out, loopback(4, b->port), 1452, (uint8_t)i);
	wgf_udp_send(device, a, out);
	clear(out);
	uint32_t n = receive(b, in);
	CHECK(in->bytes >= WGF_BATCH_BYTES && in->bytes < WGF_BATCH_BYTES + 1500);
	/* A batch that holds something already is only filled up. */
	for (uint32_t i = 0; i < 6; i++)
		put(out, loopback(4, b->port), 64, (uint8_t)i);
	wgf_udp_send(device, a, out);
	clear(out);
	in->count = WGF_BATCH_PACKETS - 3;
	in->bytes = 0;
	CHECK(wgf_udp_receive(device, b, in) == 3 && in->count == WGF_BATCH_PACKETS);
	CHECK(receive(b, in) == WGF_BATCH_PACKETS - n - 3 + 6);
	CHECK(all_drops() == 0);
}

/* An address nobody has: the system refuses to send from it. */
static void give_bad_source(struct wgf_endpoint *e, uint8_t last)
{
	if (e->family == 4)
		memcpy(e->source, (uint8_t[]){203, 0, 113, last}, 4);
	else
		memcpy(e->source, (uint8_t[]){0x20, 1, 0x0d, 0xb8, [15] = last}, 16);
	e->has_source = 1;
	e->interface = 1;
}

static void test_source_is_let_go(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
				  struct wgf_batch *in, uint8_t family)
{
	struct wgf_peer *peers = aligned_alloc(_Alignof(struct wgf_peer), 3 * sizeof(*peers));
	CHECK(peers);
	memset(peers, 0, 3 * sizeof(*peers));
	struct wgf_endpoint bad = loopback(family, b->port), good, seen;
	put(out, bad, 9, 9);
	wgf_udp_send(device, a, out);
	clear(out);
	CHECK(receive(b, in) == 1);
	good = in->packets[0].endpoint; /* of a, with a source that holds */
	good.port = b->port;
	give_bad_source(&bad, 1);
	wgf_endpoint_store(&peers[0].endpoint, &bad);
	wgf_endpoint_store(&peers[1].endpoint, &good);
	wgf_endpoint_store(&peers[2].endpoint, &bad);
	for (uint32_t i = 0; i < 20; i++) {
		uint32_t whose = i % 5 == 0 ? 1 : i == 19 ? 2 : 0;
		put(out, whose == 1 ? good : bad, 30, (uint8_t)i)->peer = &peers[whose];
	}
	refuse(0, 0);
	wgf_udp_send(device, a, out);
	/* The good one; a refusal; the rest, all of that peer's without the source, but one, which is of a
	 * peer that may be reached from there for all we know; its refusal, and itself. */
	CHECK(calls == 5);
	CHECK(all_drops() == 0 && receive(b, in) == 20);
	wgf_endpoint_load(&peers[0].endpoint, &seen);
	CHECK(!seen.has_source && seen.interface == 0 && wgf_endpoint_same_address(&seen, &bad));
	CHECK(peers[0].replaced_source && !peers[1].replaced_source && peers[2].replaced_source);
	wgf_endpoint_load(&peers[2].endpoint, &seen);
	CHECK(!seen.has_source);
	wgf_endpoint_load(&peers[1].endpoint, &seen);
	CHECK(memcmp(&seen, &good, sizeof(good)) == 0);
	for (uint32_t i = 0; i < 20; i++)
		CHECK(in->packets[i].outer[0] == i && out->packets[i].endpoint.has_source == (i % 5 == 0));
	clear(out);

	bool refused = false;
	CHECK(wgf_udp_send_one(device, a, &bad, 0, (const uint8_t *)"x", 1, &refused) == 0 && refused);
	CHECK(receive(b, in) == 1 && all_drops() == 0);
	free(peers);
}

static void test_one_bad_datagram(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
				  struct wgf_batch *in)
{
	struct wgf_endpoint nowhere = {0};
	for (uint8_t i = 0; i < 9; i++) {
		struct wgf_endpoint to = i == 7 ? nowhere : loopback(4, i % 3 == 1 ? 0 : b->port);
		put(out, to, 20, i); /* port 0: EINVAL */
	}
	wgf_udp_send(device, a, out);
	for (uint32_t i = 0; i < 9; i++)
		CHECK(out->packets[i].drop == (i == 7       ? WGF_DROP_SEND_NO_ENDPOINT
					       : i % 3 == 1 ? WGF_DROP_SEND_REFUSED
							    : WGF_DROP_NOT));
	clear(out);
	CHECK(drops(WGF_DROP_SEND_REFUSED) == 2 && drops(WGF_DROP_SEND_NO_ENDPOINT) == 1);
	CHECK(receive(b, in) == 6);
	struct wgf_endpoint bad = loopback(4, 0);
	bool refused = true;
	CHECK(wgf_udp_send_one(device, a, &bad, 0, (const uint8_t *)"x", 1, &refused) == -EINVAL);
	CHECK(!refused && drops(WGF_DROP_SEND_REFUSED) == 1);
	CHECK(wgf_udp_send_one(device, a, &nowhere, 0, (const uint8_t *)"x", 1, &refused) == -EDESTADDRREQ);
	CHECK(drops(WGF_DROP_SEND_NO_ENDPOINT) == 1 && all_drops() == 0);
	struct wgf_udp without = {.fd4 = a->fd4, .fd6 = -1};
	bad = loopback(6, b->port);
	CHECK(wgf_udp_send_one(device, &without, &bad, 0, (const uint8_t *)"x", 1, &refused) == -EAFNOSUPPORT);
	CHECK(drops(WGF_DROP_SEND_UNREACHABLE) == 1 && wgf_udp_receive(device, &without, in) == 0);
}

/* error, times -> lost packets of 8, and why. */
static void play(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in,
		 int error, unsigned times, uint64_t lost, enum wgf_drop reason, unsigned most_calls)
{
	for (uint8_t i = 0; i < 8; i++)
		put(out, loopback(4, b->port), 20, i);
	refuse(error, times);
	wgf_udp_send(device, a, out);
	refuse_errno = 0;
	clear(out);
	CHECK(calls <= most_calls);
	CHECK(drops(reason) == lost && all_drops() == 0);
	CHECK(receive(b, in) == 8 - lost);
}

static void test_refusals(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in)
{
	enum wgf_drop full = WGF_DROP_SEND_SOCKET_FULL, refused = WGF_DROP_SEND_REFUSED;
	play(a, b, out, in, EINTR, 9, 0, refused, 10);
	play(a, b, out, in, EAGAIN, WGF_SEND_RETRIES, 0, full, WGF_SEND_RETRIES + 1);
	play(a, b, out, in, ENOBUFS, WGF_SEND_RETRIES + 1, 1, full, WGF_SEND_RETRIES + 2);
	/* Full for all of it: every datagram one try, not one try and its retries. */
	play(a, b, out, in, EAGAIN, 1000, 8, full, WGF_SEND_RETRIES + 8);
	play(a, b, out, in, ECONNREFUSED, 1, 0, refused, 2);
	play(a, b, out, in, ECONNREFUSED, 2, 1, refused, 3);
	play(a, b, out, in, EPERM, 3, 3, refused, 4);
	play(a, b, out, in, ENETUNREACH, 2, 2, WGF_DROP_SEND_UNREACHABLE, 3);
	play(a, b, out, in, EHOSTUNREACH, 1000, 8, WGF_DROP_SEND_UNREACHABLE, 8);
}

#define THREAD_BATCHES 200

static struct wgf_udp *shared;
static _Atomic uint32_t on_the_way; /* kept below what any socket buffer holds: nothing may be lost */

static void *send_batches(void *argument)
{
	struct wgf_batch *out = make_batch(100);
	for (int round = 0; round < THREAD_BATCHES; round++) {
		while (atomic_load(&on_the_way) > 64)
			sched_yield();
		atomic_fetch_add(&on_the_way, 4);
		for (uint8_t i = 0; i < 4; i++)
			put(out, loopback(i % 2 ? 6 : 4, shared->port), 20, i);
		wgf_udp_send(device, shared, out);
		clear(out);
	}
	free_batch(out);
	return argument;
}

static void *receive_batches(void *argument)
{
	struct wgf_batch *in = make_batch(100);
	_Atomic uint32_t *left = argument;
	while (atomic_load(left)) {
		uint32_t n = receive(shared, in);
		atomic_fetch_sub(left, n);
		atomic_fetch_sub(&on_the_way, n);
		if (n == 0)
			sched_yield();
	}
	free_batch(in);
	return NULL;
}

/* Two threads send on a pair of sockets to itself, two receive from it. */
static void test_threads(void)
{
	pthread_t threads[4];
	_Atomic uint32_t left = 8 * THREAD_BATCHES;
	CHECK(wgf_udp_open(&shared, 0, 0) == 0);
	refuse(0, 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, i < 2 ? send_batches : receive_batches, &left) == 0);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(left == 0 && all_drops() == 0);
	wgf_udp_close(shared);
}

/* No route at all here: every datagram is unreachable, and the socket survives. */
static void test_unreachable(void)
{
	struct wgf_udp *udp;
	struct wgf_batch *out = make_batch(100);
	struct wgf_endpoint far4 = {.address = {192, 0, 2, 1}, .port = 9, .family = 4};
	struct wgf_endpoint far6 = {.address = {0x20, 1, 0x0d, 0xb8}, .port = 9, .family = 6};
	CHECK(wgf_udp_open(&udp, 0, 0) == 0);
	for (int i = 0; i < 3; i++) {
		give_bad_source(&far4, 5);
		put(out, far4, 20, 1);
		put(out, far6, 20, 1);
	}
	wgf_udp_send(device, udp, out);
	CHECK(drops(WGF_DROP_SEND_UNREACHABLE) == 6 && all_drops() == 0);
	bool refused = false;
	CHECK(wgf_udp_send_one(device, udp, &far4, 0, (const uint8_t *)"x", 1, &refused) == -ENETUNREACH);
	CHECK(refused && drops(WGF_DROP_SEND_UNREACHABLE) == 1);
	wgf_udp_close(udp);
	free_batch(out);
}

static void test_udp(void)
{
	struct wgf_udp *a, *b;
	struct wgf_batch *out = make_batch(65536), *in = make_batch(65536);
	CHECK(wgf_udp_open(&a, 0, 0) == 0 && wgf_udp_open(&b, 0, 0) == 0);
	if (a->fd6 < 0) {
		printf("test_udp: left out: UDP, because this system has no IPv6\n");
		return;
	}
	test_both_families(a, b, out, in);
	test_answers_from_where_it_was_asked(a, b, out, in);
	test_sizes(a, b, out, in);
	test_batches_end(a, b, out, in);
	test_source_is_let_go(a, b, out, in, 4);
	test_source_is_let_go(a, b, out, in, 6);
	test_one_bad_datagram(a, b, out, in);
	drain(b, in);
	test_refusals(a, b, out, in);
	test_threads();
	wgf_udp_close(a);
	wgf_udp_close(b);
	free_batch(out);
	free_batch(in);
}

int main(void)
{
	make_device();
	test_open();
	test_udp();
	if (geteuid() == 0 && unshare(CLONE_NEWNET) == 0)
		test_unreachable();
	else
		printf("test_udp: left out: no route at all, which takes root\n");
	free(device);
	return 0;
}
