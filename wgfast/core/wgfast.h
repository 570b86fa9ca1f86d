/* wgfast's C interface: read this first. In the order in which a tunnel lives: what can be used alone,
 * the device, its peers, handshakes, the packet path, news and debts.
 *
 * Conventions. Functions return 0 or a count, or -errno. Times are CLOCK_BOOTTIME nanoseconds, or whatever
 * clock the caller of an Engine counts by. Arrays belong to the caller and are used only during the
 * call. Every function may be called from any thread, without Python's GIL, unless it says otherwise.
 * After fork() a device is dead in the child: every call on it there returns -EOWNERDEAD and touches
 * nothing. */
#ifndef WGFAST_H
#define WGFAST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "aead.h"
#include "allowedips.h"
#include "drops.h"
#include "dump.h"
#include "endpoint.h"
#include "events.h"
#include "handshake.h"
#include "handshakequeue.h"
#include "limiter.h"
#include "limits.h"
#include "messages.h"
#include "offload.h"
#include "replay.h"
#include "setting.h"
#include "timers.h"

/* ---- Parts that stand alone: aead.h (seal and open a batch), replay.h (the window), and ---- */

/* Allowed IPs with readers of their own; the functions are those of allowedips.h. */
struct wgf_routes {
	struct wgf_epoch epoch;
	struct wgf_allowedips *table;
};
struct wgf_routes *wgf_routes_create(void);
void wgf_routes_destroy(struct wgf_routes *routes); /* no other thread uses it */

/* ---- The device ---- */

struct wgf_device;

struct wgf_device_options {
	uint32_t threads;      /* workers, 1 to WGF_THREADS_MAX; 0: an Engine, which has neither threads nor ports */
	uint32_t offloads_off; /* a bit for each enum wgf_offload that shall not be used */
	uint32_t queues;       /* of the interface, at most WGF_QUEUES_MAX; 0 is 1 */
};

/* errno is set when it returns NULL. */
struct wgf_device *wgf_device_create(const struct wgf_device_options *options);
/* Stops the workers, wipes every key. No other thread may be inside a call. In a forked child it does nothing. */
void wgf_device_destroy(struct wgf_device *device);
bool wgf_device_alive(const struct wgf_device *device);

/* Private key (already clamped) and the public key that belongs to it; both NULL: none. Handshakes,
 * sessions and static-static secrets of the old key end. */
int wgf_device_set_identity(struct wgf_device *device, const uint8_t *private_key, const uint8_t *public_key);
/* Copies out; -ENOKEY if there is none. Either may be NULL. */
int wgf_device_identity(struct wgf_device *device, uint8_t *private_key, uint8_t *public_key);

int wgf_device_set_mtu(struct wgf_device *device, uint32_t mtu);
/* Hands over the inner port (tun.h); once, before start. The descriptor is made non-blocking and stays
 * the caller's to close after destroy. */
int wgf_device_set_tun(struct wgf_device *device, int fd);
/* From now on the mark and the buffers of the sockets are set by `prepare`, called before they are published and with
 * the device's configuration locked, so it may call nothing here (udp.h). NULL: by ourselves. */
int wgf_device_set_keeper(struct wgf_device *device,
			  int (*prepare)(void *context, int fd4, int fd6, uint32_t fwmark), void *context);
/* Opens the sockets (port 0: any) and publishes them, then closes the ones there were. On an error the
 * old ones stay. *bound becomes the port. */
int wgf_device_bind(struct wgf_device *device, uint16_t port, uint32_t fwmark, uint16_t *bound);
void wgf_device_unbind(struct wgf_device *device);
int wgf_device_set_fwmark(struct wgf_device *device, uint32_t fwmark); /* of the sockets that are open */
int wgf_device_start(struct wgf_device *device); /* the workers; 0 if they already run */
int wgf_device_stop(struct wgf_device *device);
/* Every peer forgets the address it answers from (routes or addresses of the host changed). */
int wgf_device_clear_sources(struct wgf_device *device);
int wgf_device_rotate_cookie(struct wgf_device *device, const uint8_t secret[WGF_HASH_SIZE], uint64_t now);
bool wgf_device_under_load(struct wgf_device *device, uint64_t now);
/* WGF_DROP_COUNT numbers. */
int wgf_device_drops(struct wgf_device *device, uint64_t *counts);
int wgf_device_count_drop(struct wgf_device *device, uint32_t reason); /* Python dropped something */

/* WGF_OFFLOAD_COUNT words: enum wgf_offload_state, and above its eight bits the errno that it came of. */
int wgf_device_offloads(struct wgf_device *device, uint32_t *states);

struct wgf_device_info {
	uint32_t peers, indices, keypairs, threads, queues;
	uint32_t events_waiting, handshakes_waiting, staged;
	uint32_t rows;              /* of peers, and of those removed that a reader may still see */
	uint16_t listen_port;
	uint16_t zero;
	uint64_t packet_memory_ceiling;
	uint64_t rows_memory;       /* bytes, of peers and sessions */
	uint64_t allowedips_memory; /* bytes, for lookups and changes */
};
int wgf_device_info(struct wgf_device *device, struct wgf_device_info *info);
/* After many peers have gone: the system gets back what the C library keeps of them. Some milliseconds. */
int wgf_device_trim(struct wgf_device *device);

