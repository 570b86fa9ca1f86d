/* Destination unreachable: whether an answer may be given (RFC 1812 section 4.3.2.7, RFC 4443
 * section 2.4), and the answer.
 *
 * Everything is decided from the packet itself and written into the caller's buffer; the rate is one
 * atomic word, so that any worker may answer. */
#include <string.h>

#include "bytes.h"
#include "icmp.h"
#include "ip.h"
#include "limits.h"

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define ICMP_HEADER 8u
#define IPV4_ANSWER_MAX 576u /* RFC 1812 section 4.3.2.3 */
#define HOPS 64u
#define PRECEDENCE 0xc0u /* internetwork control: RFC 1812 section 4.3.2.5 */

enum { ICMP_UNREACHABLE = 3, ICMP_HOST = 1 };
enum { ICMP6_UNREACHABLE = 1, ICMP6_ADDRESS = 3, ICMP6_FIRST_INFORMATIONAL = 128, ICMP6_REDIRECT = 137 };
enum {
	NEXT_HOP_BY_HOP = 0,
	NEXT_ICMP = 1,
	NEXT_ROUTING = 43,
	NEXT_FRAGMENT = 44,
	NEXT_AUTHENTICATION = 51,
	NEXT_ICMP6 = 58,
	NEXT_OPTIONS = 60,
};

/* Burst and steady rate together make WGF_ICMP_PER_SECOND in the busiest second. */
#define BURST (WGF_ICMP_PER_SECOND / 10)
#define INTERVAL (WGF_SECOND / (WGF_ICMP_PER_SECOND - BURST))
#define TOLERANCE ((BURST - 1) * INTERVAL)

bool wgf_icmp_allow(struct wgf_icmp_limit *limit, uint64_t now)
{
	uint64_t due = atomic_load_explicit(&limit->credit_at, memory_order_relaxed);
	for (;;) {
		/* Further ahead than it can get: a caller's clock was set back, so begin anew. */
		bool impossible = due > now && due - now > TOLERANCE + INTERVAL + WGF_SECOND;
		uint64_t from = due < now || impossible ? now : due;
		if (from - now > TOLERANCE)
			return false;
		if (atomic_compare_exchange_weak_explicit(&limit->credit_at, &due, from + INTERVAL,
							  memory_order_relaxed, memory_order_relaxed))
			return true;
	}
}

/* An address that one host has, and a host outside this one: neither unspecified nor loopback,
 * multicast or broadcast. */
static bool names_a_host_v4(const uint8_t *address)
{
	return wgf_load_be32(address) != 0 && address[0] != 127 && (address[0] & 0xf0) != 0xe0 &&
	       wgf_load_be32(address) != UINT32_MAX;
}

static bool names_a_host_v6(const uint8_t *address)
{
	bool zero_or_one = wgf_load_be64(address) == 0 && wgf_load_be64(address + 8) <= 1;
	return !zero_or_one && address[0] != 0xff;
}

/* The messages that are questions or their answers; all others, unknown ones too, may be errors. */
static bool is_query_v4(uint8_t type)
{
	return type == 0 || (type >= 8 && type <= 10) || (type >= 13 && type <= 18) || type == 42 ||
	       type == 43;
}

static bool may_answer_v4(const uint8_t *packet, const struct wgf_ip *ip)
{
	uint32_t header = (uint32_t)(packet[0] & 15) * 4;
	if (!names_a_host_v4(ip->source) || !names_a_host_v4(ip->destination))
		return false;
	if (wgf_load_be16(packet + 6) & 0x1fff)
		return false; /* not the first fragment */
	return packet[9] != NEXT_ICMP || (ip->length > header && is_query_v4(packet[header]));
}

