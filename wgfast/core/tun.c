/* The inner port: a TUN device, or one end of a Unix datagram or seqpacket pair; and reading from it.
 *
 * One packet a system call, or, with IFF_VNET_HDR, one super-packet: it is read to a place of the reader's, cut
 * up from there into batches (segment.c), and put together again for the way in (coalesce.c). What a descriptor
 * is gets asked once (wgf_tun_adopt): a socket reads 0 when its other end closes. */
#include "tun.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "device.h"
#include "link.h"
#include "segment.h"
#include "steering.h"

#define READS 64u                                 /* of one batch: a flood of refused packets must not hold the thread */
#define VNET sizeof(struct virtio_net_hdr)
#define SUPER_ROOM (VNET + WGF_SUPER_MAX + 1)     /* one byte more, so that a longer one shows */

/* ---- Adopting a descriptor ---- */

int wgf_tun_init(struct wgf_tun *tun, uint32_t queues, size_t batches, struct wgf_epoch *epoch, size_t *ceiling)
{
	int error = 0;
	tun->rings = queues;
	atomic_store(&tun->queues_n, 1);
	for (uint32_t i = 0; i < queues && !error; i++) {
		struct wgf_queue *queue = &tun->queues[i];
		queue->reading.memory = wgf_pool_map(SUPER_ROOM);
		if (!queue->reading.memory)
			return -ENOMEM;
		*ceiling += SUPER_ROOM;
		error = wgf_ring_init(&queue->ring, batches, WGF_SEND_ROOM, epoch, ceiling);
	}
	return error;
}

/* Those that are ours. */
static void close_queues(struct wgf_tun *tun)
{
	for (uint32_t i = 1; i < WGF_QUEUES_MAX; i++) {
		int fd = atomic_exchange(&tun->queues[i].fd, -1);
		if (fd >= 0)
			close(fd);
	}
	atomic_store(&tun->queues_n, 1);
}

void wgf_tun_destroy(struct wgf_tun *tun, struct wgf_epoch *epoch)
{
	close_queues(tun);
	for (uint32_t i = 0; i < tun->rings; i++) {
		wgf_ring_destroy(&tun->queues[i].ring, epoch);
		if (tun->queues[i].reading.memory)
			munmap(tun->queues[i].reading.memory, SUPER_ROOM);
	}
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

/* More queues only where a flow stays in one: order is kept within a queue. */
static void open_queues(struct wgf_tun *tun, int fd)
{
	uint32_t n = 1;
	if (tun->rings == 1 || wgf_steering_set(fd))
		return;
	for (int more; n < tun->rings && (more = wgf_link_add_queue(fd)) >= 0; n++)
		atomic_store_explicit(&tun->queues[n].fd, more, memory_order_release);
	atomic_store(&tun->queues_n, n);
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
	close_queues(tun);
	for (uint32_t i = 0; i < tun->rings; i++)
		tun->queues[i].reading.super = (struct wgf_super){0};
	atomic_store_explicit(&tun->failed, 0, memory_order_relaxed);
	atomic_store_explicit(&tun->is_socket, is_socket, memory_order_relaxed);
	atomic_store_explicit(&tun->vnet, vnet == 1, memory_order_relaxed);
	atomic_store_explicit(&tun->queues[0].fd, fd, memory_order_release);
	if (!is_socket)
		open_queues(tun, fd);
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

int wgf_tun_read(struct wgf_device *device, struct wgf_queue *queue, struct wgf_batch *batch)
{
	struct wgf_tun *tun = &device->tun;
	struct wgf_reading *reading = &queue->reading;
	uint32_t generation = atomic_load(&tun->generation), before = batch->count;
	int fd = atomic_load_explicit(&queue->fd, memory_order_acquire);
	bool is_socket = atomic_load_explicit(&tun->is_socket, memory_order_relaxed);
	bool vnet = atomic_load_explicit(&tun->vnet, memory_order_relaxed);
	if (fd < 0)
		return 0;
	cut(device, batch, &reading->super);
	/* Reads, not packets, are counted: a flood of packets that are refused must not hold the thread. */
	for (uint32_t reads = 0; reads < READS && !is_batch_full(batch); reads++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		ssize_t n = read_packet(fd, is_socket, vnet ? reading->memory : packet->inner,
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
			begin_super(device, reading, (size_t)n);
			cut(device, batch, &reading->super);
		} else {
			accept_packet(device, batch, packet, (size_t)n);
		}
	}
	return (int)(batch->count - before);
}
