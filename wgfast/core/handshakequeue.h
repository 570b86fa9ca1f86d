/* Handshake messages that wait for the control plane: a line of bounded length that is fair between sources.
 *
 * A device has two, served one after the other: answers to initiations of ours, and strangers' initiations. */
#ifndef WGF_HANDSHAKEQUEUE_H
#define WGF_HANDSHAKEQUEUE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"
#include "limits.h"
#include "messages.h"

struct wgf_queued_handshake {
	uint64_t peer;                /* handle: whose initiation a response answers; 0: an initiation */
	struct wgf_endpoint endpoint; /* of the datagram */
	uint32_t length;
	uint8_t data[WGF_HANDSHAKE_MESSAGE_MAX]; /* mac1 and, under load, mac2 are right */
};

struct wgf_handshakequeue {
	pthread_mutex_t lock;     /* what waits; held for a few copies at most */
	_Atomic uint32_t waiting; /* written under the lock */
	uint64_t hash_key[2];
	struct wgf_handshake_lines *lines;
};

int wgf_handshakequeue_init(struct wgf_handshakequeue *queue); /* 0 or -errno */
void wgf_handshakequeue_destroy(struct wgf_handshakequeue *queue);
/* Any thread. True: the queue was full, and another message has gone for this one. */
bool wgf_handshakequeue_put(struct wgf_handshakequeue *queue, const struct wgf_queued_handshake *message);
/* Any thread. Up to max, of each source in turn; returns how many. */
size_t wgf_handshakequeue_take(struct wgf_handshakequeue *queue, struct wgf_queued_handshake *out, size_t max);

static inline uint32_t wgf_handshakequeue_waiting(const struct wgf_handshakequeue *queue)
{
	return atomic_load_explicit(&queue->waiting, memory_order_relaxed);
}

#endif
