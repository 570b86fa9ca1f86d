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
#include <netinet/udp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "device.h"
#include "packet.h"

/* A default socket holds about ninety full datagrams: under one millisecond of a fast line, less than
 * a thread may be off its processor. */
#define SOCKET_BUFFER (4 << 20)
#define OPEN_ATTEMPTS 16  /* at finding a port that is free for both families */
#define RECEIVE_FIRST 4u  /* messages asked for before their size is known */
#define GROUPED 64u       /* most datagrams in one message that Linux' own GRO makes */
#define GROUPED_APART 128u /* and that a sender on this machine may have made; asked for once they were seen */
#define CONTROL_IN 128u

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

/* Before Linux 5.12 datagrams of one flow could be put together wrongly. */
static bool gro_is_sound(void)
{
	struct utsname system;
	unsigned major, minor;
	return uname(&system) == 0 && sscanf(system.release, "%u.%u", &major, &minor) == 2 &&
	       (major > 5 || (major == 5 && minor >= 12));
}

static int try_on_both(const struct wgf_udp *udp, int option, int value)
{
	int error = udp->fd4 >= 0 ? set(udp->fd4, SOL_UDP, option, value) : 0;
	return !error && udp->fd6 >= 0 ? set(udp->fd6, SOL_UDP, option, value) : error;
}

void wgf_udp_try_offloads(struct wgf_udp *udp, struct wgf_offloads *offloads)
{
	if (wgf_offload_may(offloads, WGF_OFFLOAD_SEGMENT)) /* 0: none by default, each send says its own */
		wgf_offload_tried(offloads, WGF_OFFLOAD_SEGMENT, -try_on_both(udp, UDP_SEGMENT, 0));
	if (wgf_offload_may(offloads, WGF_OFFLOAD_GRO)) {
		int error = gro_is_sound() ? try_on_both(udp, UDP_GRO, 1) : -ENOPROTOOPT;
		if (error) /* on neither, or one would receive what nobody takes apart */
			try_on_both(udp, UDP_GRO, 0);
		wgf_offload_tried(offloads, WGF_OFFLOAD_GRO, -error);
		udp->gro = !error;
	}
}

