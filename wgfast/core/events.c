/* The event queue: a bounded ring in which every cell carries its own turn number.
 *
 * Cell i is free for the writer of ticket t (t mod WGF_EVENTS == i) when its turn is t, holds that
 * writer's event when its turn is t + 1, and becomes free for the next lap at t + WGF_EVENTS. A writer
 * draws its ticket with one compare-and-swap and never waits for another; the reader takes cells in
 * order and stops at the first that is not published.
 *
 * An event is lost when the ring is full. But that the interface is gone is said once, and whoever must end
 * then would never hear of it: it is kept aside, and taken before the others.
 *
 * The eventfd is written once between two calls of quiet, however many events arrive. Quiet reads
 * it empty, clears `signalled`, and only then looks whether anything is there, in this order: a put
 * that comes before the clearing writes nothing, but the clearing has read what that put's exchange wrote,
 * so the look sees what it published; a put that comes after it writes. The clearing stands behind the read
 * so that no signal is ever read away with the flag left set, even if the caller forgets the result. */
#include "events.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define MASK (WGF_EVENTS - 1)

_Static_assert((WGF_EVENTS & MASK) == 0, "a cell is chosen by a mask");

int wgf_events_init(struct wgf_events *events)
{
	events->cells = calloc(WGF_EVENTS, sizeof(*events->cells));
	if (!events->cells)
		return -ENOMEM;
	events->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (events->fd < 0) {
		int error = -errno;
		free(events->cells);
		events->cells = NULL;
		return error;
	}
	for (uint64_t i = 0; i < WGF_EVENTS; i++)
		atomic_init(&events->cells[i].turn, i);
	atomic_init(&events->signalled, false);
	atomic_init(&events->woken, false);
	atomic_init(&events->tun_gone, false);
	atomic_init(&events->put, 0);
	atomic_init(&events->got, 0);
	return 0;
}

void wgf_events_destroy(struct wgf_events *events)
{
	if (!events->cells)
		return;
	close(events->fd);
	events->fd = -1;
	free(events->cells);
	events->cells = NULL;
}

/* Makes the eventfd readable unless it is so already. */
static void signal_reader(struct wgf_events *events)
{
	if (atomic_exchange_explicit(&events->signalled, true, memory_order_acq_rel))
		return;
	/* Cannot fail: the counter is read empty long before it could be full. */
	uint64_t one = 1;
	ssize_t written = write(events->fd, &one, sizeof(one));
	(void)written;
}

/* The cell of the next ticket, which is then this thread's; NULL: the ring is full. */
static struct wgf_event_cell *draw_ticket(struct wgf_events *events, uint64_t *ticket)
{
	uint64_t at = atomic_load_explicit(&events->put, memory_order_relaxed);
	for (;;) {
		struct wgf_event_cell *cell = &events->cells[at & MASK];
		uint64_t turn = atomic_load_explicit(&cell->turn, memory_order_acquire);
		if (turn < at)
			return NULL;
		if (turn > at)
			at = atomic_load_explicit(&events->put, memory_order_relaxed);
		else if (atomic_compare_exchange_weak_explicit(&events->put, &at, at + 1,
							       memory_order_relaxed,
							       memory_order_relaxed))
			break;
	}
	*ticket = at;
	return &events->cells[at & MASK];
}

bool wgf_events_put(struct wgf_events *events, const struct wgf_event *event)
{
	uint64_t ticket;
	struct wgf_event_cell *cell = draw_ticket(events, &ticket);
	if (cell) {
		cell->event = *event;
		atomic_store_explicit(&cell->turn, ticket + 1, memory_order_release);
	} else if (event->kind == WGF_EVENT_TUN_GONE) {
		atomic_store_explicit(&events->tun_gone, true, memory_order_release);
	} else {
		return false;
	}
	signal_reader(events);
	return true;
}

/* The next event is there. The reader's own thread. */
static bool published(struct wgf_events *events, uint64_t ticket)
{
	struct wgf_event_cell *cell = &events->cells[ticket & MASK];
	return atomic_load_explicit(&cell->turn, memory_order_acquire) == ticket + 1;
}

size_t wgf_events_take(struct wgf_events *events, struct wgf_event *out, size_t max)
{
	uint64_t ticket = atomic_load_explicit(&events->got, memory_order_relaxed);
	size_t n = 0;
	if (max && atomic_load_explicit(&events->tun_gone, memory_order_relaxed) &&
	    atomic_exchange_explicit(&events->tun_gone, false, memory_order_acquire))
		out[n++] = (struct wgf_event){.kind = WGF_EVENT_TUN_GONE};
	for (; n < max && published(events, ticket); n++, ticket++) {
		struct wgf_event_cell *cell = &events->cells[ticket & MASK];
		out[n] = cell->event;
		atomic_store_explicit(&cell->turn, ticket + WGF_EVENTS, memory_order_release);
	}
	atomic_store_explicit(&events->got, ticket, memory_order_relaxed);
	return n;
}

void wgf_events_wake(struct wgf_events *events)
{
	atomic_store_explicit(&events->woken, true, memory_order_release);
	signal_reader(events);
}

bool wgf_events_quiet(struct wgf_events *events)
{
	uint64_t count;
	ssize_t got = read(events->fd, &count, sizeof(count));
	(void)got; /* EAGAIN: it was not readable */
	atomic_exchange_explicit(&events->signalled, false, memory_order_acq_rel);
	bool woken = atomic_exchange_explicit(&events->woken, false, memory_order_acquire);
	/* An event that a writer is still copying is not counted: publishing it will signal. */
	return published(events, atomic_load_explicit(&events->got, memory_order_relaxed)) ||
	       atomic_load_explicit(&events->tun_gone, memory_order_relaxed) || woken;
}
