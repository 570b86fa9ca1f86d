/* Sending over loopback in both families. First one datagram a message, and what becomes of those the system
 * refuses; then neighbours that leave as one message (UDP_SEGMENT): which do, that they arrive as they were, and
 * against a slow oracle at random. */
#include <sched.h>

#include "datagrams.h"

/* ---- One by one ---- */

static void test_source_is_let_go(struct wgf_udp *a, struct wgf_udp *b, struct wgf_batch *out,
				  struct wgf_batch *in, uint8_t family)
{
	struct wgf_peer *peers = make_peers(3);
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
		put(out, whose == 1 ? good : bad, 30, i)->peer = &peers[whose];
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
		CHECK(holds(&in->packets[i], 30, i) && out->packets[i].endpoint.has_source == (i % 5 == 0));
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

/* No route at all here: every datagram is unreachable, and the socket survives. */
static void test_unreachable(void)
{
	struct wgf_udp *udp;
	struct wgf_batch *out = make_batch(100);
	struct wgf_endpoint far4 = {.address = {192, 0, 2, 1}, .port = 9, .family = 4};
	struct wgf_endpoint far6 = {.address = {0x20, 1, 0x0d, 0xb8}, .port = 9, .family = 6};
	CHECK(wgf_udp_open(&udp, 0, 0, NULL) == 0);
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

/* ---- Together ---- */

/* What is sent, said in words: each is a length, perhaps `*n` for n of them, and letters after a colon: 6 (over IPv6), e
 * (another endpoint), p (another peer), t (another type of service), s (from a source), d (dropped before), z
 * (not sealed: of no length). A bar stands where a message begins. */
struct plan {
	uint32_t counts[512]; /* datagrams of each message */
	uint32_t messages;
	uint32_t names[2][512], lens[2][512], n[2]; /* expected over IPv4 and IPv6 */
	uint8_t tos[2][512];
	bool source[2][512];
};

struct ports {
	struct wgf_udp *from, *to, *elsewhere;
	struct wgf_peer *peers;
	struct wgf_batch *out, *in;
};

static struct wgf_endpoint endpoint_of(const struct ports *ports, const char *letters)
{
	bool v6 = strchr(letters, '6') != NULL;
	struct wgf_endpoint e = loopback(v6 ? 6 : 4, strchr(letters, 'e') ? ports->elsewhere->port : ports->to->port);
	if (strchr(letters, 's')) {
		e.has_source = 1;
		memcpy(e.source, e.address, sizeof(e.source));
		e.source[3] = v6 ? 0 : 9; /* 127.0.0.9 */
	}
	return e;
}

static void put_words(const struct ports *ports, struct plan *plan, uint32_t len, const char *letters, uint32_t name)
{
	struct wgf_packet *packet = put(ports->out, endpoint_of(ports, letters), len, name);
	int v6 = strchr(letters, '6') != NULL;
	packet->tos = strchr(letters, 't') ? 0x2a : 0;
	packet->peer = &ports->peers[strchr(letters, 'p') != NULL];
	if (strchr(letters, 'd'))
		packet->drop = WGF_DROP_SEND_NO_PEER;
	if (strchr(letters, 'z'))
		packet->outer_len = 0;
	if (strpbrk(letters, "dz"))
		return;
	plan->counts[plan->messages - 1]++;
	if (strchr(letters, 'e'))
		return;
	uint32_t at = plan->n[v6]++;
	plan->names[v6][at] = name;
	plan->lens[v6][at] = len;
	plan->tos[v6][at] = packet->tos;
	plan->source[v6][at] = strchr(letters, 's') != NULL;
}

static void read_plan(const struct ports *ports, struct plan *plan, const char *words)
{
	uint32_t name = 0;
	*plan = (struct plan){.messages = 1};
	clear(ports->out);
	for (int used; *words; words += used) {
		uint32_t len, n = 1;
		char letters[16] = "";
		if (*words == ' ' || *words == '|') {
			plan->messages += *words == '|';
			used = 1;
			continue;
		}
		CHECK(sscanf(words, "%u%n", &len, &used) == 1);
		words += used;
		used = 0;
		if (*words == '*') {
			CHECK(sscanf(words, "*%u%n", &n, &used) == 1);
			words += used;
		}
		used = (int)strspn(words, ":6eptsdz");
		CHECK(used < 16);
		memcpy(letters, words, (size_t)used);
		while (n--)
			put_words(ports, plan, len, letters, name++);
	}
}

static void check_delivered(const struct ports *ports, const struct plan *plan)
{
	uint32_t at[2] = {0}, n;
	while ((n = receive(ports->to, ports->in)) != 0)
		for (uint32_t i = 0; i < n; i++) {
			const struct wgf_packet *packet = &ports->in->packets[i];
			int v6 = packet->endpoint.family == 6;
			uint32_t k = at[v6]++;
			CHECK(k < plan->n[v6] && holds(packet, plan->lens[v6][k], plan->names[v6][k]));
			CHECK(packet->tos == plan->tos[v6][k] && packet->endpoint.port == ports->from->port);
			CHECK(v6 || packet->endpoint.address[3] == (plan->source[0][k] ? 9 : 1));
		}
	CHECK(at[0] == plan->n[0] && at[1] == plan->n[1] && all_drops() == 0);
	drain(ports->elsewhere, ports->in);
}

static void check_messages(const struct plan *plan, const char *words)
{
	for (uint32_t i = 0; i < plan->messages && i < seen_n; i++)
		if (seen[i].datagrams != plan->counts[i])
			fprintf(stderr, "\"%.99s\": message %u has %u datagrams\n", words, i, seen[i].datagrams);
	CHECK(seen_n == plan->messages);
	for (uint32_t i = 0; i < seen_n; i++)
		CHECK(seen[i].datagrams == plan->counts[i]);
}

static void expect(const struct ports *ports, const char *words)
{
	static struct plan plan;
	read_plan(ports, &plan, words);
	watch(NULL);
	wgf_udp_send(device, ports->from, ports->out);
	check_messages(&plan, words);
	check_delivered(ports, &plan);
}

static void test_neighbours(const struct ports *ports)
{
	const char *const plans[] = {
		"100", "100 100", "100*64", "100*64 | 100*64 | 100", "100*63 40", "100*64 | 40", "1*64 | 1",
		"100 40 | 40 40 | 100", "100 100 40 | 100", "100 | 101 101 | 102", "40 | 41 40 | 40 1 | 1 1",
		"100 100 | 100:e 100:e | 100", "100 | 100:t 100:t | 100", "100 100 | 100:p | 100 100",
		"100:s 100:s | 100 | 100:s", "100:6 100:6 60:6 | 100:6", "100 100 | 100:6 100:6 | 100 100",
		"100:6t 100:6t | 100:6", "100:6s 100:6s | 100:6", "100:s6t 100:s6t 4:s6t",
		"65507 | 1", "65507:6 | 1:6", "6550*10 7", "6550*10 | 8", "6550*10:6 7:6", "6550*10:6 | 8:6",
		"32753 32753 1", "32754 32753 | 1", "10000*6 | 10000*6 | 10000",
		"548*64", "549*64", "1452*45 | 1452*45 7", "1472:t 1471:t | 1471:t",
	};
	for (size_t i = 0; i < sizeof(plans) / sizeof(plans[0]); i++)
		expect(ports, plans[i]);
}

/* What does not leave neither joins nor parts its neighbours, but leaves a gap between their bytes. */
static void test_gaps(const struct ports *ports, bool side_by_side)
{
	expect(ports, "100*10");
	CHECK(seen[0].vectors == (side_by_side ? 1 : 10));
	expect(ports, "100 100:d 100 100 7:d 100");
	CHECK(seen[0].vectors == (side_by_side ? 3 : 4));
	expect(ports, "100:d 100 100:z 20 | 20:dz 20");
	CHECK(seen[0].vectors == 2 && seen[1].vectors == 1);
	expect(ports, "100*30 9*3:d 100*30 30 | 100*64 | 20:6 3:6d 20:6 | 5:s");
	CHECK(seen[0].vectors == (side_by_side ? 2 : 61) && seen[2].vectors == 2);
}

/* Four full batches of all kinds of neighbours, more than 64 messages among them. */
static void test_many_messages(const struct ports *ports)
{
	static char words[8192];
	size_t at = 0;
	for (int i = 0; i < 85; i++)
		at += (size_t)sprintf(words + at, "%s%d:t %d:t | %d:6", i ? " | " : "", 50 + i, 40 + i, 60 + i);
	expect(ports, words);
	CHECK(calls >= 170); /* the families take turns: each turn a call */
	at = 0;
	for (int i = 0; i < 128; i++)
		at += (size_t)sprintf(words + at, "%s%d %d", i ? " | " : "", 50 + i, 1 + i);
	expect(ports, words);
	CHECK(calls == 2);
}

/* What a slow reading of the rules makes of it. */
static void write_random_plan(struct check_random *random, char *words)
{
	const char *const kinds[] = {"", "", "", ":t", ":p", ":e", ":6", ":s"};
	uint32_t n = 1 + (uint32_t)check_random_below(random, 256), last = 0, first = 0, count = 0, bytes = 0;
	const char *kind = kinds[0], *before = NULL;
	uint32_t len = 1, most = check_random_below(random, 4) ? 1500 : 20000;
	for (uint32_t i = 0; i < n; i++) {
		if (check_random_below(random, 20) == 0)
			kind = kinds[check_random_below(random, 8)];
		if (check_random_below(random, 8) == 0)
			len = 1 + (uint32_t)check_random_below(random, most);
		bool follows = before == kind && last == first && len <= first && count < 64 && bytes + len <= 65507;
		words += sprintf(words, "%s%u%s ", follows || i == 0 ? "" : "| ", len, kind);
		count = follows ? count + 1 : 1;
		bytes = follows ? bytes + len : len;
		first = follows ? first : len;
		last = len;
		before = kind;
	}
}

static void test_at_random(struct check_random *random, const struct ports *ports)
{
	static char words[8192];
	for (int round = 0; round < 60; round++) {
		write_random_plan(random, words);
		expect(ports, words);
	}
}

/* Single, as if there were no UDP_SEGMENT. */
static void test_switched_off(const struct ports *ports)
{
	forget_offloads();
	expect(ports, "100 | 100 | 100:6 | 100:6"); /* never tried */
	wgf_offload_switch_off(&device->offloads, 1u << WGF_OFFLOAD_SEGMENT);
	wgf_udp_try_offloads(ports->from, &device->offloads);
	expect(ports, "100 | 100 | 100:6 | 100:6");
	CHECK(is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_SWITCHED_OFF, 0));
}

static void test_together(struct check_random *random, struct ports *ports)
{
	struct wgf_batch *apart = make_batch(65536), *side_by_side = make_pool_batch((size_t)WGF_BATCH_PACKETS * 65536);
	CHECK(wgf_udp_open(&ports->elsewhere, 0, 0, NULL) == 0);
	wgf_udp_try_offloads(ports->from, &device->offloads);
	if (wgf_offload_active(&device->offloads, WGF_OFFLOAD_SEGMENT)) {
		for (int i = 0; i < 2; i++) {
			ports->out = i ? apart : side_by_side;
			test_neighbours(ports);
			test_gaps(ports, !i);
			test_many_messages(ports);
			test_at_random(random, ports);
		}
		test_switched_off(ports);
	} else {
		printf("test_udp_send: left out: UDP_SEGMENT, which this system has not\n");
	}
	wgf_udp_close(ports->elsewhere);
	free_batch(apart);
	free_pool_batch(side_by_side);
}

static void test_send(struct check_random *random)
{
	struct ports ports = {.peers = make_peers(2), .in = make_batch(65536)};
	struct wgf_batch *out = make_batch(65536);
	CHECK(wgf_udp_open(&ports.from, 0, 0, NULL) == 0 && wgf_udp_open(&ports.to, 0, 0, NULL) == 0);
	if (ports.from->fd6 < 0) {
		printf("test_udp_send: left out, because this system has no IPv6\n");
		return;
	}
	test_source_is_let_go(ports.from, ports.to, out, ports.in, 4);
	test_source_is_let_go(ports.from, ports.to, out, ports.in, 6);
	test_one_bad_datagram(ports.from, ports.to, out, ports.in);
	drain(ports.to, ports.in);
	test_refusals(ports.from, ports.to, out, ports.in);
	free_batch(out);
	test_together(random, &ports);
	wgf_udp_close(ports.from);
	wgf_udp_close(ports.to);
	free_batch(ports.in);
	free(ports.peers);
}

int main(void)
{
	struct check_random random = check_random_begin("udp_send");
	make_device();
	test_send(&random);
	if (geteuid() == 0 && unshare(CLONE_NEWNET) == 0)
		test_unreachable();
	else
		printf("test_udp_send: left out: no route at all, which takes root\n");
	free_device(device);
	return 0;
}
