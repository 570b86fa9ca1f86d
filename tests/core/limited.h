/* What the tests of limits share: setting and reading them, and any that there can be. */
#ifndef WGF_LIMITED_H
#define WGF_LIMITED_H

#include "limiter.h"
#include "pair.h"

#define START (1000 * WGF_SECOND)

static inline struct wgf_limits nothing(void)
{
	return (struct wgf_limits){.said = 0};
}

static inline void say(struct wgf_limits *limits, enum wgf_limit limit, uint64_t value)
{
	limits->value[limit] = value;
	limits->said |= UINT32_C(1) << limit;
}

static inline void set_one(const struct party *party, enum wgf_limit limit, uint64_t value, uint64_t now)
{
	struct wgf_limits limits = nothing();
	say(&limits, limit, value);
	CHECK(!wgf_peer_set_limits(party->device, party->peer, &limits, now));
}

static inline uint64_t get_one(const struct party *party, enum wgf_limit limit)
{
	struct wgf_limits limits;
	CHECK(!wgf_peer_limits(party->device, party->peer, &limits));
	return limits.value[limit];
}

static inline uint64_t some_rate(struct check_random *random, uint64_t most)
{
	static const uint64_t rates[] = {1, 7, 999, 8000, 123457, 10000000, 999999937, UINT64_C(100000000000)};
	switch (check_random_below(random, 5)) {
	case 0:
		return 0;
	case 1:
		return most;
	default:
		return rates[check_random_below(random, 8)] % (most + 1);
	}
}

static inline uint64_t some_burst(struct check_random *random, uint64_t most)
{
	static const uint64_t bursts[] = {0, 1, 100, 1500, 65536, 1000000};
	size_t i = check_random_below(random, 7);
	return i < 6 ? bursts[i] : most;
}

static inline void some_limits(struct check_random *random, struct wgf_limits *limits)
{
	say(limits, WGF_LIMIT_SEND_RATE, some_rate(random, wgf_limit_most(WGF_LIMIT_SEND_RATE)));
	say(limits, WGF_LIMIT_SEND_BURST, some_burst(random, wgf_limit_most(WGF_LIMIT_SEND_BURST)));
	say(limits, WGF_LIMIT_SEND_PACKET_RATE, some_rate(random, wgf_limit_most(WGF_LIMIT_SEND_PACKET_RATE)));
	say(limits, WGF_LIMIT_SEND_PACKET_BURST, some_burst(random, wgf_limit_most(WGF_LIMIT_SEND_PACKET_BURST)));
	say(limits, WGF_LIMIT_SEND_QUOTA, check_random_below(random, 3) ? 0 : check_random_below(random, 10000000));
	limits->said &= (uint32_t)check_random_next(random) | (uint32_t)check_random_next(random);
}

#endif
