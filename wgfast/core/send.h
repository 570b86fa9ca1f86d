/* TUN to UDP. send.c is read top-down, stage by stage. */
#ifndef WGF_SEND_H
#define WGF_SEND_H

#include <stdbool.h>
#include <stdint.h>

struct wgf_batch;
struct wgf_device;
struct wgf_queue;

enum wgf_progress {
	WGF_IDLE,  /* nothing there to read */
	WGF_BUSY,  /* somebody else is reading, or every batch is on its way */
	WGF_MOVED, /* a batch was carried */
	WGF_GONE,  /* the interface no longer exists */
};

/* Carries one batch from a queue of the interface (from the first one: or of staged packets) to the sockets, as far
 * as this thread gets. Any number of threads. */
enum wgf_progress wgf_send_run(struct wgf_device *device, struct wgf_queue *queue, uint64_t now);

/* Stages 2 to 4 on a batch whose inner packets are there; the batch's reader has entered. Packets that
 * cannot go now are staged or dropped. */
void wgf_send_seal(struct wgf_device *device, struct wgf_batch *batch);
/* Accounts for a batch that was sealed and handed to the outer port. */
void wgf_send_account(struct wgf_device *device, struct wgf_batch *batch);

#endif
