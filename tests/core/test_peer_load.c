/* Peers under several threads at once: handshakes of one peer begun, ended and finished with no order between
 * them, and peers, routes and sessions that come and go while others send. */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "pair.h"

static uint64_t now = 1000 * WGF_SECOND;

static struct party shared;
static _Atomic bool stop;
static _Atomic uint64_t carried;

static void *sender(void *argument)
{
	(void)argument;
	static _Thread_local uint8_t in[16 * 64], out[16 * 128];
	uint8_t status[16], tos[16];
	uint32_t lengths[16], got[16];
	uint64_t peer[16];
	struct wgf_endpoint to[16];
	struct wgf_rows rows = {in, 64, lengths}, sealed = {out, 128, got};
	for (size_t i = 0; i < 16; i++)
		lengths[i] = (uint32_t)make_ipv4(in + 64 * i, 64, 1, (uint8_t)(2 + i % 4));
	while (!atomic_load(&stop)) {
		CHECK(!wgf_engine_send(shared.device, &rows, &sealed, 16, to, tos, peer, status, now));
		for (size_t i = 0; i < 16; i++) {
			CHECK(status[i] == WGF_DROP_NOT || status[i] == WGF_DROP_STAGED || status[i] == WGF_DROP_SEND_NO_PEER ||
			      status[i] == WGF_DROP_SEND_NO_ENDPOINT);
			atomic_fetch_add(&carried, status[i] == WGF_DROP_NOT);
		}
		drain_all(shared.device, now);
	}
	return NULL;
}

/* Peers 2 to 5 come and go with their routes, sessions and handshakes. */
static void *changer(void *argument)
{
	struct check_random random = {(uint64_t)(uintptr_t)argument};
	uint8_t first = (uint8_t)(2 + 2 * ((uintptr_t)argument & 1)); /* two each, so that add_peer never meets its like */
	uint64_t peers[2] = {0, 0};
	while (!atomic_load(&stop)) {
		size_t which = check_random_below(&random, 2);
		uint8_t number = (uint8_t)(first + which), address[4] = {10, 0, 0, number}, psk[WGF_KEY_SIZE] = {0};
		struct wgf_handshake *hs = chain_of(number);
		uint32_t index;
		if (!peers[which])
			peers[which] = meet(&shared, number);
		switch (check_random_below(&random, 7)) {
		case 0:
			CHECK(!wgf_device_remove_peer(shared.device, peers[which]));
			peers[which] = 0;
			break;
		case 1:
			CHECK(!wgf_peer_disallow_all(shared.device, peers[which]));
			CHECK(!wgf_peer_allow(shared.device, peers[which], WGF_IPV4, address, 32));
			break;
		case 2:
			psk[0] = (uint8_t)check_random_next(&random);
			CHECK(!wgf_peer_set_psk(shared.device, peers[which], psk));
			break;
		case 3:
			CHECK(!wgf_peer_zero_keys(shared.device, peers[which]));
			break;
		case 4:
			CHECK(!wgf_peer_begin_answer(shared.device, peers[which], &index));
			CHECK(!wgf_peer_begin_session_responder(shared.device, peers[which], hs, index, number, now));
			break;
		default:
			CHECK(!wgf_peer_begin_handshake(shared.device, peers[which], &index));
			CHECK(!wgf_peer_begin_session_initiator(shared.device, peers[which], hs, index, number, now));
		}
		wgf_handshake_give(hs);
	}
	for (size_t i = 0; i < 2; i++)
		if (peers[i])
			CHECK(!wgf_device_remove_peer(shared.device, peers[i]));
	return NULL;
}

static void *watcher(void *argument)
{
	(void)argument;
	static _Thread_local struct wgf_event events[64];
	while (!atomic_load(&stop)) {
		struct wgf_owed owed[8];
		struct wgf_device_info info;
		uint64_t next, handles[8];
		wgf_device_quiet(shared.device);
		take_events(shared.device, events, 64);
		CHECK(wgf_device_scan(shared.device, now, owed, 8, &next) >= 0);
		CHECK(!wgf_device_info(shared.device, &info) && info.peers <= 4 && info.events_waiting <= WGF_EVENTS);
		CHECK(wgf_device_peers(shared.device, handles, 8) <= 4);
	}
	return NULL;
}

static void test_changes_while_sending(void)
{
	pthread_t threads[5];
	make_party(&shared, 1);
	atomic_store(&stop, false);
	for (size_t i = 0; i < 2; i++) {
		CHECK(!pthread_create(&threads[i], NULL, sender, NULL));
		CHECK(!pthread_create(&threads[2 + i], NULL, changer, (void *)(uintptr_t)(1000 + i)));
	}
	CHECK(!pthread_create(&threads[4], NULL, watcher, NULL));
	for (int i = 0; i < 200 && atomic_load(&carried) < 20000; i++)
		usleep(10000);
	usleep(500000);
	atomic_store(&stop, true);
	for (size_t i = 0; i < 5; i++)
		pthread_join(threads[i], NULL);
	CHECK(atomic_load(&carried) > 0);
	drain_all(shared.device, now);
	CHECK(nothing_left(shared.device, 0, 0, now));
	wgf_device_destroy(shared.device);
}

/* One peer, four threads that begin, end and finish its handshakes with no order between them. */
static void *shaker(void *argument)
{
	struct check_random random = {(uint64_t)(uintptr_t)argument};
	for (int i = 0; i < 3000; i++) {
		struct wgf_handshake *hs = chain_of((uint8_t)i);
		uint8_t psk[WGF_KEY_SIZE] = {(uint8_t)check_random_next(&random)};
		uint32_t index = 0;
		int error = 0;
		switch (check_random_below(&random, 5)) {
		case 0:
			CHECK(!wgf_peer_begin_handshake(shared.device, shared.peer, &index));
			error = wgf_peer_begin_session_initiator(shared.device, shared.peer, hs, index, 7, now);
			break;
		case 1:
			CHECK(!wgf_peer_begin_answer(shared.device, shared.peer, &index));
			error = wgf_peer_begin_session_responder(shared.device, shared.peer, hs, index, 7, now);
			break;
		case 2:
			CHECK(!wgf_peer_set_psk(shared.device, shared.peer, psk));
			break;
		case 3:
			CHECK(!wgf_peer_end_handshake(shared.device, shared.peer));
			break;
		default:
			CHECK(!wgf_peer_begin_answer(shared.device, shared.peer, &index));
			error = wgf_peer_end_answer(shared.device, shared.peer, index);
		}
		CHECK(!error || error == -ESTALE);
		wgf_handshake_give(hs);
	}
	return NULL;
}

static void test_handshakes_of_many_threads(void)
{
	pthread_t threads[4];
	make_party(&shared, 1);
	shared.peer = meet(&shared, 2);
	for (size_t i = 0; i < 4; i++)
		CHECK(!pthread_create(&threads[i], NULL, shaker, (void *)(uintptr_t)(77 + i)));
	for (size_t i = 0; i < 4; i++)
		pthread_join(threads[i], NULL);
	drain_all(shared.device, now);
	CHECK(info_of(shared.device, now).keypairs <= 3);
	CHECK(!wgf_device_remove_peer(shared.device, shared.peer));
	CHECK(nothing_left(shared.device, 0, 0, now));
	wgf_device_destroy(shared.device);
}

int main(void)
{
	test_handshakes_of_many_threads();
	test_changes_while_sending();
	return 0;
}
