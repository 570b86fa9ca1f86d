/* Batches: what memory they have and that it is only promised, where packets come to lie, what a reset leaves. */
#include <string.h>

#include "check.h"
#include "packet.h"
#include "resident.h"

#define BATCHES 3u
#define ROOM WGF_SEND_ROOM

static void check_empty(const struct wgf_packet *packet, const uint8_t *outer, size_t room)
{
	CHECK(packet->outer == outer && packet->inner == outer + 16);
	CHECK(packet->outer_room == room && packet->inner_room == (room < 32 ? 0 : room - 32));
	CHECK(packet->outer_len == 0 && packet->inner_len == 0);
	CHECK(packet->drop == WGF_DROP_NOT && packet->tos == 0);
	CHECK(packet->counter == 0 && !packet->peer && !packet->keypair);
}

static void check_layout(const struct wgf_batch *pool)
{
	for (size_t b = 0; b < BATCHES; b++) {
		CHECK(pool[b].memory == pool[0].memory + b * ROOM && pool[b].room == ROOM);
		CHECK((uintptr_t)&pool[b] % 64 == 0 && (uintptr_t)pool[b].memory % 64 == 0);
		CHECK(pool[b].count == 0 && pool[b].bytes == 0 && pool[b].used == 0);
		CHECK(pool[b].limit == WGF_BATCH_PACKETS && pool[b].mtu == 0);
	}
}

static void check_left_out_of_dumps(const void *memory)
{
	char line[512], flags[512] = "";
	FILE *maps = fopen("/proc/self/smaps", "r");
	bool ours = false;
	if (!maps)
		return; /* no /proc here */
	while (fgets(line, sizeof(line), maps)) {
		uintptr_t from, to;
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
			ours = from <= (uintptr_t)memory && (uintptr_t)memory < to;
		else if (ours && strncmp(line, "VmFlags:", 8) == 0)
			strcpy(flags, line);
	}
	fclose(maps);
	CHECK(flags[0] == 0 || strstr(flags, " dd"));
}

/* The next packet, `len` bytes of it written. */
static struct wgf_packet *put(struct wgf_batch *batch, uint32_t len)
{
	struct wgf_packet *packet = wgf_batch_next(batch);
	CHECK(packet == &batch->packets[batch->count] && packet->inner_room >= len);
	memset(packet->inner, 1, len);
	packet->inner_len = len;
	wgf_batch_take(batch);
	return packet;
}

static void test_memory(struct wgf_batch *pool, size_t ceiling)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	CHECK(resident_pages(pool[0].memory, ceiling) == 0);
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++)
		put(&pool[1], 100);
	CHECK(resident_pages(pool[0].memory, ceiling) <= WGF_BATCH_PACKETS * (100 + 48) / page + 2);
	check_left_out_of_dumps(pool[0].memory);
}

static void test_reset(struct wgf_batch *batch)
{
	uint8_t *memory = batch->memory;
	memset(batch->packets, 0xa5, sizeof(batch->packets));
	batch->count = 17;
	batch->bytes = batch->used = batch->mtu = 1234;
	batch->limit = 3;
	wgf_batch_reset(batch, 42);
	CHECK(batch->count == 0 && batch->bytes == 0 && batch->used == 0 && batch->limit == WGF_BATCH_PACKETS);
	CHECK(batch->mtu == 0 && batch->now == 42 && batch->memory == memory && batch->room == ROOM);
	check_empty(wgf_batch_next(batch), memory, ROOM);
}

static void test_place(void)
{
	static uint8_t memory[65536];
	for (size_t room = 0; room <= sizeof(memory); room += room < 100 ? 1 : 1111) {
		struct wgf_packet packet;
		memset(&packet, 0xa5, sizeof(packet));
		wgf_packet_place(&packet, memory + 65536 - room, room);
		check_empty(&packet, memory + 65536 - room, room);
	}
}

/* Byte by byte, until the last MTU of it is a multiple of 16 or full. */
static uint32_t slow_padding(uint32_t len, uint32_t mtu)
{
	uint32_t n = 0, last = len;
	while (mtu && last > mtu)
		last -= mtu;
	if (len > mtu && mtu && last == mtu)
		return 0;
	while ((last + n) % 16 != 0 && (!mtu || last + n < mtu))
		n++;
	return n;
}

static void test_padding(void)
{
	const uint32_t mtus[] = {0, 1, 15, 16, 17, 576, 1280, 1419, 1420, 1421, 9000, WGF_MTU_MAX};
	for (size_t i = 0; i < sizeof(mtus) / sizeof(mtus[0]); i++) {
		for (uint32_t len = 0; len < 3000; len++)
			CHECK(wgf_padding(len, mtus[i]) == slow_padding(len, mtus[i]));
		for (uint32_t len = WGF_MTU_MAX - 100; len <= WGF_MTU_MAX; len++)
			CHECK(wgf_padding(len, mtus[i]) == slow_padding(len, mtus[i]));
	}
}

