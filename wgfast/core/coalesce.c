/* Packets put together into super-packets.
 *
 * The rules are those of Linux' inet_gro_receive, ipv6_gro_receive, tcp_gro_receive and
 * udp_gro_receive_segment, less what a TUN device has no way to say (TCP with a fixed IPv4 identification)
 * and less what would come back with other bytes than it went in (an urgent pointer, 0xffff for a checksum
 * of zero).
 *
 * Checksums are verified only when two packets fit together otherwise: a packet that stays alone goes
 * through as it came, right or wrong, and the kernel judges it. */
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "coalesce.h"

#define IPV4_HEADER 20u
#define IPV6_HEADER 40u
#define TCP_HEADER 20u
#define UDP_HEADER 8u
#define LEN_MAX 65535u   /* of a super-packet: IPv4's length field, and what the kernel's GRO allows itself */
#define UDP_SEGMENTS 64u /* UDP_GRO_CNT_MAX */

enum { PROTOCOL_TCP = 6, PROTOCOL_UDP = 17 };
enum { FIN = 0x01, SYN = 0x02, RST = 0x04, PSH = 0x08, ACK = 0x10, URG = 0x20, CWR = 0x80 };
enum { DONT_FRAGMENT = 0x4000 };
enum { TCP_CHECK = 16, UDP_CHECK = 6 }; /* offsets in the transport header */

_Static_assert(sizeof(struct virtio_net_hdr) == 10, "what a TUN device expects before a packet");

/* ---- One packet's headers ---- */

enum kind {
	STRANGER, /* of no flow that is put together: any other protocol, or no IP at all */
	PUZZLE,   /* may belong to any flow: a fragment, options, lengths that contradict each other */
	MEMBER,   /* of a flow, with whole headers */
};

/* A member's headers. */
struct view {
	uint8_t transport;   /* where TCP or UDP begins */
	uint8_t protocol;
	uint16_t headers;    /* bytes of IP and transport header */
	uint32_t payload;
	bool may_open;       /* a group may begin with it */
	bool may_follow;
};

static enum kind read_tcp(struct view *view, const uint8_t *tcp, uint32_t len)
{
	if (len < TCP_HEADER)
		return PUZZLE;
	uint32_t header = (uint32_t)(tcp[12] >> 4) * 4;
	if (header < TCP_HEADER || header > len)
		return PUZZLE;
	view->headers = (uint16_t)(view->transport + header);
	view->payload = len - header;
	bool plain = len > header && (tcp[13] & (ACK | SYN | RST | URG)) == ACK;
	view->may_open = plain && !(tcp[13] & (PSH | FIN));
	view->may_follow = plain && !(tcp[13] & CWR);
	return MEMBER;
}

static enum kind read_udp(struct view *view, const uint8_t *udp, uint32_t len)
{
	if (len < UDP_HEADER)
		return PUZZLE;
	view->headers = (uint16_t)(view->transport + UDP_HEADER);
	view->payload = len - UDP_HEADER;
	/* Super-packets have a checksum, and so will all that they are cut into. */
	bool plain = len > UDP_HEADER && wgf_load_be16(udp + 4) == len && wgf_load_be16(udp + UDP_CHECK) != 0;
	view->may_open = view->may_follow = plain;
	return MEMBER;
}

static bool is_extension_header(uint8_t next)
{
	switch (next) {
	case 0:   /* hop by hop */
	case 43:  /* routing */
	case 44:  /* fragment */
	case 51:  /* authentication */
	case 60:  /* destination options */
	case 135: /* mobility */
	case 139: /* host identity */
	case 140: /* shim6 */
		return true;
	default:
		return false;
	}
}

static enum kind read_v4(struct view *view, const uint8_t *p, uint32_t len)
{
	if (len < IPV4_HEADER)
		return PUZZLE;
	view->protocol = p[9];
	if (view->protocol != PROTOCOL_TCP && view->protocol != PROTOCOL_UDP)
		return STRANGER;
	if (p[0] != 0x45 || wgf_load_be16(p + 2) != len || (wgf_load_be16(p + 6) & ~DONT_FRAGMENT))
		return PUZZLE;
	view->transport = IPV4_HEADER;
	return MEMBER;
}

static enum kind read_v6(struct view *view, const uint8_t *p, uint32_t len)
{
	if (len < IPV6_HEADER)
		return PUZZLE;
	view->protocol = p[6];
	if (view->protocol != PROTOCOL_TCP && view->protocol != PROTOCOL_UDP)
		return is_extension_header(view->protocol) ? PUZZLE : STRANGER;
	if (IPV6_HEADER + (uint32_t)wgf_load_be16(p + 4) != len)
		return PUZZLE;
	view->transport = IPV6_HEADER;
	return MEMBER;
}

