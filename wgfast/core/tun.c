/* The inner port: a TUN device, or one end of a Unix datagram or seqpacket pair.
 *
 * One packet a system call, or, with IFF_VNET_HDR, one super-packet: it is read to a place of the reader's, cut
 * up from there into batches (segment.c), and put together again for the way in (coalesce.c). What a descriptor
 * is gets asked once (wgf_tun_adopt): a socket reads 0 when its other end closes.
 *
 * A super-packet that the device refuses is written as the packets it was made of; if it takes those, it gets no more
 * super-packets of that kind. A device that refuses every packet with a header, as some do, is opened again
 * without (wgf_link_without_vnet). */
#include "tun.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "coalesce.h"
#include "device.h"
#include "link.h"
#include "segment.h"

#define READS 64u                                 /* of one batch: a flood of refused packets must not hold the thread */
#define FRESH 16u                                 /* writes, none of which succeeded: the device does not take headers */
#define VNET sizeof(struct virtio_net_hdr)
#define SUPER_ROOM (VNET + WGF_SUPER_MAX + 1)     /* one byte more, so that a longer one shows */

/* ---- Adopting a descriptor ---- */

int wgf_tun_init(struct wgf_tun *tun, size_t *ceiling)
{
	tun->reading.memory = wgf_pool_map(SUPER_ROOM);
	if (!tun->reading.memory)
		return -ENOMEM;
	*ceiling += SUPER_ROOM;
	return 0;
}

void wgf_tun_destroy(struct wgf_tun *tun)
{
	if (tun->reading.memory)
		munmap(tun->reading.memory, SUPER_ROOM);
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

/* The most that may be asked for and that the device has. */
static void try_offloads(struct wgf_offloads *offloads, int fd)
{
	bool tcp = wgf_offload_may(offloads, WGF_OFFLOAD_TSO), udp = wgf_offload_may(offloads, WGF_OFFLOAD_USO);
	int error = wgf_link_offload(fd, tcp, udp);
	if (error && udp) {
		wgf_offload_tried(offloads, WGF_OFFLOAD_USO, -error);
		udp = false;
		error = wgf_link_offload(fd, tcp, false);
	}
	if (udp)
		wgf_offload_tried(offloads, WGF_OFFLOAD_USO, 0);
	if (tcp)
		wgf_offload_tried(offloads, WGF_OFFLOAD_TSO, -error);
}

static void no_super_packets(struct wgf_offloads *offloads, int error)
{
	wgf_offload_tried(offloads, WGF_OFFLOAD_VNET, error);
	wgf_offload_tried(offloads, WGF_OFFLOAD_TSO, error);
	wgf_offload_tried(offloads, WGF_OFFLOAD_USO, error);
}

int wgf_tun_adopt(struct wgf_device *device, int fd)
{
	struct wgf_tun *tun = &device->tun;
	bool is_socket;
	int error = examine_socket(fd, &is_socket);
	if (error)
		return error;
	int flags = fcntl(fd, F_GETFL), vnet = is_socket ? 0 : wgf_link_has_vnet(fd);
	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return -errno;
	if (vnet == 1) {
		wgf_offload_tried(&device->offloads, WGF_OFFLOAD_VNET, 0);
		try_offloads(&device->offloads, fd);
	} else {
		wgf_link_offload(fd, false, false); /* an interface that was there before may have them on */
		no_super_packets(&device->offloads, EOPNOTSUPP);
	}
	/* Nothing of a descriptor that was the port before. */
	tun->reading.super = (struct wgf_super){0};
	atomic_store_explicit(&tun->failed, 0, memory_order_relaxed);
	atomic_store_explicit(&tun->is_socket, is_socket, memory_order_relaxed);
	atomic_store_explicit(&tun->vnet, vnet == 1, memory_order_relaxed);
	atomic_store_explicit(&tun->fd, fd, memory_order_release);
	return 0;
}

/* ---- What the system says ---- */

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

/* A socket that reads 0: its other end closed, or sent an empty packet? */
static bool hung_up(int fd)
{
	struct pollfd poll_fd = {.fd = fd, .events = POLLRDHUP};
	return poll(&poll_fd, 1, 0) > 0 && (poll_fd.revents & (POLLHUP | POLLRDHUP));
}

/* Gone, and not because another thread is just opening it again. */
static bool is_lost(struct wgf_tun *tun, int error, uint32_t generation)
{
	return is_gone(error) && !atomic_load(&tun->changing) && atomic_load(&tun->generation) == generation;
}

/* ---- Reading ---- */

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

static bool is_batch_full(const struct wgf_batch *batch)
{
	return batch->count >= batch->limit || batch->bytes >= WGF_BATCH_BYTES;
}

/* The longest packet that may be read there; one byte more is read, so that a longer one shows. */
static uint32_t longest(const struct wgf_packet *packet)
{
	return packet->inner_room <= WGF_MTU_MAX ? packet->inner_room - 1 : WGF_MTU_MAX;
}

/* Takes in the next packet of the batch, whose bytes are there, or counts why not. */
static void accept_packet(struct wgf_device *device, struct wgf_batch *batch, struct wgf_packet *packet, size_t len)
{
	if (len == 0 || len > longest(packet)) {
		wgf_drop_count(device, len == 0 ? WGF_DROP_SEND_MALFORMED : WGF_DROP_SEND_TOO_LARGE);
		return;
	}
	packet->inner_len = (uint32_t)len;
	packet->outer_len = 0;
	packet->drop = WGF_DROP_NOT;
	wgf_batch_take(batch);
}

/* Packets of the super-packet in hand, as many as the batch holds. */
static void cut(struct wgf_device *device, struct wgf_batch *batch, struct wgf_super *super)
{
	for (uint32_t len; !is_batch_full(batch) && (len = wgf_super_next_length(super)) > 0;) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		if (len > longest(packet)) { /* and so are all of its pieces but perhaps the last */
			wgf_drop_count(device, WGF_DROP_SEND_TOO_LARGE);
			super->pieces = 0;
			return;
		}
		wgf_super_next(super, packet->inner);
		accept_packet(device, batch, packet, len);
	}
}

