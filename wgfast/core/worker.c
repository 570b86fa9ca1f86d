/* The threads of the packet path. Each has an epoll descriptor over every port and carries whole
 * batches, first one direction, then the other, until both are idle; then it sleeps. With several
 * threads a readable port wakes one of them (EPOLLEXCLUSIVE). No thread is ever woken by another one:
 * what a thread finds busy, its holder finishes (ring.c).
 *
 * To be woken costs more than all the work on a packet, so a thread that has nothing more to do looks on for a
 * moment before it sleeps, giving way to whoever wants the processor; but only while that has paid lately (an
 * answer that came while it looked, or right after it had gone to sleep, is good for a few attempts), and never
 * for more than a fifth of the time. An idle tunnel sleeps, and so does one to which only strangers send: what they
 * send is read and judged, but it counts as nothing, and between two batches of it the thread asks the system.
 *
 * Where strangers send a flood, the thread that has read all of it lets it gather for a moment before it looks again:
 * woken for every few datagrams it would spend more on being woken than on them. The interface is watched meanwhile, and
 * the first packet of a peer's ends it.
 *
 * Each round reads the clock once and hands it down: no other file of the core does. */
#include "worker.h"

#include <errno.h>
#include <poll.h>
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

#define SPIN (WGF_SECOND / 2500)     /* to look on before sleeping: an answer from an idle machine takes so long */
#define SPIN_SHARE 5u                /* of all time, one part in so many at most */
#define SPIN_SAVED (WGF_SECOND / 500) /* of that, this much may be used at once */
#define GATHER (WGF_SECOND / 1500)   /* for a flood to gather */
#define CREDIT 4u                    /* attempts that an answer is good for */

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

/* With several threads a readable descriptor wakes one of them. */
static uint32_t shared(const struct wgf_workers *workers)
{
	return EPOLLIN | (workers->count > 1 ? (uint32_t)EPOLLEXCLUSIVE : 0);
}

static int queue_fd(struct wgf_device *device, uint32_t i)
{
	return atomic_load_explicit(&device->tun.queues[i].fd, memory_order_relaxed);
}

/* The interface is gone: say so once, and every worker stops looking at it, or it would be readable for ever. */
static void forget_tun(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	for (uint32_t i = 0; i < WGF_QUEUES_MAX && !worker->blind; i++)
		epoll_ctl(worker->poll, EPOLL_CTL_DEL, queue_fd(device, i), NULL);
	worker->blind = true;
	if (!atomic_exchange(&device->workers.tun_gone, true)) {
		struct wgf_event event = {.kind = WGF_EVENT_TUN_GONE};
		wgf_events_put(&device->events, &event);
	}
}

/* A batch of the queue that is this thread's own, else of another's: one flow can use several cores. */
static enum wgf_progress send_from_queues(struct wgf_worker *worker, uint64_t now)
{
	struct wgf_device *device = worker->device;
	uint32_t n = atomic_load_explicit(&device->tun.queues_n, memory_order_relaxed);
	uint32_t own = (uint32_t)(worker - device->workers.each);
	enum wgf_progress best = WGF_IDLE;
	for (uint32_t i = 0; i < n; i++) {
		enum wgf_progress progress = wgf_send_run(device, &device->tun.queues[(own + i) % n], now);
		if (progress == WGF_MOVED || progress == WGF_GONE)
			return progress;
		if (progress == WGF_BUSY)
			best = WGF_BUSY;
	}
	return best;
}

/* The sending direction; of an interface that is gone only what is staged, as keepalives are. */
static enum wgf_progress send_some(struct wgf_worker *worker, uint64_t now)
{
	struct wgf_device *device = worker->device;
	bool gone = atomic_load_explicit(&device->workers.tun_gone, memory_order_relaxed);
	enum wgf_progress progress = WGF_IDLE;
	if (!gone)
		progress = send_from_queues(worker, now);
	else if (atomic_load(&device->staged.flushing))
		progress = wgf_send_run(device, device->tun.queues, now);
	if (gone || progress == WGF_GONE)
		forget_tun(worker);
	return progress;
}

static int watch_queues(struct wgf_worker *worker)
{
	int error = 0;
	for (uint32_t i = 0; i < WGF_QUEUES_MAX && !error; i++)
		error = watch(worker->poll, queue_fd(worker->device, i), shared(&worker->device->workers));
	return error;
}

