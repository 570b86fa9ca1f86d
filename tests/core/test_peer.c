/* Peers, sessions and what they leave behind: identifiers and handles through a long churn, the three slots
 * of a peer in every order against a model of Linux's add_new_keypair, indices and keypairs that all come back.
 * Several threads at once: test_peer_load.c. */
#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include "pair.h"

static uint64_t now = 1000 * WGF_SECOND;

/* ---- Many peers ---- */

enum { PEERS = 10000, ROUNDS = 5 };

struct known {
	uint64_t handle; /* 0: not there */
	uint32_t life;   /* makes the key another one each time */
};

static void key_of(uint8_t key[WGF_KEY_SIZE], uint32_t number)
{
	memset(key, 0, WGF_KEY_SIZE);
	wgf_store_le32(key, number);
	wgf_store_le32(key + 28, number * 2654435761u);
}

static void address_of(uint8_t address[4], uint32_t number)
{
	wgf_store_be32(address, 0x0a000000 + number);
}

static void check_known(struct wgf_device *device, const struct known *known, uint32_t number)
{
	uint8_t key[WGF_KEY_SIZE], address[4];
	uint64_t found, routed;
	struct wgf_peer_info info;
	struct wgf_prefix prefix;
	key_of(key, number);
	address_of(address, number);
	CHECK(wgf_device_find_peer(device, key, &found) == (known->handle ? 0 : -ENOENT));
	CHECK(found == known->handle);
	CHECK(!wgf_device_route(device, WGF_IPV4, address, &routed) && routed == known->handle);
	if (!known->handle)
		return;
	CHECK(!wgf_peer_info(device, known->handle, &info));
	CHECK(!memcmp(info.public_key, key, sizeof key) && info.persistent_keepalive == number % 1000);
	CHECK(wgf_peer_allowed(device, known->handle, &prefix, 1) == 1 && !memcmp(prefix.address, address, 4));
}

static void add_known(struct wgf_device *device, struct known *known, uint32_t number)
{
	uint8_t key[WGF_KEY_SIZE], address[4];
	uint64_t again;
	key_of(key, number);
	address_of(address, number);
	CHECK(!wgf_device_add_peer(device, key, &known->handle) && known->handle);
	CHECK(wgf_device_add_peer(device, key, &again) == -EEXIST);
	CHECK(!wgf_peer_set_persistent_keepalive(device, known->handle, (uint16_t)(number % 1000), now));
	CHECK(!wgf_peer_allow(device, known->handle, WGF_IPV4, address, 32));
}

static void remove_known(struct wgf_device *device, struct known *known)
{
	struct wgf_peer_info info;
	uint64_t gone = known->handle;
	CHECK(!wgf_device_remove_peer(device, gone));
	CHECK(wgf_device_remove_peer(device, gone) == -ESTALE);
	CHECK(wgf_peer_info(device, gone, &info) == -ESTALE);
	known->handle = 0;
}

static void test_churn(struct check_random *random)
{
	static struct known known[PEERS];
	static uint64_t handles[PEERS], gone[PEERS];
	struct wgf_device_options options = {.threads = 0};
	struct wgf_device *device = wgf_device_create(&options);
	struct wgf_peer_info info;
	CHECK(device);
	uint32_t there = 0;
	for (int round = 0; round < ROUNDS; round++) {
		for (uint32_t i = 0; i < PEERS; i++) {
			if (check_random_below(random, 3) == 0)
				continue;
			if (known[i].handle) {
				gone[i] = known[i].handle;
				remove_known(device, &known[i]);
				there--;
			} else {
				add_known(device, &known[i], i);
				CHECK(known[i].handle != gone[i]);
				there++;
			}
		}
		for (uint32_t i = 0; i < PEERS; i++)
			check_known(device, &known[i], i);
		for (uint32_t i = 0; i < PEERS; i++) /* an old handle names nobody, whoever has its identifier now */
			CHECK(!gone[i] || wgf_peer_info(device, gone[i], &info) == -ESTALE);
		CHECK(wgf_device_peers(device, handles, PEERS) == there && nothing_left(device, there, 0, now));
		CHECK(wgf_device_peers(device, handles, 1) == there);
	}
	for (uint32_t i = 0; i < PEERS; i++)
		if (known[i].handle)
			remove_known(device, &known[i]);
	CHECK(nothing_left(device, 0, 0, now));
	CHECK(atomic_load(&device->peers.high) <= PEERS); /* identifiers were used again */
	CHECK(wgf_peer_info(device, 0, &info) == -ESTALE);
	CHECK(wgf_peer_info(device, UINT64_MAX, &info) == -ESTALE);
	CHECK(wgf_peer_info(device, (uint64_t)1 << 32 | WGF_PEERS_MAX, &info) == -ESTALE);
	wgf_device_destroy(device);
}

