/* Timers as deadlines, with the semantics of Linux's timers.c; one sleeper who must never oversleep.
 *
 * Arming is a store, and only when it falls before the sleeper's plans more. No deadline is missed:
 *   - who arms stores the deadline, then reads `planned`;
 *   - the scan stores "no plan" into `planned`, then reads the deadlines, then writes the plan unless
 *     somebody lowered it meanwhile, and returns the lower of the two.
 * All four are sequentially consistent, so of a deadline armed during a scan either the scan has seen
 * the deadline, or who armed it has seen "no plan" (or a later plan), lowered it and woken the sleeper.
 *
 * So that a scan does not look at every peer, a hundred thousand of which may be idle, each WGF_PEERS_A_LOOK
 * neighbours have a plan in common, their look, by the same rules: who arms lowers the look and then
 * `planned`, a scan passes over looks that lie ahead, and of the others says "no plan", reads the
 * deadlines and plans anew. Looks are kept inverted: memory that was never touched says "no plan".
 *
 * A plan is not raised when a deadline is cleared: traffic arms and clears all the time, and a look in
 * vain every few seconds costs less than keeping up with that. */
#include "timers.h"

#include "device.h"

static uint64_t load(const _Atomic uint64_t *deadline)
{
	return atomic_load_explicit(deadline, memory_order_relaxed);
}

/* 0 means "not armed" or "never", and a caller of the Engine may count time from 0. */
static uint64_t moment(uint64_t now)
{
	return now ? now : 1;
}

static void lower(_Atomic uint64_t *look, uint64_t at)
{
	uint64_t inverted = atomic_load(look);
	while (at < ~inverted && !atomic_compare_exchange_weak(look, &inverted, ~at))
		;
}

static void look_at(struct wgf_device *device, const struct wgf_peer *peer, uint64_t at)
{
	lower(&device->peers.looks[(uint32_t)peer->handle / WGF_PEERS_A_LOOK], at);
}

/* Somebody wants a scan at this time. Deadline (or wish) and look were stored before, in the total order. */
static void plan(struct wgf_device *device, uint64_t at)
{
	uint64_t planned = atomic_load(&device->planned);
	while (at < planned)
		if (atomic_compare_exchange_weak(&device->planned, &planned, at)) {
			wgf_events_wake(&device->events);
			return;
		}
}

static void arm(struct wgf_device *device, const struct wgf_peer *peer, _Atomic uint64_t *deadline, uint64_t at)
{
	atomic_store(deadline, at);
	look_at(device, peer, at);
	plan(device, at);
}

/* False: it was armed already, and stays as it is. */
static bool arm_if_clear(struct wgf_device *device, const struct wgf_peer *peer, _Atomic uint64_t *deadline,
			 uint64_t at)
{
	uint64_t clear = 0;
	if (load(deadline) != 0 || !atomic_compare_exchange_strong(deadline, &clear, at))
		return false;
	look_at(device, peer, at);
	plan(device, at);
	return true;
}

/* Most often it is clear already: then the line stays shared between those who look. */
static void disarm(_Atomic uint64_t *deadline)
{
	if (load(deadline) != 0)
		atomic_store_explicit(deadline, 0, memory_order_relaxed);
}

static uint64_t jitter(struct wgf_device *device)
{
	return wgf_device_jitter(device, WGF_REKEY_TIMEOUT_JITTER);
}

/* Something authenticated passed, whichever way. Putting off a deadline that is armed needs no plan:
 * there is one for its old time or an earlier one. */
static void put_off_persistent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	uint64_t interval = atomic_load_explicit(&peer->persistent_interval, memory_order_relaxed);
	if (interval == 0)
		return;
	_Atomic uint64_t *deadline = &peer->timers.persistent;
	uint64_t at = now + interval * WGF_SECOND, old = load(deadline);
	if (old != 0 && old <= at)
		atomic_store_explicit(deadline, at, memory_order_relaxed);
	else
		arm(device, peer, deadline, at);
}

