/* The Internet checksum (RFC 1071) as sums that are gathered piece by piece and folded once.
 *
 * Sums are in memory order: words are added as the machine loads them and the result is stored as the
 * machine stores it, so nothing is ever swapped (RFC 1071, section 2 (B)). A sum is a plain 64-bit
 * number; adding to it a 16- or 32-bit word that was loaded with memcpy is as good as a call here.
 * Bounds: a megabyte adds less than 2^51, so that a thousand of them fit. */
#ifndef WGF_CHECKSUM_H
#define WGF_CHECKSUM_H

#include <stddef.h>
#include <stdint.h>

/* The sum and the words of p[0..len): any alignment, len at most 2^20. An odd length is padded with a
 * zero, so only the last piece of a message may be odd. */
uint64_t wgf_checksum_add(uint64_t sum, const uint8_t *p, size_t len);

/* The same, and src[0..len) is copied to dst, in one pass; they must not overlap. */
uint64_t wgf_checksum_copy(uint64_t sum, uint8_t *dst, const uint8_t *src, size_t len);

/* The sum of the pseudo header: RFC 9293 section 3.1, RFC 8200 section 8.1. ip is an IPv4 or IPv6 header
 * (ip[0] tells which) that is there as far as its addresses reach. */
uint64_t wgf_checksum_pseudo(const uint8_t *ip, uint32_t transport_len, uint8_t protocol);

/* 16 bits, not complemented, in memory order: store it with memcpy. 0 only if every byte was 0. */
static inline uint16_t wgf_checksum_fold(uint64_t sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

#endif