static bool may_answer_v6(const uint8_t *packet, const struct wgf_ip *ip)
{
	if (!names_a_host_v6(ip->source) || !names_a_host_v6(ip->destination))
		return false;
	uint8_t next = packet[6];
	uint32_t at = IPV6_HEADER;
	/* Extension headers are eight bytes at least, so the walk ends. A chain that is cut off may hide
	 * an error message. */
	for (;;) {
		uint32_t size;
		if (next == NEXT_ICMP6)
			return at < ip->length && packet[at] >= ICMP6_FIRST_INFORMATIONAL &&
			       packet[at] != ICMP6_REDIRECT;
		if (next != NEXT_HOP_BY_HOP && next != NEXT_ROUTING && next != NEXT_OPTIONS &&
		    next != NEXT_FRAGMENT && next != NEXT_AUTHENTICATION)
			return true;
		if (ip->length - at < 8)
			return false;
		if (next == NEXT_FRAGMENT && (wgf_load_be16(packet + at + 2) & 0xfff8))
			return false;
		if (next == NEXT_FRAGMENT)
			size = 8;
		else if (next == NEXT_AUTHENTICATION)
			size = (packet[at + 1] + 2u) * 4;
		else
			size = (packet[at + 1] + 1u) * 8;
		if (size < 8 || size > ip->length - at)
			return false;
		next = packet[at];
		at += size;
	}
}

static size_t answer_v4(uint8_t *out, const uint8_t *packet, const struct wgf_ip *ip)
{
	size_t room = IPV4_ANSWER_MAX - IPV4_HEADER - ICMP_HEADER;
	size_t quoted = ip->length < room ? ip->length : room;
	size_t total = IPV4_HEADER + ICMP_HEADER + quoted;
	memset(out, 0, IPV4_HEADER + ICMP_HEADER);
	out[0] = 0x45;
	out[1] = PRECEDENCE;
	wgf_store_be16(out + 2, (uint16_t)total);
	out[8] = HOPS;
	out[9] = NEXT_ICMP;
	memcpy(out + 12, ip->destination, 4);
	memcpy(out + 16, ip->source, 4);
	wgf_store_be16(out + 10, wgf_ip_checksum(out, IPV4_HEADER, 0));

	uint8_t *icmp = out + IPV4_HEADER;
	icmp[0] = ICMP_UNREACHABLE;
	icmp[1] = ICMP_HOST;
	memcpy(icmp + ICMP_HEADER, packet, quoted);
	wgf_store_be16(icmp + 2, wgf_ip_checksum(icmp, ICMP_HEADER + quoted, 0));
	return total;
}

static size_t answer_v6(uint8_t *out, const uint8_t *packet, const struct wgf_ip *ip)
{
	size_t room = WGF_ICMP_MAX - IPV6_HEADER - ICMP_HEADER;
	size_t quoted = ip->length < room ? ip->length : room;
	size_t payload = ICMP_HEADER + quoted;
	memset(out, 0, IPV6_HEADER + ICMP_HEADER);
	out[0] = 0x60;
	wgf_store_be16(out + 4, (uint16_t)payload);
	out[6] = NEXT_ICMP6;
	out[7] = HOPS;
	memcpy(out + 8, ip->destination, 16);
	memcpy(out + 24, ip->source, 16);

	uint8_t *icmp = out + IPV6_HEADER;
	icmp[0] = ICMP6_UNREACHABLE;
	icmp[1] = ICMP6_ADDRESS;
	memcpy(icmp + ICMP_HEADER, packet, quoted);
	/* The pseudo-header (RFC 8200 section 8.1) is the two addresses, which lie right before the
	 * message, its length and its number. */
	wgf_store_be16(icmp + 2,
		       wgf_ip_checksum(out + 8, 32 + payload, (uint32_t)payload + NEXT_ICMP6));
	return IPV6_HEADER + payload;
}

size_t wgf_icmp_unreachable(uint8_t out[WGF_ICMP_MAX], const uint8_t *packet, size_t len)
{
	struct wgf_ip ip;
	if (!wgf_ip_parse(&ip, packet, len))
		return 0;
	if (ip.family == 4)
		return may_answer_v4(packet, &ip) ? answer_v4(out, packet, &ip) : 0;
	return may_answer_v6(packet, &ip) ? answer_v6(out, packet, &ip) : 0;
}
