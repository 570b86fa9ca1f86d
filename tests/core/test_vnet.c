/* The inner port with a header before each packet (IFF_VNET_HDR): what a device may be asked for, super-packets cut
 * up over batches, and whatever it may say wrongly. test_vnet_write.c is the way in, test_vnet_link.c a real one. */
#include "played.h"

/* ---- Adopting ---- */

static void check_adopted(bool vnet, unsigned refused, uint32_t off, unsigned offloads, uint32_t tso, uint32_t uso)
{
	begin(vnet, refused, off);
	CHECK(dev.offloads == offloads);
	CHECK(atomic_load(&device->offloads.state[WGF_OFFLOAD_TSO]) == tso);
	CHECK(atomic_load(&device->offloads.state[WGF_OFFLOAD_USO]) == uso);
}

static void test_adopt(void)
{
	const uint32_t tso = 1u << WGF_OFFLOAD_TSO, uso = 1u << WGF_OFFLOAD_USO, csum = TUN_F_CSUM;
	const uint32_t absent = WGF_OFFLOAD_ABSENT | EINVAL << 8, none = WGF_OFFLOAD_ABSENT | EOPNOTSUPP << 8;
	const uint32_t on = WGF_OFFLOAD_ACTIVE, switched_off = WGF_OFFLOAD_SWITCHED_OFF;
	check_adopted(true, 0, 0, csum | TSO_BITS | USO_BITS, on, on);
	CHECK(is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_ACTIVE, 0));
	check_adopted(true, USO_BITS, 0, csum | TSO_BITS, on, absent);
	check_adopted(true, TUN_F_USO6, 0, csum | TSO_BITS, on, absent);
	check_adopted(true, ~0u, 0, ~0u, absent, absent);
	check_adopted(true, 0, tso, csum | USO_BITS, switched_off, on);
	check_adopted(true, 0, uso, csum | TSO_BITS, on, switched_off);
	check_adopted(true, 0, tso | uso, 0, switched_off, switched_off);
	/* Somebody else's interface has headers: they are read and written, with nothing in them. */
	check_adopted(true, 0, 1u << WGF_OFFLOAD_VNET, 0, switched_off, switched_off);
	CHECK(is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_SWITCHED_OFF, 0));
	check_adopted(true, USO_BITS, tso, 0, switched_off, absent);
	check_adopted(true, TSO_BITS, uso, ~0u, absent, switched_off);
	check_adopted(false, 0, 0, 0, none, none);
	CHECK(is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_ABSENT, EOPNOTSUPP));
	check_adopted(false, 0, tso, 0, switched_off, none);
}

/* ---- Reading ---- */

static int read_tun(struct wgf_batch *batch)
{
	clear(batch);
	int n = wgf_tun_read(device, device->tun.queues, batch);
	CHECK(n < 0 || n == (int)batch->count);
	CHECK(batch->count <= batch->limit);
	return n;
}

/* A piece of the flow, whole and in its place. */
static void check_piece(const struct wgf_packet *packet, uint32_t payload, uint32_t *at)
{
	CHECK(packet->drop == WGF_DROP_NOT && packet->outer_len == 0 && is_right(packet->inner, packet->inner_len));
	size_t headers = headers_of(packet->inner);
	CHECK(packet->inner_len == headers + payload && is_of_flow(packet->inner + headers, payload, *at));
	*at += payload;
}

static uint32_t piece_of(uint32_t left, uint32_t size)
{
	return left < size ? left : size;
}

