/* What the tunnel needs to know of an inner packet.
 *
 * Bytes are read where they lie, one at a time, instead of through the system's header structures: a
 * packet has no alignment, and the few fields wanted are easier to check against `len` that way. */
#include <string.h>

#include "bytes.h"
#include "ip.h"

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define IPV6_FRAGMENT_HEADER 8u
#define UDP_PORTS 4u /* bytes that must be there to read them */

enum { NEXT_UDP = 17, NEXT_FRAGMENT = 44 };
enum { NOT_ECT = 0, ECT_1 = 1, ECT_0 = 2, CE = 3 }; /* RFC 3168 section 5 */

static bool parse_v4(struct wgf_ip *ip, const uint8_t *packet, size_t len)
{
	if (len < IPV4_HEADER)
		return false;
	size_t header = (size_t)(packet[0] & 15) * 4;
	uint32_t total = wgf_load_be16(packet + 2);
	if (header < IPV4_HEADER || header > total || total > len)
		return false;
	*ip = (struct wgf_ip){4, total, packet + 12, packet + 16};
	return true;
}

static bool parse_v6(struct wgf_ip *ip, const uint8_t *packet, size_t len)
{
	if (len < IPV6_HEADER)
		return false;
	uint32_t total = IPV6_HEADER + (uint32_t)wgf_load_be16(packet + 4); /* may pass 65535 */
	if (total > len)
		return false;
	*ip = (struct wgf_ip){6, total, packet + 8, packet + 24};
	return true;
}

bool wgf_ip_parse(struct wgf_ip *ip, const uint8_t *packet, size_t len)
{
	if (len == 0)
		return false;
	switch (packet[0] >> 4) {
	case 4:
		return parse_v4(ip, packet, len);
	case 6:
		return parse_v6(ip, packet, len);
	default:
		return false;
	}
}

static uint8_t inner_ecn(const uint8_t *packet)
{
	/* IPv6's traffic class begins four bits into the header. */
	return packet[0] >> 4 == 4 ? packet[1] & 3 : packet[1] >> 4 & 3;
}

uint8_t wgf_ip_ecn_encapsulate(const uint8_t *packet)
{
	uint8_t ecn = inner_ecn(packet);
	return ecn == CE ? ECT_0 : ecn;
}

static void set_ecn_v4(uint8_t *packet, uint8_t ecn)
{
	uint16_t before = wgf_load_be16(packet), check = wgf_load_be16(packet + 10);
	packet[1] = (uint8_t)((packet[1] & ~3) | ecn);
	uint16_t after = wgf_load_be16(packet);
	/* RFC 1624, equation 3: HC' = ~(~HC + ~m + m') */
	uint32_t sum = (uint32_t)(uint16_t)~check + (uint16_t)~before + after;
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	wgf_store_be16(packet + 10, (uint16_t)~sum);
}

static void set_ecn_v6(uint8_t *packet, uint8_t ecn)
{
	packet[1] = (uint8_t)((packet[1] & ~(3 << 4)) | ecn << 4);
}

void wgf_ip_ecn_decapsulate(uint8_t *packet, uint8_t outer_tos)
{
	uint8_t inner = inner_ecn(packet), outer = outer_tos & 3, ecn = inner;
	/* RFC 6040 figure 4. A mark on a packet that is not ECN-capable asks for a drop, which Linux's
	 * WireGuard does not do: so neither do we. */
	if (inner != NOT_ECT && outer == CE)
		ecn = CE;
	else if (inner == ECT_0 && outer == ECT_1)
		ecn = ECT_1;
	if (ecn == inner)
		return;
	if (packet[0] >> 4 == 4)
		set_ecn_v4(packet, ecn);
	else
		set_ecn_v6(packet, ecn);
}

/* Where the UDP header begins, 0 if there is none. Our own datagrams have no extension header but, when
 * the system had to cut them up, the fragment header; later fragments carry no ports. */
static uint32_t find_udp(const uint8_t *packet, const struct wgf_ip *ip)
{
	if (ip->family == 4) {
		bool first = (wgf_load_be16(packet + 6) & 0x1fff) == 0;
		return first && packet[9] == NEXT_UDP ? (uint32_t)(packet[0] & 15) * 4 : 0;
	}
	if (packet[6] == NEXT_UDP)
		return IPV6_HEADER;
	if (packet[6] != NEXT_FRAGMENT || ip->length < IPV6_HEADER + IPV6_FRAGMENT_HEADER)
		return 0;
	const uint8_t *fragment = packet + IPV6_HEADER;
	bool first = (wgf_load_be16(fragment + 2) & 0xfff8) == 0;
	return first && fragment[0] == NEXT_UDP ? IPV6_HEADER + IPV6_FRAGMENT_HEADER : 0;
}

bool wgf_ip_is_udp_to(const uint8_t *packet, size_t len, uint16_t source_port, uint8_t family,
		      const uint8_t *address, uint16_t port)
{
	struct wgf_ip ip;
	if (!wgf_ip_parse(&ip, packet, len) || ip.family != family)
		return false;
	if (memcmp(ip.destination, address, family == 4 ? 4 : 16) != 0)
		return false;
	uint32_t at = find_udp(packet, &ip);
	if (at == 0 || ip.length - at < UDP_PORTS)
		return false;
	return wgf_load_be16(packet + at) == source_port && wgf_load_be16(packet + at + 2) == port;
}

uint16_t wgf_ip_checksum(const uint8_t *data, size_t len, uint32_t sum)
{
	uint64_t total = sum; /* 64 bits: no length can make it wrap */
	for (size_t i = 0; i + 1 < len; i += 2)
		total += wgf_load_be16(data + i);
	if (len & 1)
		total += (uint64_t)data[len - 1] << 8;
	while (total >> 16)
		total = (total & 0xffff) + (total >> 16);
	return (uint16_t)~total;
}
