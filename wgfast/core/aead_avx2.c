/* ChaCha20-Poly1305 for processors with AVX2 (and BMI2, which came with it).
 *
 * The shape: a batch is one stream of ChaCha20 blocks, first the key block of every packet, then the
 * data blocks of one packet after the other. A pass computes the next eight, whichever packets they
 * belong to, one in each 32-bit lane of sixteen vectors, and leaves them in a ring.
 *
 * Poly1305 of long packets runs on the scalar multiplier, which ChaCha20 leaves idle: between the
 * quarter rounds of a pass stand the steps of up to two chains, each of them one packet, in radix 2^64
 * (see poly1305.c). Measured on Zen 4, 30 of them lengthen a pass by a tenth and take three quarters of a
 * pass by themselves; four lanes in radix 2^26 would compete with ChaCha20 for the same ports.
 * Packets too short for that are authenticated eight at a time, one in each lane of two vectors of
 * four, in radix 2^26.
 *
 * When sealing, the chains follow the ciphertext as it is written. When opening they go ahead of the
 * decryption, which may overwrite what they read: key stream waits in the ring until they have passed.
 *
 * No branch and no address depends on a secret. Everything secret stands in struct scratch, wiped at
 * the end with the stack below, where the compiler may have put registers it had too few of. */
#include "aead.h"

#if defined(__x86_64__)

#include "bytes.h"
#include "passes_avx2.h"

#define LITTLE (2 * BLOCK)          /* a single packet so short would waste most of a pass: portable */
#define WORTH 3u                    /* brief packets that make vertical Poly1305 quicker than a chain each */
#define REST 4u                     /* so few blocks are absorbed between passes */
#define NONE SIZE_MAX
#define ALONE (RING * BLOCK / 2)    /* longer: the packet's chain runs alone, three blocks at a time */

static bool is_brief(const struct wgf_aead_job *job)
{
	return job->len <= SHORT && job->ad_len == 0;
}

/* Writes the tag, or compares it. */
INLINE void finish_packet(struct scratch *s, size_t j, uint64_t low, uint64_t high)
{
	struct wgf_aead_job *job = &s->jobs[j];

	s->absorbed[j] = job->len;
	if (!s->opening) {
		wgf_store_le64(job->dst + job->len, low);
		wgf_store_le64(job->dst + job->len + 8, high);
		return;
	}
	low ^= wgf_load_le64(job->src + job->len);
	low |= high ^ wgf_load_le64(job->src + job->len + 8);
	job->ok = (~(low | (0 - low)) >> 63) != 0; /* the top bit of x | -x is clear only for 0 */
	wgf_declassify(&job->ok, sizeof(job->ok));
}

/* The ciphertext. */
static const uint8_t *text_of(const struct scratch *s, size_t j)
{
	return s->opening ? s->jobs[j].src : s->jobs[j].dst;
}

/* A chain that has absorbed all but the tail. */
STEP void finish_chain(struct scratch *s, struct running *chain, size_t j)
{
	const size_t skip = s->jobs[j].len > 0 ? 0 : 16;
	set_tail(s->tail[0], &s->jobs[j], text_of(s, j));
	chain->p = s->tail[0] + skip;
	absorb_blocks(chain, (32 - skip) / 16);
	reduce(chain->h, s->mac[j].pad);
	finish_packet(s, j, chain->h[0], chain->h[1]);
}

STEP void begin_chain(struct scratch *s, struct running *chain, size_t j)
{
	struct wgf_poly1305 *mac = &s->mac[j];
	wgf_poly1305_update(mac, s->jobs[j].ad, s->jobs[j].ad_len);
	memcpy(chain->h, mac->h, sizeof(chain->h));
	chain->r0 = mac->r[0];
	chain->r1 = mac->r[1];
	chain->s1 = mac->r[1] + (mac->r[1] >> 2); /* 5 r1 / 4: the two low bits of r1 are clear */
	chain->p = text_of(s, j);
}

/* Whole blocks that chain k may absorb now, all but the packet's last. A packet that has no more, and
 * will not get more, is finished, and the next one taken. */