static enum kind read_headers(struct view *view, const uint8_t *p, uint32_t len, unsigned features)
{
	if (len == 0)
		return STRANGER;
	bool v4 = p[0] >> 4 == 4;
	if (!v4 && p[0] >> 4 != 6)
		return STRANGER;
	enum kind kind = v4 ? read_v4(view, p, len) : read_v6(view, p, len);
	if (kind != MEMBER)
		return kind;
	bool tcp = view->protocol == PROTOCOL_TCP;
	kind = tcp ? read_tcp(view, p + view->transport, len - view->transport)
		   : read_udp(view, p + view->transport, len - view->transport);
	unsigned needed = tcp ? v4 ? WGF_COALESCE_TCP4 : WGF_COALESCE_TCP6
			      : v4 ? WGF_COALESCE_UDP4 : WGF_COALESCE_UDP6;
	view->may_open = view->may_open && (features & needed);
	return kind;
}

/* ---- Flows: where to find each one's latest group ---- */

/* Twice as many as packets. A flow is looked for in so many places and no more: one that finds none (or that
 * somebody took pains to crowd out) is not put together, which leaves its order alone. */
#define SLOTS (2 * WGF_COALESCE_PACKETS)
#define PROBES 8u

struct flows {
	uint16_t slots[SLOTS]; /* indices of groups; WGF_COALESCE_LAST: free */
	uint32_t mask;
	uint16_t *recent;      /* the slot of the flow seen last, NULL at first */
	unsigned floor;        /* groups before this one are closed */
};

static void begin_flows(struct flows *flows, unsigned n)
{
	uint32_t size = 2;
	while (size < 2 * n && size < SLOTS)
		size *= 2;
	memset(flows->slots, 0xff, size * sizeof(flows->slots[0]));
	flows->mask = size - 1;
	flows->recent = NULL;
	flows->floor = 0;
}

static bool is_of_flow(const struct wgf_coalesce_group *group, const uint8_t *p, const struct view *view)
{
	const uint8_t *q = group->data;
	if (group->transport != view->transport)
		return false;
	if (view->transport == IPV4_HEADER)
		return q[9] == p[9] && memcmp(q + 12, p + 12, 12) == 0; /* addresses and ports */
	return q[6] == p[6] && memcmp(q + 8, p + 8, 36) == 0;
}

static uint32_t hash_of_flow(const uint8_t *p, const struct view *view)
{
	uint64_t hash = view->protocol, word;
	uint32_t ports;
	const uint8_t *end = p + view->transport;
	for (p += view->transport == IPV4_HEADER ? 12 : 8; p < end; p += sizeof(word)) {
		memcpy(&word, p, sizeof(word));
		hash = (hash ^ word) * UINT64_C(0x9e3779b97f4a7c15);
		hash ^= hash >> 32;
	}
	memcpy(&ports, end, sizeof(ports));
	hash = (hash ^ ports) * UINT64_C(0xbf58476d1ce4e5b9);
	return (uint32_t)(hash >> 32);
}

/* The flow's slot, or a free one that may become it, or NULL. */
static uint16_t *find_flow(struct flows *flows, const struct wgf_coalesce_group *groups, const uint8_t *p,
			   const struct view *view)
{
	if (flows->recent && is_of_flow(&groups[*flows->recent], p, view))
		return flows->recent;
	uint32_t at = hash_of_flow(p, view);
	for (uint32_t probe = 0; probe < PROBES; probe++) {
		uint16_t *slot = &flows->slots[(at + probe) & flows->mask];
		if (*slot == WGF_COALESCE_LAST)
			return slot;
		if (is_of_flow(&groups[*slot], p, view)) {
			flows->recent = slot;
			return slot;
		}
	}
	return NULL;
}

/* ---- Whether a packet fits behind a group ---- */

/* The headers' own checksums are right, and in the one form that cutting up would make again: 0xffff is
 * another way to write 0, except in UDP, where 0 means none. */
static bool is_intact(const uint8_t *p, uint32_t len, const struct view *view)
{
	const uint8_t *transport = p + view->transport;
	len -= view->transport;
	if (view->transport == IPV4_HEADER &&
	    (wgf_load_be16(p + 10) == 0xffff || wgf_checksum_fold(wgf_checksum_add(0, p, IPV4_HEADER)) != 0xffff))
		return false;
	if (view->protocol == PROTOCOL_TCP && wgf_load_be16(transport + TCP_CHECK) == 0xffff)
		return false;
	uint64_t sum = wgf_checksum_pseudo(p, len, view->protocol);
	return wgf_checksum_fold(wgf_checksum_add(sum, transport, len)) == 0xffff;
}