/* One behind the other, without gaps. */
static void test_take(struct check_random *random, struct wgf_batch *batch)
{
	const uint32_t mtus[] = {0, 1280, 1420, 1421, 9000};
	for (int round = 0; round < 50; round++) {
		uint32_t bytes = 0;
		wgf_batch_reset(batch, 0);
		batch->mtu = mtus[round % 5];
		uint8_t *next = batch->memory;
		while (batch->count < batch->limit && bytes < WGF_BATCH_BYTES) {
			size_t most = check_random_below(random, 2) ? 2000 : 20;
			check_empty(wgf_batch_next(batch), next, (size_t)(batch->memory + ROOM - next));
			CHECK(wgf_batch_next(batch)->outer == next); /* it takes no place by being asked for */
			struct wgf_packet *packet = put(batch, (uint32_t)check_random_below(random, most));
			CHECK(packet->outer == next);
			next += 32 + packet->inner_len + slow_padding(packet->inner_len, batch->mtu);
			bytes += packet->inner_len;
			CHECK(batch->bytes == bytes);
		}
		CHECK(next <= batch->memory + ROOM);
	}
}

/* The longest packet has room behind as many bytes as may precede it; what is then in the batch fits. */
static void test_room(struct wgf_batch *batch)
{
	wgf_batch_reset(batch, 0);
	batch->mtu = WGF_MTU_MAX;
	for (uint32_t i = 0; i < WGF_BATCH_PACKETS - 1; i++)
		put(batch, (WGF_BATCH_BYTES - 1) / (WGF_BATCH_PACKETS - 1));
	CHECK(batch->bytes == WGF_BATCH_BYTES - 1);
	CHECK(wgf_batch_next(batch)->inner_room > WGF_MTU_MAX);
	put(batch, WGF_MTU_MAX);
	CHECK(batch->used <= ROOM);
}

/* In a caller's arrays nothing is placed. */
static void test_no_memory(void)
{
	uint8_t inner[10], outer[60];
	static struct wgf_batch batch;
	wgf_batch_reset(&batch, 0);
	struct wgf_packet before = {.inner = inner, .outer = outer, .inner_room = 10, .outer_room = 60, .inner_len = 7};
	batch.packets[0] = before;
	CHECK(memcmp(wgf_batch_next(&batch), &before, sizeof(before)) == 0);
	wgf_batch_take(&batch);
	CHECK(batch.count == 1 && batch.bytes == 7 && memcmp(&batch.packets[0], &before, sizeof(before)) == 0);
	CHECK(wgf_batch_next(&batch) == &batch.packets[1]);
}

static bool released;

static void release(struct wgf_retired *self)
{
	(void)self;
	released = true;
}

/* A batch that is on its way pins what it may point to. */
static void test_reader(struct wgf_batch *pool, struct wgf_epoch *epoch)
{
	struct wgf_retired item;
	wgf_epoch_enter(epoch, &pool[BATCHES - 1].reader);
	wgf_epoch_retire(epoch, &item, release);
	CHECK(wgf_epoch_collect(epoch) == 1 && !released);
	wgf_epoch_exit(&pool[BATCHES - 1].reader);
	CHECK(wgf_epoch_collect(epoch) == 0 && released);
}

int main(void)
{
	struct check_random random = check_random_begin("pool");
	struct wgf_epoch epoch;
	size_t ceiling = 0;
	CHECK(wgf_epoch_init(&epoch) == 0);
	CHECK(!wgf_pool_create(0, ROOM, &epoch, &ceiling) && ceiling == 0);
	CHECK(!wgf_pool_create(SIZE_MAX / 1000, ROOM, &epoch, &ceiling) && ceiling == 0);
	CHECK(!wgf_pool_create(SIZE_MAX / WGF_RECEIVE_ROOM + 1, WGF_RECEIVE_ROOM, &epoch, &ceiling) && ceiling == 0);

	struct wgf_batch *pool = wgf_pool_create(BATCHES, ROOM, &epoch, &ceiling);
	CHECK(pool && ceiling == BATCHES * ROOM);
	check_layout(pool);
	test_memory(pool, ceiling);
	test_reset(&pool[2]);
	test_place();
	test_padding();
	test_take(&random, &pool[0]);
	test_room(&pool[1]);
	test_no_memory();
	test_reader(pool, &epoch);

	struct wgf_batch *second = wgf_pool_create(1, WGF_RECEIVE_ROOM, &epoch, &ceiling);
	CHECK(second && ceiling == BATCHES * ROOM + WGF_RECEIVE_ROOM); /* it adds up */
	wgf_pool_destroy(pool, BATCHES, &epoch);
	wgf_pool_destroy(second, 1, &epoch);
	wgf_pool_destroy(NULL, 0, &epoch);
	CHECK(!epoch.readers);
	wgf_epoch_destroy(&epoch);
	return 0;
}
