/* The threads of the packet path. Each has an epoll descriptor over every port and carries whole
 * batches, first one direction, then the other, until both are idle; then it sleeps. With several
 * threads a readable port wakes one of them (EPOLLEXCLUSIVE). No thread is ever woken by another one:
 * what a thread finds busy, its holder finishes (ring.c).
 *
 * Each round reads the clock once and hands it down: no other file of the core does. */
#include "worker.h"

#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "device.h"
#include "receive.h"
#include "send.h"

uint64_t wgf_clock_now(void)
{
	struct timespec now;
	clock_gettime(CLOCK_BOOTTIME, &now);
	return (uint64_t)now.tv_sec * WGF_SECOND + (uint64_t)now.tv_nsec;
}

static int watch(int poll, int fd, uint32_t events)
{
	struct epoll_event event = {.events = events, .data.fd = fd};
	if (fd < 0 || !epoll_ctl(poll, EPOLL_CTL_ADD, fd, &event) || errno == EEXIST)
		return 0;
	return -errno;
}

/* The interface is gone: say so once, and every worker stops looking at it, or it would be readable for ever. */
static void forget_tun(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	int tun = atomic_load_explicit(&device->tun, memory_order_relaxed);
	if (!worker->blind)
		epoll_ctl(worker->poll, EPOLL_CTL_DEL, tun, NULL);
	worker->blind = true;
	if (!atomic_exchange(&device->workers.tun_gone, true)) {
		struct wgf_event event = {.kind = WGF_EVENT_TUN_GONE};
		wgf_events_put(&device->events, &event);
	}
}

/* The sending direction; of an interface that is gone only what is staged, as keepalives are. */
static enum wgf_progress send_some(struct wgf_worker *worker, uint64_t now)
{
	struct wgf_device *device = worker->device;
	bool gone = atomic_load_explicit(&device->workers.tun_gone, memory_order_relaxed);
	enum wgf_progress progress = WGF_IDLE;
	if (!gone || atomic_load(&device->staged.flushing))
		progress = wgf_send_run(device, now);
	if (gone || progress == WGF_GONE)
		forget_tun(worker);
	return progress;
}

/* Carries whatever is there. Bounded batches in turn, so neither direction starves the other. */
static void carry(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	enum wgf_progress sent = WGF_MOVED, received = WGF_MOVED;
	while (!atomic_load_explicit(&device->workers.stop, memory_order_relaxed) &&
	       (sent == WGF_MOVED || received == WGF_MOVED)) {
		uint64_t now = wgf_clock_now();
		received = wgf_receive_run(device, now);
		sent = send_some(worker, now);
		if (wgf_epoch_waits(&device->epoch))
			wgf_epoch_collect(&device->epoch);
	}
	/* Another thread reads, or every batch is under way: its holder will not be long. */
	if (sent == WGF_BUSY || received == WGF_BUSY)
		sched_yield();
}

static void *worker_main(void *argument)
{
	struct wgf_worker *worker = argument;
	struct epoll_event ready[4];
	while (!atomic_load_explicit(&worker->device->workers.stop, memory_order_acquire)) {
		if (epoll_wait(worker->poll, ready, 4, -1) < 0 && errno != EINTR)
			break;
		carry(worker);
	}
	return NULL;
}

/* With several threads a readable descriptor wakes one of them. */
static uint32_t shared(const struct wgf_workers *workers)
{
	return EPOLLIN | (workers->count > 1 ? (uint32_t)EPOLLEXCLUSIVE : 0);
}

static int watch_sockets(struct wgf_worker *worker, const struct wgf_udp *udp)
{
	uint32_t events = shared(&worker->device->workers);
	int error = watch(worker->poll, udp->fd4, events);
	return error ? error : watch(worker->poll, udp->fd6, events);
}

static int watch_ports(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	struct wgf_workers *workers = &device->workers;
	struct wgf_udp *udp = atomic_load_explicit(&device->udp, memory_order_acquire);
	int tun = atomic_load_explicit(&device->tun, memory_order_relaxed);
	int error = watch(worker->poll, workers->wake, EPOLLIN);
	if (!error && !atomic_load_explicit(&workers->tun_gone, memory_order_relaxed))
		error = watch(worker->poll, tun, shared(workers));
	return error || !udp ? error : watch_sockets(worker, udp);
}

int wgf_workers_watch(struct wgf_device *device, const struct wgf_udp *udp)
{
	int error = 0;
	for (uint32_t i = 0; i < device->workers.running && !error; i++)
		error = watch_sockets(&device->workers.each[i], udp);
	return error;
}

static int start_worker(struct wgf_device *device, struct wgf_worker *worker)
{
	worker->device = device;
	worker->blind = false;
	worker->poll = epoll_create1(EPOLL_CLOEXEC);
	if (worker->poll < 0)
		return -errno;
	int error = watch_ports(worker);
	if (!error)
		error = -pthread_create(&worker->thread, NULL, worker_main, worker);
	if (error)
		close(worker->poll);
	return error;
}

int wgf_workers_start(struct wgf_device *device)
{
	struct wgf_workers *workers = &device->workers;
	sigset_t all, before;
	int error = 0;
	if (workers->running)
		return 0;
	atomic_store(&workers->stop, false);
	workers->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (workers->wake < 0)
		return -errno;
	/* Threads inherit the mask: signals stay with Python's. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	while (!error && workers->running < workers->count) {
		error = start_worker(device, &workers->each[workers->running]);
		if (!error)
			workers->running++;
	}
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		wgf_workers_stop(device);
	return error;
}

void wgf_workers_stop(struct wgf_device *device)
{
	struct wgf_workers *workers = &device->workers;
	uint64_t one = 1;
	if (workers->wake < 0)
		return;
	atomic_store(&workers->stop, true);
	while (write(workers->wake, &one, sizeof one) < 0 && errno == EINTR)
		;
	for (uint32_t i = 0; i < workers->running; i++) {
		pthread_join(workers->each[i].thread, NULL);
		close(workers->each[i].poll);
	}
	workers->running = 0;
	close(workers->wake);
	workers->wake = -1;
}