STEP size_t chain_ready(struct scratch *s, size_t k)
{
	for (;;) {
		size_t j = s->chained[k];
		if (j == NONE) {
			while (s->queued < s->n && is_brief(&s->jobs[s->queued]))
				s->queued++;
			if (s->queued == s->n || (!s->opening && s->queued > s->applying) ||
			    (k == 1 && s->jobs[s->queued].len > ALONE))
				return 0;
			j = s->chained[k] = s->queued++;
			begin_chain(s, &s->chain[k], j);
		}
		const struct wgf_aead_job *job = &s->jobs[j];
		size_t whole = job->len > 0 ? (job->len - 1) / 16 : 0;
		size_t there = s->opening || j < s->applying ? whole : s->applied / 16;
		there = (there < whole ? there : whole) - s->absorbed[j] / 16;
		if (whole - s->absorbed[j] / 16 > REST || (!s->opening && j >= s->applying))
			return there;
		absorb_blocks(&s->chain[k], there);
		finish_chain(s, &s->chain[k], j);
		s->chained[k] = NONE;
	}
}

/* The last blocks of eight brief packets, that stand in s->tail: the padded end of a text unless it is
 * empty, and the lengths. */
STEP void absorb_tails(struct scratch *s, const size_t *which, size_t count)
{
	const uint8_t *p[LANES];
	unsigned texts = 0;

	for (size_t i = 0; i < LANES; i++) {
		p[i] = s->tail[i];
		if (i >= count || s->jobs[which[i]].len > 0)
			texts |= 1u << i;
	}
	absorb_lanes(&s->lanes, p, texts, texts == ALL ? 2 : 1);
	if (texts == ALL)
		return;
	for (size_t i = 0; i < LANES; i++)
		p[i] += 16;
	absorb_lanes(&s->lanes, p, ALL, 1);
}

/* The whole blocks of eight brief packets, whole[i] of each. Lanes end together: one with fewer blocks begins
 * later, and has zeros before. */
STEP void absorb_texts(struct scratch *s, const size_t *which, size_t count, const size_t whole[LANES])
{
	static const uint8_t zeros[SHORT];
	const uint8_t *p[LANES];
	unsigned begun = 0;
	size_t left = 0;

	for (size_t i = 0; i < LANES; i++) {
		left = whole[i] > left ? whole[i] : left;
		p[i] = zeros;
	}
	while (left > 0) {
		size_t until = 0; /* as many are left when the next lanes begin */
		for (size_t i = 0; i < count; i++) {
			if (whole[i] == left) {
				begun |= 1u << i;
				p[i] = text_of(s, which[i]);
			}
			until = whole[i] < left && whole[i] > until ? whole[i] : until;
		}
		absorb_lanes(&s->lanes, p, begun, left - until);
		if (until == 0)
			break;
		for (size_t i = 0; i < count; i++)
			p[i] += begun >> i & 1 ? 16 * (left - until) : 0;
		left = until;
	}
}

/* Eight brief packets of one length, in whole blocks, as WireGuard's padding leaves them. */
STEP void absorb_alike(struct scratch *s, const size_t *which)
{
	const uint8_t *p[LANES];

	for (size_t i = 0; i < LANES; i++) {
		set_lengths(s->tail[i], &s->jobs[which[i]]);
		p[i] = text_of(s, which[i]);
	}
	absorb_lanes(&s->lanes, p, ALL, s->jobs[which[0]].len / 16);
	for (size_t i = 0; i < LANES; i++)
		p[i] = s->tail[i] + 16;
	absorb_lanes(&s->lanes, p, ALL, 1);
}

/* The tags of up to eight brief packets. */
KERNEL void vertical(struct scratch *s, const size_t *which, size_t count)
{
	const uint8_t *p[LANES];
	size_t whole[LANES] = {0}, length = s->jobs[which[0]].len;
	bool alike = count == LANES && length % 16 == 0;

	for (size_t i = 0; i < LANES; i++) { /* lanes without a packet do the first one's work again */
		p[i] = (const uint8_t *)s->mac[which[i < count ? i : 0]].r;
		alike = alike && s->jobs[which[i < count ? i : 0]].len == length;
	}
	begin_lanes(&s->lanes, p);
	if (alike) {
		absorb_alike(s, which);
	} else {
		for (size_t i = 0; i < LANES; i++)
			if (i < count)
				whole[i] = set_tail(s->tail[i], &s->jobs[which[i]], text_of(s, which[i]));
		absorb_texts(s, which, count, whole);
		absorb_tails(s, which, count);
	}
	for (size_t i = 0; i < LANES; i++)
		p[i] = (const uint8_t *)s->mac[which[i < count ? i : 0]].pad;
	finish_lanes(&s->lanes, p, s->tags);
	for (size_t i = 0; i < count; i++)
		finish_packet(s, which[i], s->tags[0][i], s->tags[1][i]);
}

