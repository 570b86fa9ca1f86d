/* Two ends, each a TUN device with IFF_VNET_HDR as the inner port of a device of ours, in a network namespace of its
 * own (as root). Between port and system stand a read, a writev and an ioctl of the test's own, which tell how much
 * went through at once and play a device that is ill. */
#ifndef WGF_ENDS_H
#define WGF_ENDS_H

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>

#include "../../wgfast/core/link.h"
#include "../../wgfast/core/tun.h"
#include "flows.h"
#include "namespace.h"
#include "ports.h"

enum { MTU = 1420, MOST = 1 << 20 };

/* ---- What is between the port and the system ---- */

static _Atomic int sick = -1;           /* a descriptor: it takes no write with a header */
static _Atomic int sick_error;
static _Atomic unsigned until_deletion; /* writes; then the interface is deleted */
static _Atomic size_t longest_read, longest_write;
static unsigned long refused_control;   /* this one fails: */
static uintptr_t refused_bits;          /* if its argument, or an interface's flags, have one of these */
static int refused_error;

static inline void delete_link(void);

static inline void note(_Atomic size_t *longest, ssize_t n)
{
	if (n > 0 && (size_t)n > atomic_load(longest))
		atomic_store(longest, (size_t)n);
}

ssize_t read(int fd, void *to, size_t room)
{
	ssize_t n = syscall(SYS_read, fd, to, room);
	note(&longest_read, n);
	return n;
}

ssize_t writev(int fd, const struct iovec *vectors, int n)
{
	if (until_deletion && --until_deletion == 0)
		delete_link();
	if (fd == sick && n > 1) {
		errno = sick_error;
		return -1;
	}
	ssize_t written = syscall(SYS_writev, fd, vectors, n);
	note(&longest_write, written);
	return written;
}

int ioctl(int fd, unsigned long what, ...)
{
	va_list more;
	va_start(more, what);
	uintptr_t argument = va_arg(more, uintptr_t);
	va_end(more);
	if (what == refused_control) {
		uintptr_t bits = what == TUNSETIFF ? (uintptr_t)((struct ifreq *)argument)->ifr_flags : argument;
		if (bits & refused_bits) {
			errno = refused_error;
			return -1;
		}
	}
	return (int)syscall(SYS_ioctl, fd, what, argument);
}

static inline void refuse_control(unsigned long what, uintptr_t bits, int error)
{
	refused_control = what;
	refused_bits = bits;
	refused_error = error;
}

/* ---- Two ends ---- */

struct end {
	struct wgf_device *device;
	int namespace, netlink, tun;
	char name[IFNAMSIZ];
	uint8_t number; /* 10.0.0.number, fd00::number */
};

static struct end ends[2];
static int home;

static const struct end *whereabouts; /* of this thread; NULL: at home */

static inline void enter(const struct end *end)
{
	CHECK(setns(end ? end->namespace : home, CLONE_NEWNET) == 0);
	whereabouts = end;
}

