/* UDP to TUN, top-down, the mirror image of send.c:
 *
 *   1 receive    serial     the sockets; the next ticket
 *   2 classify   parallel   message type; receiver index -> keypair; handshakes go to admission.c
 *   3 open       parallel   ChaCha20-Poly1305; then the inner packet: its lengths, its source's owner
 *   4 order      in order   replay window, confirmation, endpoint, what 3 found, ECN, limits, timers
 *   5 deliver    in order   the interface
 *
 * Nothing before 4 changes any state on behalf of a sender, and nothing reaches 4 unauthenticated. */
#include "receive.h"

#include <string.h>

#include "admission.h"
#include "aead.h"
#include "bytes.h"
#include "device.h"
#include "ip.h"
#include "keypair.h"
#include "limiter.h"
#include "owners.h"
#include "tun.h"

static int read_batch(struct wgf_device *device, struct wgf_batch *batch);
static void classify(struct wgf_device *device, struct wgf_batch *batch);
static void open_batch(struct wgf_device *device, struct wgf_batch *batch);
static bool authentic(const struct wgf_batch *batch);
static void judge(struct wgf_device *device, struct wgf_batch *batch);
static void emit(struct wgf_device *device, struct wgf_batch *batch);

enum wgf_progress wgf_receive_run(struct wgf_device *device, uint64_t now, struct wgf_stranger_batch *strangers)
{
	*strangers = (struct wgf_stranger_batch){.count = 0};
	struct wgf_batch *batch = wgf_ring_claim(&device->receive_ring, &device->epoch, now);
	if (!batch)
		return WGF_BUSY;
	int n = read_batch(device, batch);
	wgf_ring_pass(&device->receive_ring, batch);
	if (n <= 0)
		return WGF_IDLE;
	wgf_receive_open(device, batch);
	if (!authentic(batch)) /* now: finished, it is another thread's */
		*strangers = (struct wgf_stranger_batch){(uint32_t)n, batch->more};
	wgf_ring_finish(&device->receive_ring, batch, device, emit);
	return strangers->count ? WGF_IDLE : WGF_MOVED;
}

/* Of what strangers send nobody has moved anything: it keeps no thread awake (worker.c). */
static bool authentic(const struct wgf_batch *batch)
{
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->packets[i].keypair)
			return true;
	return false;
}

void wgf_receive_open(struct wgf_device *device, struct wgf_batch *batch)
{
	classify(device, batch);
	open_batch(device, batch);
	judge(device, batch);
}

/* ---- 1 ---- */

static int read_batch(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_udp *udp = atomic_load_explicit(&device->udp, memory_order_acquire);
	return udp ? wgf_udp_receive(device, udp, batch) : 0;
}

/* ---- 2 ---- */

static void classify_data(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	if (packet->outer_len < WGF_DATA_OVERHEAD) {
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_SHORT);
		return;
	}
	struct wgf_index_entry *entry =
		wgf_indextable_find(&device->indices, wgf_load_le32(packet->outer + 4));
	struct wgf_keypair *keypair =
		entry ? atomic_load_explicit(&entry->keypair, memory_order_acquire) : NULL;
	packet->counter = wgf_load_le64(packet->outer + 8);
	packet->inner_len = packet->outer_len - (uint32_t)WGF_DATA_OVERHEAD;
	if (!keypair)
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_INDEX);
	else if (!wgf_keypair_can_receive(keypair, packet->counter, now))
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_EXPIRED);
	else if (packet->inner_len > packet->inner_room)
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_OVERSIZED);
	else {
		packet->keypair = keypair;
		packet->peer = entry->peer;
	}
}

/* True: it is a handshake message, and not judged yet. */
static bool classify_packet(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	if (packet->outer_len < 4) {
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_SHORT);
		return false;
	}
	switch (wgf_load_le32(packet->outer)) { /* the type, and three bytes that must be zero */
	case WGF_MESSAGE_DATA:
		classify_data(device, packet, now);
		return false;
	case WGF_MESSAGE_INITIATION:
	case WGF_MESSAGE_RESPONSE:
	case WGF_MESSAGE_COOKIE:
		return true;
	default:
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_TYPE);
		return false;
	}
}

/* The receiver indices of a batch, neighbours' once, with the first packet of each. */
struct addressed {
	uint32_t count;
	uint32_t index[WGF_BATCH_PACKETS], first[WGF_BATCH_PACKETS];
};

