/* Datagrams between two outer ports over loopback. What a healthy system never says is played by a sendmmsg of
 * the test's own, which the linker puts before the C library's, and which writes down what it was given. */
#ifndef WGF_DATAGRAMS_H
#define WGF_DATAGRAMS_H

#include <errno.h>
#include <netinet/udp.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "../../wgfast/core/udp.h"
#include "ports.h"

/* ---- A sendmmsg that looks at what it sends ---- */

/* One message, as it was given to the system. */
struct seen {
	uint32_t bytes, vectors;
	uint32_t segment;   /* UDP_SEGMENT; 0: without */
	uint32_t datagrams;
	int tos;            /* 0: none was given */
	uint16_t port;      /* of the receiver */
	uint8_t family;
	bool has_source;
};

static _Atomic unsigned calls;
static int refuse_errno;      /* of whole calls; 0: nothing is refused */
static unsigned refuse_times; /* so often, then no more */
static int (*judge)(const struct seen *message); /* of one message: errno, or 0; the same to the same */

static bool recording;
static struct seen seen[2048]; /* messages that have left */
static unsigned seen_n;

static void examine_control(struct seen *one, const struct msghdr *message)
{
	size_t used = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR((struct msghdr *)(uintptr_t)message, c)) {
		bool v4 = one->family == 4;
		used += CMSG_SPACE(c->cmsg_len - CMSG_LEN(0));
		if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_SEGMENT) {
			uint16_t size;
			CHECK(c->cmsg_len == CMSG_LEN(sizeof(size)));
			memcpy(&size, CMSG_DATA(c), sizeof(size));
			one->segment = size;
		} else if (c->cmsg_type == (v4 ? IP_TOS : IPV6_TCLASS)) {
			CHECK(c->cmsg_level == (v4 ? IPPROTO_IP : IPPROTO_IPV6) && c->cmsg_len == CMSG_LEN(sizeof(int)));
			memcpy(&one->tos, CMSG_DATA(c), sizeof(one->tos));
		} else {
			CHECK(c->cmsg_level == (v4 ? IPPROTO_IP : IPPROTO_IPV6));
			CHECK(c->cmsg_type == (v4 ? IP_PKTINFO : IPV6_PKTINFO));
			one->has_source = true;
		}
	}
	CHECK(used == message->msg_controllen && !message->msg_control == !used);
}

static struct seen examine(const struct msghdr *message)
{
	struct seen one = {.vectors = (uint32_t)message->msg_iovlen};
	struct wgf_endpoint to;
	struct sockaddr_storage name = {0};
	memcpy(&name, message->msg_name, message->msg_namelen);
	CHECK(wgf_endpoint_from_sockaddr(&to, &name));
	one.family = to.family;
	one.port = to.port;
	for (size_t i = 0; i < message->msg_iovlen; i++) {
		CHECK(message->msg_iov[i].iov_len > 0);
		one.bytes += (uint32_t)message->msg_iov[i].iov_len;
	}
	examine_control(&one, message);
	one.datagrams = one.segment ? (one.bytes + one.segment - 1) / one.segment : 1;
	CHECK(!one.segment || (one.datagrams > 1 && one.datagrams <= 64 && one.bytes <= 65507));
	return one;
}

/* As Linux: stops at the first message that fails, which is an error only if it is the first of all. */
int sendmmsg(int fd, struct mmsghdr *messages, unsigned n, int flags)
{
	calls++;
	if (refuse_errno && refuse_times) {
		refuse_times--;
		errno = refuse_errno;
		return -1;
	}
	if (!judge && !recording)
		return (int)syscall(SYS_sendmmsg, fd, messages, n, flags);
	for (unsigned i = 0; i < n; i++) {
		struct seen one = examine(&messages[i].msg_hdr);
		int error = judge ? judge(&one) : 0;
		if (!error && syscall(SYS_sendmmsg, fd, &messages[i], 1, flags) != 1)
			error = errno;
		errno = error;
		if (error)
			return i ? (int)i : -1;
		if (recording && seen_n < sizeof(seen) / sizeof(seen[0]))
			seen[seen_n++] = one;
	}
	return (int)n;
}

