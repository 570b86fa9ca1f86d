/* See limiter.h for what is counted, and what was decided. */
#include "limiter.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "device.h"

#define LIMITS_OF_A_WAY ((uint32_t)(WGF_LIMIT_COUNT / WGF_WAYS))
#define AUTOMATIC 4u /* a burst that is not given is this part of a second */

_Static_assert((int)WGF_LIMIT_RECEIVE_RATE == (int)WGF_LIMIT_COUNT / WGF_WAYS, "both directions have the same limits");
_Static_assert(WGF_LIMIT_BURST_BYTES >= WGF_MTU_MAX, "by itself every packet fits");
_Static_assert(WGF_BATCH_PACKETS <= 256, "for the verdicts");

/* What passes. Relaxed: each word stands for itself, and nothing is published by it. */
struct words {
	_Alignas(64) _Atomic uint64_t bytes, packets; /* taken from the buckets, ever */
	_Atomic uint64_t used;                        /* of the quota */
};

/* A rate is so many tokens in `per` ns. */
struct bucket {
	uint64_t rate, per; /* rate 0: there is none */
	uint64_t burst;
	uint64_t base, since; /* the credit there was at that time */
};

struct wgf_limiter {
	struct wgf_retired retired;
	struct words *words; /* WGF_WAYS; of all limiters that this peer has had since it last had none */
	bool last;           /* they go with this one */
	struct wgf_limits set;
	struct bucket bytes[WGF_WAYS], packets[WGF_WAYS];
};

#define NAME(NAME, name, most) #name,
#define MOST(NAME, name, most) most,
static const char *const names[] = {WGF_LIMITS(NAME)};
static const uint64_t mosts[] = {WGF_LIMITS(MOST)};
#undef NAME
#undef MOST

const char *wgf_limit_name(uint32_t limit)
{
	return limit < WGF_LIMIT_COUNT ? names[limit] : NULL;
}

uint64_t wgf_limit_most(uint32_t limit)
{
	return limit < WGF_LIMIT_COUNT ? mosts[limit] : 0;
}

/* ---- Buckets ---- */

/* rate <= 10^12 and the times are below 2^64, so the products are below 2^104. Rounded down, also before `since`. */
static uint64_t credit_at(const struct bucket *bucket, uint64_t now)
{
	if (now >= bucket->since)
		return bucket->base + (uint64_t)((unsigned __int128)bucket->rate * (now - bucket->since) / bucket->per);
	unsigned __int128 before = (unsigned __int128)bucket->rate * (bucket->since - now);
	return bucket->base - (uint64_t)((before + bucket->per - 1) / bucket->per);
}

/* The most by which threads' times may differ, in tokens; at most 1.25 * 10^12. */
static uint64_t skew_of(const struct bucket *bucket)
{
	return (uint64_t)((unsigned __int128)bucket->rate * WGF_LIMIT_SKEW / bucket->per);
}

/* One limit and what a run takes of it. */
struct meter {
	_Atomic uint64_t *word;
	const struct bucket *bucket; /* NULL: a quota */
	uint64_t quota;
	bool by_packet;
	enum wgf_drop reason;
	uint64_t seen;  /* in the word */
	uint64_t from;  /* what is taken is added to this */
	uint64_t room;  /* so much more may be taken */
	uint64_t taken;
	bool ahead;     /* `from` is to be stored though nothing was taken */
};

static void look(struct meter *meter, uint64_t now)
{
	meter->seen = atomic_load_explicit(meter->word, memory_order_relaxed);
	meter->taken = 0;
	meter->ahead = false;
	if (!meter->bucket) {
		meter->from = meter->seen;
		meter->room = meter->seen < meter->quota ? meter->quota - meter->seen : 0;
		return;
	}
	uint64_t burst = meter->bucket->burst, credit = credit_at(meter->bucket, now);
	uint64_t debt = meter->seen - credit;
	if (debt > INT64_MAX) { /* it was full */
		debt = 0;
	} else if (debt > burst && debt - burst > skew_of(meter->bucket)) {
		debt = burst;
		meter->ahead = true;
	}
	meter->from = credit + debt;
	meter->room = debt < burst ? burst - debt : 0;
}

static uint64_t cost(const struct meter *meter, const struct wgf_packet *packet)
{
	return meter->by_packet ? 1 : packet->inner_len;
}

static bool commit(struct meter *meter)
{
	return (!meter->taken && !meter->ahead) ||
	       atomic_compare_exchange_strong_explicit(meter->word, &meter->seen, meter->from + meter->taken,
						       memory_order_relaxed, memory_order_relaxed);
}

/* ---- Runs ---- */

struct run {
	struct wgf_packet *packets;
	uint32_t n;
	uint8_t *verdicts; /* of each packet an enum wgf_drop: the reason, if it is one of the limits' */
};

/* The last of the meters that has no room for it decides: the quota, if it is among them. */
static enum wgf_drop judge_packet(const struct meter *meters, size_t n, const struct wgf_packet *packet)
{
	enum wgf_drop verdict = WGF_DROP_NOT;
	for (size_t i = 0; i < n; i++)
		if (cost(&meters[i], packet) > meters[i].room)
			verdict = meters[i].reason;
	return verdict;
}

