/* Section 6 of the paper as a table: what happened when, and what must be owed when; then plans and
 * wake-ups, alone and with threads that arm while the scan runs. */
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "check.h"
#include "device.h"

#define PEERS 200u
#define LOOKS ((PEERS + WGF_PEERS_A_LOOK - 1) / WGF_PEERS_A_LOOK) /* the last not full */
#define MILLI (WGF_SECOND / 1000)
#define START (100 * WGF_SECOND)

static struct wgf_device *device;
static struct wgf_peer *peers[PEERS];

/* Used while no device.c is linked; the largest jitter there can be. */
__attribute__((weak)) uint64_t wgf_device_jitter(struct wgf_device *of, uint64_t bound)
{
	(void)of;
	return bound - 1;
}

static void *zeroed(size_t size)
{
	size = (size + 63) / 64 * 64;
	void *memory = aligned_alloc(64, size);
	CHECK(memory);
	return memset(memory, 0, size);
}

static void begin(void)
{
	device = zeroed(sizeof(*device));
	CHECK(wgf_epoch_init(&device->epoch) == 0);
	CHECK(wgf_events_init(&device->events) == 0);
	atomic_init(&device->planned, UINT64_MAX);
	atomic_init(&device->random, 1);
	device->peers.rows = zeroed(LOOKS * WGF_PEERS_A_LOOK * sizeof(*device->peers.rows));
	device->peers.looks = zeroed(LOOKS * sizeof(*device->peers.looks));
	atomic_init(&device->peers.high, PEERS);
	for (size_t i = 0; i < PEERS; i++) {
		peers[i] = zeroed(sizeof(*peers[i]));
		peers[i]->handle = UINT64_C(1) << 32 | i;
		if (i != 1) /* a row may be empty */
			atomic_init(&device->peers.rows[i], peers[i]);
	}
}

static void end(void)
{
	CHECK(!device->epoch.readers);
	for (size_t i = 0; i < PEERS; i++)
		free(peers[i]);
	free((void *)device->peers.rows);
	free((void *)device->peers.looks);
	wgf_events_destroy(&device->events);
	wgf_epoch_destroy(&device->epoch);
	free(device);
}

/* ---- The table ---- */

enum act {
	STOP_HERE, /* ends a story */
	DATA_SENT,
	DATA_RECEIVED,
	KEEPALIVE_SENT,
	KEEPALIVE_RECEIVED,
	INITIATION_SENT,
	COMPLETED,
	DERIVED,
	GIVEN_UP,
	STOPPED,
	INTERVAL_25,
	INTERVAL_OFF,
	WANTED,
	DEALT_WITH,
	SCAN, /* owes exactly .owed */
};

struct step {
	uint32_t at; /* ms; jitter is below 334 */
	enum act act;
	uint32_t owed;
};

struct story {
	const char *name;
	struct step steps[16];
};

