/* Limits of a peer against a bucket that is filled step by step, by several threads at once, while they change
 * under traffic, and with clocks that jump. */
#include <errno.h>
#include <pthread.h>

#include "limited.h"

enum { HISTORIES = 300, RUNS = 400, THREADS = 4, CHARGES = 20000, CHANGES = 2000 };

/* Packets of these lengths, which are dropped or not afterwards. */
static void make_run(struct wgf_packet *packets, const uint32_t *lengths, size_t n)
{
	for (size_t i = 0; i < n; i++)
		packets[i] = (struct wgf_packet){.inner_len = lengths[i], .drop = WGF_DROP_NOT};
}

/* As a batch does it. */
static uint32_t charge(const struct party *party, struct wgf_packet *packets, size_t n, enum wgf_way way, uint64_t now)
{
	struct wgf_device *device = party->device;
	struct wgf_reader reader = {0};
	uint32_t dropped = 0;
	wgf_epoch_join(&device->epoch, &reader);
	wgf_epoch_enter(&device->epoch, &reader);
	struct wgf_limiter *limiter = atomic_load(&wgf_peer_of_owner(&device->peers, (uint32_t)party->peer)->limiter);
	if (limiter)
		dropped = wgf_limiter_charge(device, limiter, way, packets, (uint32_t)n, now);
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&device->epoch, &reader);
	return dropped;
}

/* How many of n packets of that length pass. */
static size_t pass(const struct party *party, uint32_t length, size_t n, uint64_t now)
{
	size_t passed = 0;
	for (size_t i = 0; i < n; i++) {
		struct wgf_packet packet = {.inner_len = length, .drop = WGF_DROP_NOT};
		passed += charge(party, &packet, 1, WGF_SENDING, now) == 0;
	}
	return passed;
}

/* ---- The oracle: tokens drop into a bucket one after the other ---- */

struct oracle_bucket {
	uint64_t rate, per, burst;     /* rate 0: none */
	unsigned __int128 level, part; /* of a token, in 1 / per */
	uint64_t last;
};

struct oracle {
	struct oracle_bucket bytes, packets;
	uint64_t quota, used;
};

static void oracle_fill(struct oracle_bucket *bucket, uint64_t now)
{
	bucket->part += (unsigned __int128)bucket->rate * (now - bucket->last);
	bucket->level += bucket->part / bucket->per;
	bucket->part %= bucket->per;
	if (bucket->level > bucket->burst)
		bucket->level = bucket->burst;
	bucket->last = now;
}

static void oracle_set(struct oracle_bucket *bucket, uint64_t rate, uint64_t burst, uint64_t per, uint64_t least, uint64_t now)
{
	if (!burst)
		burst = rate / (per / WGF_SECOND) / 4 > least ? rate / (per / WGF_SECOND) / 4 : least;
	if (rate == bucket->rate && burst == bucket->burst)
		return;
	if (bucket->rate)
		oracle_fill(bucket, now);
	bool fresh = !bucket->rate || bucket->level > burst;
	*bucket = (struct oracle_bucket){rate, per, burst, fresh ? burst : bucket->level, 0, now};
}

static void oracle_change(struct oracle *oracle, const uint64_t *value, uint64_t now)
{
	oracle_set(&oracle->bytes, value[WGF_LIMIT_SEND_RATE], value[WGF_LIMIT_SEND_BURST], 8 * WGF_SECOND, 65536, now);
	oracle_set(&oracle->packets, value[WGF_LIMIT_SEND_PACKET_RATE], value[WGF_LIMIT_SEND_PACKET_BURST], WGF_SECOND, 64, now);
	oracle->quota = value[WGF_LIMIT_SEND_QUOTA];
	if (!oracle->quota)
		oracle->used = 0;
}

/* 0: it passes, 1: limited, 2: over the quota. */
static unsigned oracle_judge(struct oracle *oracle, uint32_t length)
{
	if (oracle->quota && oracle->used + length > oracle->quota)
		return 2;
	if ((oracle->bytes.rate && oracle->bytes.level < length) || (oracle->packets.rate && oracle->packets.level < 1))
		return 1;
	oracle->bytes.level -= oracle->bytes.rate ? length : 0;
	oracle->packets.level -= oracle->packets.rate ? 1 : 0;
	oracle->used += oracle->quota ? length : 0;
	return 0;
}