/* Of the packets that may still pass. Takes from the meters what those cost that do. */
static void judge(struct meter *meters, size_t n, const struct run *run)
{
	for (uint32_t i = 0; i < run->n; i++) {
		const struct wgf_packet *packet = &run->packets[i];
		if (run->verdicts[i] != WGF_DROP_NOT || packet->drop != WGF_DROP_NOT || !packet->inner_len)
			continue;
		run->verdicts[i] = (uint8_t)judge_packet(meters, n, packet);
		if (run->verdicts[i] != WGF_DROP_NOT)
			continue;
		for (size_t m = 0; m < n; m++) {
			meters[m].room -= cost(&meters[m], packet);
			meters[m].taken += cost(&meters[m], packet);
		}
	}
}

/* One meter after the other. Where another thread was faster, what has passed so far is judged anew by those
 * that are not charged yet. The quota is the last: it counts only what passes all. */
static void charge(struct meter *meters, size_t n, const struct run *run, uint64_t now)
{
	for (size_t i = 0; i < n; i++)
		look(&meters[i], now);
	judge(meters, n, run);
	for (size_t done = 0; done < n; done++)
		while (!commit(&meters[done])) {
			for (size_t i = done; i < n; i++)
				look(&meters[i], now);
			judge(meters + done, n - done, run);
		}
}

/* Those that are set. */
static size_t meters_of(const struct wgf_limiter *limiter, enum wgf_way way, struct meter meters[3])
{
	enum wgf_drop limited = way == WGF_SENDING ? WGF_DROP_SEND_LIMITED : WGF_DROP_RECEIVE_LIMITED;
	enum wgf_drop over = way == WGF_SENDING ? WGF_DROP_SEND_QUOTA : WGF_DROP_RECEIVE_QUOTA;
	struct words *words = &limiter->words[way];
	uint64_t quota = limiter->set.value[(uint32_t)way * LIMITS_OF_A_WAY + WGF_LIMIT_SEND_QUOTA];
	size_t n = 0;
	if (limiter->bytes[way].rate)
		meters[n++] = (struct meter){.word = &words->bytes, .bucket = &limiter->bytes[way], .reason = limited};
	if (limiter->packets[way].rate)
		meters[n++] = (struct meter){.word = &words->packets, .bucket = &limiter->packets[way],
					     .by_packet = true, .reason = limited};
	if (quota)
		meters[n++] = (struct meter){.word = &words->used, .quota = quota, .reason = over};
	return n;
}

uint32_t wgf_limiter_charge(struct wgf_device *device, const struct wgf_limiter *limiter, enum wgf_way way,
			    struct wgf_packet *packets, uint32_t n, uint64_t now)
{
	struct meter meters[3];
	uint8_t verdicts[WGF_BATCH_PACKETS];
	uint32_t dropped = 0;
	size_t meters_n = meters_of(limiter, way, meters);
	if (!meters_n)
		return 0;
	memset(verdicts, WGF_DROP_NOT, n);
	const struct run run = {packets, n, verdicts};
	charge(meters, meters_n, &run, now);
	for (uint32_t i = 0; i < n; i++)
		if (verdicts[i] != WGF_DROP_NOT) {
			wgf_drop_packet(device, &packets[i], (enum wgf_drop)verdicts[i]);
			dropped++;
		}
	return dropped;
}

/* ---- Control plane ---- */

static void fill_bucket(struct bucket *bucket, uint64_t rate, uint64_t burst, uint64_t per, uint64_t least)
{
	uint64_t tokens = (uint64_t)((unsigned __int128)rate * WGF_SECOND / per / AUTOMATIC);
	*bucket = (struct bucket){.rate = rate, .per = per, .burst = burst};
	if (!burst)
		bucket->burst = tokens > least ? tokens : least;
}

/* Its tokens at that time, if the word is `taken` then. */
static uint64_t level_of(const struct bucket *bucket, uint64_t taken, uint64_t now)
{
	uint64_t debt = taken - credit_at(bucket, now);
	if (debt > INT64_MAX)
		debt = 0;
	return debt < bucket->burst ? bucket->burst - debt : 0;
}

/* The word stays; the credit is such that the tokens stay as well. What others take meanwhile is taken from these. */
static void carry_on(struct bucket *bucket, const struct bucket *before, _Atomic uint64_t *word, uint64_t now)
{
	uint64_t taken = atomic_load_explicit(word, memory_order_relaxed), level = bucket->burst;
	if (before && before->rate == bucket->rate && before->burst == bucket->burst) {
		*bucket = *before;
		return;
	}
	if (before && before->rate && level_of(before, taken, now) < level)
		level = level_of(before, taken, now);
	bucket->base = taken - (bucket->burst - level);
	bucket->since = now;
}