/* Every segment gets an identification one up from its predecessor's. Datagrams that must not be fragmented
 * have no use for one (RFC 6864 section 4): Linux sends 0 in those of unconnected sockets. */
static bool follows_id(struct wgf_coalesce_group *group, const uint8_t *p, const struct view *view)
{
	uint16_t ahead = (uint16_t)(wgf_load_be16(p + 4) - wgf_load_be16(group->data + 4));
	if (group->count == 1)
		group->fixed_id = ahead == 0 && view->protocol == PROTOCOL_UDP &&
				  (wgf_load_be16(p + 6) & DONT_FRAGMENT);
	return ahead == (group->fixed_id ? 0 : group->count);
}

/* All that is neither length, checksum, identification, sequence nor a flag that may differ. */
static bool has_equal_headers(const uint8_t *q, const uint8_t *p, const struct view *view)
{
	if (view->transport == IPV4_HEADER) {
		if (q[1] != p[1] || memcmp(q + 6, p + 6, 3) != 0) /* TOS; fragment field and TTL */
			return false;
	} else if (memcmp(q, p, 4) != 0 || q[7] != p[7]) { /* class and label; hop limit */
		return false;
	}
	if (view->protocol == PROTOCOL_UDP)
		return true;
	q += view->transport;
	p += view->transport;
	if (memcmp(q + 8, p + 8, 5) != 0 || ((q[13] ^ p[13]) & ~(FIN | PSH | CWR))) /* acknowledged; flags */
		return false;
	if (memcmp(q + 14, p + 14, 2) != 0 || memcmp(q + 18, p + 18, 2) != 0) /* window; urgent pointer */
		return false;
	size_t options = view->headers - view->transport - TCP_HEADER;
	return memcmp(q + TCP_HEADER, p + TCP_HEADER, options) == 0;
}

static bool fits(struct wgf_coalesce_group *group, const uint8_t *p, const struct view *view)
{
	if (!view->may_follow || view->headers != group->headers_len)
		return false;
	if (view->payload > group->header.gso_size || group->len + view->payload > LEN_MAX)
		return false;
	if (view->protocol == PROTOCOL_TCP && wgf_load_be32(p + view->transport + 4) != group->sequence)
		return false;
	if (view->transport == IPV4_HEADER && !follows_id(group, p, view))
		return false;
	return has_equal_headers(group->data, p, view);
}

/* ---- Groups ---- */

static void begin_group(struct wgf_coalesce_group *group, const struct wgf_coalesce_packet *packet,
			uint16_t index)
{
	*group = (struct wgf_coalesce_group){
		.first = index, .last = index, .count = 1, .len = packet->len, .data = packet->data};
}

/* A member's group may grow, and is what the flow is known by. */
static void open_group(struct wgf_coalesce_group *group, const struct view *view)
{
	group->headers_len = view->headers;
	group->transport = view->transport;
	group->header.gso_size = (uint16_t)view->payload; /* at most what an IP packet holds */
	if (view->protocol == PROTOCOL_TCP)
		group->sequence = wgf_load_be32(group->data + view->transport + 4) + view->payload;
	group->open = true;
}

/* Puts the packet behind the group, or closes the group: it is the flow's next packet, so nothing after it
 * may overtake it. */
static bool append(struct wgf_coalesce_group *group, struct wgf_coalesce_packet *packets, uint16_t index,
		   const struct view *view)
{
	const struct wgf_coalesce_packet *packet = &packets[index];
	bool open = group->open;
	group->open = false;
	if (!open || !fits(group, packet->data, view))
		return false;
	/* The first has the same protocol and headers as long, so the view is good for it too. */
	if (!group->intact && !is_intact(group->data, packets[group->first].len, view))
		return false;
	group->intact = true;
	if (!is_intact(packet->data, packet->len, view))
		return false;
	packets[group->last].next = index;
	group->last = index;
	group->count++;
	group->len += view->payload;
	group->sequence += view->payload;
	bool ends = view->payload < group->header.gso_size;
	if (view->protocol == PROTOCOL_TCP)
		ends = ends || (packet->data[view->transport + 13] & (PSH | FIN));
	else
		ends = ends || group->count == UDP_SEGMENTS;
	group->open = !ends;
	return true;
}

