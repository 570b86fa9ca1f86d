/* Whose the addresses of a batch's packets are. Neighbours mostly have the same, which is looked up once; all that
 * differ are looked up together, so that what has to come from memory for one comes while others wait for theirs. */
#ifndef WGF_OWNERS_H
#define WGF_OWNERS_H

#include <stdint.h>

#include "ip.h"
#include "limits.h"

struct wgf_allowedips;

struct wgf_owners {
	uint32_t count4, count6;                /* addresses that differ from their neighbour's */
	uint32_t owners[2 * WGF_BATCH_PACKETS]; /* of IPv4's, then of IPv6's */
	uint16_t of[WGF_BATCH_PACKETS];         /* by packet: its place in there */
	uint32_t address4[WGF_BATCH_PACKETS];   /* host order */
	uint8_t address6[WGF_BATCH_PACKETS][16];
};

static inline void wgf_owners_begin(struct wgf_owners *owners)
{
	owners->count4 = owners->count6 = 0;
}

/* The address (of this family, network order) of packet i, in any order of i. */
void wgf_owners_want(struct wgf_owners *owners, uint32_t i, uint8_t family, const uint8_t *address);
/* Inside a reader of the table. */
void wgf_owners_find(struct wgf_owners *owners, const struct wgf_allowedips *table);

/* Then, for packets that were wanted; WGF_OWNER_NONE: nobody's. */
static inline uint32_t wgf_owners_of(const struct wgf_owners *owners, uint32_t i)
{
	return owners->owners[owners->of[i]];
}

#endif
