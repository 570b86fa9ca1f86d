/* TUN to UDP, top-down:
 *
 *   1 read       serial     staged packets that may go, else a queue of the interface; its next ticket
 *   2 route      parallel   destination -> peer, endpoint, ECN
 *   3 reserve    parallel   session, limits and counters; what has no session is staged
 *   4 seal       parallel   header, padding, ChaCha20-Poly1305
 *   5 emit       in order   sockets, accounts, timers
 *
 * A batch's reader pins peers and keypairs from 1 to 5, so a pointer found in 2 is good in 5 even when
 * another thread emits. Stages work on the batch as a whole or on runs of neighbours with one peer. */
#include "send.h"

#include <string.h>

#include "aead.h"
#include "bytes.h"
#include "device.h"
#include "ip.h"
#include "keypair.h"
#include "limiter.h"
#include "owners.h"
#include "tun.h"

static int read_batch(struct wgf_device *device, struct wgf_queue *queue, struct wgf_batch *batch);
static void route(struct wgf_device *device, struct wgf_batch *batch);
static void reserve(struct wgf_device *device, struct wgf_batch *batch);
static void seal(struct wgf_device *device, struct wgf_batch *batch);
static void emit(struct wgf_device *device, struct wgf_batch *batch);

/* Staged packets leave through the first queue's ring. */
static bool is_first(const struct wgf_device *device, const struct wgf_queue *queue)
{
	return queue == device->tun.queues;
}

static enum wgf_progress send_once(struct wgf_device *device, struct wgf_queue *queue, uint64_t now)
{
	/* What waits, or is on its way, came before anything that is read now. */
	if (!is_first(device, queue) && (atomic_load(&device->staged.flushing) || atomic_load(&device->staged.under_way)))
		return WGF_BUSY;
	struct wgf_batch *batch = wgf_ring_claim(&queue->ring, &device->epoch, now);
	if (!batch)
		return WGF_BUSY;
	batch->mtu = atomic_load_explicit(&device->mtu, memory_order_relaxed);
	int n = read_batch(device, queue, batch);
	wgf_ring_pass(&queue->ring, batch);
	if (n <= 0)
		return n < 0 ? WGF_GONE : WGF_IDLE;
	wgf_send_seal(device, batch);
	wgf_ring_finish(&queue->ring, batch, device, emit);
	return WGF_MOVED;
}

enum wgf_progress wgf_send_run(struct wgf_device *device, struct wgf_queue *queue, uint64_t now)
{
	enum wgf_progress progress;
	/* A flush that was asked for while we read, by a thread that found us reading, is ours to do. */
	do
		progress = send_once(device, queue, now);
	while ((progress == WGF_IDLE || progress == WGF_GONE) && is_first(device, queue) &&
	       atomic_load(&device->staged.flushing));
	return progress;
}

void wgf_send_seal(struct wgf_device *device, struct wgf_batch *batch)
{
	route(device, batch);
	reserve(device, batch);
	seal(device, batch);
}

/* ---- 1 ---- */

static bool take_staged(struct wgf_device *device, struct wgf_batch *batch)
{
	/* First: between the two, packets are neither in the list nor on their way. */
	atomic_fetch_add(&device->staged.under_way, 1);
	batch->staged = wgf_staged_take(device, batch) > 0;
	if (!batch->staged)
		atomic_fetch_sub(&device->staged.under_way, 1);
	return batch->staged;
}

static int read_batch(struct wgf_device *device, struct wgf_queue *queue, struct wgf_batch *batch)
{
	if (is_first(device, queue) && atomic_load(&device->staged.flushing) && take_staged(device, batch))
		return (int)batch->count;
	return wgf_tun_read(device, queue, batch);
}

/* ---- 2 ---- */

static void answer_unreachable(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	uint8_t answer[WGF_ICMP_MAX];
	if (atomic_load_explicit(&device->tun.queues[0].fd, memory_order_relaxed) < 0)
		return;
	size_t len = wgf_icmp_unreachable(answer, packet->inner, packet->inner_len);
	if (len && wgf_icmp_allow(&device->icmp_limit, now))
		wgf_tun_write_one(device, answer, len);
}

/* Our own datagram to this peer, come back as a packet for this peer: the host routes the endpoint
 * into the tunnel. Sealing it again would go round for ever. */
