/* Sending on the outer port: neighbours of one size to one endpoint are one message, which the system cuts
 * into datagrams (UDP_SEGMENT); messages leave by sendmmsg.
 *
 * What is refused is tried away where that makes sense: a full buffer by yielding a few times, a source address
 * that no longer holds by letting it go, a message of several datagrams by sending them one by one. What is left
 * is the loss of those datagrams, counted. A system that says EIO cannot segment on some device; one that
 * says EINVAL to datagrams no path is too narrow for cannot at all: then it is not asked again. Other refusals
 * mean one endpoint's path, which is left alone for a while. */
#include <errno.h>
#include <netinet/udp.h>
#include <sched.h>
#include <string.h>
#include <sys/socket.h>

#include "device.h"
#include "packet.h"
#include "peer.h"
#include "udp.h"

#define MESSAGES 64u /* gathered for one call */
#define CONTROL_OUT (CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)) + CMSG_SPACE(sizeof(uint16_t)))

/* Some of the packets, one datagram each. */
struct message {
	uint32_t first, count;
	uint32_t bytes;
	uint32_t vector, vectors; /* where their bytes lie */
};

/* Neighbours that leave by one socket. */
struct run {
	struct wgf_device *device;
	int fd;
	uint64_t now;
	unsigned retries; /* left, of all that is sent in one call: a full socket is full for all of it */
	int error;        /* of the last datagram that was lost */
	uint32_t packets_n, messages_n, vectors_n;
	struct wgf_packet *packets[WGF_BATCH_PACKETS];
	struct iovec vectors[WGF_BATCH_PACKETS];
	struct message messages[MESSAGES];
	struct mmsghdr headers[MESSAGES];
	struct sockaddr_storage names[MESSAGES];
	_Alignas(struct cmsghdr) uint8_t control[MESSAGES][CONTROL_OUT];
};

/* ---- What goes with a message ---- */

static size_t put_control(uint8_t *to, int level, int type, const void *data, size_t len)
{
	struct cmsghdr head = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
	memcpy(to, &head, sizeof(head));
	memcpy(to + CMSG_LEN(0), data, len);
	return CMSG_SPACE(len);
}

static size_t write_control(uint8_t *to, const struct wgf_packet *packet, bool segments)
{
	const struct wgf_endpoint *endpoint = &packet->endpoint;
	const bool v4 = endpoint->family == 4;
	const int tos = packet->tos;
	size_t len = 0;
	if (endpoint->has_source && v4) {
		struct in_pktinfo info = {0};
		memcpy(&info.ipi_spec_dst, endpoint->source, sizeof(info.ipi_spec_dst));
		len += put_control(to, IPPROTO_IP, IP_PKTINFO, &info, sizeof(info));
	} else if (endpoint->has_source) {
		struct in6_pktinfo info = {0};
		memcpy(&info.ipi6_addr, endpoint->source, sizeof(info.ipi6_addr));
		len += put_control(to, IPPROTO_IPV6, IPV6_PKTINFO, &info, sizeof(info));
	}
	if (tos)
		len += put_control(to + len, v4 ? IPPROTO_IP : IPPROTO_IPV6, v4 ? IP_TOS : IPV6_TCLASS,
				   &tos, sizeof(tos));
	if (segments) {
		uint16_t size = (uint16_t)packet->outer_len;
		len += put_control(to + len, SOL_UDP, UDP_SEGMENT, &size, sizeof(size));
	}
	return len;
}

static void address(struct run *run, uint32_t i)
{
	const struct message *message = &run->messages[i];
	const struct wgf_packet *packet = run->packets[message->first];
	size_t control = write_control(run->control[i], packet, message->count > 1);
	run->headers[i].msg_hdr = (struct msghdr){
		.msg_name = &run->names[i],
		.msg_namelen = wgf_endpoint_to_sockaddr(&packet->endpoint, &run->names[i]),
		.msg_iov = &run->vectors[message->vector],
		.msg_iovlen = message->vectors,
		.msg_control = control ? run->control[i] : NULL,
		.msg_controllen = control,
	};
}

/* ---- When the system refuses ---- */

