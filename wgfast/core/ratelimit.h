/* How many handshakes one source may cost us while we are under load: a token bucket for each IPv4
 * address and each IPv6 /64, in a table of fixed size, hashed with a random key. When it is full the
 * bucket that was idle longest among a few candidates makes room. */
#ifndef WGF_RATELIMIT_H
#define WGF_RATELIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "limits.h"

struct wgf_rate_bucket {
	uint64_t source;  /* the address (IPv4) or the upper half of it (IPv6) */
	uint64_t last;    /* time of the last refill, 0: unused */
	uint64_t tokens;  /* in nanoseconds of credit */
	uint8_t family;
};

struct wgf_ratelimit {
	pthread_mutex_t lock;
	uint64_t hash_key[2];
	struct wgf_rate_bucket *buckets; /* WGF_RATE_BUCKETS, allocated at first use under load */
};

int wgf_ratelimit_init(struct wgf_ratelimit *limit);
void wgf_ratelimit_destroy(struct wgf_ratelimit *limit);
bool wgf_ratelimit_allow(struct wgf_ratelimit *limit, const struct wgf_endpoint *from, uint64_t now);

#endif
