/* Super-packets: every piece against what its place in the packet asks for; every lie of a virtio header; any
 * bytes as header and packet, in memory that ends where they end, so that the sanitizers see one byte too
 * many. What exactly the kernel makes of a super-packet is tests/test_segment.py's question. */
#include <stdbool.h>
#include <string.h>

#include "../../wgfast/core/bytes.h"
#include "../../wgfast/core/ip.h"
#include "../../wgfast/core/segment.h"
#include "check.h"

enum { TCP = 6, UDP = 17 };
enum { NONE = VIRTIO_NET_HDR_GSO_NONE, ECN = VIRTIO_NET_HDR_GSO_ECN };

/* A super-packet in memory of exactly its size. */
struct super {
	struct virtio_net_hdr header;
	uint8_t *packet;
	size_t len, transport, headers;
	uint8_t protocol;
};

static uint8_t *exactly(size_t n)
{
	uint8_t *p = malloc(n ? n : 1);
	CHECK(p);
	return p;
}

static struct virtio_net_hdr *copied_header(struct virtio_net_hdr header)
{
	struct virtio_net_hdr *copy = malloc(sizeof(*copy));
	CHECK(copy);
	*copy = header;
	return copy;
}

/* The sum that precedes a transport header of so many bytes: addresses, length, protocol. */
static uint32_t pseudo_sum(const uint8_t *packet, size_t len, uint8_t protocol)
{
	bool v4 = packet[0] >> 4 == 4;
	uint16_t addresses = (uint16_t)~wgf_ip_checksum(packet + (v4 ? 12 : 8), v4 ? 8 : 32, 0);
	return addresses + (uint32_t)len + protocol;
}

/* Random fields where any will do. more: bytes of IPv4 options or IPv6 extension headers, and of TCP's;
 * multiples of 4 and 8. */
static struct super make(struct check_random *random, int version, uint8_t protocol, size_t payload,
			 uint16_t size, size_t ip_more, size_t tcp_more)
{
	struct super super = {.protocol = protocol};
	super.transport = (version == 4 ? 20 : 40) + ip_more;
	super.headers = super.transport + (protocol == TCP ? 20 + tcp_more : 8);
	super.len = super.headers + payload;
	uint8_t *p = super.packet = exactly(super.len), *transport = p + super.transport;
	check_random_fill(random, p, super.len);
	if (version == 4) {
		p[0] = (uint8_t)(0x40 | super.transport / 4);
		wgf_store_be16(p + 6, 0x4000);
		p[9] = protocol;
	} else {
		p[0] = 0x60;
		p[6] = ip_more ? 60 : protocol;
		if (ip_more) {
			p[40] = protocol;
			p[41] = (uint8_t)(ip_more / 8 - 1);
		}
	}
	if (protocol == TCP)
		transport[12] = (uint8_t)(((20 + tcp_more) / 4) << 4);
	uint8_t at = protocol == TCP ? 16 : 6;
	uint32_t pseudo = pseudo_sum(p, super.len - super.transport, protocol);
	wgf_store_be16(transport + at, (uint16_t)~wgf_ip_checksum(NULL, 0, pseudo));
	uint8_t tcp_type = version == 4 ? VIRTIO_NET_HDR_GSO_TCPV4 : VIRTIO_NET_HDR_GSO_TCPV6;
	super.header = (struct virtio_net_hdr){
		.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM,
		.gso_type = protocol == TCP ? tcp_type : VIRTIO_NET_HDR_GSO_UDP_L4,
		.gso_size = size,
		.csum_start = (uint16_t)super.transport,
		.csum_offset = at,
	};
	return super;
}

/* ---- Pieces ---- */

