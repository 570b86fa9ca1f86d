/* Handshakes as noise.py needs them of the device: secrets that stay in C, receiver indices, and the
 * moment at which a finished handshake becomes a session. */
#include <errno.h>
#include <string.h>

#include "bytes.h"
#include "handle.h"
#include "handshake.h"
#include "keypair.h"
#include "timers.h"

int wgf_device_dh(struct wgf_device *device, struct wgf_handshake *hs, const struct wgf_x25519 *x25519, const uint8_t point[WGF_KEY_SIZE])
{
	int error = wgf_device_identity(device, hs->private_key, NULL);
	if (error)
		return error;
	return wgf_handshake_dh_private(hs, x25519, point) ? 0 : -EDOM;
}

int wgf_peer_mix_static(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	if (peer->has_shared)
		wgf_handshake_mix_secret(hs, peer->shared);
	else
		error = -ENOKEY;
	pthread_mutex_unlock(&device->config);
	return error;
}

int wgf_peer_learn_static(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	memcpy(peer->shared, hs->shared, WGF_KEY_SIZE);
	peer->has_shared = true;
	wgf_handshake_mix_shared(hs);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_mix_psk(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_handshake_mix_psk(hs, peer->psk);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_accept_timestamp(struct wgf_device *device, uint64_t handle, const uint8_t stamp[WGF_TIMESTAMP_SIZE], uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	/* Big-endian seconds, then nanoseconds: the order of the bytes is the order of the times. */
	if (memcmp(stamp, peer->latest_timestamp, WGF_TIMESTAMP_SIZE) <= 0) {
		error = -EALREADY;
	} else if (peer->initiation_consumed && now - peer->initiation_consumed < WGF_INITIATION_INTERVAL) {
		error = -EBUSY;
	} else {
		memcpy(peer->latest_timestamp, stamp, WGF_TIMESTAMP_SIZE);
		peer->initiation_consumed = now;
	}
	pthread_mutex_unlock(&device->config);
	return error;
}

/* Exchanges the index of our running initiation or answer (NULL: none from now on). */
static void set_index(struct wgf_peer *peer, struct wgf_index_entry **slot, struct wgf_index_entry *entry)
{
	pthread_mutex_lock(&peer->sessions);
	struct wgf_index_entry *old = *slot;
	*slot = entry;
	pthread_mutex_unlock(&peer->sessions);
	if (old)
		wgf_indextable_remove(&peer->device->indices, old);
}

/* Takes the index out of its slot, if it is the one there; it stays in the table. NULL: it is not. */
static struct wgf_index_entry *take_index(struct wgf_peer *peer, struct wgf_index_entry **slot, uint32_t local_index)
{
	pthread_mutex_lock(&peer->sessions);
	struct wgf_index_entry *entry = *slot;
	if (entry && entry->index == local_index)
		*slot = NULL;
	else
		entry = NULL;
	pthread_mutex_unlock(&peer->sessions);
	return entry;
}

void wgf_peer_drop_handshake(struct wgf_peer *peer)
{
	set_index(peer, &peer->handshake, NULL);
}

int wgf_peer_begin_handshake(struct wgf_device *device, uint64_t handle, uint32_t *local_index)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	struct wgf_index_entry *entry = wgf_indextable_insert(&device->indices, peer);
	if (entry) {
		*local_index = entry->index;
		set_index(peer, &peer->handshake, entry);
	}
	wgf_handle_unlock(device);
	return entry ? 0 : -ENOMEM;
}

int wgf_peer_end_handshake(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_peer_drop_handshake(peer);
	wgf_handle_unlock(device);
	return 0;
}

int wgf_peer_send_handshake(struct wgf_device *device, uint64_t handle, uint8_t *message, size_t len, uint64_t now)
{
	struct wgf_peer *peer;
	struct wgf_endpoint to;
	if (len != sizeof(struct wgf_message_initiation) && len != sizeof(struct wgf_message_response))
		return -EINVAL;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_cookie_add_macs(&peer->jar, message, len, now);
	if (message[0] == WGF_MESSAGE_INITIATION)
		wgf_timers_initiation_sent(device, peer, now);
	else
		wgf_timers_response_sent(peer, now);
	wgf_timers_authenticated_sent(device, peer, now);
	wgf_endpoint_load(&peer->endpoint, &to);
	error = to.family ? wgf_device_send_message(device, peer, &to, WGF_HANDSHAKE_DSCP, message, len)
			  : -EDESTADDRREQ;
	pthread_mutex_unlock(&device->config);
	return error;
}

/* Makes the session and publishes it; what waited may go once it can send. entry NULL: that handshake is no
 * longer the peer's. hs is wiped whatever comes. */
static int begin_session(struct wgf_peer *peer, struct wgf_handshake *hs, struct wgf_index_entry *entry,
			 uint32_t remote_index, bool initiator, uint64_t now)
{
	struct wgf_keypair *keypair = NULL;
	if (entry)
		keypair = wgf_keypair_create(peer->device, hs, entry, remote_index, initiator, now);
	wgf_handshake_wipe(hs);
	if (!keypair) {
		if (entry)
			wgf_indextable_remove(&peer->device->indices, entry);
		return entry ? -ENOMEM : -ESTALE;
	}
	wgf_peer_begin_session(peer, keypair, now);
	return 0;
}

int wgf_peer_begin_session_initiator(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs, uint32_t local_index, uint32_t remote_index, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	error = begin_session(peer, hs, take_index(peer, &peer->handshake, local_index), remote_index, true, now);
	if (!error) {
		wgf_timers_handshake_completed(device, peer, now);
		wgf_staged_put(device, peer, NULL, 0); /* confirms the keys, if nothing else waits */
		wgf_staged_flush(device, peer);
	}
	wgf_handle_unlock(device);
	if (!error)
		wgf_device_flush(device, now);
	return error;
}

int wgf_peer_begin_answer(struct wgf_device *device, uint64_t handle, uint32_t *local_index)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	struct wgf_index_entry *entry = wgf_indextable_insert(&device->indices, peer);
	if (entry) {
		*local_index = entry->index;
		set_index(peer, &peer->answer, entry);
	}
	wgf_handle_unlock(device);
	return entry ? 0 : -ENOMEM;
}

