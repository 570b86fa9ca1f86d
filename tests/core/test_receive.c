/* UDP to TUN with hostile input, through the public interface on an Engine: every way in which a message
 * can be wrong is met, counted once, and leaves the device as it was. Handshake messages: test_admission.c. */
#include "hostile.h"

/* What a would send, whatever is in it: the Engine itself refuses to seal nonsense. */
static size_t seal_as(uint8_t *message, const uint8_t *inner, size_t len, uint64_t counter)
{
	struct wgf_keypair *keypair = current_of(&a);
	wgf_store_le32(message, WGF_MESSAGE_DATA);
	wgf_store_le32(message + 4, keypair->remote_index);
	wgf_store_le64(message + 8, counter);
	struct wgf_aead_job job = {.key = keypair->send_key, .counter = counter, .src = inner, .dst = message + 16, .len = len};
	wgf_aead_seal(&job, 1);
	return len + OVERHEAD;
}

static size_t seal_next(uint8_t *message, const uint8_t *inner, size_t len)
{
	return seal_as(message, inner, len, atomic_fetch_add(&current_of(&a)->next_counter, 1));
}

static size_t good_message(uint8_t *message, size_t inner_len)
{
	uint8_t inner[ROW];
	make_ipv4(inner, inner_len, a.number, b.number);
	struct outcome result = send_one(a.device, inner, inner_len, message, ROW, now);
	CHECK(result.status == WGF_DROP_NOT);
	return result.length;
}

static void test_lengths(void)
{
	uint8_t message[ROW] = {0};
	for (size_t len = 0; len < 4; len++)
		refuse(message, len, WGF_DROP_RECEIVE_SHORT);
	message[0] = WGF_MESSAGE_DATA;
	for (size_t len = 4; len < OVERHEAD; len++)
		refuse(message, len, WGF_DROP_RECEIVE_SHORT);
	const size_t sizes[] = {[1] = 148, 92, 64};
	for (uint8_t type = 1; type <= 3; type++) {
		message[0] = type;
		for (size_t len = 4; len < sizes[type]; len++)
			refuse(message, len, WGF_DROP_RECEIVE_SHORT);
		for (size_t len = sizes[type] + 1; len < sizes[type] + 100; len++)
			refuse(message, len, WGF_DROP_RECEIVE_OVERSIZED);
	}
}

static void test_types(void)
{
	uint8_t message[ROW];
	size_t len = good_message(message, 100);
	for (unsigned type = 0; type < 256; type++) {
		message[0] = (uint8_t)type;
		if (type == 0 || type > 4)
			refuse(message, len, WGF_DROP_RECEIVE_TYPE);
	}
	for (uint8_t type = 1; type <= 4; type++)
		for (size_t bit = 8; bit < 32; bit++) {
			message[0] = type;
			message[bit / 8] = (uint8_t)(1 << bit % 8);
			refuse(message, len, WGF_DROP_RECEIVE_TYPE);
			message[bit / 8] = 0;
		}
	admit(message, len, WGF_DROP_NOT);
}

/* Every bit of a message counts: afterwards the message itself is still welcome. */
static void test_forged(void)
{
	uint8_t message[ROW];
	size_t len = good_message(message, 52);
	for (size_t bit = 0; bit < 8 * len; bit++) {
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
		refuse(message, len, bit < 32 ? WGF_DROP_RECEIVE_TYPE
				     : bit < 64 ? WGF_DROP_RECEIVE_INDEX
						: WGF_DROP_RECEIVE_FORGED);
		message[bit / 8] ^= (uint8_t)(1 << bit % 8);
	}
	for (size_t cut = OVERHEAD; cut < len; cut++)
		refuse(message, cut, WGF_DROP_RECEIVE_FORGED);
	message[len] = 0;
	refuse(message, len + 1, WGF_DROP_RECEIVE_FORGED);
	admit(message, len, WGF_DROP_NOT);
	refuse(message, len, WGF_DROP_RECEIVE_REPLAYED);
}

