/* Super-packets cut up: what one read of a TUN device with IFF_VNET_HDR gives, as the packets it stands for.
 *
 *     struct wgf_super super;
 *     if (!wgf_super_begin(&super, &header, packet, len))
 *         ... one counted drop ...
 *     for (uint32_t n; (n = wgf_super_next_length(&super)) > 0;)
 *         wgf_super_next(&super, a place for n bytes);
 *
 * The pieces are, byte for byte, what Linux would have made of the super-packet: tcp_gso_segment,
 * __udp_gso_segment, inet_gso_segment, ipv6_gso_segment. */
#ifndef WGF_SEGMENT_H
#define WGF_SEGMENT_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2, missing from older headers */
#endif

#define WGF_SUPER_MAX 65575u /* the longest IP packet: IPv6's header and 65535 bytes */

/* Lives wherever the caller wants; only the functions below write it. */
struct wgf_super {
	const uint8_t *packet;  /* the caller's; stays as it is until the last piece is written */
	uint32_t len;
	uint32_t pieces;        /* left */
	uint32_t size;          /* payload bytes of every piece but the last */
	uint32_t headers;       /* bytes each piece begins with; 0: one piece, the packet as it is */
	uint32_t transport;     /* where TCP or UDP begins */
	uint32_t at;            /* where the next piece's payload begins */
	uint32_t sequence;      /* the next piece's, TCP */
	uint16_t id;            /* the next piece's, IPv4 */
	uint8_t protocol;
	uint64_t ip_sum;        /* of what is the same in every piece's IPv4 header */
	uint64_t transport_sum; /* and in every piece's transport header, with the pseudo header */
};

/* header: in host byte order, as read before the packet. False: the header asks for what is not supported,
 * or it and the packet contradict each other.
 *
 * A packet without segmentation may be anything; only its checksum, where the header asks for it, is
 * completed in place, so that such a packet may also go on where it lies instead of being written by
 * wgf_super_next. Of a super-packet its lengths, in IP and in UDP, are not believed: len is. Its
 * checksum is: as virtio has it, the field holds the sum of the pseudo header, which may have other
 * addresses than the IP header where there is a source route. */
bool wgf_super_begin(struct wgf_super *super, const struct virtio_net_hdr *header, uint8_t *packet,
		     size_t len);

/* Bytes of the next piece, at most len; 0: there is none, as after a wgf_super_begin that was false. */
uint32_t wgf_super_next_length(const struct wgf_super *super);

/* Writes the next piece, of which there is one, outside the packet: next_length bytes at `to`. */
void wgf_super_next(struct wgf_super *super, uint8_t *to);

#endif