/* More pieces than a batch holds go on in the next ones, and nothing is read before they are all out. */
static void test_continues(struct wgf_batch *batch, int version, uint8_t protocol, uint32_t limit, uint32_t payload,
			   uint32_t size)
{
	struct flow flow = flow_of(version, protocol, 9), last = flow_of(version, UDP, 10);
	uint32_t at = 0, end = 0, pieces = 0, bytes;
	begin(true, 0, 0);
	feed_super(&flow, payload, (uint16_t)size);
	feed_super(&flow, payload / 2, (uint16_t)size);
	feed_single(&last, 77);
	batch->limit = limit;
	for (int n; (n = read_tun(batch)) > 0; pieces += (uint32_t)n) {
		bytes = 0;
		for (int i = 0; i < n; i++) {
			uint32_t middle = at < payload ? payload : payload + payload / 2;
			bytes += batch->packets[i].inner_len;
			if (at < payload + payload / 2)
				check_piece(&batch->packets[i], piece_of(middle - at, size), &at);
			else
				check_piece(&batch->packets[i], 77, &end);
			CHECK(bytes == batch->bytes || i + 1 < n);
		}
		CHECK(bytes < WGF_BATCH_BYTES + size + 60 && dev.reads <= (at <= payload ? 2 : at < payload * 3 / 2 ? 3 : 4));
	}
	CHECK(at == payload + payload / 2 && end == 77 && all_drops() == 0);
	CHECK(pieces == (payload + size - 1) / size + (payload / 2 + size - 1) / size + 1);
	batch->limit = WGF_BATCH_PACKETS;
	fed_all();
}

static void test_cuts(struct wgf_batch *batch)
{
	for (int version = 4; version <= 6; version += 2)
		for (uint32_t limit = 256; limit; limit /= 6) {
			test_continues(batch, version, TCP, limit, 64000, 1420);
			test_continues(batch, version, UDP, limit, 64000, 1000);
			test_continues(batch, version, TCP, limit, 30001, 97);
			test_continues(batch, version, UDP, limit, 901, 3);
			test_continues(batch, version, TCP, limit, 60, 60);
		}
}

/* Nonsense between good packets is counted, one by one, and costs nothing else. */
static void test_bad_headers(struct wgf_batch *batch)
{
	struct flow flow = flow_of(4, TCP, 9);
	uint8_t bytes[2000];
	uint32_t at = 0;
	size_t len = write_super(&flow, bytes, 1000, 100);
	begin(true, 0, 0);
	for (ssize_t n = 0; n <= HEADER; n++)
		feed(bytes, n);
	feed(bytes, (ssize_t)len);
	for (int i = 0; i < 5; i++) { /* type, size, where the checksum is, and a packet cut off */
		uint8_t bad[2000];
		memcpy(bad, bytes, len);
		struct virtio_net_hdr header;
		memcpy(&header, bad, HEADER);
		header.gso_type = i == 0 ? 77 : i == 1 ? VIRTIO_NET_HDR_GSO_TCPV6 : header.gso_type;
		header.gso_size = i == 2 ? 0 : header.gso_size;
		header.csum_start = i == 3 ? 60000 : header.csum_start;
		memcpy(bad, &header, HEADER);
		feed(bad, i == 4 ? HEADER + 39 : (ssize_t)len);
	}
	feed_single(&flow, 50);
	CHECK(read_tun(batch) == 11 && drops(WGF_DROP_SEND_MALFORMED) == 11 + 5 && all_drops() == 0);
	for (int i = 0; i < 11; i++)
		check_piece(&batch->packets[i], i < 10 ? 100 : 50, &at);
	fed_all();

	for (int i = 0; i < 100; i++)
		feed(bytes, 3);
	CHECK(read_tun(batch) == 0 && dev.reads == READS && drops(WGF_DROP_SEND_MALFORMED) == READS);
	CHECK(read_tun(batch) == 0 && drops(WGF_DROP_SEND_MALFORMED) == 100 - READS && all_drops() == 0);
	fed_all();
}

