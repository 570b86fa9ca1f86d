/* Two devices in one process: real UDP over loopback, Unix pairs as interfaces, two workers each. Sessions are made
 * from one shared chaining key instead of a handshake, which is Python's. */
#ifndef WGF_PATH_H
#define WGF_PATH_H

#include <fcntl.h>
#include <sys/socket.h>

#include "../../wgfast/core/bytes.h"
#include "../../wgfast/core/device.h"
#include "../../wgfast/core/wgfast.h"
#include "check.h"

enum { WINDOW = 48, HEADER = 20, INNER_MAX = 1420, LANES_MAX = 4 };

struct end {
	struct wgf_device *device;
	int inner;       /* our end of the interface */
	int lanes[LANES_MAX]; /* and of its queues; the first is `inner` */
	uint16_t port;
	uint64_t peer;   /* the other end, as a peer */
	uint8_t key;     /* stands for its public key */
	uint8_t address; /* 10.0.0.x */
};

/* More queues than one are further pairs, in the place of descriptors of one interface. */
static inline void make_end_of(struct end *end, uint8_t number, uint32_t queues)
{
	int pair[2];
	uint8_t key[WGF_KEY_SIZE] = {number};
	struct wgf_device_options options = {.threads = 2, .queues = queues};
	end->device = wgf_device_create(&options);
	CHECK(end->device);
	CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
	end->inner = end->lanes[0] = pair[1];
	end->key = number;
	end->address = number;
	CHECK(!wgf_device_set_identity(end->device, key, key));
	CHECK(!wgf_device_set_tun(end->device, pair[0]));
	for (uint32_t i = 1; i < queues; i++) {
		CHECK(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair));
		CHECK(!fcntl(pair[0], F_SETFL, O_NONBLOCK));
		end->lanes[i] = pair[1];
		atomic_store(&end->device->tun.queues[i].fd, pair[0]);
	}
	atomic_store(&end->device->tun.queues_n, queues);
	CHECK(!wgf_device_bind(end->device, 0, 0, &end->port));
	CHECK(!wgf_device_start(end->device));
}

static inline void make_end(struct end *end, uint8_t number)
{
	make_end_of(end, number, 1);
}

static inline void meet(struct end *end, const struct end *other)
{
	uint8_t key[WGF_KEY_SIZE] = {other->key}, address[4] = {10, 0, 0, other->address};
	struct wgf_endpoint endpoint = {.address = {127, 0, 0, 1}, .port = other->port, .family = 4};
	CHECK(!wgf_device_add_peer(end->device, key, &end->peer));
	CHECK(!wgf_peer_set_endpoint(end->device, end->peer, &endpoint));
	CHECK(!wgf_peer_allow(end->device, end->peer, WGF_IPV4, address, 32));
}

static inline struct wgf_handshake *same_chain(void)
{
	struct wgf_handshake *hs = wgf_handshake_take();
	CHECK(hs);
	memset(hs->chain, 7, sizeof hs->chain);
	return hs;
}

static inline void begin_session(struct end *initiator, struct end *responder)
{
	struct wgf_handshake *a = same_chain(), *b = same_chain();
	uint32_t index_a, index_b;
	uint64_t now = wgf_clock_now();
	CHECK(!wgf_peer_begin_handshake(initiator->device, initiator->peer, &index_a));
	CHECK(!wgf_peer_begin_answer(responder->device, responder->peer, &index_b));
	CHECK(!wgf_peer_begin_session_responder(responder->device, responder->peer, b, index_b, index_a, now));
	CHECK(!wgf_peer_begin_session_initiator(initiator->device, initiator->peer, a, index_a, index_b, now));
	wgf_handshake_give(a);
	wgf_handshake_give(b);
}

static inline size_t make_packet(uint8_t *packet, const struct end *from, const struct end *to, uint32_t number)
{
	size_t len = HEADER + 4 + number * 37 % (INNER_MAX - HEADER - 4);
	memset(packet, 0, HEADER);
	packet[0] = 0x45;
	wgf_store_be16(packet + 2, (uint16_t)len);
	packet[8] = 64;
	packet[9] = 253; /* for experiments, RFC 3692 */
	memcpy(packet + 12, (uint8_t[]){10, 0, 0, from->address}, 4);
	memcpy(packet + 16, (uint8_t[]){10, 0, 0, to->address}, 4);
	wgf_store_be32(packet + HEADER, number);
	for (size_t i = HEADER + 4; i < len; i++)
		packet[i] = (uint8_t)(number + i);
	return len;
}

static inline uint64_t all_drops(struct wgf_device *device)
{
	uint64_t counts[WGF_DROP_COUNT], sum = 0;
	CHECK(!wgf_device_drops(device, counts));
	for (size_t i = 0; i < WGF_DROP_COUNT; i++)
		sum += counts[i];
	return sum;
}

#endif
