/* How much room a change of many prefixes wants, before any of it is made: by what one prefix takes, whatever lies around it,
 * for what many take together is only known when they are there. */
#include "trie.h"

#define SURE 1000000u  /* prefixes, wherever they lie */
#define PLACES (UINT64_C(1) << WGF_BITS_LARGE)
/* Units, of which half as much again is asked for: */
#define ADDED4 9u      /* for one prefix more: two nodes half a line each, or one that grows to a line, and one in the table */
#define ADDED6 16u     /* a leaf, and a node above it that was not there, or grows */
#define MOVED4 6u      /* its run is another now, in a node that was not there, or grows to a line */
#define MOVED6 11u     /* the same, and grows to two */
#define GROWS4 16u     /* and of those in IPv4's table, one for each place may grow to two lines; what it leaves fits others only */
#define APART 16384u   /* units on their way through the epoch meanwhile */
#define LEFT_OVER 16u  /* so much of what was used, at most */

bool wgf_trie_admits(struct wgf_trie *trie, const struct wgf_prefixes *prefixes, uint64_t added, uint64_t moved)
{
	struct wgf_nodepool *pool = trie && trie->bits == WGF_BITS_LARGE ? trie->pool : NULL;
	uint64_t size = pool ? pool->size : WGF_POOL_UNITS; /* less where addresses are limited */
	if ((added == 0 && moved == 0) || (size == WGF_POOL_UNITS && prefixes->count + added <= SURE))
		return true;
	if (pool) /* removals that built nothing left theirs where they came back from the readers */
		wgf_nodepool_flush(pool);
	uint64_t used = pool ? pool->used : UINT64_C(1) << WGF_BITS_LARGE, unused = pool ? used - pool->living : 0;
	/* A full table has pieces left over that are too small for anybody. Where more are free than that, much was
	 * removed, and they are of the sizes that are asked for. */
	unused = unused > used / LEFT_OVER ? (unused - used / LEFT_OVER) / 2 : 0;
	if (!pool) /* all that a small one holds goes to a large one */
		added += prefixes->count;
	bool four = prefixes->words == 1;
	uint64_t most = added * (four ? ADDED4 : ADDED6) + moved * (four ? MOVED4 : MOVED6);
	uint64_t growing = !four ? 0 : added + moved < PLACES ? added + moved : PLACES;
	return most + most / 2 + growing * GROWS4 + APART <= size - used + unused;
}
