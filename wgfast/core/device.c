/* The device's life: memory, identity, ports. Everything a reader may hold is published by one atomic
 * store and retired through the epoch; every change is made under device->config. */
#include "device.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "handle.h"
#include "keypair.h"
#include "random.h"
#include "send.h"
#include "tun.h"
#include "wgfast.h"

bool wgf_device_alive(const struct wgf_device *device)
{
	return device && atomic_load_explicit(&((struct wgf_device *)(uintptr_t)device)->alive,
					      memory_order_relaxed) == WGF_ALIVE;
}

/* ---- memory ---- */

static int init_pools(struct wgf_device *device)
{
	int error = wgf_secret_pool_init(&device->peer_rows, sizeof(struct wgf_peer));
	if (!error)
		error = wgf_secret_pool_init(&device->keypair_rows, sizeof(struct wgf_keypair));
	if (!error)
		error = wgf_secret_pool_init(&device->identity_rows, sizeof(struct wgf_identity));
	return error;
}

static int init_tables(struct wgf_device *device)
{
	int error = wgf_epoch_init(&device->epoch);
	if (!error)
		error = wgf_peertable_init(&device->peers);
	if (!error)
		error = wgf_indextable_init(&device->indices, &device->epoch);
	if (error)
		return error;
	device->allowedips = wgf_allowedips_create(&device->epoch);
	return device->allowedips ? 0 : -ENOMEM;
}

/* Batches enough that a thread can read while others seal, and one for the control plane's flushes. */
static int init_path(struct wgf_device *device, uint32_t threads, uint32_t queues)
{
	struct wgf_workers *workers = &device->workers;
	workers->count = threads;
	if (!threads) {
		device->outbox.messages = wgf_secret_map(WGF_OUTBOX * sizeof *device->outbox.messages);
		return device->outbox.messages ? 0 : -ENOMEM;
	}
	size_t batches = threads == 1 ? 2 : 2 * (size_t)threads;
	workers->each = calloc(threads, sizeof *workers->each);
	if (!workers->each)
		return -ENOMEM;
	int error = wgf_tun_init(&device->tun, queues, queues == 1 ? batches : threads + 1, &device->epoch,
				 &device->ceiling);
	if (!error)
		error = wgf_ring_init(&device->receive_ring, batches, WGF_RECEIVE_ROOM, &device->epoch, &device->ceiling);
	return error;
}

static int init_queues(struct wgf_device *device)
{
	int error = wgf_staged_init(&device->staged);
	if (!error)
		error = wgf_events_init(&device->events);
	if (!error)
		error = wgf_handshakequeue_init(&device->answers);
	if (!error)
		error = wgf_handshakequeue_init(&device->initiations);
	if (!error)
		error = wgf_cookie_checker_init(&device->checker);
	if (!error)
		error = wgf_ratelimit_init(&device->ratelimit);
	device->ceiling += WGF_STAGED_BYTES;
	return error;
}

struct wgf_device *wgf_device_create(const struct wgf_device_options *options)
{
	if (options->threads > WGF_THREADS_MAX || options->queues > WGF_QUEUES_MAX) {
		errno = EINVAL;
		return NULL;
	}
	struct wgf_device *device = wgf_secret_map(sizeof *device);
	if (!device) {
		errno = ENOMEM;
		return NULL;
	}
	atomic_init(&device->alive, WGF_ALIVE);
	for (uint32_t i = 0; i < WGF_QUEUES_MAX; i++)
		atomic_init(&device->tun.queues[i].fd, -1);
	wgf_offload_switch_off(&device->offloads, options->offloads_off);
	atomic_init(&device->mtu, WGF_MTU_DEFAULT);
	atomic_init(&device->planned, UINT64_MAX);
	device->events.fd = -1;
	device->workers.wake = -1;
	pthread_mutex_init(&device->config, NULL);
	pthread_mutex_init(&device->receive_order, NULL);
	pthread_mutex_init(&device->outbox.lock, NULL);
	uint64_t seed = 0;
	int error = wgf_random(&seed, sizeof(seed)) ? 0 : -EIO;
	atomic_init(&device->random, seed);
	if (!error)
		error = init_pools(device);
	if (!error)
		error = init_tables(device);
	if (!error)
		error = init_path(device, options->threads, options->queues ? options->queues : 1);
	if (!error)
		error = init_queues(device);
	if (error) {
		wgf_device_destroy(device);
		errno = -error;
		return NULL;
	}
	return device;
}