/* ---- One thread: exactly what the oracle says ---- */

static uint64_t some_wait(struct check_random *random)
{
	static const uint64_t most[] = {1, 100, 10000, 1000000, WGF_SECOND, 1000 * WGF_SECOND, 40 * UINT64_C(86400) * WGF_SECOND};
	return check_random_next(random) % most[check_random_below(random, 7)];
}

static size_t compare_run(const struct party *party, struct check_random *random, struct oracle *oracle, uint64_t now)
{
	static const unsigned verdicts[] = {WGF_DROP_NOT, WGF_DROP_SEND_LIMITED, WGF_DROP_SEND_QUOTA};
	struct wgf_packet packets[WGF_BATCH_PACKETS];
	uint32_t lengths[WGF_BATCH_PACKETS];
	size_t n = 1 + check_random_below(random, check_random_below(random, 4) ? 8 : WGF_BATCH_PACKETS), dropped = 0;
	for (size_t i = 0; i < n; i++)
		lengths[i] = (uint32_t)check_random_below(random, check_random_below(random, 4) ? 1500 : WGF_MTU_MAX + 1);
	make_run(packets, lengths, n);
	size_t gone = check_random_below(random, n); /* dropped before */
	packets[gone].drop = WGF_DROP_SEND_NO_PEER;
	if (oracle->bytes.rate)
		oracle_fill(&oracle->bytes, now);
	if (oracle->packets.rate)
		oracle_fill(&oracle->packets, now);
	uint32_t said = charge(party, packets, n, WGF_SENDING, now);
	for (size_t i = 0; i < n; i++) {
		unsigned verdict = i == gone || !lengths[i] ? 0 : oracle_judge(oracle, lengths[i]);
		CHECK((unsigned)packets[i].drop == (i == gone ? WGF_DROP_SEND_NO_PEER : verdicts[verdict]));
		dropped += verdict != 0;
	}
	CHECK(said == dropped);
	return dropped;
}

static void test_against_oracle(struct check_random *random)
{
	size_t dropped = 0, changes = 0;
	struct party party;
	make_party(&party, 1);
	for (size_t history = 0; history < HISTORIES; history++) {
		struct oracle oracle = {.quota = 0};
		struct wgf_limits limits = nothing();
		uint64_t value[WGF_LIMIT_COUNT] = {0}, now = check_random_below(random, 2) ? 0 : check_random_next(random) >> 2;
		party.peer = meet(&party, 2);
		for (size_t i = 0; i < RUNS; i++) {
			if (i == 0 || !check_random_below(random, 40)) {
				limits = nothing();
				some_limits(random, &limits);
				for (size_t n = 0; n < WGF_LIMIT_COUNT; n++)
					if (limits.said >> n & 1)
						value[n] = limits.value[n];
				CHECK(!wgf_peer_set_limits(party.device, party.peer, &limits, now));
				oracle_change(&oracle, value, now);
				changes++;
			}
			dropped += compare_run(&party, random, &oracle, now);
			CHECK(get_one(&party, WGF_LIMIT_SEND_USED) == oracle.used);
			now += some_wait(random);
		}
		CHECK(!wgf_device_remove_peer(party.device, party.peer));
	}
	printf("limiter: %zu changes, %zu packets dropped as the oracle said\n", changes, dropped);
	wgf_device_destroy(party.device);
}

/* ---- Setting ---- */