/* A socket where that end lives. */
static inline int open_socket(const struct end *end, int version, int type)
{
	const struct end *before = whereabouts;
	enter(end);
	int s = socket(version == 4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(s >= 0);
	enter(before);
	return s;
}

static inline socklen_t name_of(struct sockaddr_storage *name, const struct end *end, int version, uint16_t port)
{
	struct wgf_endpoint e = {.family = (uint8_t)version, .port = port, .address = {10, 0, 0, end->number}};
	if (version == 6)
		memcpy(e.address, (uint8_t[]){0xfd, [15] = end->number}, 16);
	return wgf_endpoint_to_sockaddr(&e, name);
}

static inline void give_addresses(const struct end *end)
{
	struct sockaddr_storage name;
	struct ifreq request = {0};
	struct {
		struct in6_addr address;
		uint32_t prefix;
		int index;
	} six = {.prefix = 64};
	int s4 = open_socket(end, 4, SOCK_DGRAM), s6 = open_socket(end, 6, SOCK_DGRAM);
	strcpy(request.ifr_name, end->name);
	CHECK(ioctl(s4, SIOCGIFINDEX, &request) == 0);
	six.index = request.ifr_ifindex;
	name_of(&name, end, 4, 0);
	memcpy(&request.ifr_addr, &name, sizeof(request.ifr_addr));
	CHECK(ioctl(s4, SIOCSIFADDR, &request) == 0);
	((struct sockaddr_in *)&request.ifr_netmask)->sin_addr.s_addr = htonl(0xffffff00);
	CHECK(ioctl(s4, SIOCSIFNETMASK, &request) == 0);
	name_of(&name, end, 6, 0);
	six.address = ((struct sockaddr_in6 *)&name)->sin6_addr;
	CHECK(ioctl(s6, SIOCSIFADDR, &six) == 0);
	for (int i = 0; i < 2000 && bind(s6, (struct sockaddr *)&name, sizeof(struct sockaddr_in6)) < 0; i++)
		usleep(1000); /* the system has yet to make it valid */
	close(s4);
	close(s6);
}

/* Nothing of its own accord, or it comes between what is counted. */
static inline void calm_down(void)
{
	const char *const settings[] = {"all/accept_dad", "default/accept_dad", "default/router_solicitations"};
	for (size_t i = 0; i < 3; i++) {
		char path[100];
		sprintf(path, "/proc/sys/net/ipv6/conf/%s", settings[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			CHECK(write(fd, "0", 1) == 1 && close(fd) == 0);
	}
}

static inline void open_end_of(struct end *end, uint8_t number, uint32_t queues)
{
	*end = (struct end){.device = new_device_of(queues), .number = number, .name = "wgvnet%d"};
	CHECK(unshare(CLONE_NEWNET) == 0);
	end->namespace = open_namespace();
	calm_down();
	end->tun = wgf_link_open(end->name, true, queues > 1);
	CHECK(end->tun >= 0 && wgf_link_has_vnet(end->tun) == 1 && wgf_tun_adopt(end->device, end->tun) == 0);
	CHECK(wgf_link_set_mtu(end->tun, MTU) == 0);
	end->netlink = open_netlink(-1);
	enter(NULL);
	CHECK(change_link(end->netlink, RTM_NEWLINK, end->name, -1, IFF_UP) == 0);
	give_addresses(end);
	device = end->device;
}

static inline void open_end(struct end *end, uint8_t number)
{
	open_end_of(end, number, 1);
}

static inline void close_end(struct end *end)
{
	atomic_store(&end->device->tun.queues[0].fd, -1);
	close(end->tun);
	free_device(end->device); /* and with it the queues it has opened */
	enter(end);
	CHECK(if_nametoindex(end->name) == 0); /* the interface was the descriptor's, and still is when that was replaced */
	enter(NULL);
	close(end->netlink);
	close(end->namespace);
}

static inline void delete_link(void)
{
	CHECK(change_link(ends[0].netlink, RTM_DELLINK, ends[0].name, -1, 0) == 0);
}

static struct wgf_batch *batch; /* a pool's */
static struct wgf_epoch epoch;

/* ---- Reading ---- */

/* Datagrams sent in one piece arrive in pieces, over as many batches as it takes. */
static inline void check_reads_datagrams(struct end *end, int version, uint32_t limit, uint16_t size, size_t payload)
{
	struct sockaddr_storage to;
	struct end far = {.number = 77};
	static uint8_t bytes[65000];
	uint8_t control[CMSG_SPACE(sizeof(size))] = {0};
	struct iovec vector = {bytes, payload};
	struct msghdr message = {.msg_name = &to, .msg_namelen = name_of(&to, &far, version, 9), .msg_iov = &vector,
				 .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*head = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(size))};
	memcpy(CMSG_DATA(head), &size, sizeof(size));
	for (size_t i = 0; i < payload; i++)
		bytes[i] = flow_byte((uint32_t)i);
	int s = open_socket(end, version, SOCK_DGRAM);
	device = end->device;
	longest_read = 0;
	CHECK(sendmsg(s, &message, 0) == (ssize_t)payload);
	size_t at = 0;
	wgf_batch_reset(batch, 0);
	batch->limit = limit;
	while (clear(batch), wgf_tun_read(end->device, end->device->tun.queues, batch) > 0)
		for (uint32_t i = 0; i < batch->count; i++) {
			const uint8_t *p = batch->packets[i].inner;
			size_t headers = transport_of(p) + 8, n = payload - at < size ? payload - at : size;
			if (p[version == 4 ? 9 : 6] != UDP)
				continue; /* the system's own */
			CHECK(batch->packets[i].inner_len == headers + n && is_right(p, headers + n));
			CHECK(is_of_flow(p + headers, n, (uint32_t)at));
			at += n;
		}
	CHECK(at == payload && all_drops() == 0);
	CHECK((longest_read > payload) == wgf_offload_active(&end->device->offloads, WGF_OFFLOAD_USO));
	close(s);
}

/* ---- Writing ---- */

/* n packets of one flow, written; they reach the socket as datagrams, or, if it asks for it, as they were put together. */
static inline void check_writes_datagrams(struct end *end, int version, uint32_t n, uint32_t payload, bool whole)
{
	static uint8_t bytes[65536];
	struct flow flow = flow_of(version, UDP, 2000);
	struct sockaddr_storage name;
	socklen_t size = name_of(&name, end, version, 2000);
	int s = open_socket(end, version, SOCK_DGRAM), yes = whole, most = MOST;
	CHECK(setsockopt(s, SOL_UDP, UDP_GRO, &yes, sizeof(yes)) == 0);
	CHECK(setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most)) == 0);
	CHECK(bind(s, (struct sockaddr *)&name, size) == 0);
	wgf_batch_reset(batch, 0);
	for (uint32_t i = 0; i < n; i++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		packet->inner_len = (uint32_t)write_packet(&flow, packet->inner, payload);
		wgf_batch_take(batch);
	}
	device = end->device;
	wgf_tun_write(device, batch);
	CHECK(all_drops() == 0);
	uint32_t messages = 0, at = 0;
	for (ssize_t got; (got = recv(s, bytes, sizeof(bytes), 0)) > 0; at += (uint32_t)got, messages++)
		CHECK((whole || got == (ssize_t)payload) && is_of_flow(bytes, (size_t)got, at));
	CHECK(at == n * payload);
	if (whole && n > 1)
		CHECK((messages < n) == wgf_offload_active(&end->device->offloads, WGF_OFFLOAD_USO));
	close(s);
}

