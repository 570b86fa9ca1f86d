/* The outer port: one UDP socket per family, recvmmsg and sendmmsg.
 *
 * Everything a call needs lies on the stack, so any number of threads may use the sockets and nothing
 * is allocated or reset between calls. Nothing the system says about one datagram stops the others or
 * closes a socket: an error is tried away where that makes sense (a full buffer, a source address that
 * no longer holds), else it is that one datagram's loss, counted.
 *
 * An answer leaves from the address its peer addressed (IP_PKTINFO). The interface it came in by is
 * remembered with it and let go with it, but not imposed on the system: with an interface given, Linux
 * takes an IPv4 peer to be on that link even where it has no route, and answers would vanish. Policy
 * routes choose by the source address, as they do for the Linux module. */
#include "udp.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"
#include "packet.h"
#include "peer.h"

/* A default socket holds about ninety full datagrams: under one millisecond of a fast line, less than
 * a thread may be off its processor. */
#define SOCKET_BUFFER (4 << 20)
#define OPEN_ATTEMPTS 16  /* at finding a port that is free for both families */
#define RECEIVE_FIRST 4u  /* datagrams asked for before their size is known */
#define CONTROL_IN 128u
#define CONTROL_OUT (CMSG_SPACE(sizeof(struct in6_pktinfo)) + CMSG_SPACE(sizeof(int)))

/* ---- Opening and closing ---- */

static int set(int fd, int level, int option, int value)
{
	return setsockopt(fd, level, option, &value, sizeof(value)) < 0 ? -errno : 0;
}

/* What is missing here only costs what it is for (sticky sources, ECN, bursts), so no result is looked
 * at. As the Linux module's, our datagrams may be fragmented: the tunnel's MTU is the user's choice. */
static void set_wishes(int fd, int family)
{
	if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER))
		set(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER);
	if (set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER))
		set(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER);
	if (family == AF_INET) {
		set(fd, IPPROTO_IP, IP_PKTINFO, 1);
		set(fd, IPPROTO_IP, IP_RECVTOS, 1);
		set(fd, IPPROTO_IP, IP_MTU_DISCOVER, IP_PMTUDISC_DONT);
	} else {
		set(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, 1);
		set(fd, IPPROTO_IPV6, IPV6_RECVTCLASS, 1);
		set(fd, IPPROTO_IPV6, IPV6_MTU_DISCOVER, IPV6_PMTUDISC_DONT);
		set(fd, IPPROTO_IPV6, IPV6_DONTFRAG, 0);
	}
}

static int bind_to(int fd, uint8_t family, uint16_t *port)
{
	struct wgf_endpoint any = {.family = family, .port = *port};
	struct sockaddr_storage name;
	socklen_t size = wgf_endpoint_to_sockaddr(&any, &name);
	if (bind(fd, (struct sockaddr *)&name, size) < 0)
		return -errno;
	size = sizeof(name);
	if (getsockname(fd, (struct sockaddr *)&name, &size) < 0)
		return -errno;
	wgf_endpoint_from_sockaddr(&any, &name);
	*port = any.port;
	return 0;
}

