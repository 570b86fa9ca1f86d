/* Per-source limits on handshakes: token buckets in a 4-way set-associative table.
 *
 * The size is fixed, so a flood cannot grow it, and a source looks at four buckets, so a flood cannot
 * slow it down. Which four is a keyed hash (siphash.h): nobody outside can choose
 * addresses that fall together and push one victim's bucket out, or their own. A source pushed out
 * starts again with a full burst, so what a large pool of real addresses gains by it is at most what
 * so many honest sources would be given.
 *
 * Only asked while under load and after mac1 and mac2 were right; one lock is enough. */
#include "ratelimit.h"

#include <errno.h>
#include <sys/mman.h>

#include "bytes.h"
#include "packet.h"

#define WAYS 4u
#define SETS (WGF_RATE_BUCKETS / WAYS)
#define COST (WGF_SECOND / WGF_RATE_PER_SECOND) /* of one handshake, in nanoseconds of credit */
#define CREDIT_MAX (COST * WGF_RATE_BURST)
#define TABLE_SIZE (WGF_RATE_BUCKETS * sizeof(struct wgf_rate_bucket))

_Static_assert((SETS & (SETS - 1)) == 0, "a set is chosen by a mask");

int wgf_ratelimit_init(struct wgf_ratelimit *limit)
{
	limit->buckets = NULL;
	int error = wgf_siphash_key(limit->hash_key);
	if (error)
		return error;
	limit->buckets = (struct wgf_rate_bucket *)(void *)wgf_pool_map(TABLE_SIZE);
	return limit->buckets ? -pthread_mutex_init(&limit->lock, NULL) : -ENOMEM;
}

void wgf_ratelimit_destroy(struct wgf_ratelimit *limit)
{
	pthread_mutex_destroy(&limit->lock);
	if (limit->buckets)
		munmap(limit->buckets, TABLE_SIZE);
	limit->buckets = NULL;
	wgf_wipe(limit->hash_key, sizeof(limit->hash_key));
}

/* The source's own bucket, or the one of its set that was idle longest, made new; an unused one has
 * been idle since time 0. */
static struct wgf_rate_bucket *find_bucket(struct wgf_ratelimit *limit, struct wgf_source source, uint64_t now)
{
	uint64_t set = wgf_source_hash(limit->hash_key, source) & (SETS - 1);
	struct wgf_rate_bucket *ways = limit->buckets + set * WAYS, *idlest = ways;
	for (struct wgf_rate_bucket *bucket = ways; bucket < ways + WAYS; bucket++) {
		if (bucket->last && wgf_source_same(bucket->source, source))
			return bucket;
		if (bucket->last < idlest->last)
			idlest = bucket;
	}
	*idlest = (struct wgf_rate_bucket){source, now ? now : 1, CREDIT_MAX};
	return idlest;
}

static bool spend(struct wgf_rate_bucket *bucket, uint64_t now)
{
	if (now > bucket->last) { /* threads' clocks were read at different moments */
		uint64_t earned = now - bucket->last, missing = CREDIT_MAX - bucket->tokens;
		bucket->tokens += earned < missing ? earned : missing;
		bucket->last = now;
	}
	if (bucket->tokens < COST)
		return false;
	bucket->tokens -= COST;
	return true;
}

bool wgf_ratelimit_allow(struct wgf_ratelimit *limit, const struct wgf_endpoint *from, uint64_t now)
{
	pthread_mutex_lock(&limit->lock);
	bool allowed = spend(find_bucket(limit, wgf_source_of(from), now), now);
	pthread_mutex_unlock(&limit->lock);
	return allowed;
}
