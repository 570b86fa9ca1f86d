/* When is what strangers send a flood? On a manual clock. */
#include "check.h"
#include "strangers.h"

#define START (1000 * WGF_SECOND)

/* So many a second, in groups, for a second: was it ever taken for a flood, and at the end? */
static void send_steadily(uint32_t per_second, uint32_t group, bool *ever, bool *last)
{
	struct wgf_strangers strangers = {0};
	*ever = false;
	for (uint64_t sent = 0; sent < per_second; sent += group) {
		wgf_strangers_came(&strangers, group, START + sent * WGF_SECOND / per_second);
		*ever |= *last = wgf_strangers_flood(&strangers);
	}
}

static void test_rates(void)
{
	bool ever, last;
	send_steadily(1, 1, &ever, &last);
	CHECK(!ever);
	send_steadily(WGF_STRANGERS_PER_SECOND - 1000, 1, &ever, &last);
	CHECK(!ever);
	send_steadily(WGF_STRANGERS_PER_SECOND / 2, WGF_STRANGERS_BURST, &ever, &last);
	CHECK(!ever);
	send_steadily(2 * WGF_STRANGERS_PER_SECOND, 1, &ever, &last);
	CHECK(ever && last);
	send_steadily(2 * WGF_STRANGERS_PER_SECOND, 256, &ever, &last);
	CHECK(ever && last);
}

/* A burst is none; one datagram more is one, for as long as one takes to leak. */
static void test_bursts(void)
{
	struct wgf_strangers strangers = {0};
	wgf_strangers_came(&strangers, WGF_STRANGERS_BURST, START);
	CHECK(!wgf_strangers_flood(&strangers));
	wgf_strangers_came(&strangers, 1, START);
	CHECK(wgf_strangers_flood(&strangers));
	wgf_strangers_came(&strangers, 0, START + WGF_SECOND / WGF_STRANGERS_PER_SECOND);
	CHECK(!wgf_strangers_flood(&strangers));
	/* However many came, it takes no longer than for twice a burst to be seen to end. */
	for (int i = 0; i < 1000; i++)
		wgf_strangers_came(&strangers, UINT32_MAX, START + WGF_SECOND);
	wgf_strangers_came(&strangers, 0, START + WGF_SECOND + WGF_STRANGERS_BURST * WGF_SECOND / WGF_STRANGERS_PER_SECOND);
	CHECK(!wgf_strangers_flood(&strangers));
}

static void test_forgotten(void)
{
	struct wgf_strangers strangers = {0};
	wgf_strangers_came(&strangers, 1000, START);
	wgf_strangers_came(&strangers, 1000, START - 1); /* threads' clocks were read at different moments */
	CHECK(wgf_strangers_flood(&strangers));
	wgf_strangers_forget(&strangers);
	CHECK(!wgf_strangers_flood(&strangers));
}

/* Any arrivals, beside the same account in signed arithmetic. */
static void test_random(struct check_random *random)
{
	struct wgf_strangers strangers = {0};
	const uint64_t step = WGF_SECOND / WGF_STRANGERS_PER_SECOND;
	int64_t owed = 0; /* ns */
	uint64_t now = START;
	wgf_strangers_came(&strangers, 0, now);
	for (int i = 0; i < 100000; i++) {
		uint64_t pause = check_random_below(random, 4) ? check_random_below(random, 3 * step) : 0;
		uint32_t n = (uint32_t)check_random_below(random, check_random_below(random, 50) ? 4 : 100);
		now += pause;
		owed = owed > (int64_t)pause ? owed - (int64_t)pause : 0;
		owed += (int64_t)(n * step);
		if (owed > (int64_t)(2 * WGF_STRANGERS_BURST * step))
			owed = (int64_t)(2 * WGF_STRANGERS_BURST * step);
		wgf_strangers_came(&strangers, n, now);
		CHECK(wgf_strangers_flood(&strangers) == (owed > (int64_t)(WGF_STRANGERS_BURST * step)));
	}
}

int main(void)
{
	struct check_random random = check_random_begin("strangers");
	test_rates();
	test_bursts();
	test_forgotten();
	test_random(&random);
	return 0;
}
