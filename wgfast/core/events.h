/* News for Python: one bounded queue of fixed records, many writers, one lock-free ticket each, and
 * an eventfd that becomes readable when it is worth looking. */
#ifndef WGF_EVENTS_H
#define WGF_EVENTS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "endpoint.h"
#include "limits.h"

enum wgf_event_kind {
	WGF_EVENT_CONFIRMED = 1,  /* peer: the first packet of a session we answered has arrived */
	WGF_EVENT_ROAMED,         /* peer, endpoint */
	WGF_EVENT_COOKIE,         /* peer: its cookie reply was taken in */
	WGF_EVENT_LOOP,           /* peer: its endpoint routes into its own tunnel */
	WGF_EVENT_LOAD,           /* value: 1 under load from now on */
	WGF_EVENT_TUN_GONE,       /* the interface was deleted; said once, so it is never lost */
};

struct wgf_event {
	uint32_t kind;
	uint32_t value;
	uint64_t peer;                 /* handle, 0: none */
	struct wgf_endpoint endpoint;
};

struct wgf_event_cell {
	_Atomic uint64_t turn;
	struct wgf_event event;
};

struct wgf_events {
	int fd;                            /* eventfd */
	_Atomic bool signalled;            /* the eventfd is already readable */
	_Atomic bool woken;                /* wake was called since the last quiet */
	_Atomic bool tun_gone;             /* that event came when the ring was full */
	_Alignas(64) _Atomic uint64_t put; /* writers' ticket */
	_Alignas(64) _Atomic uint64_t got; /* the reader's */
	struct wgf_event_cell *cells;      /* WGF_EVENTS of them */
};

int wgf_events_init(struct wgf_events *events); /* 0 or -errno */
void wgf_events_destroy(struct wgf_events *events);
/* Any thread. False: full, the event is lost; never WGF_EVENT_TUN_GONE. */
bool wgf_events_put(struct wgf_events *events, const struct wgf_event *event);
/* One thread at a time. Returns how many it copied out. */
size_t wgf_events_take(struct wgf_events *events, struct wgf_event *out, size_t max);
/* Make the eventfd readable without an event (a timer was armed early, a handshake message waits). */
void wgf_events_wake(struct wgf_events *events);
/* The reader, before sleeping on fd: makes it unreadable. True: do not sleep, take and scan once more
 * (an event is waiting, or wake was called since the last quiet). */
bool wgf_events_quiet(struct wgf_events *events);

#endif
