/* What the system put together (UDP_GRO) before the outer port received it: taken apart in its slots, every
 * datagram with the address, source and type of service of its message. A system that puts together more than it
 * should, or lies, is played by a recvmmsg of the test's own. */
#include <linux/sock_diag.h>

#include "datagrams.h"

static bool lies; /* of how long the datagrams of a message are: */
static int lie;

int recvmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags, struct timespec *timeout)
{
	int got = (int)syscall(SYS_recvmmsg, fd, messages, n, flags, timeout);
	for (int i = 0; i < got && lies; i++)
		for (struct cmsghdr *c = CMSG_FIRSTHDR(&messages[i].msg_hdr); c; c = CMSG_NXTHDR(&messages[i].msg_hdr, c))
			if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO)
				memcpy(CMSG_DATA(c), &lie, sizeof(lie));
	return got;
}

/* ---- Put together ---- */

/* Packets lie in the slots that are in use, each with its own bytes and no more. */
static void check_slots(const struct wgf_batch *batch)
{
	uint32_t bytes = 0;
	CHECK(batch->count <= batch->limit && batch->used <= WGF_SLOTS);
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct wgf_packet *packet = &batch->packets[i];
		size_t at = (size_t)(packet->outer - batch->memory);
		CHECK(at / WGF_SLOT_STRIDE < batch->used);
		CHECK(at % WGF_SLOT_STRIDE + packet->outer_len <= WGF_SLOT_ROOM);
		CHECK(packet->outer_room == packet->outer_len && packet->inner == packet->outer + 16);
		bytes += packet->outer_len;
	}
	CHECK(bytes <= batch->bytes);
}

static void send_all(struct wgf_udp *a, struct wgf_batch *out)
{
	wgf_udp_send(device, a, out);
	CHECK(all_drops() == 0);
	clear(out);
}

/* One message each; the source and the type of service belong to every datagram of it. */
static void test_grouped(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in,
			 uint8_t family)
{
	const struct {
		uint32_t n, len, tail;
	} runs[] = {{40, 500, 123}, {63, 64, 64}, {2, 1, 1}, {10, 6540, 7}, {44, 1452, 1}, {1, 30000, 29999}};
	for (size_t run = 0; run < sizeof(runs) / sizeof(runs[0]); run++) {
		uint32_t n = runs[run].n;
		watch(NULL);
		for (uint32_t i = 0; i <= n; i++)
			put(out, loopback(family, b->port), i < n ? runs[run].len : runs[run].tail, i)->tos = 0x2a;
		send_all(a, out);
		CHECK(seen_n == 1 && receive(b, in) == n + 1 && in->used == 1 && in->packets[0].outer == in->memory);
		check_slots(in);
		for (uint32_t i = 0; i <= n; i++) {
			uint32_t len = i < n ? runs[run].len : runs[run].tail;
			check_arrived(&in->packets[i], family, a->port, len, i, 0x2a);
			CHECK(i == 0 || in->packets[i].outer == in->packets[i - 1].outer + runs[run].len);
		}
	}
	watch(NULL);
	recording = false;
}

static void test_mixture(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in)
{
	const uint32_t lens[] = {100, 100, 100, 700, 80, 0, 64, 64, 64, 20, 65507, 0, 0, 1, 1, 1, 1400};
	const uint32_t n = sizeof(lens) / sizeof(lens[0]);
	for (uint32_t i = 0; i < n; i++) {
		if (lens[i]) {
			put(out, loopback(4, b->port), lens[i], i);
			continue;
		}
		send_all(a, out);
		send_empty(a, b);
	}
	send_all(a, out);
	for (uint32_t i = 0; i < n;) {
		CHECK(receive(b, in) > 0);
		check_slots(in);
		for (uint32_t k = 0; k < in->count; k++, i++)
			check_arrived(&in->packets[k], 4, a->port, lens[i], i, 0);
	}
	CHECK(receive(b, in) == 0);
}

