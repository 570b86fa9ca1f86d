/* Packets put together: streams in memory that ends where each packet ends, with bytes changed at random,
 * lengths that lie and packets cut off anywhere, on two threads at once. That the right packets are put
 * together, and come apart again as they were, is judged by tests/test_coalesce.py. */
#include <pthread.h>

#include "../../wgfast/core/coalesce.h"
#include "../../wgfast/core/ip.h"
#include "check.h"

enum { PACKETS = WGF_COALESCE_PACKETS, ROUNDS = 20000, FLOWS = 5 };

struct flow {
	bool v4, tcp;
	uint16_t port, id, size;
	uint32_t sequence;
};

struct batch {
	struct wgf_coalesce_packet packets[PACKETS];
	struct wgf_coalesce_group groups[PACKETS];
	uint8_t *before[PACKETS]; /* copies of what went in */
	unsigned n;
};

static const unsigned everything =
	WGF_COALESCE_TCP4 | WGF_COALESCE_TCP6 | WGF_COALESCE_UDP4 | WGF_COALESCE_UDP6;

static void put16(uint8_t *p, size_t v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
}

static size_t get16(const uint8_t *p)
{
	return (size_t)p[0] << 8 | p[1];
}

/* ---- Packets ---- */

/* The sum over what precedes a transport header, as wgf_ip_checksum takes it. */
static uint32_t pseudo_sum(const uint8_t *p, size_t len)
{
	bool v4 = p[0] >> 4 == 4;
	const uint8_t *addresses = p + (v4 ? 12 : 8);
	return (uint16_t)~wgf_ip_checksum(addresses, v4 ? 8 : 32, p[v4 ? 9 : 6] + (uint32_t)len);
}

static bool is_right(const uint8_t *p, size_t len)
{
	size_t transport = p[0] >> 4 == 4 ? 20 : 40;
	if (transport == 20 && wgf_ip_checksum(p, 20, 0) != 0)
		return false;
	return wgf_ip_checksum(p + transport, len - transport, pseudo_sum(p, len - transport)) == 0;
}

static void seal(uint8_t *p, size_t len, bool tcp)
{
	size_t transport = p[0] >> 4 == 4 ? 20 : 40;
	uint8_t *check = p + transport + (tcp ? 16 : 6);
	put16(check, 0);
	size_t sum = wgf_ip_checksum(p + transport, len - transport, pseudo_sum(p, len - transport));
	put16(check, sum || tcp ? sum : 0xffff);
	if (transport == 20) {
		put16(p + 10, 0);
		put16(p + 10, wgf_ip_checksum(p, 20, 0));
	}
}

/* The flow's next packet. */
static uint8_t *make_packet(struct check_random *random, struct flow *flow, size_t payload, uint32_t *total)
{
	size_t transport = flow->v4 ? 20 : 40, headers = transport + (flow->tcp ? 20 : 8);
	size_t len = headers + payload;
	uint8_t *p = malloc(len);
	CHECK(p);
	check_random_fill(random, p + headers, payload < 8 ? payload : 8);
	memset(p + headers + (payload < 8 ? payload : 8), 7, payload - (payload < 8 ? payload : 8));
	memset(p, 0, headers);
	if (flow->v4) {
		p[0] = 0x45;
		put16(p + 2, len);
		put16(p + 4, flow->id++);
	} else {
		p[0] = 0x60;
		put16(p + 4, len - 40);
	}
	p[flow->v4 ? 8 : 7] = 64;
	p[flow->v4 ? 9 : 6] = flow->tcp ? 6 : 17;
	put16(p + transport + 2, flow->port);
	if (flow->tcp) {
		put16(p + transport + 4, flow->sequence >> 16);
		put16(p + transport + 6, flow->sequence);
		p[transport + 12] = 0x50;
		p[transport + 13] = 0x10;
		flow->sequence += (uint32_t)payload;
	} else {
		put16(p + transport + 4, len - transport);
	}
	seal(p, len, flow->tcp);
	*total = (uint32_t)len;
	return p;
}

static void add(struct batch *batch, uint8_t *data, uint32_t len)
{
	CHECK(batch->n < PACKETS);
	batch->packets[batch->n] = (struct wgf_coalesce_packet){data, len, 12345};
	batch->before[batch->n] = malloc(len ? len : 1);
	CHECK(batch->before[batch->n]);
	if (len)
		memcpy(batch->before[batch->n], data, len);
	batch->n++;
}

static void clear(struct batch *batch)
{
	for (unsigned i = 0; i < batch->n; i++) {
		free(batch->packets[i].data);
		free(batch->before[i]);
	}
	batch->n = 0;
}

/* ---- What must hold, whatever went in ---- */