static inline void refuse(int error, unsigned times)
{
	refuse_errno = error;
	refuse_times = times;
	calls = 0;
}

/* What is sent from now on is judged (or not) and written down. */
static inline void watch(int (*by)(const struct seen *message))
{
	refuse(0, 0);
	judge = by;
	recording = true;
	seen_n = 0;
}

/* ---- Datagrams ---- */

static inline struct wgf_endpoint loopback(uint8_t family, uint16_t port)
{
	struct wgf_endpoint e = {.family = family, .port = port};
	if (family == 4)
		memcpy(e.address, (uint8_t[]){127, 0, 0, 1}, 4);
	else
		e.address[15] = 1;
	return e;
}

static inline uint8_t byte_of(uint32_t name, uint32_t i)
{
	return (uint8_t)(name * 151 + (name >> 8) * 29 + (i >> 8) * 7 + i * 13);
}

/* One more to send, whose bytes tell its name; in a pool's memory right behind the one before. */
static inline struct wgf_packet *put(struct wgf_batch *batch, struct wgf_endpoint to, uint32_t len, uint32_t name)
{
	struct wgf_packet *packet = &batch->packets[batch->count++];
	if (batch->memory)
		wgf_packet_place(packet, batch->memory + batch->used, batch->room - batch->used);
	CHECK(len <= packet->outer_room);
	for (uint32_t i = 0; i < len; i++)
		packet->outer[i] = byte_of(name, i);
	batch->used += len;
	packet->outer_len = len;
	packet->drop = WGF_DROP_NOT;
	packet->tos = 0;
	packet->peer = NULL;
	packet->endpoint = to;
	return packet;
}

static inline bool holds(const struct wgf_packet *packet, uint32_t len, uint32_t name)
{
	if (packet->drop != WGF_DROP_NOT || packet->outer_len != len)
		return false;
	for (uint32_t i = 0; i < len; i++)
		if (packet->outer[i] != byte_of(name, i))
			return false;
	return true;
}

/* Loopback delivers before the send returns. */
static inline uint32_t receive(struct wgf_udp *udp, struct wgf_batch *batch)
{
	clear(batch);
	uint32_t n = (uint32_t)wgf_udp_receive(device, udp, batch);
	CHECK(n == batch->count && n <= batch->limit);
	return n;
}

static inline void drain(struct wgf_udp *udp, struct wgf_batch *batch)
{
	while (receive(udp, batch))
		;
	clear(batch);
}

static inline void check_arrived(const struct wgf_packet *packet, uint8_t family, uint16_t from, uint32_t len,
			  uint32_t name, uint8_t tos)
{
	struct wgf_endpoint expected = loopback(family, from);
	CHECK(holds(packet, len, name) && packet->tos == tos);
	CHECK(wgf_endpoint_same_address(&packet->endpoint, &expected));
	CHECK(packet->endpoint.has_source && packet->endpoint.interface != 0);
	CHECK(memcmp(packet->endpoint.source, expected.address, 16) == 0);
}

static inline void send_empty(const struct wgf_udp *a, const struct wgf_udp *b)
{
	struct sockaddr_storage name;
	struct wgf_endpoint to = loopback(4, b->port);
	socklen_t size = wgf_endpoint_to_sockaddr(&to, &name);
	CHECK(sendto(a->fd4, "", 0, 0, (struct sockaddr *)&name, size) == 0);
}

/* An address nobody has: the system refuses to send from it. */
static inline void give_bad_source(struct wgf_endpoint *e, uint8_t last)
{
	if (e->family == 4)
		memcpy(e->source, (uint8_t[]){203, 0, 113, last}, 4);
	else
		memcpy(e->source, (uint8_t[]){0x20, 1, 0x0d, 0xb8, [15] = last}, 16);
	e->has_source = 1;
	e->interface = 1;
}

/* Zeroed, as many as are asked for. */
static inline struct wgf_peer *make_peers(size_t n)
{
	struct wgf_peer *peers = aligned_alloc(_Alignof(struct wgf_peer), n * sizeof(*peers));
	CHECK(peers);
	return memset(peers, 0, n * sizeof(*peers));
}

#endif
