/* Batches of ChaCha20-Poly1305 over vector lanes: what the AVX-512 kernels have in common.
 *
 * A batch is sorted by length and cut into groups of sixteen packets, so that a group's passes of
 * ChaCha20 (passes_avx512.h) have lanes for blocks of any of them and the eight lanes of Poly1305
 * (poly1305_avx512.h) get packets of like length. The one-time keys come out of the first pass as
 * Poly1305 wants them: one packet a lane. To open, the first pass comes before the authentication,
 * its key stream is kept meanwhile, and only what has been verified is deciphered.
 *
 * Measured on Zen 4, 64 packets of 1420 bytes, in ticks of 2.6 GHz a packet: 1139 with passes of 16
 * blocks that left their key stream in memory, 1054 adding it to the texts from registers, 981 with
 * passes of 32. Tried and dropped: Poly1305 in general registers between the rounds of ChaCha20,
 * three packets in turn. It hides two thirds of its time, but gcc 12 needs assembly for the carries, and
 * r^2 brought the same. */
#ifndef WGF_AEAD_AVX512_H
#define WGF_AEAD_AVX512_H

#include "passes_avx512.h"
#include "single_avx512.h"

#define SORTED 64u  /* jobs sorted at a time */
#define LITTLE 192u /* a single packet this short takes longer to spread over lanes than to do without */

/* Two words of the one-time keys of half a group, as 64-bit lanes. */
INLINE __m512i key_half(const struct scratch *s, unsigned word, unsigned half)
{
	__m512i low = s->once[word], high = s->once[word + 1];
	__m256i a = half == 0 ? _mm512_castsi512_si256(low) : _mm512_extracti64x4_epi64(low, 1);
	__m256i b = half == 0 ? _mm512_castsi512_si256(high) : _mm512_extracti64x4_epi64(high, 1);
	return _mm512_or_si512(_mm512_cvtepu32_epi64(a), _mm512_slli_epi64(_mm512_cvtepu32_epi64(b), 32));
}

static void mac_begin(struct scratch *s, unsigned half)
{
	const __m512i low = _mm512_set1_epi64(0x0ffffffc0fffffff), high = _mm512_set1_epi64(0x0ffffffc0ffffffc);
	struct mac *m = &s->mac[half];

	m->r = limbs_factor(limbs_of_words(_mm512_and_si512(key_half(s, 0, half), low),
				       _mm512_and_si512(key_half(s, 2, half), high)));
	for (unsigned i = 0; i < LIMBS; i++)
		m->h.v[i] = _mm512_setzero_si512();
}

static void mac_end(struct scratch *s, unsigned half)
{
	__m512i low, high, pad = key_half(s, 4, half);

	limbs_join(s->mac[half].h, &low, &high);
	low = _mm512_add_epi64(low, pad);
	high = _mm512_add_epi64(high, key_half(s, 6, half));
	high = _mm512_mask_add_epi64(high, _mm512_cmplt_epu64_mask(low, pad), high, _mm512_set1_epi64(1));
	_mm512_storeu_si512(s->tags[half], low);
	_mm512_storeu_si512(s->tags[half] + PACKETS, high);
}

/* Eight of the group's jobs as texts; what is not there is a second copy of the last. */
INLINE void list_texts(struct texts *t, const struct group *g, unsigned from, bool ad, bool sealed)
{
	size_t shortest = SIZE_MAX, longest = 0;

	for (unsigned i = 0; i < PACKETS; i++) {
		const struct wgf_aead_job *job = g->jobs[from + i < g->n ? from + i : g->n - 1];
		const size_t size = ad ? job->ad_len : job->len;
		const uint8_t *text = ad ? job->ad : sealed ? job->dst : job->src;
		shortest = size < shortest ? size : shortest;
		longest = size > longest ? size : longest;
		t->size[i] = size;
		t->first[i] = size > 0 ? text : (const uint8_t *)t; /* somewhere that can be read; nothing is */
	}
	t->shortest = shortest;
	t->longest = longest;
}

/* Texts much longer than the rest of their eight are absorbed along down to the length of one of the
 * others, the one where that costs least: a step of all lanes takes as long as nine steps along, and
 * to begin and end along takes as long as 150 of those. */
