/* Poly1305 (RFC 8439 section 2.5) for aead_avx2.c alone, in two shapes: one packet on the scalar
 * multiplier, in radix 2^64 as in poly1305.c, to stand between the rounds of ChaCha20; and four packets
 * in the lanes of a vector, in radix 2^26. */
#ifndef WGF_POLY1305_AVX2_H
#define WGF_POLY1305_AVX2_H

#include "aead.h"
#include "chacha20_avx2.h"

#define ALL 0xffu /* lanes */

typedef unsigned __int128 wide;

/* A packet that is being authenticated on the scalar multiplier; radix 2^64. */
struct running {
	uint64_t h[3], r0, r1, s1;
	const uint8_t *p; /* the next block */
};

/* Eight bytes at any address. */
struct unaligned {
	uint64_t word;
} __attribute__((packed, may_alias));

/* h := h + block, with the bit above it. This and the two below are all that is written in assembly:
 * of sums in two or three words GCC 12 makes code that takes a packet of 1,420 bytes 15 percent longer. */
INLINE void add_block(uint64_t h[3], const uint8_t *p)
{
	__asm__("addq %3, %0\n\tadcq %4, %1\n\tadcq $1, %2"
		: "+r"(h[0]), "+r"(h[1]), "+r"(h[2])
		: "m"(*(const struct unaligned *)p), "m"(*(const struct unaligned *)(p + 8))
		: "cc");
}

INLINE void add_small(uint64_t h[3], uint64_t small)
{
	__asm__("addq %3, %0\n\tadcq $0, %1\n\tadcq $0, %2"
		: "+r"(h[0]), "+r"(h[1]), "+r"(h[2])
		: "r"(small)
		: "cc");
}

INLINE void add_two(uint64_t *low, uint64_t *high, wide x)
{
	__asm__("addq %2, %0\n\tadcq %3, %1"
		: "+r"(*low), "+r"(*high)
		: "rm"((uint64_t)x), "rme"((uint64_t)(x >> 64))
		: "cc");
}

/* h := (h + block) r, as in poly1305.c, where the bounds are derived: h[2] <= 4 before and after. */
INLINE void absorb(struct running *c)
{
	/* h[2] <= 4 + 1, the block's own bit 128, + 1, the carry: at most 6. */
	add_block(c->h, c->p);
	c->p += 16;
	const wide p0 = (wide)c->h[0] * c->r0, p1 = (wide)c->h[1] * c->s1;
	const wide q0 = (wide)c->h[0] * c->r1, q1 = (wide)c->h[1] * c->r0;
	uint64_t d0 = (uint64_t)p0, up = (uint64_t)(p0 >> 64);
	uint64_t d1 = (uint64_t)q0, d2 = (uint64_t)(q0 >> 64);
	const uint64_t t1 = c->h[2] * c->s1, t2 = c->h[2] * c->r0;

	/* r0, r1 < 2^60 and s1 < 5/4 2^60, so p0 + p1 < 9/4 2^124, of which up < 9/4 2^60 is passed on;
	 * t1, t2 <= 6 (5/4) 2^60. d1 and d2 together: q0 + q1 < 2 2^124, t1 + 2^64 t2 < 6 2^124 + 2^63 and
	 * up: d2 < 9 2^60; five times its part above 2^130 is less than 5/4 9 2^60 < 2^64. */
	add_two(&d0, &up, p1);
	add_two(&d1, &d2, q1);
	add_two(&d1, &d2, (wide)t2 << 64 | t1);
	add_two(&d1, &d2, up);
	c->h[0] = d0;
	c->h[1] = d1;
	c->h[2] = d2 & 3;
	add_small(c->h, (d2 >> 2) + (d2 & ~UINT64_C(3)));
}

KERNEL void absorb_blocks(struct running *chain, size_t blocks)
{
	struct running c = *chain;
	while (blocks-- > 0)
		absorb(&c);
	*chain = c;
}

/* h < 2^130 + 2^116 to the tag, in two words. That is less than twice the modulus, so one subtraction
 * makes it unique. Inlined: a call would cost a short packet more than one of its blocks. */