void wgf_timers_data_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	if (load(&peer->timers.new_handshake) == 0)
		arm_if_clear(device, peer, &peer->timers.new_handshake,
			     now + WGF_KEEPALIVE_TIMEOUT + WGF_REKEY_TIMEOUT + jitter(device));
}

void wgf_timers_data_received(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	_Atomic bool *another = &peer->timers.another_keepalive;
	if (!arm_if_clear(device, peer, &peer->timers.keepalive, now + WGF_KEEPALIVE_TIMEOUT) &&
	    !atomic_load_explicit(another, memory_order_relaxed))
		atomic_store_explicit(another, true, memory_order_relaxed);
}

void wgf_timers_authenticated_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	disarm(&peer->timers.keepalive);
	put_off_persistent(device, peer, now);
}

void wgf_timers_authenticated_received(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	disarm(&peer->timers.new_handshake);
	put_off_persistent(device, peer, now);
}

void wgf_timers_initiation_sent(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	/* In this order: see wgf_timers_want_handshake. */
	atomic_store(&peer->timers.handshake_sent, moment(now));
	atomic_store(&peer->timers.handshake_wanted, WGF_WANTED_NOT);
	arm(device, peer, &peer->timers.retransmit, now + WGF_REKEY_TIMEOUT + jitter(device));
}

/* Whoever has just answered needs no handshake of its own while the other side confirms. */
void wgf_timers_response_sent(struct wgf_peer *peer, uint64_t now)
{
	atomic_store(&peer->timers.handshake_sent, moment(now));
	atomic_store(&peer->timers.handshake_wanted, WGF_WANTED_NOT);
}

void wgf_timers_arm_retransmit(struct wgf_device *device, struct wgf_peer *peer, uint64_t at)
{
	arm(device, peer, &peer->timers.retransmit, moment(at));
}

void wgf_timers_handshake_completed(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	(void)device;
	disarm(&peer->timers.retransmit);
	atomic_store_explicit(&peer->timers.lastminute, false, memory_order_relaxed);
	atomic_store(&peer->timers.handshake_wanted, WGF_WANTED_NOT);
	atomic_store_explicit(&peer->handshake_at, moment(now), memory_order_relaxed);
}

void wgf_timers_session_derived(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	arm(device, peer, &peer->timers.zero_keys, now + 3 * WGF_REJECT_AFTER_TIME);
}

void wgf_timers_give_up(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	disarm(&peer->timers.retransmit);
	disarm(&peer->timers.keepalive);
	arm_if_clear(device, peer, &peer->timers.zero_keys, now + 3 * WGF_REJECT_AFTER_TIME);
	/* This is an answer to every wish that was reported; the next packet may wish anew. */
	uint8_t reported = WGF_WANTED_REPORTED;
	atomic_compare_exchange_strong(&peer->timers.handshake_wanted, &reported, WGF_WANTED_NOT);
}

void wgf_timers_stop(struct wgf_peer *peer)
{
	struct wgf_timers *timers = &peer->timers;
	disarm(&timers->retransmit);
	disarm(&timers->keepalive);
	disarm(&timers->new_handshake);
	disarm(&timers->zero_keys);
	disarm(&timers->persistent);
	disarm(&timers->handshake_sent);
	atomic_store(&timers->another_keepalive, false);
	atomic_store(&timers->lastminute, false);
	atomic_store(&timers->handshake_wanted, WGF_WANTED_NOT);
}

void wgf_timers_persistent_changed(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	if (atomic_load_explicit(&peer->persistent_interval, memory_order_relaxed))
		arm(device, peer, &peer->timers.persistent, moment(now));
	else
		disarm(&peer->timers.persistent);
}

static bool shook_lately(const struct wgf_timers *timers, uint64_t now)
{
	uint64_t sent = atomic_load(&timers->handshake_sent);
	return sent != 0 && now < sent + WGF_REKEY_TIMEOUT;
}

