/* Poly1305 of eight packets at once, one in each 64-bit lane, and of eight blocks of one packet.
 *
 * The including file brings the arithmetic: struct limbs, eight numbers modulo 2^130 - 5, struct factor,
 * eight numbers to multiply with, and struct products, sums of products that were not carried. Across
 * packets nothing has to be prepared but r^2, with which two blocks share a carrying (274 ticks for a
 * packet of 1420 bytes became 240), and every lane works while its packet has blocks: packets of like
 * length cost the least there is. A packet much longer than its neighbours is first shortened across
 * blocks, with powers of r. Two vectors of eight side by side were slower: the factors of one
 * fill the registers. */
#ifndef WGF_POLY1305_AVX512_H
#define WGF_POLY1305_AVX512_H

#define PACKETS 8u
#define QUAD ((size_t)64)   /* bytes a lane reads at once where texts end: four blocks */
#define ALONG ((size_t)128) /* bytes of eight blocks of one packet */

/* Eight packets; secret. */
struct mac {
	struct limbs h;  /* the accumulators, carried */
	struct factor r;
};

/* What they authenticate now; public. Lanes without a packet have no bytes. */
struct texts {
	const uint8_t *first[PACKETS];
	size_t size[PACKETS];
	size_t shortest, longest;
};

INLINE struct limbs limbs_blend(__mmask8 mask, struct limbs a, struct limbs b)
{
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		a.v[i] = _mm512_mask_mov_epi64(a.v[i], mask, b.v[i]);
	return a;
}

INLINE struct limbs limbs_multiply(struct limbs a, const struct factor *f)
{
	struct products p = products_zero();
	products_add(&p, a, f);
	return products_carry(&p);
}

/* a f + b g, for one carrying. */
INLINE struct limbs limbs_multiply_two(struct limbs a, const struct factor *f, struct limbs b, const struct factor *g)
{
	struct products p = products_zero();
	products_add(&p, b, g);
	products_add(&p, a, f);
	return products_carry(&p);
}

/* The words of eight lanes' block: (h + block) r. */
INLINE struct limbs absorb_block(struct limbs h, const struct factor *r, __m512i low, __m512i high)
{
	return limbs_multiply(limbs_add(h, limbs_split(low, high)), r);
}

static void measure_texts(struct texts *t)
{
	t->shortest = SIZE_MAX;
	t->longest = 0;
	for (unsigned i = 0; i < PACKETS; i++) {
		t->longest = t->size[i] > t->longest ? t->size[i] : t->longest;
		t->shortest = t->size[i] < t->shortest ? t->size[i] : t->shortest;
	}
}

/* rows[i]: four blocks of packet i. low[k], high[k] := the words of every packet's block k. */
INLINE void blocks_to_lanes(const __m512i rows[PACKETS], __m512i low[4], __m512i high[4])
{
	UNROLLED for (unsigned i = 0; i < 4; i++) {
		low[i] = _mm512_unpacklo_epi64(rows[2 * i], rows[2 * i + 1]);
		high[i] = _mm512_unpackhi_epi64(rows[2 * i], rows[2 * i + 1]);
	}
	transpose_pieces(low);
	transpose_pieces(high);
}

/* The words of every lane's block at p + at. Merging loads cost the vector units six instructions for
 * eight packets and no registers; transposing whole quads needs less but spills. */
INLINE void load_blocks(const uint8_t *const p[PACKETS], size_t at, __m512i *low, __m512i *high)
{
	__m512i half[2];

	UNROLLED for (unsigned i = 0; i < 2; i++) {
		half[i] = _mm512_castsi128_si512(_mm_loadu_si128((const __m128i *)(p[i] + at)));
		half[i] = _mm512_mask_broadcast_i64x2(half[i], 0x0c, _mm_loadu_si128((const __m128i *)(p[2 + i] + at)));
		half[i] = _mm512_mask_broadcast_i64x2(half[i], 0x30, _mm_loadu_si128((const __m128i *)(p[4 + i] + at)));
		half[i] = _mm512_mask_broadcast_i64x2(half[i], 0xc0, _mm_loadu_si128((const __m128i *)(p[6 + i] + at)));
	}
	*low = _mm512_unpacklo_epi64(half[0], half[1]);
	*high = _mm512_unpackhi_epi64(half[0], half[1]);
}

INLINE struct factor limbs_square(const struct factor *r)
{
	struct limbs a;
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		a.v[i] = r->r[i];
	return limbs_factor(limbs_multiply(a, r));
}

