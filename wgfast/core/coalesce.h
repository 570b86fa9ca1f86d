/* Decrypted packets put together again: neighbours of one flow become one super-packet (TSO, USO) for a TUN
 * device opened with IFF_VNET_HDR. No payload moves: the caller writes, in one writev,
 *
 *     group.header | packet `first`, whole | each follower from byte group.headers_len on
 *
 * What is put together is what Linux' GRO would put together, and only where the kernel, cutting it up again,
 * makes the very packets that went in. */
#ifndef WGF_COALESCE_H
#define WGF_COALESCE_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#ifndef VIRTIO_NET_HDR_GSO_UDP_L4
#define VIRTIO_NET_HDR_GSO_UDP_L4 5 /* Linux 6.2, missing from older headers */
#endif

#define WGF_COALESCE_PACKETS 256u     /* of one call; what costs time is bounded for so many */
#define WGF_COALESCE_LAST UINT16_MAX /* `next` of a group's last packet */

/* What the device takes as super-packets. */
enum {
	WGF_COALESCE_TCP4 = 1 << 0,
	WGF_COALESCE_TCP6 = 1 << 1,
	WGF_COALESCE_UDP4 = 1 << 2,
	WGF_COALESCE_UDP6 = 1 << 3,
};

struct wgf_coalesce_packet {
	uint8_t *data;   /* the caller's; a group's first has its headers rewritten in place */
	uint32_t len;    /* the caller's */
	uint16_t next;   /* the follower in its group, or WGF_COALESCE_LAST */
};

struct wgf_coalesce_group {
	struct virtio_net_hdr header; /* host byte order; all zero for a packet on its own */
	uint16_t first;               /* index of a packet */
	uint16_t count;               /* of packets */
	uint16_t headers_len;         /* bytes of IP and transport header, which followers leave out */
	uint32_t len;                 /* of the super-packet, header not included; at most 65535 if merged */

	/* From here on wgf_coalesce's own. */
	uint8_t *data;                /* of the first packet */
	uint32_t sequence;            /* TCP: what comes next */
	uint16_t last;                /* index of a packet */
	uint16_t check;               /* merged: the first packet's TCP or UDP checksum, as it stood there */
	uint8_t transport;            /* where TCP or UDP begins */
	bool open;                    /* another packet may follow */
	bool intact;                  /* the first packet's checksums have been found right */
	bool fixed_id;                /* all IPv4 identifications are equal; else each is one up */
};

/* Sorts n packets (at most WGF_COALESCE_PACKETS), given in their order of arrival, into groups, of which the
 * caller gives n. Returns the number of groups, which stand in the order of their first packets; so do the
 * packets of a group, and so does whatever belongs to one flow (addresses, protocol, ports) as a whole.
 * A packet on its own is left exactly as it is. */
unsigned wgf_coalesce(struct wgf_coalesce_packet *packets, unsigned n, struct wgf_coalesce_group *groups,
		      unsigned features);

/* The first packet of a merged group as it was before: for a device that refused the super-packet, whose
 * packets then go one by one (all along `next`, each whole), under the group's header, now all zero. A group
 * of one stays as it is. */
void wgf_coalesce_undo(struct wgf_coalesce_packet *packets, struct wgf_coalesce_group *group);

#endif