/* Neither 512 datagrams in few messages nor 100 messages are more than a batch takes. */
static void test_grouped_batches_end(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in,
				     uint32_t run)
{
	uint32_t name = 0, expected = 0;
	while (name < 512) {
		for (uint32_t i = 0; i < run; i++)
			put(out, loopback(4, b->port), 20, name++);
		send_all(a, out);
	}
	uint32_t grouped = name;
	for (int i = 0; i < 100; i++)
		put(out, loopback(4, b->port), 20u + i % 2, name++)->tos = (uint8_t)(i % 2);
	send_all(a, out);
	while (receive(b, in)) {
		check_slots(in);
		for (uint32_t i = 0; i < in->count; i++, expected++)
			CHECK(holds(&in->packets[i], expected < grouped ? 20 : 20 + (expected - grouped) % 2, expected));
	}
	CHECK(expected == name && all_drops() == 0);
}

/* A system that puts together more than it should, or says nonsense: every datagram is there or counted. */
static void test_lies(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in, uint32_t limit)
{
	const int sizes[] = {1, 7, 100, 499, 500, 19876, 19877, 65535, 65536, 1 << 30, 0, -1, INT32_MIN};
	in->limit = limit;
	lies = true;
	for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
		lie = sizes[s];
		for (uint32_t i = 0; i < 40 * 3; i++)
			put(out, loopback(4, b->port), i % 40 == 39 ? 377 : 500, i);
		send_all(a, out);
		uint64_t n = 0, wanted = lie <= 0 || lie > 19877 ? 3 : 3 * (19876 / (uint64_t)lie + 1);
		while (receive(b, in)) {
			check_slots(in);
			n += in->count;
		}
		CHECK(n + drops(WGF_DROP_RECEIVE_OVERSIZED) == wanted && all_drops() == 0);
	}
	lies = false;
	in->limit = WGF_BATCH_PACKETS;
}

/* Linux puts 64 together by itself, but takes twice as many from a sender on this machine. */
static void test_crowds(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *in)
{
	uint8_t bytes[128 * 3] = {0};
	struct sockaddr_storage name;
	struct wgf_endpoint to = loopback(4, b->port);
	socklen_t size = wgf_endpoint_to_sockaddr(&to, &name);
	int three = 3;
	CHECK(setsockopt(a->fd4, SOL_UDP, UDP_SEGMENT, &three, sizeof(three)) == 0);
	uint32_t taken = 0, sent = 0;
	for (int i = 0; i < 6; i++)
		if (sendto(a->fd4, bytes, sizeof(bytes), 0, (struct sockaddr *)&name, size) == sizeof(bytes))
			sent += 128;
	three = 0;
	CHECK(setsockopt(a->fd4, SOL_UDP, UDP_SEGMENT, &three, sizeof(three)) == 0);
	while (receive(b, in)) {
		check_slots(in);
		taken += in->count;
		for (uint32_t i = 0; i < in->count; i++)
			CHECK(in->packets[i].outer_len == 3);
	}
	CHECK(taken + drops(WGF_DROP_RECEIVE_OVERSIZED) == sent && all_drops() == 0);
}

/* ---- Floods ---- */

#define UNDERWAY 4096u

struct line { /* what is on its way in one family */
	uint32_t lens[UNDERWAY], names[UNDERWAY];
	uint32_t first, last;
};

static void take_in(struct wgf_udp *b, struct wgf_batch *in, struct line lines[2], uint32_t *bytes)
{
	receive(b, in);
	check_slots(in);
	for (uint32_t i = 0; i < in->count; i++) {
		struct line *line = &lines[in->packets[i].endpoint.family == 6];
		CHECK(line->first != line->last);
		uint32_t at = line->first++ % UNDERWAY;
		CHECK(holds(&in->packets[i], line->lens[at], line->names[at]));
		*bytes -= line->lens[at];
	}
}

