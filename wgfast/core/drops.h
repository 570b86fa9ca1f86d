/* Every reason for which a packet can be dropped: one list makes the enum, the counters, the texts
 * and the metric names. A dropped packet is counted under exactly one of them. */
#ifndef WGF_DROPS_H
#define WGF_DROPS_H

/* X(NAME, name, "text"); the direction it was going stands first in the name */
#define WGF_DROPS(X)                                                                               \
	X(SEND_MALFORMED, send_malformed, "inner packet with an impossible version or length")      \
	X(SEND_NO_PEER, send_no_peer, "no peer owns the destination")                               \
	X(SEND_NO_ENDPOINT, send_no_endpoint, "the peer has no endpoint yet")                       \
	X(SEND_TOO_LARGE, send_too_large, "larger than a datagram or the output can carry")         \
	X(SEND_LOOP, send_loop, "the peer's endpoint routes into its own tunnel")                   \
	X(SEND_STAGED_FULL, send_staged_full, "oldest of too many packets waiting for a handshake") \
	X(SEND_LIMITED, send_limited, "more at once than the peer's limits let be sent")            \
	X(SEND_QUOTA, send_quota, "the peer's quota for sending is used up")                        \
	X(SEND_NO_SESSION, send_no_session, "no handshake came about in time")                      \
	X(SEND_SOCKET_FULL, send_socket_full, "the UDP socket's buffer stayed full")                \
	X(SEND_UNREACHABLE, send_unreachable, "the system has no route to the endpoint")            \
	X(SEND_REFUSED, send_refused, "the system refused to send the datagram")                    \
	X(SEND_DOWN, send_down, "the device has no socket open")                                    \
	X(RECEIVE_SHORT, receive_short, "shorter than any WireGuard message of its type")           \
	X(RECEIVE_OVERSIZED, receive_oversized, "longer than the buffer or its type allows")        \
	X(RECEIVE_TYPE, receive_type, "unknown message type or reserved bytes not zero")            \
	X(RECEIVE_INDEX, receive_index, "unknown receiver index")                                   \
	X(RECEIVE_EXPIRED, receive_expired, "the session is too old or has carried too much")       \
	X(RECEIVE_FORGED, receive_forged, "authentication failed")                                  \
	X(RECEIVE_REPLAYED, receive_replayed, "counter seen before or too old")                     \
	X(RECEIVE_MALFORMED, receive_malformed, "inner packet with an impossible version or length") \
	X(RECEIVE_SOURCE, receive_source, "inner source address belongs to another peer or to none") \
	X(RECEIVE_LIMITED, receive_limited, "more at once than the peer's limits let be received")  \
	X(RECEIVE_QUOTA, receive_quota, "the peer's quota for receiving is used up")                \
	X(RECEIVE_INNER_FULL, receive_inner_full, "the interface took no more packets")             \
	X(RECEIVE_INNER_REFUSED, receive_inner_refused, "the interface refused the packet")         \
	X(HANDSHAKE_MAC1, handshake_mac1, "mac1 is wrong: the sender does not know our key")        \
	X(HANDSHAKE_COOKIE, handshake_cookie, "under load: answered with a cookie reply")           \
	X(HANDSHAKE_RATE, handshake_rate, "under load: too many handshakes from one source")        \
	X(HANDSHAKE_QUEUE, handshake_queue, "too many handshakes are waiting")                      \
	X(HANDSHAKE_INVALID, handshake_invalid, "handshake message does not verify")                \
	X(HANDSHAKE_UNKNOWN, handshake_unknown, "handshake from a key that is no peer's")           \
	X(HANDSHAKE_REPLAYED, handshake_replayed, "handshake replayed or too soon after the last")  \
	X(HANDSHAKE_NO_KEY, handshake_no_key, "the device has no private key")                      \
	X(COOKIE_INVALID, cookie_invalid, "cookie reply that does not verify or was not asked for")

enum wgf_drop {
#define X(NAME, name, text) WGF_DROP_##NAME,
	WGF_DROPS(X)
#undef X
	WGF_DROP_COUNT,
	WGF_DROP_NOT = WGF_DROP_COUNT, /* not dropped */
	/* Not dropped either, but it goes no further by this way: */
	WGF_DROP_STAGED,   /* waits for a session */
	WGF_DROP_CONSUMED, /* a handshake message, cookie reply or keepalive, taken in */
};

const char *wgf_drop_name(enum wgf_drop reason); /* "send_no_peer"; NULL beyond the list */
const char *wgf_drop_text(enum wgf_drop reason);

#endif