static bool is_loop(struct wgf_device *device, const struct wgf_packet *packet)
{
	uint16_t port = atomic_load_explicit(&device->listen_port, memory_order_relaxed);
	return port && wgf_ip_is_udp_to(packet->inner, packet->inner_len, port, packet->endpoint.family,
					packet->endpoint.address, packet->endpoint.port);
}

static void report_loop(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	uint64_t last = atomic_load_explicit(&peer->loop_reported, memory_order_relaxed);
	if (last && now - last < WGF_LOOP_REPORT_INTERVAL)
		return;
	if (!atomic_compare_exchange_strong_explicit(&peer->loop_reported, &last, now,
						     memory_order_relaxed, memory_order_relaxed))
		return;
	struct wgf_event event = {.kind = WGF_EVENT_LOOP, .peer = peer->handle};
	wgf_endpoint_load(&peer->endpoint, &event.endpoint);
	wgf_events_put(&device->events, &event);
}

/* Its congestion mark goes outside, its destination to `owners` unless it has its peer already. */
static void inspect(struct wgf_device *device, struct wgf_batch *batch, uint32_t i, struct wgf_owners *owners)
{
	struct wgf_packet *packet = &batch->packets[i];
	struct wgf_ip ip;
	if (!wgf_ip_parse(&ip, packet->inner, packet->inner_len)) {
		wgf_drop_packet(device, packet, WGF_DROP_SEND_MALFORMED);
		return;
	}
	if (packet->inner_len > WGF_MTU_MAX) { /* only from the rows of an Engine's caller */
		wgf_drop_packet(device, packet, WGF_DROP_SEND_TOO_LARGE);
		return;
	}
	packet->tos = wgf_ip_ecn_encapsulate(packet->inner);
	if (!packet->peer)
		wgf_owners_want(owners, i, ip.family, ip.destination);
}

/* What the last packet with an endpoint was given: neighbours mostly go to one peer. */
static void load_endpoint(struct wgf_packet *packet, const struct wgf_packet **last)
{
	if (*last && (*last)->peer == packet->peer)
		packet->endpoint = (*last)->endpoint;
	else
		wgf_endpoint_load(&packet->peer->endpoint, &packet->endpoint);
	*last = packet;
}

static void direct(struct wgf_device *device, struct wgf_packet *packet, const struct wgf_packet **last, uint64_t now)
{
	if (!packet->peer) {
		wgf_drop_packet(device, packet, WGF_DROP_SEND_NO_PEER);
		answer_unreachable(device, packet, now);
		return;
	}
	load_endpoint(packet, last);
	if (!packet->endpoint.family) {
		wgf_drop_packet(device, packet, WGF_DROP_SEND_NO_ENDPOINT);
		answer_unreachable(device, packet, now);
	} else if (packet->inner_len && is_loop(device, packet)) {
		wgf_drop_packet(device, packet, WGF_DROP_SEND_LOOP);
		report_loop(device, packet->peer, now);
	}
}

/* Whose it is by now: the peer it was found to be for has been removed meanwhile. */
static struct wgf_peer *look_again(struct wgf_device *device, const struct wgf_packet *packet)
{
	struct wgf_ip ip;
	return wgf_ip_parse(&ip, packet->inner, packet->inner_len)
		       ? wgf_peer_of_address(device, ip.family, ip.destination)
		       : NULL;
}

static struct wgf_peer *peer_of(struct wgf_device *device, const struct wgf_packet *packet, uint32_t owner)
{
	struct wgf_peer *peer = wgf_peer_of_owner(&device->peers, owner);
	return peer || owner == WGF_OWNER_NONE ? peer : look_again(device, packet);
}

static void route(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_owners owners;
	wgf_owners_begin(&owners);
	for (uint32_t i = 0; i < batch->count; i++)
		if (batch->packets[i].drop == WGF_DROP_NOT && batch->packets[i].inner_len)
			inspect(device, batch, i, &owners);
	wgf_owners_find(&owners, device->allowedips);
	if (owners.count4 + owners.count6 > 1) {
		wgf_peers_fetch(&device->peers, owners.owners, owners.count4);
		wgf_peers_fetch(&device->peers, owners.owners + WGF_BATCH_PACKETS, owners.count6);
	}
	const struct wgf_packet *last = NULL;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT)
			continue;
		if (packet->inner_len && !packet->peer)
			packet->peer = peer_of(device, packet, wgf_owners_of(&owners, i));
		direct(device, packet, &last, batch->now);
	}
}

