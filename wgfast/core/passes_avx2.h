/* The stream of ChaCha20 blocks of a chunk of packets, eight a pass, and what a pass does besides;
 * for aead_avx2.c alone, whose header says why. */
#ifndef WGF_PASSES_AVX2_H
#define WGF_PASSES_AVX2_H

#include "aead.h"
#include "chacha20_avx2.h"
#include "poly1305.h"
#include "poly1305_avx2.h"

#define CHUNK 64u           /* packets whose key blocks are made together */
#define RING 128u           /* blocks of key stream; more than CHUNK + LANES */
#define SHORT ((size_t)192) /* at most this long: vertical Poly1305 */

struct scratch {
	/* Nothing secret down to `parked`. */
	struct wgf_aead_job *jobs;
	size_t n;
	bool opening, one_key;
	bool making_keys;           /* key blocks come still */
	size_t making;              /* the packet of the next block to make */
	uint32_t next, last;        /* its block counter, and that of the packet's last block */
	size_t made, used;          /* blocks, since the beginning of the chunk */
	size_t applying, applied;   /* packet, and bytes of it, that the key stream has reached */
	size_t queued;              /* the first packet that no chain has taken */
	size_t chained[2];          /* the packets of the chains, or NONE */
	size_t absorbed[CHUNK];     /* bytes of text: whole blocks, or all */
	size_t brief[CHUNK], briefs; /* the packets for the vertical Poly1305 */

	vec parked[4];              /* rows 8 to 11: there are sixteen rows and sixteen registers */
	uint32_t state[16][LANES] __attribute__((aligned(32)));
	struct lanes lanes;
	struct running chain[2];
	uint64_t tags[2][LANES] __attribute__((aligned(32))); /* low words, high words */
	uint8_t tail[LANES][32];    /* the last block of text, padded, and the lengths */
	struct wgf_poly1305 mac[CHUNK];
	vec ring[RING * BLOCK / sizeof(vec)];
};

/* The eight blocks of s->state, in the order of their bytes, to the ring at `out`. The chains absorb
 * what they have ready, both of them `both` times two blocks, then the first `first` times three. */
KERNEL void pass(struct scratch *s, vec *out, size_t both, size_t first)
{
	vec a0 = row(s->state[0]), a1 = row(s->state[1]), a2 = row(s->state[2]), a3 = row(s->state[3]);
	vec b0 = row(s->state[4]), b1 = row(s->state[5]), b2 = row(s->state[6]), b3 = row(s->state[7]);
	vec c0 = row(s->state[8]), c1 = row(s->state[9]);
	vec d0 = row(s->state[12]), d1 = row(s->state[13]), d2 = row(s->state[14]), d3 = row(s->state[15]);
	const uint8_t(*by)[sizeof(vec)] = rotate_by;
	size_t round = 0;

	s->parked[2] = row(s->state[10]);
	s->parked[3] = row(s->state[11]);
	if (first + both > 0) {
		struct running x = s->chain[0], y = s->chain[1];
		for (; round < both; round++)
			DOUBLE_ROUND(absorb(&x), absorb(&y), absorb(&x), absorb(&y));
		s->chain[1] = y;
		for (; round < both + first; round++)
			DOUBLE_ROUND(absorb(&x), absorb(&x), absorb(&x), (void)0);
		s->chain[0] = x;
	}
	for (; round < 10; round++)
		DOUBLE_ROUND((void)0, (void)0, (void)0, (void)0);

	vec x[8] = {a0, a1, a2, a3, b0, b1, b2, b3};
	s->parked[0] = d0; /* out of the way of the first transposition */
	s->parked[1] = d1;
	put_half(out, x, (const uint32_t(*)[LANES])s->state);
	vec y[8] = {c0, c1, s->parked[2], s->parked[3], s->parked[0], s->parked[1], d2, d3};
	put_half(out + 1, y, (const uint32_t(*)[LANES])s->state + 8);
}

/* The block after next: of this packet, of the next one that has data, or, at the end of all, more of
 * the last one, which nobody uses. */
INLINE void advance(struct scratch *s)
{
	if (s->next++ < s->last)
		return;
	do {
		if (++s->making == s->n) {
			if (!s->making_keys) {
				s->making = s->n - 1;
				return;
			}
			s->making_keys = false;
			s->making = 0;
		}
		s->last = s->making_keys ? 0 : (uint32_t)((s->jobs[s->making].len + BLOCK - 1) / BLOCK);
	} while (!s->making_keys && s->last == 0 && s->making + 1 < s->n);
	s->next = s->making_keys ? 0 : 1;
}

/* The state of the next eight blocks, all of one packet where it has so many. */
KERNEL void set_state(struct scratch *s)
{
	const struct wgf_aead_job *job = &s->jobs[s->making];
	const uint8_t *keys[LANES];

	if (!s->making_keys && s->next + LANES - 1 <= s->last) {
		const vec counters = _mm256_add_epi32(_mm256_set1_epi32((int)s->next),
						      _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
		if (!s->one_key)
			set_one_key(s->state, job->key);
		_mm256_store_si256((vec *)s->state[12], counters);
		_mm256_store_si256((vec *)s->state[13], _mm256_set1_epi32((int)job->prefix));
		_mm256_store_si256((vec *)s->state[14], _mm256_set1_epi32((int)job->counter));
		_mm256_store_si256((vec *)s->state[15], _mm256_set1_epi32((int)(job->counter >> 32)));
		s->next += LANES - 1;
		advance(s);
		return;
	}
	for (size_t i = 0; i < LANES; i++) {
		job = &s->jobs[s->making];
		keys[i] = job->key;
		s->state[12][i] = s->next;
		s->state[13][i] = job->prefix;
		s->state[14][i] = (uint32_t)job->counter;
		s->state[15][i] = (uint32_t)(job->counter >> 32);
		advance(s);
	}
	if (!s->one_key)
		set_keys(s->state, keys);
}

#endif
