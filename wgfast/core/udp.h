/* The outer port: one UDP socket per family, shared by all threads, recvmmsg and sendmmsg with the
 * control messages a tunnel needs (destination address and interface of what arrives, source address
 * of what leaves, TOS both ways). A pair of sockets is published whole and retired whole, so that the
 * port may change under traffic. */
#ifndef WGF_UDP_H
#define WGF_UDP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"
#include "epoch.h"
#include "offload.h"

struct wgf_batch;
struct wgf_device;

struct wgf_udp {
	struct wgf_retired retired;  /* releasing closes both sockets */
	int fd4, fd6;                /* -1 where the system has no such family */
	uint16_t port;               /* both are bound to it */
	bool gro;                    /* UDP_GRO is on; from before it is published */
	_Atomic uint32_t turn;       /* which family is received from first; any thread */
	_Atomic bool apart;          /* more than 64 datagrams have come in one message; any thread */
	_Atomic uint32_t typical;    /* bytes of a message lately received; any thread */
};

/* What a process without privileges has another one do to its sockets (-1: there is none of that family): the mark,
 * and buffers as large as wished for. 0 or -errno. */
struct wgf_udp_keeper {
	int (*prepare)(void *context, int fd4, int fd6, uint32_t fwmark);
	void *context;
};

/* Binds both families to one port (0: the system chooses, the same for both). *udp is malloc'd. keeper NULL: mark and
 * buffers are set by ourselves.
 * 0 or -errno; -EADDRINUSE as the system says. IPv6 missing from the system is no error. */
int wgf_udp_open(struct wgf_udp **udp, uint16_t port, uint32_t fwmark, const struct wgf_udp_keeper *keeper);
/* UDP_SEGMENT and UDP_GRO, as far as they may be and the system has them; before the sockets are published. */
void wgf_udp_try_offloads(struct wgf_udp *udp, struct wgf_offloads *offloads);
void wgf_udp_close(struct wgf_udp *udp);
int wgf_udp_set_mark(struct wgf_udp *udp, uint32_t fwmark, const struct wgf_udp_keeper *keeper);

/* Receives into the batch's slots, or, where it has none, into its packets (outer) from batch->count on;
 * first one family then the other, alternating which is first. Sets outer_len, tos, endpoint with source and
 * interface. A datagram that was cut off gets drop RECEIVE_OVERSIZED. Returns how many datagrams; an error of
 * the socket is passed over, never fatal. */
int wgf_udp_receive(struct wgf_device *device, struct wgf_udp *udp, struct wgf_batch *batch);
/* udp_send.c: sends every outer message of the batch that was not dropped, in order; neighbours of one size to one
 * endpoint leave together (UDP_SEGMENT). What the system refuses is counted and marked. EINVAL, ENETUNREACH and their like with a sticky source: the source is let go (in the
 * packet's peer as well) and the datagram tried once more without. */
void wgf_udp_send(struct wgf_device *device, struct wgf_udp *udp, struct wgf_batch *batch);
/* One message (handshake, cookie reply). 0 or -errno, counted. peer may be NULL. */
int wgf_udp_send_one(struct wgf_device *device, struct wgf_udp *udp, const struct wgf_endpoint *to,
		     uint8_t tos, const uint8_t *message, size_t len, bool *source_refused);

#endif