static void test_replayed(void)
{
	uint8_t message[ROW], old[ROW], inner[64];
	make_ipv4(inner, sizeof inner, a.number, b.number);
	size_t len = good_message(old, 64);
	admit(message, seal_as(message, inner, sizeof inner, 100000), WGF_DROP_NOT);
	refuse(message, len, WGF_DROP_RECEIVE_REPLAYED);
	refuse(old, len, WGF_DROP_RECEIVE_REPLAYED); /* never seen, but too far behind */
	admit(message, seal_as(message, inner, sizeof inner, 100000 - WGF_REPLAY_WINDOW), WGF_DROP_NOT);
	atomic_store(&current_of(&a)->next_counter, 100001);
}

static void test_expired(void)
{
	uint8_t message[ROW], inner[64];
	make_ipv4(inner, sizeof inner, a.number, b.number);
	size_t len = seal_as(message, inner, sizeof inner, WGF_REJECT_AFTER_MESSAGES);
	refuse(message, len, WGF_DROP_RECEIVE_EXPIRED);
	len = seal_as(message, inner, sizeof inner, UINT64_MAX);
	refuse(message, len, WGF_DROP_RECEIVE_EXPIRED);
	uint64_t birth = current_of(&b)->birth, before = now;
	len = good_message(message, 64);
	now = birth + WGF_REJECT_AFTER_TIME;
	refuse(message, len, WGF_DROP_RECEIVE_EXPIRED);
	now--;
	admit(message, len, WGF_DROP_NOT);
	now = before;
	len = seal_as(message, inner, sizeof inner, WGF_REJECT_AFTER_MESSAGES - 1);
	admit(message, len, WGF_DROP_NOT);
	refuse(message, len, WGF_DROP_RECEIVE_REPLAYED);
}

/* Authentic, but the peer put nonsense in. */
static void refuse_inner(const uint8_t *inner, size_t len, unsigned reason)
{
	uint8_t message[ROW];
	refuse(message, seal_next(message, inner, len), reason);
}

static void test_inner(void)
{
	uint8_t inner[200];
	for (unsigned version = 0; version < 16; version++) {
		make_ipv4(inner, 64, a.number, b.number);
		inner[0] = (uint8_t)(version << 4 | 5);
		if (version != 4 && version != 6)
			refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
	}
	make_ipv4(inner, 64, a.number, b.number);
	for (size_t len = 1; len < 64; len++) /* shorter than it says */
		refuse_inner(inner, len, WGF_DROP_RECEIVE_MALFORMED);
	wgf_store_be16(inner + 2, 19);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
	wgf_store_be16(inner + 2, 0xffff);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
	make_ipv4(inner, 64, a.number, b.number);
	inner[0] = 0x44;
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
	inner[0] = 0x4f; /* 60 bytes of header in 40 */
	wgf_store_be16(inner + 2, 40);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
	make_ipv6(inner, 64, a.number, b.number);
	for (size_t len = 1; len < 64; len++)
		refuse_inner(inner, len, WGF_DROP_RECEIVE_MALFORMED);
	wgf_store_be16(inner + 4, 0xffff);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_MALFORMED);
}

static void test_source(void)
{
	uint8_t inner[64], more_specific[4] = {10, 0, 9, 9}, wide[4] = {10, 0, 0, 0}, key[WGF_KEY_SIZE] = {77};
	uint64_t third;
	make_ipv4(inner, 64, 99, b.number);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_SOURCE); /* nobody's */
	make_ipv6(inner, 64, 99, b.number);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_SOURCE);
	/* a owns the /8, a third peer the /32 inside it. */
	CHECK(!wgf_device_add_peer(b.device, key, &third));
	CHECK(!wgf_peer_allow(b.device, b.peer, WGF_IPV4, wide, 8));
	CHECK(!wgf_peer_allow(b.device, third, WGF_IPV4, more_specific, 32));
	make_ipv4(inner, 64, a.number, b.number);
	memcpy(inner + 12, more_specific, 4);
	refuse_inner(inner, 64, WGF_DROP_RECEIVE_SOURCE);
	CHECK(!wgf_device_remove_peer(b.device, third));
	uint8_t message[ROW];
	admit(message, seal_next(message, inner, 64), WGF_DROP_NOT); /* now the /8 is what matches */
	CHECK(!wgf_peer_disallow(b.device, b.peer, WGF_IPV4, wide, 8));
}

