/* Per-source limits on handshakes: token buckets in a 4-way set-associative table.
 *
 * The size is fixed, so a flood cannot grow it, and a source looks at four buckets, so a flood cannot
 * slow it down. Which four is a keyed hash (SipHash-2-4 with a random key): nobody outside can choose
 * addresses that fall together and push one victim's bucket out, or their own. A source pushed out
 * starts again with a full burst, so what a large pool of real addresses gains by it is at most what
 * so many honest sources would be given.
 *
 * Only asked while under load and after mac1 and mac2 were right; one lock is enough. */
#include "ratelimit.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "bytes.h"

#define WAYS 4u
#define SETS (WGF_RATE_BUCKETS / WAYS)
#define COST (WGF_SECOND / WGF_RATE_PER_SECOND) /* of one handshake, in nanoseconds of credit */
#define CREDIT_MAX (COST * WGF_RATE_BURST)

_Static_assert((SETS & (SETS - 1)) == 0, "a set is chosen by a mask");

static uint64_t rotate(uint64_t v, unsigned bits)
{
	return v << bits | v >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] = rotate(v[2], 32);
}

/* SipHash-2-4 of the nine bytes source || family: one whole word and the closing one, whose top byte
 * is the length. */
static uint64_t hash_source(const uint64_t key[2], uint64_t source, uint8_t family)
{
	const uint64_t words[2] = {source, UINT64_C(9) << 56 | family};
	uint64_t v[4] = {
		key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
		key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
	};
	for (size_t i = 0; i < 2; i++) {
		v[3] ^= words[i];
		sip_round(v);
		sip_round(v);
		v[0] ^= words[i];
	}
	v[2] ^= 0xff;
	for (size_t i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

int wgf_ratelimit_init(struct wgf_ratelimit *limit)
{
	limit->buckets = NULL;
	ssize_t got;
	do
		got = getrandom(limit->hash_key, sizeof(limit->hash_key), 0);
	while (got < 0 && errno == EINTR);
	if (got < 0)
		return -errno;
	return -pthread_mutex_init(&limit->lock, NULL);
}

void wgf_ratelimit_destroy(struct wgf_ratelimit *limit)
{
	pthread_mutex_destroy(&limit->lock);
	free(limit->buckets);
	limit->buckets = NULL;
	wgf_wipe(limit->hash_key, sizeof(limit->hash_key));
}

/* The source's own bucket, or the one of its set that was idle longest, made new; an unused one has
 * been idle since time 0. */
static struct wgf_rate_bucket *find_bucket(struct wgf_ratelimit *limit, uint64_t source, uint8_t family,
					   uint64_t now)
{
	uint64_t set = hash_source(limit->hash_key, source, family) & (SETS - 1);
	struct wgf_rate_bucket *ways = limit->buckets + set * WAYS, *idlest = ways;
	for (struct wgf_rate_bucket *bucket = ways; bucket < ways + WAYS; bucket++) {
		if (bucket->last && bucket->source == source && bucket->family == family)
			return bucket;
		if (bucket->last < idlest->last)
			idlest = bucket;
	}
	*idlest = (struct wgf_rate_bucket){source, now ? now : 1, CREDIT_MAX, family};
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
	uint64_t source = from->family == 4 ? wgf_load_be32(from->address) : wgf_load_be64(from->address);
	pthread_mutex_lock(&limit->lock);
	if (!limit->buckets)
		limit->buckets = calloc(WGF_RATE_BUCKETS, sizeof(*limit->buckets));
	/* Without memory nothing can be counted, and under load what is not counted is refused. */
	bool allowed = limit->buckets && spend(find_bucket(limit, source, from->family, now), now);
	pthread_mutex_unlock(&limit->lock);
	return allowed;
}
