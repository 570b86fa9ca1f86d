/* UDP_SEGMENT refused in mid-stream, by errnos injected into sendmmsg: whatever the system says, every datagram
 * leaves once and in its place or is marked and counted; and what is remembered of it is the endpoint's or the
 * device's, for a while or for good. */
#include <pthread.h>
#include <sched.h>

#include "datagrams.h"

enum { BEGINNING = 7, PEERS = 3 }; /* seconds: any time but 0 */

/* Peer 0 is reached over IPv4, 1 at another port, 2 over IPv6. */
static struct wgf_udp *from, *to, *elsewhere;
static struct wgf_peer *peers;
static struct wgf_batch *out, *in;

/* ---- What the system refuses ---- */

static struct {
	int error, to_singles;    /* 0: nothing */
	uint32_t above;           /* segments no longer than that are taken */
	uint32_t exactly;         /* 0: of any length, else of this one only */
	uint32_t single_bytes;    /* of single ones, those of this length only */
	bool of_peer_0, tails, sources;
} harm;

static int judge_harm(const struct seen *message)
{
	if (harm.sources && message->has_source)
		return EINVAL;
	if (harm.of_peer_0 && (message->port != to->port || message->family != 4))
		return 0;
	if (!message->segment)
		return harm.single_bytes && message->bytes != harm.single_bytes ? 0 : harm.to_singles;
	if (message->segment <= harm.above || (harm.exactly && message->segment != harm.exactly) ||
	    (harm.tails && message->bytes % message->segment == 0))
		return 0;
	return harm.error;
}

/* ---- Sending, and who has got it ---- */

static uint32_t next_name;
static uint32_t names[WGF_BATCH_PACKETS], whose[WGF_BATCH_PACKETS];

static void begin(void)
{
	memset(peers, 0, PEERS * sizeof(*peers));
	forget_offloads();
	wgf_offload_tried(&device->offloads, WGF_OFFLOAD_SEGMENT, 0);
	clear(out);
	out->now = BEGINNING * WGF_SECOND;
}

static struct wgf_packet *add(uint32_t whom, uint32_t len)
{
	struct wgf_udp *udp = whom == 1 ? elsewhere : to;
	uint32_t at = out->count;
	names[at] = next_name++;
	whose[at] = whom;
	struct wgf_packet *packet = put(out, loopback(whom == 2 ? 6 : 4, udp->port), len, names[at]);
	packet->peer = &peers[whom];
	return packet;
}

static void add_run(uint32_t whom, uint32_t n, uint32_t len)
{
	while (n--)
		add(whom, len);
}

static void check_receiver(struct wgf_udp *udp, uint32_t next[PEERS])
{
	while (receive(udp, in))
		for (uint32_t i = 0; i < in->count; i++) {
			uint32_t whom = udp == elsewhere ? 1 : in->packets[i].endpoint.family == 6 ? 2 : 0, at = next[whom];
			while (at < out->count && (whose[at] != whom || out->packets[at].drop != WGF_DROP_NOT))
				at++;
			CHECK(at < out->count && holds(&in->packets[i], out->packets[at].outer_len, names[at]));
			next[whom] = at + 1;
		}
}

/* Sends the batch. Every datagram that is not marked has come, once and in order; returns how many are. */
static uint32_t settle(void)
{
	uint32_t next[PEERS] = {0}, lost = 0, got = 0;
	wgf_udp_send(device, from, out);
	check_receiver(to, next);
	check_receiver(elsewhere, next);
	for (uint32_t i = 0; i < out->count; i++) {
		lost += out->packets[i].drop != WGF_DROP_NOT;
		got += out->packets[i].drop == WGF_DROP_NOT && i < next[whose[i]];
	}
	CHECK(got + lost == out->count);
	return lost;
}

/* settle(), then what left: numbers of datagrams, those of single ones added up and negative; 0 ends. */
static void check_left(const int *expected)
{
	unsigned at = seen_n;
	CHECK(settle() == 0 && all_drops() == 0);
	for (; *expected; expected++) {
		int n = *expected;
		if (n > 0)
			CHECK(at < seen_n && (int)seen[at++].datagrams == n);
		for (; n < 0; n++)
			CHECK(at < seen_n && seen[at++].datagrams == 1);
	}
	CHECK(at == seen_n);
	clear(out);
}

#define CHECK_LEFT(...) check_left((const int[]){__VA_ARGS__, 0})

static bool is_active(void)
{
	return wgf_offload_active(&device->offloads, WGF_OFFLOAD_SEGMENT);
}

