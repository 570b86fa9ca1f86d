/* Lookups for any processor, and which one is used. */
#include "trie_lookup6.h"

/* The first n bits, of those that stand in one byte. */
#define FIRST(n) ((n) >= 8 ? 0xff : (n) > 0 ? 0xff << ((8 - (n)) & 7) & 0xff : 0)
#define MASK(n)                                                                                                        \
	{FIRST((n)-120), FIRST((n)-112), FIRST((n)-104), FIRST((n)-96), FIRST((n)-88), FIRST((n)-80), FIRST((n)-72),   \
	 FIRST((n)-64),  FIRST((n)-56),  FIRST((n)-48),  FIRST((n)-40), FIRST((n)-32), FIRST((n)-24), FIRST((n)-16),   \
	 FIRST((n)-8),   FIRST(n)}
#define LEAF(n) {.mask = MASK(n), .bits = (n), .leaf = 1}
#define LEAVES4(n) LEAF(n), LEAF((n) + 1), LEAF((n) + 2), LEAF((n) + 3)
#define LEAVES16(n) LEAVES4(n), LEAVES4((n) + 4), LEAVES4((n) + 8), LEAVES4((n) + 12)
#define BEGINS(n) (64 + 128 - 6 - (n)) /* a slot: so many bits behind the lowest */
#define NODE(n) {.mask = MASK(n), .at = BEGINS(n) / 8, .shift = BEGINS(n) % 8, .bits = (n)}
#define NODES4(n) NODE(n), NODE((n) + 6), NODE((n) + 12), NODE((n) + 18)

const struct wgf_lookup6_row wgf_lookup6_rows[WGF_LOOKUP6_ROWS] = {
	LEAVES16(0),  LEAVES16(16), LEAVES16(32), LEAVES16(48), LEAVES16(64), LEAVES16(80), LEAVES16(96), LEAVES16(112),
	LEAF(128),    NODES4(6),    NODES4(30),   NODES4(54),   NODES4(78),   NODES4(102),  NODE(126),
};

#if defined(__x86_64__)
static bool has_bmi(void)
{
	return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

enum { ASKED = 1, AVX512 = 2, GATHERS = 4, VBMI2 = 8 };

/* Asked once, by any thread. */
static bool has(unsigned feature)
{
	static _Atomic unsigned known;
	unsigned features = atomic_load_explicit(&known, memory_order_relaxed);
	if (!features) {
		features = ASKED | (wgf_trie_has_avx512() ? AVX512 : 0) | (wgf_trie_gathers() ? GATHERS : 0) |
			   (wgf_trie_has_vbmi2() ? VBMI2 : 0);
		atomic_store_explicit(&known, features, memory_order_relaxed);
	}
	return features & feature;
}
#else
#define has(feature) false
#define wgf_trie_has_avx2() false
#define has_bmi() false
#define wgf_trie_lookup4_intel lookup4
#define wgf_trie_lookup4_avx512 lookup4
#define wgf_trie_lookup4_avx2 lookup4
#define wgf_trie_lookup4_bmi lookup4
#define wgf_trie_lookup6_avx512 lookup6
#define wgf_trie_lookup6_avx2 lookup6
#define wgf_trie_lookup6_bmi lookup6
#endif

/* Whole batches, which kernels are for. */
static bool is_whole(const struct wgf_trie *trie, size_t n)
{
	return n >= WGF_LOOKUP_BATCH && trie->bits == WGF_BITS_LARGE;
}

void wgf_trie_lookup4(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	bool whole = is_whole(trie, n);
	if (whole && has(GATHERS))
		wgf_trie_lookup4_intel(trie, addresses, n, owners);
	else if (whole && has(AVX512))
		wgf_trie_lookup4_avx512(trie, addresses, n, owners);
	else if (whole && wgf_trie_has_avx2())
		wgf_trie_lookup4_avx2(trie, addresses, n, owners);
	else if (has_bmi())
		wgf_trie_lookup4_bmi(trie, addresses, n, owners);
	else
		lookup4(trie, addresses, n, owners);
}

void wgf_trie_lookup6(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	bool whole = is_whole(trie, n);
	if (whole && has(VBMI2))
		wgf_trie_lookup6_avx512(trie, addresses, n, owners);
	else if (whole && wgf_trie_has_avx2())
		wgf_trie_lookup6_avx2(trie, addresses, n, owners);
	else if (has_bmi())
		wgf_trie_lookup6_bmi(trie, addresses, n, owners);
	else
		lookup6(trie, addresses, n, owners);
}