/* A packet with its header has been read. */
static void begin_super(struct wgf_device *device, struct wgf_reading *reading, size_t n)
{
	struct virtio_net_hdr header;
	if (n <= VNET || n == SUPER_ROOM) {
		wgf_drop_count(device, n <= VNET ? WGF_DROP_SEND_MALFORMED : WGF_DROP_SEND_TOO_LARGE);
		return;
	}
	memcpy(&header, reading->memory, VNET);
	if (!wgf_super_begin(&reading->super, &header, reading->memory + VNET, n - VNET))
		wgf_drop_count(device, WGF_DROP_SEND_MALFORMED);
}

int wgf_tun_read(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_tun *tun = &device->tun;
	uint32_t generation = atomic_load(&tun->generation), before = batch->count;
	int fd = atomic_load_explicit(&tun->fd, memory_order_acquire);
	bool is_socket = atomic_load_explicit(&tun->is_socket, memory_order_relaxed);
	bool vnet = atomic_load_explicit(&tun->vnet, memory_order_relaxed);
	if (fd < 0)
		return 0;
	cut(device, batch, &tun->reading.super);
	/* Reads, not packets, are counted: a flood of packets that are refused must not hold the thread. */
	for (uint32_t reads = 0; reads < READS && !is_batch_full(batch); reads++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		ssize_t n = read_packet(fd, is_socket, vnet ? tun->reading.memory : packet->inner,
					vnet ? SUPER_ROOM : (size_t)longest(packet) + 1);
		bool gone = n < 0 ? is_lost(tun, (int)-n, generation) : n == 0 && is_socket && hung_up(fd);
		/* What was read before goes its way first; the next call finds the interface gone again. */
		if (gone && batch->count == before)
			return -ENODEV;
		if (gone || n < 0)
			break;
		/* Opened again meanwhile: with a header or without, that cannot be told. */
		if (vnet && atomic_load(&tun->generation) != generation) {
			wgf_drop_count(device, WGF_DROP_SEND_MALFORMED);
			break;
		}
		if (vnet) {
			begin_super(device, &tun->reading, (size_t)n);
			cut(device, batch, &tun->reading.super);
		} else {
			accept_packet(device, batch, packet, (size_t)n);
		}
	}
	return (int)(batch->count - before);
}