INLINE void reduce(uint64_t h[3], const uint64_t pad[2])
{
	uint64_t g[3] = {h[0], h[1], h[2]};

	/* With g = h + 5, h is at least the modulus exactly when g has reached 2^130; g[2] <= 5. */
	add_small(g, 5);
	const uint64_t take_g = 0 - (g[2] >> 2);
	/* The tag is h + pad modulo 2^128: h[2] and the last carry drop out. */
	h[0] ^= (h[0] ^ g[0]) & take_g;
	__asm__("" : "+r"(h[0])); /* or GCC's vectorizer (-O3) joins this line and the next, and waits */
	h[1] ^= (h[1] ^ g[1]) & take_g;
	h[1] += pad[1];
	add_small(h, pad[0]);
}

/* Four blocks in limbs of 26 bits. */
INLINE void split(vec m[5], vec low, vec high)
{
	const vec mask = _mm256_set1_epi64x(0x3ffffff);
	m[0] = _mm256_and_si256(low, mask);
	m[1] = _mm256_and_si256(_mm256_srli_epi64(low, 26), mask);
	m[2] = _mm256_and_si256(_mm256_or_si256(_mm256_srli_epi64(low, 52), _mm256_slli_epi64(high, 12)), mask);
	m[3] = _mm256_and_si256(_mm256_srli_epi64(high, 14), mask);
	m[4] = _mm256_srli_epi64(high, 40);
}

INLINE vec two_blocks(const uint8_t *low, const uint8_t *high)
{
	return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)low)),
				       _mm_loadu_si128((const __m128i *)high), 1);
}

/* to += from >> 26, which stays behind without it. */
INLINE void carry(vec *to, vec *from)
{
	*to = _mm256_add_epi64(*to, _mm256_srli_epi64(*from, 26));
	*from = _mm256_and_si256(*from, _mm256_set1_epi64x(0x3ffffff));
}

/* h := (h + block) r in four lanes. `even` has the blocks of lanes 0 and 2; `pad` is the bit above each
 * block, or 0 for a lane that has not begun: it stays 0. r has the limbs, then five times them. */
INLINE void absorb_four(vec h[5], const vec r[10], vec even, vec odd, vec pad)
{
	vec m[5], d[5];

	split(m, _mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));
	m[4] = _mm256_or_si256(m[4], pad);
	/* h[i] < 2^26 + 2^11 before (see below), m[i] < 2^26: the sums are less than 2^27 + 2^11. */
	for (size_t i = 0; i < 5; i++)
		m[i] = _mm256_add_epi64(m[i], h[i]);
	/* r[i] < 2^26 and five times that, so each d[i] < 5 (2^27 + 2^11) 5 2^26 < 2^58. The empty asm
	 * keeps the compiler from copying r to the stack, and from there to registers. */
	__asm__("" : "+r"(r));
	for (size_t i = 0; i < 5; i++)
		d[i] = _mm256_mul_epu32(m[0], r[i]);
	for (size_t k = 1; k < 5; k++)
		for (size_t i = 0; i < 5; i++)
			d[i] = _mm256_add_epi64(d[i], _mm256_mul_epu32(m[k], r[k <= i ? i - k : 10 + i - k]));
	/* Two chains of carries, each less than 2^32. d[4] passes on less than 2^32 to d[0], times five,
	 * and keeps 26 bits; then d[3] is less than 2^26 + 2^33 and passes on less than 2^8, d[0] is less
	 * than 2^26 + 5 2^33 and passes on less than 2^10: d[1], d[4] < 2^26 + 2^11, the others < 2^26. */
	carry(&d[1], &d[0]);
	carry(&d[4], &d[3]);
	carry(&d[2], &d[1]);
	vec over = _mm256_srli_epi64(d[4], 26);
	d[4] = _mm256_and_si256(d[4], _mm256_set1_epi64x(0x3ffffff));
	d[0] = _mm256_add_epi64(d[0], _mm256_add_epi64(over, _mm256_slli_epi64(over, 2)));
	carry(&d[3], &d[2]);
	carry(&d[1], &d[0]);
	carry(&d[4], &d[3]);
	for (size_t i = 0; i < 5; i++)
		h[i] = d[i];
}