static const struct story stories[] = {
	{"nothing ever happened", {{0, SCAN, 0}, {10000000, SCAN, 0}}},
	{"received and silent: a keepalive after 10 s, once",
	 {{0, DATA_RECEIVED, 0}, {9999, SCAN, 0}, {10000, SCAN, WGF_DEBT_KEEPALIVE}, {10001, KEEPALIVE_SENT, 0},
	  {100000, SCAN, 0}}},
	{"received again before it was due: another keepalive after 10 s more",
	 {{0, DATA_RECEIVED, 0}, {5000, DATA_RECEIVED, 0}, {10000, SCAN, WGF_DEBT_KEEPALIVE}, {19999, SCAN, 0},
	  {20000, SCAN, WGF_DEBT_KEEPALIVE}, {60000, SCAN, 0}}},
	{"the reply makes the keepalive needless",
	 {{0, DATA_RECEIVED, 0}, {5000, DATA_SENT, 0}, {10000, SCAN, 0}}},
	{"a keepalive is not answered with a keepalive", {{0, KEEPALIVE_RECEIVED, 0}, {60000, SCAN, 0}}},
	{"sent and heard nothing: a new handshake after 15 s, once",
	 {{0, DATA_SENT, 0}, {14999, SCAN, 0}, {15334, SCAN, WGF_DEBT_NEW_HANDSHAKE}, {60000, SCAN, 0}}},
	{"sending more does not put it off",
	 {{0, DATA_SENT, 0}, {10000, DATA_SENT, 0}, {14000, DATA_SENT, 0},
	  {15334, SCAN, WGF_DEBT_NEW_HANDSHAKE}, {60000, SCAN, 0}}},
	{"any authenticated packet ends the worry",
	 {{0, DATA_SENT, 0}, {3000, KEEPALIVE_RECEIVED, 0}, {60000, SCAN, 0}}},
	{"and the next packet sent begins it anew",
	 {{0, DATA_SENT, 0}, {3000, DATA_RECEIVED, 0}, {4000, DATA_SENT, 0}, {18999, SCAN, 0},
	  {19334, SCAN, WGF_DEBT_NEW_HANDSHAKE}}},
	{"an initiation unanswered: again after 5 s",
	 {{0, INITIATION_SENT, 0}, {4999, SCAN, 0}, {5334, SCAN, WGF_DEBT_RETRANSMIT},
	  {5334, INITIATION_SENT, 0}, {10333, SCAN, 0}, {10668, SCAN, WGF_DEBT_RETRANSMIT}, {60000, SCAN, 0}}},
	{"an initiation answered", {{0, INITIATION_SENT, 0}, {1000, COMPLETED, 0}, {60000, SCAN, 0}}},
	{"keys are zeroed 540 s after the last session began",
	 {{0, DERIVED, 0}, {539999, SCAN, 0}, {540000, SCAN, WGF_DEBT_ZERO_KEYS}, {5400000, SCAN, 0}}},
	{"a new session puts it off",
	 {{0, DERIVED, 0}, {100000, DERIVED, 0}, {639999, SCAN, 0}, {640000, SCAN, WGF_DEBT_ZERO_KEYS}}},
	{"given up: nothing is owed but the zeroing",
	 {{0, INITIATION_SENT, 0}, {1, DATA_RECEIVED, 0}, {90000, GIVEN_UP, 0}, {629999, SCAN, 0},
	  {630000, SCAN, WGF_DEBT_ZERO_KEYS}}},
	{"given up with a session that is to be zeroed already",
	 {{0, DERIVED, 0}, {300000, GIVEN_UP, 0}, {540000, SCAN, WGF_DEBT_ZERO_KEYS}, {2000000, SCAN, 0}}},
	{"persistent keepalive: at once, and again if it could not be sent",
	 {{0, INTERVAL_25, 0}, {0, SCAN, WGF_DEBT_PERSISTENT}, {24999, SCAN, 0},
	  {25000, SCAN, WGF_DEBT_PERSISTENT}, {50000, SCAN, WGF_DEBT_PERSISTENT}}},
	{"any authenticated packet either way puts it off",
	 {{0, INTERVAL_25, 0}, {0, SCAN, WGF_DEBT_PERSISTENT}, {10000, KEEPALIVE_SENT, 0},
	  {20000, KEEPALIVE_RECEIVED, 0}, {44999, SCAN, 0}, {45000, SCAN, WGF_DEBT_PERSISTENT}}},
	{"persistent keepalive turned off",
	 {{0, INTERVAL_25, 0}, {0, SCAN, WGF_DEBT_PERSISTENT}, {1000, INTERVAL_OFF, 0},
	  {2000, KEEPALIVE_SENT, 0}, {100000, SCAN, 0}}},
	{"a handshake is wanted: said once",
	 {{0, WANTED, 0}, {0, SCAN, WGF_DEBT_HANDSHAKE}, {1, WANTED, 0}, {1, SCAN, 0}, {60000, WANTED, 0},
	  {60000, SCAN, 0}, {60000, DEALT_WITH, 0}, {60001, SCAN, 0}, {60001, WANTED, 0},
	  {60001, SCAN, WGF_DEBT_HANDSHAKE}}},
	{"and not more often than every 5 s",
	 {{0, WANTED, 0}, {0, SCAN, WGF_DEBT_HANDSHAKE}, {1, INITIATION_SENT, 0}, {2, WANTED, 0},
	  {5000, WANTED, 0}, {5000, SCAN, 0}, {5001, WANTED, 0}, {5001, SCAN, WGF_DEBT_HANDSHAKE}}},
	{"wanted, and sent for another reason",
	 {{0, WANTED, 0}, {1, INITIATION_SENT, 0}, {2, SCAN, 0}, {3, COMPLETED, 0}, {60000, SCAN, 0}}},
	{"giving up answers a wish that was reported",
	 {{0, WANTED, 0}, {0, SCAN, WGF_DEBT_HANDSHAKE}, {1, GIVEN_UP, 0}, {2, WANTED, 0},
	  {2, SCAN, WGF_DEBT_HANDSHAKE}}},
	{"several debts at once",
	 {{0, DATA_RECEIVED, 0}, {0, INITIATION_SENT, 0}, {0, INTERVAL_25, 0}, {9000, WANTED, 0},
	  {10000, SCAN,
	   WGF_DEBT_KEEPALIVE | WGF_DEBT_RETRANSMIT | WGF_DEBT_PERSISTENT | WGF_DEBT_HANDSHAKE}}},
	{"stopped: nothing is owed",
	 {{0, DATA_RECEIVED, 0}, {0, DATA_SENT, 0}, {0, DATA_RECEIVED, 0}, {0, INITIATION_SENT, 0},
	  {0, DERIVED, 0}, {0, INTERVAL_25, 0}, {6000, WANTED, 0}, {6001, STOPPED, 0}, {9000000, SCAN, 0},
	  {9000000, WANTED, 0}, {9000000, SCAN, WGF_DEBT_HANDSHAKE}}},
};

