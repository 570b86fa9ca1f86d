/* IP packets of TCP and UDP flows, whole ones with right checksums and super-packets as a TUN device gives them.
 * The bytes of a flow's payload follow from where in the flow they are. */
#ifndef WGF_FLOWS_H
#define WGF_FLOWS_H

#include <stdbool.h>

#include "../../wgfast/core/bytes.h"
#include "../../wgfast/core/ip.h"
#include "../../wgfast/core/segment.h"
#include "check.h"

enum { TCP = 6, UDP = 17 };

struct flow {
	int version;
	uint8_t protocol;
	uint8_t from[16], to[16];
	uint16_t from_port, to_port, id;
	uint32_t at; /* bytes of payload so far */
};

static inline struct flow flow_of(int version, uint8_t protocol, uint16_t port)
{
	struct flow flow = {.version = version, .protocol = protocol, .from_port = 1000, .to_port = port};
	if (version == 4) {
		memcpy(flow.from, (uint8_t[]){10, 0, 0, 2}, 4);
		memcpy(flow.to, (uint8_t[]){10, 0, 0, 1}, 4);
	} else {
		flow.from[0] = flow.to[0] = 0xfd;
		flow.from[15] = 2;
		flow.to[15] = 1;
	}
	return flow;
}

static inline uint8_t flow_byte(uint32_t at)
{
	return (uint8_t)(at * 7 + (at >> 8) * 3 + (at >> 16));
}

static inline bool is_of_flow(const uint8_t *payload, size_t n, uint32_t at)
{
	for (size_t i = 0; i < n; i++)
		if (payload[i] != flow_byte(at + (uint32_t)i))
			return false;
	return true;
}

static inline size_t transport_of(const uint8_t *packet)
{
	return packet[0] >> 4 == 4 ? 20 : 40;
}

static inline size_t headers_of(const uint8_t *packet)
{
	return transport_of(packet) + (packet[packet[0] >> 4 == 4 ? 9 : 6] == TCP ? 20 : 8);
}

/* The sum that precedes a transport header of so many bytes. */
static inline uint32_t pseudo_sum(const uint8_t *packet, size_t len)
{
	bool v4 = packet[0] >> 4 == 4;
	return (uint16_t)~wgf_ip_checksum(packet + (v4 ? 12 : 8), v4 ? 8 : 32, packet[v4 ? 9 : 6] + (uint32_t)len);
}

/* A whole packet, its length in its headers, both checksums right. */
static inline bool is_right(const uint8_t *packet, size_t len)
{
	size_t transport = transport_of(packet);
	if (len < headers_of(packet))
		return false;
	if (transport == 20 && (wgf_load_be16(packet + 2) != len || wgf_ip_checksum(packet, 20, 0) != 0))
		return false;
	if (transport == 40 && wgf_load_be16(packet + 4) != len - 40)
		return false;
	return wgf_ip_checksum(packet + transport, len - transport, pseudo_sum(packet, len - transport)) == 0;
}

static inline void write_headers(struct flow *flow, uint8_t *p, size_t len)
{
	bool v4 = flow->version == 4;
	uint8_t *transport = p + (v4 ? 20 : 40);
	memset(p, 0, (size_t)(transport - p) + (flow->protocol == TCP ? 20 : 8));
	p[0] = v4 ? 0x45 : 0x60;
	wgf_store_be16(p + (v4 ? 2 : 4), (uint16_t)(v4 ? len : len - 40));
	p[v4 ? 8 : 7] = 64;
	p[v4 ? 9 : 6] = flow->protocol;
	memcpy(p + (v4 ? 12 : 8), flow->from, v4 ? 4 : 16);
	memcpy(p + (v4 ? 16 : 24), flow->to, v4 ? 4 : 16);
	if (v4) {
		wgf_store_be16(p + 4, flow->id++);
		wgf_store_be16(p + 10, wgf_ip_checksum(p, 20, 0));
	}
	wgf_store_be16(transport, flow->from_port);
	wgf_store_be16(transport + 2, flow->to_port);
	if (flow->protocol == UDP) {
		wgf_store_be16(transport + 4, (uint16_t)(len - (v4 ? 20 : 40)));
		return;
	}
	wgf_store_be32(transport + 4, flow->at);
	transport[12] = 0x50;
	transport[13] = 0x10; /* acknowledgment */
}

/* The flow's next packet, whole; returns its length. */
static inline size_t write_packet(struct flow *flow, uint8_t *p, size_t payload)
{
	size_t transport = flow->version == 4 ? 20 : 40, headers = transport + (flow->protocol == TCP ? 20 : 8);
	size_t len = headers + payload, at = flow->protocol == TCP ? 16 : 6;
	write_headers(flow, p, len);
	for (size_t i = 0; i < payload; i++)
		p[headers + i] = flow_byte(flow->at + (uint32_t)i);
	flow->at += (uint32_t)payload;
	uint16_t check = wgf_ip_checksum(p + transport, len - transport, pseudo_sum(p, len - transport));
	wgf_store_be16(p + transport + at, check || flow->protocol == TCP ? check : 0xffff);
	CHECK(is_right(p, len));
	return len;
}

/* As much of it as one super-packet, behind its header; returns the length of both. */
static inline size_t write_super(struct flow *flow, uint8_t *to, size_t payload, uint16_t size)
{
	uint8_t *p = to + sizeof(struct virtio_net_hdr), at = flow->protocol == TCP ? 16 : 6;
	size_t len = write_packet(flow, p, payload), transport = transport_of(p);
	uint8_t tcp = flow->version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	struct virtio_net_hdr header = {
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = flow->protocol == TCP ? tcp : VIRTIO_NET_HDR_GSO_UDP_L4,
		.gso_size = size,
		.hdr_len = (uint16_t)headers_of(p),
		.csum_start = (uint16_t)transport,
		.csum_offset = at,
	};
	memcpy(to, &header, sizeof(header));
	wgf_store_be16(p + transport + at, (uint16_t)~wgf_ip_checksum(NULL, 0, pseudo_sum(p, len - transport)));
	return sizeof(header) + len;
}

#endif
