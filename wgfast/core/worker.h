/* Threads of the packet path: they never have a Python thread state. Each polls every port and runs
 * whole batches to completion. The only file of the core that reads a clock. */
#ifndef WGF_WORKER_H
#define WGF_WORKER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "limits.h"
#include "strangers.h"

struct wgf_device;
struct wgf_udp;

struct wgf_worker {
	struct wgf_device *device;
	pthread_t thread;
	int poll;               /* epoll descriptor of its own */
	uint32_t generation;    /* of the interface's descriptor that it watches */
	uint32_t credit;        /* attempts to wait awake, earned by answers that came soon */
	uint64_t saved;         /* time it may spend awake, and when that was reckoned */
	uint64_t saved_at;
	struct wgf_strangers strangers;
	bool more;              /* of theirs waits: there is nothing to gather for */
	bool blind;             /* it no longer looks at the interface, which is gone */
};

struct wgf_workers {
	struct wgf_worker *each;
	uint32_t count;         /* as configured */
	uint32_t running;
	int wake;               /* eventfd, readable for ever once the workers shall stop; -1: they do not run */
	_Atomic bool stop;
	_Atomic bool tun_gone;  /* the interface was deleted; said once */
};

/* CLOCK_BOOTTIME, ns. */
uint64_t wgf_clock_now(void);

int wgf_workers_start(struct wgf_device *device); /* 0 or -errno; signals stay with Python's threads */
void wgf_workers_stop(struct wgf_device *device); /* drains what is in hand and joins */
/* Watches sockets that are about to be published; closing a descriptor unwatches it. */
int wgf_workers_watch(struct wgf_device *device, const struct wgf_udp *udp);

#endif
