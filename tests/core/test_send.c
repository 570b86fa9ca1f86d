/* TUN to UDP through the public interface on an Engine: counters that are never used twice nor past their
 * limit, padding, staging, loops, ECN, and every reason for which a packet is not sent, counted once. */
#include <errno.h>
#include <pthread.h>

#include "guard.h"
#include "pair.h"
#include "send.h"

static struct party a, b; /* a sends */
static uint64_t now = 1000 * WGF_SECOND;

static void begin(void)
{
	make_pair(&a, &b);
	begin_session(&a, &b, 9, now);
	confirm_session(&a, &b, now);
	debts_of(&a, now);
}

static void end(void)
{
	wgf_device_destroy(a.device);
	wgf_device_destroy(b.device);
}

static struct outcome send_ipv4(size_t len, uint8_t *message)
{
	uint8_t inner[ROW];
	make_ipv4(inner, len, a.number, b.number);
	return send_one(a.device, inner, len, message, ROW, now);
}

static void refuse(const uint8_t *inner, size_t len, size_t room, unsigned reason)
{
	static uint8_t out[70000];
	struct tally before = tally_of(a.device);
	struct outcome result = send_one(a.device, inner, len, out, room, now);
	CHECK(result.status == reason);
	CHECK(result.length == 0);
	CHECK(counted(a.device, &before, reason, 1));
}

static void test_malformed(void)
{
	uint8_t inner[128];
	refuse(inner, 0, ROW, WGF_DROP_SEND_MALFORMED);
	for (unsigned version = 0; version < 16; version++) {
		make_ipv4(inner, 64, a.number, b.number);
		inner[0] = (uint8_t)(version << 4 | 5);
		if (version != 4 && version != 6)
			refuse(inner, 64, ROW, WGF_DROP_SEND_MALFORMED);
	}
	make_ipv4(inner, 64, a.number, b.number);
	for (size_t len = 1; len < 64; len++)
		refuse(inner, len, ROW, WGF_DROP_SEND_MALFORMED);
	make_ipv6(inner, 64, a.number, b.number);
	for (size_t len = 1; len < 64; len++)
		refuse(inner, len, ROW, WGF_DROP_SEND_MALFORMED);
}

static void test_nobody(void)
{
	uint8_t inner[64];
	struct wgf_endpoint none = {.family = 0}, back = endpoint_of(b.number);
	make_ipv4(inner, 64, a.number, 99);
	refuse(inner, 64, ROW, WGF_DROP_SEND_NO_PEER);
	make_ipv6(inner, 64, a.number, 99);
	refuse(inner, 64, ROW, WGF_DROP_SEND_NO_PEER);
	make_ipv4(inner, 64, a.number, b.number);
	CHECK(!wgf_peer_set_endpoint(a.device, a.peer, &none));
	refuse(inner, 64, ROW, WGF_DROP_SEND_NO_ENDPOINT);
	CHECK(!wgf_peer_set_endpoint(a.device, a.peer, &back));
}

/* Larger than a datagram or the row, with a session and without one; and a length that the row does not have. */
static void test_too_large(void)
{
	static uint8_t inner[70000], out[70000];
	uint8_t status, tos;
	uint32_t length, got;
	uint64_t peer;
	struct wgf_endpoint to;
	memset(inner, 0, sizeof inner);
	make_ipv4(inner, 100, a.number, b.number);
	refuse(inner, 100, 131, WGF_DROP_SEND_TOO_LARGE);
	refuse(inner, 100, 0, WGF_DROP_SEND_TOO_LARGE);
	CHECK(send_one(a.device, inner, 100, out, 132, now).length == 132);
	refuse(inner, WGF_MTU_MAX + 1, sizeof out, WGF_DROP_SEND_TOO_LARGE);
	CHECK(send_one(a.device, inner, WGF_MTU_MAX, out, sizeof out, now).length == WGF_MESSAGE_MAX);
	struct guard memory = guard_map(4096);
	uint8_t *last = guard_last(memory, 100);
	memcpy(last, inner, 100);
	for (length = 101; length; length <<= 1) {
		struct wgf_rows in = {last, 100, &length}, rows = {out, sizeof out, &got};
		CHECK(!wgf_engine_send(a.device, &in, &rows, 1, &to, &tos, &peer, &status, now));
		CHECK(status == WGF_DROP_SEND_TOO_LARGE && got == 0);
	}
	guard_unmap(memory);
	CHECK(!wgf_peer_zero_keys(a.device, a.peer));
	refuse(inner, WGF_MTU_MAX + 1, sizeof out, WGF_DROP_SEND_TOO_LARGE);
	CHECK(send_one(a.device, inner, WGF_MTU_MAX, out, sizeof out, now).status == WGF_DROP_STAGED);
	end();
	begin();
}

