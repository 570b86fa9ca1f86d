/* The inner port, inwards: what came in one batch is put together again (coalesce.c) and written, with IFF_VNET_HDR
 * as super-packets.
 *
 * A super-packet that the device refuses is written as the packets it was made of; if it takes those, it gets no more
 * super-packets of that kind. A device that refuses every packet with a header, as some do, is opened again
 * without (wgf_link_without_vnet). */
#include <errno.h>
#include <linux/virtio_net.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include "coalesce.h"
#include "device.h"
#include "link.h"
#include "tun.h"

#define FRESH 16u /* writes, none of which succeeded: the device does not take headers */
#define VNET sizeof(struct virtio_net_hdr)

static bool is_full(int error)
{
	return error == EAGAIN || error == ENOBUFS || error == ENOMEM;
}

/* ---- Packets ---- */

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
		.fd = atomic_load_explicit(&device->tun.queues[0].fd, memory_order_acquire),
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

static int without_headers(struct wgf_tun *tun)
{
	int fds[WGF_QUEUES_MAX];
	uint32_t n = atomic_load(&tun->queues_n);
	for (uint32_t i = 0; i < n; i++)
		fds[i] = atomic_load(&tun->queues[i].fd);
	return wgf_link_without_vnet(fds, n);
}

/* The interface takes no packet with a header, not even the plainest: once, for all threads. */
static void give_up_headers(struct writing *w, int error)
{
	struct wgf_tun *tun = &w->device->tun;
	if (atomic_exchange(&tun->changing, true))
		return;
	if (atomic_load(&tun->vnet) && wgf_link_is_up(w->fd) == 1 && !without_headers(tun)) {
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