/* Four blocks of every lane at offset at, of texts that may end there: what is missing of a block is
 * zeros, and a lane that has no more stays. */
INLINE void absorb_ends(struct mac *m, const struct texts *t, size_t at)
{
	const __m512i size = _mm512_loadu_si512(t->size);
	__m512i rows[PACKETS], low[4], high[4];

	for (unsigned i = 0; i < PACKETS; i++) {
		size_t left = t->size[i] > at ? t->size[i] - at : 0;
		const uint8_t *p = left > 0 ? t->first[i] + at : t->first[i];
		unsigned bytes = left < QUAD ? (unsigned)left : (unsigned)QUAD;
		rows[i] = _mm512_maskz_loadu_epi8(_bzhi_u64(~UINT64_C(0), bytes), p);
	}
	blocks_to_lanes(rows, low, high);
	for (unsigned k = 0; k < 4 && at + 16 * k < t->longest; k++) {
		const __m512i here = _mm512_set1_epi64((long long)(at + 16 * k));
		m->h = limbs_blend(_mm512_cmpgt_epu64_mask(size, here), m->h,
				   absorb_block(m->h, &m->r, low[k], high[k]));
	}
}

/* Eight texts: two blocks at a time, (h + first) r^2 + second r, while all of them have two and it is
 * worth the square. */
static __attribute__((noinline)) void absorb_eight(struct mac *m, const struct texts *t)
{
	const struct factor r = m->r;
	struct limbs h = m->h;
	__m512i low, high;
	size_t at = 0;

	if (t->shortest >= 128) {
		const struct factor square = limbs_square(&r);
		for (; at + 32 <= t->shortest; at += 32) {
			load_blocks(t->first, at, &low, &high);
			h = limbs_add(h, limbs_split(low, high));
			load_blocks(t->first, at + 16, &low, &high);
			h = limbs_multiply_two(h, &square, limbs_split(low, high), &r);
		}
	}
	for (; at + 16 <= t->shortest; at += 16) {
		load_blocks(t->first, at, &low, &high);
		h = absorb_block(h, &r, low, high);
	}
	m->h = h;
	for (; at < t->longest; at += QUAD)
		absorb_ends(m, t, at);
}

/* Lane 0 in all lanes. */
INLINE struct limbs limbs_spread(struct limbs a)
{
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		a.v[i] = _mm512_broadcastq_epi64(_mm512_castsi512_si128(a.v[i]));
	return a;
}

/* Sums of all lanes in lane 0. Eight carried limbs: three bits more than one has. */
INLINE struct limbs limbs_sum(struct limbs a)
{
	UNROLLED for (unsigned i = 0; i < LIMBS; i++) {
		a.v[i] = _mm512_add_epi64(a.v[i], _mm512_shuffle_i64x2(a.v[i], a.v[i], 0x4e));
		a.v[i] = _mm512_add_epi64(a.v[i], _mm512_shuffle_i64x2(a.v[i], a.v[i], 0xb1));
		a.v[i] = _mm512_add_epi64(a.v[i], _mm512_unpackhi_epi64(a.v[i], a.v[i]));
	}
	return a;
}