STEP void authenticate_briefs(struct scratch *s)
{
	for (size_t i = 0, n; i < s->briefs; i += n) {
		n = s->briefs - i < LANES ? s->briefs - i : LANES;
		if (n >= WORTH) {
			vertical(s, s->brief + i, n);
			continue;
		}
		for (size_t k = 0; k < n; k++) {
			const size_t j = s->brief[i + k], len = s->jobs[j].len;
			begin_chain(s, &s->chain[0], j);
			absorb_blocks(&s->chain[0], len > 0 ? (len - 1) / 16 : 0);
			finish_chain(s, &s->chain[0], j);
		}
	}
}

/* The first n blocks of the stream are the keys. */
STEP void take_keys(struct scratch *s)
{
	const uint8_t *ring = (const uint8_t *)s->ring;
	for (size_t j = 0; j < s->n; j++)
		wgf_poly1305_init(&s->mac[j], ring + BLOCK * j);
	s->used = s->n;
	if (s->opening)
		authenticate_briefs(s);
}

/* Brings the key stream to the packets, as far as it has been made; when opening, as far as the
 * ciphertext has been authenticated, because it may be overwritten. */
STEP void apply_ready(struct scratch *s)
{
	while (s->applying < s->n) {
		struct wgf_aead_job *job = &s->jobs[s->applying];
		const size_t place = s->used % RING;
		size_t blocks = s->made - s->used < RING - place ? s->made - s->used : RING - place;
		size_t bytes = job->len - s->applied;

		if (bytes > 0) {
			const size_t absorbed = s->absorbed[s->applying];
			const bool all = !s->opening || absorbed == job->len;
			bytes = bytes < BLOCK * blocks ? bytes : BLOCK * blocks;
			if (!all && bytes > absorbed / BLOCK * BLOCK - s->applied)
				bytes = absorbed / BLOCK * BLOCK - s->applied;
			if (bytes == 0)
				return;
			if (!s->opening || !all || job->ok)
				apply(job->dst + s->applied, job->src + s->applied,
				      (const uint8_t *)s->ring + BLOCK * place, bytes);
			s->applied += bytes;
			s->used += (bytes + BLOCK - 1) / BLOCK;
			if (s->applied < job->len)
				continue;
			if (s->opening && !job->ok)
				memset(job->dst, 0, job->len);
		}
		s->applying++;
		s->applied = 0;
	}
}

STEP void absorb_ready(struct scratch *s, size_t k, size_t blocks)
{
	absorb_blocks(&s->chain[k], blocks);
	s->absorbed[s->chained[k]] += 16 * blocks;
}

/* The ring is full, because the chain of the packet that would be decrypted next lags behind. */
STEP void make_room(struct scratch *s)
{
	for (size_t k = 0; k < 2; k++) {
		size_t ready = chain_ready(s, k);
		if (ready > 0 && s->chained[k] == s->applying)
			absorb_ready(s, k, ready < 4 * LANES ? ready : 4 * LANES);
	}
	apply_ready(s);
}

/* One pass, with as much of Poly1305 beside it as there is. */
STEP void step(struct scratch *s)
{
	size_t ready[2] = {0, 0}, both, first;

	if (s->used >= s->n && s->briefs < s->n) {
		ready[0] = chain_ready(s, 0);
		ready[1] = chain_ready(s, 1);
	}
	if (ready[0] < ready[1]) {
		struct running chain = s->chain[0];
		size_t chained = s->chained[0], other = ready[0];
		s->chain[0] = s->chain[1];
		s->chain[1] = chain;
		s->chained[0] = s->chained[1];
		s->chained[1] = chained;
		ready[0] = ready[1];
		ready[1] = other;
	}
	both = ready[1] / 2 < 10 ? ready[1] / 2 : 10;
	first = (ready[0] - 2 * both) / 3 < 10 - both ? (ready[0] - 2 * both) / 3 : 10 - both;
	set_state(s);
	pass(s, s->ring + s->made % RING * (BLOCK / sizeof(vec)), both, first);
	s->made += LANES;
	if (both > 0)
		s->absorbed[s->chained[1]] += 32 * both;
	if (both + first > 0)
		s->absorbed[s->chained[0]] += 32 * both + 48 * first;
}