static uint64_t until(uint32_t whom)
{
	return atomic_load(&peers[whom].whole_until);
}

/* ---- Of the whole device ---- */

/* A device that cannot segment says so in the middle of a batch. */
static void test_given_up(int error)
{
	begin();
	harm = (__typeof__(harm)){.error = error, .exactly = 400};
	add_run(0, 20, 300);
	add_run(1, 20, 400);
	add(1, 40);
	add_run(0, 10, 1500); /* gathered before the refusal, and taken */
	add_run(2, 30, 300);
	watch(judge_harm);
	CHECK_LEFT(20, -21, 10, -30);
	CHECK(is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, error));
	for (uint32_t i = 0; i < PEERS; i++)
		CHECK(until(i) == 0);
	watch(NULL);
	add_run(0, 64, 300);
	add_run(2, 3, 300);
	CHECK_LEFT(-67);
	CHECK(calls == 2 && is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, error));
}

/* Datagrams that no path is too narrow for. */
static void test_sure(void)
{
	begin();
	harm = (__typeof__(harm)){.error = EINVAL};
	watch(judge_harm);
	add_run(0, 3, 549);
	CHECK_LEFT(-3);
	CHECK(is_active() && until(0) != 0);
	add_run(1, 3, 548);
	CHECK_LEFT(-3);
	CHECK(is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, EINVAL) && until(1) == 0);

	begin(); /* only EINVAL says so */
	harm.error = EMSGSIZE;
	watch(judge_harm);
	add_run(0, 3, 100);
	CHECK_LEFT(-3);
	CHECK(is_active() && until(0) != 0);
}

/* ---- Of one endpoint ---- */

static void test_narrow_path(int error)
{
	const uint64_t begun = BEGINNING * WGF_SECOND, again = begun + WGF_SEGMENT_AGAIN;
	begin();
	harm = (__typeof__(harm)){.error = error, .of_peer_0 = true, .above = 1000};
	watch(judge_harm);
	add_run(0, 5, 900);
	add_run(0, 10, 1400);
	add_run(1, 10, 1400);
	add_run(2, 10, 1400);
	add_run(0, 10, 1300); /* already gathered: refused again */
	CHECK_LEFT(5, -10, 10, 10, -10);
	CHECK(is_active() && until(0) == again && until(1) == 0 && until(2) == 0);

	out->now = again - 1;
	watch(judge_harm);
	add_run(0, 10, 1400);
	add_run(1, 10, 1400);
	add_run(0, 10, 900);
	CHECK_LEFT(-10, 10, -10);
	CHECK(calls == 1 && until(0) == again); /* nothing was tried and refused */

	out->now = again;
	watch(judge_harm);
	add_run(0, 10, 1400);
	CHECK_LEFT(-10);
	CHECK(is_active() && until(0) == again + WGF_SEGMENT_AGAIN);

	out->now = again + WGF_SEGMENT_AGAIN; /* and meanwhile the path is wide */
	watch(NULL);
	add_run(0, 10, 1400);
	CHECK_LEFT(10);
	add_run(0, 10, 1400);
	CHECK_LEFT(10);
	CHECK(calls == 2 && is_active());
}

/* Linux 6.6.44 took no message whose last datagram is shorter. */
static void test_short_tails(void)
{
	begin();
	harm = (__typeof__(harm)){.error = EINVAL, .tails = true};
	watch(judge_harm);
	add_run(0, 20, 1400);
	add_run(1, 64, 1400 / 2);
	add_run(0, 1, 100);
	add_run(0, 20, 1300);
	add(0, 77);
	add_run(2, 9, 1300);
	CHECK_LEFT(20, 64, 1, -21, 9);
	CHECK(is_active() && until(0) != 0 && until(1) == 0 && until(2) == 0);
}

/* A message without a peer: nobody remembers, nothing is lost. */
static void test_no_peer(void)
{
	begin();
	harm = (__typeof__(harm)){.error = EMSGSIZE};
	for (int round = 0; round < 2; round++) {
		watch(judge_harm);
		for (int i = 0; i < 5; i++)
			add(0, 1000)->peer = NULL;
		CHECK_LEFT(-5);
		CHECK(is_active() && calls == 6);
	}
}

/* ---- Sources ---- */

static void add_from_bad_source(uint32_t whom, uint32_t n, uint32_t len)
{
	while (n--)
		give_bad_source(&add(whom, len)->endpoint, 1);
	wgf_endpoint_store(&peers[whom].endpoint, &out->packets[out->count - 1].endpoint);
}

