/* The prefixes of a family that has few, for lookups alone: every address is compared with every prefix, in IPv4 several
 * addresses at a time by what vectors any processor has, and nothing branches. That is most devices, and there a trie has
 * nothing but its costs: of eight host routes each address of a batch of 64 takes 14 ns in it and 1.5 here (IPv6: 9), one
 * alone 28 and 11.
 *
 * It never changes. The trie beside it (trie.h) is where changes are made; then another one is shown by one store. */
#ifndef WGF_FEW_H
#define WGF_FEW_H

#include <stdint.h>

#include "epoch.h"
#include "trie.h"

/* More, and the trie is quicker. */
#define WGF_FEW4 16u
#define WGF_FEW6 8u

struct wgf_few_prefix {
	uint64_t address[2], mask[2]; /* IPv4: the number, in the first; IPv6: as they lie in memory */
	uint32_t owner;
};

struct wgf_few {
	struct wgf_retired retired;
	uint32_t n;
	struct wgf_few_prefix each[]; /* one that covers another stands before it */
};

/* What a trie holds. NULL: that is nothing, or too many, or there is no memory. */
struct wgf_few *wgf_few_create(struct wgf_trie *trie);
void wgf_few_destroy(struct wgf_few *few); /* no reader sees it; NULL: nothing */
void wgf_few_retire(struct wgf_few *few, struct wgf_epoch *epoch);
size_t wgf_few_memory(const struct wgf_few *few);

/* As wgf_trie_lookup4 and wgf_trie_lookup6. */
void wgf_few_lookup4(const struct wgf_few *few, const uint32_t *addresses, size_t n, uint32_t *owners);
void wgf_few_lookup6(const struct wgf_few *few, const uint8_t *addresses, size_t n, uint32_t *owners);

#endif
