/* Which handshake messages may cost us a Diffie-Hellman, decided without Python (whitepaper section
 * 5.3): mac1 proves that the sender knows our public key; while handshakes stand in line, mac2 proves
 * that it receives at its address, and one source gets only so many a second. A flood costs mac1 more than anything
 * else, so those of a batch are computed side by side. Roaming is not our
 * business here: nothing in these messages is authenticated yet, and a cookie reply never is. */
#include "admission.h"

#include <string.h>

#include "bytes.h"
#include "device.h"

static size_t size_of(uint32_t type)
{
	switch (type) {
	case WGF_MESSAGE_INITIATION:
		return sizeof(struct wgf_message_initiation);
	case WGF_MESSAGE_RESPONSE:
		return sizeof(struct wgf_message_response);
	default:
		return sizeof(struct wgf_message_cookie);
	}
}

/* Whom a response or cookie reply answers. NULL: nobody asked. */
static struct wgf_index_entry *addressee(struct wgf_device *device, const struct wgf_packet *packet,
					 size_t offset)
{
	return wgf_indextable_find(&device->indices, wgf_load_le32(packet->outer + offset));
}

/* peer: whose initiation it answers, NULL for an initiation. */
static void queue(struct wgf_device *device, struct wgf_packet *packet, const struct wgf_peer *peer)
{
	struct wgf_queued_handshake message = {.peer = peer ? peer->handle : 0, .endpoint = packet->endpoint,
					       .length = packet->outer_len};
	memcpy(message.data, packet->outer, packet->outer_len);
	if (wgf_handshakequeue_put(peer ? &device->answers : &device->initiations, &message))
		wgf_drop_count(device, WGF_DROP_HANDSHAKE_QUEUE); /* another one */
	packet->drop = WGF_DROP_CONSUMED;
	wgf_events_wake(&device->events);
}

/* The cookie is in the jar; that nobody hears of it, where the queue is full, drops nothing. */
static void say_cookie(struct wgf_device *device, struct wgf_packet *packet, const struct wgf_peer *peer)
{
	struct wgf_event event = {.kind = WGF_EVENT_COOKIE, .peer = peer->handle, .endpoint = packet->endpoint};
	wgf_events_put(&device->events, &event);
	packet->drop = WGF_DROP_CONSUMED;
}

static void judge_cookie(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	struct wgf_index_entry *entry = addressee(device, packet, 4);
	struct wgf_message_cookie reply;
	memcpy(&reply, packet->outer, sizeof reply);
	if (!entry)
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_INDEX);
	else if (!wgf_cookie_consume(&entry->peer->jar, &reply, now))
		wgf_drop_packet(device, packet, WGF_DROP_COOKIE_INVALID);
	else
		say_cookie(device, packet, entry->peer);
}

/* That it has ended, the control plane finds out by asking. */
static void say_load(struct wgf_device *device)
{
	struct wgf_event event = {.kind = WGF_EVENT_LOAD, .value = 1};
	wgf_events_put(&device->events, &event);
}

static uint32_t waiting(const struct wgf_device *device)
{
	return wgf_handshakequeue_waiting(&device->answers) + wgf_handshakequeue_waiting(&device->initiations);
}

/* While it lasts a flood whose senders show no cookie leaves the queue empty: it is by those turned away that it is
 * known to go on. Were it let in every time the load seems over, each time would cost a queue's worth. */
static bool goes_on(struct wgf_device *device, uint64_t since, uint64_t now)
{
	uint32_t turned_away = atomic_exchange_explicit(&device->turned_away, 0, memory_order_relaxed);
	return turned_away >= WGF_UNDER_LOAD_HANDSHAKES && now - since < 2 * WGF_UNDER_LOAD_LINGER;
}

bool wgf_admission_under_load(struct wgf_device *device, uint64_t now)
{
	if (waiting(device) >= WGF_UNDER_LOAD_HANDSHAKES) {
		if (!atomic_exchange_explicit(&device->loaded_at, now | 1, memory_order_relaxed))
			say_load(device);
		return true;
	}
	uint64_t at = atomic_load_explicit(&device->loaded_at, memory_order_relaxed);
	if (!at)
		return false;
	if (now < at || now - at < WGF_UNDER_LOAD_LINGER)
		return true;
	/* One thread counts; for the others there is load meanwhile. */
	uint64_t since = at;
	if (!atomic_compare_exchange_strong_explicit(&device->loaded_at, &at, now | 1, memory_order_relaxed,
						     memory_order_relaxed))
		return at != 0;
	if (goes_on(device, since, now))
		return true;
	atomic_store_explicit(&device->loaded_at, 0, memory_order_relaxed);
	return false;
}