static void test_setting(void)
{
	struct party party;
	make_party(&party, 1);
	party.peer = meet(&party, 2);
	for (uint32_t i = 0; i < WGF_LIMIT_COUNT; i++) {
		struct wgf_limits limits = nothing();
		say(&limits, (enum wgf_limit)i, wgf_limit_most(i) + 1);
		say(&limits, WGF_LIMIT_SEND_RATE, i ? 5 : wgf_limit_most(0) + 1);
		CHECK(wgf_peer_set_limits(party.device, party.peer, &limits, START) == -EINVAL);
		CHECK(get_one(&party, WGF_LIMIT_SEND_RATE) == 0); /* nothing has changed */
	}
	CHECK(!wgf_limit_name(WGF_LIMIT_COUNT) && !wgf_limit_most(WGF_LIMIT_COUNT));
	CHECK(!atomic_load(&row_of(&party)->limiter));

	set_one(&party, WGF_LIMIT_SEND_QUOTA, 1000, START);
	CHECK(pass(&party, 400, 5, START) == 2 && get_one(&party, WGF_LIMIT_SEND_USED) == 800);
	CHECK(pass(&party, 200, 5, START) == 1); /* a shorter one that fits */
	CHECK(pass(&party, 1, 1, START + 1000 * WGF_SECOND) == 0);
	set_one(&party, WGF_LIMIT_SEND_QUOTA, 1400, START); /* raised */
	CHECK(pass(&party, 400, 5, START) == 1);
	set_one(&party, WGF_LIMIT_SEND_USED, 1000, START); /* what an earlier daemon had counted */
	CHECK(pass(&party, 400, 5, START) == 1 && get_one(&party, WGF_LIMIT_SEND_USED) == 1400);
	set_one(&party, WGF_LIMIT_SEND_QUOTA, 100, START); /* lowered below what is used */
	CHECK(pass(&party, 1, 1, START) == 0 && get_one(&party, WGF_LIMIT_SEND_USED) == 1400);
	set_one(&party, WGF_LIMIT_RECEIVE_RATE, 8, START);
	set_one(&party, WGF_LIMIT_SEND_QUOTA, 0, START);
	CHECK(get_one(&party, WGF_LIMIT_SEND_USED) == 0 && pass(&party, 1400, 100, START) == 100);
	set_one(&party, WGF_LIMIT_RECEIVE_RATE, 0, START);
	CHECK(!atomic_load(&row_of(&party)->limiter)); /* the last of them: nothing is left */
	set_one(&party, WGF_LIMIT_SEND_USED, 7, START);
	CHECK(get_one(&party, WGF_LIMIT_SEND_USED) == 0); /* without a quota nothing is used */
	CHECK(!wgf_device_remove_peer(party.device, party.peer));
	struct wgf_limits limits = nothing();
	CHECK(wgf_peer_set_limits(party.device, party.peer, &limits, START) == -ESTALE);
	CHECK(wgf_peer_limits(party.device, party.peer, &limits) == -ESTALE);
	wgf_device_destroy(party.device);
}

/* ---- Clocks ---- */

/* 1000 bytes a second, 5000 at once. */
static void limit_to_1000(struct party *party, uint64_t now)
{
	struct wgf_limits limits = nothing();
	make_party(party, 1);
	party->peer = meet(party, 2);
	say(&limits, WGF_LIMIT_SEND_RATE, 8000);
	say(&limits, WGF_LIMIT_SEND_BURST, 5000);
	CHECK(!wgf_peer_set_limits(party->device, party->peer, &limits, now));
}

static void test_clocks(void)
{
	struct party party;
	limit_to_1000(&party, START);
	CHECK(pass(&party, 1000, 10, START - 1) == 4); /* a batch from before they were set: a token less */
	CHECK(pass(&party, 1000, 10, START) == 1);
	CHECK(pass(&party, 1000, 10, START + UINT64_C(86400) * 30 * WGF_SECOND) == 5); /* a month's sleep: one burst */
	uint64_t now = START + UINT64_C(86400) * 30 * WGF_SECOND;
	CHECK(pass(&party, 1000, 10, now - 3 * WGF_SECOND) == 0); /* a thread that read its clock earlier */
	CHECK(pass(&party, 1000, 10, now + WGF_SECOND) == 1);     /* and lost nothing for the others by it */
	CHECK(pass(&party, 1000, 10, now + WGF_SECOND - 1) == 0);
	/* Set back by a day, and before the limits were set: empty, and filling from there. */
	now -= UINT64_C(86400) * WGF_SECOND;
	CHECK(pass(&party, 1000, 10, now) == 0 && pass(&party, 1000, 10, now + 2 * WGF_SECOND) == 2);
	CHECK(pass(&party, 1000, 10, 7) == 0 && pass(&party, 1000, 10, 7 + 2 * WGF_SECOND) == 2);
	CHECK(pass(&party, 1000, 10, 7 + 1000 * WGF_SECOND) == 5);
	/* To the end of time. */
	CHECK(pass(&party, 1000, 10, UINT64_MAX) == 5);
	CHECK(pass(&party, 1000, 10, UINT64_MAX) == 0);
	CHECK(pass(&party, 1000, 10, UINT64_MAX - 11 * WGF_SECOND) == 0);
	wgf_device_destroy(party.device);
}