static void test_too_large(struct wgf_batch *batch)
{
	static uint8_t bytes[ALL + 2];
	struct flow flow = flow_of(6, UDP, 9);
	struct wgf_batch *narrow = make_batch(16 + 1000 + 16);
	uint32_t at = 0;
	begin(true, 0, 0);
	feed(bytes, ALL + 1); /* longer than any packet */
	feed(bytes, ALL + 2);
	memset(bytes + HEADER, 0, 40);
	feed(bytes, ALL);                         /* and than any datagram can carry */
	feed(bytes, HEADER + WGF_MTU_MAX + 1);
	feed(bytes, HEADER + WGF_MTU_MAX);
	feed_single(&flow, 20);
	CHECK(read_tun(batch) == 2 && batch->packets[0].inner_len == WGF_MTU_MAX);
	check_piece(&batch->packets[1], 20, &at);
	CHECK(drops(WGF_DROP_SEND_TOO_LARGE) == 4 && all_drops() == 0);
	fed_all();
	at = flow.at;
	feed_super(&flow, 9000, 999 - 48); /* just fits, with a byte to see that it is not longer */
	feed_super(&flow, 9000, 1000 - 48); /* each piece is too long: all of it is one loss */
	feed_single(&flow, 20);
	CHECK(read_tun(narrow) == 9 + 1 + 1 && drops(WGF_DROP_SEND_TOO_LARGE) == 1 && all_drops() == 0);
	for (int i = 0; i < 10; i++)
		check_piece(&narrow->packets[i], i < 9 ? 951 : 9000 - 9 * 951, &at);
	at += 9000;
	check_piece(&narrow->packets[10], 20, &at);
	feed_super(&flow, 9000, 1000 - 48); /* not another one next time */
	CHECK(read_tun(narrow) == 0 && read_tun(narrow) == 0 && drops(WGF_DROP_SEND_TOO_LARGE) == 1);
	fed_all();
	free_batch(narrow);
}

static void test_read_errors(struct wgf_batch *batch)
{
	struct flow flow = flow_of(4, UDP, 9);
	begin(true, 0, 0);
	feed(NULL, -EINTR);
	feed_super(&flow, 3000, 1000);
	feed(NULL, -EIO); /* nothing more for now */
	feed_super(&flow, 3000, 1000);
	feed(NULL, -EBADFD); /* gone, but what was read before goes its way first */
	CHECK(read_tun(batch) == 3);
	batch->limit = 2;
	CHECK(read_tun(batch) == 2 && read_tun(batch) == 1);
	batch->limit = WGF_BATCH_PACKETS;
	CHECK(read_tun(batch) == 0 && all_drops() == 0); /* it was told with the last packet */
	feed(NULL, -ENODEV);
	CHECK(read_tun(batch) == -ENODEV);
	feed(NULL, -EBADFD);
	atomic_store(&device->tun.changing, true); /* a thread opens it again: it has not gone */
	CHECK(read_tun(batch) == 0 && all_drops() == 0);
	fed_all();
}

/* Another descriptor has nothing to do with what was read from the one before. */
static void test_adopted_anew(struct wgf_batch *batch)
{
	struct flow flow = flow_of(4, TCP, 9);
	begin(true, 0, 0);
	feed_super(&flow, 3000, 1000);
	batch->limit = 1;
	CHECK(read_tun(batch) == 1);
	batch->limit = WGF_BATCH_PACKETS;
	begin(false, 0, 0);
	CHECK(read_tun(batch) == 0 && all_drops() == 0);
	fed_all();
}

/* Opened again without headers by another thread while this one reads: one packet is in hand, and no more. */
static void test_loses_headers(struct wgf_batch *batch)
{
	for (int version = 4; version <= 6; version += 2) {
		struct flow flow = flow_of(version, UDP, 9);
		uint32_t at = 0;
		begin(true, 0, 0);
		feed_super(&flow, 3000, 1000);
		dev.vnet = false;
		for (int i = 0; i < 10; i++)
			feed_single(&flow, 60);
		dev.vnet = true;
		dev.loses_headers = 2;
		CHECK(read_tun(batch) == 3 && drops(WGF_DROP_SEND_MALFORMED) == 1);
		for (int i = 0; i < 3; i++)
			check_piece(&batch->packets[i], 1000, &at);
		CHECK(read_tun(batch) == 9 && all_drops() == 0);
		at += 60;
		for (int i = 0; i < 9; i++)
			check_piece(&batch->packets[i], 60, &at);
		fed_all();
	}
}

int main(void)
{
	begin_playing();
	struct wgf_batch *batch = make_pool_batch(WGF_SEND_ROOM);
	test_adopt();
	test_cuts(batch);
	test_bad_headers(batch);
	test_too_large(batch);
	test_read_errors(batch);
	test_adopted_anew(batch);
	test_loses_headers(batch);
	free_pool_batch(batch);
	end_playing();
	return 0;
}