/* Padding is cut off, ECN marks are taken over, a keepalive is no packet. */
static void test_accepted(void)
{
	struct wgf_endpoint from = endpoint_of(a.number);
	struct wgf_peer_info before, after;
	uint8_t message[ROW], inner[128], out[ROW];
	CHECK(!wgf_peer_info(b.device, b.peer, &before));
	make_ipv4(inner, 61, a.number, b.number);
	inner[1] = 2; /* ECT(0) */
	memset(inner + 61, 0xee, sizeof inner - 61);
	size_t len = seal_next(message, inner, sizeof inner);
	struct outcome result = admit_from(message, len, out, 3, &from);
	CHECK(result.status == WGF_DROP_NOT && result.length == 61 && result.peer == b.peer);
	CHECK(out[1] == 3 && !memcmp(out + 12, inner + 12, 49));
	len = seal_next(message, inner, 0);
	CHECK(admit_from(message, len, out, 0, &from).status == WGF_DROP_CONSUMED);
	CHECK(!wgf_peer_info(b.device, b.peer, &after));
	CHECK(after.received_packets == before.received_packets + 1);
	CHECK(after.received_bytes == before.received_bytes + sizeof inner + 2 * OVERHEAD);
}

/* A row that is too short for what arrives, and a length that its row does not have. */
static void test_rows(void)
{
	uint8_t message[ROW], out[ROW], tos = 0, status;
	struct wgf_endpoint from = endpoint_of(a.number);
	struct tally before = tally_of(b.device);
	uint32_t length, got;
	uint64_t peer;
	size_t len = good_message(message, 100);
	CHECK(receive_from(b.device, message, len, out, len - OVERHEAD - 1, &from, 0, now).status ==
	      WGF_DROP_RECEIVE_OVERSIZED);
	CHECK(counted(b.device, &before, WGF_DROP_RECEIVE_OVERSIZED, 1));
	before = tally_of(b.device);
	uint8_t *copy = guard_last(memory, len);
	memcpy(copy, message, len);
	for (length = (uint32_t)len + 1; length; length <<= 1) {
		struct wgf_rows in = {copy, len, &length}, to = {out, sizeof out, &got};
		CHECK(!wgf_engine_receive(b.device, &in, &to, 1, &from, &tos, &peer, &status, now));
		CHECK(status == WGF_DROP_RECEIVE_OVERSIZED && got == 0);
	}
	admit(message, len, WGF_DROP_NOT);
	/* Nothing behind the row is looked at, whatever its length says that it has. */
	for (size_t width = 1; width < 16; width++) {
		uint8_t *narrow = guard_last(memory, width);
		memset(narrow, 0, width);
		narrow[0] = WGF_MESSAGE_DATA;
		length = 100;
		struct wgf_rows in = {narrow, width, &length}, to = {out, sizeof out, &got};
		CHECK(!wgf_engine_receive(b.device, &in, &to, 1, &from, &tos, &peer, &status, now));
		CHECK(status == WGF_DROP_RECEIVE_OVERSIZED && got == 0);
	}
}