/* Our own datagram to the peer, routed back into the tunnel to it. Named once in ten seconds. */
static void test_loop(void)
{
	uint8_t inner[64], address[4] = {192, 0, 2, b.number};
	struct wgf_event event;
	make_ipv4(inner, 64, a.number, b.number);
	memcpy(inner + 16, address, 4);
	inner[9] = 17;
	wgf_store_be16(inner + 20, 4242);
	wgf_store_be16(inner + 22, (uint16_t)(51820 + b.number));
	CHECK(!wgf_peer_allow(a.device, a.peer, WGF_IPV4, address, 32));
	while (take_events(a.device, &event, 1))
		;
	CHECK(send_one(a.device, inner, 64, (uint8_t[ROW]){0}, ROW, now).status == WGF_DROP_NOT);
	atomic_store(&a.device->listen_port, 4242); /* an Engine has no port of its own */
	for (int i = 0; i < 3; i++)
		refuse(inner, 64, ROW, WGF_DROP_SEND_LOOP);
	CHECK(take_events(a.device, &event, 1) == 1 && event.kind == WGF_EVENT_LOOP && event.peer == a.peer);
	CHECK(take_events(a.device, &event, 1) == 0);
	now += WGF_LOOP_REPORT_INTERVAL;
	refuse(inner, 64, ROW, WGF_DROP_SEND_LOOP);
	CHECK(take_events(a.device, &event, 1) == 1);
	wgf_store_be16(inner + 20, 4243); /* another program's */
	CHECK(send_one(a.device, inner, 64, (uint8_t[ROW]){0}, ROW, now).status == WGF_DROP_NOT);
	atomic_store(&a.device->listen_port, 0);
}

/* The outer ECN bits and DSCP for each inner one, as RFC 6040 and Linux have them. */
static void test_ecn(void)
{
	const uint8_t outer[4] = {0, 1, 2, 2};
	uint8_t inner[64], out[ROW];
	for (unsigned tos = 0; tos < 256; tos++) {
		make_ipv4(inner, 64, a.number, b.number);
		inner[1] = (uint8_t)tos;
		CHECK(send_one(a.device, inner, 64, out, ROW, now).tos == outer[tos & 3]);
		make_ipv6(inner, 64, a.number, b.number);
		inner[0] |= (uint8_t)(tos >> 4);
		inner[1] = (uint8_t)(tos << 4);
		CHECK(send_one(a.device, inner, 64, out, ROW, now).tos == outer[tos & 3]);
	}
}