static void check_ip(const struct super *super, const uint8_t *piece, size_t len, uint32_t number)
{
	if (piece[0] >> 4 == 6) {
		CHECK(wgf_load_be16(piece + 4) == len - 40);
		CHECK(memcmp(piece, super->packet, 4) == 0);
		CHECK(memcmp(piece + 6, super->packet + 6, super->transport - 6) == 0);
		return;
	}
	CHECK(wgf_load_be16(piece + 2) == len);
	CHECK(wgf_load_be16(piece + 4) == (uint16_t)(wgf_load_be16(super->packet + 4) + number));
	CHECK(wgf_ip_checksum(piece, super->transport, 0) == 0);
	CHECK(memcmp(piece, super->packet, 2) == 0 && memcmp(piece + 6, super->packet + 6, 4) == 0);
	CHECK(memcmp(piece + 12, super->packet + 12, super->transport - 12) == 0);
}

static void check_tcp(const struct super *super, const uint8_t *tcp, uint32_t number, bool last)
{
	const uint8_t *whole = super->packet + super->transport;
	uint8_t cleared = (uint8_t)((last ? 0 : 0x09) | (number ? 0x80 : 0));
	uint32_t before = number * super->header.gso_size;
	CHECK(wgf_load_be32(tcp + 4) == wgf_load_be32(whole + 4) + before);
	CHECK(tcp[13] == (whole[13] & (uint8_t)~cleared));
	CHECK(memcmp(tcp, whole, 4) == 0 && memcmp(tcp + 8, whole + 8, 5) == 0);
	CHECK(memcmp(tcp + 14, whole + 14, 2) == 0);
	CHECK(memcmp(tcp + 18, whole + 18, super->headers - super->transport - 18) == 0);
}

static void check_piece(const struct super *super, const uint8_t *piece, size_t len, uint32_t number,
			bool last)
{
	const uint8_t *transport = piece + super->transport;
	size_t transport_len = len - super->transport;
	check_ip(super, piece, len, number);
	CHECK(memcmp(piece + super->headers, super->packet + super->headers + number * super->header.gso_size,
		     len - super->headers) == 0);
	uint32_t pseudo = pseudo_sum(piece, transport_len, super->protocol);
	CHECK(wgf_ip_checksum(transport, transport_len, pseudo) == 0);
	if (super->protocol == TCP) {
		check_tcp(super, transport, number, last);
	} else {
		CHECK(memcmp(transport, super->packet + super->transport, 4) == 0);
		CHECK(wgf_load_be16(transport + 4) == transport_len);
		CHECK(wgf_load_be16(transport + 6) != 0);
	}
}

/* All pieces, each into memory of its own size; frees the packet. */
static void check_cut(struct super super)
{
	struct wgf_super cursor;
	uint32_t size = super.header.gso_size, left = (uint32_t)(super.len - super.headers), number = 0;
	CHECK(wgf_super_begin(&cursor, &super.header, super.packet, super.len));
	do {
		uint32_t payload = left < size ? left : size;
		uint32_t len = wgf_super_next_length(&cursor);
		CHECK(len == super.headers + payload);
		uint8_t *piece = exactly(len);
		wgf_super_next(&cursor, piece);
		left -= payload;
		check_piece(&super, piece, len, number++, left == 0);
		free(piece);
	} while (left > 0);
	CHECK(wgf_super_next_length(&cursor) == 0);
	free(super.packet);
}

static const struct {
	int version;
	uint8_t protocol;
} kinds[] = {{4, TCP}, {6, TCP}, {4, UDP}, {6, UDP}};

static void test_pieces(struct check_random *random)
{
	static const size_t payloads[] = {0, 1, 2, 99, 100, 101, 199, 200, 201, 1001, 10000};
	for (size_t kind = 0; kind < 4; kind++)
		for (size_t i = 0; i < sizeof(payloads) / sizeof(payloads[0]); i++)
			for (size_t more = 0; more <= 40; more += 8)
				for (uint16_t size = 99; size <= 100; size++)
					check_cut(make(random, kinds[kind].version, kinds[kind].protocol,
						       payloads[i], size, more, 40 - more));
}

