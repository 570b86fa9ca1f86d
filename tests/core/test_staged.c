/* Staged packets against a slow oracle (an array in order of arrival), then the same calls from many
 * threads at once. */
#include <pthread.h>
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "device.h"

#define PEERS 40u
#define CHUNKS (WGF_STAGED_BYTES / WGF_STAGED_CHUNK)

static struct wgf_device *device;
static struct wgf_peer *peers[PEERS];
static struct wgf_batch *batch;
static uint32_t limit = WGF_BATCH_PACKETS;

static void *zeroed(size_t size)
{
	size = (size + 63) / 64 * 64;
	void *memory = aligned_alloc(64, size);
	CHECK(memory);
	return memset(memory, 0, size);
}

static void begin(void)
{
	size_t ceiling = 0;
	device = zeroed(sizeof(*device));
	CHECK(wgf_epoch_init(&device->epoch) == 0);
	CHECK(wgf_staged_init(&device->staged) == 0);
	for (size_t i = 0; i < PEERS; i++) {
		peers[i] = zeroed(sizeof(*peers[i]));
		peers[i]->handle = i + 1;
		wgf_staged_open(peers[i]);
	}
	batch = wgf_pool_create(1, WGF_SEND_ROOM, &device->epoch, &ceiling);
	CHECK(batch);
}

static void end(void)
{
	wgf_pool_destroy(batch, 1, &device->epoch);
	for (size_t i = 0; i < PEERS; i++)
		free(peers[i]);
	wgf_staged_destroy(&device->staged);
	wgf_epoch_destroy(&device->epoch);
	free(device);
}

static uint64_t dropped(enum wgf_drop reason)
{
	return atomic_load(&device->drops[reason]);
}

static uint32_t count(size_t peer)
{
	return atomic_load(&peers[peer]->staged.count);
}

/* A packet that says who it is, so that mixed-up chunks show. */
static void make_packet(uint8_t *packet, uint32_t len, uint64_t name)
{
	struct check_random random = {name};
	check_random_fill(&random, packet, len);
}

static void put(size_t peer, uint32_t len, uint64_t name)
{
	static _Thread_local uint8_t packet[WGF_MTU_MAX];
	make_packet(packet, len, name);
	CHECK(wgf_staged_put(device, peers[peer], packet, len));
}

static void check_packet(const struct wgf_packet *packet, size_t peer, uint32_t len, uint64_t name)
{
	static _Thread_local uint8_t expected[WGF_MTU_MAX];
	make_packet(expected, len, name);
	CHECK(packet->peer == peers[peer] && packet->inner_len == len && !packet->keypair);
	CHECK(packet->drop == WGF_DROP_NOT && memcmp(packet->inner, expected, len) == 0);
}

static uint32_t take(void)
{
	wgf_batch_reset(batch, 0);
	batch->limit = limit;
	uint32_t n = wgf_staged_take(device, batch);
	CHECK(n == batch->count && n <= limit);
	CHECK(batch->bytes <= WGF_BATCH_BYTES && batch->used <= batch->room);
	return n;
}

static void check_nothing_left(void)
{
	static const uint8_t zeros[WGF_STAGED_CHUNK];
	CHECK(device->staged.in_use == 0 && device->staged.oldest == WGF_STAGED_NONE);
	CHECK(device->staged.newest == WGF_STAGED_NONE && !device->staged.flush_first);
	CHECK(atomic_load(&device->staged.flushing) == 0);
	for (size_t i = 0; i < CHUNKS; i++)
		CHECK(memcmp(device->staged.chunks + i * WGF_STAGED_CHUNK, zeros, sizeof(zeros)) == 0);
}

static void test_basic(void)
{
	begin();
	put(0, 100, 1);
	put(0, 2048, 2);
	put(0, 2049, 3);
	put(0, WGF_MTU_MAX, 4);
	CHECK(count(0) == 4 && device->staged.in_use == 1 + 1 + 2 + 32);
	CHECK(take() == 0); /* nobody asked for a flush */
	wgf_staged_flush(device, peers[0]);
	wgf_staged_flush(device, peers[0]);
	wgf_staged_flush(device, peers[1]); /* has none */
	CHECK(atomic_load(&device->staged.flushing) == 1);
	CHECK(take() == 3);
	check_packet(&batch->packets[0], 0, 100, 1);
	check_packet(&batch->packets[1], 0, 2048, 2);
	check_packet(&batch->packets[2], 0, 2049, 3);
	CHECK(atomic_load(&device->staged.flushing) == 1);
	CHECK(take() == 1); /* the large one fills a batch of its own */
	check_packet(&batch->packets[0], 0, WGF_MTU_MAX, 4);
	CHECK(take() == 0);
	check_nothing_left();
	end();
}