static void collect_addressed(const struct wgf_batch *batch, struct addressed *addressed)
{
	addressed->count = 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		const struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT || packet->outer_len < WGF_DATA_OVERHEAD ||
		    packet->outer[0] != WGF_MESSAGE_DATA)
			continue;
		uint32_t index = wgf_load_le32(packet->outer + 4), n = addressed->count;
		if (n && addressed->index[n - 1] == index)
			continue;
		addressed->index[n] = index;
		addressed->first[n] = i;
		addressed->count++;
	}
}

/* What the stages from here on look at of a peer's row and of a session. */
static void fetch_session(const struct wgf_index_entry *entry, uint64_t counter)
{
	const struct wgf_keypair *keypair = atomic_load_explicit(&entry->keypair, memory_order_acquire);
	if (!keypair)
		return;
	__builtin_prefetch(keypair->receive_key);
	__builtin_prefetch(wgf_replay_word(&keypair->replay, counter), 1);
	wgf_peer_fetch(entry->peer);
}

/* Packets of many peers need rows from all over memory: asked for before the first is looked at, they come
 * at the same time instead of one after the other. One peer's are in the cache. */
static void fetch(struct wgf_device *device, const struct wgf_batch *batch)
{
	struct addressed addressed;
	collect_addressed(batch, &addressed);
	if (addressed.count < 2)
		return;
	wgf_indextable_fetch(&device->indices, addressed.index, addressed.count);
	for (uint32_t i = 0; i < addressed.count; i++) {
		const struct wgf_index_entry *entry = wgf_indextable_find(&device->indices, addressed.index[i]);
		if (entry)
			fetch_session(entry, wgf_load_le64(batch->packets[addressed.first[i]].outer + 8));
	}
}

static void classify(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_packet *handshakes[WGF_BATCH_PACKETS];
	size_t n = 0;
	fetch(device, batch);
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop == WGF_DROP_NOT && classify_packet(device, packet, batch->now))
			handshakes[n++] = packet;
	}
	wgf_admission_judge(device, handshakes, n, batch->now);
}

/* ---- 3 ---- */

static void open_batch(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_aead_job jobs[WGF_BATCH_PACKETS];
	struct wgf_packet *of[WGF_BATCH_PACKETS];
	size_t n = 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT)
			continue;
		jobs[n] = (struct wgf_aead_job){
			.key = packet->keypair->receive_key,
			.counter = packet->counter,
			.src = packet->outer + sizeof(struct wgf_message_data),
			.dst = packet->inner,
			.len = packet->inner_len,
		};
		of[n++] = packet;
	}
	wgf_aead_open(jobs, n);
	for (size_t i = 0; i < n; i++) {
		if (jobs[i].ok)
			continue;
		wgf_drop_packet(device, of[i], WGF_DROP_RECEIVE_FORGED);
		of[i]->keypair = NULL; /* the index in it proves nothing about its sender */
		of[i]->peer = NULL;
	}
}

/* Finds out what will become of an inner packet, once it is known to be new. Its source's owner is wanted. */
static void inspect(struct wgf_packet *packet, uint32_t i, struct wgf_owners *owners)
{
	struct wgf_ip ip;
	if (!wgf_ip_parse(&ip, packet->inner, packet->inner_len)) {
		packet->refusal = WGF_DROP_RECEIVE_MALFORMED;
		return;
	}
	packet->refusal = WGF_DROP_NOT;
	packet->inner_len = ip.length; /* padding ends here */
	wgf_owners_want(owners, i, ip.family, ip.source);
}

/* The source must route back to the peer it came from, in the table of the whole device: another
 * peer's more specific prefix wins here as it does when sending. */
static void judge(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_owners owners;
	wgf_owners_begin(&owners);
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->packets[i].drop == WGF_DROP_NOT && batch->packets[i].inner_len)
			inspect(&batch->packets[i], i, &owners);
	wgf_owners_find(&owners, device->allowedips);
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop == WGF_DROP_NOT && packet->inner_len && packet->refusal == WGF_DROP_NOT &&
		    wgf_owners_of(&owners, i) != (uint32_t)packet->peer->handle)
			packet->refusal = WGF_DROP_RECEIVE_SOURCE;
	}
}

/* ---- 4 ---- */

static void put_event(struct wgf_device *device, enum wgf_event_kind kind, const struct wgf_packet *packet)
{
	struct wgf_event event = {
		.kind = kind, .peer = packet->peer->handle, .endpoint = packet->endpoint};
	wgf_events_put(&device->events, &event);
}