/* ---- The three slots ---- */

/* Numbers of sessions, 0 for none, moved as Linux's noise.c moves them. */
struct model {
	uint32_t current, previous, next, serial;
};

static void model_initiated(struct model *model)
{
	if (model->next) {
		model->previous = model->next;
		model->next = 0;
	} else {
		model->previous = model->current;
	}
	model->current = ++model->serial;
}

static void model_answered(struct model *model)
{
	model->next = ++model->serial;
	model->previous = 0;
}

static void model_confirmed(struct model *model)
{
	model->previous = model->current;
	model->current = model->next;
	model->next = 0;
}

/* The remote index says which session it is. */
static uint32_t number_in(_Atomic(struct wgf_keypair *) *slot)
{
	struct wgf_keypair *keypair = atomic_load(slot);
	return keypair ? keypair->remote_index : 0;
}

static void compare(const struct party *party, const struct model *model)
{
	struct wgf_peer *peer = row_of(party);
	CHECK(number_in(&peer->current) == model->current);
	CHECK(number_in(&peer->previous) == model->previous);
	CHECK(number_in(&peer->next) == model->next);
	CHECK(nothing_left(party->device, 1, (uint32_t)(!!model->current + !!model->previous + !!model->next), now));
}

static void initiated(struct party *party, uint32_t number)
{
	struct wgf_handshake *hs = chain_of((uint8_t)number);
	uint32_t index;
	CHECK(!wgf_peer_begin_handshake(party->device, party->peer, &index));
	CHECK(!wgf_peer_begin_session_initiator(party->device, party->peer, hs, index, number, now));
	wgf_handshake_give(hs);
	drain_all(party->device, now); /* the keepalive that confirms */
}

static void answered(struct party *party, uint32_t number)
{
	struct wgf_handshake *hs = chain_of((uint8_t)number);
	uint32_t index;
	CHECK(!wgf_peer_begin_answer(party->device, party->peer, &index));
	CHECK(!wgf_peer_begin_session_responder(party->device, party->peer, hs, index, number, now));
	wgf_handshake_give(hs);
}

/* A packet of the session arrives: a keepalive, sealed here as the other side would. */
static void packet_arrives(struct party *party, const struct wgf_keypair *keypair, uint64_t counter)
{
	uint8_t message[OVERHEAD], out[ROW];
	struct wgf_endpoint from = endpoint_of(9);
	wgf_store_le32(message, WGF_MESSAGE_DATA);
	wgf_store_le32(message + 4, keypair->entry->index);
	wgf_store_le64(message + 8, counter);
	struct wgf_aead_job job = {.key = keypair->receive_key, .counter = counter, .src = message + 16, .dst = message + 16};
	wgf_aead_seal(&job, 1);
	CHECK(receive_from(party->device, message, sizeof message, out, ROW, &from, 0, now).status == WGF_DROP_CONSUMED);
}

