/* What the tests of the path share: Engine devices that know each other, sessions made from one chaining key
 * instead of a handshake (which is Python's), single packets through the public interface, and the
 * question whether exactly one thing was counted. */
#ifndef WGF_PAIR_H
#define WGF_PAIR_H

#include "bytes.h"
#include "check.h"
#include "device.h"
#include "keypair.h"
#include "wgfast.h"

enum { IPV4_HEADER = 20, IPV6_HEADER = 40, OVERHEAD = 32, ROW = 2048 };

struct party {
	struct wgf_device *device;
	uint64_t peer;   /* the other one */
	uint8_t number;  /* its key is {number}, its addresses 10.0.0.number and fd00::number */
};

static inline struct wgf_endpoint endpoint_of(uint8_t number)
{
	return (struct wgf_endpoint){.address = {192, 0, 2, number}, .port = (uint16_t)(51820 + number), .family = 4};
}

static inline void make_party(struct party *party, uint8_t number)
{
	struct wgf_device_options options = {.threads = 0};
	uint8_t key[WGF_KEY_SIZE] = {number};
	party->device = wgf_device_create(&options);
	CHECK(party->device);
	party->number = number;
	CHECK(!wgf_device_set_identity(party->device, key, key));
}

static inline uint64_t meet(const struct party *party, uint8_t number)
{
	uint8_t key[WGF_KEY_SIZE] = {number}, four[4] = {10, 0, 0, number}, six[16] = {0xfd, [15] = number};
	struct wgf_endpoint endpoint = endpoint_of(number);
	uint64_t peer;
	CHECK(!wgf_device_add_peer(party->device, key, &peer));
	CHECK(!wgf_peer_set_endpoint(party->device, peer, &endpoint));
	CHECK(!wgf_peer_allow(party->device, peer, WGF_IPV4, four, 32));
	CHECK(!wgf_peer_allow(party->device, peer, WGF_IPV6, six, 128));
	return peer;
}

static inline void make_pair(struct party *a, struct party *b)
{
	make_party(a, 1);
	make_party(b, 2);
	a->peer = meet(a, 2);
	b->peer = meet(b, 1);
}

static inline struct wgf_handshake *chain_of(uint8_t chain)
{
	struct wgf_handshake *hs = wgf_handshake_take();
	CHECK(hs);
	memset(hs->chain, chain, sizeof hs->chain);
	return hs;
}

/* The responder's session waits for the first packet. */
static inline void begin_session(struct party *initiator, struct party *responder, uint8_t chain, uint64_t now)
{
	struct wgf_handshake *a = chain_of(chain), *b = chain_of(chain);
	uint32_t index_a, index_b;
	CHECK(!wgf_peer_begin_handshake(initiator->device, initiator->peer, &index_a));
	CHECK(!wgf_peer_begin_answer(responder->device, responder->peer, &index_b));
	CHECK(!wgf_peer_begin_session_responder(responder->device, responder->peer, b, index_b, index_a, now));
	CHECK(!wgf_peer_begin_session_initiator(initiator->device, initiator->peer, a, index_a, index_b, now));
	wgf_handshake_give(a);
	wgf_handshake_give(b);
}

static inline size_t make_ipv4(uint8_t *packet, size_t len, uint8_t from, uint8_t to)
{
	memset(packet, 0, len);
	packet[0] = 0x45;
	wgf_store_be16(packet + 2, (uint16_t)len);
	packet[8] = 64;
	packet[9] = 253; /* for experiments, RFC 3692 */
	memcpy(packet + 12, (uint8_t[]){10, 0, 0, from}, 4);
	memcpy(packet + 16, (uint8_t[]){10, 0, 0, to}, 4);
	for (size_t i = IPV4_HEADER; i < len; i++)
		packet[i] = (uint8_t)(i * 7);
	return len;
}

static inline size_t make_ipv6(uint8_t *packet, size_t len, uint8_t from, uint8_t to)
{
	memset(packet, 0, len);
	packet[0] = 0x60;
	wgf_store_be16(packet + 4, (uint16_t)(len - IPV6_HEADER));
	packet[6] = 253;
	packet[7] = 64;
	packet[8] = packet[24] = 0xfd;
	packet[23] = from;
	packet[39] = to;
	return len;
}

/* ---- One packet through the interface; the status, and what came of it ---- */

struct outcome {
	uint8_t status, tos;
	uint32_t length;
	uint64_t peer;
	struct wgf_endpoint to;
};

static inline struct outcome send_one(struct wgf_device *device, const uint8_t *inner, size_t len, uint8_t *out,
				      size_t room, uint64_t now)
{
	struct outcome result = {.status = 255};
	uint32_t length = (uint32_t)len;
	struct wgf_rows from = {(uint8_t *)(uintptr_t)inner, len, &length}, to = {out, room, &result.length};
	CHECK(!wgf_engine_send(device, &from, &to, 1, &result.to, &result.tos, &result.peer, &result.status, now));
	return result;
}