/* To the next 16 bytes, but not past the MTU; zeros; and no further than the row. */
static void test_padding(void)
{
	const uint32_t mtus[] = {1280, 1420, 1419, 1, 7, 16, 0, WGF_MTU_MAX};
	static uint8_t out[ROW], plain[ROW];
	struct wgf_endpoint from = endpoint_of(a.number);
	for (size_t m = 0; m < sizeof mtus / sizeof *mtus; m++) {
		uint32_t mtu = mtus[m];
		CHECK(!wgf_device_set_mtu(a.device, mtu));
		for (uint32_t len = IPV4_HEADER; len <= 1500; len++) {
			uint32_t last = mtu && len > mtu ? len % mtu : len, padded = (last + 15) & ~15u;
			uint32_t want = len - last + (mtu && padded > mtu ? mtu : padded) + OVERHEAD;
			struct outcome sent = send_ipv4(len, out);
			CHECK(sent.status == WGF_DROP_NOT && sent.length == want);
			CHECK(wgf_load_le32(out) == WGF_MESSAGE_DATA);
			struct outcome got = receive_from(b.device, out, sent.length, plain, ROW, &from, 0, now);
			CHECK(got.status == WGF_DROP_NOT && got.length == len);
			for (uint32_t i = len; i < want - OVERHEAD; i++)
				CHECK(plain[i] == 0);
		}
	}
	CHECK(!wgf_device_set_mtu(a.device, WGF_MTU_DEFAULT));
	uint8_t inner[100];
	make_ipv4(inner, 100, a.number, b.number);
	for (size_t room = 132; room < 160; room++)
		CHECK(send_one(a.device, inner, 100, out, room, now).length == (room < 144 ? room : 144));
}

/* ---- Counters ---- */

static void test_counter_limit(void)
{
	enum { N = 8 };
	uint8_t in[N * 64], out[N * 128], status[N], tos[N];
	uint32_t lengths[N], got[N];
	uint64_t peer[N];
	struct wgf_endpoint to[N];
	struct wgf_rows rows = {in, 64, lengths}, sealed = {out, 128, got};
	struct wgf_peer_info info;
	struct tally before = tally_of(a.device);
	for (size_t i = 0; i < N; i++)
		lengths[i] = (uint32_t)make_ipv4(in + 64 * i, 64, a.number, b.number);
	atomic_store(&current_of(&a)->next_counter, WGF_REJECT_AFTER_MESSAGES - 3);
	for (int round = 0; round < 3; round++) {
		CHECK(!wgf_engine_send(a.device, &rows, &sealed, N, to, tos, peer, status, now));
		for (size_t i = 0; i < N; i++) {
			bool within = round == 0 && i < 3;
			CHECK(status[i] == (within ? WGF_DROP_NOT : WGF_DROP_STAGED));
			CHECK(!within || wgf_load_le64(out + 128 * i + 8) == WGF_REJECT_AFTER_MESSAGES - 3 + i);
		}
		CHECK(atomic_load(&current_of(&a)->next_counter) == WGF_REJECT_AFTER_MESSAGES);
	}
	CHECK(!wgf_peer_info(a.device, a.peer, &info) && info.staged == 5 + 8 + 8);
	CHECK(debts_of(&a, now) & WGF_DEBT_HANDSHAKE);
	CHECK(drain_all(a.device, now) == 0);
	/* Nothing but the limit was wrong: a new session takes them all. */
	begin_session(&a, &b, 10, now);
	CHECK(drain_all(a.device, now) == 21);
	CHECK(counted(a.device, &before, WGF_DROP_NOT, 0));
	end();
	begin();
}

/* Ask for a new session after so many messages, and not before. */
static void test_rekey_after_messages(void)
{
	uint8_t out[ROW];
	atomic_store(&current_of(&a)->next_counter, WGF_REKEY_AFTER_MESSAGES - 1);
	CHECK(send_ipv4(64, out).status == WGF_DROP_NOT);
	CHECK(!(debts_of(&a, now) & WGF_DEBT_HANDSHAKE));
	CHECK(send_ipv4(64, out).status == WGF_DROP_NOT);
	CHECK(debts_of(&a, now) & WGF_DEBT_HANDSHAKE);
	end();
	begin();
}

