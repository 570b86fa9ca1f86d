/* How many handshakes one source may cost us while we are under load: a token bucket for each source
 * (source.h), in a table of fixed size, hashed with a random key. When it is full the
 * bucket that was idle longest among a few candidates makes room. */
#ifndef WGF_RATELIMIT_H
#define WGF_RATELIMIT_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "endpoint.h"
#include "limits.h"
#include "source.h"

struct wgf_rate_bucket {
	struct wgf_source source;
	uint64_t last;    /* time of the last refill, 0: unused */
	uint64_t tokens;  /* in nanoseconds of credit */
};

struct wgf_ratelimit {
	pthread_mutex_t lock;
	uint64_t hash_key[2];
	struct wgf_rate_bucket *buckets; /* WGF_RATE_BUCKETS; memory is touched as sources come under load */
};

int wgf_ratelimit_init(struct wgf_ratelimit *limit); /* 0 or -errno */
void wgf_ratelimit_destroy(struct wgf_ratelimit *limit);
bool wgf_ratelimit_allow(struct wgf_ratelimit *limit, const struct wgf_endpoint *from, uint64_t now);

#endif
