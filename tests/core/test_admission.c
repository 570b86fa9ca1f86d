/* Handshake messages and cookie replies of hostile senders, through the public interface on an Engine: macs, load,
 * rates, full queues; each refusal counted once. */
#include <errno.h>

#include "hostile.h"

/* mac1 for b; mac2 with the cookie in the jar, if there is one. */
static void sign(struct wgf_cookie_jar *jar, uint8_t *message, uint8_t type, size_t len)
{
	memset(message, 0, len);
	message[0] = type;
	wgf_cookie_add_macs(jar, message, len, now);
}

static void make_jar(struct wgf_cookie_jar *jar)
{
	uint8_t key[WGF_KEY_SIZE] = {b.number};
	memset(jar, 0, sizeof *jar);
	CHECK(!wgf_cookie_jar_init(jar, key));
}

static void test_handshake_macs(void)
{
	uint8_t message[148];
	struct wgf_cookie_jar jar;
	struct wgf_queued_handshake queued;
	make_jar(&jar);
	sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
	admit(message, 148, WGF_DROP_CONSUMED);
	CHECK(wgf_device_take_answers(b.device, &queued, 1) == 0);
	CHECK(wgf_device_take_initiations(b.device, &queued, 1) == 1 && queued.peer == 0 && queued.length == 148);
	CHECK(!memcmp(queued.data, message, 148));
	for (size_t bit = 32; bit < 8 * 132; bit++) { /* all that mac1 covers, and mac1 */
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
		refuse(message, 148, WGF_DROP_HANDSHAKE_MAC1);
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	sign(&jar, message, WGF_MESSAGE_RESPONSE, 92);
	refuse(message, 92, WGF_DROP_RECEIVE_INDEX);
	message[40] ^= 1;
	refuse(message, 92, WGF_DROP_HANDSHAKE_MAC1);
	/* A response to what is a session already is none. */
	memset(message, 0, 92);
	message[0] = WGF_MESSAGE_RESPONSE;
	wgf_store_le32(message + 8, current_of(&b)->entry->index);
	wgf_cookie_add_macs(&jar, message, 92, now);
	refuse(message, 92, WGF_DROP_RECEIVE_INDEX);
	uint32_t index;
	CHECK(!wgf_peer_begin_handshake(b.device, b.peer, &index));
	wgf_store_le32(message + 8, index);
	wgf_cookie_add_macs(&jar, message, 92, now);
	admit(message, 92, WGF_DROP_CONSUMED);
	CHECK(wgf_device_take_initiations(b.device, &queued, 1) == 0);
	CHECK(wgf_device_take_answers(b.device, &queued, 1) == 1 && queued.peer == b.peer && queued.length == 92);
	CHECK(!wgf_peer_end_handshake(b.device, b.peer));
	refuse(message, 92, WGF_DROP_RECEIVE_INDEX);
	wgf_cookie_jar_wipe(&jar);
}

/* A batch of any mixture, lengths of all lanes and remainders: each message is judged as it would be alone. */
static void test_batches(struct check_random *random)
{
	enum { MOST = 256 };
	static uint8_t data[MOST * 160], out[MOST * 160];
	uint32_t lengths[MOST], out_lengths[MOST];
	struct wgf_endpoint from[MOST];
	uint8_t tos[MOST] = {0}, status[MOST], wanted[MOST];
	uint64_t peers[MOST];
	struct wgf_cookie_jar jar;
	struct wgf_queued_handshake queued;
	make_jar(&jar);
	for (int round = 0; round < 400; round++) {
		size_t n = 1 + check_random_below(random, round % 4 ? 40 : MOST), initiations = 0;
		for (size_t i = 0; i < n; i++) {
			uint8_t *message = data + i * 160;
			bool good = check_random_below(random, 8) == 0 && initiations < WGF_UNDER_LOAD_HANDSHAKES - 1;
			bool response = check_random_below(random, 4) == 0;
			uint8_t type = response ? WGF_MESSAGE_RESPONSE : WGF_MESSAGE_INITIATION;
			lengths[i] = response ? 92 : 148;
			check_random_fill(random, message, 160);
			wgf_store_le32(message, type);
			wgf_cookie_add_macs(&jar, message, lengths[i], now);
			wanted[i] = response ? WGF_DROP_RECEIVE_INDEX : WGF_DROP_CONSUMED;
			initiations += good && !response;
			if (!good) {
				message[4 + check_random_below(random, lengths[i] - 20)] ^= 0x10;
				wanted[i] = WGF_DROP_HANDSHAKE_MAC1;
			}
			if (check_random_below(random, 20) == 0) {
				initiations -= good && !response;
				lengths[i] -= 1 + (uint32_t)check_random_below(random, 8);
				wanted[i] = WGF_DROP_RECEIVE_SHORT;
			}
			from[i] = endpoint_of(a.number);
		}
		struct wgf_rows in = {data, 160, lengths}, to = {out, 160, out_lengths};
		CHECK(!wgf_engine_receive(b.device, &in, &to, n, from, tos, peers, status, now));
		CHECK(!memcmp(status, wanted, n));
		for (size_t i = 0; i < initiations; i++)
			CHECK(wgf_device_take_initiations(b.device, &queued, 1) == 1);
		CHECK(wgf_device_take_initiations(b.device, &queued, 1) == 0);
	}
	wgf_cookie_jar_wipe(&jar);
}

static void test_cookie_replies(void)
{
	uint8_t reply[64] = {WGF_MESSAGE_COOKIE}, message[148] = {WGF_MESSAGE_INITIATION};
	refuse(reply, 64, WGF_DROP_RECEIVE_INDEX);
	wgf_store_le32(reply + 4, current_of(&b)->entry->index);
	refuse(reply, 64, WGF_DROP_COOKIE_INVALID); /* nobody asked */
	CHECK(!wgf_peer_send_handshake(b.device, b.peer, message, 148, now));
	refuse(reply, 64, WGF_DROP_COOKIE_INVALID); /* somebody did, and it is forged */
	CHECK(drain_all(b.device, now) == 1);
}

static void drop_waiting(void)
{
	struct wgf_queued_handshake queued;
	while (wgf_device_take_answers(b.device, &queued, 1) || wgf_device_take_initiations(b.device, &queued, 1))
		;
}

/* More than may wait, and then what under load means. */
static void test_under_load(void)
{
	uint8_t message[148], secret[WGF_HASH_SIZE] = {5}, data[ROW], tos;
	struct wgf_cookie_jar jar;
	struct wgf_endpoint from = endpoint_of(a.number), to;
	struct tally before;
	uint32_t length;
	uint64_t peer;
	struct wgf_rows rows = {data, ROW, &length};
	make_jar(&jar);
	for (unsigned i = 0; i < WGF_UNDER_LOAD_HANDSHAKES; i++) {
		sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
		admit(message, 148, WGF_DROP_CONSUMED);
	}
	CHECK(wgf_device_under_load(b.device, now));
	sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
	refuse(message, 148, WGF_DROP_HANDSHAKE_COOKIE); /* no secret yet, hence no reply */
	CHECK(drain_all(b.device, now) == 0);
	CHECK(!wgf_device_rotate_cookie(b.device, secret, now));
	refuse(message, 148, WGF_DROP_HANDSHAKE_COOKIE);
	CHECK(wgf_engine_drain(b.device, &rows, 1, &to, &tos, &peer, now) == 1 && length == 64);
	CHECK(!memcmp(&to, &from, sizeof to) && tos == 0);
	struct wgf_message_cookie reply;
	memcpy(&reply, data, sizeof reply);
	CHECK(wgf_cookie_consume(&jar, &reply, now));
	for (unsigned i = 0; i < WGF_RATE_BURST; i++) {
		sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
		admit(message, 148, WGF_DROP_CONSUMED);
	}
	refuse(message, 148, WGF_DROP_HANDSHAKE_RATE);
	/* mac2 holds for one address and port. */
	from.port++;
	before = tally_of(b.device);
	CHECK(receive_from(b.device, message, 148, data, ROW, &from, 0, now).status == WGF_DROP_HANDSHAKE_COOKIE);
	CHECK(counted(b.device, &before, WGF_DROP_HANDSHAKE_COOKIE, 1));
	now += WGF_UNDER_LOAD_LINGER; /* still standing in line */
	CHECK(wgf_device_under_load(b.device, now));
	drop_waiting();
	CHECK(wgf_device_under_load(b.device, now));
	now += WGF_UNDER_LOAD_LINGER + 1;
	CHECK(!wgf_device_under_load(b.device, now));
	drain_all(b.device, now);
	wgf_cookie_jar_wipe(&jar);
}

/* All are asked for a cookie, as long as the outbox has room. */
static void test_outbox_full(void)
{
	uint8_t message[148];
	struct wgf_cookie_jar jar;
	struct tally before = tally_of(b.device);
	make_jar(&jar);
	uint64_t asked = 0;
	struct wgf_endpoint from = {.family = 4, .port = 9};
	for (uint32_t i = 0; i < 3000; i++) {
		uint8_t out[ROW];
		wgf_store_be32(from.address, i);
		sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
		struct outcome result = receive_from(b.device, message, 148, out, ROW, &from, 0, now);
		asked += result.status == WGF_DROP_HANDSHAKE_COOKIE;
	}
	struct tally after = tally_of(b.device);
	CHECK(asked == 3000 - WGF_UNDER_LOAD_HANDSHAKES);
	CHECK(after.counts[WGF_DROP_HANDSHAKE_COOKIE] - before.counts[WGF_DROP_HANDSHAKE_COOKIE] == asked);
	CHECK(after.counts[WGF_DROP_SEND_SOCKET_FULL] - before.counts[WGF_DROP_SEND_SOCKET_FULL] == asked - WGF_OUTBOX);
	CHECK(drain_all(b.device, now) == WGF_OUTBOX);
	drop_waiting();
	/* So many were turned away that it is the flood still; a second later nobody has come. */
	now += WGF_UNDER_LOAD_LINGER;
	CHECK(wgf_device_under_load(b.device, now));
	now += WGF_UNDER_LOAD_LINGER;
	CHECK(!wgf_device_under_load(b.device, now));
	wgf_cookie_jar_wipe(&jar);
}

/* Whoever has a cookie gets in where all is full, and the oldest goes. */
static void test_pushed_out(void)
{
	uint8_t message[148], data[ROW], tos;
	struct wgf_cookie_jar jar;
	struct wgf_queued_handshake queued = {.endpoint = endpoint_of(b.number)};
	struct wgf_message_cookie reply;
	struct wgf_endpoint to;
	uint32_t length;
	uint64_t peer, seen = 0;
	struct wgf_rows rows = {data, ROW, &length};
	make_jar(&jar);
	for (uint32_t i = 0; i < WGF_HANDSHAKES_WAITING; i++)
		CHECK(!wgf_handshakequeue_put(&b.device->initiations, &queued));
	struct wgf_device_info info;
	CHECK(!wgf_device_info(b.device, &info) && info.handshakes_waiting == WGF_HANDSHAKES_WAITING);
	sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
	refuse(message, 148, WGF_DROP_HANDSHAKE_COOKIE);
	CHECK(wgf_engine_drain(b.device, &rows, 1, &to, &tos, &peer, now) == 1 && length == 64);
	memcpy(&reply, data, sizeof reply);
	CHECK(wgf_cookie_consume(&jar, &reply, now));
	sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
	struct tally before = tally_of(b.device);
	struct wgf_endpoint from = endpoint_of(a.number);
	CHECK(receive_from(b.device, message, 148, data, ROW, &from, 0, now).status == WGF_DROP_CONSUMED);
	CHECK(counted(b.device, &before, WGF_DROP_HANDSHAKE_QUEUE, 1));
	while (wgf_device_take_initiations(b.device, &queued, 1) == 1)
		seen += !memcmp(queued.data, message, 148);
	CHECK(seen == 1);
	wgf_cookie_jar_wipe(&jar);
}

/* With a full queue of news a cookie reply is taken in all the same: nothing was dropped. */
static void test_cookie_without_news(void)
{
	uint8_t message[148] = {WGF_MESSAGE_INITIATION}, secret[WGF_HASH_SIZE] = {6}, out[ROW];
	struct wgf_cookie_keys keys;
	struct wgf_cookie_checker checker;
	struct wgf_message_cookie reply;
	struct wgf_endpoint here = endpoint_of(b.number), from = endpoint_of(a.number);
	uint8_t key[WGF_KEY_SIZE] = {a.number};
	uint32_t index;
	struct wgf_event events[64];
	wgf_cookie_keys(&keys, key);
	CHECK(!wgf_cookie_checker_init(&checker));
	while (wgf_events_put(&b.device->events, &(struct wgf_event){.kind = WGF_EVENT_ROAMED}))
		;
	wgf_cookie_rotate(&checker, secret, now);
	CHECK(!wgf_peer_begin_handshake(b.device, b.peer, &index));
	wgf_store_le32(message + 4, index);
	CHECK(!wgf_peer_send_handshake(b.device, b.peer, message, 148, now));
	CHECK(wgf_cookie_reply(&checker, &keys, &here, message, 148, now, &reply));
	CHECK(admit_from((uint8_t *)&reply, sizeof reply, out, 0, &from).status == WGF_DROP_CONSUMED);
	refuse((uint8_t *)&reply, sizeof reply, WGF_DROP_COOKIE_INVALID); /* once */
	wgf_cookie_checker_wipe(&checker);
	while (take_events(b.device, events, 64))
		;
	drain_all(b.device, now);
}

static void test_no_key(void)
{
	uint8_t message[148];
	struct wgf_cookie_jar jar;
	make_jar(&jar);
	CHECK(!wgf_device_set_identity(b.device, NULL, NULL));
	sign(&jar, message, WGF_MESSAGE_INITIATION, 148);
	refuse(message, 148, WGF_DROP_HANDSHAKE_NO_KEY);
	sign(&jar, message, WGF_MESSAGE_RESPONSE, 92);
	refuse(message, 92, WGF_DROP_HANDSHAKE_NO_KEY);
	wgf_cookie_jar_wipe(&jar);
}

/* What Python counts is counted as it says. */
static void test_counted_by_python(void)
{
	const unsigned reasons[] = {WGF_DROP_HANDSHAKE_INVALID, WGF_DROP_HANDSHAKE_UNKNOWN, WGF_DROP_HANDSHAKE_REPLAYED};
	for (size_t i = 0; i < 3; i++) {
		struct tally before = tally_of(b.device);
		CHECK(!wgf_device_count_drop(b.device, reasons[i]));
		CHECK(counted(b.device, &before, reasons[i], 1));
	}
	CHECK(wgf_device_count_drop(b.device, WGF_DROP_COUNT) == -EINVAL);
	CHECK(wgf_device_count_drop(b.device, UINT32_MAX) == -EINVAL);
}

int main(void)
{
	struct check_random random = check_random_begin("admission");
	memory = guard_map(8192);
	begin();
	test_handshake_macs();
	test_batches(&random);
	test_cookie_replies();
	test_under_load();
	test_counted_by_python();
	test_outbox_full();
	test_pushed_out();
	test_cookie_without_news();
	test_no_key();
	end();
	guard_unmap(memory);
	return 0;
}