/* ---- Peers, by handle (never 0); -ESTALE: the peer was removed ---- */

int wgf_device_add_peer(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle);
int wgf_device_remove_peer(struct wgf_device *device, uint64_t handle);
int wgf_device_find_peer(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle); /* -ENOENT */
/* Handles of up to max peers; returns how many there are. */
int64_t wgf_device_peers(struct wgf_device *device, uint64_t *handles, size_t max);

struct wgf_peer_info {
	uint64_t handle;
	uint8_t public_key[WGF_KEY_SIZE];
	struct wgf_endpoint endpoint;      /* family 0: none */
	uint64_t sent_bytes, received_bytes, sent_packets, received_packets;
	uint64_t handshake_at;             /* 0: never */
	uint64_t session_birth;            /* of the sending keypair, 0: none */
	uint64_t session_sent;             /* messages reserved on it */
	uint32_t staged;
	uint16_t persistent_keepalive;     /* seconds, 0: off */
	uint8_t has_psk;
	uint8_t session_initiator;
};
int wgf_peer_info(struct wgf_device *device, uint64_t handle, struct wgf_peer_info *info);
int wgf_peer_set_psk(struct wgf_device *device, uint64_t handle, const uint8_t psk[WGF_KEY_SIZE]); /* zeros: none; a changed one ends the running handshake */
int wgf_peer_psk(struct wgf_device *device, uint64_t handle, uint8_t psk[WGF_KEY_SIZE]);
int wgf_peer_set_endpoint(struct wgf_device *device, uint64_t handle, const struct wgf_endpoint *endpoint); /* family 0: none */
int wgf_peer_clear_source(struct wgf_device *device, uint64_t handle);
int wgf_peer_set_persistent_keepalive(struct wgf_device *device, uint64_t handle, uint16_t seconds, uint64_t now);

/* Limits (limiter.h): what is said replaces what is set. -EINVAL: a value is too large. */
int wgf_peer_set_limits(struct wgf_device *device, uint64_t handle, const struct wgf_limits *limits, uint64_t now);
int wgf_peer_limits(struct wgf_device *device, uint64_t handle, struct wgf_limits *limits);

/* Allowed IPs of the device: one table, one owner a prefix. */
int wgf_peer_allow(struct wgf_device *device, uint64_t handle, enum wgf_family family, const uint8_t *address, unsigned length);
/* Many, whatever their `owner` says. -ENOSPC: the table may not hold them all (wgf_allowedips_admit), nothing has changed. */
int wgf_peer_allow_many(struct wgf_device *device, uint64_t handle, const struct wgf_prefix *prefixes, size_t n);
int wgf_peer_disallow(struct wgf_device *device, uint64_t handle, enum wgf_family family, const uint8_t *address, unsigned length); /* -ENOENT: not this peer's */
int wgf_peer_disallow_all(struct wgf_device *device, uint64_t handle);
int64_t wgf_device_prefixes(struct wgf_device *device); /* how many all its peers have */
int64_t wgf_peer_allowed(struct wgf_device *device, uint64_t handle, struct wgf_prefix *out, size_t max);
/* Which peer owns an address; *handle 0: none. */
int wgf_device_route(struct wgf_device *device, enum wgf_family family, const uint8_t *address, uint64_t *handle);

/* Many peers at once, and all of them as text: setting.h, dump.h. */

/* ---- Handshakes: what noise.py needs of the device ---- */

/* Secret memory for a handshake's state (handshake.h); given back, it is wiped. NULL: out of memory. */
struct wgf_handshake *wgf_handshake_take(void);
void wgf_handshake_give(struct wgf_handshake *hs);
bool wgf_handshake_alive(const struct wgf_handshake *hs); /* false in a forked child */

/* X25519 of the device's private key and a point into hs->shared. -ENOKEY: there is no private key. -EDOM: the point
 * has low order. Done without the device's lock, for it takes some tens of microseconds. */
int wgf_device_dh(struct wgf_device *device, struct wgf_handshake *hs, const struct wgf_x25519 *x25519, const uint8_t point[WGF_KEY_SIZE]);
/* The static-static secret of a peer: 0 and mixed in as wgf_handshake_mix_secret does, or -ENOKEY when
 * it is not known yet and must be computed. */
int wgf_peer_mix_static(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs);
/* Keeps hs->shared as the peer's static-static secret (for as long as the private key stays), then mixes it in. */
int wgf_peer_learn_static(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs);
int wgf_peer_mix_psk(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs);
/* Accepts the TAI64N stamp of an initiation if it is later than every earlier one. -EALREADY if not, -EBUSY if
 * the last initiation was taken less than WGF_INITIATION_INTERVAL ago; then nothing changes. */
int wgf_peer_accept_timestamp(struct wgf_device *device, uint64_t handle, const uint8_t stamp[WGF_TIMESTAMP_SIZE], uint64_t now);

