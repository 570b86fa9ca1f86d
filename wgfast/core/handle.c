/* Peers as the control plane sees them: settings and numbers, by handle. Each function takes the
 * device's config lock, finds the row, does one thing. */
#include "handle.h"

#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "keypair.h"

int wgf_handle_lock(struct wgf_device *device, uint64_t handle, struct wgf_peer **peer)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	*peer = wgf_peer_get(device, handle);
	if (*peer)
		return 0;
	pthread_mutex_unlock(&device->config);
	return -ESTALE;
}

void wgf_handle_unlock(struct wgf_device *device)
{
	pthread_mutex_unlock(&device->config);
	wgf_epoch_collect(&device->epoch);
}

int wgf_device_add_peer(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	int error = wgf_peer_create(device, public_key, handle);
	wgf_handle_unlock(device);
	return error;
}

int wgf_device_remove_peer(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_peer_remove(peer);
	wgf_handle_unlock(device);
	return 0;
}

int wgf_device_find_peer(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	struct wgf_peer *peer = wgf_peer_find(device, public_key);
	*handle = peer ? peer->handle : 0;
	pthread_mutex_unlock(&device->config);
	return peer ? 0 : -ENOENT;
}

int64_t wgf_device_peers(struct wgf_device *device, uint64_t *handles, size_t max)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	size_t n = 0;
	uint32_t cursor = 0;
	struct wgf_peer *peer;
	pthread_mutex_lock(&device->config);
	while ((peer = wgf_peer_next(device, &cursor))) {
		if (n < max)
			handles[n] = peer->handle;
		n++;
	}
	pthread_mutex_unlock(&device->config);
	return (int64_t)n;
}

static uint64_t relaxed(_Atomic uint64_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

static void session_info(struct wgf_peer *peer, struct wgf_peer_info *info)
{
	pthread_mutex_lock(&peer->sessions);
	struct wgf_keypair *current = atomic_load_explicit(&peer->current, memory_order_relaxed);
	if (current) {
		info->session_birth = current->birth;
		info->session_sent = relaxed(&current->next_counter);
		info->session_initiator = current->initiator;
	}
	pthread_mutex_unlock(&peer->sessions);
}

int wgf_peer_info(struct wgf_device *device, uint64_t handle, struct wgf_peer_info *info)
{
	static const uint8_t none[WGF_KEY_SIZE];
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	memset(info, 0, sizeof *info);
	info->handle = handle;
	memcpy(info->public_key, peer->public_key, WGF_KEY_SIZE);
	wgf_endpoint_load(&peer->endpoint, &info->endpoint);
	info->sent_bytes = relaxed(&peer->sent_bytes);
	info->received_bytes = relaxed(&peer->received_bytes);
	info->sent_packets = relaxed(&peer->sent_packets);
	info->received_packets = relaxed(&peer->received_packets);
	info->handshake_at = relaxed(&peer->handshake_at);
	info->staged = atomic_load_explicit(&peer->staged.count, memory_order_relaxed);
	info->persistent_keepalive =
		(uint16_t)atomic_load_explicit(&peer->persistent_interval, memory_order_relaxed);
	info->has_psk = !wgf_equal(peer->psk, none, WGF_KEY_SIZE);
	session_info(peer, info);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_set_psk(struct wgf_device *device, uint64_t handle, const uint8_t psk[WGF_KEY_SIZE])
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	if (!wgf_equal(peer->psk, psk, WGF_KEY_SIZE)) {
		memcpy(peer->psk, psk, WGF_KEY_SIZE);
		wgf_peer_drop_handshake(peer);
	}
	wgf_handle_unlock(device);
	return 0;
}

int wgf_peer_psk(struct wgf_device *device, uint64_t handle, uint8_t psk[WGF_KEY_SIZE])
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	memcpy(psk, peer->psk, WGF_KEY_SIZE);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_set_endpoint(struct wgf_device *device, uint64_t handle, const struct wgf_endpoint *endpoint)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_endpoint_store(&peer->endpoint, endpoint);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_clear_source(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_endpoint_clear_source(&peer->endpoint, NULL);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_device_clear_sources(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	uint32_t cursor = 0;
	struct wgf_peer *peer;
	pthread_mutex_lock(&device->config);
	while ((peer = wgf_peer_next(device, &cursor)))
		wgf_endpoint_clear_source(&peer->endpoint, NULL);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_set_persistent_keepalive(struct wgf_device *device, uint64_t handle, uint16_t seconds, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	if (atomic_exchange_explicit(&peer->persistent_interval, seconds, memory_order_relaxed) != seconds)
		wgf_timers_persistent_changed(device, peer, now);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_set_limits(struct wgf_device *device, uint64_t handle, const struct wgf_limits *limits, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	error = wgf_limiter_set(peer, limits, now);
	wgf_handle_unlock(device);
	return error;
}

int wgf_peer_limits(struct wgf_device *device, uint64_t handle, struct wgf_limits *limits)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_limiter_get(peer, limits);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_allow(struct wgf_device *device, uint64_t handle, enum wgf_family family, const uint8_t *address, unsigned length)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	error = wgf_allowedips_insert(device->allowedips, family, address, length, (uint32_t)handle);
	wgf_handle_unlock(device);
	return error;
}

int wgf_peer_allow_many(struct wgf_device *device, uint64_t handle, const struct wgf_prefix *prefixes, size_t n)
{
	struct wgf_allowedips *table = device->allowedips;
	struct wgf_demand demand = {.added = {0}};
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	for (size_t i = 0; i < n; i++)
		wgf_allowedips_demand(table, &demand, prefixes[i].family, prefixes[i].address, prefixes[i].length,
				      (uint32_t)handle);
	error = wgf_allowedips_admit(table, &demand);
	for (size_t i = 0; i < n && !error; i++)
		error = wgf_allowedips_insert(table, prefixes[i].family, prefixes[i].address, prefixes[i].length,
					      (uint32_t)handle);
	wgf_handle_unlock(device);
	return error;
}

int wgf_peer_disallow(struct wgf_device *device, uint64_t handle, enum wgf_family family, const uint8_t *address, unsigned length)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	error = wgf_allowedips_remove(device->allowedips, family, address, length, (uint32_t)handle);
	wgf_handle_unlock(device);
	return error;
}

int wgf_peer_disallow_all(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_allowedips_remove_owner(device->allowedips, (uint32_t)handle);
	wgf_handle_unlock(device);
	return 0;
}

int64_t wgf_peer_allowed(struct wgf_device *device, uint64_t handle, struct wgf_prefix *out, size_t max)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	size_t n = wgf_allowedips_list(device->allowedips, (uint32_t)handle, out, max);
	pthread_mutex_unlock(&device->config);
	return (int64_t)n;
}

int64_t wgf_device_prefixes(struct wgf_device *device)
{
	return wgf_device_alive(device) ? (int64_t)wgf_allowedips_count(device->allowedips) : -EOWNERDEAD;
}

int wgf_device_route(struct wgf_device *device, enum wgf_family family, const uint8_t *address, uint64_t *handle)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	struct wgf_reader reader = {0};
	wgf_epoch_join(&device->epoch, &reader);
	wgf_epoch_enter(&device->epoch, &reader);
	struct wgf_peer *peer = wgf_peer_of_address(device, (uint8_t)family, address);
	*handle = peer ? peer->handle : 0;
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&device->epoch, &reader);
	return 0;
}