static void test_age(void)
{
	uint8_t out[ROW];
	struct wgf_peer_info info;
	uint64_t birth = current_of(&a)->birth;
	now = birth + WGF_REKEY_AFTER_TIME - 1;
	CHECK(send_ipv4(64, out).status == WGF_DROP_NOT && !(debts_of(&a, now) & WGF_DEBT_HANDSHAKE));
	now++;
	CHECK(send_ipv4(64, out).status == WGF_DROP_NOT && (debts_of(&a, now) & WGF_DEBT_HANDSHAKE));
	now = birth + WGF_REJECT_AFTER_TIME - 1;
	CHECK(send_ipv4(64, out).status == WGF_DROP_NOT);
	now++;
	CHECK(send_ipv4(64, out).status == WGF_DROP_STAGED);
	CHECK(!wgf_peer_info(a.device, a.peer, &info) && info.staged == 1);
	end();
	begin();
	/* Who answered leaves it to the other side. */
	now += WGF_REKEY_AFTER_TIME;
	uint8_t inner[64];
	make_ipv4(inner, 64, b.number, a.number);
	CHECK(send_one(b.device, inner, 64, out, ROW, now).status == WGF_DROP_NOT);
	CHECK(!(debts_of(&b, now) & WGF_DEBT_HANDSHAKE));
	end();
	begin();
}

/* Packets sealed under an old session and accounted for under its successor want no further one. */
static void test_needless_rekey(void)
{
	uint8_t inner[64 + OVERHEAD];
	struct wgf_batch *batch = aligned_alloc(_Alignof(struct wgf_batch), sizeof *batch);
	CHECK(batch);
	memset(batch, 0, sizeof *batch);
	wgf_epoch_join(&a.device->epoch, &batch->reader);
	now += WGF_REKEY_AFTER_TIME;
	batch->now = now;
	batch->count = 1;
	batch->packets[0] = (struct wgf_packet){.outer = inner, .inner = inner + 16, .outer_room = sizeof inner,
						.inner_room = 64, .inner_len = 64, .drop = WGF_DROP_NOT};
	make_ipv4(inner + 16, 64, a.number, b.number);
	wgf_epoch_enter(&a.device->epoch, &batch->reader);
	wgf_send_seal(a.device, batch);
	CHECK(batch->packets[0].drop == WGF_DROP_NOT);
	begin_session(&b, &a, 11, now);
	confirm_session(&b, &a, now);
	wgf_send_account(a.device, batch);
	wgf_epoch_exit(&batch->reader);
	wgf_epoch_leave(&a.device->epoch, &batch->reader);
	free(batch);
	CHECK(!(debts_of(&a, now) & WGF_DEBT_HANDSHAKE));
	end();
	begin();
}

enum { EACH = 20000, BURST = 50 };

struct sender {
	uint8_t *seen; /* by counter */
	uint64_t sent;
	_Atomic uint32_t *twice;
};

static void *send_many(void *argument)
{
	struct sender *sender = argument;
	static _Thread_local uint8_t in[BURST * 64], out[BURST * 128];
	uint8_t status[BURST], tos[BURST];
	uint32_t lengths[BURST], got[BURST];
	uint64_t peer[BURST];
	struct wgf_endpoint to[BURST];
	struct wgf_rows rows = {in, 64, lengths}, sealed = {out, 128, got};
	for (size_t i = 0; i < BURST; i++)
		lengths[i] = (uint32_t)make_ipv4(in + 64 * i, 40 + i % 24, a.number, b.number);
	for (int n = 0; n < EACH; n += BURST) {
		CHECK(!wgf_engine_send(a.device, &rows, &sealed, BURST, to, tos, peer, status, now));
		for (size_t i = 0; i < BURST; i++)
			if (status[i] == WGF_DROP_NOT) {
				uint64_t counter = wgf_load_le64(out + 128 * i + 8);
				CHECK(counter >= WGF_REJECT_AFTER_MESSAGES - EACH - EACH / 2);
				CHECK(counter < WGF_REJECT_AFTER_MESSAGES);
				counter -= WGF_REJECT_AFTER_MESSAGES - EACH - EACH / 2;
				if (__atomic_exchange_n(&sender->seen[counter], 1, __ATOMIC_RELAXED))
					atomic_fetch_add(sender->twice, 1);
				sender->sent++;
			}
	}
	return NULL;
}