static void check_header(const struct batch *batch, const struct wgf_coalesce_group *group)
{
	const uint8_t *p = batch->packets[group->first].data;
	bool v4 = p[0] >> 4 == 4, tcp = p[v4 ? 9 : 6] == 6;
	size_t transport = v4 ? 20 : 40;
	CHECK(group->len <= 65535);
	CHECK(v4 ? get16(p + 2) == group->len : get16(p + 4) + 40 == group->len);
	CHECK(!v4 || wgf_ip_checksum(p, 20, 0) == 0);
	CHECK(tcp || get16(p + transport + 4) == group->len - transport);
	CHECK(tcp || group->count <= 64);
	CHECK(group->header.flags == VIRTIO_NET_HDR_F_NEEDS_CSUM);
	CHECK(group->header.csum_start == transport && group->header.csum_offset == (tcp ? 16 : 6));
	CHECK(group->header.hdr_len == group->headers_len);
	CHECK(get16(p + transport + group->header.csum_offset) == pseudo_sum(p, group->len - transport));
	int type = !tcp ? VIRTIO_NET_HDR_GSO_UDP_L4 : v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	CHECK((group->header.gso_type & ~VIRTIO_NET_HDR_GSO_ECN) == type);
}

static void check_group(const struct batch *batch, const struct wgf_coalesce_group *group, bool *seen)
{
	static const struct virtio_net_hdr none;
	uint32_t len = 0;
	unsigned count = 0;
	for (unsigned i = group->first; i != WGF_COALESCE_LAST; i = batch->packets[i].next) {
		const struct wgf_coalesce_packet *packet = &batch->packets[i];
		CHECK(i < batch->n && !seen[i] && (packet->next > i));
		seen[i] = true;
		uint32_t left_out = i == group->first ? 0 : group->headers_len;
		CHECK(packet->len - left_out <= (group->count == 1 ? packet->len : 65535));
		len += packet->len - left_out;
		count++;
		if (i != group->first || group->count == 1)
			CHECK(!packet->len || memcmp(packet->data, batch->before[i], packet->len) == 0);
		if (group->count > 1) {
			CHECK(is_right(batch->before[i], packet->len));
			CHECK(packet->len > group->headers_len);
			CHECK(packet->len - group->headers_len == group->header.gso_size ||
			      (packet->next == WGF_COALESCE_LAST &&
			       packet->len - group->headers_len < group->header.gso_size));
		}
	}
	CHECK(len == group->len && count == group->count);
	if (count == 1)
		CHECK(memcmp(&group->header, &none, sizeof(none)) == 0);
	else
		check_header(batch, group);
}

/* Undone, and undone once more: every packet is again what went in. */
static void check_undo(struct batch *batch, unsigned n)
{
	static const struct virtio_net_hdr none;
	for (unsigned i = 0; i < 2 * n; i++) {
		wgf_coalesce_undo(batch->packets, &batch->groups[i / 2]);
		CHECK(memcmp(&batch->groups[i / 2].header, &none, sizeof(none)) == 0);
	}
	for (unsigned i = 0; i < batch->n; i++) {
		const struct wgf_coalesce_packet *packet = &batch->packets[i];
		CHECK(!packet->len || memcmp(packet->data, batch->before[i], packet->len) == 0);
	}
}

static unsigned coalesce(struct batch *batch, unsigned features)
{
	bool seen[PACKETS] = {false};
	memset(batch->groups, 0xee, sizeof(batch->groups));
	unsigned n = wgf_coalesce(batch->packets, batch->n, batch->groups, features);
	CHECK(n <= batch->n);
	for (unsigned i = 0; i < n; i++) {
		CHECK(i == 0 || batch->groups[i].first > batch->groups[i - 1].first);
		check_group(batch, &batch->groups[i], seen);
	}
	for (unsigned i = 0; i < batch->n; i++)
		CHECK(seen[i]);
	check_undo(batch, n);
	return n;
}

/* ---- Tests ---- */

static void test_clean(struct check_random *random, struct batch *batch)
{
	uint32_t len;
	for (int kind = 0; kind < 4; kind++) {
		struct flow flow = {kind % 2, kind / 2, 7, 65530, 1400, UINT32_MAX - 5000};
		for (int i = 0; i < 44; i++) {
			uint8_t *p = make_packet(random, &flow, flow.size, &len);
			add(batch, p, len);
		}
		CHECK(coalesce(batch, everything) == 1 && batch->groups[0].count == 44);
		clear(batch);
		for (int i = 0; i < 3; i++) {
			uint8_t *p = make_packet(random, &flow, flow.size, &len);
			add(batch, p, len);
		}
		CHECK(coalesce(batch, 0) == 3); /* the device takes none */
		clear(batch);
	}
}

static void test_every_length(struct check_random *random, struct batch *batch)
{
	uint32_t len, whole;
	for (int kind = 0; kind < 4; kind++) {
		struct flow flow = {kind % 2, kind / 2, 7, 0, 10, 0};
		free(make_packet(random, &flow, flow.size, &whole));
		for (uint32_t cut = 0; cut <= whole; cut++) {
			for (int i = 0; i < 2; i++) {
				uint8_t *p = make_packet(random, &flow, flow.size, &len), *q = malloc(cut ? cut : 1);
				CHECK(q && len == whole);
				memcpy(q, p, cut);
				free(p);
				add(batch, q, cut);
			}
			CHECK(coalesce(batch, everything) == (cut == whole ? 1 : 2));
			clear(batch);
		}
	}
}