static void set_interval(struct wgf_peer *peer, uint32_t seconds, uint64_t now)
{
	atomic_store(&peer->persistent_interval, seconds);
	wgf_timers_persistent_changed(device, peer, now);
}

static void do_act(struct wgf_peer *peer, enum act act, uint64_t now)
{
	switch (act) {
	case DATA_SENT:
		wgf_timers_data_sent(device, peer, now); /* falls through */
	case KEEPALIVE_SENT:
		wgf_timers_authenticated_sent(device, peer, now);
		return;
	case DATA_RECEIVED:
		wgf_timers_data_received(device, peer, now); /* falls through */
	case KEEPALIVE_RECEIVED:
		wgf_timers_authenticated_received(device, peer, now);
		return;
	case INITIATION_SENT:
		wgf_timers_initiation_sent(device, peer, now);
		return;
	case COMPLETED:
		wgf_timers_handshake_completed(device, peer, now);
		CHECK(atomic_load(&peer->handshake_at) == (now ? now : 1));
		return;
	case DERIVED:
		wgf_timers_session_derived(device, peer, now);
		return;
	case GIVEN_UP:
		wgf_timers_give_up(device, peer, now);
		return;
	case STOPPED:
		wgf_timers_stop(peer);
		return;
	case INTERVAL_25:
	case INTERVAL_OFF:
		set_interval(peer, act == INTERVAL_25 ? 25 : 0, now);
		return;
	case WANTED:
		wgf_timers_want_handshake(device, peer, now);
		return;
	case DEALT_WITH:
		atomic_store(&peer->timers.handshake_wanted, WGF_WANTED_NOT);
		return;
	case SCAN:
	case STOP_HERE:
		return;
	}
}

