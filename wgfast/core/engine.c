/* The path over a caller's arrays: the same stages as between TUN and UDP, with the first and last one
 * replaced by pointing into rows. The caller's thread does the work; several may at once. Only stage 4
 * of receiving, which owns the replay windows, takes turns. */
#include <errno.h>
#include <string.h>

#include "device.h"
#include "receive.h"
#include "send.h"
#include "wgfast.h"

struct span { /* the rows of one batch */
	size_t first, count;
};

static struct span next_span(size_t done, size_t n)
{
	size_t left = n - done;
	return (struct span){done, left < WGF_BATCH_PACKETS ? left : WGF_BATCH_PACKETS};
}

/* A batch without memory; its packets are cleared as far as they are used (batch_begin). */
static void batch_join(struct wgf_device *device, struct wgf_batch *batch)
{
	memset(batch, 0, offsetof(struct wgf_batch, packets));
	wgf_epoch_join(&device->epoch, &batch->reader);
}

static int check(struct wgf_device *device)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	return device->workers.count ? -EOPNOTSUPP : 0;
}

static uint32_t clip(size_t stride)
{
	return stride < UINT32_MAX ? (uint32_t)stride : UINT32_MAX;
}

/* What row i holds. Looked at once: another thread of the caller's may change it after it was judged. */
static uint32_t length_of(const struct wgf_rows *rows, size_t i)
{
	return *(const volatile uint32_t *)&rows->length[i];
}

static void batch_begin(struct wgf_device *device, struct wgf_batch *batch, uint32_t count, uint64_t now)
{
	batch->count = count;
	batch->now = now;
	batch->mtu = atomic_load_explicit(&device->mtu, memory_order_relaxed);
	memset(batch->packets, 0, count * sizeof batch->packets[0]);
	wgf_epoch_enter(&device->epoch, &batch->reader);
}

/* ---- sending ---- */

static void load_inner(struct wgf_device *device, struct wgf_batch *batch, const struct wgf_rows *in,
		       const struct wgf_rows *out, struct span span)
{
	for (size_t i = 0; i < span.count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		size_t at = span.first + i;
		packet->inner = in->data + at * in->stride;
		packet->inner_len = length_of(in, at);
		packet->inner_room = clip(in->stride);
		packet->outer = out->data + at * out->stride;
		packet->outer_room = clip(out->stride);
		packet->drop = WGF_DROP_NOT;
		/* An empty inner packet is how the core spells a keepalive; from a caller it is no packet. */
		if (!packet->inner_len)
			wgf_drop_packet(device, packet, WGF_DROP_SEND_MALFORMED);
		else if (packet->inner_len > in->stride)
			wgf_drop_packet(device, packet, WGF_DROP_SEND_TOO_LARGE);
	}
}

static void store_outer(const struct wgf_packet *packet, uint32_t *length, struct wgf_endpoint *to,
			uint8_t *tos, uint64_t *peer)
{
	bool sent = packet->drop == WGF_DROP_NOT;
	*length = sent ? packet->outer_len : 0;
	*to = packet->endpoint;
	*tos = packet->tos;
	*peer = packet->peer ? packet->peer->handle : 0;
}

int wgf_engine_send(struct wgf_device *device, const struct wgf_rows *in, const struct wgf_rows *out, size_t n,
		    struct wgf_endpoint *to, uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now)
{
	struct wgf_batch batch;
	struct span span;
	int error = check(device);
	if (error)
		return error;
	batch_join(device, &batch);
	for (size_t done = 0; done < n; done += span.count) {
		span = next_span(done, n);
		batch_begin(device, &batch, (uint32_t)span.count, now);
		load_inner(device, &batch, in, out, span);
		wgf_send_seal(device, &batch);
		wgf_send_account(device, &batch);
		for (size_t i = 0; i < span.count; i++) {
			store_outer(&batch.packets[i], &out->length[done + i], &to[done + i],
				    &tos[done + i], &peer[done + i]);
			status[done + i] = (uint8_t)batch.packets[i].drop;
		}
		wgf_epoch_exit(&batch.reader);
	}
	wgf_epoch_leave(&device->epoch, &batch.reader);
	return 0;
}

/* ---- receiving ---- */

static void load_outer(struct wgf_device *device, struct wgf_batch *batch, const struct wgf_rows *in,
		       const struct wgf_rows *out, const struct wgf_endpoint *from, const uint8_t *tos,
		       struct span span)
{
	for (size_t i = 0; i < span.count; i++) {
		struct wgf_packet *packet = &batch->packets[i];
		size_t at = span.first + i;
		packet->outer = in->data + at * in->stride;
		packet->outer_len = length_of(in, at);
		packet->outer_room = clip(in->stride);
		packet->inner = out->data + at * out->stride;
		packet->inner_room = clip(out->stride);
		packet->endpoint = from[at];
		packet->tos = tos[at];
		packet->drop = WGF_DROP_NOT;
		if (packet->outer_len > in->stride)
			wgf_drop_packet(device, packet, WGF_DROP_RECEIVE_OVERSIZED);
	}
}