/* Super-packets end before 65,535 bytes are passed; packets of that length go through. */
static void test_longest(struct check_random *random, struct batch *batch)
{
	uint32_t len;
	for (int kind = 0; kind < 4; kind++) {
		struct flow flow = {kind % 2, kind / 2, 7, 0, 0, 0};
		size_t headers = (flow.v4 ? 20 : 40) + (flow.tcp ? 20 : 8), room = 65535 - headers;
		size_t most = flow.v4 ? room : room + 40;
		size_t sizes[] = {most, 1, room / 2, room / 2, room / 2, room - 1, 1, 1};
		for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
			uint8_t *p = make_packet(random, &flow, sizes[i], &len);
			add(batch, p, len);
		}
		CHECK(coalesce(batch, everything) == 6);
		CHECK(batch->groups[2].count == 2 && batch->groups[4].count == 2);
		CHECK(batch->groups[4].len == 65535);
		clear(batch);
	}
}

/* A packet of one of the flows, more often than not with something wrong about it. */
static void add_hostile(struct check_random *random, struct batch *batch, struct flow *flow, unsigned evil)
{
	uint32_t len;
	size_t size = check_random_below(random, 8) ? flow->size : check_random_below(random, 80);
	uint8_t *p = make_packet(random, flow, size, &len);
	if (check_random_below(random, 100) < evil) {
		size_t headers = len < 64 ? len : 64, at = check_random_below(random, headers);
		if (check_random_below(random, 2))
			p[at] ^= (uint8_t)(1 << check_random_below(random, 8));
		else
			p[at] = (uint8_t)check_random_next(random);
		if (check_random_below(random, 2) && (p[0] >> 4 == 4 || p[0] >> 4 == 6) && len >= 60)
			seal(p, len, flow->tcp);
	}
	if (check_random_below(random, 100) < evil / 4) {
		uint32_t cut = (uint32_t)check_random_below(random, len + 1);
		uint8_t *q = malloc(cut ? cut : 1);
		CHECK(q);
		memcpy(q, p, cut);
		free(p);
		p = q;
		len = cut;
	}
	add(batch, p, len);
}

static unsigned test_hostile(struct check_random *random, struct batch *batch)
{
	unsigned merged = 0;
	for (int round = 0; round < ROUNDS; round++) {
		struct flow flows[FLOWS];
		for (int i = 0; i < FLOWS; i++)
			flows[i] = (struct flow){check_random_next(random) & 1, check_random_next(random) & 1,
						 (uint16_t)i, (uint16_t)check_random_next(random),
						 (uint16_t)(1 + check_random_below(random, 60)),
						 (uint32_t)check_random_next(random)};
		unsigned n = (unsigned)check_random_below(random, round % 50 ? 20 : PACKETS + 1);
		unsigned evil = (unsigned)check_random_below(random, 60);
		for (unsigned i = 0; i < n; i++)
			add_hostile(random, batch, &flows[check_random_below(random, FLOWS)], evil);
		merged += n - coalesce(batch, round % 4 ? everything : (unsigned)check_random_next(random));
		clear(batch);
	}
	return merged;
}

static void test_many_flows(struct check_random *random, struct batch *batch)
{
	uint32_t len;
	for (int flows = 1; flows <= PACKETS; flows *= 2) {
		struct flow flow[PACKETS];
		for (int i = 0; i < flows; i++)
			flow[i] = (struct flow){i & 1, i & 2, (uint16_t)(i * 257), 0, 100, 0};
		for (int i = 0; i < PACKETS; i++) {
			uint8_t *p = make_packet(random, &flow[i % flows], 100, &len);
			add(batch, p, len);
		}
		unsigned n = coalesce(batch, everything);
		if (flows <= 32) /* so few that each finds its place, but for a UDP group being full */
			CHECK(n >= (unsigned)flows && n <= (unsigned)flows + 4);
		clear(batch);
	}
}

static void *run(void *seed)
{
	struct check_random random = {*(uint64_t *)seed};
	struct batch *batch = calloc(1, sizeof(*batch));
	CHECK(batch);
	CHECK(coalesce(batch, everything) == 0); /* nothing at all */
	test_clean(&random, batch);
	test_every_length(&random, batch);
	test_longest(&random, batch);
	CHECK(test_hostile(&random, batch) > ROUNDS);
	test_many_flows(&random, batch);
	free(batch);
	return NULL;
}

int main(void)
{
	struct check_random random = check_random_begin("test_coalesce");
	uint64_t seeds[2] = {check_random_next(&random), check_random_next(&random)};
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, run, &seeds[i]) == 0);
	for (int i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
	return 0;
}
