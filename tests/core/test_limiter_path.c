/* Limits at both ends of the path: what waits, what is charged and what is not, what a limited packet still
 * counts for, and changes while packets pass. */
#include <pthread.h>

#include "limited.h"

enum { THREADS = 4, PACKETS = 4000, STEP = 100000 };

static struct party alice, bob;
static _Atomic uint64_t clock_now;


static void *speaker(void *argument)
{
	uint8_t inner[100], out[ROW];
	size_t *sent = argument, len = make_ipv4(inner, sizeof inner, 1, 2);
	for (size_t i = 0; i < PACKETS; i++) {
		uint64_t now = atomic_fetch_add(&clock_now, STEP);
		*sent += send_one(alice.device, inner, len, out, ROW, now).status == WGF_DROP_NOT;
	}
	return NULL;
}

/* Packets pass while limits come and go, and the peer with them. */
static void test_changes_under_traffic(struct check_random *random)
{
	pthread_t threads[THREADS];
	size_t sent[THREADS] = {0}, sum = 0;
	make_pair(&alice, &bob);
	begin_session(&alice, &bob, 1, START);
	atomic_store(&clock_now, START);
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, speaker, &sent[i]));
	/* As long as about half of them come. */
	for (size_t i = 0; atomic_load(&clock_now) < START + (uint64_t)STEP * PACKETS * THREADS / 2; i++) {
		struct wgf_limits limits = nothing();
		some_limits(random, &limits);
		limits.said &= ~(UINT32_C(1) << WGF_LIMIT_SEND_QUOTA);
		if (i % 3 == 0)
			limits = (struct wgf_limits){.said = WGF_LIMITS_ALL};
		CHECK(!wgf_peer_set_limits(alice.device, alice.peer, &limits, atomic_load(&clock_now)));
	}
	set_one(&alice, WGF_LIMIT_SEND_RATE, 8, START);
	CHECK(!wgf_device_remove_peer(alice.device, alice.peer)); /* its limits go with it: the sanitizer looks */
	for (size_t i = 0; i < THREADS; i++) {
		pthread_join(threads[i], NULL);
		sum += sent[i];
	}
	printf("limiter: %zu packets of %d left under changing limits\n", sum, THREADS * PACKETS);
	wgf_device_destroy(alice.device);
	wgf_device_destroy(bob.device);
}

/* Alice to Bob; the status at her side or, if it left, at his. */
static unsigned tell(size_t len, uint64_t now)
{
	uint8_t inner[ROW], data[ROW], out[ROW];
	struct wgf_endpoint from = endpoint_of(1);
	struct outcome sent = send_one(alice.device, inner, make_ipv4(inner, len, 1, 2), data, ROW, now);
	return sent.status != WGF_DROP_NOT ? sent.status
					   : receive_from(bob.device, data, sent.length, out, ROW, &from, 0, now).status;
}

static void test_sending(void)
{
	make_pair(&alice, &bob);
	set_one(&alice, WGF_LIMIT_SEND_QUOTA, 250, START);
	for (size_t i = 0; i < 4; i++)
		CHECK(tell(100, START) == WGF_DROP_STAGED);
	CHECK(get_one(&alice, WGF_LIMIT_SEND_USED) == 0); /* they wait */
	struct tally before = tally_of(alice.device);
	begin_session(&alice, &bob, 1, START);
	CHECK(drain_all(alice.device, START) == 2);
	CHECK(counted(alice.device, &before, WGF_DROP_SEND_QUOTA, 2) && get_one(&alice, WGF_LIMIT_SEND_USED) == 200);
	uint64_t counter = atomic_load(&current_of(&alice)->next_counter);
	struct wgf_peer_info info;
	CHECK(!wgf_peer_info(alice.device, alice.peer, &info) && info.sent_packets == 2);
	CHECK(tell(100, START) == WGF_DROP_SEND_QUOTA);
	CHECK(atomic_load(&current_of(&alice)->next_counter) == counter); /* it took no counter */
	CHECK(!wgf_peer_send_keepalive(alice.device, alice.peer, START) && drain_all(alice.device, START) == 1);
	CHECK(!wgf_peer_info(alice.device, alice.peer, &info) && info.sent_packets == 2);
	set_one(&alice, WGF_LIMIT_SEND_QUOTA, 350, START);
	CHECK(tell(100, START) == WGF_DROP_NOT && tell(100, START) == WGF_DROP_SEND_QUOTA);
	wgf_device_destroy(alice.device);
	wgf_device_destroy(bob.device);
}