static void remove_peers(struct wgf_device *device)
{
	uint32_t cursor = 0;
	struct wgf_peer *peer;
	if (!device->peers.rows || !device->staged.chunks)
		return;
	while ((peer = wgf_peer_next(device, &cursor)))
		wgf_peer_remove(peer);
}

static void identity_release(struct wgf_retired *retired)
{
	struct wgf_identity *identity = (struct wgf_identity *)retired;
	wgf_secret_give(&identity->device->identity_rows, identity);
}

/* Under device->config. */
static void publish_identity(struct wgf_device *device, struct wgf_identity *identity)
{
	struct wgf_identity *old =
		atomic_exchange_explicit(&device->identity, identity, memory_order_acq_rel);
	if (old)
		wgf_epoch_retire(&device->epoch, &old->retired, identity_release);
}

static void udp_release(struct wgf_retired *retired)
{
	wgf_udp_close((struct wgf_udp *)retired);
}

static void publish_udp(struct wgf_device *device, struct wgf_udp *udp)
{
	atomic_store_explicit(&device->listen_port, udp ? udp->port : 0, memory_order_relaxed);
	struct wgf_udp *old = atomic_exchange_explicit(&device->udp, udp, memory_order_acq_rel);
	if (old)
		wgf_epoch_retire(&device->epoch, &old->retired, udp_release);
}

void wgf_device_destroy(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return;
	wgf_workers_stop(device);
	remove_peers(device);
	publish_identity(device, NULL);
	publish_udp(device, NULL);
	wgf_tun_destroy(&device->tun, &device->epoch);
	wgf_ring_destroy(&device->receive_ring, &device->epoch);
	wgf_ratelimit_destroy(&device->ratelimit);
	wgf_cookie_checker_wipe(&device->checker);
	wgf_handshakequeue_destroy(&device->initiations);
	wgf_handshakequeue_destroy(&device->answers);
	wgf_events_destroy(&device->events);
	if (device->allowedips)
		wgf_allowedips_destroy(device->allowedips);
	wgf_epoch_destroy(&device->epoch); /* releases what was retired: rows go back to their pools */
	wgf_staged_destroy(&device->staged);
	wgf_indextable_destroy(&device->indices);
	wgf_peertable_destroy(&device->peers);
	wgf_secret_pool_destroy(&device->peer_rows);
	wgf_secret_pool_destroy(&device->keypair_rows);
	wgf_secret_pool_destroy(&device->identity_rows);
	if (device->outbox.messages)
		wgf_secret_unmap(device->outbox.messages, WGF_OUTBOX * sizeof *device->outbox.messages);
	free(device->workers.each);
	pthread_mutex_destroy(&device->config);
	pthread_mutex_destroy(&device->receive_order);
	pthread_mutex_destroy(&device->outbox.lock);
	wgf_secret_unmap(device, sizeof *device);
}

/* ---- identity ---- */

/* What the old key made is void: running handshakes, sessions, static-static secrets. */
static void forget_old_key(struct wgf_device *device)
{
	uint32_t cursor = 0;
	struct wgf_peer *peer;
	while ((peer = wgf_peer_next(device, &cursor))) {
		wgf_peer_end_sessions(peer);
		wgf_wipe(peer->shared, sizeof peer->shared);
		peer->has_shared = false;
		/* The new key's handshake need not wait for the old one's. The greatest time stamp stays: were this
		 * key to come back, initiations recorded under it would be taken again. */
		atomic_store(&peer->timers.handshake_sent, 0);
	}
}

