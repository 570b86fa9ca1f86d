/* The Internet checksum, a vector at a time.
 *
 * A vector is taken as 64-bit lanes x = high * 2^32 + low, and two accumulators do for both halves:
 *
 *     all  += x          wraps
 *     high += x >> 32    below 2^49 for 2^20 bytes even in a single lane
 *
 * because the sum of the low halves, below 2^49 as well, is what remains of all - high * 2^32 modulo
 * 2^64. Which half of a lane, and which half of 32 bits, a 16-bit word lies in does not matter: 2^16 is
 * 1 modulo 2^16 - 1, on machines of either byte order. */
#include "checksum.h"

#include <stdbool.h>
#include <string.h>

/* Loads go through memcpy: a packet has no alignment. */
static inline uint64_t load64(const uint8_t *p)
{
	uint64_t word;
	memcpy(&word, p, sizeof(word));
	return word;
}

static inline uint64_t halves(uint64_t word)
{
	return (word & 0xffffffff) + (word >> 32);
}

/* What is left behind the vectors: less than a step of theirs. dst may be NULL: nothing is copied. */
static inline __attribute__((always_inline)) uint64_t add_rest(uint64_t sum, uint8_t *dst,
							       const uint8_t *src, size_t len)
{
	for (; len >= 8; len -= 8, src += 8) {
		uint64_t word = load64(src);
		sum += halves(word);
		if (dst) {
			memcpy(dst, &word, sizeof(word));
			dst += 8;
		}
	}
	if (len & 4) {
		uint32_t word;
		memcpy(&word, src, sizeof(word));
		sum += word;
		if (dst) {
			memcpy(dst, &word, sizeof(word));
			dst += 4;
		}
		src += 4;
	}
	if (len & 2) {
		uint16_t word;
		memcpy(&word, src, sizeof(word));
		sum += word;
		if (dst) {
			memcpy(dst, &word, sizeof(word));
			dst += 2;
		}
		src += 2;
	}
	if (len & 1) {
		uint16_t word = 0;
		memcpy(&word, src, 1);
		sum += word;
		if (dst)
			*dst = *src;
	}
	return sum;
}

/* A macro, not a function to be inlined: GCC splits vectors wider than the machine's before it inlines,
 * so each instruction set needs the text compiled anew. Two pairs of accumulators, because an addition
 * waits for the one before; the shifts first, or GCC 12 loads everything twice. */
#define SUM(NAME, TARGET, VECTOR)                                                                       \
	TARGET static inline uint64_t NAME(uint64_t sum, uint8_t *dst, const uint8_t *src, size_t len)  \
	{                                                                                               \
		VECTOR all_x = {0}, all_y = {0}, high_x = {0}, high_y = {0}, x, y;                      \
		for (; len >= sizeof(x) + sizeof(y); len -= sizeof(x) + sizeof(y)) {                    \
			memcpy(&x, src, sizeof(x));                                                     \
			memcpy(&y, src + sizeof(x), sizeof(y));                                         \
			src += sizeof(x) + sizeof(y);                                                   \
			high_x += x >> 32;                                                              \
			high_y += y >> 32;                                                              \
			all_x += x;                                                                     \
			all_y += y;                                                                     \
			if (dst) {                                                                      \
				memcpy(dst, &x, sizeof(x));                                             \
				memcpy(dst + sizeof(x), &y, sizeof(y));                                 \
				dst += sizeof(x) + sizeof(y);                                           \
			}                                                                               \
		}                                                                                       \
		all_x += all_y;                                                                         \
		high_x += high_y;                                                                       \
		for (size_t lane = 0; lane < sizeof(VECTOR) / 8; lane++)                                \
			sum += high_x[lane] + (all_x[lane] - (high_x[lane] << 32));                     \
		return add_rest(sum, dst, src, len);                                                    \
	}

typedef uint64_t lanes2 __attribute__((vector_size(16)));
SUM(sum_lanes2, __attribute__((always_inline)), lanes2)

#if defined(__x86_64__)
typedef uint64_t lanes4 __attribute__((vector_size(32)));
SUM(sum_lanes4, __attribute__((always_inline, target("avx2"))), lanes4)

static __attribute__((target("avx2"))) uint64_t add_avx2(uint64_t sum, const uint8_t *p, size_t len)
{
	return sum_lanes4(sum, NULL, p, len);
}

static __attribute__((target("avx2"))) uint64_t copy_avx2(uint64_t sum, uint8_t *dst, const uint8_t *src,
							  size_t len)
{
	return sum_lanes4(sum, dst, src, len);
}

/* Below this the wider vectors have nothing to win. */
#define AVX2_FROM 128u

static inline bool takes_avx2(size_t len)
{
	return len >= AVX2_FROM && __builtin_cpu_supports("avx2");
}
#endif

uint64_t wgf_checksum_add(uint64_t sum, const uint8_t *p, size_t len)
{
#if defined(__x86_64__)
	if (takes_avx2(len))
		return add_avx2(sum, p, len);
#endif
	return sum_lanes2(sum, NULL, p, len);
}

uint64_t wgf_checksum_copy(uint64_t sum, uint8_t *dst, const uint8_t *src, size_t len)
{
#if defined(__x86_64__)
	if (takes_avx2(len))
		return copy_avx2(sum, dst, src, len);
#endif
	return sum_lanes2(sum, dst, src, len);
}

uint64_t wgf_checksum_pseudo(const uint8_t *ip, uint32_t transport_len, uint8_t protocol)
{
	/* IPv4's two addresses or IPv6's lie side by side. */
	bool v4 = ip[0] >> 4 == 4;
	const uint8_t rest[8] = {
		(uint8_t)(transport_len >> 24), (uint8_t)(transport_len >> 16), (uint8_t)(transport_len >> 8),
		(uint8_t)transport_len, 0, 0, 0, protocol,
	};
	return wgf_checksum_add(halves(load64(rest)), v4 ? ip + 12 : ip + 8, v4 ? 8 : 32);
}