static void fill_way(struct wgf_limiter *limiter, const struct wgf_limiter *before, enum wgf_way way, uint64_t now)
{
	const uint64_t *value = limiter->set.value + (uint32_t)way * LIMITS_OF_A_WAY;
	struct words *words = &limiter->words[way];
	struct bucket *bytes = &limiter->bytes[way], *packets = &limiter->packets[way];
	fill_bucket(bytes, value[WGF_LIMIT_SEND_RATE], value[WGF_LIMIT_SEND_BURST], 8 * WGF_SECOND, WGF_LIMIT_BURST_BYTES);
	fill_bucket(packets, value[WGF_LIMIT_SEND_PACKET_RATE], value[WGF_LIMIT_SEND_PACKET_BURST], WGF_SECOND,
		    WGF_LIMIT_BURST_PACKETS);
	carry_on(bytes, before ? &before->bytes[way] : NULL, &words->bytes, now);
	carry_on(packets, before ? &before->packets[way] : NULL, &words->packets, now);
}

static struct words *make_words(void)
{
	struct words *words = aligned_alloc(_Alignof(struct words), WGF_WAYS * sizeof *words);
	if (words)
		memset(words, 0, WGF_WAYS * sizeof *words);
	return words;
}

void wgf_limiter_free(struct wgf_limiter *limiter)
{
	if (limiter && limiter->last)
		free(limiter->words);
	free(limiter);
}

static void release(struct wgf_retired *retired)
{
	wgf_limiter_free((struct wgf_limiter *)((char *)retired - offsetof(struct wgf_limiter, retired)));
}

static struct wgf_limiter *make(struct wgf_limiter *before, const struct wgf_limits *limits, uint64_t now)
{
	struct wgf_limiter *limiter = calloc(1, sizeof *limiter);
	struct words *words = before ? before->words : make_words();
	if (!limiter || !words) {
		if (!before)
			free(words);
		free(limiter);
		return NULL;
	}
	limiter->words = words;
	limiter->last = true;
	limiter->set = *limits;
	for (unsigned way = 0; way < WGF_WAYS; way++)
		fill_way(limiter, before, (enum wgf_way)way, now);
	return limiter;
}

static struct wgf_limiter *limiter_of(struct wgf_peer *peer)
{
	return atomic_load_explicit(&peer->limiter, memory_order_relaxed);
}

static bool is_used(uint32_t limit)
{
	return limit % LIMITS_OF_A_WAY == WGF_LIMIT_SEND_USED;
}

/* What is to be set, and stays as it is written; usage stands in the words. */
static int merge(struct wgf_limits *merged, const struct wgf_limiter *before, const struct wgf_limits *limits)
{
	memset(merged, 0, sizeof *merged);
	if (before)
		*merged = before->set;
	for (uint32_t i = 0; i < WGF_LIMIT_COUNT; i++) {
		if (!(limits->said >> i & 1))
			continue;
		if (limits->value[i] > mosts[i])
			return -EINVAL;
		if (!is_used(i))
			merged->value[i] = limits->value[i];
	}
	return 0;
}

static bool says_anything(const struct wgf_limits *limits)
{
	uint64_t any = 0;
	for (uint32_t i = 0; i < WGF_LIMIT_COUNT; i++)
		any |= limits->value[i];
	return any != 0;
}

static void set_used(struct wgf_limiter *limiter, const struct wgf_limits *limits)
{
	for (uint32_t way = 0; way < WGF_WAYS; way++) {
		uint32_t used = way * LIMITS_OF_A_WAY + WGF_LIMIT_SEND_USED;
		uint64_t quota = limiter->set.value[way * LIMITS_OF_A_WAY + WGF_LIMIT_SEND_QUOTA];
		if (!quota || limits->said >> used & 1)
			atomic_store_explicit(&limiter->words[way].used, quota ? limits->value[used] : 0,
					      memory_order_relaxed);
	}
}

int wgf_limiter_set(struct wgf_peer *peer, const struct wgf_limits *limits, uint64_t now)
{
	struct wgf_limiter *before = limiter_of(peer), *limiter = before;
	struct wgf_limits merged;
	int error = merge(&merged, before, limits);
	if (error)
		return error;
	bool same = before ? !memcmp(merged.value, before->set.value, sizeof merged.value) : !says_anything(&merged);
	if (!same) {
		limiter = says_anything(&merged) ? make(before, &merged, now) : NULL;
		if (!limiter && says_anything(&merged))
			return -ENOMEM;
		atomic_store_explicit(&peer->limiter, limiter, memory_order_release);
		if (before) {
			before->last = !limiter;
			wgf_epoch_retire(&peer->device->epoch, &before->retired, release);
		}
	}
	if (limiter)
		set_used(limiter, limits);
	return 0;
}

void wgf_limiter_get(struct wgf_peer *peer, struct wgf_limits *limits)
{
	const struct wgf_limiter *limiter = limiter_of(peer);
	memset(limits, 0, sizeof *limits);
	if (limiter)
		*limits = limiter->set;
	for (uint32_t i = 0; limiter && i < WGF_LIMIT_COUNT; i++)
		if (is_used(i))
			limits->value[i] = atomic_load_explicit(&limiter->words[i / LIMITS_OF_A_WAY].used,
								memory_order_relaxed);
	limits->said = WGF_LIMITS_ALL;
}