static void test_any_size(struct check_random *random)
{
	for (int round = 0; round < 2000; round++) {
		size_t kind = check_random_below(random, 4), payload = check_random_below(random, 3000);
		uint16_t size = (uint16_t)(1 + check_random_below(random, 1500));
		check_cut(make(random, kinds[kind].version, kinds[kind].protocol, payload, size,
			       8 * check_random_below(random, 5), 4 * check_random_below(random, 11)));
	}
}

static void test_longest(struct check_random *random)
{
	static const uint16_t sizes[] = {1, 1368, 65535};
	for (size_t i = 0; i < 3; i++) {
		check_cut(make(random, 4, TCP, 65535 - 40, sizes[i], 0, 0));
		check_cut(make(random, 6, TCP, 65535 - 60, sizes[i], 0, 0));
		check_cut(make(random, 6, TCP, 65535 - 20, sizes[i], 0, 0));
		check_cut(make(random, 4, UDP, 65535 - 28, sizes[i], 0, 0));
		check_cut(make(random, 6, UDP, 65535 - 8, sizes[i], 0, 0));
	}
}

/* TCP whose checksum nobody has begun is cut up all the same, and gets one. */
static void test_no_checksum_begun(struct check_random *random)
{
	for (size_t kind = 0; kind < 4; kind++) {
		struct super super =
			make(random, kinds[kind].version, kinds[kind].protocol, 5000, 1000, 0, 0);
		super.header.flags = 0;
		super.header.csum_start = super.header.csum_offset = 7;
		super.packet[super.transport + (super.protocol == TCP ? 16 : 6)] ^= 0x55;
		struct wgf_super cursor;
		if (super.protocol == TCP) {
			check_cut(super);
			continue;
		}
		CHECK(!wgf_super_begin(&cursor, &super.header, super.packet, super.len));
		free(super.packet);
	}
}

/* ---- Refusals ---- */

static void check_refused(const struct super *super, struct virtio_net_hdr header, size_t len)
{
	struct wgf_super cursor;
	struct virtio_net_hdr *own = copied_header(header);
	uint8_t *packet = exactly(len);
	memcpy(packet, super->packet, len < super->len ? len : super->len);
	CHECK(!wgf_super_begin(&cursor, own, packet, len));
	CHECK(wgf_super_next_length(&cursor) == 0);
	free(own);
	free(packet);
}

static void check_header_refused(struct super *super)
{
	struct virtio_net_hdr header = super->header;
	uint8_t right = header.gso_type;
	for (unsigned type = 1; type < 256; type++) {
		header.gso_type = (uint8_t)type;
		if (type != right && !(super->protocol == TCP && type == (right | ECN)))
			check_refused(super, header, super->len);
	}
	header = super->header;
	header.gso_size = 0;
	check_refused(super, header, super->len);
	for (unsigned bit = 0; bit < 16; bit++) {
		header = super->header;
		header.csum_start ^= (uint16_t)(1u << bit);
		check_refused(super, header, super->len);
		header = super->header;
		header.csum_offset ^= (uint16_t)(1u << bit);
		check_refused(super, header, super->len);
	}
}

/* One byte of the packet made wrong. */
static void check_byte_refused(struct super *super, size_t at, uint8_t value)
{
	uint8_t before = super->packet[at];
	super->packet[at] = value;
	check_refused(super, super->header, super->len);
	super->packet[at] = before;
}