/* The credit wraps: whoever was silent until then goes on with an empty bucket at worst. */
static void test_wrapping(struct check_random *random)
{
	const uint64_t rate = wgf_limit_most(WGF_LIMIT_SEND_RATE), second = WGF_SECOND;
	for (unsigned round = 0; round < 50; round++) {
		struct party party;
		uint64_t now = check_random_next(random) >> 3;
		make_party(&party, 1);
		party.peer = meet(&party, 2);
		set_one(&party, WGF_LIMIT_SEND_RATE, rate, now);
		pass(&party, 1400, check_random_below(random, 5), now);
		now += check_random_next(random) >> 1; /* up to 292 years */
		pass(&party, 1400, 1, now);
		CHECK(pass(&party, 1400, 1, now + 11 * second) == 1); /* whatever it found has healed */
		wgf_device_destroy(party.device);
	}
}

/* From 10 Gbit/s to 1 kbit/s while a batch of the old rate is still at work. */
static void test_lowering(void)
{
	struct party party;
	struct wgf_limits limits = nothing();
	make_party(&party, 1);
	party.peer = meet(&party, 2);
	say(&limits, WGF_LIMIT_SEND_RATE, UINT64_C(10000000000));
	say(&limits, WGF_LIMIT_SEND_BURST, 100000000);
	CHECK(!wgf_peer_set_limits(party.device, party.peer, &limits, START));
	struct wgf_reader reader = {0};
	wgf_epoch_join(&party.device->epoch, &reader);
	wgf_epoch_enter(&party.device->epoch, &reader);
	struct wgf_limiter *old = atomic_load(&row_of(&party)->limiter);
	say(&limits, WGF_LIMIT_SEND_RATE, 8000);
	say(&limits, WGF_LIMIT_SEND_BURST, 5000);
	CHECK(!wgf_peer_set_limits(party.device, party.peer, &limits, START));
	struct wgf_packet packets[200];
	for (size_t i = 0; i < 200; i++)
		packets[i] = (struct wgf_packet){.inner_len = 60000, .drop = WGF_DROP_NOT};
	CHECK(wgf_limiter_charge(party.device, old, WGF_SENDING, packets, 200, START + 1000) == 0);
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&party.device->epoch, &reader);
	CHECK(pass(&party, 1000, 10, START + WGF_SECOND) == 0); /* twelve megabytes too many, but not for three hours */
	CHECK(pass(&party, 1000, 10, START + 12 * WGF_SECOND) <= 5);
	CHECK(pass(&party, 1000, 20, START + 22 * WGF_SECOND) == 5);
	wgf_device_destroy(party.device);
}

/* ---- Threads ---- */

static struct party crowd;
static _Atomic uint64_t clock_now, passed_bytes, passed_packets;

/* Each thread's time is a little behind what it is by then, as a batch's is. */
static void *charger(void *argument)
{
	struct check_random *random = argument;
	struct wgf_packet packets[32];
	for (size_t i = 0; i < CHARGES; i++) {
		uint64_t now = atomic_fetch_add(&clock_now, check_random_below(random, 2000)), bytes = 0;
		size_t n = 1 + check_random_below(random, 32), passed = 0;
		for (size_t j = 0; j < n; j++)
			packets[j] = (struct wgf_packet){.inner_len = 1 + (uint32_t)check_random_below(random, 1500),
							 .drop = WGF_DROP_NOT};
		charge(&crowd, packets, n, WGF_SENDING, now);
		for (size_t j = 0; j < n; j++)
			if (packets[j].drop == WGF_DROP_NOT) {
				bytes += packets[j].inner_len;
				passed++;
			}
		atomic_fetch_add(&passed_bytes, bytes);
		atomic_fetch_add(&passed_packets, passed);
	}
	return NULL;
}

