/* ChaCha20-Poly1305 with AVX-512 and its 52-bit multiplications (Ice Lake, Zen 4 and later): Poly1305's
 * arithmetic; the rest is in aead_avx512.h.
 *
 * Radix 2^44: three limbs, 18 multiply-and-adds for eight blocks where 26-bit limbs need 25
 * multiplications and as many additions: 981 instead of 1184 ticks for a packet of 1420 bytes in a batch.
 * The high half of a product has the weight 2^52, eight bits above the next limb, hence the shifts. */
#include "aead.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "bytes.h"
#include "poly1305.h"

static bool supported(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("avx512ifma");
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,bmi2"))), \
			     apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx512ifma,bmi2")
#endif

#include "chacha20_avx512.h"

#define LIMBS 3
#define BIT128 40 /* where bit 128 stands in the last limb */

struct limbs {
	__m512i v[LIMBS]; /* weights 1, 2^44, 2^88 */
};

struct factor {
	__m512i r[LIMBS];
	__m512i s[LIMBS]; /* s[1], s[2]: 20 r, for what reaches 2^132 = 4 2^130 = 20; s[0] is not used */
};

#define MASK(bits) _mm512_set1_epi64((1LL << (bits)) - 1)

/* Numbers of two words: below 2^44, 2^44, 2^40. */
INLINE struct limbs limbs_of_words(__m512i low, __m512i high)
{
	struct limbs a;
	a.v[0] = _mm512_and_si512(low, MASK(44));
	a.v[1] = _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(low, 44), _mm512_slli_epi64(high, 20)), MASK(44));
	a.v[2] = _mm512_srli_epi64(high, 24);
	return a;
}

/* A block with its bit 128. */
INLINE struct limbs limbs_split(__m512i low, __m512i high)
{
	struct limbs a = limbs_of_words(low, high);
	a.v[2] = _mm512_or_si512(a.v[2], _mm512_set1_epi64(1LL << BIT128));
	return a;
}

INLINE struct limbs limbs_add(struct limbs a, struct limbs b)
{
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		a.v[i] = _mm512_add_epi64(a.v[i], b.v[i]);
	return a;
}

INLINE struct factor limbs_factor(struct limbs a)
{
	struct factor f;
	UNROLLED for (unsigned i = 0; i < LIMBS; i++) {
		f.r[i] = a.v[i];
		f.s[i] = _mm512_add_epi64(_mm512_slli_epi64(a.v[i], 4), _mm512_slli_epi64(a.v[i], 2));
	}
	return f;
}

/* Products not carried yet: low halves of weights 1, 2^44, 2^88, high halves 2^52 above those. */
struct products {
	__m512i low[LIMBS], high[LIMBS];
};

/* low, high += a b */
INLINE void multiply_add(__m512i *low, __m512i *high, __m512i a, __m512i b)
{
	*high = _mm512_madd52hi_epu64(*high, a, b);
	*low = _mm512_madd52lo_epu64(*low, a, b);
}

INLINE void products_add(struct products *p, struct limbs h, const struct factor *f)
{
	multiply_add(&p->low[0], &p->high[0], h.v[0], f->r[0]);
	multiply_add(&p->low[1], &p->high[1], h.v[0], f->r[1]);
	multiply_add(&p->low[2], &p->high[2], h.v[0], f->r[2]);
	multiply_add(&p->low[0], &p->high[0], h.v[1], f->s[2]);
	multiply_add(&p->low[1], &p->high[1], h.v[1], f->r[0]);
	multiply_add(&p->low[2], &p->high[2], h.v[1], f->r[1]);
	multiply_add(&p->low[0], &p->high[0], h.v[2], f->s[1]);
	multiply_add(&p->low[1], &p->high[1], h.v[2], f->s[2]);
	multiply_add(&p->low[2], &p->high[2], h.v[2], f->r[0]);
}

INLINE struct products products_zero(void)
{
	struct products p;
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		p.low[i] = p.high[i] = _mm512_setzero_si512();
	return p;
}

/* Of at most two products: of an accumulator with a block added, below 2^45.1, 2^45.1, 2^42.7, and of a
 * block, below 2^44, 2^44, 2^41, with factors below 2^44.1, 2^44.1, 2^42.1, whose s[1] and s[2] are below
 * 2^48.5 and 2^46.5. Six low halves are below 2^54.6; high[0] < 2^41.1, high[1] < 2^39.4, high[2] < 2^38.3.
 * So l1, l2 < 2^54.7, top < 2^48.4 and five times top < 2^50.8: a multiplication of 52 bits takes top,
 * and its low half is all of it. The limbs end below 2^44, 2^44 + 2^11, 2^42 + 2^11. */