static void test_refused(struct check_random *random)
{
	for (size_t kind = 0; kind < 4; kind++) {
		struct super super = make(random, kinds[kind].version, kinds[kind].protocol, 200, 100, 8, 4);
		struct super *it = &super;
		check_header_refused(it);
		for (size_t len = 1; len < super.headers; len++)
			check_refused(it, super.header, len);
		check_byte_refused(it, 0, 0x54);
		if (kinds[kind].version == 4) {
			check_byte_refused(it, 0, 0x45);    /* not the one of csum_start */
			struct super shorter = super;
			shorter.header.csum_start = 16;
			check_byte_refused(&shorter, 0, 0x44);
			check_byte_refused(it, 0, 0x67);
			check_byte_refused(it, 6, 0x20);    /* more fragments */
			check_byte_refused(it, 7, 0x01);    /* a fragment */
			check_byte_refused(it, 9, 132);
			check_refused(it, super.header, 65536);
		} else {
			check_byte_refused(it, 0, 0x45);
			check_byte_refused(it, 6, 44);      /* a fragment */
			check_byte_refused(it, 6, 51);
			check_byte_refused(it, 40, 59);     /* nothing follows */
			check_byte_refused(it, 41, 255);    /* longer than the packet */
			check_refused(it, super.header, WGF_SUPER_MAX + 1);
		}
		if (super.protocol == TCP)
			check_byte_refused(it, super.transport + 12, 0x40); /* a header of 16 bytes */
		free(super.packet);
	}
}

/* ---- Packets without segmentation ---- */

static void test_plain(struct check_random *random)
{
	struct wgf_super cursor;
	struct virtio_net_hdr nothing = {.csum_start = 9999, .gso_size = 1, .hdr_len = 3};
	for (size_t len = 1; len < 200; len++) {
		uint8_t *packet = exactly(len), *out = exactly(len);
		check_random_fill(random, packet, len);
		CHECK(wgf_super_begin(&cursor, &nothing, packet, len));
		CHECK(wgf_super_next_length(&cursor) == len);
		wgf_super_next(&cursor, out);
		CHECK(memcmp(out, packet, len) == 0 && wgf_super_next_length(&cursor) == 0);
		free(packet);
		free(out);
	}
	uint8_t byte = 0;
	struct super empty = {.packet = &byte};
	check_refused(&empty, nothing, 0);
	check_refused(&empty, nothing, WGF_SUPER_MAX + 1);
}

/* Wherever the header says, as long as that is in the packet. */
static void test_checksum_completed(struct check_random *random)
{
	struct wgf_super cursor;
	struct super any = {.packet = exactly(64), .len = 64};
	struct virtio_net_hdr header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM};
	uint8_t before[64];
	for (size_t start = 0; start < 70; start++)
		for (size_t offset = 0; offset < 70; offset++) {
			header.csum_start = (uint16_t)start;
			header.csum_offset = (uint16_t)offset;
			size_t at = start + offset;
			check_random_fill(random, any.packet, 64);
			memcpy(before, any.packet, 64);
			if (at + 2 > 64) {
				check_refused(&any, header, 64);
				continue;
			}
			uint16_t wanted = wgf_ip_checksum(before + start, 64 - start, 0);
			CHECK(wgf_super_begin(&cursor, &header, any.packet, 64));
			CHECK(wgf_load_be16(any.packet + at) == wanted || (offset == 6 && wanted == 0));
			memcpy(before + at, any.packet + at, 2);
			CHECK(memcmp(before, any.packet, 64) == 0);
		}
	header.csum_start = header.csum_offset = 65535;
	check_refused(&any, header, 64);
	free(any.packet);
}

static void test_two_ways_to_write_zero(void)
{
	struct wgf_super cursor;
	uint8_t packet[24] = {[22] = 0xff, [23] = 0xff};
	struct virtio_net_hdr header = {.flags = VIRTIO_NET_HDR_F_NEEDS_CSUM, .csum_offset = 16};
	CHECK(wgf_super_begin(&cursor, &header, packet, sizeof(packet)));
	CHECK(wgf_load_be16(packet + 16) == 0);
	header.csum_offset = 6;
	CHECK(wgf_super_begin(&cursor, &header, packet, sizeof(packet)));
	CHECK(wgf_load_be16(packet + 6) == 0xffff);
}