/* The first packet of a session we answered proves that the other side has its keys. */
static void confirm(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	if (!wgf_peer_confirm_session(packet->peer, packet->keypair))
		return;
	wgf_timers_handshake_completed(device, packet->peer, now);
	/* Without a look at the queue's count first: under the lock it is certain that whoever staged before
	 * this session is seen, or sees the session (stage_run). */
	wgf_staged_flush(device, packet->peer);
	put_event(device, WGF_EVENT_CONFIRMED, packet);
}

/* Neighbours from one peer: what was found of the last one mostly holds for the next. */
struct stretch {
	const struct wgf_packet *last; /* whose endpoint is the peer's; NULL: none yet */
	uint64_t bytes, packets;
	bool data;
};

static void admit_inner(struct wgf_device *device, struct wgf_packet *packet, struct stretch *stretch)
{
	if (packet->refusal != WGF_DROP_NOT) {
		wgf_drop_packet(device, packet, packet->refusal);
		return;
	}
	wgf_ip_ecn_decapsulate(packet->inner, packet->tos);
	stretch->packets++;
}

/* One authentic packet, if it is new. */
static void order_packet(struct wgf_device *device, struct wgf_packet *packet, uint64_t now, struct stretch *stretch)
{
	if (!wgf_replay_accept(&packet->keypair->replay, packet->counter)) {
		wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_REPLAYED);
		return;
	}
	/* Roam first: what a confirmation lets go leaves for where the packet came from. */
	if (!stretch->last || memcmp(&stretch->last->endpoint, &packet->endpoint, sizeof(packet->endpoint)) != 0)
		if (wgf_endpoint_roam(&packet->peer->endpoint, &packet->endpoint))
			put_event(device, WGF_EVENT_ROAMED, packet);
	stretch->last = packet;
	confirm(device, packet, now);
	stretch->bytes += packet->outer_len;
	if (packet->inner_len) {
		stretch->data = true;
		admit_inner(device, packet, stretch);
	} else {
		packet->drop = WGF_DROP_CONSUMED; /* a keepalive */
	}
}

/* A session we began, and still receive with alone, ends soon: renew it once while there is time. */
static void keep_fresh(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	struct wgf_keypair *current = atomic_load_explicit(&peer->current, memory_order_acquire);
	if (!current || !current->initiator_too || now < current->birth_too ||
	    now - current->birth_too < WGF_REJECT_AFTER_TIME - WGF_KEEPALIVE_TIMEOUT - WGF_REKEY_TIMEOUT)
		return;
	if (!atomic_exchange_explicit(&peer->timers.lastminute, true, memory_order_relaxed))
		wgf_timers_want_handshake(device, peer, now);
}

/* Neighbours from one peer: timers once for all of them. */
static uint32_t order_run(struct wgf_device *device, struct wgf_batch *batch, uint32_t from)
{
	struct wgf_peer *peer = batch->packets[from].peer;
	struct stretch stretch = {.last = NULL};
	uint32_t i = from;
	for (; i < batch->count && batch->packets[i].peer == peer; i++)
		if (batch->packets[i].drop == WGF_DROP_NOT)
			order_packet(device, &batch->packets[i], batch->now, &stretch);
	const struct wgf_limiter *limiter = atomic_load_explicit(&peer->limiter, memory_order_acquire);
	if (limiter)
		stretch.packets -= wgf_limiter_charge(device, limiter, WGF_RECEIVING, &batch->packets[from], i - from,
						      batch->now);
	atomic_fetch_add_explicit(&peer->received_bytes, stretch.bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&peer->received_packets, stretch.packets, memory_order_relaxed);
	if (stretch.last) {
		keep_fresh(device, peer, batch->now);
		wgf_timers_authenticated_received(device, peer, batch->now);
	}
	if (stretch.data)
		wgf_timers_data_received(device, peer, batch->now);
	return i - from;
}

void wgf_receive_order(struct wgf_device *device, struct wgf_batch *batch)
{
	for (uint32_t i = 0; i < batch->count;)
		i += batch->packets[i].keypair ? order_run(device, batch, i) : 1;
}

/* ---- 4 and 5 ---- */

static void emit(struct wgf_device *device, struct wgf_batch *batch)
{
	wgf_receive_order(device, batch);
	wgf_tun_write(device, batch);
}
