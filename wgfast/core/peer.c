/* The sessions of a peer: three slots, as Linux keeps them. `current` sends; `previous` still
 * receives what was on its way; `next` is a session we answered and may not use until its first packet
 * proves that the other side has the keys. Slots change under peer->sessions, a few times in two
 * minutes; the packet path only loads them. */
#include "peer.h"

#include "device.h"
#include "keypair.h"

/* Under peer->sessions. Returns what stood there. */
static struct wgf_keypair *swap(_Atomic(struct wgf_keypair *) *slot, struct wgf_keypair *keypair)
{
	return atomic_exchange_explicit(slot, keypair, memory_order_acq_rel);
}

/* A session we began is confirmed by the response itself. If a session we answered was still waiting
 * as next, the other side may already send with it: it becomes previous, rather than current. */
static void install_initiated(struct wgf_peer *peer, struct wgf_keypair *keypair)
{
	struct wgf_keypair *next = swap(&peer->next, NULL);
	struct wgf_keypair *current = swap(&peer->current, keypair);
	if (next) {
		wgf_keypair_retire(swap(&peer->previous, next));
		wgf_keypair_retire(current);
	} else {
		wgf_keypair_retire(swap(&peer->previous, current));
	}
}

static void install_answered(struct wgf_peer *peer, struct wgf_keypair *keypair)
{
	wgf_keypair_retire(swap(&peer->next, keypair));
	wgf_keypair_retire(swap(&peer->previous, NULL));
}

void wgf_peer_begin_session(struct wgf_peer *peer, struct wgf_keypair *keypair, uint64_t now)
{
	bool initiator = keypair->initiator;
	pthread_mutex_lock(&peer->sessions);
	if (initiator)
		install_initiated(peer, keypair);
	else
		install_answered(peer, keypair);
	pthread_mutex_unlock(&peer->sessions);
	wgf_timers_session_derived(peer->device, peer, now);
}

bool wgf_peer_confirm_session(struct wgf_peer *peer, struct wgf_keypair *keypair)
{
	if (atomic_load_explicit(&peer->next, memory_order_acquire) != keypair)
		return false;
	pthread_mutex_lock(&peer->sessions);
	bool confirmed = atomic_load_explicit(&peer->next, memory_order_relaxed) == keypair;
	if (confirmed) {
		swap(&peer->next, NULL);
		wgf_keypair_retire(swap(&peer->previous, swap(&peer->current, keypair)));
	}
	pthread_mutex_unlock(&peer->sessions);
	return confirmed;
}

static void drop_index(struct wgf_peer *peer, struct wgf_index_entry **entry)
{
	if (*entry)
		wgf_indextable_remove(&peer->device->indices, *entry);
	*entry = NULL;
}

void wgf_peer_end_sessions(struct wgf_peer *peer)
{
	pthread_mutex_lock(&peer->sessions);
	wgf_keypair_retire(swap(&peer->current, NULL));
	wgf_keypair_retire(swap(&peer->previous, NULL));
	wgf_keypair_retire(swap(&peer->next, NULL));
	drop_index(peer, &peer->handshake);
	drop_index(peer, &peer->answer);
	pthread_mutex_unlock(&peer->sessions);
}

struct wgf_keypair *wgf_peer_sending_keypair(struct wgf_peer *peer, uint64_t now)
{
	struct wgf_keypair *keypair = atomic_load_explicit(&peer->current, memory_order_acquire);
	return keypair && wgf_keypair_can_send(keypair, now) ? keypair : NULL;
}