/* The payload's last two bytes take in the checksum that the piece had, so that it becomes zero. */
static void test_zero_in_pieces(struct check_random *random)
{
	for (size_t kind = 0; kind < 4; kind++) {
		struct super super = make(random, kinds[kind].version, kinds[kind].protocol, 10, 10, 0, 0);
		size_t field = super.transport + super.header.csum_offset;
		uint8_t *last = super.packet + super.len - 2, *piece = exactly(super.len);
		struct wgf_super cursor;
		CHECK(wgf_super_begin(&cursor, &super.header, super.packet, super.len));
		wgf_super_next(&cursor, piece);
		uint32_t word = (uint32_t)wgf_load_be16(last) + wgf_load_be16(piece + field);
		wgf_store_be16(last, (uint16_t)(word % 65535));
		CHECK(wgf_super_begin(&cursor, &super.header, super.packet, super.len));
		wgf_super_next(&cursor, piece);
		CHECK(wgf_load_be16(piece + field) == (super.protocol == TCP ? 0 : 0xffff));
		free(piece);
		check_cut(super);
	}
}

/* ---- Anything at all ---- */

static void drain(const struct virtio_net_hdr *given, uint8_t *packet, size_t len)
{
	struct wgf_super cursor;
	struct virtio_net_hdr *header = copied_header(*given);
	if (wgf_super_begin(&cursor, header, packet, len)) {
		memset(header, 0xee, sizeof(*header)); /* it is not needed any longer */
		uint32_t n, bytes = 0;
		while ((n = wgf_super_next_length(&cursor)) > 0) {
			CHECK(n <= len);
			uint8_t *piece = exactly(n);
			wgf_super_next(&cursor, piece);
			bytes += n - cursor.headers;
			free(piece);
		}
		CHECK(bytes == len - cursor.headers);
	}
	free(header);
}

static void test_random_bytes(struct check_random *random)
{
	static const uint8_t types[] = {0, 1, 1 | ECN, 3, 4, 4 | ECN, 5, 5 | ECN};
	for (int round = 0; round < 30000; round++) {
		struct virtio_net_hdr header;
		check_random_fill(random, (uint8_t *)&header, sizeof(header));
		header.gso_type = types[check_random_below(random, sizeof(types))];
		header.csum_start %= 128;
		header.csum_offset %= 20;
		size_t len = 1 + check_random_below(random, 160);
		uint8_t *packet = exactly(len);
		check_random_fill(random, packet, len);
		packet[0] = (uint8_t)((check_random_below(random, 2) ? 0x40 : 0x60) | (packet[0] & 7));
		drain(&header, packet, len);
		free(packet);
	}
}

/* Good ones with a few bytes changed come further. */
static void test_damaged(struct check_random *random)
{
	for (int round = 0; round < 30000; round++) {
		size_t kind = check_random_below(random, 4), payload = check_random_below(random, 300);
		size_t ip_more = 8 * check_random_below(random, 4);
		size_t tcp_more = 4 * check_random_below(random, 4);
		struct super super = make(random, kinds[kind].version, kinds[kind].protocol, payload, 50,
					  ip_more, tcp_more);
		uint8_t *header = (uint8_t *)&super.header;
		size_t changes = check_random_below(random, 4);
		for (size_t i = 0; i < changes; i++) {
			uint8_t bit = (uint8_t)(1u << check_random_below(random, 8));
			if (check_random_below(random, 4) == 0)
				header[check_random_below(random, sizeof(super.header))] ^= bit;
			else
				super.packet[check_random_below(random, super.headers)] ^= bit;
		}
		drain(&super.header, super.packet, super.len);
		free(super.packet);
	}
}

int main(void)
{
	struct check_random random = check_random_begin("test_segment");
	test_pieces(&random);
	test_any_size(&random);
	test_longest(&random);
	test_no_checksum_begun(&random);
	test_refused(&random);
	test_plain(&random);
	test_checksum_completed(&random);
	test_two_ways_to_write_zero();
	test_zero_in_pieces(&random);
	test_random_bytes(&random);
	test_damaged(&random);
	return 0;
}