/* Two threads, one keypair, up to the last counter there is. */
static void test_two_senders(void)
{
	static uint8_t seen[EACH + EACH / 2];
	_Atomic uint32_t twice = 0;
	struct sender senders[2] = {{seen, 0, &twice}, {seen, 0, &twice}};
	pthread_t threads[2];
	atomic_store(&current_of(&a)->next_counter, WGF_REJECT_AFTER_MESSAGES - EACH - EACH / 2);
	for (size_t i = 0; i < 2; i++)
		CHECK(!pthread_create(&threads[i], NULL, send_many, &senders[i]));
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(twice == 0);
	CHECK(senders[0].sent + senders[1].sent == EACH + EACH / 2);
	end();
	begin();
}

/* ---- Staging ---- */

/* Staged packets leave in order and whole, the oldest of too many were dropped, a keepalive is sent only if
 * nothing else is. */
static void test_staging(void)
{
	enum { MORE = 10, N = WGF_STAGED_PER_PEER + MORE };
	uint8_t inner[ROW], out[ROW], plain[ROW], tos;
	uint32_t length;
	uint64_t peer;
	struct wgf_endpoint to, from = endpoint_of(a.number);
	struct wgf_peer_info info;
	struct wgf_rows row = {out, ROW, &length};
	CHECK(!wgf_peer_zero_keys(a.device, a.peer));
	struct tally before = tally_of(a.device);
	for (uint32_t i = 0; i < N; i++) {
		make_ipv4(inner, 40 + i * 11, a.number, b.number);
		wgf_store_be32(inner + 20, i);
		struct outcome result = send_one(a.device, inner, 40 + i * 11, out, ROW, now);
		CHECK(result.status == WGF_DROP_STAGED && result.length == 0 && result.peer == a.peer);
	}
	CHECK(counted(a.device, &before, WGF_DROP_SEND_STAGED_FULL, MORE));
	CHECK(!wgf_peer_info(a.device, a.peer, &info) && info.staged == WGF_STAGED_PER_PEER);
	CHECK(drain_all(a.device, now) == 0);
	CHECK(!wgf_peer_send_keepalive(a.device, a.peer, now));
	CHECK(!wgf_peer_info(a.device, a.peer, &info) && info.staged == WGF_STAGED_PER_PEER);
	CHECK(debts_of(&a, now) & WGF_DEBT_HANDSHAKE);
	begin_session(&a, &b, 12, now);
	for (uint32_t i = MORE; i < N; i++) {
		CHECK(wgf_engine_drain(a.device, &row, 1, &to, &tos, &peer, now) == 1 && peer == a.peer);
		CHECK(receive_from(b.device, out, length, plain, ROW, &from, 0, now).status == WGF_DROP_NOT);
		make_ipv4(inner, 40 + i * 11, a.number, b.number);
		wgf_store_be32(inner + 20, i);
		CHECK(!memcmp(inner, plain, 40 + i * 11));
	}
	CHECK(wgf_engine_drain(a.device, &row, 1, &to, &tos, &peer, now) == 0);
	CHECK(!wgf_peer_send_keepalive(a.device, a.peer, now));
	CHECK(wgf_engine_drain(a.device, &row, 1, &to, &tos, &peer, now) == 1 && length == OVERHEAD);
}