/* A bound socket or -errno; *port 0 becomes the system's choice. */
static int open_family(int family, uint16_t *port, uint32_t fwmark)
{
	int fd = socket(family, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int error = family == AF_INET6 ? set(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1) : 0;
	if (!error && fwmark)
		error = set(fd, SOL_SOCKET, SO_MARK, (int)fwmark);
	set_wishes(fd, family);
	if (!error)
		error = bind_to(fd, family == AF_INET ? 4 : 6, port);
	if (!error)
		return fd;
	close(fd);
	return error;
}

/* The system has no such family, or has it switched off. */
static bool is_missing(int error)
{
	return error == -EAFNOSUPPORT || error == -EPFNOSUPPORT || error == -EPROTONOSUPPORT ||
	       error == -EADDRNOTAVAIL;
}

static int open_pair(struct wgf_udp *udp, uint16_t port, uint32_t fwmark)
{
	udp->port = port;
	udp->fd4 = open_family(AF_INET, &udp->port, fwmark);
	if (udp->fd4 < 0 && !is_missing(udp->fd4))
		return udp->fd4;
	udp->fd6 = open_family(AF_INET6, &udp->port, fwmark);
	int error = udp->fd6 < 0 && (!is_missing(udp->fd6) || udp->fd4 < 0) ? udp->fd6 : 0;
	if (error && udp->fd4 >= 0)
		close(udp->fd4);
	if (udp->fd4 < 0)
		udp->fd4 = -1;
	if (udp->fd6 < 0)
		udp->fd6 = -1;
	return error;
}

int wgf_udp_open(struct wgf_udp **udp, uint16_t port, uint32_t fwmark)
{
	struct wgf_udp *opened = calloc(1, sizeof(*opened));
	if (!opened)
		return -ENOMEM;
	int error = -EADDRINUSE;
	/* The port the system chose for one family may be taken in the other. */
	for (int i = 0; i < (port ? 1 : OPEN_ATTEMPTS) && error == -EADDRINUSE; i++)
		error = open_pair(opened, port, fwmark);
	if (error)
		free(opened);
	else
		*udp = opened;
	return error;
}

void wgf_udp_close(struct wgf_udp *udp)
{
	if (udp->fd4 >= 0)
		close(udp->fd4);
	if (udp->fd6 >= 0)
		close(udp->fd6);
	free(udp);
}

int wgf_udp_set_mark(struct wgf_udp *udp, uint32_t fwmark)
{
	int error = udp->fd4 >= 0 ? set(udp->fd4, SOL_SOCKET, SO_MARK, (int)fwmark) : 0;
	if (!error && udp->fd6 >= 0)
		error = set(udp->fd6, SOL_SOCKET, SO_MARK, (int)fwmark);
	return error;
}

/* ---- Receiving ---- */

struct inbox {
	struct mmsghdr headers[WGF_BATCH_PACKETS];
	struct iovec vectors[WGF_BATCH_PACKETS];
	struct sockaddr_storage names[WGF_BATCH_PACKETS];
	_Alignas(struct cmsghdr) uint8_t control[WGF_BATCH_PACKETS][CONTROL_IN];
};

static void read_control(struct wgf_packet *packet, struct msghdr *message)
{
	struct wgf_endpoint *endpoint = &packet->endpoint;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		const uint8_t *data = CMSG_DATA(c);
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
			packet->tos = *data;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
			int class;
			memcpy(&class, data, sizeof(class));
			packet->tos = (uint8_t)class;
		} else if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			struct in_pktinfo info;
			memcpy(&info, data, sizeof(info));
			/* Not ipi_addr, which may be a broadcast address. */
			memcpy(endpoint->source, &info.ipi_spec_dst, sizeof(info.ipi_spec_dst));
			endpoint->interface = (uint32_t)info.ipi_ifindex;
			endpoint->has_source = 1;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			struct in6_pktinfo info;
			memcpy(&info, data, sizeof(info));
			memcpy(endpoint->source, &info.ipi6_addr, sizeof(info.ipi6_addr));
			endpoint->interface = info.ipi6_ifindex;
			/* Nobody can answer from a group's address. */
			endpoint->has_source = info.ipi6_addr.s6_addr[0] != 0xff;
			if (!endpoint->has_source)
				memset(endpoint->source, 0, sizeof(endpoint->source));
		}
	}
}

/* Begins with a few datagrams; once their size is known, asks for as many as fill the batch. So a
 * batch of large ones does not run far past its bytes, and a lone datagram costs few headers. */
static uint32_t how_many(const struct wgf_batch *batch, bool first)
{
	uint32_t room = WGF_BATCH_PACKETS - batch->count, wanted = RECEIVE_FIRST;
	if (batch->bytes >= WGF_BATCH_BYTES)
		return 0;
	if (!first && batch->count)
		wanted = (WGF_BATCH_BYTES - batch->bytes) / (batch->bytes / batch->count + 1) + 1;
	return wanted < room ? wanted : room;
}

