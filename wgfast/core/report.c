/* What the device tells about itself, and the small services the parts share: counters, jitter,
 * messages that are no transport data. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#ifdef __GLIBC__
#include <malloc.h>
#endif

#include "admission.h"
#include "handle.h"
#include "send.h"

int wgf_device_drops(struct wgf_device *device, uint64_t *counts)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	for (size_t i = 0; i < WGF_DROP_COUNT; i++)
		counts[i] = atomic_load_explicit(&device->drops[i], memory_order_relaxed);
	return 0;
}

int wgf_device_offloads(struct wgf_device *device, uint32_t *states)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	for (size_t i = 0; i < WGF_OFFLOAD_COUNT; i++)
		states[i] = atomic_load(&device->offloads.state[i]);
	return 0;
}

int wgf_device_count_drop(struct wgf_device *device, uint32_t reason)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	if (reason >= WGF_DROP_COUNT)
		return -EINVAL;
	wgf_drop_count(device, (enum wgf_drop)reason);
	return 0;
}

static uint32_t staged_packets(struct wgf_device *device)
{
	uint32_t n = 0, cursor = 0;
	struct wgf_peer *peer;
	while ((peer = wgf_peer_next(device, &cursor)))
		n += atomic_load_explicit(&peer->staged.count, memory_order_relaxed);
	return n;
}

int wgf_device_info(struct wgf_device *device, struct wgf_device_info *info)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	memset(info, 0, sizeof *info);
	pthread_mutex_lock(&device->config);
	info->peers = device->peers.count;
	info->indices = (uint32_t)wgf_indextable_count(&device->indices);
	info->keypairs = (uint32_t)wgf_secret_pool_in_use(&device->keypair_rows);
	info->threads = device->workers.count;
	info->queues = atomic_load(&device->tun.queues_n);
	uint64_t got = atomic_load(&device->events.got); /* first, or it might pass the other */
	info->events_waiting = (uint32_t)(atomic_load(&device->events.put) - got);
	info->handshakes_waiting =
		wgf_handshakequeue_waiting(&device->answers) + wgf_handshakequeue_waiting(&device->initiations);
	info->staged = staged_packets(device);
	info->packet_memory_ceiling = device->ceiling;
	info->rows = (uint32_t)wgf_secret_pool_in_use(&device->peer_rows);
	info->rows_memory =
		wgf_secret_pool_memory(&device->peer_rows) + wgf_secret_pool_memory(&device->keypair_rows);
	info->allowedips_memory = wgf_allowedips_memory(device->allowedips);
	info->listen_port = atomic_load_explicit(&device->listen_port, memory_order_relaxed);
	pthread_mutex_unlock(&device->config);
	return 0;
}

/* The C library keeps what is freed until it is much, and much is what was once freed in one piece: tens of MiB after
 * a large table. No lock of ours is held; workers, which allocate nothing, do not notice. */
int wgf_device_trim(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	wgf_epoch_collect(&device->epoch);
#ifdef __GLIBC__
	malloc_trim(0);
#endif
	return 0;
}

int wgf_device_rotate_cookie(struct wgf_device *device, const uint8_t secret[WGF_HASH_SIZE], uint64_t now)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	wgf_cookie_rotate(&device->checker, secret, now);
	return 0;
}

bool wgf_device_under_load(struct wgf_device *device, uint64_t now)
{
	return wgf_device_alive(device) && wgf_admission_under_load(device, now);
}

int wgf_device_event_fd(struct wgf_device *device)
{
	return wgf_device_alive(device) ? device->events.fd : -EOWNERDEAD;
}

int64_t wgf_device_take_events(struct wgf_device *device, struct wgf_event *out, size_t max)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	return (int64_t)wgf_events_take(&device->events, out, max);
}

int64_t wgf_device_take_answers(struct wgf_device *device, struct wgf_queued_handshake *out, size_t max)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	return (int64_t)wgf_handshakequeue_take(&device->answers, out, max);
}