/* Scans as the control plane does, and checks what it is told of the next time. */
static uint32_t scan_one(struct wgf_peer *peer, uint64_t now)
{
	struct wgf_owed owed[PEERS];
	uint64_t next;
	size_t n = wgf_timers_scan(device, now, owed, PEERS, &next);
	CHECK(n <= 1 && next > now && next == atomic_load(&device->planned));
	CHECK(n == 0 || (owed[0].peer == peer->handle && owed[0].debts));
	return n ? owed[0].debts : 0;
}

static void tell(const struct story *story, uint64_t start)
{
	begin();
	struct wgf_peer *peer = peers[3];
	for (const struct step *step = story->steps; step->act != STOP_HERE; step++) {
		uint64_t now = start + step->at * MILLI;
		do_act(peer, step->act, now);
		if (step->act != SCAN)
			continue;
		uint32_t debts = scan_one(peer, now + 1); /* what is armed for 0 becomes due at 1 */
		if (debts != step->owed)
			fprintf(stderr, "\"%s\" at %u ms: owes %u, not %u\n", story->name,
				(unsigned)step->at, (unsigned)debts, (unsigned)step->owed);
		CHECK(debts == step->owed);
	}
	end();
}

/* ---- Plans ---- */

static bool woken(void)
{
	struct pollfd poller = {.fd = device->events.fd, .events = POLLIN};
	bool is = poll(&poller, 1, 0) == 1;
	wgf_events_quiet(&device->events);
	return is;
}

static void test_plans(void)
{
	struct wgf_owed owed[PEERS];
	uint64_t next;
	begin();
	CHECK(wgf_timers_scan(device, START, owed, PEERS, &next) == 0 && next == UINT64_MAX);
	wgf_timers_data_received(device, peers[0], START);
	CHECK(woken() && atomic_load(&device->planned) == START + 10 * WGF_SECOND);
	wgf_timers_session_derived(device, peers[2], START); /* later than planned */
	wgf_timers_data_received(device, peers[2], START);   /* just when planned */
	wgf_timers_authenticated_sent(device, peers[0], START);
	CHECK(!woken() && atomic_load(&device->planned) == START + 10 * WGF_SECOND);
	wgf_timers_want_handshake(device, peers[4], START + 1);
	CHECK(woken() && atomic_load(&device->planned) == START + 1);
	wgf_timers_want_handshake(device, peers[4], START + 2);
	wgf_timers_want_handshake(device, peers[5], START + 2); /* the scan that will come sees it too */
	CHECK(!woken());

	CHECK(wgf_timers_scan(device, START + 3, owed, 1, &next) == 1); /* there was room for one */
	CHECK(owed[0].peer == peers[4]->handle && next == START + 3);
	CHECK(wgf_timers_scan(device, START + 3, owed, 0, &next) == 0 && next == START + 3);
	CHECK(wgf_timers_scan(device, START + 3, owed, PEERS, &next) == 1);
	CHECK(owed[0].peer == peers[5]->handle && next == START + 10 * WGF_SECOND);
	CHECK(wgf_timers_scan(device, next, owed, PEERS, &next) == 1 && owed[0].peer == peers[2]->handle);
	CHECK(next == START + 540 * WGF_SECOND && !woken());
	end();
}

static void test_many_peers(void)
{
	struct wgf_owed owed[PEERS];
	uint64_t next;
	begin();
	for (size_t i = 0; i < PEERS; i++)
		wgf_timers_arm_retransmit(device, peers[i], START + i);
	CHECK(wgf_timers_scan(device, START + PEERS, owed, PEERS, &next) == PEERS - 1 && next == UINT64_MAX);
	for (size_t i = 0; i < PEERS - 1; i++)
		CHECK(owed[i].peer == peers[i + (i > 0)]->handle && owed[i].debts == WGF_DEBT_RETRANSMIT);
	end();
}

static size_t id_after(size_t id)
{
	do
		id = (id + 1) % atomic_load(&device->peers.high);
	while (!atomic_load(&device->peers.rows[id]));
	return id;
}