static void shorten(struct mac *m, struct powers *powers, struct texts *t)
{
	size_t best = t->longest, least = 9 * t->longest;

	if (t->longest - t->shortest < 1024)
		return;
	for (unsigned i = 0; i < PACKETS; i++) {
		size_t cost = 9 * t->size[i];
		for (unsigned k = 0; k < PACKETS; k++)
			if (t->size[k] > t->size[i] + ALONG)
				cost += 150 * 16 + (t->size[k] - t->size[i]);
		if (cost < least) {
			least = cost;
			best = t->size[i];
		}
	}
	for (unsigned i = 0; i < PACKETS; i++) {
		if (t->size[i] <= best + ALONG)
			continue;
		size_t n = (t->size[i] - best) / ALONG * ALONG;
		absorb_along(m, powers, i, t->first[i], n);
		t->first[i] += n;
		t->size[i] -= n;
	}
	measure_texts(t);
}

/* One or two packets: long ones across blocks, short ones without vectors, where a block takes half of
 * the time that it takes a vector with idle lanes. */
static void authenticate_few(struct scratch *s, const struct group *g, bool sealed)
{
	struct mac *m = &s->mac[0];
	struct wgf_poly1305 *single = &s->single;

	mac_begin(s, 0);
	for (unsigned lane = 0; lane < g->n; lane++) {
		const struct wgf_aead_job *job = g->jobs[lane];
		const uint8_t *text = sealed ? job->dst : job->src;
		const __m128i lengths = _mm_set_epi64x((long long)job->len, (long long)job->ad_len);
		const bool along = job->len >= 2 * ALONG;
		if (!along || job->ad_len > 0) {
			uint8_t block[16];
			for (unsigned i = 0; i < 8; i++)
				memcpy(s->key + 4 * i, (const uint8_t *)&s->once[i] + (size_t)4 * lane, 4);
			wgf_poly1305_init(single, s->key);
			wgf_poly1305_update(single, job->ad, job->ad_len);
			if (!along) {
				wgf_poly1305_update(single, text, job->len);
				_mm_storeu_si128((__m128i *)block, lengths);
				wgf_poly1305_update(single, block, sizeof(block));
			}
			struct limbs h = limbs_of_words(_mm512_set1_epi64((long long)single->h[0]),
							_mm512_set1_epi64((long long)single->h[1]));
			h.v[LIMBS - 1] = _mm512_add_epi64(h.v[LIMBS - 1],
							  _mm512_set1_epi64((long long)(single->h[2] << BIT128)));
			m->h = limbs_blend((__mmask8)(1u << lane), m->h, h);
		}
		if (along)
			absorb_whole(m, &s->powers, lane, text, job->len, lengths);
	}
	mac_end(s, 0);
}

static void authenticate(struct scratch *s, const struct group *g, bool sealed)
{
	const unsigned halves = g->n > PACKETS ? 2 : 1;
	struct texts t[2];
	size_t ad = 0;

	if (g->n <= 2) {
		authenticate_few(s, g, sealed);
		return;
	}
	for (unsigned i = 0; i < g->n; i++)
		ad |= g->jobs[i]->ad_len;
	for (unsigned v = 0; v < halves; v++) {
		mac_begin(s, v);
		if (ad != 0) {
			list_texts(&t[v], g, v * PACKETS, true, sealed);
			absorb_eight(&s->mac[v], &t[v]);
		}
		list_texts(&t[v], g, v * PACKETS, false, sealed);
		shorten(&s->mac[v], &s->powers, &t[v]);
		absorb_eight(&s->mac[v], &t[v]);
	}
	for (unsigned v = 0; v < halves; v++) {
		uint64_t ads[PACKETS] = {0};
		for (unsigned i = 0; ad != 0 && i < PACKETS; i++)
			ads[i] = g->jobs[v * PACKETS + i < g->n ? v * PACKETS + i : 0]->ad_len;
		s->mac[v].h = absorb_block(s->mac[v].h, &s->mac[v].r, _mm512_loadu_si512(ads),
					   _mm512_loadu_si512(g->len + v * PACKETS));
		mac_end(s, v);
	}
}

static void store_tags(const struct scratch *s, const struct group *g)
{
	for (unsigned i = 0; i < g->n; i++) {
		const uint64_t *tag = &s->tags[i / PACKETS][i % PACKETS];
		memcpy(g->jobs[i]->dst + g->jobs[i]->len, tag, 8);
		memcpy(g->jobs[i]->dst + g->jobs[i]->len + 8, tag + PACKETS, 8);
	}
}

static void check_tags(const struct scratch *s, struct group *g)
{
	for (unsigned i = 0; i < g->n; i++) {
		struct wgf_aead_job *job = g->jobs[i];
		const uint64_t *tag = &s->tags[i / PACKETS][i % PACKETS];
		uint64_t low, high;
		memcpy(&low, job->src + job->len, 8);
		memcpy(&high, job->src + job->len + 8, 8);
		job->ok = ((low ^ tag[0]) | (high ^ tag[PACKETS])) == 0;
		if (job->ok)
			continue;
		g->refused |= 1u << i;
		if (job->len > 0)
			memset(job->dst, 0, job->len);
	}
}

