/* Who owes what, when: the timers of section 6 of the paper as deadlines in the peer's row.
 *
 * The packet path arms and clears deadlines with plain atomic stores. One scan collects what is due
 * and tells when to come again; the control plane sleeps until then, and is woken only when a
 * deadline is armed that lies before its plans. What to do with a debt is Python's (timers.py). */
#ifndef WGF_TIMERS_H
#define WGF_TIMERS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wgf_device;
struct wgf_peer;

enum wgf_debt { /* bits */
	WGF_DEBT_RETRANSMIT = 1,     /* our initiation was not answered */
	WGF_DEBT_KEEPALIVE = 2,      /* we received and had nothing to say for KEEPALIVE-TIMEOUT */
	WGF_DEBT_NEW_HANDSHAKE = 4,  /* we sent and heard nothing for KEEPALIVE-TIMEOUT + REKEY-TIMEOUT */
	WGF_DEBT_ZERO_KEYS = 8,      /* no new session for 3 * REJECT-AFTER-TIME */
	WGF_DEBT_PERSISTENT = 16,    /* nothing passed for the persistent keepalive's interval */
	WGF_DEBT_HANDSHAKE = 32,     /* a packet wants a session: none, or one that grows old */
};

/* A wish is said once, and stands until Python has dealt with it: then it becomes WGF_WANTED_NOT. */
enum wgf_wanted { WGF_WANTED_NOT, WGF_WANTED, WGF_WANTED_REPORTED };

/* Deadlines in CLOCK_BOOTTIME ns, 0 when not armed. Any thread stores; stores race benignly: each is
 * a deadline somebody meant. */
struct wgf_timers {
	_Atomic uint64_t retransmit;
	_Atomic uint64_t keepalive;
	_Atomic uint64_t new_handshake;
	_Atomic uint64_t zero_keys;
	_Atomic uint64_t persistent;
	_Atomic bool another_keepalive;   /* data came while the keepalive was already armed */
	_Atomic bool lastminute;          /* the handshake before a receiving session's end was asked for */
	_Atomic uint8_t handshake_wanted; /* enum wgf_wanted */
	_Atomic uint64_t handshake_sent; /* time of our last initiation or response, 0: never */
};

/* Events of the packet path; each once per peer and batch. */
void wgf_timers_data_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_data_received(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_authenticated_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_authenticated_received(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
/* Events of the control plane (and, the second, of the packet that confirms a session). */
void wgf_timers_initiation_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_response_sent(struct wgf_peer *peer, uint64_t now);
void wgf_timers_handshake_completed(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_session_derived(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_arm_retransmit(struct wgf_device *device, struct wgf_peer *peer, uint64_t at);
void wgf_timers_give_up(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);
void wgf_timers_stop(struct wgf_peer *peer);
void wgf_timers_persistent_changed(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);

/* The data path misses a session, or has one that grows old: say so once, and not more often than
 * every REKEY-TIMEOUT. */
void wgf_timers_want_handshake(struct wgf_device *device, struct wgf_peer *peer, uint64_t now);

struct wgf_owed {
	uint64_t peer; /* handle */
	uint32_t debts; /* bits of enum wgf_debt */
	uint32_t zero;
};

/* Collects up to max peers that owe something at `now`, clearing what it reports; *next becomes the
 * time of the next deadline (UINT64_MAX: none; `now` if more are due than fitted: the next scan begins with
 * them). One thread at a time. */
size_t wgf_timers_scan(struct wgf_device *device, uint64_t now, struct wgf_owed *owed, size_t max,
		       uint64_t *next);

#endif