static void finish_tcp(struct wgf_coalesce_group *group, const uint8_t *last)
{
	uint8_t *tcp = group->data + group->transport;
	bool v4 = group->transport == IPV4_HEADER;
	group->header.gso_type = v4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	if (tcp[13] & CWR)
		group->header.gso_type |= VIRTIO_NET_HDR_GSO_ECN; /* the first segment's alone */
	tcp[13] |= last[group->transport + 13] & (PSH | FIN);     /* the last segment's alone */
	group->header.csum_offset = TCP_CHECK;
}

static void finish_udp(struct wgf_coalesce_group *group)
{
	group->header.gso_type = VIRTIO_NET_HDR_GSO_UDP_L4;
	group->header.csum_offset = UDP_CHECK;
}

/* Makes the headers say that all of it is so long; IPv4's has its own checksum. Returns the protocol. */
static uint8_t write_len(const struct wgf_coalesce_group *group, uint32_t len)
{
	uint8_t *ip = group->data;
	bool v4 = group->transport == IPV4_HEADER;
	uint8_t protocol = ip[v4 ? 9 : 6];
	if (protocol == PROTOCOL_UDP)
		wgf_store_be16(ip + group->transport + 4, (uint16_t)(len - group->transport));
	if (!v4) {
		wgf_store_be16(ip + 4, (uint16_t)(len - IPV6_HEADER));
		return protocol;
	}
	wgf_store_be16(ip + 2, (uint16_t)len);
	wgf_store_be16(ip + 10, 0);
	uint16_t check = (uint16_t)~wgf_checksum_fold(wgf_checksum_add(0, ip, IPV4_HEADER));
	memcpy(ip + 10, &check, sizeof(check));
	return protocol;
}

/* Makes the first packet's headers those of the super-packet. */
static void finish_group(struct wgf_coalesce_group *group, const struct wgf_coalesce_packet *packets)
{
	if (group->count == 1) {
		group->header = (struct virtio_net_hdr){0};
		return;
	}
	uint8_t protocol = write_len(group, group->len);
	if (protocol == PROTOCOL_TCP)
		finish_tcp(group, packets[group->last].data);
	else
		finish_udp(group);
	group->header.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM;
	group->header.hdr_len = group->headers_len;
	group->header.csum_start = group->transport;
	/* The device completes a checksum that begins as the pseudo-header's sum, not complemented. */
	uint32_t len = group->len - group->transport;
	uint16_t sum = wgf_checksum_fold(wgf_checksum_pseudo(group->data, len, protocol));
	uint8_t *check = group->data + group->transport + group->header.csum_offset;
	memcpy(&group->check, check, sizeof(group->check));
	memcpy(check, &sum, sizeof(sum));
}

void wgf_coalesce_undo(struct wgf_coalesce_packet *packets, struct wgf_coalesce_group *group)
{
	if (group->header.gso_type == VIRTIO_NET_HDR_GSO_NONE) /* alone, or undone before */
		return;
	uint8_t *transport = group->data + group->transport;
	/* IPv4's checksum comes out as it was: found right, and not 0xffff, when the group was merged. */
	if (write_len(group, packets[group->first].len) == PROTOCOL_TCP)
		transport[13] &= (uint8_t)~(PSH | FIN); /* no group begins with either */
	memcpy(transport + group->header.csum_offset, &group->check, sizeof(group->check));
	group->header = (struct virtio_net_hdr){0};
}

unsigned wgf_coalesce(struct wgf_coalesce_packet *packets, unsigned n, struct wgf_coalesce_group *groups,
		      unsigned features)
{
	struct flows flows;
	unsigned count = 0;
	begin_flows(&flows, n);
	for (unsigned i = 0; i < n; i++) {
		struct wgf_coalesce_packet *packet = &packets[i];
		struct view view = {0};
		packet->next = WGF_COALESCE_LAST;
		enum kind kind = read_headers(&view, packet->data, packet->len, features);
		if (kind == PUZZLE)
			flows.floor = count; /* nothing that comes after it may overtake it */
		uint16_t *slot = kind == MEMBER ? find_flow(&flows, groups, packet->data, &view) : NULL;
		if (slot && *slot != WGF_COALESCE_LAST && *slot >= flows.floor &&
		    append(&groups[*slot], packets, (uint16_t)i, &view))
			continue;
		begin_group(&groups[count], packet, (uint16_t)i);
		if (slot && view.may_open) {
			open_group(&groups[count], &view);
			*slot = (uint16_t)count;
			flows.recent = slot;
		}
		count++;
	}
	for (unsigned i = 0; i < count; i++)
		finish_group(&groups[i], packets);
	return count;
}
