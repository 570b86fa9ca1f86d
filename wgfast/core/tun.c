/* The inner port: a TUN device, or one end of a Unix datagram or seqpacket pair.
 *
 * One packet a system call, which is what the kernel offers without super-packets. Which of the two a
 * descriptor is gets asked once (wgf_tun_adopt): a socket reads 0 when its other end closes.
 *
 * An interface may be moved to another network namespace while this process stays, so questions about
 * it go through a socket opened where it lives now. A namespace belongs to a thread, and a thread that
 * entered one might not be allowed back, so a short-lived thread goes, opens the socket and ends; the
 * socket stays of the namespace it was opened in, whoever uses it. */
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "device.h"
#include "tun.h"

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 0xe3) /* Linux 5.2, missing from older headers */
#endif

#define ATTEMPTS 3 /* at asking about an interface that is renamed or moved meanwhile */

/* ---- The interface ---- */

int wgf_tun_open(char name[IFNAMSIZ])
{
	struct ifreq request = {.ifr_flags = IFF_TUN | IFF_NO_PI};
	size_t length = strnlen(name, IFNAMSIZ);
	if (length == IFNAMSIZ)
		return -ENAMETOOLONG;
	memcpy(request.ifr_name, name, length);
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return -errno;
	if (ioctl(fd, TUNSETIFF, &request) < 0) {
		int error = errno;
		close(fd);
		return -error;
	}
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return fd;
}

/* -EPROTOTYPE for a socket that does not keep packets apart, or is not a local pair's. */
static int examine_socket(int fd, bool *is_socket)
{
	int type = 0, domain = 0;
	socklen_t size = sizeof(type);
	*is_socket = getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0;
	if (!*is_socket)
		return errno == ENOTSOCK ? 0 : -errno;
	size = sizeof(domain);
	if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) < 0)
		return -errno;
	if (domain != AF_UNIX || (type != SOCK_DGRAM && type != SOCK_SEQPACKET))
		return -EPROTOTYPE;
	return 0;
}

int wgf_tun_adopt(struct wgf_device *device, int fd)
{
	bool is_socket;
	int error = examine_socket(fd, &is_socket);
	if (error)
		return error;
	int flags = fcntl(fd, F_GETFL);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	atomic_store_explicit(&device->tun_is_socket, is_socket, memory_order_relaxed);
	atomic_store_explicit(&device->tun, fd, memory_order_release);
	return 0;
}

int wgf_tun_name(int fd, char name[IFNAMSIZ])
{
	struct ifreq request = {0};
	if (ioctl(fd, TUNGETIFF, &request) < 0)
		return errno == EBADFD ? -ENODEV : -errno;
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return 0;
}

/* ---- Questions asked where the interface lives ---- */

struct visit {
	int namespace; /* where to go, or -1: stay */
	int result;    /* the socket, or -errno */
};

static void *visit(void *argument)
{
	struct visit *trip = argument;
	if (trip->namespace >= 0 && setns(trip->namespace, CLONE_NEWNET) < 0) {
		trip->result = -errno;
		return NULL;
	}
	trip->result = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (trip->result < 0)
		trip->result = -errno;
	return NULL;
}

static bool is_where_we_are(int namespace)
{
	struct stat there, here;
	return fstat(namespace, &there) == 0 && stat("/proc/thread-self/ns/net", &here) == 0 &&
	       there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

static void visit_in_thread(struct visit *trip)
{
	pthread_t thread;
	sigset_t all, before;
	/* No signal handler of the program may run in that thread, where the network is another. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread, NULL, visit, trip);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		trip->result = -error;
	else
		pthread_join(thread, NULL);
}

/* A socket in the interface's namespace; in ours where the system does not tell which that is. */
static int open_socket_there(int fd)
{
	struct visit trip = {-1, 0};
	int namespace = ioctl(fd, TUNGETDEVNETNS);
	if (namespace < 0 && errno == EBADFD)
		return -ENODEV;
	if (namespace >= 0 && !is_where_we_are(namespace)) {
		trip.namespace = namespace;
		visit_in_thread(&trip);
	} else {
		visit(&trip);
	}
	if (namespace >= 0)
		close(namespace);
	return trip.result;
}

/* One interface request, by the name the interface has now. */
static int ask(int fd, unsigned long what, struct ifreq *request)
{
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int error = wgf_tun_name(fd, request->ifr_name);
		if (error)
			return error;
		int s = open_socket_there(fd);
		if (s < 0)
			return s;
		error = ioctl(s, what, request) < 0 ? errno : 0;
		close(s);
		if (error != ENODEV)
			return -error;
	}
	/* It exists, or it would have had no name: it lives where we are not allowed to look. */
	return -EPERM;
}

int wgf_tun_mtu(int fd)
{
	struct ifreq request = {0};
	int error = ask(fd, SIOCGIFMTU, &request);
	return error ? error : request.ifr_mtu;
}

int wgf_tun_set_mtu(int fd, int mtu)
{
	struct ifreq request = {.ifr_mtu = mtu};
	return ask(fd, SIOCSIFMTU, &request);
}

int wgf_tun_is_up(int fd)
{
	struct ifreq request = {0};
	int error = ask(fd, SIOCGIFFLAGS, &request);
	return error ? error : (request.ifr_flags & IFF_UP) != 0;
}

/* ---- The packet path ---- */

static bool is_gone(int error)
{
	switch (error) {
	case EBADFD: /* the TUN device was deleted */
	case EBADF:
	case ENODEV:
	case ECONNRESET: /* and these of a socket pair */
	case ECONNREFUSED:
	case ENOTCONN:
	case EPIPE:
		return true;
	default:
		return false;
	}
}

static bool is_full(int error)
{
	return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

/* Bytes read, or -errno. */
static ssize_t read_packet(int fd, bool is_socket, void *to, size_t room)
{
	for (;;) {
		ssize_t n = is_socket ? recv(fd, to, room, MSG_DONTWAIT) : read(fd, to, room);
		if (n >= 0)
			return n;
		if (errno != EINTR)
			return -errno;
	}
}

/* 0 or errno. */
static int write_packet(int fd, bool is_socket, const void *from, size_t len)
{
	for (;;) {
		ssize_t n = is_socket ? send(fd, from, len, MSG_DONTWAIT | MSG_NOSIGNAL)
				      : write(fd, from, len);
		if (n >= 0)
			return 0;
		if (errno != EINTR)
			return errno;
	}
}

/* A socket that reads 0: its other end closed, or sent an empty packet? */
static bool hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};
	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLRDHUP));
}