static void test_no_session(void)
{
	uint8_t out[ROW];
	CHECK(!wgf_peer_zero_keys(a.device, a.peer));
	for (int i = 0; i < 5; i++)
		CHECK(send_ipv4(64, out).status == WGF_DROP_STAGED);
	struct tally before = tally_of(a.device);
	CHECK(!wgf_peer_give_up(a.device, a.peer, now));
	CHECK(counted(a.device, &before, WGF_DROP_SEND_NO_SESSION, 5));
	CHECK(send_ipv4(64, out).status == WGF_DROP_STAGED);
	before = tally_of(a.device);
	begin_session(&a, &b, 13, now);
	/* A row too short for what waits. */
	uint8_t narrow[148], tos;
	uint32_t length;
	uint64_t peer;
	struct wgf_endpoint to;
	struct wgf_rows row = {narrow, sizeof narrow, &length};
	CHECK(drain_all(a.device, now) == 1);
	CHECK(!wgf_peer_zero_keys(a.device, a.peer));
	CHECK(send_ipv4(117, out).status == WGF_DROP_STAGED);
	begin_session(&a, &b, 14, now);
	CHECK(wgf_engine_drain(a.device, &row, 1, &to, &tos, &peer, now) == 0);
	CHECK(counted(a.device, &before, WGF_DROP_SEND_TOO_LARGE, 1));
	row.stride = WGF_HANDSHAKE_MESSAGE_MAX - 1;
	CHECK(wgf_engine_drain(a.device, &row, 1, &to, &tos, &peer, now) == -EMSGSIZE);
}

/* A batch of which nothing may leave is not the end of what waits. */
static void test_drain_goes_on(void)
{
	uint8_t inner[64], out[ROW], number = 3;
	struct wgf_endpoint none = {.family = 0}, back = endpoint_of(b.number);
	struct party third = a;
	third.peer = meet(&a, number);
	CHECK(!wgf_peer_zero_keys(a.device, a.peer));
	for (int i = 0; i < 100; i++)
		CHECK(send_ipv4(64, out).status == WGF_DROP_STAGED);
	make_ipv4(inner, 64, a.number, number);
	CHECK(send_one(a.device, inner, 64, out, ROW, now).status == WGF_DROP_STAGED);
	struct wgf_handshake *hs = chain_of(1);
	uint32_t index;
	begin_session(&a, &b, 15, now);
	CHECK(!wgf_peer_begin_handshake(a.device, third.peer, &index));
	CHECK(!wgf_peer_begin_session_initiator(a.device, third.peer, hs, index, 5, now));
	wgf_handshake_give(hs);
	CHECK(!wgf_peer_set_endpoint(a.device, a.peer, &none));
	struct tally before = tally_of(a.device);
	CHECK(drain_all(a.device, now) == 1);
	CHECK(counted(a.device, &before, WGF_DROP_SEND_NO_ENDPOINT, 100));
	CHECK(!wgf_peer_set_endpoint(a.device, a.peer, &back));
	CHECK(!wgf_device_remove_peer(a.device, third.peer));
}

/* The outbox of an Engine that nobody empties. */
static void test_outbox_full(void)
{
	uint8_t message[148] = {WGF_MESSAGE_INITIATION};
	struct wgf_endpoint none = {.family = 0};
	for (unsigned i = 0; i < WGF_OUTBOX; i++)
		CHECK(!wgf_peer_send_handshake(a.device, a.peer, message, 148, now));
	struct tally before = tally_of(a.device);
	CHECK(wgf_peer_send_handshake(a.device, a.peer, message, 148, now) == -ENOBUFS);
	CHECK(counted(a.device, &before, WGF_DROP_SEND_SOCKET_FULL, 1));
	CHECK(drain_all(a.device, now) == WGF_OUTBOX);
	CHECK(wgf_peer_send_handshake(a.device, a.peer, message, 147, now) == -EINVAL);
	CHECK(!wgf_peer_set_endpoint(a.device, a.peer, &none));
	CHECK(wgf_peer_send_handshake(a.device, a.peer, message, 148, now) == -EDESTADDRREQ);
}

int main(void)
{
	begin();
	test_malformed();
	test_nobody();
	test_loop();
	test_ecn();
	test_padding();
	test_too_large();
	test_counter_limit();
	test_rekey_after_messages();
	test_age();
	test_needless_rekey();
	test_two_senders();
	test_staging();
	test_no_session();
	test_drain_goes_on();
	test_outbox_full();
	end();
	return 0;
}
