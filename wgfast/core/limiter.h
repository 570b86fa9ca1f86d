/* Limits of a peer: how fast and how much it may send and receive.
 *
 * Each direction has two token buckets, one that is filled with bytes by a rate in bits a second and one that
 * is filled with packets, and a quota of bytes. What is counted is inner packets without their padding: when
 * receiving after authentication, replay window and the check of the source, when sending before a packet is
 * given a counter and sealed. What does not fit is dropped, and counted as send_limited, receive_limited,
 * send_quota or receive_quota. Keepalives and handshakes are never limited, and nothing is charged that did not
 * prove who sent it.
 *
 * A bucket is virtual scheduling with tokens for a clock: one atomic word counts what was ever taken, the
 * credit at a time follows from the rate alone (base + floor(rate * (now - since))), and a packet passes if
 * the word stays within the burst above the credit. A bucket that is full takes no more: a word behind the
 * credit is lifted to it. So tokens are whole, none is lost to rounding however long it runs, and no thread has
 * to fill anything. From the moment a limit is set no more passes than rate * time + burst, by however many
 * threads.
 *
 * What was decided:
 *   Super-packets, batches: each packet is judged alone and in its order, after a super-packet was cut up and
 *     before packets are put together. The packets of one peer that stand side by side are charged by one
 *     exchange for each limit that is set. A packet that is refused costs nothing, and a shorter one behind it
 *     may pass.
 *   Several threads: what is refused by a second limit because another thread was faster in between has been
 *     charged to the first. Never the other way round.
 *   Staged packets are charged when they leave, not while they wait.
 *   What passed here is charged even if the system then does not take it, or the session has no counter left for it.
 *   Bursts: 0 stands for a quarter of a second at the rate, but at least WGF_LIMIT_BURST_BYTES, which is the largest
 *     packet or a whole super-packet, or WGF_LIMIT_BURST_PACKETS. That is longer than a TCP that has lost the end of
 *     what it sent is silent (200 ms at least, in Linux): with a bucket that is full before it goes on, a stream was
 *     left with half of the rate. A packet larger than the burst never passes.
 *   A limited packet that was received is authentic and new: it counts for timers and roaming. Its sender is alive
 *     and has the keys; were it ignored, a peer that only says too much would be taken for a dead one, and
 *     handshakes, which are never limited, would take the place of its data.
 *   A quota counts only while it is set, and only what passed: `used` never exceeds it, unless it is lowered. It is
 *     at an end when a packet does not fit any more; a shorter one still may.
 *   Changes under traffic: the words stay, so nothing that passes meanwhile is forgotten. A bucket keeps its
 *     tokens, as far as the new one holds so many; one that is switched on is full; one that is set to what it is
 *     goes on undisturbed. `used` stays when the quota changes; it can be set, and is 0 when the quota is off.
 *   Clocks: after a suspend, however long, a bucket is full and no more. Threads whose times differ cannot gain by
 *     it: whose time is earlier sees less credit. A word that is ahead of all credit by more than
 *     WGF_LIMIT_SKEW explains comes of a clock that was set back, or of packets that passed while the rate was
 *     being lowered; then the bucket is empty, from where it fills at its rate.
 *   Extremes: the credit is computed in 128 bits and counted modulo 2^64. With the largest rate a peer would have
 *     to be silent for two years before it could be taken for one that is ahead, and then finds its bucket empty
 *     instead of full.
 */
#ifndef WGF_LIMITER_H
#define WGF_LIMITER_H

#include <stdatomic.h>
#include <stdint.h>

#include "limits.h"

struct wgf_device;
struct wgf_packet;
struct wgf_peer;

/* X(NAME, name, most). For each direction in this order: bits a second and how many bytes at once, packets a
 * second and how many at once, bytes in all, and how many of those are used. 0: no limit. */
#define WGF_LIMITS(X)                                                         \
	X(SEND_RATE, send_rate, UINT64_C(1000000000000))                      \
	X(SEND_BURST, send_burst, UINT64_C(1000000000000))                    \
	X(SEND_PACKET_RATE, send_packet_rate, UINT64_C(1000000000))           \
	X(SEND_PACKET_BURST, send_packet_burst, UINT64_C(1000000000))         \
	X(SEND_QUOTA, send_quota, UINT64_C(1000000000000000000))              \
	X(SEND_USED, send_used, UINT64_C(1000000000000000000))                \
	X(RECEIVE_RATE, receive_rate, UINT64_C(1000000000000))                \
	X(RECEIVE_BURST, receive_burst, UINT64_C(1000000000000))              \
	X(RECEIVE_PACKET_RATE, receive_packet_rate, UINT64_C(1000000000))     \
	X(RECEIVE_PACKET_BURST, receive_packet_burst, UINT64_C(1000000000))   \
	X(RECEIVE_QUOTA, receive_quota, UINT64_C(1000000000000000000))        \
	X(RECEIVE_USED, receive_used, UINT64_C(1000000000000000000))

enum wgf_limit {
#define X(NAME, name, most) WGF_LIMIT_##NAME,
	WGF_LIMITS(X)
#undef X
	WGF_LIMIT_COUNT
};

_Static_assert((int)WGF_LIMIT_SEND_USED == (int)WGF_LIMIT_SEND_QUOTA + 1, "what is used stands behind its quota");

enum wgf_way { WGF_SENDING, WGF_RECEIVING, WGF_WAYS };

/* By enum wgf_limit. As many as are said count, a bit of `said` for each. */
struct wgf_limits {
	uint64_t value[WGF_LIMIT_COUNT];
	uint32_t said;
};
#define WGF_LIMITS_ALL ((UINT32_C(1) << WGF_LIMIT_COUNT) - 1)

const char *wgf_limit_name(uint32_t limit); /* "send_rate"; NULL beyond the list */
uint64_t wgf_limit_most(uint32_t limit);    /* 0 beyond the list */

/* In a peer's row while it has limits; readers load it inside their batch's reader. Published whole; what changes
 * under traffic stands apart and outlives it. */
struct wgf_limiter;

/* Any thread, inside the reader that loaded the limiter: charges n neighbours of the batch, all of its peer,
 * and drops what exceeds. Passes over those that are dropped already, and keepalives. Returns how many it dropped. */
uint32_t wgf_limiter_charge(struct wgf_device *device, const struct wgf_limiter *limiter, enum wgf_way way,
			    struct wgf_packet *packets, uint32_t n, uint64_t now);

/* Control plane, device->config held. */

/* What is said replaces what is set; the rest stays. -EINVAL: a value is too large. -ENOMEM. Then nothing has changed. */
int wgf_limiter_set(struct wgf_peer *peer, const struct wgf_limits *limits, uint64_t now);
void wgf_limiter_get(struct wgf_peer *peer, struct wgf_limits *limits); /* all are said; used: until now */

/* With the peer's row, when no reader is left. NULL is allowed. */
void wgf_limiter_free(struct wgf_limiter *limiter);

#endif