/* Every sequence of six events out of four: we begin, they begin, `next` or `previous` is heard of. */
static void test_slots(void)
{
	struct party party;
	make_party(&party, 1);
	party.peer = meet(&party, 2);
	uint64_t counter = 0;
	for (unsigned sequence = 0; sequence < 1u << 12; sequence++) {
		struct model model = {0, 0, 0, 0};
		for (unsigned step = 0; step < 6; step++) {
			unsigned event = sequence >> 2 * step & 3;
			struct wgf_peer *peer = row_of(&party);
			if (event == 0) {
				model_initiated(&model);
				initiated(&party, model.serial);
			} else if (event == 1) {
				model_answered(&model);
				answered(&party, model.serial);
			} else if (event == 2 && model.next) {
				model_confirmed(&model);
				packet_arrives(&party, atomic_load(&peer->next), counter++);
			} else if (event == 3 && model.previous) {
				packet_arrives(&party, atomic_load(&peer->previous), counter++);
			}
			compare(&party, &model);
		}
		CHECK(!wgf_peer_zero_keys(party.device, party.peer));
		compare(&party, &(struct model){0, 0, 0, 0});
	}
	struct wgf_event events[64];
	while (take_events(party.device, events, 64))
		;
	wgf_device_destroy(party.device);
}

/* ---- Handshakes that end some other way ---- */

static void test_indices(void)
{
	struct party a;
	make_party(&a, 1);
	a.peer = meet(&a, 2);
	struct wgf_handshake *hs = chain_of(1);
	uint32_t first, second, answer;
	uint8_t psk[WGF_KEY_SIZE] = {1}, key[WGF_KEY_SIZE] = {1};
	CHECK(!wgf_peer_begin_handshake(a.device, a.peer, &first));
	CHECK(!wgf_peer_begin_handshake(a.device, a.peer, &second));
	CHECK(info_of(a.device, now).indices == 1);
	CHECK(wgf_peer_begin_session_initiator(a.device, a.peer, hs, first, 5, now) == -ESTALE);
	CHECK(wgf_peer_begin_session_responder(a.device, a.peer, hs, second, 5, now) == -ESTALE);
	CHECK(wgf_peer_end_answer(a.device, a.peer, second) == -ESTALE);
	CHECK(!wgf_peer_set_psk(a.device, a.peer, psk)); /* ends it */
	CHECK(wgf_peer_begin_session_initiator(a.device, a.peer, hs, second, 5, now) == -ESTALE);
	CHECK(nothing_left(a.device, 1, 0, now));
	CHECK(!wgf_peer_begin_handshake(a.device, a.peer, &first));
	CHECK(!wgf_peer_set_psk(a.device, a.peer, psk)); /* the same: ends nothing */
	CHECK(info_of(a.device, now).indices == 1);
	CHECK(!wgf_peer_end_handshake(a.device, a.peer) && !wgf_peer_end_handshake(a.device, a.peer));
	CHECK(nothing_left(a.device, 1, 0, now));

	/* An answer that nobody finishes. */
	CHECK(!wgf_peer_begin_answer(a.device, a.peer, &answer));
	CHECK(wgf_peer_begin_session_initiator(a.device, a.peer, hs, answer, 5, now) == -ESTALE);
	CHECK(!wgf_peer_end_answer(a.device, a.peer, answer) && wgf_peer_end_answer(a.device, a.peer, answer) == -ESTALE);
	CHECK(!wgf_peer_begin_answer(a.device, a.peer, &first) && !wgf_peer_begin_answer(a.device, a.peer, &answer));
	CHECK(info_of(a.device, now).indices == 1);
	CHECK(wgf_peer_begin_session_responder(a.device, a.peer, hs, first, 5, now) == -ESTALE);
	CHECK(!wgf_device_set_identity(a.device, key, key));
	CHECK(wgf_peer_begin_session_responder(a.device, a.peer, hs, answer, 5, now) == -ESTALE);
	CHECK(nothing_left(a.device, 1, 0, now));
	CHECK(!wgf_peer_begin_answer(a.device, a.peer, &answer) && !wgf_peer_begin_handshake(a.device, a.peer, &first));
	CHECK(!wgf_device_remove_peer(a.device, a.peer));
	CHECK(wgf_peer_begin_session_responder(a.device, a.peer, hs, answer, 5, now) == -ESTALE);
	CHECK(nothing_left(a.device, 0, 0, now));
	wgf_handshake_give(hs);
	wgf_device_destroy(a.device);
}

