/* Batches: where their slots lie, what a reset leaves, and that their memory is only promised. */
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "check.h"
#include "packet.h"

#define BATCHES 3u

static void check_empty(const struct wgf_packet *packet, const uint8_t *slot)
{
	CHECK(packet->outer == slot && packet->inner == slot + 16);
	CHECK(packet->outer_room == 65536 && packet->inner_room == 65536 - 32);
	CHECK(packet->outer_len == 0 && packet->inner_len == 0);
	CHECK(packet->drop == WGF_DROP_NOT && packet->tos == 0);
	CHECK(packet->counter == 0 && !packet->peer && !packet->keypair);
}

static void check_layout(const struct wgf_batch *pool, size_t ceiling)
{
	for (size_t b = 0; b < BATCHES; b++) {
		CHECK(pool[b].memory == pool[0].memory + b * WGF_BATCH_PACKETS * WGF_SLOT_STRIDE);
		CHECK((uintptr_t)&pool[b] % 64 == 0);
		for (size_t i = 0; i < WGF_BATCH_PACKETS; i++) {
			const uint8_t *slot = pool[b].memory + i * WGF_SLOT_STRIDE;
			CHECK((uintptr_t)slot % 64 == 0);
			CHECK(slot + 65536 <= pool[0].memory + ceiling);
			check_empty(&pool[b].packets[i], slot);
		}
	}
}

static size_t resident_pages(uint8_t *memory, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page, n = 0;
	unsigned char *map = malloc(pages);
	CHECK(map && mincore(memory, size, map) == 0);
	for (size_t i = 0; i < pages; i++)
		n += map[i] & 1;
	free(map);
	return n;
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

static void test_memory(struct wgf_batch *pool, size_t ceiling)
{
	CHECK(resident_pages(pool[0].memory, ceiling) == 0);
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++)
		memset(pool[1].packets[i].outer, 1, 1452);
	CHECK(resident_pages(pool[0].memory, ceiling) <= 2 * WGF_BATCH_PACKETS);
	check_left_out_of_dumps(pool[0].memory);
}

static void test_reset(struct wgf_batch *batch)
{
	uint8_t *memory = batch->memory;
	memset(batch->packets, 0xa5, sizeof(batch->packets));
	batch->count = 17;
	batch->bytes = 1234;
	wgf_batch_reset(batch, 42);
	CHECK(batch->count == 0 && batch->bytes == 0 && batch->limit == WGF_BATCH_PACKETS);
	CHECK(batch->now == 42 && batch->memory == memory);
	for (size_t i = 0; i < WGF_BATCH_PACKETS; i++)
		check_empty(&batch->packets[i], memory + i * WGF_SLOT_STRIDE);
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
	struct wgf_epoch epoch;
	size_t ceiling = 0;
	CHECK(wgf_epoch_init(&epoch) == 0);
	CHECK(!wgf_pool_create(0, &epoch, &ceiling) && ceiling == 0);
	CHECK(!wgf_pool_create(SIZE_MAX / 1000, &epoch, &ceiling) && ceiling == 0);

	struct wgf_batch *pool = wgf_pool_create(BATCHES, &epoch, &ceiling);
	CHECK(pool && ceiling == BATCHES * WGF_BATCH_PACKETS * WGF_SLOT_STRIDE);
	check_layout(pool, ceiling);
	test_memory(pool, ceiling);
	test_reset(&pool[2]);
	test_reader(pool, &epoch);

	struct wgf_batch *second = wgf_pool_create(1, &epoch, &ceiling);
	CHECK(second && ceiling == (BATCHES + 1) * WGF_BATCH_PACKETS * WGF_SLOT_STRIDE); /* it adds up */
	wgf_pool_destroy(pool, BATCHES, &epoch);
	wgf_pool_destroy(second, 1, &epoch);
	wgf_pool_destroy(NULL, 0, &epoch);
	CHECK(!epoch.readers);
	wgf_epoch_destroy(&epoch);
	return 0;
}