int wgf_peer_end_answer(struct wgf_device *device, uint64_t handle, uint32_t local_index)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	struct wgf_index_entry *entry = take_index(peer, &peer->answer, local_index);
	if (entry)
		wgf_indextable_remove(&device->indices, entry);
	wgf_handle_unlock(device);
	return entry ? 0 : -ESTALE;
}

int wgf_peer_begin_session_responder(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs, uint32_t local_index, uint32_t remote_index, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	error = begin_session(peer, hs, take_index(peer, &peer->answer, local_index), remote_index, false, now);
	wgf_handle_unlock(device);
	return error;
}

int wgf_peer_heard(struct wgf_device *device, uint64_t handle, const struct wgf_endpoint *from, size_t message_len, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	bool moved = wgf_endpoint_roam(&peer->endpoint, from);
	atomic_fetch_add_explicit(&peer->received_bytes, message_len, memory_order_relaxed);
	wgf_timers_authenticated_received(device, peer, now);
	pthread_mutex_unlock(&device->config);
	return moved;
}

int64_t wgf_device_scan(struct wgf_device *device, uint64_t now, struct wgf_owed *owed, size_t max, uint64_t *next)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	size_t n = wgf_timers_scan(device, now, owed, max, next);
	wgf_epoch_collect(&device->epoch);
	return (int64_t)n;
}

int wgf_peer_send_keepalive(struct wgf_device *device, uint64_t handle, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_staged_put(device, peer, NULL, 0);
	wgf_staged_flush(device, peer);
	pthread_mutex_unlock(&device->config);
	wgf_device_flush(device, now);
	return 0;
}

int wgf_peer_handshake_sent(struct wgf_device *device, uint64_t handle, uint64_t *at)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	*at = atomic_load_explicit(&peer->timers.handshake_sent, memory_order_relaxed);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_want_handshake(struct wgf_device *device, uint64_t handle, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_timers_want_handshake(device, peer, now);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_want_handshake_done(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	atomic_store(&peer->timers.handshake_wanted, WGF_WANTED_NOT);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_arm_retransmit(struct wgf_device *device, uint64_t handle, uint64_t at)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_timers_arm_retransmit(device, peer, at);
	pthread_mutex_unlock(&device->config);
	return 0;
}

int wgf_peer_give_up(struct wgf_device *device, uint64_t handle, uint64_t now)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_peer_drop_handshake(peer);
	wgf_timers_give_up(device, peer, now);
	wgf_staged_purge(device, peer);
	wgf_handle_unlock(device);
	return 0;
}

int wgf_peer_stop(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_timers_stop(peer);
	wgf_peer_end_sessions(peer);
	wgf_staged_purge(device, peer);
	wgf_handle_unlock(device);
	return 0;
}

int wgf_peer_zero_keys(struct wgf_device *device, uint64_t handle)
{
	struct wgf_peer *peer;
	int error = wgf_handle_lock(device, handle, &peer);
	if (error)
		return error;
	wgf_peer_end_sessions(peer);
	wgf_handle_unlock(device);
	return 0;
}