/* Roaming: whatever is authentic and new; never to nowhere, never by anything else. */
static void test_roaming(void)
{
	struct wgf_endpoint elsewhere = {.address = {198, 51, 100, 7}, .port = 7, .family = 4}, none = {.family = 0};
	struct wgf_event event;
	struct wgf_peer_info info;
	uint8_t message[ROW], out[ROW];
	while (take_events(b.device, &event, 1))
		;
	size_t len = good_message(message, 64);
	message[20] ^= 1;
	CHECK(receive_from(b.device, message, len, out, ROW, &elsewhere, 0, now).status == WGF_DROP_RECEIVE_FORGED);
	CHECK(!wgf_peer_info(b.device, b.peer, &info) && info.endpoint.port == 51820 + a.number);
	message[20] ^= 1;
	CHECK(admit_from(message, len, out, 0, &elsewhere).status == WGF_DROP_NOT);
	CHECK(!wgf_peer_info(b.device, b.peer, &info) && info.endpoint.port == 7);
	CHECK(take_events(b.device, &event, 1) == 1 && event.kind == WGF_EVENT_ROAMED && event.endpoint.port == 7);
	struct wgf_endpoint from = endpoint_of(a.number);
	CHECK(receive_from(b.device, message, len, out, ROW, &from, 0, now).status == WGF_DROP_RECEIVE_REPLAYED);
	CHECK(!wgf_peer_info(b.device, b.peer, &info) && info.endpoint.port == 7);
	/* Whoever drives an Engine may not know where a message came from. */
	len = good_message(message, 64);
	CHECK(admit_from(message, len, out, 0, &none).status == WGF_DROP_NOT);
	CHECK(!wgf_peer_info(b.device, b.peer, &info) && info.endpoint.port == 7);
	CHECK(take_events(b.device, &event, 1) == 0);
	CHECK(!wgf_peer_set_endpoint(b.device, b.peer, &from));
}

/* ---- Anything at all ---- */

/* Batches of noise, of good messages, and of good messages gone bad: what comes out is what was good, in
 * order, once; every other row is counted, once. */
static void test_noise(struct check_random *random)
{
	enum { N = 96 };
	static uint8_t in[N * ROW], out[N * ROW];
	uint32_t lengths[N], got[N];
	struct wgf_endpoint from[N];
	uint8_t tos[N], status[N];
	uint64_t peer[N];
	bool good[N];
	for (int round = 0; round < 200; round++) {
		size_t n = 1 + check_random_below(random, N);
		struct tally before = tally_of(b.device);
		for (size_t i = 0; i < n; i++) {
			uint8_t *message = in + i * ROW;
			size_t kind = check_random_below(random, 4);
			from[i] = endpoint_of(a.number);
			tos[i] = (uint8_t)check_random_next(random);
			lengths[i] = (uint32_t)check_random_below(random, 200);
			check_random_fill(random, message, lengths[i]);
			good[i] = kind == 0;
			if (kind <= 1)
				lengths[i] = (uint32_t)good_message(message, 20 + check_random_below(random, 1000));
			if (kind == 1) /* one byte changes, in length or content */
				message[check_random_below(random, lengths[i])] ^= (uint8_t)(1 + check_random_below(random, 255));
			if (kind == 2 && lengths[i] > 8) {
				wgf_store_le32(message, 1 + (uint32_t)check_random_below(random, 4));
				wgf_store_le32(message + 4, current_of(&b)->entry->index);
			}
		}
		struct wgf_rows rows = {in, ROW, lengths}, to = {out, ROW, got};
		CHECK(!wgf_engine_receive(b.device, &rows, &to, n, from, tos, peer, status, now));
		struct tally after = tally_of(b.device);
		uint64_t dropped = 0, bad = 0;
		for (size_t i = 0; i < WGF_DROP_COUNT; i++)
			dropped += after.counts[i] - before.counts[i];
		for (size_t i = 0; i < n; i++) {
			CHECK((status[i] == WGF_DROP_NOT) == good[i]);
			CHECK((got[i] != 0) == good[i]);
			bad += !good[i];
		}
		CHECK(dropped == bad);
	}
}

int main(void)
{
	struct check_random random = check_random_begin("test_receive");
	memory = guard_map(8192);
	begin();
	test_lengths();
	test_types();
	test_forged();
	test_accepted();
	test_rows();
	test_source();
	test_inner();
	test_roaming();
	test_noise(&random);
	test_replayed();
	test_expired();
	end();
	guard_unmap(memory);
	return 0;
}