/* ---- Writing ---- */

struct writing {
	struct wgf_device *device;
	int fd;
	bool is_socket, vnet;
	unsigned retries; /* left, of the whole batch: a reader that has stopped must not cost every packet its own */
};

static struct writing writing_begin(struct wgf_device *device)
{
	return (struct writing){
		.device = device,
		.fd = atomic_load_explicit(&device->tun.fd, memory_order_acquire),
		.is_socket = atomic_load_explicit(&device->tun.is_socket, memory_order_relaxed),
		.vnet = atomic_load_explicit(&device->tun.vnet, memory_order_relaxed),
		.retries = WGF_SEND_RETRIES,
	};
}

/* 0 or errno. */
static int write_once(const struct writing *w, const struct iovec *vectors, int n)
{
	struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)vectors, .msg_iovlen = (size_t)n};
	for (;;) {
		ssize_t wrote = w->is_socket ? sendmsg(w->fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL)
					     : writev(w->fd, vectors, n);
		if (wrote >= 0)
			return 0;
		if (errno != EINTR)
			return errno;
	}
}

static int write_vectors(struct writing *w, const struct iovec *vectors, int n)
{
	int error = write_once(w, vectors, n);
	while (is_full(error) && w->retries > 0) {
		w->retries--;
		sched_yield();
		error = write_once(w, vectors, n);
	}
	return error;
}

/* The interface takes no packet with a header, not even the plainest: once, for all threads. */
static void give_up_headers(struct writing *w, int error)
{
	struct wgf_tun *tun = &w->device->tun;
	if (atomic_exchange(&tun->changing, true))
		return;
	if (atomic_load(&tun->vnet) && wgf_link_is_up(w->fd) == 1 && !wgf_link_without_vnet(w->fd)) {
		for (unsigned i = WGF_OFFLOAD_VNET; i <= WGF_OFFLOAD_USO; i++)
			wgf_offload_give_up(&w->device->offloads, (enum wgf_offload)i, error);
		atomic_store(&tun->vnet, false);
		atomic_fetch_add(&tun->generation, 1);
		w->vnet = false;
	}
	atomic_store(&tun->changing, false);
}

/* Some devices accept IFF_VNET_HDR and then refuse every write: nobody has seen one succeed. */
static void judge_headers(struct writing *w, int error)
{
	struct wgf_tun *tun = &w->device->tun;
	uint32_t failed = atomic_load_explicit(&tun->failed, memory_order_relaxed);
	if (failed == UINT32_MAX)
		return;
	if (!error)
		atomic_store_explicit(&tun->failed, UINT32_MAX, memory_order_relaxed);
	else if (error == EINVAL || error == EIO || error == EOPNOTSUPP)
		if (atomic_fetch_add_explicit(&tun->failed, 1, memory_order_relaxed) + 1 >= FRESH) {
			atomic_store_explicit(&tun->failed, 0, memory_order_relaxed);
			give_up_headers(w, error);
		}
}

static int write_packet(struct writing *w, const uint8_t *packet, size_t len)
{
	struct virtio_net_hdr none = {0};
	const struct iovec vectors[2] = {{&none, VNET}, {(uint8_t *)(uintptr_t)packet, len}};
	if (w->vnet) {
		int error = write_vectors(w, vectors, 2);
		judge_headers(w, error);
		if (w->vnet)
			return error;
	}
	return write_vectors(w, vectors + 1, 1);
}

static void write_alone(struct writing *w, struct wgf_packet *packet)
{
	int error = write_packet(w, packet->inner, packet->inner_len);
	if (error)
		wgf_drop_packet(w->device, packet, is_full(error) ? WGF_DROP_RECEIVE_INNER_FULL
								   : WGF_DROP_RECEIVE_INNER_REFUSED);
}