static int receive_some(int fd, struct mmsghdr *headers, uint32_t n)
{
	for (int errors = 0; errors < 2;) {
		int got = recvmmsg(fd, headers, n, MSG_DONTWAIT, NULL);
		if (got >= 0)
			return got;
		if (errno == EAGAIN)
			return 0;
		/* Some earlier datagram's error: having been told, it is gone, and the queue is not. */
		errors += errno != EINTR;
	}
	return 0;
}

static void prepare(struct inbox *inbox, uint32_t i, struct wgf_packet *packet)
{
	inbox->vectors[i] = (struct iovec){packet->outer, packet->outer_room};
	inbox->headers[i].msg_hdr = (struct msghdr){
		.msg_name = &inbox->names[i],
		.msg_namelen = sizeof(inbox->names[i]),
		.msg_iov = &inbox->vectors[i],
		.msg_iovlen = 1,
		.msg_control = inbox->control[i],
		.msg_controllen = CONTROL_IN,
	};
}

static void take(struct wgf_device *device, struct inbox *inbox, uint32_t i, struct wgf_packet *packet)
{
	struct msghdr *message = &inbox->headers[i].msg_hdr;
	packet->outer_len = inbox->headers[i].msg_len;
	packet->inner_len = 0;
	packet->tos = 0;
	packet->drop = WGF_DROP_NOT;
	wgf_endpoint_from_sockaddr(&packet->endpoint, &inbox->names[i]);
	read_control(packet, message);
	if ((message->msg_flags & MSG_TRUNC) || packet->outer_len > WGF_MESSAGE_MAX)
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_OVERSIZED);
}

static void receive_family(struct wgf_device *device, int fd, struct wgf_batch *batch)
{
	struct inbox inbox;
	uint32_t got, wanted;
	if (fd < 0)
		return;
	for (bool first = true;; first = false) {
		struct wgf_packet *packets = &batch->packets[batch->count];
		wanted = how_many(batch, first);
		if (wanted == 0)
			return;
		for (uint32_t i = 0; i < wanted; i++)
			prepare(&inbox, i, &packets[i]);
		got = (uint32_t)receive_some(fd, inbox.headers, wanted);
		for (uint32_t i = 0; i < got; i++) {
			take(device, &inbox, i, &packets[i]);
			batch->bytes += packets[i].outer_len;
		}
		batch->count += got;
		if (got < wanted)
			return;
	}
}

int wgf_udp_receive(struct wgf_device *device, struct wgf_udp *udp, struct wgf_batch *batch)
{
	uint32_t before = batch->count;
	/* In turns, or one family's flood would be all that is ever read. No order is asked of it. */
	uint32_t turn = atomic_load_explicit(&udp->turn, memory_order_relaxed);
	atomic_store_explicit(&udp->turn, turn + 1, memory_order_relaxed);
	receive_family(device, turn & 1 ? udp->fd6 : udp->fd4, batch);
	receive_family(device, turn & 1 ? udp->fd4 : udp->fd6, batch);
	return (int)(batch->count - before);
}

/* ---- Sending ---- */

/* Neighbours that leave by one socket. */
struct run {
	struct wgf_device *device;
	int fd;
	uint32_t count;
	unsigned retries; /* left, of all that is sent in one call: a full socket is full for all of it */
	int error;        /* of the last datagram that was lost */
	struct wgf_packet *packets[WGF_BATCH_PACKETS];
	struct mmsghdr headers[WGF_BATCH_PACKETS];
	struct iovec vectors[WGF_BATCH_PACKETS];
	struct sockaddr_storage names[WGF_BATCH_PACKETS];
	_Alignas(struct cmsghdr) uint8_t control[WGF_BATCH_PACKETS][CONTROL_OUT];
};