/* Eight blocks of one packet stand in the order 0 4 1 5 2 6 3 7, which two shuffles give. */
INLINE struct limbs split_eight(__m512i a, __m512i b)
{
	return limbs_split(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
}

INLINE struct limbs load_eight(const uint8_t *p)
{
	return split_eight(_mm512_loadu_si512(p), _mm512_loadu_si512(p + 64));
}

/* Powers of r for eight blocks of one packet. */
struct powers {
	struct factor each;  /* 8 4 7 3 6 2 5 1, in the order of the blocks */
	struct factor eight; /* r^8 in all lanes */
};

INLINE void find_powers(struct powers *powers, const struct mac *m, unsigned lane)
{
	const __m512i choose = _mm512_set1_epi64((long long)lane);
	struct limbs r, x, y;
	struct factor f;

	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		r.v[i] = _mm512_permutexvar_epi64(choose, m->r.r[i]);
	f = limbs_factor(r);
	y = limbs_multiply(r, &f);                         /* 2 in all lanes */
	f = limbs_factor(y);
	x = limbs_blend(0x33, r, y);                       /* 2 2 1 1 2 2 1 1 */
	y = limbs_multiply(x, &f);                         /* 4 4 3 3 4 4 3 3 */
	x = limbs_blend(0x0f, x, y);                       /* 4 4 3 3 2 2 1 1 */
	f = limbs_factor(limbs_spread(y));
	y = limbs_multiply(x, &f);                         /* 8 8 7 7 6 6 5 5 */
	powers->each = limbs_factor(limbs_blend(0x55, x, y));
	powers->eight = limbs_factor(limbs_spread(y));
}

/* h r^n + n bytes at p; a multiple of 128. */
INLINE struct limbs absorb_eights(struct limbs h, const struct factor *eight, const uint8_t *p, size_t n)
{
	if (n >= 2 * ALONG) { /* (h r^8 + sixteen's first eight) r^8 + second eight, for one carrying */
		struct limbs a;
		UNROLLED for (unsigned i = 0; i < LIMBS; i++)
			a.v[i] = eight->r[i];
		const struct factor sixteen = limbs_factor(limbs_multiply(a, eight));
		for (; n >= 2 * ALONG; p += 2 * ALONG, n -= 2 * ALONG)
			h = limbs_add(limbs_multiply_two(h, &sixteen, load_eight(p), eight), load_eight(p + ALONG));
	}
	if (n > 0)
		h = limbs_add(limbs_multiply(h, eight), load_eight(p));
	return h;
}

/* The sum of eight blocks' parts becomes the lane's accumulator, its limbs eight times as large as
 * those of a product. */
INLINE void gather_eight(struct mac *m, unsigned lane, struct limbs h, const struct powers *powers)
{
	h = limbs_sum(limbs_multiply(h, &powers->each));
	m->h = limbs_blend((__mmask8)(1u << lane), m->h, limbs_spread(h));
}

/* The first n bytes at p, a multiple of 128 and not 0, into one lane's accumulator. */
static __attribute__((noinline)) void absorb_along(struct mac *m, struct powers *powers, unsigned lane,
						   const uint8_t *p, size_t n)
{
	struct limbs h;

	find_powers(powers, m, lane);
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		h.v[i] = _mm512_maskz_permutexvar_epi64(1, _mm512_set1_epi64((long long)lane), m->h.v[i]);
	h = limbs_add(h, load_eight(p));
	h = absorb_eights(h, &powers->eight, p + ALONG, n - ALONG);
	gather_eight(m, lane, h, powers);
	m->h = limbs_carry(m->h);
}

/* All n bytes at p, at least 128, and the block of lengths: the first eight may be fewer, with nothing
 * before them. Only limbs_join may follow, which carries. */
static __attribute__((noinline)) void absorb_whole(struct mac *m, struct powers *powers, unsigned lane,
						   const uint8_t *p, size_t n, __m128i lengths)
{
	const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
	const unsigned missing = 7 - (unsigned)((n + 15) / 16 % 8);
	const uint8_t *before = (const uint8_t *)((uintptr_t)p - 16 * missing);
	const __mmask16 there = (__mmask16)(0xffffu << 2 * missing);
	const __m512i a = _mm512_maskz_loadu_epi64((__mmask8)there, before);
	const __m512i b = _mm512_maskz_loadu_epi64((__mmask8)(there >> 8), (const uint8_t *)((uintptr_t)before + 64));
	const __m512i first = _mm512_set1_epi64(missing);
	struct limbs h;

	find_powers(powers, m, lane);
	h = limbs_of_words(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
	h.v[LIMBS - 1] = _mm512_mask_add_epi64(h.v[LIMBS - 1], _mm512_cmpge_epu64_mask(order, first),
					       h.v[LIMBS - 1], _mm512_set1_epi64(1LL << BIT128));
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		h.v[i] = _mm512_mask_add_epi64(h.v[i], _mm512_cmpeq_epu64_mask(order, first), h.v[i],
					       _mm512_permutexvar_epi64(_mm512_set1_epi64((long long)lane), m->h.v[i]));
	p += ALONG - 16 * missing;
	n -= ALONG - 16 * missing;
	const size_t middle = (n + 15) / ALONG * ALONG; /* the last eight are seven and the lengths */
	h = absorb_eights(h, &powers->eight, p, middle);
	p += middle;
	n -= middle;
	__m512i last = _mm512_maskz_loadu_epi8(_bzhi_u64(~UINT64_C(0), (unsigned)(n - 64)), p + 64);
	last = _mm512_inserti64x2(last, lengths, 3);
	h = limbs_add(limbs_multiply(h, &powers->eight), split_eight(_mm512_loadu_si512(p), last));
	gather_eight(m, lane, h, powers);
}

#endif
