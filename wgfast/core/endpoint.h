/* Where a peer is reached: its address and, learnt from what it sent us, the address and interface
 * we answer from (the sticky source). A peer's endpoint is read by every sender and written by the
 * receiver (roaming) and by the control plane, so it lives in a sequence lock of atomic words. */
#ifndef WGF_ENDPOINT_H
#define WGF_ENDPOINT_H

#include <netinet/in.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* 48 bytes, no padding: compared and copied as words. */
struct wgf_endpoint {
	uint8_t address[16];   /* network order; IPv4 in the first four bytes */
	uint8_t source[16];    /* of ours, that the peer addressed; zeros: let the system choose */
	uint32_t scope;        /* IPv6 scope id, host order */
	uint32_t interface;    /* that the source was seen on; 0: none */
	uint16_t port;         /* host order */
	uint8_t family;        /* 0 (none), 4 or 6 */
	uint8_t has_source;
	uint32_t zero;
};
_Static_assert(sizeof(struct wgf_endpoint) == 48, "six words");

#define WGF_ENDPOINT_WORDS (sizeof(struct wgf_endpoint) / 8)

struct wgf_endpoint_cell {
	_Atomic uint32_t sequence; /* odd while being written */
	_Atomic uint64_t words[WGF_ENDPOINT_WORDS];
};

void wgf_endpoint_load(struct wgf_endpoint_cell *cell, struct wgf_endpoint *out);
/* Any thread; writers take turns by spinning on the sequence for the length of one copy. */
void wgf_endpoint_store(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *value);
/* Stores if it differs and is an address. True if there was one before, with another address or port (not only source). */
bool wgf_endpoint_roam(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *value);
/* Forgets the source, and only the source, and only if it is still this one (NULL: whichever). */
void wgf_endpoint_clear_source(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *seen);

bool wgf_endpoint_same_address(const struct wgf_endpoint *a, const struct wgf_endpoint *b);
socklen_t wgf_endpoint_to_sockaddr(const struct wgf_endpoint *endpoint, struct sockaddr_storage *out);
/* False if the family is neither. The source is left empty. */
bool wgf_endpoint_from_sockaddr(struct wgf_endpoint *endpoint, const struct sockaddr_storage *from);

#endif