static void test_keepalives(void)
{
	begin();
	CHECK(wgf_staged_put(device, peers[0], NULL, 0));
	CHECK(wgf_staged_put(device, peers[0], NULL, 0));
	CHECK(count(0) == 1);
	put(0, 10, 1);
	CHECK(wgf_staged_put(device, peers[0], NULL, 0)); /* something waits: it will confirm as well */
	CHECK(count(0) == 2);
	wgf_staged_flush(device, peers[0]);
	CHECK(take() == 2);
	CHECK(batch->packets[0].inner_len == 0 && batch->packets[0].peer == peers[0]);
	check_packet(&batch->packets[1], 0, 10, 1);
	CHECK(wgf_staged_put(device, peers[0], NULL, 0));
	wgf_staged_purge(device, peers[0]);
	CHECK(dropped(WGF_DROP_SEND_NO_SESSION) == 0); /* a keepalive is not missed */
	check_nothing_left();
	end();
}

/* All room is taken, and still every peer's keepalive may wait. */
static void test_keepalives_take_no_room(void)
{
	begin();
	put(0, 100, 1);
	for (uint64_t i = 0; i < CHUNKS / 32 - 1; i++)
		put(1 + i % 8, WGF_MTU_MAX, i);
	for (uint64_t i = 0; i < 31; i++)
		put(9, 1, i);
	CHECK(device->staged.in_use == CHUNKS);
	for (size_t i = 10; i < PEERS; i++) {
		CHECK(wgf_staged_put(device, peers[i], NULL, 0) && count(i) == 1);
		wgf_staged_flush(device, peers[i]);
	}
	wgf_staged_flush(device, peers[0]);
	CHECK(count(0) == 1 && dropped(WGF_DROP_SEND_STAGED_FULL) == 0);
	CHECK(take() == PEERS - 10 + 1);
	for (uint32_t i = 0; i < PEERS - 10; i++)
		check_packet(&batch->packets[i], 10 + i, 0, 0);
	check_packet(&batch->packets[PEERS - 10], 0, 100, 1);
	for (size_t i = 0; i < PEERS; i++)
		wgf_staged_close(device, peers[i]);
	check_nothing_left();
	end();
}

static void test_limits(void)
{
	begin();
	for (uint64_t i = 0; i < WGF_STAGED_PER_PEER + 10; i++)
		put(0, 50, i);
	CHECK(count(0) == WGF_STAGED_PER_PEER && dropped(WGF_DROP_SEND_STAGED_FULL) == 10);

	/* 31 chunks more than there are: the oldest of all go, and those are peer 0's. */
	for (uint64_t i = 0; i < CHUNKS / 32; i++)
		put(1 + i % 8, WGF_MTU_MAX, 1000 + i);
	CHECK(count(0) == 0 && dropped(WGF_DROP_SEND_STAGED_FULL) == 10 + WGF_STAGED_PER_PEER);
	CHECK(count(1) == 8 && device->staged.in_use == CHUNKS);
	put(9, 1, 5);
	CHECK(count(1) == 7 && count(9) == 1);

	CHECK(wgf_staged_put(device, peers[2], batch->memory, WGF_MTU_MAX + 1));
	CHECK(dropped(WGF_DROP_SEND_TOO_LARGE) == 1 && count(2) == 8);

	uint64_t staged = 0;
	for (size_t i = 0; i < PEERS; i++)
		staged += count(i);
	for (size_t i = 0; i < PEERS; i++)
		wgf_staged_close(device, peers[i]);
	CHECK(dropped(WGF_DROP_SEND_NO_SESSION) == staged);
	CHECK(!wgf_staged_put(device, peers[0], batch->memory, 10));
	CHECK(!wgf_staged_put(device, peers[0], NULL, 0));
	wgf_staged_flush(device, peers[0]);
	check_nothing_left();
	end();
}