static void turn_away(struct wgf_device *device, struct wgf_packet *packet, enum wgf_drop reason)
{
	atomic_fetch_add_explicit(&device->turned_away, 1, memory_order_relaxed);
	wgf_drop_packet(device, packet, reason);
}

/* Under load. False: answered or dropped. */
static bool may_pass(struct wgf_device *device, struct wgf_packet *packet,
		     const struct wgf_identity *identity, uint64_t now)
{
	struct wgf_message_cookie reply;
	if (!wgf_cookie_mac2_valid(&device->checker, &packet->endpoint, packet->outer, packet->outer_len, now)) {
		if (wgf_cookie_reply(&device->checker, &identity->cookie_keys, &packet->endpoint, packet->outer,
				     packet->outer_len, now, &reply))
			wgf_device_send_message(device, NULL, &packet->endpoint, 0, (const uint8_t *)&reply,
						sizeof reply);
		turn_away(device, packet, WGF_DROP_HANDSHAKE_COOKIE);
		return false;
	}
	if (!wgf_ratelimit_allow(&device->ratelimit, &packet->endpoint, now)) {
		turn_away(device, packet, WGF_DROP_HANDSHAKE_RATE);
		return false;
	}
	return true;
}

/* Its sender knows our public key. */
static void admit(struct wgf_device *device, struct wgf_packet *packet, const struct wgf_identity *identity,
		  uint64_t now)
{
	if (wgf_admission_under_load(device, now) && !may_pass(device, packet, identity, now))
		return;
	if (packet->outer[0] == WGF_MESSAGE_INITIATION) {
		queue(device, packet, NULL);
		return;
	}
	struct wgf_index_entry *entry = addressee(device, packet, offsetof(struct wgf_message_response, receiver));
	if (entry && !atomic_load_explicit(&entry->keypair, memory_order_acquire))
		queue(device, packet, entry->peer);
	else
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_INDEX);
}

/* Initiations, or responses: all of one length. */
static void judge_handshakes(struct wgf_device *device, struct wgf_packet *const *packets, size_t n, uint64_t now)
{
	const uint8_t *messages[WGF_BATCH_PACKETS];
	bool valid[WGF_BATCH_PACKETS];
	struct wgf_identity *identity = atomic_load_explicit(&device->identity, memory_order_acquire);
	if (n == 0)
		return;
	for (size_t i = 0; i < n; i++)
		messages[i] = packets[i]->outer;
	if (identity)
		wgf_cookie_mac1_valid(&identity->mac1, messages, n, packets[0]->outer_len, valid);
	for (size_t i = 0; i < n; i++)
		if (!identity)
			wgf_drop_packet(device, packets[i], WGF_DROP_HANDSHAKE_NO_KEY);
		else if (!valid[i])
			wgf_drop_packet(device, packets[i], WGF_DROP_HANDSHAKE_MAC1);
		else
			admit(device, packets[i], identity, now);
}

void wgf_admission_judge(struct wgf_device *device, struct wgf_packet *const *packets, size_t n, uint64_t now)
{
	struct wgf_packet *initiations[WGF_BATCH_PACKETS], *responses[WGF_BATCH_PACKETS];
	size_t initiations_n = 0, responses_n = 0;
	for (size_t i = 0; i < n; i++) {
		struct wgf_packet *packet = packets[i];
		uint32_t type = packet->outer[0];
		if (packet->outer_len != size_of(type))
			wgf_drop_packet(device, packet,
					packet->outer_len < size_of(type) ? WGF_DROP_RECEIVE_SHORT
									  : WGF_DROP_RECEIVE_OVERSIZED);
		else if (type == WGF_MESSAGE_COOKIE)
			judge_cookie(device, packet, now);
		else if (type == WGF_MESSAGE_INITIATION)
			initiations[initiations_n++] = packet;
		else
			responses[responses_n++] = packet;
	}
	judge_handshakes(device, responses, responses_n, now);
	judge_handshakes(device, initiations, initiations_n, now);
}
