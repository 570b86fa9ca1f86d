/* The memory of one trie: pieces of whole units, named by their offset, so that a reference fits 24 bits.
 *
 * A large pool reserves its addresses once and lets the kernel back them as they are used, so that growing
 * moves nothing under a reader; a small one is one allocation, and who outgrows it builds a larger one. Pieces
 * that readers may still see are noted in a limbo, which goes through the epoch as a whole; what comes back
 * is handed over by one atomic exchange, for any thread may collect. All else is the changer's alone. The pool
 * outlives its trie until the last limbo is back. */
#ifndef WGF_NODEPOOL_H
#define WGF_NODEPOOL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "epoch.h"

#define WGF_UNIT 8u
#define WGF_UNITS_MAX 32u         /* of a piece */
#define WGF_LINE_UNITS 8u         /* of a cache line */
#define WGF_POOL_UNITS 0xd00000u  /* of a pool: 104 MiB; references go up to here */
#define WGF_LIMBO_PIECES 506u

struct wgf_nodepool;

/* Pieces on their way through the epoch, each its first unit times 64 plus how many units it has. */
struct wgf_limbo {
	struct wgf_retired retired;
	struct wgf_nodepool *pool;
	struct wgf_limbo *next;
	uint32_t count;
	uint32_t pieces[WGF_LIMBO_PIECES];
};

struct wgf_nodepool {
	unsigned char *base;
	uint32_t used;      /* units given out at least once, from the first on */
	uint32_t backed;    /* units that may be written */
	uint32_t size;      /* units there are addresses for */
	uint32_t living;    /* units in pieces that are in use or in limbo */
	bool large;
	uint32_t free[WGF_UNITS_MAX + 1]; /* by size: the first free piece, which names the next */
	struct wgf_limbo *open;           /* has room, once wgf_nodepool_prepare succeeded */
	struct wgf_limbo *kept;           /* an empty one for when there is no memory; NULL: not come back yet */
	_Atomic(struct wgf_limbo *) returned;
	_Atomic uint32_t holders;         /* the trie, and each limbo that is out */
	struct wgf_epoch *epoch;
};

/* A pool whose first `taken` units are zero and not given out. Large ones begin at a huge page; there pieces of a cache line
 * or less lie within one, larger ones begin at one, but for those cut up at the end. NULL: no memory. */
struct wgf_nodepool *wgf_nodepool_create(struct wgf_epoch *epoch, uint32_t taken, uint32_t size, bool large);
/* The trie is gone from the readers' sight, or no reader is left. Other threads may still collect. */
void wgf_nodepool_leave(struct wgf_nodepool *pool);

/* Room for `pieces` retirements. 0 or -ENOMEM. */
int wgf_nodepool_prepare(struct wgf_nodepool *pool, uint32_t pieces);
/* The first unit of a piece; 0: none. Only removals may have what is kept `spare`. */
uint32_t wgf_nodepool_take(struct wgf_nodepool *pool, uint32_t units, bool spare);
void wgf_nodepool_give(struct wgf_nodepool *pool, uint32_t at, uint32_t units); /* no reader ever saw it */
void wgf_nodepool_retire(struct wgf_nodepool *pool, uint32_t at, uint32_t units); /* after it was unlinked */
/* Sends the limbo off and takes back what readers have passed: before giving up for want of room. */
void wgf_nodepool_flush(struct wgf_nodepool *pool);
bool wgf_nodepool_full(const struct wgf_nodepool *pool); /* it has no more addresses, whatever memory there is */
size_t wgf_nodepool_memory(const struct wgf_nodepool *pool);

#endif