int64_t wgf_device_take_initiations(struct wgf_device *device, struct wgf_queued_handshake *out, size_t max)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	return (int64_t)wgf_handshakequeue_take(&device->initiations, out, max);
}

bool wgf_device_quiet(struct wgf_device *device)
{
	return wgf_device_alive(device) && wgf_events_quiet(&device->events);
}

uint64_t wgf_device_jitter(struct wgf_device *device, uint64_t bound)
{
	/* A Weyl sequence and a finaliser: any thread, one addition each. */
	uint64_t x = atomic_fetch_add_explicit(&device->random, UINT64_C(0x9e3779b97f4a7c15), memory_order_relaxed);
	x = (x ^ x >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
	x = (x ^ x >> 27) * UINT64_C(0x94d049bb133111eb);
	return bound ? (x ^ x >> 31) % bound : 0;
}

static int outbox_put(struct wgf_device *device, const struct wgf_endpoint *to, uint8_t tos,
		      const uint8_t *message, size_t len)
{
	struct wgf_outbox *outbox = &device->outbox;
	pthread_mutex_lock(&outbox->lock);
	bool room = outbox->count < WGF_OUTBOX;
	if (room) {
		struct wgf_outbox_message *slot = &outbox->messages[(outbox->first + outbox->count++) % WGF_OUTBOX];
		slot->endpoint = *to;
		slot->tos = tos;
		slot->length = (uint32_t)len;
		memcpy(slot->data, message, len);
	}
	pthread_mutex_unlock(&outbox->lock);
	if (!room)
		wgf_drop_count(device, WGF_DROP_SEND_SOCKET_FULL);
	return room ? 0 : -ENOBUFS;
}

static int socket_put(struct wgf_device *device, struct wgf_peer *peer, const struct wgf_endpoint *to,
		      uint8_t tos, const uint8_t *message, size_t len)
{
	bool refused = false;
	struct wgf_reader reader = {0};
	wgf_epoch_join(&device->epoch, &reader);
	wgf_epoch_enter(&device->epoch, &reader);
	struct wgf_udp *udp = atomic_load_explicit(&device->udp, memory_order_acquire);
	int error = udp ? wgf_udp_send_one(device, udp, to, tos, message, len, &refused) : -ENOTCONN;
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&device->epoch, &reader);
	if (!udp)
		wgf_drop_count(device, WGF_DROP_SEND_DOWN);
	if (refused && peer)
		wgf_endpoint_clear_source(&peer->endpoint, to);
	return error;
}

int wgf_device_send_message(struct wgf_device *device, struct wgf_peer *peer, const struct wgf_endpoint *to,
			    uint8_t tos, const uint8_t *message, size_t len)
{
	int error = device->outbox.messages ? outbox_put(device, to, tos, message, len)
					    : socket_put(device, peer, to, tos, message, len);
	if (peer && !error)
		atomic_fetch_add_explicit(&peer->sent_bytes, len, memory_order_relaxed);
	return error;
}

void wgf_device_flush(struct wgf_device *device, uint64_t now)
{
	if (!device->workers.count)
		return;
	while (atomic_load(&device->staged.flushing) && wgf_send_run(device, device->tun.queues, now) == WGF_MOVED)
		;
}

struct wgf_routes *wgf_routes_create(void)
{
	struct wgf_routes *routes = aligned_alloc(64, (sizeof *routes + 63) / 64 * 64);
	if (!routes)
		return NULL;
	if (wgf_epoch_init(&routes->epoch)) {
		free(routes);
		return NULL;
	}
	routes->table = wgf_allowedips_create(&routes->epoch);
	if (!routes->table) {
		wgf_epoch_destroy(&routes->epoch);
		free(routes);
		return NULL;
	}
	return routes;
}

void wgf_routes_destroy(struct wgf_routes *routes)
{
	if (!routes)
		return;
	wgf_allowedips_destroy(routes->table);
	wgf_epoch_destroy(&routes->epoch);
	free(routes);
}

