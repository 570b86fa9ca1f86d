/* Who strangers' messages come from, where strangers are kept apart: an IPv4 address or an IPv6 /64, which
 * is what one customer of a provider has at the least. The port does not count: anybody has all of them. */
#ifndef WGF_SOURCE_H
#define WGF_SOURCE_H

#include <stdbool.h>
#include <stdint.h>

#include "bytes.h"
#include "endpoint.h"

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

int wgf_source_key(uint64_t key[2]); /* a random one: 0 or -errno */
/* Nobody who does not know the key can choose sources that fall together. */
uint64_t wgf_source_hash(const uint64_t key[2], struct wgf_source source);

#endif
