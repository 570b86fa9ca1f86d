/* The outer port over loopback in both families: opening it, what arrives one by one, and both from several
 * threads. A kernel that is old or refuses an option is played by functions of the test's own. */
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <sys/utsname.h>

#include "datagrams.h"

/* ---- Another kernel ---- */

static const char *release;  /* NULL: what it is */
static int refused_option, refused_family; /* to be switched on, or, of UDP_SEGMENT, at all */

int uname(struct utsname *system)
{
	int error = (int)syscall(SYS_uname, system);
	if (release)
		strcpy(system->release, release);
	return error;
}

int setsockopt(int fd, int level, int option, const void *value, socklen_t size)
{
	int family = 0;
	socklen_t length = sizeof(family);
	getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &family, &length);
	bool switches_on = option == UDP_SEGMENT || *(const int *)value != 0;
	if (level == SOL_UDP && option == refused_option && family == refused_family && switches_on) {
		errno = ENOPROTOOPT;
		return -1;
	}
	return (int)syscall(SYS_setsockopt, fd, level, option, value, size);
}

/* ---- Opening ---- */

static void test_open(void)
{
	struct wgf_udp *a, *b;
	CHECK(wgf_udp_open(&a, 0, 0, NULL) == 0);
	CHECK(a->port != 0 && a->fd4 >= 0 && !a->gro);
	CHECK(fcntl(a->fd4, F_GETFL) & O_NONBLOCK && fcntl(a->fd4, F_GETFD) & FD_CLOEXEC);
	CHECK(wgf_udp_open(&b, a->port, 0, NULL) == -EADDRINUSE);
	CHECK(wgf_udp_set_mark(a, 7, NULL) == (geteuid() ? -EPERM : 0) && wgf_udp_set_mark(a, 0, NULL) <= 0);
	uint16_t port = a->port;
	wgf_udp_close(a);
	CHECK(wgf_udp_open(&b, port, 0, NULL) == 0 && b->port == port);
	if (geteuid() == 0) {
		struct wgf_udp *marked;
		uint32_t mark = 0;
		socklen_t size = sizeof(mark);
		CHECK(wgf_udp_open(&marked, 0, 0x80000001, NULL) == 0);
		CHECK(getsockopt(marked->fd4, SOL_SOCKET, SO_MARK, &mark, &size) == 0 && mark == 0x80000001);
		wgf_udp_close(marked);
	}
	wgf_udp_close(b);
}

static int option_of(int fd, int option)
{
	int value = -1;
	socklen_t size = sizeof(value);
	CHECK(getsockopt(fd, SOL_UDP, option, &value, &size) == 0);
	return value;
}

/* Tried on new sockets; whether they then put together. */
static bool try_anew(void)
{
	struct wgf_udp *udp;
	CHECK(wgf_udp_open(&udp, 0, 0, NULL) == 0);
	wgf_udp_try_offloads(udp, &device->offloads);
	bool gro = udp->gro;
	/* Never on one of them alone, or it would receive what nobody takes apart. */
	CHECK(option_of(udp->fd4, UDP_GRO) == gro && option_of(udp->fd6, UDP_GRO) == gro);
	CHECK(option_of(udp->fd4, UDP_SEGMENT) == 0);
	CHECK(gro == wgf_offload_active(&device->offloads, WGF_OFFLOAD_GRO));
	wgf_udp_close(udp);
	return gro;
}