/* One batch of many packets: those in the middle that do not fit are missing, the others are in order. */
static void test_batch(void)
{
	static uint8_t inner[64 * ROW], data[64 * ROW];
	uint32_t in_length[64], out_length[64];
	struct wgf_endpoint to[64];
	uint8_t tos[64], status[64];
	uint64_t peer[64], used = 0;
	struct wgf_rows in = {inner, ROW, in_length}, out = {data, ROW, out_length};
	make_pair(&alice, &bob);
	begin_session(&alice, &bob, 1, START);
	drain_all(alice.device, START);
	set_one(&alice, WGF_LIMIT_SEND_QUOTA, 10000, START);
	for (size_t i = 0; i < 64; i++)
		in_length[i] = (uint32_t)make_ipv4(inner + i * ROW, i % 2 ? 100 : 1400, 1, 2);
	CHECK(!wgf_engine_send(alice.device, &in, &out, 64, to, tos, peer, status, START));
	uint64_t counter = wgf_load_le64(data + 8);
	for (size_t i = 0; i < 64; i++) {
		bool fits = used + in_length[i] <= 10000;
		CHECK(status[i] == (fits ? WGF_DROP_NOT : WGF_DROP_SEND_QUOTA) && !out_length[i] == !fits);
		CHECK(!fits || wgf_load_le64(data + i * ROW + 8) == counter++);
		used += fits ? in_length[i] : 0;
	}
	CHECK(used > 9900 && get_one(&alice, WGF_LIMIT_SEND_USED) == used);
	wgf_device_destroy(alice.device);
	wgf_device_destroy(bob.device);
}

static void test_receiving(void)
{
	uint8_t inner[ROW], data[ROW], out[ROW];
	struct wgf_endpoint from = endpoint_of(1), elsewhere = endpoint_of(9);
	struct wgf_peer_info info, later;
	make_pair(&alice, &bob);
	begin_session(&alice, &bob, 1, START);
	confirm_session(&alice, &bob, START);
	set_one(&bob, WGF_LIMIT_RECEIVE_QUOTA, 150, START);
	CHECK(tell(101, START) == WGF_DROP_NOT && get_one(&bob, WGF_LIMIT_RECEIVE_USED) == 101); /* not the padding */
	struct outcome sent = send_one(alice.device, inner, make_ipv4(inner, 20, 1, 2), data, ROW, START);
	data[20] ^= 1; /* forged: charged to nobody */
	CHECK(receive_from(bob.device, data, sent.length, out, ROW, &from, 0, START).status == WGF_DROP_RECEIVE_FORGED);
	data[20] ^= 1;
	CHECK(receive_from(bob.device, data, sent.length, out, ROW, &from, 0, START).status == WGF_DROP_NOT);
	CHECK(receive_from(bob.device, data, sent.length, out, ROW, &from, 0, START).status == WGF_DROP_RECEIVE_REPLAYED);
	sent = send_one(alice.device, inner, make_ipv4(inner, 20, 7, 2), data, ROW, START); /* not an address of hers */
	CHECK(receive_from(bob.device, data, sent.length, out, ROW, &from, 0, START).status == WGF_DROP_RECEIVE_SOURCE);
	CHECK(get_one(&bob, WGF_LIMIT_RECEIVE_USED) == 121);

	/* Over the quota, and yet she is heard: from where she is now. */
	CHECK(!wgf_peer_info(bob.device, bob.peer, &info));
	struct tally before = tally_of(bob.device);
	sent = send_one(alice.device, inner, make_ipv4(inner, 100, 1, 2), data, ROW, START);
	CHECK(receive_from(bob.device, data, sent.length, out, ROW, &elsewhere, 0, START).status == WGF_DROP_RECEIVE_QUOTA);
	CHECK(counted(bob.device, &before, WGF_DROP_RECEIVE_QUOTA, 1));
	CHECK(!wgf_peer_info(bob.device, bob.peer, &later));
	CHECK(later.received_bytes == info.received_bytes + sent.length && later.received_packets == info.received_packets);
	CHECK(wgf_endpoint_same_address(&later.endpoint, &elsewhere));
	CHECK(debts_of(&bob, START + WGF_KEEPALIVE_TIMEOUT) & WGF_DEBT_KEEPALIVE); /* which answers data */

	CHECK(!wgf_peer_send_keepalive(alice.device, alice.peer, START));
	before = tally_of(bob.device);
	confirm_session(&alice, &bob, START); /* a keepalive, taken */
	CHECK(counted(bob.device, &before, WGF_DROP_NOT, 0));
	set_one(&bob, WGF_LIMIT_RECEIVE_USED, 0, START);
	CHECK(tell(100, START) == WGF_DROP_NOT);
	/* A packet a second. */
	set_one(&bob, WGF_LIMIT_RECEIVE_QUOTA, 0, START);
	set_one(&bob, WGF_LIMIT_RECEIVE_PACKET_RATE, 1, START);
	set_one(&bob, WGF_LIMIT_RECEIVE_PACKET_BURST, 1, START);
	CHECK(tell(100, START) == WGF_DROP_NOT && tell(100, START) == WGF_DROP_RECEIVE_LIMITED);
	CHECK(tell(1400, START + WGF_SECOND) == WGF_DROP_NOT && tell(20, START + WGF_SECOND) == WGF_DROP_RECEIVE_LIMITED);
	wgf_device_destroy(alice.device);
	wgf_device_destroy(bob.device);
}

int main(void)
{
	struct check_random random = check_random_begin("limiter_path");
	test_changes_under_traffic(&random);
	test_sending();
	test_batch();
	test_receiving();
	return 0;
}
