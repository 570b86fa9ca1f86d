/* ChaCha20-Poly1305 with AVX-512 where the 52-bit multiplications are missing (Skylake to Cooper Lake):
 * Poly1305's arithmetic; the rest is in aead_avx512.h.
 *
 * Radix 2^26: five limbs, 25 multiplications of 32 bits for eight blocks. */
#include "aead.h"

#if defined(__x86_64__)

#include <immintrin.h>

#include "bytes.h"
#include "poly1305.h"

static bool supported(void)
{
	return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
	       __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
	       __builtin_cpu_supports("bmi2");
}

#ifdef __clang__
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512vl,avx512dq,bmi2"))), apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,bmi2")
#endif

#include "chacha20_avx512.h"

#define LIMBS 5
#define BIT128 24 /* where bit 128 stands in the last limb */

struct limbs {
	__m512i v[LIMBS]; /* weights 1, 2^26, 2^52, 2^78, 2^104 */
};

struct factor {
	__m512i r[LIMBS];
	__m512i s[LIMBS]; /* 5 r, for what reaches 2^130 = 5; s[0] is not used */
};

#define MASK26 _mm512_set1_epi64((1LL << 26) - 1)

INLINE struct limbs limbs_of_words(__m512i low, __m512i high)
{
	struct limbs a;
	a.v[0] = _mm512_and_si512(low, MASK26);
	a.v[1] = _mm512_and_si512(_mm512_srli_epi64(low, 26), MASK26);
	a.v[2] = _mm512_and_si512(_mm512_or_si512(_mm512_srli_epi64(low, 52), _mm512_slli_epi64(high, 12)), MASK26);
	a.v[3] = _mm512_and_si512(_mm512_srli_epi64(high, 14), MASK26);
	a.v[4] = _mm512_srli_epi64(high, 40);
	return a;
}

/* Below 2^26, the last below 2^25: a block with its bit 128. */
INLINE struct limbs limbs_split(__m512i low, __m512i high)
{
	struct limbs a = limbs_of_words(low, high);
	a.v[4] = _mm512_or_si512(a.v[4], _mm512_set1_epi64(1LL << 24));
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
		f.s[i] = _mm512_add_epi64(a.v[i], _mm512_slli_epi64(a.v[i], 2));
	}
	return f;
}

/* Products not carried yet, of the same weights as limbs. */
struct products {
	__m512i v[LIMBS];
};

INLINE void products_add(struct products *p, struct limbs h, const struct factor *f)
{
	UNROLLED for (unsigned j = 0; j < LIMBS; j++)
		UNROLLED for (unsigned i = 0; i < LIMBS; i++) {
			__m512i factor = i >= j ? f->r[i - j] : f->s[LIMBS + i - j];
			p->v[i] = _mm512_add_epi64(p->v[i], _mm512_mul_epu32(h.v[j], factor));
		}
}

INLINE struct products products_zero(void)
{
	struct products p;
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		p.v[i] = _mm512_setzero_si512();
	return p;
}

/* What is above the low 26 bits of limb i moves to the next, from the last times five to the first. */
INLINE void carry(struct limbs *h, unsigned i)
{
	__m512i up = _mm512_srli_epi64(h->v[i], 26);
	h->v[i] = _mm512_and_si512(h->v[i], MASK26);
	if (i + 1 == LIMBS)
		up = _mm512_add_epi64(up, _mm512_slli_epi64(up, 2));
	h->v[(i + 1) % LIMBS] = _mm512_add_epi64(h->v[(i + 1) % LIMBS], up);
}

/* Of at most two products, of limbs below 2^28 and factors below 2^27, whose s is below 2^29.4: ten
 * terms below 2^57.4, together below 2^60.8. The carries start at two places: those out of 0 and 3
 * are below 2^34.8, that of 4 times five below 2^37.2; then 1 and 4 end below 2^26 + 2^12, the others
 * below 2^26. */
INLINE struct limbs products_carry(const struct products *p)
{
	struct limbs h;

	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		h.v[i] = p->v[i];
	carry(&h, 0);
	carry(&h, 3);
	carry(&h, 1);
	carry(&h, 4);
	carry(&h, 2);
	carry(&h, 0);
	carry(&h, 3);
	return h;
}

/* Limbs below 2^60 become at most 2^26, the second a little more. */
INLINE struct limbs limbs_carry(struct limbs h)
{
	UNROLLED for (unsigned i = 0; i < 2 * LIMBS + 1; i++)
		carry(&h, i % LIMBS);
	return h;
}

/* The numbers modulo 2^130 - 5, their low 128 bits. */
INLINE void limbs_join(struct limbs h, __m512i *low, __m512i *high)
{
	struct limbs g;

	/* Carried limbs are less than 2^130 + 2^35 together: one subtraction is enough. With
	 * g = h + 5, h is at least the modulus exactly when g has reached 2^130. */
	h = limbs_carry(h);
	UNROLLED for (unsigned i = 1; i + 1 < LIMBS; i++)
		carry(&h, i);
	g = h;
	g.v[0] = _mm512_add_epi64(g.v[0], _mm512_set1_epi64(5));
	UNROLLED for (unsigned i = 0; i + 1 < LIMBS; i++)
		carry(&g, i);
	const __mmask8 take = _mm512_cmpgt_epu64_mask(g.v[4], MASK26);
	g.v[4] = _mm512_and_si512(g.v[4], MASK26);
	UNROLLED for (unsigned i = 0; i < LIMBS; i++)
		h.v[i] = _mm512_mask_mov_epi64(h.v[i], take, g.v[i]);
	*low = _mm512_or_si512(h.v[0], _mm512_or_si512(_mm512_slli_epi64(h.v[1], 26), _mm512_slli_epi64(h.v[2], 52)));
	*high = _mm512_or_si512(_mm512_srli_epi64(h.v[2], 12), _mm512_slli_epi64(h.v[3], 14));
	*high = _mm512_or_si512(*high, _mm512_slli_epi64(h.v[4], 40));
}

#define SPILLED 5120 /* bytes of the deepest frames, gcc and clang, -O2 and more */

#include "poly1305_avx512.h"
#include "aead_avx512.h"

const struct wgf_aead_kernel wgf_aead_avx512 = {
	.name = "avx512",
	.supported = supported,
	.seal = seal,
	.open = open,
};

#ifdef __clang__
#pragma clang attribute pop
#endif

#endif