int wgf_device_set_identity(struct wgf_device *device, const uint8_t *private_key, const uint8_t *public_key)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	struct wgf_identity *identity = NULL;
	if (private_key) {
		identity = wgf_secret_take(&device->identity_rows);
		if (!identity)
			return -ENOMEM;
		identity->device = device;
		memcpy(identity->private_key, private_key, WGF_KEY_SIZE);
		memcpy(identity->public_key, public_key, WGF_KEY_SIZE);
		wgf_cookie_keys(&identity->cookie_keys, public_key);
		wgf_cookie_mac1_start(&identity->mac1, &identity->cookie_keys);
	}
	pthread_mutex_lock(&device->config);
	publish_identity(device, identity);
	forget_old_key(device);
	wgf_handle_unlock(device);
	return 0;
}

int wgf_device_identity(struct wgf_device *device, uint8_t *private_key, uint8_t *public_key)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	struct wgf_identity *identity = atomic_load_explicit(&device->identity, memory_order_relaxed);
	if (identity && private_key)
		memcpy(private_key, identity->private_key, WGF_KEY_SIZE);
	if (identity && public_key)
		memcpy(public_key, identity->public_key, WGF_KEY_SIZE);
	pthread_mutex_unlock(&device->config);
	return identity ? 0 : -ENOKEY;
}

/* ---- ports ---- */

int wgf_device_set_mtu(struct wgf_device *device, uint32_t mtu)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	atomic_store_explicit(&device->mtu, mtu, memory_order_relaxed);
	return 0;
}

int wgf_device_set_tun(struct wgf_device *device, int fd)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	if (!device->workers.count || device->workers.running)
		return -EBUSY;
	return wgf_tun_adopt(device, fd);
}

static const struct wgf_udp_keeper *keeper_of(const struct wgf_device *device)
{
	return device->keeper.prepare ? &device->keeper : NULL;
}

int wgf_device_set_keeper(struct wgf_device *device, int (*prepare)(void *, int, int, uint32_t), void *context)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	device->keeper = (struct wgf_udp_keeper){prepare, context};
	wgf_handle_unlock(device);
	return 0;
}

int wgf_device_bind(struct wgf_device *device, uint16_t port, uint32_t fwmark, uint16_t *bound)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	if (!device->workers.count)
		return -EOPNOTSUPP;
	struct wgf_udp *udp;
	pthread_mutex_lock(&device->config);
	wgf_epoch_collect(&device->epoch); /* the port may be one we left a moment ago */
	int error = wgf_udp_open(&udp, port, fwmark, keeper_of(device));
	if (!error) {
		wgf_udp_try_offloads(udp, &device->offloads);
		error = wgf_workers_watch(device, udp);
		if (error)
			wgf_udp_close(udp); /* which unwatches it */
	}
	if (!error) {
		*bound = udp->port;
		publish_udp(device, udp);
	}
	wgf_handle_unlock(device);
	return error;
}

void wgf_device_unbind(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return;
	pthread_mutex_lock(&device->config);
	publish_udp(device, NULL);
	wgf_handle_unlock(device);
}

int wgf_device_set_fwmark(struct wgf_device *device, uint32_t fwmark)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	struct wgf_udp *udp = atomic_load_explicit(&device->udp, memory_order_relaxed);
	int error = udp ? wgf_udp_set_mark(udp, fwmark, keeper_of(device)) : 0;
	pthread_mutex_unlock(&device->config);
	return error;
}

int wgf_device_start(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	if (!device->workers.count)
		return -EOPNOTSUPP;
	pthread_mutex_lock(&device->config);
	int error = wgf_workers_start(device);
	pthread_mutex_unlock(&device->config);
	return error;
}

int wgf_device_stop(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	wgf_workers_stop(device);
	wgf_handle_unlock(device);
	return 0;
}