/* Written out, because GCC makes of a loop a copy in pieces of 16 bytes, which the loads of 32 that
 * follow have to wait for. */
INLINE void load_limbs(vec h[5], const uint64_t from[5][4])
{
	h[0] = _mm256_load_si256((const vec *)from[0]);
	h[1] = _mm256_load_si256((const vec *)from[1]);
	h[2] = _mm256_load_si256((const vec *)from[2]);
	h[3] = _mm256_load_si256((const vec *)from[3]);
	h[4] = _mm256_load_si256((const vec *)from[4]);
}

INLINE void store_limbs(uint64_t to[5][4], const vec h[5])
{
	_mm256_store_si256((vec *)to[0], h[0]);
	_mm256_store_si256((vec *)to[1], h[1]);
	_mm256_store_si256((vec *)to[2], h[2]);
	_mm256_store_si256((vec *)to[3], h[3]);
	_mm256_store_si256((vec *)to[4], h[4]);
}

/* The bit above a block, for the lanes whose bits are set. */
INLINE vec pad_of(unsigned begun, vec lanes)
{
	const vec ours = _mm256_and_si256(_mm256_set1_epi64x(begun), lanes);
	return _mm256_and_si256(_mm256_cmpeq_epi64(ours, lanes), _mm256_set1_epi64x(1 << 24));
}

/* Eight packets, in two vectors of four for each limb. */
struct lanes {
	vec r[2][10]; /* the limbs of r, then five times them */
	uint64_t h[2][5][4] __attribute__((aligned(32)));
};

/* The next `count` blocks of all lanes, from p[i] on; `begun` says which lanes take part. */
KERNEL void absorb_lanes(struct lanes *l, const uint8_t *const p[LANES], unsigned begun, size_t count)
{
	const vec pad0 = pad_of(begun, _mm256_setr_epi64x(1, 2, 4, 8));
	const vec pad1 = pad_of(begun, _mm256_setr_epi64x(16, 32, 64, 128));
	const uint8_t *p0 = p[0], *p1 = p[1], *p2 = p[2], *p3 = p[3];
	const uint8_t *p4 = p[4], *p5 = p[5], *p6 = p[6], *p7 = p[7];
	vec h0[5], h1[5];

	load_limbs(h0, (const uint64_t(*)[4])l->h[0]);
	load_limbs(h1, (const uint64_t(*)[4])l->h[1]);
	for (size_t at = 0; at < 16 * count; at += 16) {
		absorb_four(h0, l->r[0], two_blocks(p0 + at, p2 + at), two_blocks(p1 + at, p3 + at), pad0);
		absorb_four(h1, l->r[1], two_blocks(p4 + at, p6 + at), two_blocks(p5 + at, p7 + at), pad1);
	}
	store_limbs(l->h[0], h0);
	store_limbs(l->h[1], h1);
}

/* The limbs of r, from where each stands, and accumulators of zero. */
INLINE void begin_lanes(struct lanes *l, const uint8_t *const r[LANES])
{
	for (size_t v = 0; v < 2; v++) {
		vec even = two_blocks(r[4 * v], r[4 * v + 2]), odd = two_blocks(r[4 * v + 1], r[4 * v + 3]);
		split(l->r[v], _mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd));
		for (size_t i = 0; i < 5; i++) {
			l->r[v][5 + i] = _mm256_add_epi64(l->r[v][i], _mm256_slli_epi64(l->r[v][i], 2));
			_mm256_store_si256((vec *)l->h[v][i], _mm256_setzero_si256());
		}
	}
}

/* Limbs as absorb_four leaves them become less than 2^26. The first time h[1] may end at 2^26, when five
 * times what h[4] passed on carries through h[0]; then h[2] to h[4] are small and the second time nothing
 * goes round. */