static inline struct outcome receive_from(struct wgf_device *device, const uint8_t *message, size_t len, uint8_t *out,
					  size_t room, const struct wgf_endpoint *endpoint, uint8_t tos, uint64_t now)
{
	struct outcome result = {.status = 255, .tos = tos};
	uint32_t length = (uint32_t)len;
	struct wgf_rows from = {(uint8_t *)(uintptr_t)message, len, &length}, to = {out, room, &result.length};
	CHECK(!wgf_engine_receive(device, &from, &to, 1, endpoint, &tos, &result.peer, &result.status, now));
	return result;
}

/* Everything the device itself has to send is thrown away. Returns how many messages that were. */
static inline size_t drain_all(struct wgf_device *device, uint64_t now)
{
	static _Thread_local uint8_t data[64 * ROW];
	uint32_t length[64];
	struct wgf_endpoint to[64];
	uint8_t tos[64];
	uint64_t peer[64];
	struct wgf_rows rows = {data, ROW, length};
	size_t sum = 0;
	int64_t n;
	while ((n = wgf_engine_drain(device, &rows, 64, to, tos, peer, now)) > 0)
		sum += (size_t)n;
	CHECK(n == 0);
	return sum;
}

/* The newest session carries a keepalive over, so that both sides use it. */
static inline void confirm_session(struct party *from, struct party *to, uint64_t now)
{
	uint8_t data[ROW], out[ROW], tos;
	uint32_t length;
	struct wgf_endpoint endpoint, source = endpoint_of(from->number);
	uint64_t peer;
	struct wgf_rows rows = {data, ROW, &length};
	CHECK(wgf_engine_drain(from->device, &rows, 1, &endpoint, &tos, &peer, now) == 1);
	CHECK(length == OVERHEAD);
	CHECK(receive_from(to->device, data, length, out, ROW, &source, 0, now).status == WGF_DROP_CONSUMED);
}

/* ---- Inside ---- */

static inline struct wgf_peer *row_of(const struct party *party)
{
	struct wgf_peer *peer = wgf_peer_get(party->device, party->peer);
	CHECK(peer);
	return peer;
}

static inline struct wgf_keypair *current_of(const struct party *party)
{
	struct wgf_keypair *keypair = atomic_load(&row_of(party)->current);
	CHECK(keypair);
	return keypair;
}

/* ---- What was counted ---- */

struct tally {
	uint64_t counts[WGF_DROP_COUNT];
};

static inline struct tally tally_of(struct wgf_device *device)
{
	struct tally tally;
	CHECK(!wgf_device_drops(device, tally.counts));
	return tally;
}

/* Since `before` the reason was counted n times, and nothing else was. WGF_DROP_NOT: nothing at all. */
static inline int counted(struct wgf_device *device, const struct tally *before, unsigned reason, uint64_t n)
{
	struct tally after = tally_of(device);
	for (unsigned i = 0; i < WGF_DROP_COUNT; i++)
		if (after.counts[i] - before->counts[i] != (i == reason ? n : 0)) {
			fprintf(stderr, "%s: counted %" PRIu64 "\n", wgf_drop_name((enum wgf_drop)i),
				after.counts[i] - before->counts[i]);
			return 0;
		}
	return 1;
}

static inline size_t take_events(struct wgf_device *device, struct wgf_event *events, size_t max)
{
	int64_t n = wgf_device_take_events(device, events, max);
	CHECK(n >= 0);
	return (size_t)n;
}

static inline uint32_t debts_of(const struct party *party, uint64_t now)
{
	struct wgf_owed owed[16];
	uint64_t next;
	int64_t n = wgf_device_scan(party->device, now, owed, 16, &next);
	uint32_t debts = 0;
	for (int64_t i = 0; i < n; i++)
		if (owed[i].peer == party->peer)
			debts |= owed[i].debts;
	return debts;
}

static inline struct wgf_device_info info_of(struct wgf_device *device, uint64_t now)
{
	struct wgf_device_info info;
	uint64_t next;
	CHECK(wgf_device_scan(device, now, NULL, 0, &next) == 0);
	CHECK(!wgf_device_info(device, &info));
	return info;
}

/* So many peers are there, so many sessions, and nothing else. */
static inline int nothing_left(struct wgf_device *device, uint32_t peers, uint32_t keypairs, uint64_t now)
{
	struct wgf_device_info info = info_of(device, now);
	if (info.peers == peers && info.indices == keypairs && info.keypairs == keypairs && info.staged == 0)
		return 1;
	fprintf(stderr, "peers %u, indices %u, keypairs %u, staged %u\n", info.peers, info.indices, info.keypairs,
		info.staged);
	return 0;
}

#endif