static void check_source_gone(uint32_t whom)
{
	struct wgf_endpoint now;
	wgf_endpoint_load(&peers[whom].endpoint, &now);
	CHECK(!now.has_source && peers[whom].replaced_source);
	for (uint32_t i = 0; i < seen_n; i++)
		CHECK(!seen[i].has_source);
}

/* Refused by the system itself, or by an injected errno: together all the same, only without the source. */
static void test_stale_source(uint32_t whom, bool injected)
{
	begin();
	harm = (__typeof__(harm)){.sources = injected};
	watch(judge_harm);
	add_from_bad_source(whom, 20, 1000);
	add_from_bad_source(whom, 30, 1400);
	add_run(1, 20, 1000);
	CHECK_LEFT(20, 30, 20);
	CHECK(is_active() && until(whom) == 0 && !peers[1].replaced_source);
	check_source_gone(whom);
}

/* And the path is narrow as well. */
static void test_stale_source_on_narrow_path(void)
{
	begin();
	harm = (__typeof__(harm)){.error = EINVAL, .above = 1000, .sources = true};
	watch(judge_harm);
	add_from_bad_source(0, 20, 1400);
	CHECK_LEFT(-20);
	CHECK(is_active() && until(0) != 0 && calls == 22);
	check_source_gone(0);

	begin(); /* which is said first */
	harm.error = EMSGSIZE;
	harm.sources = false;
	watch(judge_harm);
	add_from_bad_source(0, 20, 1300);
	add_run(1, 1, 10);
	add_from_bad_source(0, 20, 900); /* gathered with the source, sent without */
	CHECK_LEFT(-20, 1, 20);
	check_source_gone(0);
}

/* ---- Losses ---- */

static void expect_lost(int error, unsigned times, uint32_t lost, enum wgf_drop reason, unsigned most_calls)
{
	begin();
	add_run(0, 20, 100);
	add_run(1, 30, 200);
	add(1, 10);
	watch(NULL);
	refuse(error, times);
	CHECK(settle() == lost && drops(reason) == lost && all_drops() == 0);
	refuse_errno = 0;
	CHECK(calls <= most_calls && is_active() && until(0) == 0 && until(1) == 0);
	for (uint32_t i = 0; i < out->count; i++)
		CHECK(out->packets[i].drop == (i < lost ? reason : WGF_DROP_NOT));
}

static void test_losses(void)
{
	const enum wgf_drop full = WGF_DROP_SEND_SOCKET_FULL, refused = WGF_DROP_SEND_REFUSED;
	const int storms[] = {EAGAIN, ENOBUFS, ENOMEM};
	for (int i = 0; i < 3; i++) {
		expect_lost(storms[i], WGF_SEND_RETRIES, 0, full, WGF_SEND_RETRIES + 1);
		expect_lost(storms[i], WGF_SEND_RETRIES + 1, 20, full, WGF_SEND_RETRIES + 2);
		expect_lost(storms[i], 100000, 51, full, WGF_SEND_RETRIES + 2);
	}
	expect_lost(EINTR, 9, 0, refused, 10);
	expect_lost(ECONNREFUSED, 1, 0, refused, 2);
	expect_lost(ECONNREFUSED, 2, 20, refused, 3);
	expect_lost(EPERM, 1, 20, refused, 2); /* a firewall's word is not about segmentation */
	expect_lost(EPERM, 2, 51, refused, 2);
	expect_lost(ENETUNREACH, 1, 20, WGF_DROP_SEND_UNREACHABLE, 2);
}

/* Sent one by one, each is judged for itself, within the same bounds. */
static void test_losses_apart(void)
{
	begin();
	harm = (__typeof__(harm)){.error = EIO, .to_singles = EPERM, .single_bytes = 77};
	watch(judge_harm);
	add_run(0, 20, 1400);
	add(0, 77);
	add_run(1, 20, 1400);
	CHECK(settle() == 1 && out->packets[20].drop == WGF_DROP_SEND_REFUSED && drops(WGF_DROP_SEND_REFUSED) == 1);
	CHECK(all_drops() == 0);

	begin();
	harm = (__typeof__(harm)){.error = EMSGSIZE, .to_singles = ENOBUFS};
	watch(judge_harm);
	add_run(0, 40, 1400);
	add_run(1, 40, 1400);
	CHECK(settle() == 80 && drops(WGF_DROP_SEND_SOCKET_FULL) == 80 && all_drops() == 0);
	CHECK(calls <= 2 + 80 + WGF_SEND_RETRIES && is_active());
}

/* ---- Anything at any time ---- */

static struct check_random dice;