static bool is_full(int error)
{
	return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

static bool is_unreachable(int error)
{
	return error == ENETUNREACH || error == EHOSTUNREACH || error == EADDRNOTAVAIL ||
	       error == ENETDOWN;
}

/* Forgets the source a datagram could not leave by, for what is still to be sent to its peer as well. */
static void let_go(struct run *run, uint32_t i)
{
	struct wgf_packet *packet = run->packets[run->messages[i].first];
	struct wgf_peer *peer = packet->peer;
	struct wgf_endpoint refused = packet->endpoint;
	if (peer) {
		wgf_endpoint_clear_source(&peer->endpoint, &refused);
		atomic_store_explicit(&peer->replaced_source, true, memory_order_relaxed);
	}
	for (uint32_t p = run->messages[i].first; p < run->packets_n; p++) {
		struct wgf_endpoint *endpoint = &run->packets[p]->endpoint;
		if (run->packets[p]->peer != peer || endpoint->interface != refused.interface ||
		    memcmp(endpoint->source, refused.source, sizeof(refused.source)) != 0)
			continue;
		memset(endpoint->source, 0, sizeof(endpoint->source));
		endpoint->interface = 0;
		endpoint->has_source = 0;
	}
	for (; i < run->messages_n; i++)
		address(run, i);
}

/* True: the message is worth another try. *forgiven: it had one for an error that was not its own. */
static bool try_again(struct run *run, uint32_t i, int error, bool *forgiven)
{
	if (error == EINTR)
		return true;
	if (is_full(error)) {
		if (run->retries == 0)
			return false;
		run->retries--;
		sched_yield();
		return true;
	}
	if ((error == EINVAL || error == ENODEV || is_unreachable(error)) &&
	    run->packets[run->messages[i].first]->endpoint.has_source) {
		let_go(run, i);
		return true;
	}
	/* What an earlier datagram met; having been told, it is gone. */
	if (error != ECONNREFUSED || *forgiven)
		return false;
	*forgiven = true;
	return true;
}

static void lose(struct run *run, uint32_t i, int error)
{
	const struct message *message = &run->messages[i];
	run->error = error;
	for (uint32_t k = 0; k < message->count; k++)
		wgf_drop_packet(run->device, run->packets[message->first + k],
				is_full(error)          ? WGF_DROP_SEND_SOCKET_FULL
				: is_unreachable(error) ? WGF_DROP_SEND_UNREACHABLE
							: WGF_DROP_SEND_REFUSED);
}

static bool may_be_segmentation(int error)
{
	return error == EIO || error == EINVAL || error == EMSGSIZE || error == EOPNOTSUPP;
}

/* Several datagrams in one message were refused. */
static void doubt_segmentation(struct run *run, const struct wgf_packet *packet, int error)
{
	if (error == EIO || error == EOPNOTSUPP || (error == EINVAL && packet->outer_len <= WGF_SEGMENT_SURE))
		wgf_offload_give_up(&run->device->offloads, WGF_OFFLOAD_SEGMENT, error);
	else if (packet->peer)
		atomic_store_explicit(&packet->peer->whole_until, run->now + WGF_SEGMENT_AGAIN, memory_order_relaxed);
}

/* One datagram that was in a message with others. */
static void send_single(struct run *run, uint32_t i)
{
	bool forgiven = false;
	while (sendmmsg(run->fd, &run->headers[i], 1, MSG_DONTWAIT) != 1) {
		int error = errno;
		if (try_again(run, i, error, &forgiven))
			continue;
		lose(run, i, error);
		return;
	}
}

/* The datagrams of a message one by one, each in its place. */
static void send_apart(struct run *run, uint32_t i)
{
	const struct message whole = run->messages[i];
	for (uint32_t p = whole.first; p < whole.first + whole.count; p++) {
		run->vectors[whole.vector] = (struct iovec){run->packets[p]->outer, run->packets[p]->outer_len};
		run->messages[i] = (struct message){.first = p, .count = 1, .vector = whole.vector, .vectors = 1};
		address(run, i);
		send_single(run, i);
	}
}

/* Sends what was gathered; every datagram has left or is marked. */
static void flush(struct run *run)
{
	bool forgiven = false;
	for (uint32_t i = 0; i < run->messages_n; i++)
		address(run, i);
	for (uint32_t at = 0; at < run->messages_n;) {
		int sent = sendmmsg(run->fd, run->headers + at, run->messages_n - at, MSG_DONTWAIT);
		int error = errno;
		if (sent > 0) {
			at += (uint32_t)sent;
			forgiven = false;
			continue;
		}
		if (try_again(run, at, error, &forgiven))
			continue;
		if (run->messages[at].count > 1 && may_be_segmentation(error)) {
			doubt_segmentation(run, run->packets[run->messages[at].first], error);
			send_apart(run, at);
		} else {
			lose(run, at, error);
		}
		at++;
		forgiven = false;
	}
	run->packets_n = run->messages_n = run->vectors_n = 0;
}

/* ---- Gathering ---- */

static void begin(struct run *run, struct wgf_device *device, uint64_t now)
{
	run->device = device;
	run->fd = -1;
	run->now = now;
	run->retries = WGF_SEND_RETRIES;
	run->error = 0;
	run->packets_n = run->messages_n = run->vectors_n = 0;
}

/* May the datagram follow those of the last message? All are as long as the first, the last may be shorter. */
static bool joins(const struct run *run, const struct wgf_packet *packet)
{
	if (run->messages_n == 0 || !wgf_offload_active(&run->device->offloads, WGF_OFFLOAD_SEGMENT))
		return false;
	const struct message *message = &run->messages[run->messages_n - 1];
	const struct wgf_packet *first = run->packets[message->first];
	const struct wgf_packet *last = run->packets[message->first + message->count - 1];
	if (message->count == WGF_SEGMENTS || message->bytes + packet->outer_len > WGF_MESSAGE_MAX ||
	    last->outer_len != first->outer_len || packet->outer_len > first->outer_len || packet->tos != first->tos ||
	    packet->peer != first->peer || memcmp(&packet->endpoint, &first->endpoint, sizeof(first->endpoint)) != 0)
		return false;
	uint64_t until = packet->peer ? atomic_load_explicit(&packet->peer->whole_until, memory_order_relaxed) : 0;
	return until == 0 || run->now >= until;
}

static void add_bytes(struct run *run, struct message *message, const struct wgf_packet *packet)
{
	struct iovec *last = message->vectors ? &run->vectors[run->vectors_n - 1] : NULL;
	if (last && (uint8_t *)last->iov_base + last->iov_len == packet->outer) {
		last->iov_len += packet->outer_len;
	} else {
		run->vectors[run->vectors_n++] = (struct iovec){packet->outer, packet->outer_len};
		message->vectors++;
	}
	message->bytes += packet->outer_len;
	message->count++;
}

/* Takes a datagram in, after sending the ones before it if they leave by the other socket. */
static void add(struct run *run, const struct wgf_udp *udp, struct wgf_packet *packet)
{
	uint8_t family = packet->endpoint.family;
	int fd = family == 4 ? udp->fd4 : family == 6 ? udp->fd6 : -1;
	if (fd < 0) {
		run->error = family ? EAFNOSUPPORT : EDESTADDRREQ;
		wgf_drop_packet(run->device, packet, family ? WGF_DROP_SEND_UNREACHABLE
							    : WGF_DROP_SEND_NO_ENDPOINT);
		return;
	}
	bool follows = fd == run->fd && joins(run, packet);
	if (fd != run->fd || (!follows && run->messages_n == MESSAGES))
		flush(run);
	run->fd = fd;
	if (!follows)
		run->messages[run->messages_n++] = (struct message){.first = run->packets_n, .vector = run->vectors_n};
	run->packets[run->packets_n++] = packet;
	add_bytes(run, &run->messages[run->messages_n - 1], packet);
}

void wgf_udp_send(struct wgf_device *device, struct wgf_udp *udp, struct wgf_batch *batch)
{
	struct run run;
	begin(&run, device, batch->now);
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->packets[i].drop == WGF_DROP_NOT && batch->packets[i].outer_len)
			add(&run, udp, &batch->packets[i]);
	flush(&run);
}

int wgf_udp_send_one(struct wgf_device *device, struct wgf_udp *udp, const struct wgf_endpoint *to,
		     uint8_t tos, const uint8_t *message, size_t len, bool *source_refused)
{
	/* sendmmsg only reads what an iovec points to, whose type cannot say so. */
	struct wgf_packet packet = {.outer = (uint8_t *)(uintptr_t)message, .outer_len = (uint32_t)len,
				    .drop = WGF_DROP_NOT, .tos = tos, .endpoint = *to};
	struct run run;
	begin(&run, device, 0);
	add(&run, udp, &packet);
	flush(&run);
	*source_refused = to->has_source && !packet.endpoint.has_source;
	return packet.drop == WGF_DROP_NOT ? 0 : -run.error;
}