/* Lone datagrams, runs, large and small ones in turns, received at odd times: all come, in order. */
static void test_changing_sizes(struct check_random *random, struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
				struct wgf_batch *in)
{
	static struct line lines[2];
	const uint32_t most[] = {70, 1452, 9000, 65507};
	uint32_t name = 0, bytes = 0;
	while (name < 6000) {
		uint8_t family = check_random_below(random, 2) ? 6 : 4;
		struct line *line = &lines[family == 6];
		uint32_t len = 1 + (uint32_t)check_random_below(random, most[check_random_below(random, 4)]);
		uint32_t n = 1 + (uint32_t)check_random_below(random, len > 4000 ? 65507 / len : 64);
		for (uint32_t i = 0; i < n; i++, line->last++, bytes += len) {
			put(out, loopback(family, b->port), len, ++name);
			line->lens[line->last % UNDERWAY] = len;
			line->names[line->last % UNDERWAY] = name;
		}
		send_all(a, out);
		while (bytes > 90000 || check_random_below(random, 3) == 0)
			take_in(b, in, lines, &bytes);
	}
	while (bytes)
		take_in(b, in, lines, &bytes);
	CHECK(receive(b, in) == 0);
}

/* More than the socket holds: what did not come, the socket has counted. */
static void test_overflow(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out, struct wgf_batch *in)
{
	uint32_t before[SK_MEMINFO_VARS], after[SK_MEMINFO_VARS], taken = 0, sent = 0;
	socklen_t size = sizeof(before);
	int small = 30000;
	CHECK(setsockopt(b->fd4, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
	CHECK(getsockopt(b->fd4, SOL_SOCKET, SO_MEMINFO, before, &size) == 0);
	for (int round = 0; round < 40; round++) {
		for (int i = 0; i < 100; i++, sent++) /* no two of one size: each a message */
			put(out, loopback(4, b->port), 100u + (uint32_t)i, 1);
		send_all(a, out);
		if (round % 3 == 0)
			taken += receive(b, in);
	}
	for (uint32_t n; (n = receive(b, in)); taken += n)
		check_slots(in);
	CHECK(getsockopt(b->fd4, SOL_SOCKET, SO_MEMINFO, after, &size) == 0);
	uint32_t lost = after[SK_MEMINFO_DROPS] - before[SK_MEMINFO_DROPS];
	CHECK(lost > 0 && taken > 0 && taken + lost == sent && all_drops() == 0);
}

static void test_gro(struct check_random *random)
{
	struct wgf_udp *a, *b;
	CHECK(wgf_udp_open(&a, 0, 0, NULL) == 0 && wgf_udp_open(&b, 0, 0, NULL) == 0);
	wgf_udp_try_offloads(a, &device->offloads);
	wgf_udp_try_offloads(b, &device->offloads);
	if (b->gro && wgf_offload_active(&device->offloads, WGF_OFFLOAD_SEGMENT)) {
		struct wgf_batch *out = make_pool_batch((size_t)WGF_BATCH_PACKETS * 65536);
		struct wgf_batch *in = make_pool_batch(WGF_RECEIVE_ROOM);
		test_grouped(a, b, out, in, 4);
		test_grouped(a, b, out, in, 6);
		test_mixture(a, b, out, in);
		for (uint32_t run = 64; run > 1; run = run * 5 / 8)
			test_grouped_batches_end(a, b, out, in, run);
		test_lies(a, b, out, in, WGF_BATCH_PACKETS);
		test_lies(a, b, out, in, 200);
		test_crowds(a, b, in);
		test_changing_sizes(random, a, b, out, in);
		test_overflow(a, b, out, in);
		free_pool_batch(out);
		free_pool_batch(in);
	} else {
		printf("test_udp: left out: UDP_GRO, which this system has not\n");
	}
	wgf_udp_close(a);
	wgf_udp_close(b);
	forget_offloads();
}

int main(void)
{
	struct check_random random = check_random_begin("udp_gro");
	make_device();
	test_gro(&random);
	free_device(device);
	return 0;
}
