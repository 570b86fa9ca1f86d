/* Lookups for processors that count bits (POPCNT) and shift by any register (BMI2). */
#include "trie.h"

#if defined(__x86_64__)

#pragma GCC push_options
#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("popcnt,bmi,bmi2"))), apply_to = function)
#else
#pragma GCC target("popcnt,bmi,bmi2")
#endif

#include "trie_lookup6.h"

void wgf_trie_lookup4_bmi(const struct wgf_trie *trie, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	lookup4(trie, addresses, n, owners);
}

void wgf_trie_lookup6_bmi(const struct wgf_trie *trie, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	lookup6(trie, addresses, n, owners);
}

#if defined(__clang__)
#pragma clang attribute pop
#endif
#pragma GCC pop_options

#endif