/* ---- Putting together ---- */

struct together {
	unsigned n, groups_n;
	struct wgf_packet *packets[WGF_BATCH_PACKETS];
	struct wgf_coalesce_packet pieces[WGF_BATCH_PACKETS];
	struct wgf_coalesce_group groups[WGF_BATCH_PACKETS];
};

_Static_assert(WGF_BATCH_PACKETS <= WGF_COALESCE_PACKETS, "a batch is one call");

static int write_group(struct writing *w, struct together *t, struct wgf_coalesce_group *group)
{
	struct iovec vectors[1 + WGF_BATCH_PACKETS];
	int n = 0;
	vectors[n++] = (struct iovec){&group->header, VNET};
	for (uint16_t i = group->first; i != WGF_COALESCE_LAST; i = t->pieces[i].next) {
		uint32_t skip = i == group->first ? 0 : group->headers_len;
		vectors[n++] = (struct iovec){t->pieces[i].data + skip, t->pieces[i].len - skip};
	}
	int error = write_vectors(w, vectors, n);
	if (!error)
		judge_headers(w, 0);
	return error;
}

static void lose_group(struct writing *w, struct together *t, const struct wgf_coalesce_group *group)
{
	for (uint16_t i = group->first; i != WGF_COALESCE_LAST; i = t->pieces[i].next)
		wgf_drop_packet(w->device, t->packets[i], WGF_DROP_RECEIVE_INNER_FULL);
}

/* The device refused a super-packet: its packets, one by one. If it takes those, it was the super-packet. */
static void write_apart(struct writing *w, struct together *t, struct wgf_coalesce_group *group, int error)
{
	bool tcp = group->header.gso_type != VIRTIO_NET_HDR_GSO_UDP_L4, taken = false;
	wgf_coalesce_undo(t->pieces, group);
	for (uint16_t i = group->first; i != WGF_COALESCE_LAST; i = t->pieces[i].next) {
		write_alone(w, t->packets[i]);
		taken |= t->packets[i]->drop == WGF_DROP_NOT;
	}
	if (taken)
		wgf_offload_give_up(&w->device->offloads, tcp ? WGF_OFFLOAD_TSO : WGF_OFFLOAD_USO, error);
}

static void write_together(struct writing *w, struct together *t)
{
	unsigned features = 0;
	if (wgf_offload_active(&w->device->offloads, WGF_OFFLOAD_TSO))
		features |= WGF_COALESCE_TCP4 | WGF_COALESCE_TCP6;
	if (wgf_offload_active(&w->device->offloads, WGF_OFFLOAD_USO))
		features |= WGF_COALESCE_UDP4 | WGF_COALESCE_UDP6;
	t->groups_n = wgf_coalesce(t->pieces, t->n, t->groups, features);
	for (unsigned i = 0; i < t->groups_n; i++) {
		struct wgf_coalesce_group *group = &t->groups[i];
		if (group->count == 1) {
			write_alone(w, t->packets[group->first]);
			continue;
		}
		int error = w->vnet ? write_group(w, t, group) : EINVAL; /* the headers were given up on the way */
		if (is_full(error))
			lose_group(w, t, group);
		else if (error)
			write_apart(w, t, group, error);
	}
}

void wgf_tun_write(struct wgf_device *device, struct wgf_batch *batch)
{
	struct writing w = writing_begin(device);
	struct together t;
	t.n = 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT || packet->inner_len == 0)
			continue;
		if (!w.vnet) {
			write_alone(&w, packet);
			continue;
		}
		t.packets[t.n] = packet;
		t.pieces[t.n++] = (struct wgf_coalesce_packet){.data = packet->inner, .len = packet->inner_len};
	}
	if (t.n > 0)
		write_together(&w, &t);
}

void wgf_tun_write_one(struct wgf_device *device, const uint8_t *packet, size_t len)
{
	struct writing w = writing_begin(device);
	if (w.fd >= 0)
		write_packet(&w, packet, len);
}