/* More is owed than is ever paid, as whoever was paid owes again at once: all take turns, those that came
 * later too, and where it stopped a peer may have gone. */
static void test_turns(size_t max)
{
	struct wgf_owed owed[PEERS];
	uint32_t high = 2 * WGF_PEERS_A_LOOK;
	size_t last = high - 1;
	uint64_t next;
	begin();
	atomic_store(&device->peers.high, high);
	for (size_t i = 0; i < PEERS; i++)
		wgf_timers_arm_retransmit(device, peers[i], START);
	for (size_t round = 0; round < 3 * PEERS; round++) {
		if (round == PEERS)
			atomic_store(&device->peers.high, PEERS);
		if (round % 10 == 9)
			atomic_store(&device->peers.rows[id_after(last)], NULL);
		CHECK(wgf_timers_scan(device, START + round, owed, max, &next) == max && next == START + round);
		for (size_t i = 0; i < max; i++) {
			CHECK(owed[i].peer == peers[last = id_after(last)]->handle);
			wgf_timers_arm_retransmit(device, peers[last], next);
		}
	}
	end();
}

/* Scans with little room against a list of deadlines: each debt is found once, when it is due, and the next time
 * is never later than the next deadline. */
static void test_looks(struct check_random *random)
{
	uint64_t due[PEERS] = {0}, now = START, next;
	struct wgf_owed owed[PEERS];
	begin();
	for (size_t round = 0; round < 20000; round++) {
		size_t i = check_random_below(random, PEERS), max = check_random_below(random, 5);
		now += check_random_below(random, 3);
		if (i != 1 && check_random_below(random, 2)) {
			due[i] = now + check_random_below(random, 300);
			wgf_timers_arm_retransmit(device, peers[i], due[i]);
			continue;
		}
		size_t n = wgf_timers_scan(device, now, owed, max, &next), left = 0;
		for (size_t j = 0; j < n; j++) {
			uint64_t *of = &due[owed[j].peer & 0xff];
			CHECK(*of && *of <= now && owed[j].debts == WGF_DEBT_RETRANSMIT);
			*of = 0;
		}
		for (size_t j = 0; j < PEERS; j++) {
			CHECK(!due[j] || next <= due[j] || next == now);
			left += due[j] && due[j] <= now;
		}
		CHECK(left == 0 || (n == max && next <= now));
		CHECK(n == max || next > now);
		CHECK(next == atomic_load(&device->planned));
	}
	end();
}

/* ---- Threads arm and wait for their debt; the sleeper really sleeps, so a lost one is a time-out ---- */

#define ARMERS 3u
#define ROUNDS 4000u
static _Atomic uint32_t paid[PEERS];
static _Atomic uint32_t armers_left;

static void *arm_and_wait(void *argument)
{
	size_t mine = (size_t)(uintptr_t)argument;
	struct wgf_peer *peer = peers[mine];
	for (uint32_t round = 0; round < ROUNDS; round++) {
		if (round % 2)
			wgf_timers_want_handshake(device, peer, START);
		else
			wgf_timers_arm_retransmit(device, peer, START - round);
		wgf_timers_data_received(device, peer, START);
		wgf_timers_authenticated_sent(device, peer, START);
		while (atomic_load(&paid[mine]) == round)
			sched_yield();
	}
	atomic_fetch_sub(&armers_left, 1);
	wgf_events_wake(&device->events);
	return NULL;
}

static void pay(const struct wgf_owed *owed)
{
	uint32_t debt = owed->debts & (WGF_DEBT_RETRANSMIT | WGF_DEBT_HANDSHAKE);
	size_t peer = (size_t)(owed->peer & 0xff);
	CHECK(debt == (atomic_load(&paid[peer]) % 2 ? WGF_DEBT_HANDSHAKE : WGF_DEBT_RETRANSMIT));
	atomic_store(&peers[peer]->timers.handshake_wanted, WGF_WANTED_NOT);
	atomic_fetch_add(&paid[peer], 1);
}