/* Returns how many blocks the chunk needs. */
STEP size_t begin(struct scratch *s, struct wgf_aead_job *jobs, size_t n, bool opening)
{
	static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
	size_t total = n;

	s->jobs = jobs;
	s->n = n;
	s->opening = opening;
	s->one_key = true;
	s->making_keys = true;
	s->making = s->made = s->used = s->applying = s->applied = s->queued = s->briefs = 0;
	s->next = s->last = 0;
	s->chained[0] = s->chained[1] = NONE;
	for (size_t i = 0; i < n; i++) {
		total += (jobs[i].len + BLOCK - 1) / BLOCK;
		s->one_key = s->one_key && jobs[i].key == jobs[0].key;
		s->absorbed[i] = 0;
		if (is_brief(&jobs[i]))
			s->brief[s->briefs++] = i;
	}
	for (size_t i = 0; i < 4; i++)
		for (size_t k = 0; k < LANES; k++)
			s->state[i][k] = constants[i];
	if (s->one_key)
		set_one_key(s->state, jobs[0].key);
	return total;
}

STEP void run_chunk(struct scratch *s, struct wgf_aead_job *jobs, size_t n, bool opening)
{
	const size_t total = begin(s, jobs, n, opening);

	while (s->made < total) {
		while (s->made + LANES - s->used > RING)
			make_room(s);
		step(s);
		if (s->used < n && s->made >= n)
			take_keys(s);
		if (s->used >= n)
			apply_ready(s);
	}
	for (size_t k = 0; k < 2; k++)
		for (size_t ready = chain_ready(s, k); ready > 0; ready = chain_ready(s, k))
			absorb_ready(s, k, ready);
	if (opening)
		apply_ready(s);
	else
		authenticate_briefs(s);
}

/* Where the functions called before had their registers put. */
static __attribute__((noinline)) void wipe_below(void)
{
	uint8_t below[2048];
	wgf_wipe(below, sizeof(below));
}

STEP void run(struct wgf_aead_job *jobs, size_t n, bool opening)
{
	const size_t most = n < CHUNK ? n : CHUNK;
	struct scratch s;
	size_t made = 0;

	for (size_t i = 0; i < n; i += CHUNK) {
		run_chunk(&s, jobs + i, n - i < CHUNK ? n - i : CHUNK, opening);
		made = s.made > made ? s.made : made;
	}
	wipe_below();
	wgf_wipe((uint8_t *)&s + offsetof(struct scratch, parked),
		 offsetof(struct scratch, mac) - offsetof(struct scratch, parked));
	wgf_wipe(s.mac, most * sizeof(s.mac[0]));
	wgf_wipe(s.ring, (made < RING ? made : RING) * BLOCK);
}

static void run_little(void (*portable)(struct wgf_aead_job *, size_t), struct wgf_aead_job *job)
{
	portable(job, 1);
	wipe_below();
}

static void avx2_seal(struct wgf_aead_job *jobs, size_t n)
{
	if (n == 1 && jobs->len <= LITTLE)
		run_little(wgf_aead_portable.seal, jobs);
	else
		run(jobs, n, false);
}

static void avx2_open(struct wgf_aead_job *jobs, size_t n)
{
	if (n == 1 && jobs->len <= LITTLE)
		run_little(wgf_aead_portable.open, jobs);
	else
		run(jobs, n, true);
}

static bool avx2_supported(void)
{
	return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("bmi2");
}

const struct wgf_aead_kernel wgf_aead_avx2 = {
	.name = "avx2",
	.supported = avx2_supported,
	.seal = avx2_seal,
	.open = avx2_open,
};

#else

typedef int wgf_aead_avx2_is_for_x86;

#endif
