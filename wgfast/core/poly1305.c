/* Poly1305 in radix 2^64, one block at a time: the accumulator is h0 + 2^64 h1 + 2^128 h2.
 *
 * This shape needs four wide and two narrow multiplications a block where 26-bit limbs need 25 and
 * 44-bit limbs nine. It works because clamping clears the two low bits of r1: 2^128 r1 =
 * 2^130 (r1 / 4), which modulo 2^130 - 5 is 5 r1 / 4, a whole number. The price is a chain of
 * carries that cannot be shared by several blocks; kernels for one instruction set have their own
 * Poly1305 in shorter limbs. */
#include "poly1305.h"

#include "bytes.h"

#ifdef __SIZEOF_INT128__

typedef unsigned __int128 wide;

static inline wide wide_product(uint64_t a, uint64_t b) { return (wide)a * b; }
static inline wide wide_sum(wide a, wide b) { return a + b; }
static inline uint64_t wide_low(wide a) { return (uint64_t)a; }
static inline uint64_t wide_high(wide a) { return (uint64_t)(a >> 64); }

#else /* 32-bit processors */

typedef struct {
	uint64_t low, high;
} wide;

/* Schoolbook in halves of 32 bits: a product of two halves is at most (2^32 - 1)^2 =
 * 2^64 - 2^33 + 1, so one more half can be added to it without overflow. */
static inline wide wide_product(uint64_t a, uint64_t b)
{
	uint64_t a0 = (uint32_t)a, a1 = a >> 32, b0 = (uint32_t)b, b1 = b >> 32;
	uint64_t lowest = a0 * b0;
	uint64_t middle = a1 * b0 + (lowest >> 32);
	uint64_t other = a0 * b1 + (uint32_t)middle;
	return (wide){other << 32 | (uint32_t)lowest, a1 * b1 + (middle >> 32) + (other >> 32)};
}

static inline wide wide_sum(wide a, wide b)
{
	wide sum = {a.low + b.low, a.high + b.high};
	sum.high += sum.low < a.low;
	return sum;
}

static inline uint64_t wide_low(wide a) { return a.low; }
static inline uint64_t wide_high(wide a) { return a.high; }

#endif

/* a += b; the carry out. The comparison compiles to an add with carry, not to a branch. */
static inline uint64_t add(uint64_t *a, uint64_t b)
{
	*a += b;
	return *a < b;
}

void wgf_poly1305_init(struct wgf_poly1305 *mac, const uint8_t key[32])
{
	mac->r[0] = wgf_load_le64(key) & UINT64_C(0x0ffffffc0fffffff);
	mac->r[1] = wgf_load_le64(key + 8) & UINT64_C(0x0ffffffc0ffffffc);
	mac->h[0] = mac->h[1] = mac->h[2] = 0;
	mac->pad[0] = wgf_load_le64(key + 16);
	mac->pad[1] = wgf_load_le64(key + 24);
}

/* h := (h + block) r for each of the blocks. */
static void absorb(struct wgf_poly1305 *mac, const uint8_t *p, size_t blocks)
{
	const uint64_t r0 = mac->r[0], r1 = mac->r[1], s1 = r1 + (r1 >> 2); /* 5 r1 / 4 */
	uint64_t h0 = mac->h[0], h1 = mac->h[1], h2 = mac->h[2];

	for (; blocks > 0; blocks--, p += 16) {
		/* h2 <= 4 + 1, the block's own bit 128, + 1, the carry out of h1: at most 6. */
		uint64_t carry = add(&h0, wgf_load_le64(p));
		h2 += 1 + add(&h1, carry);
		h2 += add(&h1, wgf_load_le64(p + 8));

		/* r0, r1 < 2^60, s1 < 5/4 2^60 and h0, h1 < 2^64, so
		 * d0 < 9/4 2^124, d1 < 2 2^124, and t1, d2 <= 6 (5/4) 2^60 < 2^63. */
		wide d0 = wide_sum(wide_product(h0, r0), wide_product(h1, s1));
		wide d1 = wide_sum(wide_product(h0, r1), wide_product(h1, r0));
		uint64_t t1 = h2 * s1, d2 = h2 * r0;

		/* Carry up: d1 + t1 + d0 / 2^64 < 2 2^124 + 2^63 + 9/4 2^60 < 17/8 2^124, so
		 * d2 < 6 2^60 + 17/8 2^60 < 9 2^60. */
		h0 = wide_low(d0);
		h1 = wide_low(d1);
		d2 += wide_high(d1);
		d2 += add(&h1, t1);
		d2 += add(&h1, wide_high(d0));

		/* Fold what is above 2^130 back, times five: 5 (d2 >> 2) = (d2 >> 2) + (d2 & ~3)
		 * < 5/4 9 2^60 < 2^64. Then h0, h1 < 2^64 and h2 <= 3 + 1 = 4, and 4 only when h1
		 * wrapped to 0 and h0 is less than the folded value. */
		carry = add(&h0, (d2 >> 2) + (d2 & ~UINT64_C(3)));
		h2 = (d2 & 3) + add(&h1, carry);
	}
	mac->h[0] = h0;
	mac->h[1] = h1;
	mac->h[2] = h2;
}

void wgf_poly1305_update(struct wgf_poly1305 *mac, const uint8_t *p, size_t n)
{
	absorb(mac, p, n / 16);
	if (n % 16 != 0) {
		uint8_t last[16] = {0}; /* ciphertext or additional data: no secret */
		memcpy(last, p + n / 16 * 16, n % 16);
		absorb(mac, last, 1);
	}
}

void wgf_poly1305_final(struct wgf_poly1305 *mac, uint8_t tag[WGF_TAG_SIZE])
{
	uint64_t h0 = mac->h[0], h1 = mac->h[1], h2 = mac->h[2];

	/* h < 2^130 + 2^64 < 2 (2^130 - 5), so one subtraction of the modulus makes it unique. With
	 * g = h + 5, h is at least the modulus exactly when g has reached 2^130; g2 <= 4. */
	uint64_t g0 = h0, g1 = h1;
	uint64_t g2 = h2 + add(&g1, add(&g0, 5));
	uint64_t take_g = 0 - (g2 >> 2);
	h0 ^= (h0 ^ g0) & take_g;
	h1 ^= (h1 ^ g1) & take_g;

	/* The tag is h + pad modulo 2^128: h2 and the last carry drop out. */
	h1 += mac->pad[1] + add(&h0, mac->pad[0]);
	wgf_store_le64(tag, h0);
	wgf_store_le64(tag + 8, h1);
}
