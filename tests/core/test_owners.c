/* The addresses of a batch, of both families in any order, are whose the table says one by one. */
#include <string.h>

#include "allowedips.h"
#include "check.h"
#include "owners.h"

#define PEERS 50u

static struct wgf_epoch epoch;
static struct wgf_allowedips *table;

/* Peer n has 10.n.0.0/16 and fd00:n::/32, as far as there are peers. */
static uint32_t owner_of(uint8_t n)
{
	return n < PEERS ? n : WGF_OWNER_NONE;
}

static void begin(void)
{
	CHECK(wgf_epoch_init(&epoch) == 0);
	table = wgf_allowedips_create(&epoch);
	CHECK(table);
	for (uint8_t n = 0; n < PEERS; n++) {
		CHECK(wgf_allowedips_insert(table, WGF_IPV4, (uint8_t[4]){10, n}, 16, n) == 0);
		CHECK(wgf_allowedips_insert(table, WGF_IPV6, (uint8_t[16]){0xfd, 0, 0, n}, 32, n) == 0);
	}
}

static void one_batch(struct check_random *random, struct wgf_reader *reader)
{
	struct wgf_owners owners;
	bool wanted[WGF_BATCH_PACKETS];
	uint8_t whose[WGF_BATCH_PACKETS], n = 0;
	unsigned few = 1 + (unsigned)check_random_below(random, 8), family = 4;
	wgf_owners_begin(&owners);
	for (uint32_t i = 0; i < WGF_BATCH_PACKETS; i++) {
		if (check_random_below(random, few) == 0)
			n = (uint8_t)check_random_below(random, PEERS + 10);
		if (check_random_below(random, few) == 0)
			family = 10 - family;
		uint8_t four[4] = {10, n, 0, (uint8_t)check_random_below(random, 2)};
		uint8_t six[16] = {0xfd, 0, 0, n, [15] = (uint8_t)check_random_below(random, 2)};
		whose[i] = n;
		wanted[i] = check_random_below(random, 5) != 0;
		if (wanted[i])
			wgf_owners_want(&owners, i, (uint8_t)family, family == 4 ? four : six);
	}
	wgf_epoch_enter(&epoch, reader);
	wgf_owners_find(&owners, table);
	wgf_epoch_exit(reader);
	for (uint32_t i = 0; i < WGF_BATCH_PACKETS; i++)
		CHECK(!wanted[i] || wgf_owners_of(&owners, i) == owner_of(whose[i]));
}

int main(void)
{
	struct check_random random = check_random_begin("owners");
	struct wgf_reader reader;
	begin();
	wgf_epoch_join(&epoch, &reader);
	for (int i = 0; i < 2000; i++)
		one_batch(&random, &reader);
	wgf_epoch_leave(&epoch, &reader);
	wgf_allowedips_destroy(table);
	wgf_epoch_destroy(&epoch);
	return 0;
}