INLINE struct limbs products_carry(const struct products *p)
{
	const __m512i l0 = p->low[0];
	const __m512i l1 = _mm512_add_epi64(p->low[1], _mm512_slli_epi64(p->high[0], 8));
	const __m512i l2 = _mm512_add_epi64(p->low[2], _mm512_slli_epi64(p->high[1], 8));
	const __m512i top = _mm512_add_epi64(_mm512_srli_epi64(l2, 42), _mm512_slli_epi64(p->high[2], 10));
	struct limbs h;

	h.v[0] = _mm512_madd52lo_epu64(_mm512_and_si512(l0, MASK(44)), top, _mm512_set1_epi64(5));
	h.v[1] = _mm512_add_epi64(_mm512_and_si512(l1, MASK(44)), _mm512_srli_epi64(l0, 44));
	h.v[2] = _mm512_add_epi64(_mm512_and_si512(l2, MASK(42)), _mm512_srli_epi64(l1, 44));
	h.v[1] = _mm512_add_epi64(h.v[1], _mm512_srli_epi64(h.v[0], 44));
	h.v[0] = _mm512_and_si512(h.v[0], MASK(44));
	return h;
}

/* Limbs below 2^63 become less than 2^44, 2^44, 2^42 and little more. */
INLINE struct limbs limbs_carry(struct limbs h)
{
	UNROLLED for (unsigned twice = 0; twice < 2; twice++) {
		h.v[1] = _mm512_add_epi64(h.v[1], _mm512_srli_epi64(h.v[0], 44));
		h.v[0] = _mm512_and_si512(h.v[0], MASK(44));
		h.v[2] = _mm512_add_epi64(h.v[2], _mm512_srli_epi64(h.v[1], 44));
		h.v[1] = _mm512_and_si512(h.v[1], MASK(44));
		__m512i top = _mm512_srli_epi64(h.v[2], 42);
		h.v[2] = _mm512_and_si512(h.v[2], MASK(42));
		h.v[0] = _mm512_add_epi64(h.v[0], _mm512_add_epi64(top, _mm512_slli_epi64(top, 2)));
	}
	return h;
}

/* The numbers modulo 2^130 - 5, their low 128 bits. */
INLINE void limbs_join(struct limbs h, __m512i *low, __m512i *high)
{
	struct limbs g;

	h = limbs_carry(h);
	/* h < 2^130 + 2^44: one subtraction is enough. g := h + 5 - 2^130; not negative: it is h. */
	g.v[0] = _mm512_add_epi64(h.v[0], _mm512_set1_epi64(5));
	g.v[1] = _mm512_add_epi64(h.v[1], _mm512_srli_epi64(g.v[0], 44));
	g.v[2] = _mm512_add_epi64(h.v[2], _mm512_srli_epi64(g.v[1], 44));
	h.v[1] = _mm512_add_epi64(h.v[1], _mm512_srli_epi64(h.v[0], 44));
	h.v[2] = _mm512_add_epi64(h.v[2], _mm512_srli_epi64(h.v[1], 44));
	const __mmask8 take = _mm512_cmpge_epu64_mask(g.v[2], _mm512_set1_epi64(1LL << 42));
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		h.v[i] = _mm512_mask_mov_epi64(h.v[i], take, g.v[i]);
	h.v[0] = _mm512_and_si512(h.v[0], MASK(44));
	h.v[1] = _mm512_and_si512(h.v[1], MASK(44));
	*low = _mm512_or_si512(h.v[0], _mm512_slli_epi64(h.v[1], 44));
	*high = _mm512_or_si512(_mm512_srli_epi64(h.v[1], 20), _mm512_slli_epi64(h.v[2], 24));
}

#define SPILLED 2048 /* bytes of the deepest frames, gcc and clang, -O2 and more */

#include "poly1305_avx512.h"
#include "aead_avx512.h"

const struct wgf_aead_kernel wgf_aead_avx512ifma = {
	.name = "avx512ifma",
	.supported = supported,
	.seal = seal,
	.open = open,
};

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
