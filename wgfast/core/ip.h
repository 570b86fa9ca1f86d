/* What the tunnel needs to know of an inner packet: that its lengths are possible, its two
 * addresses, and its congestion marks. Every length is checked before it is used. */
#ifndef WGF_IP_H
#define WGF_IP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wgf_ip {
	uint8_t family;             /* 4 or 6 */
	uint32_t length;            /* as the header says; at most what was given */
	const uint8_t *source;      /* 4 or 16 bytes */
	const uint8_t *destination;
};

/* False: not IP, or a header length or total length that cannot be. What follows the length the header
 * gives is padding. */
bool wgf_ip_parse(struct wgf_ip *ip, const uint8_t *packet, size_t len);

static inline size_t wgf_ip_address_size(const struct wgf_ip *ip)
{
	return ip->family == 4 ? 4 : 16;
}

/* RFC 6040 as Linux's WireGuard does it: the outer header's ECN bits for this inner packet (DSCP 0;
 * an inner CE goes out as ECT(0)). */
uint8_t wgf_ip_ecn_encapsulate(const uint8_t *packet);
/* The outer TOS' ECN bits into the inner header, with its checksum: CE and ECT(1) are taken over where
 * the inner packet is ECN-capable. */
void wgf_ip_ecn_decapsulate(uint8_t *packet, uint8_t outer_tos);

/* A UDP packet from this port to this address and port? For finding our own datagrams in the tunnel. */
bool wgf_ip_is_udp_to(const uint8_t *packet, size_t len, uint16_t source_port, uint8_t family,
		      const uint8_t *address, uint16_t port);

uint16_t wgf_ip_checksum(const uint8_t *data, size_t len, uint32_t sum); /* Internet checksum, RFC 1071 */

#endif
