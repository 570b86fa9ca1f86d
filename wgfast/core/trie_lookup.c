/* Lookups for any processor, and which one is used. */
#include "trie_lookup.h"

#define FULL(n) ((n) >= 8 ? 0xff : (n) > 0 ? 0xff << (8 - (n)) & 0xff : 0)
#define ROW(n)                                                                                                         \
	{FULL(n), FULL((n)-8), FULL((n)-16), FULL((n)-24), FULL((n)-32), FULL((n)-40), FULL((n)-48), FULL((n)-56),     \
	 FULL((n)-64), FULL((n)-72), FULL((n)-80), FULL((n)-88), FULL((n)-96), FULL((n)-104), FULL((n)-112),           \
	 FULL((n)-120)}
#define ROWS4(n) ROW(n), ROW((n) + 1), ROW((n) + 2), ROW((n) + 3)
#define ROWS16(n) ROWS4(n), ROWS4((n) + 4), ROWS4((n) + 8), ROWS4((n) + 12)

const uint8_t wgf_lookup_masks[129][16] = {ROWS16(0),  ROWS16(16), ROWS16(32),  ROWS16(48), ROWS16(64),
					   ROWS16(80), ROWS16(96), ROWS16(112), ROW(128)};

#if defined(__x86_64__)
static bool has_bmi(void)
{
	return __builtin_cpu_supports("popcnt") && __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
}

static bool has_avx512(void)
{
	static _Atomic unsigned known; /* 0: not asked yet; 1: no; 2: yes. Any thread. */
	unsigned has = atomic_load_explicit(&known, memory_order_relaxed);
	if (!has) {
		has = wgf_trie_has_avx512() ? 2 : 1;
		atomic_store_explicit(&known, has, memory_order_relaxed);
	}
	return has == 2;
}
#else
#define has_avx512() false
#define wgf_trie_has_avx2() false
#define has_bmi() false
#define wgf_trie_lookup4_avx512 lookup4
#define wgf_trie_lookup4_avx2 lookup4
#define wgf_trie_lookup4_bmi lookup4
#define wgf_trie_lookup6_bmi lookup6
#endif

void wgf_trie_lookup4(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	bool whole = n >= WGF_LOOKUP_BATCH && trie->bits == WGF_BITS_LARGE; /* batches, which kernels are for */
	if (whole && has_avx512())
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
	if (has_bmi())
		wgf_trie_lookup6_bmi(trie, addresses, n, owners);
	else
		lookup6(trie, addresses, n, owners);
}
