/* The inner port: anything whose read gives one IP packet and whose write takes one. A TUN device
 * (IFF_TUN | IFF_NO_PI, best with IFF_VNET_HDR), or one end of a Unix datagram or seqpacket pair, with which a
 * program without privileges speaks IP to its device. */
#ifndef WGF_TUN_H
#define WGF_TUN_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "packet.h"
#include "segment.h"

struct wgf_batch;
struct wgf_device;

/* The super-packet that is being cut up; of whoever has claimed the reading. */
struct wgf_reading {
	uint8_t *memory;
	struct wgf_super super;
};

/* The interface may hand out its packets in several queues, a flow always in the same one (steering.h): then several
 * threads can read and emit at once, and each queue has an order of its own. */
struct wgf_queue {
	_Atomic int fd;               /* -1: none (the Engine) */
	struct wgf_reading reading;
	struct wgf_ring ring;         /* of what was read from it */
};

struct wgf_tun {
	struct wgf_queue queues[WGF_QUEUES_MAX]; /* the first is the descriptor that was handed over, to which all is written */
	uint32_t rings;               /* queues it may have; from creation on */
	_Atomic uint32_t queues_n;    /* and has; before the workers start */
	_Atomic bool is_socket;       /* one end of a Unix pair */
	_Atomic bool vnet;            /* each packet has a header before it */
	_Atomic bool changing;        /* a thread is opening it again without headers */
	_Atomic uint32_t generation;  /* how often that was done: epoll has forgotten the descriptor */
	_Atomic uint32_t failed;      /* writes with a header; UINT32_MAX once one has succeeded */
};

/* Memory for super-packets and batches of up to so many queues, added to *ceiling. 0 or -ENOMEM. */
int wgf_tun_init(struct wgf_tun *tun, uint32_t queues, size_t batches, struct wgf_epoch *epoch, size_t *ceiling);
void wgf_tun_destroy(struct wgf_tun *tun, struct wgf_epoch *epoch);
/* Makes a descriptor the device's inner port: non-blocking, known for what it is, its offloads tried,
 * published. The descriptor stays the caller's; further queues are the device's, opened if it may have several and
 * the interface was made for them (IFF_MULTI_QUEUE), as far as the system can keep a flow in one. 0 or -errno; -EPROTOTYPE for a socket other than a Unix
 * datagram or seqpacket one. */
int wgf_tun_adopt(struct wgf_device *device, int fd);
/* Reads packets of a queue into the batch until it is full (packets or bytes) or there is nothing left. Returns how
 * many, or -ENODEV when the interface is gone or the other end of a seqpacket pair has closed (of a datagram
 * pair the system does not tell). */
int wgf_tun_read(struct wgf_device *device, struct wgf_queue *queue, struct wgf_batch *batch);
/* Writes every inner packet of the batch that was not dropped; what is refused is counted and marked. */
void wgf_tun_write(struct wgf_device *device, struct wgf_batch *batch);
/* One packet (an ICMP answer); lost if there is no room. */
void wgf_tun_write_one(struct wgf_device *device, const uint8_t *packet, size_t len);

#endif