static int judge_at_random(const struct seen *message)
{
	const int errors[] = {EAGAIN, ENOBUFS, EINTR, EINVAL, EIO, EMSGSIZE, EPERM, ECONNREFUSED, ENETUNREACH, ENODEV,
			      EADDRNOTAVAIL, EOPNOTSUPP, E2BIG};
	(void)message;
	return check_random_below(&dice, 4) ? 0 : errors[check_random_below(&dice, sizeof(errors) / sizeof(errors[0]))];
}

static void test_at_random(void)
{
	for (int round = 0; round < 300; round++) {
		begin();
		while (out->count < 200) {
			uint32_t whom = (uint32_t)check_random_below(&dice, PEERS), n = 1 + (uint32_t)check_random_below(&dice, 50);
			uint32_t len = 1 + (uint32_t)check_random_below(&dice, 1400);
			if (check_random_below(&dice, 3) == 0)
				add_from_bad_source(whom, n, len);
			else
				add_run(whom, n, len);
		}
		watch(judge_at_random);
		uint32_t lost = settle();
		CHECK(all_drops() == lost);
	}
}

/* ---- From two threads ---- */

#define THREAD_BATCHES 150

static _Atomic uint32_t judged, on_the_way, lost_by_threads;

static int judge_by_number(const struct seen *message)
{
	uint32_t number = atomic_fetch_add(&judged, 1);
	if (message->segment)
		return number > 400 ? EIO : number % 5 == 0 ? EMSGSIZE : 0;
	return number % 7 == 0 ? ECONNREFUSED : number % 50 == 0 ? EPERM : 0;
}

static void *send_batches(void *argument)
{
	struct wgf_batch *own = make_batch(100);
	for (uint64_t round = 0; round < THREAD_BATCHES; round++) {
		while (atomic_load(&on_the_way) > 300)
			sched_yield();
		atomic_fetch_add(&on_the_way, 40);
		own->now = round * WGF_SEGMENT_AGAIN / 2;
		for (uint32_t i = 0; i < 40; i++)
			put(own, loopback(4, to->port), 80, i)->peer = &peers[i / 20];
		wgf_udp_send(device, from, own);
		for (uint32_t i = 0; i < 40; i++)
			if (own->packets[i].drop != WGF_DROP_NOT) {
				atomic_fetch_sub(&on_the_way, 1);
				atomic_fetch_add(&lost_by_threads, 1);
			}
		clear(own);
	}
	free_batch(own);
	return argument;
}

static void test_threads(void)
{
	pthread_t threads[2];
	uint32_t received = 0;
	begin();
	watch(judge_by_number);
	recording = false;
	for (size_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, send_batches, NULL) == 0);
	while (received + atomic_load(&lost_by_threads) < 2 * THREAD_BATCHES * 40) {
		uint32_t n = receive(to, in);
		received += n;
		atomic_fetch_sub(&on_the_way, n);
		if (n == 0)
			sched_yield();
	}
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(receive(to, in) == 0 && is_state(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, EIO));
	CHECK(drops(WGF_DROP_SEND_REFUSED) == lost_by_threads && all_drops() == 0);
}

static void test_heal(void)
{
	test_given_up(EIO);
	test_given_up(EOPNOTSUPP);
	test_sure();
	test_narrow_path(EINVAL);
	test_narrow_path(EMSGSIZE);
	test_short_tails();
	test_no_peer();
	for (int injected = 0; injected < 2; injected++) {
		test_stale_source(0, injected);
		test_stale_source(2, injected);
	}
	test_stale_source_on_narrow_path();
	test_losses();
	test_losses_apart();
	test_at_random();
	test_threads();
}

int main(void)
{
	dice = check_random_begin("udp_heal");
	make_device();
	CHECK(wgf_udp_open(&from, 0, 0, NULL) == 0 && wgf_udp_open(&to, 0, 0, NULL) == 0 && wgf_udp_open(&elsewhere, 0, 0, NULL) == 0);
	wgf_udp_try_offloads(from, &device->offloads);
	peers = make_peers(PEERS);
	out = make_pool_batch((size_t)WGF_BATCH_PACKETS * 2048);
	in = make_batch(2048);
	if (from->fd6 >= 0 && is_active())
		test_heal();
	else
		printf("test_udp_heal: left out: this system has no UDP_SEGMENT or no IPv6\n");
	wgf_udp_close(from);
	wgf_udp_close(to);
	wgf_udp_close(elsewhere);
	free_pool_batch(out);
	free_batch(in);
	free(peers);
	free_device(device);
	return 0;
}