INLINE void do_group(struct scratch *s, struct group *g, bool opening)
{
	unsigned job = 0;

	fill_window(s, g);
	if (opening) {
		pass(s, g, 0, 0, true);
		authenticate(s, g, false);
		check_tags(s, g);
		job = use_kept(s, g);
	}
	for (uint32_t at = opening ? PASS : 0; at < g->blocks; at += PASS)
		job = pass(s, g, at, job, false);
	if (!opening) {
		authenticate(s, g, true);
		store_tags(s, g);
	}
}

/* Longer texts have larger classes: up to 31 blocks one each, then by powers of two. */
INLINE unsigned length_class(const struct wgf_aead_job *job)
{
	uint32_t blocks = text_blocks(job);
	return blocks < 32 ? blocks : 63u - (unsigned)__builtin_clz(blocks);
}

/* order := the jobs by falling class. */
static void sort_jobs(struct wgf_aead_job *jobs, unsigned n, struct wgf_aead_job **order)
{
	uint8_t class[SORTED], places[64] = {0};
	unsigned before = 63, rises = 0;

	for (unsigned i = 0; i < n; i++) {
		order[i] = &jobs[i];
		const unsigned c = length_class(&jobs[i]);
		rises |= before - c;
		before = c;
		class[i] = (uint8_t)c;
	}
	if (rises <= 63)
		return;
	for (unsigned i = 0; i < n; i++)
		places[class[i]]++;
	for (unsigned i = 63, sum = 0; i < 64; i--) {
		unsigned here = places[i];
		places[i] = (uint8_t)sum;
		sum += here;
	}
	for (unsigned i = 0; i < n; i++)
		order[places[class[i]]++] = &jobs[i];
}

/* What the compiler spilled of limbs and blocks in the frames below the batch's, and the registers. */
static __attribute__((noinline)) void burn(void)
{
	uint8_t frames[SPILLED]; /* not vectors: those would be aligned, and a gap above them left */
	for (size_t i = 0; i < sizeof(frames); i += 64)
		_mm512_storeu_si512(frames + i, _mm512_setzero_si512());
	__asm__ volatile("" ::"r"(frames) : "memory");
	burn_registers();
}

/* Only what was used: wiping the rest would take a tenth of the time of a single packet. */
INLINE void wipe_scratch(struct scratch *s, bool several)
{
	const size_t begin = several ? 0 : offsetof(struct scratch, once);
	const size_t end = several ? offsetof(struct scratch, stream) : offsetof(struct scratch, mac[1]);

	wipe_vectors((__m512i *)s + begin / 64, (end - begin) / 64);
	if (__builtin_popcount(s->dirty) > 4)
		wipe_vectors(s->stream, 32 - (size_t)__builtin_clz(s->dirty));
	else
		for (; s->dirty != 0; s->dirty &= s->dirty - 1)
			wipe_vectors(&s->stream[__builtin_ctz(s->dirty)], 1);
}

INLINE void do_batch(struct wgf_aead_job *jobs, size_t n, bool opening)
{
	struct wgf_aead_job *order[SORTED];
	struct scratch s;
	struct group g;
	const bool several = n > 1;

	s.dirty = 0;
	while (n > 0) {
		unsigned sorted = n < SORTED ? (unsigned)n : SORTED;
		sort_jobs(jobs, sorted, order);
		for (unsigned done = 0; done < sorted; done += g.n) {
			g.n = sorted - done < GROUP ? sorted - done : GROUP;
			g.blocks = g.n;
			g.refused = 0;
			for (unsigned i = 0; i < g.n; i++) {
				const struct wgf_aead_job *job = g.jobs[i] = order[done + i];
				g.first[i] = g.blocks;
				g.counter[i] = job->counter;
				g.prefix[i] = job->prefix;
				g.len[i] = job->len;
				g.blocks += text_blocks(job);
			}
			do_group(&s, &g, opening);
		}
		jobs += sorted;
		n -= sorted;
	}
	wipe_scratch(&s, several);
	burn();
}

static void seal(struct wgf_aead_job *jobs, size_t n)
{
	if (n == 1 && jobs->len <= SINGLE) {
		do_single(jobs, false);
		return;
	}
	do_batch(jobs, n, false);
}

static void open(struct wgf_aead_job *jobs, size_t n)
{
	if (n == 1 && jobs->len <= SINGLE) {
		do_single(jobs, true);
		return;
	}
	do_batch(jobs, n, true);
}

#endif
