/* UDP to TUN. receive.c is read top-down, stage by stage. */
#ifndef WGF_RECEIVE_H
#define WGF_RECEIVE_H

#include <stdint.h>

#include "send.h"

enum wgf_progress wgf_receive_run(struct wgf_device *device, uint64_t now);

/* Stages 2 and 3 on a batch whose outer messages are there; the batch's reader has entered. Handshake
 * messages go their own way here: to the event queue, a cookie reply, or a counted drop. */
void wgf_receive_open(struct wgf_device *device, struct wgf_batch *batch);
/* Stage 4: replay, confirmation, endpoint, source address, timers, accounts. Batches of one device one at a
 * time, in order. What is left with drop WGF_DROP_NOT and inner_len > 0 is to be delivered. */
void wgf_receive_order(struct wgf_device *device, struct wgf_batch *batch);

#endif