int wgf_udp_open(struct wgf_udp **udp, uint16_t port, uint32_t fwmark, const struct wgf_udp_keeper *keeper)
{
	struct wgf_udp *opened = calloc(1, sizeof(*opened));
	if (!opened)
		return -ENOMEM;
	int error = -EADDRINUSE;
	/* The port the system chose for one family may be taken in the other. */
	for (int i = 0; i < (port ? 1 : OPEN_ATTEMPTS) && error == -EADDRINUSE; i++)
		error = open_pair(opened, port, keeper ? 0 : fwmark);
	if (error) {
		free(opened);
		return error;
	}
	if (keeper)
		error = keeper->prepare(keeper->context, opened->fd4, opened->fd6, fwmark);
	if (error)
		wgf_udp_close(opened);
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

int wgf_udp_set_mark(struct wgf_udp *udp, uint32_t fwmark, const struct wgf_udp_keeper *keeper)
{
	if (keeper)
		return keeper->prepare(keeper->context, udp->fd4, udp->fd6, fwmark);
	int error = udp->fd4 >= 0 ? set(udp->fd4, SOL_SOCKET, SO_MARK, (int)fwmark) : 0;
	if (!error && udp->fd6 >= 0)
		error = set(udp->fd6, SOL_SOCKET, SO_MARK, (int)fwmark);
	return error;
}

/* ---- Receiving ---- */

struct inbox {
	struct mmsghdr headers[WGF_SLOTS];
	struct iovec vectors[WGF_SLOTS];
	struct sockaddr_storage names[WGF_SLOTS];
	_Alignas(struct cmsghdr) uint8_t control[WGF_SLOTS][CONTROL_IN];
};

/* What the system says of a message, and so of every datagram in it. */
struct arrival {
	struct wgf_endpoint from;
	uint32_t size; /* of each datagram but the last; 0: there is one */
	uint8_t tos;
};

static void read_control(struct arrival *arrival, struct msghdr *message)
{
	struct wgf_endpoint *endpoint = &arrival->from;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(message); c; c = CMSG_NXTHDR(message, c)) {
		const uint8_t *data = CMSG_DATA(c);
		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_TOS) {
			arrival->tos = *data;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_TCLASS) {
			int class;
			memcpy(&class, data, sizeof(class));
			arrival->tos = (uint8_t)class;
		} else if (c->cmsg_level == SOL_UDP && c->cmsg_type == UDP_GRO) {
			int size;
			memcpy(&size, data, sizeof(size));
			arrival->size = size > 0 ? (uint32_t)size : 0;
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

/* How many datagrams a message may turn out to be. */
static uint32_t most_in_one(const struct wgf_udp *udp, const struct wgf_batch *batch)
{
	bool apart = atomic_load_explicit(&udp->apart, memory_order_relaxed);
	return !udp->gro || !batch->memory ? 1 : apart ? GROUPED_APART : GROUPED;
}

/* Messages to ask for. Begins with as many as fill a batch if they are like the last ones; once their
 * size is known, asks for as many as fill the rest. So a batch of large ones does not run far past its bytes,
 * and a lone datagram costs few headers. */
static uint32_t how_many(const struct wgf_udp *udp, const struct wgf_batch *batch, uint32_t received)
{
	uint32_t room = (batch->limit - batch->count) / most_in_one(udp, batch), wanted = RECEIVE_FIRST;
	uint32_t typical = atomic_load_explicit(&udp->typical, memory_order_relaxed);
	if (batch->bytes >= WGF_BATCH_BYTES)
		return 0;
	uint32_t slots = batch->memory ? WGF_SLOTS - batch->used : WGF_SLOTS;
	if (room > slots)
		room = slots;
	if (received)
		typical = batch->bytes / received;
	if (received || typical > WGF_BATCH_BYTES / RECEIVE_FIRST)
		wanted = (WGF_BATCH_BYTES - batch->bytes) / (typical + 1) + 1;
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

static struct iovec slot(const struct wgf_batch *batch, uint32_t i)
{
	if (batch->memory)
		return (struct iovec){batch->memory + (size_t)(batch->used + i) * WGF_SLOT_STRIDE, WGF_SLOT_ROOM};
	return (struct iovec){batch->packets[batch->count + i].outer, batch->packets[batch->count + i].outer_room};
}

static void prepare(struct inbox *inbox, uint32_t i, struct iovec room)
{
	inbox->vectors[i] = room;
	inbox->headers[i].msg_hdr = (struct msghdr){
		.msg_name = &inbox->names[i],
		.msg_namelen = sizeof(inbox->names[i]),
		.msg_iov = &inbox->vectors[i],
		.msg_iovlen = 1,
		.msg_control = inbox->control[i],
		.msg_controllen = CONTROL_IN,
	};
}

static void take_datagram(struct wgf_device *device, struct wgf_batch *batch, const struct arrival *arrival, uint32_t len,
			  bool cut_off)
{
	struct wgf_packet *packet = &batch->packets[batch->count++];
	packet->outer_len = len;
	packet->inner_len = 0;
	packet->tos = arrival->tos;
	packet->drop = WGF_DROP_NOT;
	packet->endpoint = arrival->from;
	if (cut_off || len > WGF_MESSAGE_MAX)
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_OVERSIZED);
}

/* What is left of a message of more datagrams than there is room for: the first of a sender on this machine, or in
 * a guest, that has more than GROUPED in one. */
static void lose_rest(struct wgf_device *device, uint32_t left, uint32_t size)
{
	uint32_t n = left ? (left + size - 1) / size : 1;
	atomic_fetch_add_explicit(&device->drops[WGF_DROP_RECEIVE_OVERSIZED], n, memory_order_relaxed);
}

/* The message in slot i of those just received, and the datagrams in it. */
static void take(struct wgf_device *device, struct wgf_batch *batch, struct inbox *inbox, uint32_t i)
{
	struct msghdr *message = &inbox->headers[i].msg_hdr;
	uint32_t left = inbox->headers[i].msg_len;
	uint8_t *at = inbox->vectors[i].iov_base;
	bool cut_off = message->msg_flags & MSG_TRUNC;
	struct arrival arrival = {.size = 0};

	wgf_endpoint_from_sockaddr(&arrival.from, &inbox->names[i]);
	read_control(&arrival, message);
	batch->bytes += left;
	if (!batch->memory) {
		take_datagram(device, batch, &arrival, left, cut_off);
		return;
	}
	if (arrival.size == 0 || arrival.size > left)
		arrival.size = left;
	do {
		if (batch->count == batch->limit) {
			lose_rest(device, left, arrival.size);
			return;
		}
		uint32_t len = left > arrival.size ? arrival.size : left;
		wgf_packet_place(&batch->packets[batch->count], at, len);
		take_datagram(device, batch, &arrival, len, cut_off);
		at += len;
		left -= len;
	} while (left > 0);
}

static void receive_family(struct wgf_device *device, struct wgf_udp *udp, int fd, struct wgf_batch *batch)
{
	struct inbox inbox;
	uint32_t received = 0;
	if (fd < 0)
		return;
	for (;;) {
		uint32_t wanted = how_many(udp, batch, received);
		if (wanted == 0) {
			batch->more = true;
			return;
		}
		for (uint32_t i = 0; i < wanted; i++)
			prepare(&inbox, i, slot(batch, i));
		uint32_t got = (uint32_t)receive_some(fd, inbox.headers, wanted);
		for (uint32_t i = 0; i < got; i++) {
			uint32_t before = batch->count;
			take(device, batch, &inbox, i);
			if (batch->count - before > GROUPED || batch->count == batch->limit)
				atomic_store_explicit(&udp->apart, true, memory_order_relaxed);
		}
		batch->used += got;
		received += got;
		if (got)
			atomic_store_explicit(&udp->typical, inbox.headers[got - 1].msg_len, memory_order_relaxed);
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
	receive_family(device, udp, turn & 1 ? udp->fd6 : udp->fd4, batch);
	receive_family(device, udp, turn & 1 ? udp->fd4 : udp->fd6, batch);
	return (int)(batch->count - before);
}