/* A row of the Engine's caller that is too short for what waits. */
static void test_short_rows(void)
{
	static struct wgf_batch rows; /* which has no memory of its own */
	uint8_t *inner = malloc(150);
	CHECK(inner);
	begin();
	put(0, 200, 1);
	put(0, 151, 2);
	put(0, 150, 3);
	wgf_staged_flush(device, peers[0]);
	rows.limit = 1;
	rows.packets[0] = (struct wgf_packet){.inner = inner, .inner_room = 150};
	CHECK(wgf_staged_take(device, &rows) == 1);
	check_packet(&rows.packets[0], 0, 150, 3);
	CHECK(dropped(WGF_DROP_SEND_TOO_LARGE) == 2);
	check_nothing_left();
	end();
	free(inner);
}

/* Two peers with much to send take turns. */
static void test_turns(void)
{
	begin();
	for (uint64_t i = 0; i < 100; i++) {
		put(0, 20, i);
		put(1, 20, 1000 + i);
	}
	wgf_staged_flush(device, peers[0]);
	wgf_staged_flush(device, peers[1]);
	limit = 64;
	CHECK(take() == 64 && batch->packets[0].peer == peers[0] && batch->packets[63].peer == peers[0]);
	CHECK(take() == 64 && batch->packets[0].peer == peers[1] && batch->packets[63].peer == peers[1]);
	CHECK(take() == 64 && batch->packets[35].peer == peers[0] && batch->packets[36].peer == peers[1]);
	CHECK(take() == 8 && batch->packets[7].peer == peers[1]);
	CHECK(take() == 0);
	limit = WGF_BATCH_PACKETS;
	check_nothing_left();
	end();
}

/* As many as a batch holds, one behind the other as they are to be sent. */
static void test_full_batch(void)
{
	begin();
	for (uint64_t i = 0; i < 3 * WGF_STAGED_PER_PEER; i++)
		put(i % 3, 1 + (uint32_t)i % 40, i);
	for (size_t peer = 0; peer < 3; peer++)
		wgf_staged_flush(device, peers[peer]);
	CHECK(take() == WGF_BATCH_PACKETS && batch->count == 256);
	for (uint32_t i = 0; i < 256; i++) {
		const struct wgf_packet *packet = &batch->packets[i];
		uint64_t name = i / 128 + 3 * (i % 128);
		check_packet(packet, i / 128, 1 + (uint32_t)name % 40, name);
		CHECK(i == 255 || packet[1].outer == packet->outer + 32 + (packet->inner_len + 15) / 16 * 16);
	}
	CHECK(take() == 128 && batch->packets[0].peer == peers[2] && take() == 0);
	check_nothing_left();
	end();
}

/* ---- The oracle ---- */

struct waiting {
	uint32_t peer, len;
	uint64_t name;
};

static struct waiting waiting[CHUNKS + PEERS];
static size_t waiting_count;
static bool flushing[PEERS];
static uint64_t expected_full, expected_lost;

static uint32_t chunks_of(uint32_t len)
{
	return (len + WGF_STAGED_CHUNK - 1) / WGF_STAGED_CHUNK;
}

/* Of all; a keepalive takes no room, so it makes none. */
static size_t oldest_packet(void)
{
	size_t i = 0;
	while (waiting[i].len == 0)
		i++;
	return i;
}

static size_t oldest_of(uint32_t peer)
{
	size_t i = 0;
	while (i < waiting_count && peer != PEERS && waiting[i].peer != peer)
		i++;
	return i;
}

static struct waiting forget(size_t at)
{
	struct waiting gone = waiting[at];
	memmove(&waiting[at], &waiting[at + 1], (--waiting_count - at) * sizeof(waiting[0]));
	return gone;
}

static void oracle_put(uint32_t peer, uint32_t len, uint64_t name)
{
	uint32_t of_peer = 0, chunks = 0;
	for (size_t i = 0; i < waiting_count; i++) {
		of_peer += waiting[i].peer == peer;
		chunks += chunks_of(waiting[i].len);
	}
	if (len == 0 && of_peer)
		return;
	if (of_peer == WGF_STAGED_PER_PEER) {
		struct waiting gone = forget(oldest_of(peer));
		expected_full += gone.len != 0;
		chunks -= chunks_of(gone.len);
	}
	while (chunks + chunks_of(len) > CHUNKS) {
		expected_full++;
		chunks -= chunks_of(forget(oldest_packet()).len);
	}
	waiting[waiting_count++] = (struct waiting){peer, len, name};
}