static void *changer(void *argument)
{
	struct check_random *random = argument;
	for (size_t i = 0; i < CHANGES; i++) {
		struct wgf_limits limits = nothing();
		some_limits(random, &limits);
		limits.said &= ~(UINT32_C(1) << WGF_LIMIT_SEND_QUOTA);
		CHECK(!wgf_peer_set_limits(crowd.device, crowd.peer, &limits, atomic_load(&clock_now)));
	}
	return NULL;
}

static void run_crowd(struct check_random *random, bool changes)
{
	pthread_t threads[THREADS + 1];
	struct check_random randoms[THREADS + 1];
	atomic_store(&passed_bytes, 0);
	atomic_store(&passed_packets, 0);
	for (size_t i = 0; i < THREADS + 1; i++)
		randoms[i] = (struct check_random){check_random_next(random)};
	for (size_t i = 0; i < THREADS; i++)
		CHECK(!pthread_create(&threads[i], NULL, charger, &randoms[i]));
	if (changes)
		CHECK(!pthread_create(&threads[THREADS], NULL, changer, &randoms[THREADS]));
	for (size_t i = 0; i < THREADS + (changes ? 1 : 0); i++)
		pthread_join(threads[i], NULL);
}

static void test_threads(struct check_random *random)
{
	const uint64_t rate = UINT64_C(1000000000), burst = 100000, packet_rate = 150000, packet_burst = 10;
	struct wgf_limits limits = nothing();
	make_party(&crowd, 1);
	crowd.peer = meet(&crowd, 2);
	atomic_store(&clock_now, START);
	say(&limits, WGF_LIMIT_SEND_RATE, rate);
	say(&limits, WGF_LIMIT_SEND_BURST, burst);
	say(&limits, WGF_LIMIT_SEND_PACKET_RATE, packet_rate);
	say(&limits, WGF_LIMIT_SEND_PACKET_BURST, packet_burst);
	say(&limits, WGF_LIMIT_SEND_QUOTA, UINT64_C(1) << 50);
	CHECK(!wgf_peer_set_limits(crowd.device, crowd.peer, &limits, START));
	run_crowd(random, false);
	uint64_t took = atomic_load(&clock_now) - START, bytes = atomic_load(&passed_bytes);
	uint64_t most_bytes = rate / 8 * took / WGF_SECOND + burst, most_packets = packet_rate * took / WGF_SECOND + packet_burst;
	CHECK(bytes <= most_bytes && atomic_load(&passed_packets) <= most_packets);
	CHECK(get_one(&crowd, WGF_LIMIT_SEND_USED) == bytes);
	printf("limiter: %d threads were given %.4f of the packets and %.4f of the bytes there were\n", THREADS,
	       (double)atomic_load(&passed_packets) / (double)most_packets, (double)bytes / (double)most_bytes);

	/* A quota alone is used up to the last byte that fits. */
	CHECK(!wgf_device_remove_peer(crowd.device, crowd.peer));
	crowd.peer = meet(&crowd, 2);
	set_one(&crowd, WGF_LIMIT_SEND_QUOTA, 5000000, START);
	run_crowd(random, false);
	CHECK(atomic_load(&passed_bytes) == get_one(&crowd, WGF_LIMIT_SEND_USED));
	CHECK(atomic_load(&passed_bytes) == 5000000); /* there were packets of every length left */

	/* While rates come and go, every byte that passes is counted. */
	CHECK(!wgf_device_remove_peer(crowd.device, crowd.peer));
	crowd.peer = meet(&crowd, 2);
	set_one(&crowd, WGF_LIMIT_SEND_QUOTA, UINT64_C(1) << 50, START);
	run_crowd(random, true);
	CHECK(atomic_load(&passed_bytes) == get_one(&crowd, WGF_LIMIT_SEND_USED));
	wgf_device_destroy(crowd.device);
}

int main(void)
{
	struct check_random random = check_random_begin("limiter");
	test_against_oracle(&random);
	test_setting();
	test_clocks();
	test_wrapping(&random);
	test_lowering();
	test_threads(&random);
	return 0;
}
