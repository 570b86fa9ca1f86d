/* Super-packets cut up.
 *
 * Nothing the virtio header says is believed before the packet bears it out, and its hdr_len never is: where
 * the transport header begins and ends is found in the packet. What all pieces have in common is summed once,
 * in the beginning; a piece costs the copy of its headers, and one pass over its payload, which copies and
 * sums it.
 *
 * All sums are in memory order (checksum.h), and so are the words that are added to them. */
#include <string.h>

#include "bytes.h"
#include "checksum.h"
#include "segment.h"

#define IPV4_HEADER 20u
#define IPV4_MAX 65535u
#define IPV6_HEADER 40u
#define EXTENSION_HEADER 8u /* at least */
#define TCP_HEADER 20u
#define UDP_HEADER 8u

enum { NEXT_HOP_BY_HOP = 0, NEXT_TCP = 6, NEXT_UDP = 17, NEXT_ROUTING = 43, NEXT_OPTIONS = 60 };
enum { TCP_SEQUENCE = 4, TCP_FLAGS = 13, TCP_CHECK = 16, UDP_LENGTH = 4, UDP_CHECK = 6 };
enum { FIN = 0x01, PSH = 0x08, CWR = 0x80 };

static inline uint16_t load16(const uint8_t *p)
{
	uint16_t word;
	memcpy(&word, p, sizeof(word));
	return word;
}

static inline uint32_t load32(const uint8_t *p)
{
	uint32_t word;
	memcpy(&word, p, sizeof(word));
	return word;
}

static inline void store_check(uint8_t *p, uint16_t check)
{
	memcpy(p, &check, sizeof(check));
}

/* ---- A packet without segmentation ---- */

/* The sender has left the pseudo header's sum in the field, whatever the protocol. */
static bool complete_checksum(const struct virtio_net_hdr *header, uint8_t *packet, size_t len)
{
	size_t start = header->csum_start, at = start + header->csum_offset;
	if (at + 2 > len)
		return false;
	uint16_t check = (uint16_t)~wgf_checksum_fold(wgf_checksum_add(0, packet + start, len - start));
	/* In UDP (RFC 768) a zero says that there is no checksum; the other protocols with the field in
	 * this place do not mind. */
	if (check == 0 && header->csum_offset == UDP_CHECK)
		check = 0xffff;
	store_check(packet + at, check);
	return true;
}

/* ---- A super-packet examined ---- */

/* Where the transport header begins, and its protocol. 0: there is none that may be cut up. */
static uint32_t find_transport_v4(const uint8_t *packet, uint32_t len, uint8_t *protocol)
{
	if (len < IPV4_HEADER || len > IPV4_MAX)
		return 0;
	uint32_t header = (packet[0] & 15u) * 4;
	bool fragment = wgf_load_be16(packet + 6) & 0x3fff; /* an offset, or more of them */
	if (header < IPV4_HEADER || header > len || fragment)
		return 0;
	*protocol = packet[9];
	return header;
}

static uint32_t find_transport_v6(const uint8_t *packet, uint32_t len, uint8_t *protocol)
{
	if (len < IPV6_HEADER)
		return 0;
	uint8_t next = packet[6];
	uint32_t at = IPV6_HEADER;
	/* The extension headers that Linux repeats in every piece; fragments and all others end the walk as
	 * an unknown protocol. */
	while (next == NEXT_HOP_BY_HOP || next == NEXT_ROUTING || next == NEXT_OPTIONS) {
		if (len - at < EXTENSION_HEADER)
			return 0;
		uint32_t size = (packet[at + 1] + 1u) * 8;
		if (size > len - at)
			return 0;
		next = packet[at];
		at += size;
	}
	*protocol = next;
	return at;
}

/* TCP or UDP, in the version of IP that the header says? And nothing else the kernel would not cut up. */
static bool is_of_type(const struct wgf_super *super, const struct virtio_net_hdr *header)
{
	uint8_t version = super->packet[0] >> 4;
	switch (header->gso_type) {
	case VIRTIO_NET_HDR_GSO_TCPV4:
	case VIRTIO_NET_HDR_GSO_TCPV4 | VIRTIO_NET_HDR_GSO_ECN:
		return version == 4 && super->protocol == NEXT_TCP;
	case VIRTIO_NET_HDR_GSO_TCPV6:
	case VIRTIO_NET_HDR_GSO_TCPV6 | VIRTIO_NET_HDR_GSO_ECN:
		return version == 6 && super->protocol == NEXT_TCP;
	case VIRTIO_NET_HDR_GSO_UDP_L4:
		return super->protocol == NEXT_UDP && (header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM);
	default:
		return false;
	}
}

/* Fills in where the headers end. */
static bool find_headers(struct wgf_super *super)
{
	const uint8_t *packet = super->packet;
	uint8_t version = packet[0] >> 4;
	if (version == 4)
		super->transport = find_transport_v4(packet, super->len, &super->protocol);
	else if (version == 6)
		super->transport = find_transport_v6(packet, super->len, &super->protocol);
	if (super->transport == 0)
		return false;
	uint32_t room = super->len - super->transport, size = UDP_HEADER;
	if (super->protocol == NEXT_TCP) {
		if (room < TCP_HEADER)
			return false;
		size = (packet[super->transport + 12] >> 4) * 4u;
		if (size < TCP_HEADER)
			return false;
	}
	super->headers = super->transport + size;
	return size <= room;
}