void wgf_timers_want_handshake(struct wgf_device *device, struct wgf_peer *peer, uint64_t now)
{
	struct wgf_timers *timers = &peer->timers;
	uint8_t not_wanted = WGF_WANTED_NOT;
	if (atomic_load_explicit(&timers->handshake_wanted, memory_order_relaxed) != WGF_WANTED_NOT ||
	    shook_lately(timers, now) ||
	    !atomic_compare_exchange_strong(&timers->handshake_wanted, &not_wanted, WGF_WANTED))
		return;
	/* An initiation that went out since the first look has either cleared the wish, or shows now. */
	uint8_t wanted = WGF_WANTED;
	if (shook_lately(timers, now) &&
	    atomic_compare_exchange_strong(&timers->handshake_wanted, &wanted, WGF_WANTED_NOT))
		return;
	look_at(device, peer, 0); /* due at once, by whatever clock the next scan goes */
	plan(device, now);
}

/* ---- The scan ---- */

static uint64_t earlier(uint64_t a, uint64_t b)
{
	return a < b ? a : b;
}

static uint64_t armed(const _Atomic uint64_t *deadline)
{
	uint64_t at = atomic_load(deadline);
	return at ? at : UINT64_MAX;
}

/* When this peer owes something next; `now` for a wish not yet reported. */
static uint64_t next_debt(const struct wgf_timers *timers, uint64_t now)
{
	uint64_t at = atomic_load(&timers->handshake_wanted) == WGF_WANTED ? now : UINT64_MAX;
	at = earlier(at, armed(&timers->retransmit));
	at = earlier(at, armed(&timers->keepalive));
	at = earlier(at, armed(&timers->new_handshake));
	at = earlier(at, armed(&timers->zero_keys));
	return earlier(at, armed(&timers->persistent));
}

/* If it is due, replaces it by `again` (0: clears it). By compare-and-swap, so that a deadline which
 * somebody puts off at this moment is neither reported nor lost. */
static bool collect_deadline(_Atomic uint64_t *deadline, uint64_t now, uint64_t again)
{
	uint64_t at = atomic_load(deadline);
	while (at != 0 && at <= now)
		if (atomic_compare_exchange_weak(deadline, &at, again))
			return true;
	return false;
}

static uint32_t collect_keepalive(struct wgf_timers *timers, uint64_t now)
{
	if (!collect_deadline(&timers->keepalive, now, 0))
		return 0;
	uint64_t clear = 0;
	if (atomic_exchange(&timers->another_keepalive, false))
		atomic_compare_exchange_strong(&timers->keepalive, &clear, now + WGF_KEEPALIVE_TIMEOUT);
	return WGF_DEBT_KEEPALIVE;
}

/* Armed anew at once, so that a keepalive which could not be sent is not the last one. */
static uint32_t collect_persistent(struct wgf_peer *peer, uint64_t now)
{
	uint64_t interval = atomic_load_explicit(&peer->persistent_interval, memory_order_relaxed);
	uint64_t again = interval ? now + interval * WGF_SECOND : 0;
	return collect_deadline(&peer->timers.persistent, now, again) && interval ? WGF_DEBT_PERSISTENT
										  : 0;
}

static uint32_t collect(struct wgf_peer *peer, uint64_t now)
{
	struct wgf_timers *timers = &peer->timers;
	uint8_t wanted = WGF_WANTED;
	uint32_t debts = collect_keepalive(timers, now) | collect_persistent(peer, now);
	if (collect_deadline(&timers->retransmit, now, 0))
		debts |= WGF_DEBT_RETRANSMIT;
	if (collect_deadline(&timers->new_handshake, now, 0))
		debts |= WGF_DEBT_NEW_HANDSHAKE;
	if (collect_deadline(&timers->zero_keys, now, 0))
		debts |= WGF_DEBT_ZERO_KEYS;
	if (atomic_compare_exchange_strong(&timers->handshake_wanted, &wanted, WGF_WANTED_REPORTED))
		debts |= WGF_DEBT_HANDSHAKE;
	return debts;
}

/* What a scan has found so far. */
struct scan {
	uint64_t now;
	struct wgf_owed *owed;
	size_t n, max;
	uint64_t next; /* deadline after these */
};

