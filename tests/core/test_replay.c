/* The replay window against a plain bitmap of every counter there is. */
#include <stdbool.h>
#include <string.h>

#include "check.h"
#include "replay.h"

#define WINDOW ((WGF_REPLAY_WORDS - 1) * UINT64_C(64))

static void test_edges(void)
{
	struct wgf_replay window;
	wgf_replay_reset(&window);
	CHECK(wgf_replay_accept(&window, 0));
	CHECK(!wgf_replay_accept(&window, 0));
	CHECK(wgf_replay_accept(&window, 1));
	CHECK(wgf_replay_accept(&window, WINDOW)); /* 0 is just inside now, and known */
	CHECK(!wgf_replay_accept(&window, 0));
	CHECK(wgf_replay_accept(&window, 2));

	wgf_replay_reset(&window);
	CHECK(wgf_replay_accept(&window, WINDOW + 1));
	CHECK(!wgf_replay_accept(&window, 0)); /* one too far behind */
	CHECK(wgf_replay_accept(&window, 1));  /* as far behind as allowed */
	CHECK(!wgf_replay_accept(&window, 1));

	wgf_replay_reset(&window);
	CHECK(wgf_replay_accept(&window, WGF_REJECT_AFTER_MESSAGES - 1)); /* from nothing to the end */
	CHECK(!wgf_replay_accept(&window, WGF_REJECT_AFTER_MESSAGES - 1));
	CHECK(!wgf_replay_accept(&window, WGF_REJECT_AFTER_MESSAGES));
	CHECK(!wgf_replay_accept(&window, UINT64_MAX));
	CHECK(wgf_replay_accept(&window, WGF_REJECT_AFTER_MESSAGES - 1 - WINDOW));
	CHECK(!wgf_replay_accept(&window, WGF_REJECT_AFTER_MESSAGES - 2 - WINDOW));
	CHECK(!wgf_replay_accept(&window, 0));
}

/* Every word of the ring is emptied again: twice around, each counter new exactly once. */
static void test_forwards_and_backwards(void)
{
	struct wgf_replay window;
	wgf_replay_reset(&window);
	for (uint64_t base = 0; base < 3 * WINDOW; base += WINDOW) {
		for (uint64_t i = WINDOW; i-- > 0;)
			CHECK(wgf_replay_accept(&window, base + i));
		for (uint64_t i = 0; i < WINDOW; i++)
			CHECK(!wgf_replay_accept(&window, base + i));
	}
}

#define SPACE (UINT64_C(1) << 18) /* counters the oracle knows: base to base + SPACE - 1 */

struct oracle {
	bool seen[SPACE];
	bool any;
	uint64_t greatest; /* relative to the base */
};

static bool oracle_accept(struct oracle *oracle, uint64_t base, uint64_t offset)
{
	if (base + offset >= WGF_REJECT_AFTER_MESSAGES || oracle->seen[offset])
		return false;
	if (oracle->any && offset + WINDOW < oracle->greatest)
		return false;
	if (!oracle->any || offset > oracle->greatest)
		oracle->greatest = offset;
	oracle->any = true;
	return oracle->seen[offset] = true;
}

/* The next counter to try: mostly near the greatest, at times around the window's far edge, at times
 * a leap of more than a whole ring. */
static uint64_t choose(struct check_random *random, const struct oracle *oracle)
{
	int64_t at = (int64_t)oracle->greatest;
	size_t kind = check_random_below(random, 256);
	if (kind == 0)
		at += (int64_t)check_random_below(random, 3 * WINDOW) - (int64_t)WINDOW;
	else if (kind < 40)
		at += (int64_t)check_random_below(random, 200) - 100 - (int64_t)WINDOW;
	else if (kind < 60)
		at += (int64_t)check_random_below(random, 400) - 100;
	else
		at += (int64_t)check_random_below(random, 72) - 64;
	return at < 0 ? 0 : (uint64_t)at % SPACE;
}

static void test_against_oracle(struct check_random *random, uint64_t base)
{
	static struct oracle oracle;
	static struct wgf_replay window;
	memset(&oracle, 0, sizeof(oracle));
	wgf_replay_reset(&window);
	for (int round = 0; round < 400; round++) { /* walks through most of the space */
		uint64_t counters[64];
		uint8_t expected[64], accepted[64];
		size_t n = check_random_below(random, 65), total = 0;
		for (size_t i = 0; i < n; i++) {
			uint64_t offset = choose(random, &oracle);
			counters[i] = base + offset;
			expected[i] = oracle_accept(&oracle, base, offset);
			total += expected[i];
		}
		CHECK(wgf_replay_accept_many(&window, counters, n, accepted) == total);
		CHECK(memcmp(accepted, expected, n) == 0);
	}
}

int main(void)
{
	struct check_random random = check_random_begin("replay");
	test_edges();
	test_forwards_and_backwards();
	for (int i = 0; i < 20; i++) {
		test_against_oracle(&random, 0);
		test_against_oracle(&random, (UINT64_C(1) << 32) - SPACE / 2);
		test_against_oracle(&random, check_random_next(&random) >> 1);
		test_against_oracle(&random, UINT64_MAX - SPACE + 1); /* up to the last there is */
	}
	return 0;
}
