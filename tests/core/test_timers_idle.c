/* Idle peers cost a scan nothing, counted by what it looks at: each row has a page of its own, and the kernel tells
 * which pages anybody has touched. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "device.h"
#include "resident.h"

#define PEERS 100000u
#define LOOKS ((PEERS + WGF_PEERS_A_LOOK - 1) / WGF_PEERS_A_LOOK)
#define START (100 * WGF_SECOND)

static struct wgf_device *device;
static uint8_t *rows;
static size_t page;

static void *mapped(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	CHECK(memory != MAP_FAILED);
	madvise(memory, size, MADV_NOHUGEPAGE);
	return memory;
}

/* All zeros: it has never been armed. */
static struct wgf_peer *peer_at(uint32_t id)
{
	return (struct wgf_peer *)(void *)(rows + id * page);
}

static struct wgf_peer *busy_peer(uint32_t id)
{
	struct wgf_peer *peer = peer_at(id);
	peer->handle = UINT64_C(1) << 32 | id;
	return peer;
}

static void begin(void)
{
	page = (size_t)sysconf(_SC_PAGESIZE);
	CHECK(sizeof(struct wgf_peer) <= page);
	rows = mapped(PEERS * page);
	device = mapped(sizeof *device);
	CHECK(wgf_epoch_init(&device->epoch) == 0);
	CHECK(wgf_events_init(&device->events) == 0);
	atomic_init(&device->planned, UINT64_MAX);
	device->peers.rows = mapped(PEERS * sizeof *device->peers.rows);
	device->peers.looks = mapped(LOOKS * sizeof *device->peers.looks);
	atomic_init(&device->peers.high, PEERS);
	for (uint32_t id = 0; id < PEERS; id++)
		atomic_init(&device->peers.rows[id], peer_at(id));
}

static void end(void)
{
	munmap((void *)device->peers.rows, PEERS * sizeof *device->peers.rows);
	munmap((void *)device->peers.looks, LOOKS * sizeof *device->peers.looks);
	munmap(rows, PEERS * page);
	wgf_events_destroy(&device->events);
	wgf_epoch_destroy(&device->epoch);
	munmap(device, sizeof *device);
}

/* Rows that anybody has read or written since they were last forgotten. */
static size_t touched(void)
{
	return resident_pages(rows, PEERS * page);
}

/* Not the row of `but`, which keeps its deadlines. */
static void forget_touches(uint32_t but)
{
	madvise(rows, but * page, MADV_DONTNEED);
	madvise(rows + (but + 1) * page, (PEERS - but - 1) * page, MADV_DONTNEED);
	CHECK(touched() == 1);
}

static size_t scan(uint64_t now, uint64_t *next)
{
	struct wgf_owed owed[16];
	return wgf_timers_scan(device, now, owed, 16, next);
}

static void test_all_are_idle(void)
{
	uint64_t next;
	for (uint64_t second = 0; second < 100; second++) {
		CHECK(scan(START + second * WGF_SECOND, &next) == 0);
		CHECK(next == UINT64_MAX);
	}
	CHECK(touched() == 0);
}

/* One has a deadline: until then no row is looked at, then its neighbours', and afterwards again none. */
static void test_one_is_busy(uint32_t id)
{
	uint64_t next, due = START + WGF_KEEPALIVE_TIMEOUT;
	struct wgf_peer *peer = busy_peer(id);
	forget_touches(id);
	wgf_timers_data_received(device, peer, START);
	for (uint64_t at = START; at < due; at += WGF_SECOND) {
		CHECK(scan(at, &next) == 0);
		CHECK(next == due);
	}
	CHECK(touched() == 1);
	CHECK(scan(due, &next) == 1);
	CHECK(next == UINT64_MAX);
	CHECK(touched() <= WGF_PEERS_A_LOOK);
	forget_touches(id);
	for (uint64_t at = due; at < due + 100 * WGF_SECOND; at += WGF_SECOND)
		CHECK(scan(at, &next) == 0);
	CHECK(touched() == 1);
}

/* Peers that were busy once, everywhere, cost no more than those that never were. */
static void test_all_were_busy(void)
{
	uint64_t next, now = START;
	for (uint32_t id = 0; id < PEERS; id += 7)
		wgf_timers_data_received(device, busy_peer(id), now);
	now += WGF_KEEPALIVE_TIMEOUT;
	size_t owed = 0;
	do
		owed += scan(now, &next);
	while (next <= now);
	CHECK(owed == (PEERS + 6) / 7);
	forget_touches(0);
	for (uint64_t second = 1; second < 100; second++)
		CHECK(scan(now + second * WGF_SECOND, &next) == 0 && next == UINT64_MAX);
	CHECK(touched() == 1);
}

int main(void)
{
	begin();
	test_all_are_idle();
	test_one_is_busy(0);
	test_one_is_busy(70000);
	test_one_is_busy(PEERS - 1);
	test_all_were_busy();
	end();
	return 0;
}
