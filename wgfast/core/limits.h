/* The numbers wgfast works by: first the protocol's own, then, apart, ours. */
#ifndef WGF_LIMITS_H
#define WGF_LIMITS_H

#include <stdint.h>

#define WGF_SECOND UINT64_C(1000000000) /* every time in the core is CLOCK_BOOTTIME in nanoseconds */

/* ---- The protocol's constants: WireGuard whitepaper, sections 5.4 and 6.1 ---- */
#define WGF_REKEY_AFTER_MESSAGES (UINT64_C(1) << 60)
#define WGF_REJECT_AFTER_MESSAGES (UINT64_MAX - (UINT64_C(1) << 13)) /* 2^64 - 2^13 - 1 */
#define WGF_REKEY_AFTER_TIME (120 * WGF_SECOND)
#define WGF_REJECT_AFTER_TIME (180 * WGF_SECOND)
#define WGF_REKEY_ATTEMPT_TIME (90 * WGF_SECOND)
#define WGF_REKEY_TIMEOUT (5 * WGF_SECOND)
#define WGF_KEEPALIVE_TIMEOUT (10 * WGF_SECOND)
#define WGF_COOKIE_REFRESH_TIME (120 * WGF_SECOND)

#define WGF_KEY_SIZE 32
#define WGF_HASH_SIZE 32
#define WGF_TAG_SIZE 16
#define WGF_MAC_SIZE 16
#define WGF_COOKIE_SIZE 16
#define WGF_TIMESTAMP_SIZE 12
#define WGF_PADDING 16

/* What Linux adds to the paper; peers on the wire expect no less of us. */
#define WGF_REKEY_TIMEOUT_JITTER (WGF_SECOND / 3)
#define WGF_UNDER_LOAD_LINGER WGF_SECOND           /* under load for this long after the queue drained */
#define WGF_INITIATION_INTERVAL (WGF_SECOND / 50)  /* a peer's initiations closer than this are a flood */
#define WGF_HANDSHAKE_DSCP 0x88                    /* AF41, ECN zero */

/* ---- wgfast's own: how large, how many, how long ---- */
#define WGF_MESSAGE_MAX 65507u        /* what one UDP datagram over IPv4 can carry */
#define WGF_MTU_DEFAULT 1420u
#define WGF_MTU_MAX (WGF_MESSAGE_MAX - 32u) /* less the data header and the tag */
#define WGF_BATCH_PACKETS 256u        /* most packets in a batch */
#define WGF_BATCH_BYTES 65536u        /* a batch ends here, so that batching never adds latency */
#define WGF_SEGMENTS 64u              /* most datagrams in one UDP_SEGMENT send, as every Linux takes */
#define WGF_SEGMENT_SURE 548u         /* a datagram that no path is too narrow for */
#define WGF_SEGMENT_AGAIN (60 * WGF_SECOND) /* an endpoint that refused UDP_SEGMENT is tried again after */
#define WGF_THREADS_MAX 64u
#define WGF_QUEUES_MAX 16u /* of one interface */
#define WGF_PEERS_MAX (1u << 20)      /* as Linux */
#define WGF_PEERS_A_LOOK 64u          /* peers whose timers are looked at together, or not at all */
#define WGF_REPLAY_WINDOW 8192u       /* packets a late one may be behind */
#define WGF_STAGED_PER_PEER 128u      /* packets waiting for a handshake, per peer, as Linux */
#define WGF_STAGED_BYTES (4u << 20)   /* the same, of a whole device */
#define WGF_EVENTS 1024u              /* news waiting for Python */
#define WGF_HANDSHAKES_WAITING 1024u  /* answers, and initiations, waiting for Python */
#define WGF_UNDER_LOAD_HANDSHAKES 128u /* this many of both: under load */
#define WGF_RATE_BUCKETS 8192u        /* sources whose handshakes are counted while under load */
#define WGF_RATE_PER_SECOND 20u       /* handshakes a second of one source, as Linux */
#define WGF_RATE_BURST 5u
#define WGF_STRANGERS_PER_SECOND 50000u /* datagrams that prove nothing: a flood from here on */
#define WGF_STRANGERS_BURST 32u       /* and so many at once are none yet */
#define WGF_ICMP_PER_SECOND 100u      /* unreachable answers a second */
#define WGF_LOOP_REPORT_INTERVAL (10 * WGF_SECOND) /* an endpoint inside its own tunnel is named so often */
#define WGF_LIMIT_BURST_BYTES 65536u  /* of a peer's limits, where none is given: at least so much at once */
#define WGF_LIMIT_BURST_PACKETS 64u   /* or so many */
#define WGF_LIMIT_SKEW (10 * WGF_SECOND) /* threads' times differ by less */
#define WGF_SEND_RETRIES 4u           /* a full socket is tried so often, then the packet is dropped */

#endif