/* An initiation is taken once, whatever becomes of our key meanwhile. */
static void test_timestamps(void)
{
	struct party a;
	uint8_t stamp[WGF_TIMESTAMP_SIZE] = {0x40, [11] = 5}, key[WGF_KEY_SIZE] = {3};
	uint64_t at;
	make_party(&a, 1);
	a.peer = meet(&a, 2);
	CHECK(!wgf_peer_accept_timestamp(a.device, a.peer, stamp, now));
	CHECK(wgf_peer_accept_timestamp(a.device, a.peer, stamp, now + WGF_SECOND) == -EALREADY);
	stamp[11]++;
	CHECK(wgf_peer_accept_timestamp(a.device, a.peer, stamp, now + WGF_INITIATION_INTERVAL - 1) == -EBUSY);
	CHECK(!wgf_peer_accept_timestamp(a.device, a.peer, stamp, now + WGF_INITIATION_INTERVAL));
	uint8_t message[148] = {WGF_MESSAGE_INITIATION};
	CHECK(!wgf_peer_send_handshake(a.device, a.peer, message, sizeof message, now));
	CHECK(!wgf_peer_handshake_sent(a.device, a.peer, &at) && at == now);
	CHECK(!wgf_device_set_identity(a.device, key, key));
	CHECK(wgf_peer_accept_timestamp(a.device, a.peer, stamp, now + WGF_SECOND) == -EALREADY);
	CHECK(!wgf_peer_handshake_sent(a.device, a.peer, &at) && at == 0); /* the new key need not wait */
	wgf_device_destroy(a.device);
}

/* Whoever asks before sleeping hears of a deadline that was armed after the last scan. */
static void test_quiet(void)
{
	struct party a;
	make_party(&a, 1);
	a.peer = meet(&a, 2);
	CHECK(debts_of(&a, now) == 0);
	while (wgf_device_quiet(a.device))
		CHECK(debts_of(&a, now) == 0);
	CHECK(!wgf_peer_arm_retransmit(a.device, a.peer, now + 1));
	CHECK(wgf_device_quiet(a.device));
	CHECK(debts_of(&a, now + 1) == WGF_DEBT_RETRANSMIT);
	CHECK(!wgf_device_quiet(a.device));
	wgf_device_destroy(a.device);
}

/* ---- Out of memory ---- */

/* Wherever the making of a device fails, it says so and leaves everything else alone. */
static void test_no_memory(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* they map terabytes */
	struct wgf_device_options options = {.threads = 2};
	struct rlimit before, limit;
	struct wgf_device *device = NULL;
	size_t pages = 0;
	FILE *statm = fopen("/proc/self/statm", "r");
	CHECK(statm && fscanf(statm, "%zu", &pages) == 1);
	fclose(statm);
	CHECK(!getrlimit(RLIMIT_AS, &before));
	limit = before;
	limit.rlim_cur = pages * (size_t)sysconf(_SC_PAGESIZE);
	unsigned failures = 0;
	CHECK(fcntl(0, F_GETFD) >= 0);
	for (; !device; limit.rlim_cur += 64 * 1024) {
		CHECK(!setrlimit(RLIMIT_AS, &limit));
		device = wgf_device_create(&options);
		int error = errno;
		CHECK(!setrlimit(RLIMIT_AS, &before));
		CHECK(device || error == ENOMEM);
		CHECK(fcntl(0, F_GETFD) >= 0);
		failures += !device;
	}
	CHECK(failures > 10);
	wgf_device_destroy(device);
#endif
}

int main(void)
{
	struct check_random random = check_random_begin("test_peer");
	if (fcntl(0, F_GETFD) < 0)
		CHECK(open("/dev/null", O_RDONLY) == 0);
	test_no_memory();
	test_indices();
	test_timestamps();
	test_quiet();
	test_slots();
	test_churn(&random);
	return 0;
}