int wgf_engine_receive(struct wgf_device *device, const struct wgf_rows *in, const struct wgf_rows *out, size_t n,
		       const struct wgf_endpoint *from, const uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now)
{
	struct wgf_batch batch;
	struct span span;
	int error = check(device);
	if (error)
		return error;
	batch_join(device, &batch);
	for (size_t done = 0; done < n; done += span.count) {
		span = next_span(done, n);
		batch_begin(device, &batch, (uint32_t)span.count, now);
		load_outer(device, &batch, in, out, from, tos, span);
		wgf_receive_open(device, &batch);
		pthread_mutex_lock(&device->receive_order);
		wgf_receive_order(device, &batch);
		pthread_mutex_unlock(&device->receive_order);
		for (size_t i = 0; i < span.count; i++) {
			const struct wgf_packet *packet = &batch.packets[i];
			out->length[done + i] = packet->drop == WGF_DROP_NOT ? packet->inner_len : 0;
			peer[done + i] = packet->peer ? packet->peer->handle : 0;
			status[done + i] = (uint8_t)packet->drop;
		}
		wgf_epoch_exit(&batch.reader);
	}
	wgf_epoch_leave(&device->epoch, &batch.reader);
	return 0;
}

/* ---- what the device itself has to say ---- */

static size_t drain_outbox(struct wgf_device *device, const struct wgf_rows *out, size_t n,
			   struct wgf_endpoint *to, uint8_t *tos, uint64_t *peer)
{
	struct wgf_outbox *outbox = &device->outbox;
	size_t filled = 0;
	pthread_mutex_lock(&outbox->lock);
	while (filled < n && outbox->count) {
		struct wgf_outbox_message *message = &outbox->messages[outbox->first];
		memcpy(out->data + filled * out->stride, message->data, message->length);
		out->length[filled] = message->length;
		to[filled] = message->endpoint;
		tos[filled] = message->tos;
		peer[filled] = 0;
		outbox->first = (outbox->first + 1) % WGF_OUTBOX;
		outbox->count--;
		filled++;
	}
	pthread_mutex_unlock(&outbox->lock);
	return filled;
}

/* Staged packets of peers that may send: copied out of the queue into their rows, then the stages of
 * sending, in place. Packets that turn out to have no session again are staged again. */
static size_t drain_staged(struct wgf_device *device, const struct wgf_rows *out, size_t n,
			   struct wgf_endpoint *to, uint8_t *tos, uint64_t *peer, uint64_t now)
{
	struct wgf_batch batch;
	size_t filled = 0, rows = n < WGF_BATCH_PACKETS ? n : WGF_BATCH_PACKETS;
	batch_join(device, &batch);
	batch_begin(device, &batch, (uint32_t)rows, now);
	for (size_t i = 0; i < rows; i++) {
		struct wgf_packet *packet = &batch.packets[i];
		packet->outer = out->data + i * out->stride;
		packet->outer_room = clip(out->stride);
		packet->inner = packet->outer + sizeof(struct wgf_message_data);
		packet->inner_room = packet->outer_room - (uint32_t)WGF_DATA_OVERHEAD;
		packet->drop = WGF_DROP_NOT;
	}
	batch.count = 0;
	batch.limit = (uint32_t)rows;
	wgf_staged_take(device, &batch);
	wgf_send_seal(device, &batch);
	wgf_send_account(device, &batch);
	for (uint32_t i = 0; i < batch.count; i++) {
		const struct wgf_packet *packet = &batch.packets[i];
		if (packet->drop != WGF_DROP_NOT)
			continue;
		if (i != filled)
			memmove(out->data + filled * out->stride, packet->outer, packet->outer_len);
		store_outer(packet, &out->length[filled], &to[filled], &tos[filled], &peer[filled]);
		filled++;
	}
	wgf_epoch_exit(&batch.reader);
	wgf_epoch_leave(&device->epoch, &batch.reader);
	return filled;
}

int64_t wgf_engine_drain(struct wgf_device *device, const struct wgf_rows *out, size_t n, struct wgf_endpoint *to,
			 uint8_t *tos, uint64_t *peer, uint64_t now)
{
	int error = check(device);
	if (error)
		return error;
	if (!n)
		return 0;
	if (out->stride < WGF_HANDSHAKE_MESSAGE_MAX)
		return -EMSGSIZE;
	size_t filled = drain_outbox(device, out, n, to, tos, peer);
	/* Each round takes packets out of the queues or a peer off the list, even one of which nothing may leave. */
	while (filled < n && atomic_load(&device->staged.flushing)) {
		struct wgf_rows rest = {out->data + filled * out->stride, out->stride, out->length + filled};
		filled += drain_staged(device, &rest, n - filled, to + filled, tos + filled, peer + filled, now);
	}
	return (int64_t)filled;
}