/* ---- 3 ---- */

static void reserve_run(struct wgf_device *device, struct wgf_packet *packets, uint32_t n, uint64_t now);

/* Its peer was removed after stage 2: what it says of the packet's way no longer holds. */
static void redirect(struct wgf_device *device, struct wgf_packet *packet, uint64_t now)
{
	const struct wgf_packet *last = NULL;
	packet->drop = WGF_DROP_NOT;
	packet->peer = look_again(device, packet);
	direct(device, packet, &last, now);
	if (packet->drop == WGF_DROP_NOT)
		reserve_run(device, packet, 1, now);
}

/* No session: wait for one. If one came between our look and the staging, nobody else will ask for
 * the flush. */
static void stage_run(struct wgf_device *device, struct wgf_packet *packets, uint32_t n, uint64_t now)
{
	struct wgf_peer *peer = packets[0].peer;
	for (uint32_t i = 0; i < n; i++) {
		packets[i].drop = WGF_DROP_STAGED;
		if (!wgf_staged_put(device, peer, packets[i].inner, packets[i].inner_len))
			redirect(device, &packets[i], now);
	}
	if (wgf_peer_sending_keypair(peer, now))
		wgf_staged_flush(device, peer);
	else
		wgf_timers_want_handshake(device, peer, now);
}

static void reserve_from(struct wgf_device *device, struct wgf_keypair *keypair, struct wgf_packet *packets, uint32_t n,
			 uint64_t now)
{
	uint64_t first = 0;
	uint32_t got = keypair ? (uint32_t)wgf_keypair_reserve(keypair, n, &first) : 0;
	for (uint32_t i = 0; i < got; i++) {
		packets[i].keypair = keypair;
		packets[i].counter = first + i;
	}
	if (got < n)
		stage_run(device, packets + got, n - got, now);
}

/* What passes its peer's limits. Without a session it waits and is charged when it leaves. */
static void reserve_limited(struct wgf_device *device, struct wgf_keypair *keypair, struct wgf_packet *packets,
			    uint32_t n, const struct wgf_limiter *limiter, uint64_t now)
{
	if (!keypair) {
		stage_run(device, packets, n, now);
		return;
	}
	wgf_limiter_charge(device, limiter, WGF_SENDING, packets, n, now);
	for (uint32_t i = 0, passing; i < n; i += passing + 1) {
		for (passing = 0; i + passing < n && packets[i + passing].drop == WGF_DROP_NOT;)
			passing++;
		if (passing)
			reserve_from(device, keypair, packets + i, passing, now);
	}
}

static void reserve_run(struct wgf_device *device, struct wgf_packet *packets, uint32_t n, uint64_t now)
{
	struct wgf_peer *peer = packets[0].peer;
	struct wgf_keypair *keypair = wgf_peer_sending_keypair(peer, now);
	const struct wgf_limiter *limiter = atomic_load_explicit(&peer->limiter, memory_order_acquire);
	if (limiter)
		reserve_limited(device, keypair, packets, n, limiter, now);
	else
		reserve_from(device, keypair, packets, n, now);
}

/* Neighbours from `from` on that go to one peer; none is dropped. */
static uint32_t run_length(const struct wgf_batch *batch, uint32_t from)
{
	uint32_t n = 0;
	while (from + n < batch->count && batch->packets[from + n].drop == WGF_DROP_NOT &&
	       batch->packets[from + n].peer == batch->packets[from].peer)
		n++;
	return n;
}

static void reserve(struct wgf_device *device, struct wgf_batch *batch)
{
	for (uint32_t i = 0; i < batch->count;) {
		uint32_t n = run_length(batch, i);
		if (n)
			reserve_run(device, &batch->packets[i], n, batch->now);
		i += n ? n : 1;
	}
}

/* ---- 4 ---- */

