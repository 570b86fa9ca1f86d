/* The states of the offloads: every way from one to another, with its errno, and that the two final ones are final
 * for any number of threads. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>

#include "../../wgfast/core/offload.h"
#include "check.h"

static struct wgf_offloads offloads;

static bool is(enum wgf_offload offload, enum wgf_offload_state state, int error)
{
	bool active = state == WGF_OFFLOAD_ACTIVE;
	bool may = state != WGF_OFFLOAD_SWITCHED_OFF && state != WGF_OFFLOAD_GIVEN_UP;
	CHECK(wgf_offload_active(&offloads, offload) == active && wgf_offload_may(&offloads, offload) == may);
	return atomic_load(&offloads.state[offload]) == ((uint32_t)state | (uint32_t)error << 8);
}

/* In that state, of that errno, as it comes about. */
static void bring_to(enum wgf_offload offload, enum wgf_offload_state state, int error)
{
	atomic_store(&offloads.state[offload], 0);
	if (state == WGF_OFFLOAD_ACTIVE)
		wgf_offload_tried(&offloads, offload, 0);
	else if (state == WGF_OFFLOAD_SWITCHED_OFF)
		wgf_offload_switch_off(&offloads, 1u << offload);
	else if (state == WGF_OFFLOAD_ABSENT)
		wgf_offload_tried(&offloads, offload, error);
	else if (state == WGF_OFFLOAD_GIVEN_UP)
		wgf_offload_give_up(&offloads, offload, error);
	CHECK(is(offload, state, error));
}

static void test_names(void)
{
	const char *const names[] = {"vnet", "tso", "uso", "udp-segment", "udp-gro"};
	CHECK(WGF_OFFLOAD_COUNT == 5);
	for (unsigned i = 0; i < WGF_OFFLOAD_COUNT; i++) {
		CHECK(strcmp(wgf_offload_name((enum wgf_offload)i), names[i]) == 0);
		CHECK(strlen(wgf_offload_text((enum wgf_offload)i)) > 20);
	}
	CHECK(!wgf_offload_name(WGF_OFFLOAD_COUNT) && !wgf_offload_text(WGF_OFFLOAD_COUNT));
	CHECK(!wgf_offload_name((enum wgf_offload)12345) && !wgf_offload_text((enum wgf_offload)12345));
}

static void test_changes(enum wgf_offload offload)
{
	const struct {
		enum wgf_offload_state state;
		int error;
		bool final;
	} all[] = {
		{WGF_OFFLOAD_UNTRIED, 0, false},    {WGF_OFFLOAD_ACTIVE, 0, false},
		{WGF_OFFLOAD_SWITCHED_OFF, 0, true}, {WGF_OFFLOAD_ABSENT, ENOPROTOOPT, false},
		{WGF_OFFLOAD_GIVEN_UP, EIO, true},
	};
	for (size_t i = 0; i < 5; i++) {
		enum wgf_offload_state state = all[i].state;
		int error = all[i].error;
		bring_to(offload, state, error);
		wgf_offload_tried(&offloads, offload, 0);
		CHECK(all[i].final ? is(offload, state, error) : is(offload, WGF_OFFLOAD_ACTIVE, 0));
		bring_to(offload, state, error);
		wgf_offload_tried(&offloads, offload, EOPNOTSUPP);
		CHECK(all[i].final ? is(offload, state, error) : is(offload, WGF_OFFLOAD_ABSENT, EOPNOTSUPP));
		bring_to(offload, state, error);
		wgf_offload_give_up(&offloads, offload, EINVAL);
		CHECK(all[i].final ? is(offload, state, error) : is(offload, WGF_OFFLOAD_GIVEN_UP, EINVAL));
		bring_to(offload, state, error);
		wgf_offload_give_up(&offloads, offload, 4095); /* no errno is larger */
		CHECK(all[i].final ? is(offload, state, error) : is(offload, WGF_OFFLOAD_GIVEN_UP, 4095));
	}
}

/* Super-packets need the header before them. */
static void test_mask(void)
{
	for (uint32_t mask = 0; mask < 1u << WGF_OFFLOAD_COUNT; mask++) {
		memset(&offloads, 0, sizeof(offloads));
		wgf_offload_switch_off(&offloads, mask | 0xffffff00); /* what there is none for changes nothing */
		for (unsigned i = 0; i < WGF_OFFLOAD_COUNT; i++) {
			bool super = i == WGF_OFFLOAD_TSO || i == WGF_OFFLOAD_USO;
			bool off = mask >> i & 1 || (super && mask >> WGF_OFFLOAD_VNET & 1);
			CHECK(is((enum wgf_offload)i, off ? WGF_OFFLOAD_SWITCHED_OFF : WGF_OFFLOAD_UNTRIED, 0));
		}
	}
}

/* ---- Threads ---- */

enum { ROUNDS = 2000, STEPS = 40 };

static _Atomic unsigned ready;

static void meet(unsigned at)
{
	atomic_fetch_add(&ready, 1);
	while (atomic_load(&ready) < at)
		sched_yield();
}

/* Tries it, finds it there and not there, and gives it up in the middle; what is final stays so. */
static void *try_and_give_up(void *argument)
{
	int error = argument ? EIO : EINVAL;
	for (unsigned round = 0; round < ROUNDS; round++) {
		bool seen = false;
		meet(round * 4 + 2);
		for (int step = 0; step < STEPS; step++) {
			wgf_offload_tried(&offloads, WGF_OFFLOAD_SEGMENT, step % 3 ? 0 : ENOPROTOOPT);
			if (step == (argument ? STEPS - 2 : STEPS / 2)) /* one is still trying */
				wgf_offload_give_up(&offloads, WGF_OFFLOAD_SEGMENT, error);
			bool may = wgf_offload_may(&offloads, WGF_OFFLOAD_SEGMENT);
			CHECK(!(seen && may));
			seen |= !may;
		}
		CHECK(seen && !wgf_offload_active(&offloads, WGF_OFFLOAD_SEGMENT));
		CHECK(is(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, EIO) || is(WGF_OFFLOAD_SEGMENT, WGF_OFFLOAD_GIVEN_UP, EINVAL));
		meet(round * 4 + 4);
		if (argument)
			atomic_store(&offloads.state[WGF_OFFLOAD_SEGMENT], 0);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t thread;
	memset(&offloads, 0, sizeof(offloads));
	CHECK(pthread_create(&thread, NULL, try_and_give_up, NULL) == 0);
	try_and_give_up(&thread);
	pthread_join(thread, NULL);
}

int main(void)
{
	test_names();
	for (unsigned i = 0; i < WGF_OFFLOAD_COUNT; i++)
		test_changes((enum wgf_offload)i);
	test_mask();
	test_threads();
	return 0;
}