/* ---- TCP from one end to the other ---- */

/* What one end gives is looked at and taken to the other. */
static inline uint32_t carry(struct end *from, struct end *to)
{
	wgf_batch_reset(batch, 0);
	if (wgf_tun_read(from->device, from->device->tun.queues, batch) <= 0)
		return 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		const uint8_t *p = batch->packets[i].inner;
		CHECK(batch->packets[i].inner_len <= MTU);
		if (p[p[0] >> 4 == 4 ? 9 : 6] == TCP)
			CHECK(is_right(p, batch->packets[i].inner_len));
	}
	wgf_tun_write(to->device, batch);
	return batch->count;
}

struct stream {
	int s;
	uint32_t sent, got;
};

static inline void go_on(struct stream *stream, uint32_t total)
{
	static uint8_t bytes[100000];
	uint32_t want = total - stream->sent < sizeof(bytes) ? total - stream->sent : sizeof(bytes);
	for (uint32_t i = 0; i < want; i++)
		bytes[i] = flow_byte(stream->sent + i);
	ssize_t n = want ? send(stream->s, bytes, want, MSG_NOSIGNAL) : 0;
	CHECK(n >= 0 || errno == EAGAIN);
	stream->sent += n > 0 ? (uint32_t)n : 0;
	n = recv(stream->s, bytes, sizeof(bytes), 0);
	CHECK(n > 0 || errno == EAGAIN);
	CHECK(n < 0 || is_of_flow(bytes, (size_t)n, stream->got));
	stream->got += n > 0 ? (uint32_t)n : 0;
}

static inline double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static inline void check_tcp(int version, int segment, uint32_t total)
{
	struct sockaddr_storage name;
	socklen_t size = name_of(&name, &ends[1], version, 2222);
	int server = open_socket(&ends[1], version, SOCK_STREAM), yes = 1;
	struct stream client = {.s = open_socket(&ends[0], version, SOCK_STREAM)}, other = {.s = -1};
	CHECK(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0);
	if (segment)
		CHECK(setsockopt(client.s, SOL_TCP, TCP_MAXSEG, &segment, sizeof(segment)) == 0);
	CHECK(bind(server, (struct sockaddr *)&name, size) == 0 && listen(server, 1) == 0);
	CHECK(connect(client.s, (struct sockaddr *)&name, size) < 0 && errno == EINPROGRESS);
	longest_read = longest_write = 0;
	for (double end = now() + 20; client.got < total || other.got < total;) {
		CHECK(now() < end);
		uint32_t moved = carry(&ends[0], &ends[1]) + carry(&ends[1], &ends[0]);
		if (other.s < 0)
			other.s = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (other.s >= 0) {
			go_on(&client, total);
			go_on(&other, total);
		}
		if (!moved) {
			struct pollfd ready[] = {{ends[0].tun, POLLIN, 0}, {ends[1].tun, POLLIN, 0}};
			poll(ready, 2, 1);
		}
	}
	CHECK(client.got == total && other.got == total);
	close(client.s);
	close(other.s);
	close(server);
	for (int quiet = 0; quiet < 3;) /* the farewell */
		quiet = carry(&ends[0], &ends[1]) + carry(&ends[1], &ends[0]) ? 0 : quiet + 1;
}

/* ---- A test of them ---- */

/* The other end is there all the time. False: this takes root and /dev/net/tun. */
static inline bool begin_ends(const char *test)
{
	size_t ceiling = 0;
	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) != 0 || unshare(CLONE_NEWNET) != 0) {
		printf("%s: left out: TUN, which takes root and /dev/net/tun\n", test);
		return false;
	}
	home = open_namespace();
	CHECK(wgf_epoch_init(&epoch) == 0);
	batch = wgf_pool_create(1, WGF_SEND_ROOM, &epoch, &ceiling);
	CHECK(batch);
	open_end(&ends[1], 2);
	return true;
}

static inline void finish_ends(void)
{
	close_end(&ends[1]);
	wgf_pool_destroy(batch, 1, &epoch);
	wgf_epoch_destroy(&epoch);
	close(home);
}

#endif