/* Inside a reader. False: the peer owes something that there is no room for. */
static bool scan_peer(struct wgf_peer *peer, struct scan *scan)
{
	uint64_t at = next_debt(&peer->timers, scan->now);
	if (at <= scan->now) {
		if (scan->n == scan->max)
			return false;
		uint32_t debts = collect(peer, scan->now);
		if (debts)
			scan->owed[scan->n++] = (struct wgf_owed){.peer = peer->handle, .debts = debts};
		at = next_debt(&peer->timers, scan->now);
	}
	scan->next = earlier(scan->next, at);
	return true;
}

/* Those from identifier `from` to before `to`. False: one owes something that there is no room for; with
 * it the next scan begins. */
static bool scan_peers(struct wgf_device *device, uint32_t from, uint32_t to, struct scan *scan)
{
	for (uint32_t id = from; id < to; id++) {
		struct wgf_peer *peer = wgf_peer_of_owner(&device->peers, id);
		if (peer && !scan_peer(peer, scan)) {
			atomic_store_explicit(&device->scan_from, id, memory_order_relaxed);
			scan->next = scan->now;
			return false;
		}
	}
	return true;
}

/* What is left of the look in the middle of which the last scan stopped. Its plan stays as it is, due, until
 * the scan has come round to it and looks at all of it. */
static bool scan_rest(struct wgf_device *device, uint32_t from, struct scan *scan)
{
	uint32_t done = from % WGF_PEERS_A_LOOK;
	if (done == 0 || ~atomic_load(&device->peers.looks[from / WGF_PEERS_A_LOOK]) > scan->now)
		return true;
	return scan_peers(device, from, from - done + WGF_PEERS_A_LOOK, scan);
}

/* The peers of one look, if it is due; their plan is made anew. */
static bool scan_look(struct wgf_device *device, uint32_t number, struct scan *scan)
{
	_Atomic uint64_t *look = &device->peers.looks[number];
	uint64_t at = ~atomic_load(look);
	if (at > scan->now) {
		scan->next = earlier(scan->next, at);
		return true;
	}
	struct scan these = *scan;
	uint32_t first = number * WGF_PEERS_A_LOOK;
	these.next = UINT64_MAX;
	atomic_store(look, ~UINT64_MAX);
	bool room = scan_peers(device, first, first + WGF_PEERS_A_LOOK, &these);
	lower(look, these.next);
	/* Not what the look says by now: who has lowered it meanwhile lowers `planned` too. */
	scan->next = earlier(scan->next, these.next);
	scan->n = these.n;
	return room;
}

/* Once round, beginning where the last scan had no more room: else whoever stands behind those that always owe
 * something would never be paid. Inside a reader. */
static size_t scan_looks(struct wgf_device *device, uint64_t now, struct wgf_owed *owed, size_t max,
			 uint64_t *next)
{
	struct scan scan = {now, owed, 0, max, UINT64_MAX};
	uint32_t high = atomic_load_explicit(&device->peers.high, memory_order_acquire);
	uint32_t from = atomic_load_explicit(&device->scan_from, memory_order_relaxed);
	uint32_t looks = (high + WGF_PEERS_A_LOOK - 1) / WGF_PEERS_A_LOOK;
	uint32_t first = (from + WGF_PEERS_A_LOOK - 1) / WGF_PEERS_A_LOOK; /* that is looked at whole */
	bool room = scan_rest(device, from, &scan);
	for (uint32_t i = 0; i < looks && room; i++)
		room = scan_look(device, (first + i) % looks, &scan);
	*next = scan.next;
	return scan.n;
}

size_t wgf_timers_scan(struct wgf_device *device, uint64_t now, struct wgf_owed *owed, size_t max,
		       uint64_t *next)
{
	struct wgf_reader reader;
	wgf_epoch_join(&device->epoch, &reader);
	wgf_epoch_enter(&device->epoch, &reader);
	atomic_store(&device->planned, UINT64_MAX);
	size_t n = scan_looks(device, now, owed, max, next);
	uint64_t planned = atomic_load(&device->planned);
	while (*next < planned && !atomic_compare_exchange_weak(&device->planned, &planned, *next))
		;
	*next = earlier(*next, planned);
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&device->epoch, &reader);
	return n;
}