static void oracle_purge(uint32_t peer)
{
	for (size_t at; (at = oldest_of(peer)) < waiting_count;)
		expected_lost += forget(at).len != 0;
	flushing[peer] = false;
}

static void oracle_check_take(void)
{
	for (uint32_t i = 0; i < batch->count; i++) {
		uint32_t peer = (uint32_t)batch->packets[i].peer->handle - 1;
		CHECK(flushing[peer]);
		size_t at = oldest_of(peer);
		CHECK(at < waiting_count);
		struct waiting gone = forget(at);
		check_packet(&batch->packets[i], peer, gone.len, gone.name);
	}
	if (batch->count == 0)
		memset(flushing, 0, sizeof(flushing)); /* of those whose packets made room for others */
	for (uint32_t peer = 0; peer < PEERS; peer++)
		CHECK(!flushing[peer] || batch->count || oldest_of(peer) == waiting_count);
}

static uint32_t random_length(struct check_random *random)
{
	switch (check_random_below(random, 4)) {
	case 0:
		return 0;
	case 1:
		return (uint32_t)(1 + check_random_below(random, WGF_MTU_MAX));
	default:
		return (uint32_t)(1 + check_random_below(random, 3000));
	}
}

static void test_oracle(struct check_random *random)
{
	begin();
	for (uint64_t step = 0; step < 6000; step++) {
		uint32_t peer = (uint32_t)check_random_below(random, 1 + check_random_below(random, PEERS));
		size_t action = check_random_below(random, 100);
		if (action < 88) {
			uint32_t len = random_length(random);
			put(peer, len, step);
			oracle_put(peer, len, step);
		} else if (action < 92) {
			wgf_staged_flush(device, peers[peer]);
			flushing[peer] |= oldest_of(peer) < waiting_count;
		} else if (action < 98) {
			take();
			oracle_check_take();
		} else {
			wgf_staged_purge(device, peers[peer]);
			oracle_purge(peer);
		}
		CHECK(dropped(WGF_DROP_SEND_STAGED_FULL) == expected_full);
		CHECK(dropped(WGF_DROP_SEND_NO_SESSION) == expected_lost);
	}
	CHECK(expected_full > 100 && expected_lost > 100);
	for (uint32_t peer = 0; peer < PEERS; peer++) {
		wgf_staged_flush(device, peers[peer]);
		flushing[peer] = true;
	}
	while (take())
		oracle_check_take();
	CHECK(waiting_count == 0);
	check_nothing_left();
	end();
}

/* ---- Many threads: every packet is taken or counted ---- */

static _Atomic uint64_t puts_done;
static _Atomic int putting;

static void *put_and_flush(void *argument)
{
	struct check_random random = {(uint64_t)(uintptr_t)argument};
	for (uint64_t i = 0; i < 3000; i++) {
		size_t peer = check_random_below(&random, PEERS);
		put(peer, (uint32_t)(1 + check_random_below(&random, 9000)), i);
		atomic_fetch_add(&puts_done, 1);
		if (i % 8 == 0)
			wgf_staged_flush(device, peers[peer]);
		if (i % 200 == 0)
			wgf_staged_purge(device, peers[peer]);
	}
	atomic_fetch_sub(&putting, 1);
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[3];
	uint64_t taken = 0;
	begin();
	atomic_store(&putting, 3);
	for (size_t i = 0; i < 3; i++)
		CHECK(pthread_create(&threads[i], NULL, put_and_flush, (void *)(i + 1)) == 0);
	while (atomic_load(&putting))
		if (atomic_load(&device->staged.flushing))
			taken += take();
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	for (size_t i = 0; i < PEERS; i++)
		wgf_staged_flush(device, peers[i]);
	for (uint32_t n; (n = take());)
		taken += n;
	CHECK(taken + dropped(WGF_DROP_SEND_STAGED_FULL) + dropped(WGF_DROP_SEND_NO_SESSION) ==
	      atomic_load(&puts_done));
	check_nothing_left();
	end();
}

int main(void)
{
	struct check_random random = check_random_begin("staged");
	test_basic();
	test_keepalives();
	test_keepalives_take_no_room();
	test_limits();
	test_short_rows();
	test_turns();
	test_full_batch();
	test_oracle(&random);
	test_threads();
	return 0;
}
