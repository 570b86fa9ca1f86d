/* UDP to TUN. receive.c is read top-down, stage by stage. */
#ifndef WGF_RECEIVE_H
#define WGF_RECEIVE_H

#include <stdbool.h>
#include <stdint.h>

#include "send.h"

struct wgf_stranger_batch {
	uint32_t count; /* datagrams, if it was strangers' alone */
	bool more;      /* the batch was full before the sockets were empty */
};

/* Carries one batch from the sockets to the interface, as far as this thread gets. Any number of threads. What only
 * strangers sent moves nothing: it is WGF_IDLE, and in *strangers. */
enum wgf_progress wgf_receive_run(struct wgf_device *device, uint64_t now, struct wgf_stranger_batch *strangers);

/* Stages 2 and 3 on a batch whose outer messages are there; the batch's reader has entered. Handshake
 * messages go their own way here: to the event queue, a cookie reply, or a counted drop. */
void wgf_receive_open(struct wgf_device *device, struct wgf_batch *batch);
/* Stage 4: replay, confirmation, endpoint, source address, timers, accounts. Batches of one device one at a
 * time, in order. What is left with drop WGF_DROP_NOT and inner_len > 0 is to be delivered. */
void wgf_receive_order(struct wgf_device *device, struct wgf_batch *batch);

#endif