INLINE void carry_all(vec h[5])
{
	for (size_t twice = 0; twice < 2; twice++) {
		carry(&h[2], &h[1]);
		carry(&h[3], &h[2]);
		carry(&h[4], &h[3]);
		vec over = _mm256_srli_epi64(h[4], 26);
		h[4] = _mm256_and_si256(h[4], _mm256_set1_epi64x(0x3ffffff));
		h[0] = _mm256_add_epi64(h[0], _mm256_add_epi64(over, _mm256_slli_epi64(over, 2)));
		carry(&h[1], &h[0]);
	}
}

/* The tags of four lanes, their low words and their high ones; pad likewise. */
INLINE void tags_of(const uint64_t limbs[5][4], vec pad_low, vec pad_high, vec *low, vec *high)
{
	const vec sign = _mm256_set1_epi64x(INT64_MIN);
	vec h[5], g[5];

	load_limbs(h, limbs);
	carry_all(h);
	/* h < 2^130: it is at least the modulus exactly when g = h + 5 reaches 2^130. */
	for (size_t i = 0; i < 5; i++)
		g[i] = h[i];
	g[0] = _mm256_add_epi64(g[0], _mm256_set1_epi64x(5));
	for (size_t i = 0; i < 4; i++)
		carry(&g[i + 1], &g[i]);
	const vec take = _mm256_cmpgt_epi64(g[4], _mm256_set1_epi64x(0x3ffffff));
	for (size_t i = 0; i < 5; i++)
		h[i] = _mm256_blendv_epi8(h[i], g[i], take);
	/* What of h[4] and the sums is above 2^128 drops out. */
	*low = _mm256_or_si256(h[0], _mm256_or_si256(_mm256_slli_epi64(h[1], 26), _mm256_slli_epi64(h[2], 52)));
	*high = _mm256_or_si256(_mm256_srli_epi64(h[2], 12),
				_mm256_or_si256(_mm256_slli_epi64(h[3], 14), _mm256_slli_epi64(h[4], 40)));
	*low = _mm256_add_epi64(*low, pad_low);
	const vec carried = _mm256_cmpgt_epi64(_mm256_xor_si256(pad_low, sign), _mm256_xor_si256(*low, sign));
	*high = _mm256_sub_epi64(_mm256_add_epi64(*high, pad_high), carried);
}

/* The tags of all lanes, the low words, then the high ones; pad[i] stands where 16 bytes of it do. */
INLINE void finish_lanes(const struct lanes *l, const uint8_t *const pad[LANES], uint64_t tags[2][LANES])
{
	for (size_t v = 0; v < 2; v++) {
		vec even = two_blocks(pad[4 * v], pad[4 * v + 2]), odd = two_blocks(pad[4 * v + 1], pad[4 * v + 3]);
		vec low, high;
		tags_of((const uint64_t(*)[4])l->h[v], _mm256_unpacklo_epi64(even, odd), _mm256_unpackhi_epi64(even, odd),
			&low, &high);
		_mm256_store_si256((vec *)&tags[0][4 * v], low);
		_mm256_store_si256((vec *)&tags[1][4 * v], high);
	}
}

/* The lengths at tail[16]. */
INLINE void set_lengths(uint8_t tail[32], const struct wgf_aead_job *job)
{
	/* In one piece, as it will be loaded. */
	_mm_storeu_si128((__m128i *)(tail + 16), _mm_set_epi64x((long long)job->len, (long long)job->ad_len));
}

/* The last, padded block of text at tail[0] and the lengths at tail[16]. All but them are whole
 * blocks: their number is returned. */
INLINE size_t set_tail(uint8_t tail[32], const struct wgf_aead_job *job, const uint8_t *text)
{
	const size_t whole = job->len > 0 ? (job->len - 1) / 16 : 0;
	if (job->len % 16 == 0 && job->len > 0) {
		memcpy(tail, text + 16 * whole, 16);
	} else {
		memset(tail, 0, 16);
		if (job->len > 0)
			memcpy(tail, text + 16 * whole, job->len - 16 * whole);
	}
	set_lengths(tail, job);
	return whole;
}

#endif