/* The interface was opened again under the same descriptors: epoll knows nothing of the new ones. */
static void watch_again(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	uint32_t generation = atomic_load(&device->tun.generation);
	if (worker->generation == generation)
		return;
	worker->generation = generation;
	if (!worker->blind)
		watch_queues(worker);
}

/* One batch each way, as far as there is any: bounded, so neither direction starves the other. */
static enum wgf_progress carry_once(struct wgf_worker *worker, uint64_t now)
{
	struct wgf_device *device = worker->device;
	struct wgf_stranger_batch strangers;
	watch_again(worker);
	enum wgf_progress received = wgf_receive_run(device, now, &strangers), sent = send_some(worker, now);
	if (wgf_epoch_waits(&device->epoch))
		wgf_epoch_collect(&device->epoch);
	if (sent == WGF_MOVED || received == WGF_MOVED) {
		wgf_strangers_forget(&worker->strangers);
		return WGF_MOVED;
	}
	wgf_strangers_came(&worker->strangers, strangers.count, now);
	worker->more = strangers.more;
	return sent == WGF_BUSY || received == WGF_BUSY ? WGF_BUSY : WGF_IDLE;
}

static bool stops(const struct wgf_worker *worker)
{
	return atomic_load_explicit(&worker->device->workers.stop, memory_order_acquire);
}

/* How long it may look on from now. */
static uint64_t patience(struct wgf_worker *worker, uint64_t now)
{
	worker->saved += (now - worker->saved_at) / SPIN_SHARE;
	worker->saved_at = now;
	if (worker->saved > SPIN_SAVED)
		worker->saved = SPIN_SAVED;
	if (worker->credit == 0)
		return 0;
	return worker->saved < SPIN ? worker->saved : SPIN;
}

static void looked_on(struct wgf_worker *worker, uint64_t time, bool paid)
{
	worker->saved -= time < worker->saved ? time : worker->saved;
	if (paid)
		worker->credit = CREDIT;
	else if (worker->credit > 0)
		worker->credit--;
}

/* Carries whatever is there, and looks on for a while if that has paid of late. Returns when it last looked. It had
 * gone to sleep at `slept`: if that is a moment ago, to stay awake would have paid. */
static uint64_t carry(struct wgf_worker *worker, uint64_t slept)
{
	uint64_t now = wgf_clock_now(), idle = 0, until = 0;
	bool soon = now - slept < SPIN;
	while (!stops(worker)) {
		enum wgf_progress progress = carry_once(worker, now);
		bool moved = progress == WGF_MOVED;
		if (moved && (idle || soon))
			looked_on(worker, idle ? now - idle : 0, true);
		soon = false;
		if (moved) {
			idle = 0;
		} else if (idle == 0) {
			idle = now;
			until = now + patience(worker, now);
			if (until == now && progress == WGF_IDLE)
				break;
		} else if (now >= until) {
			break;
		}
		if (!moved) /* another thread reads, or every batch is under way: its holder will not be long */
			sched_yield();
		now = wgf_clock_now();
	}
	if (idle)
		looked_on(worker, now - idle, false);
	return now;
}

/* Lets a flood gather, unless there is something else to do. */
static void gather(struct wgf_worker *worker)
{
	struct wgf_device *device = worker->device;
	const struct timespec moment = {.tv_nsec = GATHER};
	struct pollfd others[1 + WGF_QUEUES_MAX] = {{.fd = device->workers.wake, .events = POLLIN}};
	nfds_t n = 1;
	for (uint32_t i = 0; i < WGF_QUEUES_MAX && !worker->blind; i++)
		others[n++] = (struct pollfd){.fd = queue_fd(device, i), .events = POLLIN}; /* -1 is passed over */
	ppoll(others, n, &moment, NULL);
}

static void *worker_main(void *argument)
{
	struct wgf_worker *worker = argument;
	struct epoll_event ready[4];
	uint64_t slept = 0;
	while (!stops(worker)) {
		bool flood = wgf_strangers_flood(&worker->strangers);
		if (flood && !worker->more)
			gather(worker);
		else if (!flood && epoll_wait(worker->poll, ready, 4, -1) < 0 && errno != EINTR)
			break;
		slept = carry(worker, slept);
	}
	return NULL;
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
	int error = watch(worker->poll, workers->wake, EPOLLIN);
	if (!error && !atomic_load_explicit(&workers->tun_gone, memory_order_relaxed))
		error = watch_queues(worker);
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
	wgf_strangers_forget(&worker->strangers);
	worker->generation = atomic_load(&device->tun.generation);
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