static void test_no_debt_is_lost(void)
{
	pthread_t threads[ARMERS];
	struct wgf_owed owed[2];
	uint64_t next;
	size_t slept = 0;
	begin();
	atomic_store(&armers_left, ARMERS);
	for (size_t i = 0; i < ARMERS; i++)
		CHECK(pthread_create(&threads[i], NULL, arm_and_wait, (void *)(i * 64 + 2)) == 0);
	while (atomic_load(&armers_left)) {
		size_t n = wgf_timers_scan(device, START, owed, 2, &next);
		for (size_t i = 0; i < n; i++)
			pay(&owed[i]);
		if (next <= START || wgf_events_quiet(&device->events))
			continue;
		struct pollfd poller = {.fd = device->events.fd, .events = POLLIN};
		CHECK(poll(&poller, 1, 20000) == 1);
		slept++;
	}
	for (size_t i = 0; i < ARMERS; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < ARMERS; i++)
		CHECK(atomic_load(&paid[i * 64 + 2]) == ROUNDS);
	printf("timers: %u debts, slept %zu times\n", ARMERS * ROUNDS, slept);
	end();
}

/* ---- A scan because the plan came due, and a wish in the middle of it: the plan must not hide it ---- */

static _Atomic uint64_t clock_now;

static void *wish_and_wait(void *argument)
{
	struct check_random *random = argument;
	for (uint32_t round = 0; round < 15 * ROUNDS; round++) {
		/* Some microseconds, so that the wish comes anywhere in the sleeper's round. */
		for (size_t i = check_random_below(random, 2000); i > 0; i--)
			(void)atomic_load(&paid[0]);
		wgf_timers_want_handshake(device, peers[0], atomic_load(&clock_now) + 1);
		while (atomic_load(&paid[0]) == round)
			sched_yield();
	}
	atomic_store(&armers_left, 0);
	wgf_events_wake(&device->events);
	return NULL;
}

static void scan_until_quiet(void)
{
	struct wgf_owed owed[PEERS];
	uint64_t next;
	do {
		size_t n = wgf_timers_scan(device, atomic_load(&clock_now), owed, PEERS, &next);
		for (size_t i = 0; i < n; i++) {
			if (owed[i].peer != peers[0]->handle)
				continue;
			CHECK(owed[i].debts == WGF_DEBT_HANDSHAKE);
			atomic_store(&peers[0]->timers.handshake_wanted, WGF_WANTED_NOT);
			atomic_fetch_add(&paid[0], 1);
		}
	} while (wgf_events_quiet(&device->events));
}

static void test_wish_during_scan(struct check_random *random)
{
	pthread_t thread;
	begin();
	atomic_store(&clock_now, START);
	atomic_store(&armers_left, 1);
	atomic_store(&paid[0], 0);
	CHECK(pthread_create(&thread, NULL, wish_and_wait, random) == 0);
	while (atomic_load(&armers_left)) {
		/* Another peer's deadline makes a plan, and then its time has come. */
		wgf_timers_arm_retransmit(device, peers[2], atomic_load(&clock_now) + 1);
		scan_until_quiet();
		atomic_fetch_add(&clock_now, 1);
		scan_until_quiet();
		struct pollfd poller = {.fd = device->events.fd, .events = POLLIN};
		if (atomic_load(&armers_left))
			CHECK(poll(&poller, 1, 20000) == 1);
	}
	pthread_join(thread, NULL);
	end();
}

int main(void)
{
	struct check_random random = check_random_begin("timers");
	for (size_t i = 0; i < sizeof(stories) / sizeof(stories[0]); i++) {
		tell(&stories[i], START);
		tell(&stories[i], 0); /* an Engine's caller may count from 0 */
	}
	test_plans();
	test_many_peers();
	test_turns(1);
	test_turns(16);
	test_turns(70);
	test_looks(&random);
	test_no_debt_is_lost();
	test_wish_during_scan(&random);
	return 0;
}