/* False: dropped, too large. */
static bool prepare(struct wgf_packet *packet, uint32_t mtu, struct wgf_aead_job *job)
{
	uint32_t most = packet->outer_room < WGF_MESSAGE_MAX ? packet->outer_room : WGF_MESSAGE_MAX;
	uint32_t len = packet->inner_len;
	if (len + WGF_DATA_OVERHEAD > most)
		return false;
	uint32_t pad = wgf_padding(len, mtu), room = most - (uint32_t)WGF_DATA_OVERHEAD - len;
	if (pad > room)
		pad = room;
	uint8_t *header = packet->outer, *payload = packet->outer + sizeof(struct wgf_message_data);
	const uint8_t *text = packet->inner;
	if (pad) { /* in one piece with its padding */
		if (payload != text)
			memcpy(payload, text, len);
		memset(payload + len, 0, pad);
		text = payload;
	}
	wgf_store_le32(header, WGF_MESSAGE_DATA);
	wgf_store_le32(header + 4, packet->keypair->remote_index);
	wgf_store_le64(header + 8, packet->counter);
	packet->outer_len = len + pad + (uint32_t)WGF_DATA_OVERHEAD;
	*job = (struct wgf_aead_job){.key = packet->keypair->send_key, .counter = packet->counter,
				     .src = text, .dst = payload, .len = len + pad};
	return true;
}

static void seal(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_aead_job jobs[WGF_BATCH_PACKETS];
	size_t n = 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		if (packet->drop != WGF_DROP_NOT)
			continue;
		if (prepare(packet, batch->mtu, &jobs[n]))
			n++;
		else
			wgf_drop_packet(device, packet, WGF_DROP_SEND_TOO_LARGE);
	}
	wgf_aead_seal(jobs, n);
}

/* ---- 5 ---- */

static void emit(struct wgf_device *device, struct wgf_batch *batch)
{
	struct wgf_udp *udp = atomic_load_explicit(&device->udp, memory_order_acquire);
	if (udp)
		wgf_udp_send(device, udp, batch);
	else
		for (uint32_t i = 0; i < batch->count; i++)
			if (batch->packets[i].drop == WGF_DROP_NOT)
				wgf_drop_packet(device, &batch->packets[i], WGF_DROP_SEND_DOWN);
	wgf_send_account(device, batch);
	if (batch->staged)
		atomic_fetch_sub(&device->staged.under_way, 1);
}

/* A session that grows old, or has carried much, is renewed while it is used. That is the current one: what
 * was sealed under another already has its successor. */
static void keep_fresh(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	struct wgf_keypair *keypair = atomic_load_explicit(&peer->current, memory_order_acquire);
	if (!keypair)
		return;
	bool old = keypair->initiator && now > keypair->birth && now - keypair->birth >= WGF_REKEY_AFTER_TIME;
	uint64_t next = atomic_load_explicit(&keypair->next_counter, memory_order_relaxed);
	if (old || next > WGF_REKEY_AFTER_MESSAGES)
		wgf_timers_want_handshake(device, peer, now);
}

/* Neighbours sealed under one keypair, whether or not the system took them. */
static uint32_t account_run(struct wgf_device *device, struct wgf_batch *batch, uint32_t from)
{
	struct wgf_keypair *keypair = batch->packets[from].keypair;
	struct wgf_peer *peer = batch->packets[from].peer;
	uint64_t bytes = 0, data = 0;
	uint32_t i = from;
	for (; i < batch->count && batch->packets[i].keypair == keypair; i++) {
		if (batch->packets[i].drop != WGF_DROP_NOT)
			continue;
		bytes += batch->packets[i].outer_len;
		data += batch->packets[i].inner_len != 0;
	}
	atomic_fetch_add_explicit(&peer->sent_bytes, bytes, memory_order_relaxed);
	atomic_fetch_add_explicit(&peer->sent_packets, data, memory_order_relaxed);
	wgf_timers_authenticated_sent(device, peer, batch->now);
	if (data)
		wgf_timers_data_sent(device, peer, batch->now);
	keep_fresh(device, peer, batch->now);
	return i - from;
}

void wgf_send_account(struct wgf_device *device, struct wgf_batch *batch)
{
	for (uint32_t i = 0; i < batch->count;)
		i += batch->packets[i].keypair ? account_run(device, batch, i) : 1;
}