static size_t put_control(uint8_t *to, int level, int type, const void *data, size_t len)
{
	struct cmsghdr head = {.cmsg_len = CMSG_LEN(len), .cmsg_level = level, .cmsg_type = type};
	memcpy(to, &head, sizeof(head));
	memcpy(to + CMSG_LEN(0), data, len);
	return CMSG_SPACE(len);
}

static size_t write_control(uint8_t *to, const struct wgf_endpoint *endpoint, int tos)
{
	size_t len = 0;
	bool v4 = endpoint->family == 4;
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
	return len;
}

static void address(struct run *run, uint32_t i)
{
	struct wgf_packet *packet = run->packets[i];
	size_t control = write_control(run->control[i], &packet->endpoint, packet->tos);
	run->vectors[i] = (struct iovec){packet->outer, packet->outer_len};
	run->headers[i].msg_hdr = (struct msghdr){
		.msg_name = &run->names[i],
		.msg_namelen = wgf_endpoint_to_sockaddr(&packet->endpoint, &run->names[i]),
		.msg_iov = &run->vectors[i],
		.msg_iovlen = 1,
		.msg_control = control ? run->control[i] : NULL,
		.msg_controllen = control,
	};
}

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
	struct wgf_peer *peer = run->packets[i]->peer;
	struct wgf_endpoint refused = run->packets[i]->endpoint;
	if (peer) {
		wgf_endpoint_clear_source(&peer->endpoint, &refused);
		atomic_store_explicit(&peer->replaced_source, true, memory_order_relaxed);
	}
	for (; i < run->count; i++) {
		struct wgf_endpoint *endpoint = &run->packets[i]->endpoint;
		if (run->packets[i]->peer != peer || endpoint->interface != refused.interface ||
		    memcmp(endpoint->source, refused.source, sizeof(refused.source)) != 0)
			continue;
		memset(endpoint->source, 0, sizeof(endpoint->source));
		endpoint->interface = 0;
		endpoint->has_source = 0;
		address(run, i);
	}
}

/* True: the datagram is worth another try. *forgiven: it had one for an error that was not its own. */
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
	    run->packets[i]->endpoint.has_source) {
		let_go(run, i);
		return true;
	}
	/* What an earlier datagram met; having been told, it is gone. */
	if (error != ECONNREFUSED || *forgiven)
		return false;
	*forgiven = true;
	return true;
}

/* Sends what was gathered; every datagram has left or is marked. */
static void flush(struct run *run)
{
	bool forgiven = false;
	for (uint32_t at = 0; at < run->count;) {
		int sent = sendmmsg(run->fd, run->headers + at, run->count - at, MSG_DONTWAIT);
		int error = errno;
		if (sent > 0) {
			at += (uint32_t)sent;
			forgiven = false;
			continue;
		}
		if (try_again(run, at, error, &forgiven))
			continue;
		run->error = error;
		wgf_drop_packet(run->device, run->packets[at],
				is_full(error)          ? WGF_DROP_SEND_SOCKET_FULL
				: is_unreachable(error) ? WGF_DROP_SEND_UNREACHABLE
							: WGF_DROP_SEND_REFUSED);
		at++;
		forgiven = false;
	}
	run->count = 0;
}

static void begin(struct run *run, struct wgf_device *device)
{
	run->device = device;
	run->fd = -1;
	run->count = 0;
	run->retries = WGF_SEND_RETRIES;
	run->error = 0;
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
	if (fd != run->fd)
		flush(run);
	run->fd = fd;
	run->packets[run->count] = packet;
	address(run, run->count++);
}

void wgf_udp_send(struct wgf_device *device, struct wgf_udp *udp, struct wgf_batch *batch)
{
	struct run run;
	begin(&run, device);
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
	begin(&run, device);
	add(&run, udp, &packet);
	flush(&run);
	*source_refused = to->has_source && !packet.endpoint.has_source;
	return packet.drop == WGF_DROP_NOT ? 0 : -run.error;
}
