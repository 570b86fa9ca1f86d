/* Who strangers' messages come from, where strangers are kept apart: an IPv4 address or an IPv6 /64, which
 * is what one customer of a provider has at the least. The port does not count: anybody has all of them. */
#ifndef WGF_SOURCE_H
#define WGF_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "endpoint.h"
#include "siphash.h"

struct wgf_source {
	uint64_t address; /* of IPv6 the upper half */
	uint64_t family;  /* 4 or 6 */
};

static inline struct wgf_source wgf_source_of(const struct wgf_endpoint *from)
{
	return (struct wgf_source){from->family == 4 ? wgf_load_be32(from->address) : wgf_load_be64(from->address),
				   from->family};
}

static inline bool wgf_source_same(struct wgf_source a, struct wgf_source b)
{
	return a.address == b.address && a.family == b.family;
}

static inline uint64_t wgf_source_hash(const uint64_t key[2], struct wgf_source source)
{
	uint8_t data[16];
	wgf_store_le64(data, source.address);
	wgf_store_le64(data + 8, source.family);
	return wgf_siphash(key, data, sizeof(data));
}

#endif