/* The longest packet that may be read there; one byte more is read, so that a longer one shows. */
static uint32_t longest(const struct wgf_packet *packet)
{
	return packet->inner_room <= WGF_MTU_MAX ? packet->inner_room - 1 : WGF_MTU_MAX;
}

/* Takes in what was read, or counts why not. */
static void accept_packet(struct wgf_device *device, struct wgf_batch *batch, size_t len)
{
	struct wgf_packet *packet = &batch->packets[batch->count];
	if (len == 0 || len > longest(packet)) {
		wgf_drop_count(device, len == 0 ? WGF_DROP_SEND_MALFORMED : WGF_DROP_SEND_TOO_LARGE);
		return;
	}
	packet->inner_len = (uint32_t)len;
	packet->outer_len = 0;
	packet->drop = WGF_DROP_NOT;
	batch->bytes += (uint32_t)len;
	batch->count++;
}

int wgf_tun_read(struct wgf_device *device, struct wgf_batch *batch)
{
	int fd = atomic_load_explicit(&device->tun, memory_order_acquire);
	bool is_socket = atomic_load_explicit(&device->tun_is_socket, memory_order_relaxed);
	uint32_t before = batch->count;
	if (fd < 0)
		return 0;
	/* Reads, not packets, are counted: a flood of packets that are refused must not hold the thread. */
	for (uint32_t reads = 0; reads < WGF_BATCH_PACKETS; reads++) {
		if (batch->count == WGF_BATCH_PACKETS || batch->bytes >= WGF_BATCH_BYTES)
			break;
		struct wgf_packet *packet = &batch->packets[batch->count];
		ssize_t n = read_packet(fd, is_socket, packet->inner, (size_t)longest(packet) + 1);
		bool gone = n < 0 ? is_gone((int)-n) : n == 0 && is_socket && hung_up(fd);
		/* What was read before goes its way first; the next call finds the interface gone again. */
		if (gone && batch->count == before)
			return -ENODEV;
		if (gone || n < 0)
			break;
		accept_packet(device, batch, (size_t)n);
	}
	return (int)(batch->count - before);
}

void wgf_tun_write(struct wgf_device *device, struct wgf_batch *batch)
{
	int fd = atomic_load_explicit(&device->tun, memory_order_acquire);
	bool is_socket = atomic_load_explicit(&device->tun_is_socket, memory_order_relaxed);
	/* Of the whole batch: a reader that has stopped must not cost every packet its own retries. */
	unsigned retries = WGF_SEND_RETRIES;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT || packet->inner_len == 0)
			continue;
		int error = write_packet(fd, is_socket, packet->inner, packet->inner_len);
		while (is_full(error) && retries > 0) {
			retries--;
			sched_yield();
			error = write_packet(fd, is_socket, packet->inner, packet->inner_len);
		}
		if (error)
			wgf_drop_packet(device, packet, is_full(error) ? WGF_DROP_RECEIVE_INNER_FULL
								       : WGF_DROP_RECEIVE_INNER_REFUSED);
	}
}

void wgf_tun_write_one(struct wgf_device *device, const uint8_t *packet, size_t len)
{
	int fd = atomic_load_explicit(&device->tun, memory_order_acquire);
	bool is_socket = atomic_load_explicit(&device->tun_is_socket, memory_order_relaxed);
	if (fd >= 0)
		write_packet(fd, is_socket, packet, len);
}
