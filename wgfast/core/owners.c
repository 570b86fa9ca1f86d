/* The batch's addresses by family, as the table takes them. */
#include "owners.h"

#include <string.h>

#include "allowedips.h"
#include "bytes.h"

static uint16_t want4(struct wgf_owners *owners, const uint8_t *address)
{
	uint32_t n = owners->count4, wanted = wgf_load_be32(address);
	if (n && owners->address4[n - 1] == wanted)
		return (uint16_t)(n - 1);
	owners->address4[n] = wanted;
	owners->count4++;
	return (uint16_t)n;
}

static uint16_t want6(struct wgf_owners *owners, const uint8_t *address)
{
	uint32_t n = owners->count6;
	if (n && memcmp(owners->address6[n - 1], address, 16) == 0)
		return (uint16_t)(WGF_BATCH_PACKETS + n - 1);
	memcpy(owners->address6[n], address, 16);
	owners->count6++;
	return (uint16_t)(WGF_BATCH_PACKETS + n);
}

void wgf_owners_want(struct wgf_owners *owners, uint32_t i, uint8_t family, const uint8_t *address)
{
	owners->of[i] = family == 4 ? want4(owners, address) : want6(owners, address);
}

void wgf_owners_find(struct wgf_owners *owners, const struct wgf_allowedips *table)
{
	if (owners->count4)
		wgf_allowedips_batch4(table, owners->address4, owners->count4, owners->owners);
	if (owners->count6)
		wgf_allowedips_batch6(table, owners->address6[0], owners->count6, owners->owners + WGF_BATCH_PACKETS);
}