/* Takes a random receiver index for a handshake we begin (replacing the one of an earlier attempt). */
int wgf_peer_begin_handshake(struct wgf_device *device, uint64_t handle, uint32_t *local_index);
/* Ends it: the index is forgotten. */
int wgf_peer_end_handshake(struct wgf_device *device, uint64_t handle);
/* Adds mac1 and mac2 to an initiation or response, counts it, sends it to the peer's endpoint.
 * -EDESTADDRREQ: the peer has none. -ENOTCONN: the device has no socket. Other errors of the system are
 * counted, and returned. The message counts for the timers as what it is. */
int wgf_peer_send_handshake(struct wgf_device *device, uint64_t handle, uint8_t *message, size_t len, uint64_t now);
/* Derives the transport keys from hs (wiped). As initiator: local_index must be the running handshake's
 * (-ESTALE otherwise), the session is current at once, staged packets (at least a keepalive, which confirms
 * the keys) leave. */
int wgf_peer_begin_session_initiator(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs, uint32_t local_index, uint32_t remote_index, uint64_t now);
/* As responder: a fresh local index; the session waits for its first packet. Call before sending the response, which carries the index. */
int wgf_peer_begin_session_responder(struct wgf_device *device, uint64_t handle, struct wgf_handshake *hs, uint32_t local_index, uint32_t remote_index, uint64_t now);
/* A local index for a response, to be used up by begin_session_responder or given back by end_answer. A peer has
 * one: the index of an answer that was not finished is forgotten, as it is with the peer or our key (-ESTALE then). */
int wgf_peer_begin_answer(struct wgf_device *device, uint64_t handle, uint32_t *local_index);
int wgf_peer_end_answer(struct wgf_device *device, uint64_t handle, uint32_t local_index);
/* An authenticated handshake message came from there: roam, and count it and its bytes. 1: the peer had another
 * address or port until now, else 0. */
int wgf_peer_heard(struct wgf_device *device, uint64_t handle, const struct wgf_endpoint *from, size_t message_len, uint64_t now);

/* ---- What peers owe ---- */

int64_t wgf_device_scan(struct wgf_device *device, uint64_t now, struct wgf_owed *owed, size_t max, uint64_t *next);
int wgf_peer_send_keepalive(struct wgf_device *device, uint64_t handle, uint64_t now);
int wgf_peer_handshake_sent(struct wgf_device *device, uint64_t handle, uint64_t *at); /* our last initiation or response; 0: never */
int wgf_peer_want_handshake(struct wgf_device *device, uint64_t handle, uint64_t now); /* the next scan tells of it */
int wgf_peer_want_handshake_done(struct wgf_device *device, uint64_t handle); /* the debt was dealt with */
int wgf_peer_arm_retransmit(struct wgf_device *device, uint64_t handle, uint64_t at);
int wgf_peer_give_up(struct wgf_device *device, uint64_t handle, uint64_t now); /* staged packets go, keys are to be zeroed in time */
int wgf_peer_zero_keys(struct wgf_device *device, uint64_t handle);
int wgf_peer_stop(struct wgf_device *device, uint64_t handle); /* the device goes down: sessions, timers and staged packets end */

/* ---- News ---- */

int wgf_device_event_fd(struct wgf_device *device);
int64_t wgf_device_take_events(struct wgf_device *device, struct wgf_event *out, size_t max);
/* Handshake messages that wait, up to max of them, of every source in turn: answers to initiations of ours;
 * strangers' initiations. Both only wake the descriptor. */
int64_t wgf_device_take_answers(struct wgf_device *device, struct wgf_queued_handshake *out, size_t max);
int64_t wgf_device_take_initiations(struct wgf_device *device, struct wgf_queued_handshake *out, size_t max);
/* Call before sleeping on the descriptor; true: do not sleep, there is news. */
bool wgf_device_quiet(struct wgf_device *device);

/* ---- The path over a caller's arrays (the Engine: device created with threads 0) ---- */

/* n rows of `data`, `stride` bytes apart. length[i] is what row i holds (input) or came to hold (output);
 * status[i] is an enum wgf_drop; unless it is WGF_DROP_NOT the output length is 0. */
struct wgf_rows {
	uint8_t *data;
	size_t stride;
	uint32_t *length;
};

/* Inner packets to outer messages. to[i], tos[i]: where each goes; peer[i]: its handle or 0. in and out
 * may be the same memory only if out.data == in.data - 16 with equal strides. */
int wgf_engine_send(struct wgf_device *device, const struct wgf_rows *in, const struct wgf_rows *out, size_t n,
		    struct wgf_endpoint *to, uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now);
/* Outer messages to inner packets. from[i], tos[i]: where each came from. */
int wgf_engine_receive(struct wgf_device *device, const struct wgf_rows *in, const struct wgf_rows *out, size_t n,
		       const struct wgf_endpoint *from, const uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now);
/* What the device itself has to say: handshake messages, cookie replies, keepalives, staged packets that may
 * go. Fills up to n rows and returns how many; call again until it returns 0. */
int64_t wgf_engine_drain(struct wgf_device *device, const struct wgf_rows *out, size_t n, struct wgf_endpoint *to,
			 uint8_t *tos, uint64_t *peer, uint64_t now);

#endif
