/* One table of allowed IPs and its epoch, with IPv4 addresses as numbers: for the tests of it. */
#ifndef WGF_ALLOWEDIPS_TABLE_H
#define WGF_ALLOWEDIPS_TABLE_H

#include "allowedips.h"
#include "check.h"

static struct wgf_epoch epoch;
static struct wgf_allowedips *table;

static inline void begin(void)
{
	CHECK(wgf_epoch_init(&epoch) == 0);
	table = wgf_allowedips_create(&epoch);
	CHECK(table);
}

static inline void end(void)
{
	wgf_allowedips_destroy(table);
	wgf_epoch_destroy(&epoch);
}

static inline const uint8_t *ip4(uint32_t address)
{
	static _Thread_local uint8_t bytes[4];
	for (int i = 0; i < 4; i++)
		bytes[i] = (uint8_t)(address >> (24 - 8 * i));
	return bytes;
}

static inline int insert4(uint32_t address, unsigned length, uint32_t owner)
{
	return wgf_allowedips_insert(table, WGF_IPV4, ip4(address), length, owner);
}

static inline int remove4(uint32_t address, unsigned length, uint32_t owner)
{
	return wgf_allowedips_remove(table, WGF_IPV4, ip4(address), length, owner);
}

#endif
