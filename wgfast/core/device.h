/* The device: all that send, receive and the control plane share. Internal; wgfast.h is the public face. */
#ifndef WGF_DEVICE_H
#define WGF_DEVICE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "allowedips.h"
#include "blake2s.h"
#include "cookie.h"
#include "drops.h"
#include "epoch.h"
#include "events.h"
#include "handshakequeue.h"
#include "icmp.h"
#include "indextable.h"
#include "offload.h"
#include "packet.h"
#include "peer.h"
#include "ratelimit.h"
#include "secret.h"
#include "staged.h"
#include "tun.h"
#include "udp.h"
#include "worker.h"

/* What follows from the private key; published whole, retired whole. In secret memory. */
struct wgf_identity {
	struct wgf_retired retired;
	struct wgf_device *device;
	uint8_t private_key[WGF_KEY_SIZE];
	uint8_t public_key[WGF_KEY_SIZE];
	struct wgf_cookie_keys cookie_keys;
	struct wgf_blake2s mac1;           /* has taken in the key of mac1, and nothing else */
};

/* A message of ours that is no transport data, kept for the Engine, which has no socket. */
struct wgf_outbox_message {
	struct wgf_endpoint endpoint;
	uint32_t length;
	uint8_t tos;
	uint8_t data[WGF_HANDSHAKE_MESSAGE_MAX];
};
#define WGF_OUTBOX 1024u

struct wgf_outbox {
	pthread_mutex_t lock;
	struct wgf_outbox_message *messages; /* a ring of WGF_OUTBOX, or NULL: the device has sockets */
	uint32_t first, count;
};

struct wgf_device {
	_Atomic uint64_t alive;            /* WGF_ALIVE; reads 0 in a forked child, as all of this */
	struct wgf_epoch epoch;
	pthread_mutex_t config;            /* the control plane's: one change at a time */
	uint64_t plans;                    /* settings that were begun to be applied; under config */

	/* Read by the path, published by the control plane. */
	_Atomic(struct wgf_identity *) identity;
	_Atomic(struct wgf_udp *) udp;     /* NULL while the device is down */
	struct wgf_udp_keeper keeper;      /* prepare NULL: there is none */
	struct wgf_tun tun;
	struct wgf_offloads offloads;
	_Atomic uint32_t mtu;              /* padding never goes past it */
	_Atomic uint16_t listen_port;      /* bound, for finding our own datagrams in the tunnel */
	struct wgf_peertable peers;
	struct wgf_indextable indices;
	struct wgf_allowedips *allowedips;

	struct wgf_secret_pool peer_rows, keypair_rows, identity_rows;

	struct wgf_staged staged;
	struct wgf_events events;
	struct wgf_handshakequeue answers, initiations;
	struct wgf_cookie_checker checker;
	struct wgf_ratelimit ratelimit;
	struct wgf_icmp_limit icmp_limit;
	struct wgf_outbox outbox;

	_Atomic uint64_t planned;          /* when the control plane will look at the timers by itself */
	_Atomic uint32_t scan_from;        /* the scan's: identifier it begins with; below peers.high, or 0 */
	_Atomic uint64_t loaded_at;        /* last time handshakes stood in line; 0: not under load */
	_Atomic uint32_t turned_away;      /* for want of a cookie or a rate, since load was looked at */
	_Atomic uint64_t random;           /* state of the jitter's generator; nothing secret */
	_Atomic uint64_t drops[WGF_DROP_COUNT];

	struct wgf_ring receive_ring;      /* those of the sending direction: tun.queues */
	pthread_mutex_t receive_order;     /* Engine calls: stage 4 of one batch at a time */
	struct wgf_workers workers;
	size_t ceiling;                    /* bytes of packet memory this device can ever use */
};

#define WGF_ALIVE UINT64_C(0x7767666173742121)

static inline void wgf_drop_count(struct wgf_device *device, enum wgf_drop reason)
{
	atomic_fetch_add_explicit(&device->drops[reason], 1, memory_order_relaxed);
}

static inline void wgf_drop_packet(struct wgf_device *device, struct wgf_packet *packet,
				   enum wgf_drop reason)
{
	packet->drop = reason;
	wgf_drop_count(device, reason);
}

/* Uniform in [0, bound): jitter, not secrets. */
uint64_t wgf_device_jitter(struct wgf_device *device, uint64_t bound);
/* Sends or, in an Engine, keeps a handshake message or cookie reply; counts it for the peer if one is
 * given, and lets go of a source the system refuses. 0 or -errno. */
int wgf_device_send_message(struct wgf_device *device, struct wgf_peer *peer,
			    const struct wgf_endpoint *to, uint8_t tos, const uint8_t *message,
			    size_t len);

/* Sends what the staged queues may send, from the calling thread; where the device has no workers (an
 * Engine) it stays for the next drain. */
void wgf_device_flush(struct wgf_device *device, uint64_t now);

#endif