/* The sum of the pseudo header, its length left out. */
static bool sum_pseudo(struct wgf_super *super, const struct virtio_net_hdr *header)
{
	const uint8_t *transport = super->packet + super->transport;
	uint32_t offset = super->protocol == NEXT_TCP ? TCP_CHECK : UDP_CHECK;
	/* Linux cuts up TCP (is_of_type: not UDP) whose checksum nobody has begun, and makes a new one. */
	if (!(header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM)) {
		super->transport_sum = wgf_checksum_pseudo(super->packet, 0, super->protocol);
		return true;
	}
	if (header->csum_start != super->transport || header->csum_offset != offset)
		return false;
	uint8_t length[2];
	wgf_store_be16(length, (uint16_t)(super->len - super->transport));
	super->transport_sum = load16(transport + offset) + (0xffffu - load16(length));
	return true;
}

/* What a piece changes is left out of the sums. */
static void sum_headers(struct wgf_super *super)
{
	const uint8_t *packet = super->packet, *transport = packet + super->transport;
	if (packet[0] >> 4 == 4) {
		uint64_t sum = (uint64_t)load16(packet) + load32(packet + 6);
		super->ip_sum = wgf_checksum_add(sum, packet + 12, super->transport - 12);
		super->id = wgf_load_be16(packet + 4);
	}
	super->transport_sum += load32(transport); /* the ports */
	if (super->protocol != NEXT_TCP)
		return;
	super->transport_sum += load32(transport + 8);  /* acknowledgment */
	super->transport_sum += load16(transport + 14); /* window */
	super->transport_sum = wgf_checksum_add(super->transport_sum, transport + 18,
						super->headers - super->transport - 18);
	super->sequence = wgf_load_be32(transport + TCP_SEQUENCE);
}

static bool begin_segmented(struct wgf_super *super, const struct virtio_net_hdr *header)
{
	if (header->gso_size == 0 || !find_headers(super) || !is_of_type(super, header) ||
	    !sum_pseudo(super, header))
		return false;
	sum_headers(super);
	uint32_t payload = super->len - super->headers, size = header->gso_size;
	super->size = size;
	super->at = super->headers;
	super->pieces = payload > size ? (payload + size - 1) / size : 1;
	return true;
}

bool wgf_super_begin(struct wgf_super *super, const struct virtio_net_hdr *header, uint8_t *packet,
		     size_t len)
{
	*super = (struct wgf_super){.packet = packet};
	if (len == 0 || len > WGF_SUPER_MAX)
		return false;
	super->len = (uint32_t)len;
	if (header->gso_type != VIRTIO_NET_HDR_GSO_NONE)
		return begin_segmented(super, header);
	if ((header->flags & VIRTIO_NET_HDR_F_NEEDS_CSUM) && !complete_checksum(header, packet, len))
		return false;
	super->pieces = 1;
	return true;
}

/* ---- Piece by piece ---- */

static uint32_t next_payload(const struct wgf_super *super)
{
	return super->pieces > 1 ? super->size : super->len - super->at;
}

uint32_t wgf_super_next_length(const struct wgf_super *super)
{
	return super->pieces == 0 ? 0 : super->headers + next_payload(super);
}

static void write_ip(const struct wgf_super *super, uint8_t *to, uint32_t len)
{
	if (to[0] >> 4 == 6) {
		wgf_store_be16(to + 4, (uint16_t)(len - IPV6_HEADER));
		return;
	}
	wgf_store_be16(to + 2, (uint16_t)len);
	wgf_store_be16(to + 4, super->id);
	uint64_t sum = super->ip_sum + load32(to + 2); /* which takes in the identification */
	store_check(to + 10, (uint16_t)~wgf_checksum_fold(sum));
}

static void write_tcp(const struct wgf_super *super, uint8_t *tcp, uint64_t sum)
{
	wgf_store_be32(tcp + TCP_SEQUENCE, super->sequence);
	if (super->pieces > 1)
		tcp[TCP_FLAGS] &= (uint8_t)~(FIN | PSH);
	/* Congestion window reduced is said once (RFC 3168 section 6.1.2), with the ECN bit or without. */
	if (super->at > super->headers)
		tcp[TCP_FLAGS] &= (uint8_t)~CWR;
	sum += load32(tcp + TCP_SEQUENCE);
	sum += load16(tcp + TCP_FLAGS - 1);
	store_check(tcp + TCP_CHECK, (uint16_t)~wgf_checksum_fold(sum));
}

static void write_udp(uint8_t *udp, uint32_t len, uint64_t sum)
{
	wgf_store_be16(udp + UDP_LENGTH, (uint16_t)len);
	sum += load16(udp + UDP_LENGTH);
	uint16_t check = (uint16_t)~wgf_checksum_fold(sum);
	store_check(udp + UDP_CHECK, check ? check : 0xffff);
}

void wgf_super_next(struct wgf_super *super, uint8_t *to)
{
	uint32_t payload = next_payload(super), len = super->headers + payload;
	if (super->headers == 0) {
		memcpy(to, super->packet, len);
	} else {
		uint32_t transport_len = len - super->transport;
		uint8_t *transport = to + super->transport, length[2];
		wgf_store_be16(length, (uint16_t)transport_len);
		memcpy(to, super->packet, super->headers);
		write_ip(super, to, len);
		uint64_t sum = super->transport_sum + load16(length); /* the pseudo header's */
		sum = wgf_checksum_copy(sum, to + super->headers, super->packet + super->at, payload);
		if (super->protocol == NEXT_TCP)
			write_tcp(super, transport, sum);
		else
			write_udp(transport, transport_len, sum);
	}
	super->at += payload;
	super->sequence += payload;
	super->id++;
	super->pieces--;
}