static void test_offloads_tried(void)
{
	const char *const unsound[] = {"5.11.99", "4.19.0-1", "5.", "who knows"}, *const sound[] = {"5.12", "6.0.1-rt"};
	for (int i = 0; i < 2; i++) {
		refused_family = i ? AF_INET6 : AF_INET;
		refused_option = UDP_GRO;
		CHECK(!try_anew() && is_state(WGF_OFFLOAD_GRO, WGF_OFFLOAD_ABSENT, ENOPROTOOPT));
		CHECK(is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_ACTIVE, 0));
		refused_option = UDP_SEGMENT;
		CHECK(try_anew() && is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_ABSENT, ENOPROTOOPT));
	}
	refused_option = 0;
	for (size_t i = 0; i < 4; i++) {
		release = unsound[i];
		CHECK(!try_anew() && is_state(WGF_OFFLOAD_GRO, WGF_OFFLOAD_ABSENT, ENOPROTOOPT));
	}
	for (size_t i = 0; i < 2; i++) {
		release = sound[i];
		CHECK(try_anew());
	}
	release = NULL;
	CHECK(try_anew()); /* it was only absent */
	wgf_offload_give_up(&device->offloads, WGF_OFFLOAD_SEGMENT, EIO);
	CHECK(try_anew() && is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, EIO));
	forget_offloads();
	wgf_offload_switch_off(&device->offloads, 1u << WGF_OFFLOAD_GRO | 1u << WGF_OFFLOAD_SEGMENT);
	CHECK(!try_anew() && is_state(WGF_OFFLOAD_GRO, WGF_OFFLOAD_SWITCHED_OFF, 0));
	CHECK(is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_SWITCHED_OFF, 0));
	forget_offloads();
}

/* ---- One by one ---- */

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
		put(out, in->packets[i].endpoint, 50, i)->tos = 0x88;
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
	send_empty(a, b);
	CHECK(receive(b, in) == 1 && in->packets[0].outer_len == 0 && in->packets[0].drop == WGF_DROP_NOT);
}

static void test_batches_end(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
			     struct wgf_batch *in, uint32_t limit)
{
	in->limit = limit;
	for (int round = 0; round < 4; round++) {
		for (uint32_t i = 0; i < limit; i++)
			put(out, loopback(round % 2 ? 6 : 4, b->port), 64, i);
		wgf_udp_send(device, a, out);
		clear(out);
	}
	/* Either family fills two batches, so they come in turns. */
	for (uint8_t round = 0, last = 0; round < 4; round++) {
		CHECK(receive(b, in) == limit && in->packets[0].endpoint.family != last);
		last = in->packets[0].endpoint.family;
		for (uint32_t i = 0; i < limit; i++)
			CHECK(in->packets[i].endpoint.family == last && holds(&in->packets[i], 64, i));
	}
	CHECK(receive(b, in) == 0);

	for (uint32_t i = 0; i < 64; i++)
		put(out, loopback(4, b->port), 1452, i);
	wgf_udp_send(device, a, out);
	clear(out);
	uint32_t n = receive(b, in);
	CHECK(in->bytes >= WGF_BATCH_BYTES && in->bytes < WGF_BATCH_BYTES + 1500);
	/* A batch that holds something already is only filled up. */
	for (uint32_t i = 0; i < 6; i++)
		put(out, loopback(4, b->port), 64, i);
	wgf_udp_send(device, a, out);
	clear(out);
	in->count = limit - 3;
	in->bytes = 0;
	CHECK(wgf_udp_receive(device, b, in) == 3 && in->count == limit);
	CHECK(receive(b, in) == 64 - n - 3 + 6);
	CHECK(all_drops() == 0);
	in->limit = WGF_BATCH_PACKETS;
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
	CHECK(wgf_udp_open(&shared, 0, 0, NULL) == 0);
	refuse(0, 0);
	for (size_t i = 0; i < 4; i++)
		CHECK(pthread_create(&threads[i], NULL, i < 2 ? send_batches : receive_batches, &left) == 0);
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	CHECK(left == 0 && all_drops() == 0);
	wgf_udp_close(shared);
}

static void test_udp(void)
{
	struct wgf_udp *a, *b;
	struct wgf_batch *out = make_batch(65536), *in = make_batch(65536);
	CHECK(wgf_udp_open(&a, 0, 0, NULL) == 0 && wgf_udp_open(&b, 0, 0, NULL) == 0);
	if (a->fd6 < 0) {
		printf("test_udp: left out: UDP, because this system has no IPv6\n");
		return;
	}
	test_offloads_tried();
	test_both_families(a, b, out, in);
	test_answers_from_where_it_was_asked(a, b, out, in);
	test_sizes(a, b, out, in);
	test_batches_end(a, b, out, in, 64);
	test_batches_end(a, b, out, in, WGF_BATCH_PACKETS);
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
	free_device(device);
	return 0;
}
