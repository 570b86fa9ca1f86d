/* The way into an interface with a header before each packet: packets put together, and a device that refuses them
 * so, or at all, or is full, or gone. */
#include "played.h"

/* ---- Writing ---- */

/* What is written, and then taken in by the device, of so many flows. */
enum { FLOWS = 4 };
static struct flow sent[FLOWS], taken[FLOWS]; /* TCP and UDP over IPv4, over IPv6 */

static void begin_flows(void)
{
	for (int i = 0; i < FLOWS; i++)
		sent[i] = taken[i] = flow_of(i < 2 ? 4 : 6, i % 2 ? UDP : TCP, (uint16_t)(2000 + i));
}

static void put_next(struct wgf_batch *batch, int flow, uint32_t payload)
{
	struct wgf_packet *packet = &batch->packets[batch->count++];
	packet->inner_len = (uint32_t)write_packet(&sent[flow], packet->inner, payload);
	packet->drop = WGF_DROP_NOT;
}

/* n packets of each flow, by turns. */
static void fill(struct wgf_batch *batch, uint32_t n, uint32_t payload)
{
	clear(batch);
	for (uint32_t i = 0; i < n * FLOWS; i++)
		put_next(batch, (int)i % FLOWS, payload);
}

/* The device has got, cut up again, every packet that is not marked, in its flow's order. Returns how many writes
 * were super-packets. */
static unsigned check_written(const struct wgf_batch *batch)
{
	unsigned supers = 0;
	uint32_t next[FLOWS] = {0};
	for (unsigned i = 0; i < dev.out_n; i++) {
		struct virtio_net_hdr header;
		struct wgf_super super;
		uint8_t piece[2000];
		memcpy(&header, dev.out[i], HEADER);
		supers += header.gso_type != VIRTIO_NET_HDR_GSO_NONE;
		CHECK(wgf_super_begin(&super, &header, dev.out[i] + HEADER, dev.out_len[i] - HEADER));
		for (uint32_t len; (len = wgf_super_next_length(&super)) > 0;) {
			wgf_super_next(&super, piece);
			int flow = wgf_load_be16(piece + transport_of(piece) + 2) - 2000;
			CHECK(flow >= 0 && flow < FLOWS);
			uint32_t at = next[flow];
			while (at < batch->count && (at % FLOWS != (uint32_t)flow || batch->packets[at].drop != WGF_DROP_NOT))
				at++;
			CHECK(at < batch->count && len == batch->packets[at].inner_len && is_right(piece, len));
			CHECK(memcmp(piece + headers_of(piece), batch->packets[at].inner + headers_of(piece),
				     len - headers_of(piece)) == 0);
			next[flow] = at + 1;
		}
	}
	for (uint32_t i = 0; i < batch->count; i++)
		CHECK(batch->packets[i].drop != WGF_DROP_NOT || i < next[i % FLOWS]);
	return supers;
}

static unsigned write_and_check(struct wgf_batch *batch)
{
	forget_written();
	wgf_tun_write(device, batch);
	return check_written(batch);
}

static void test_write(struct wgf_batch *batch)
{
	begin(true, 0, 0);
	begin_flows();
	fill(batch, 20, 1000);
	CHECK(write_and_check(batch) == FLOWS && dev.out_n == FLOWS && all_drops() == 0);
	fill(batch, 20, 1000);
	batch->packets[4].drop = WGF_DROP_RECEIVE_REPLAYED; /* a hole in a stream ends its group */
	batch->packets[5].drop = WGF_DROP_RECEIVE_REPLAYED; /* and one in datagrams, by their identification */
	batch->packets[6].inner_len = 0;                    /* a keepalive in its place */
	batch->packets[6].drop = WGF_DROP_CONSUMED;
	CHECK(write_and_check(batch) >= FLOWS && all_drops() == 0);
	fill(batch, 1, 1000);
	CHECK(write_and_check(batch) == 0 && dev.out_n == FLOWS && all_drops() == 0);

	begin(true, 0, 1u << WGF_OFFLOAD_TSO);
	fill(batch, 10, 500);
	CHECK(write_and_check(batch) == 2 && dev.out_n == 20 + 2);
	begin(true, USO_BITS, 0);
	fill(batch, 10, 500);
	CHECK(write_and_check(batch) == 2 && dev.out_n == 20 + 2);
	begin(false, 0, 0); /* no headers at all */
	fill(batch, 10, 500);
	wgf_tun_write(device, batch);
	CHECK(dev.out_n == 40 && dev.out[3][0] == 0x60 && all_drops() == 0);
}

static void test_write_one(void)
{
	const uint8_t packet[] = "E-like";
	begin(true, 0, 0);
	forget_written();
	wgf_tun_write_one(device, packet, sizeof(packet));
	CHECK(dev.out_n == 1 && dev.out_len[0] == HEADER + sizeof(packet));
	for (int i = 0; i < HEADER; i++)
		CHECK(dev.out[0][i] == 0);
	CHECK(memcmp(dev.out[0] + HEADER, packet, sizeof(packet)) == 0);
	begin(false, 0, 0);
	wgf_tun_write_one(device, packet, sizeof(packet));
	CHECK(dev.out_n == 1 && dev.out_len[0] == sizeof(packet) && memcmp(dev.out[0], packet, sizeof(packet)) == 0);
	atomic_store(&device->tun.queues[0].fd, -1);
	wgf_tun_write_one(device, packet, sizeof(packet));
	CHECK(dev.writes == 1 && all_drops() == 0);
}

/* ---- Refusals ---- */

static int refusal;             /* the errno of whoever refuses */
static unsigned refused_from;   /* from so many writes on */
static unsigned refused_times;

static int judge_tcp(const struct virtio_net_hdr *header)
{
	uint8_t type = header->gso_type & (uint8_t)~VIRTIO_NET_HDR_GSO_ECN;
	return type == VIRTIO_NET_HDR_GSO_TCPV4 || type == VIRTIO_NET_HDR_GSO_TCPV6 ? refusal : 0;
}

static int judge_udp(const struct virtio_net_hdr *header)
{
	return header->gso_type == VIRTIO_NET_HDR_GSO_UDP_L4 ? refusal : 0;
}

static int judge_supers(const struct virtio_net_hdr *header)
{
	return header->gso_type ? EINVAL : refusal;
}

static int judge_by_number(const struct virtio_net_hdr *header)
{
	(void)header;
	return dev.writes > refused_from && dev.writes <= refused_from + refused_times ? refusal : 0;
}

static void play(int (*judge)(const struct virtio_net_hdr *), int error, unsigned from, unsigned times)
{
	begin(true, 0, 0);
	begin_flows();
	dev.judge = judge;
	refusal = error;
	refused_from = from;
	refused_times = times;
}

static bool all_stay(void)
{
	return is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_ACTIVE, 0) && is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_ACTIVE, 0) &&
	       is_state(WGF_OFFLOAD_USO, WGF_OFFLOAD_ACTIVE, 0);
}

/* Super-packets of one kind: their packets go one by one, in their order, and the other kind stays. */
static void test_one_kind_refused(struct wgf_batch *batch, bool tcp, int error)
{
	enum wgf_offload given_up = tcp ? WGF_OFFLOAD_TSO : WGF_OFFLOAD_USO, stays = tcp ? WGF_OFFLOAD_USO : WGF_OFFLOAD_TSO;
	play(tcp ? judge_tcp : judge_udp, error, 0, 0);
	fill(batch, 20, 1000);
	CHECK(write_and_check(batch) == 2 && dev.out_n == 2 + 40 && dev.writes == 2 + 2 + 40);
	CHECK(is_state(given_up, WGF_OFFLOAD_GIVEN_UP, error) && is_state(stays, WGF_OFFLOAD_ACTIVE, 0));
	CHECK(is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_ACTIVE, 0) && all_drops() == 0);
	fill(batch, 20, 1000);
	CHECK(write_and_check(batch) == 2 && dev.writes == 2 + 40 && all_drops() == 0);
}

static int judge_all_but_one(const struct virtio_net_hdr *header)
{
	return header->gso_type ? EINVAL : dev.writes == refused_from ? EPERM : 0;
}

/* A packet of it that is refused as well is one loss, and says nothing of the others, wherever it stands. */
static void test_one_refused_too(struct wgf_batch *batch)
{
	for (unsigned write = 2; write <= 11; write += 9) {
		play(judge_all_but_one, 0, write, 0);
		fill(batch, 10, 1000);
		CHECK(write_and_check(batch) == 0 && dev.writes == 44 && drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 1);
		CHECK(batch->packets[(write - 2) * FLOWS].drop == WGF_DROP_RECEIVE_INNER_REFUSED && all_drops() == 0);
		CHECK(is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_GIVEN_UP, EINVAL));
	}
	play(judge_all_but_one, 0, 3, 0);
	clear(batch);
	for (int i = 0; i < 2; i++) /* of which the first is taken */
		put_next(batch, 0, 1000);
	wgf_tun_write(device, batch);
	CHECK(is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_GIVEN_UP, EINVAL) && drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 1);
}

/* A super-packet whose packets are refused as well was not refused for being one. */
static void test_all_refused(struct wgf_batch *batch)
{
	play(judge_by_number, EPERM, 0, 1000000);
	fill(batch, 10, 1000);
	CHECK(write_and_check(batch) == 0 && dev.out_n == 0 && dev.writes == 44 && all_stay());
	CHECK(dev.asked == 0);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 40 && all_drops() == 0);
	dev.judge = NULL;
	fill(batch, 10, 1000);
	CHECK(write_and_check(batch) == 4 && all_drops() == 0);
}

/* A full device is tried so often and no more, for all of a batch; that is no refusal. */
static void test_storms(struct wgf_batch *batch)
{
	const int errors[] = {ENOBUFS, EAGAIN, ENOMEM};
	for (int i = 0; i < 3; i++) {
		play(judge_by_number, errors[i], 0, 1000000);
		fill(batch, 20, 1000);
		CHECK(write_and_check(batch) == 0 && dev.writes == WGF_SEND_RETRIES + FLOWS);
		CHECK(drops(WGF_DROP_RECEIVE_INNER_FULL) == 80 && all_drops() == 0 && all_stay());
		play(judge_by_number, errors[i], 2, WGF_SEND_RETRIES);
		fill(batch, 20, 1000);
		CHECK(write_and_check(batch) == FLOWS && dev.writes == WGF_SEND_RETRIES + FLOWS && all_drops() == 0);
		play(judge_by_number, errors[i], 2, WGF_SEND_RETRIES + 1);
		fill(batch, 20, 1000);
		CHECK(write_and_check(batch) == FLOWS - 1 && dev.writes == WGF_SEND_RETRIES + FLOWS);
		CHECK(drops(WGF_DROP_RECEIVE_INNER_FULL) == 20 && all_drops() == 0 && all_stay());
		play(judge_supers, errors[i], 0, 0); /* full for the packets of a super-packet it refused */
		fill(batch, 20, 1000);
		CHECK(write_and_check(batch) == 0 && dev.writes == FLOWS + WGF_SEND_RETRIES + 80 && all_stay());
		CHECK(drops(WGF_DROP_RECEIVE_INNER_FULL) == 80 && all_drops() == 0);
	}
	play(judge_by_number, EINTR, 1, 50);
	fill(batch, 20, 1000);
	CHECK(write_and_check(batch) == FLOWS && dev.writes == 50 + FLOWS && all_drops() == 0);
}

/* Deleted in the middle of a batch: what was written was written, the rest is counted. */
static void test_gone(struct wgf_batch *batch)
{
	play(judge_by_number, EBADFD, 2, 1000000);
	fill(batch, 20, 1000);
	CHECK(write_and_check(batch) == 2 && all_stay());
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 40 && all_drops() == 0);
}

/* It has never taken a header: whether it is up is asked every so often, and as this one cannot be opened again
 * (it is of no namespace), nothing is given up. */
static void test_headers_refused(struct wgf_batch *batch)
{
	const int errors[] = {EINVAL, EIO, EOPNOTSUPP};
	for (int i = 0; i < 6; i++) {
		play(judge_by_number, errors[i % 3], 0, 1000000);
		dev.up = i < 3;
		fill(batch, 1, 1000);
		for (unsigned n = FLOWS; n < FRESH; n += FLOWS) {
			CHECK(write_and_check(batch) == 0 && dev.asked == 0);
			fill(batch, 1, 1000);
		}
		CHECK(write_and_check(batch) == 0 && dev.asked == 1);
		fill(batch, FRESH, 1000);
		CHECK(write_and_check(batch) == 0 && dev.asked == FLOWS);
		CHECK(all_stay() && atomic_load(&device->tun.vnet) && atomic_load(&device->tun.generation) == 0);
		CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == FRESH + FLOWS * FRESH && all_drops() == 0);
		dev.judge = NULL;
		fill(batch, 10, 1000);
		CHECK(write_and_check(batch) == FLOWS && all_drops() == 0);
	}
	play(judge_by_number, ENOBUFS, 0, 1000000); /* which is not about headers */
	fill(batch, 60, 1000);
	CHECK(write_and_check(batch) == 0 && dev.asked == 0);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_FULL) == 240 && all_drops() == 0);
}

/* One packet was taken, the plainest or a super-packet: the headers are not what is wrong with the others. */
static void test_headers_were_taken(struct wgf_batch *batch)
{
	for (uint32_t n = 1; n <= 10; n += 9) {
		play(NULL, EINVAL, 0, 1000000);
		fill(batch, n, 1000);
		CHECK(write_and_check(batch) == (n > 1 ? FLOWS : 0));
		dev.judge = judge_by_number;
		fill(batch, 60, 1000);
		CHECK(write_and_check(batch) == 0 && dev.asked == 0 && all_stay());
		CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 240 && all_drops() == 0);
	}
	begin(true, 0, 0); /* another device is not the one that took them */
	dev.judge = judge_by_number;
	fill(batch, 60, 1000);
	CHECK(write_and_check(batch) == 0 && dev.asked == 240 / FRESH);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 240);
}

int main(void)
{
	begin_playing();
	struct wgf_batch *batch = make_batch(2048);
	test_write(batch);
	test_write_one();
	for (int tcp = 0; tcp < 2; tcp++) {
		test_one_kind_refused(batch, tcp, EINVAL);
		test_one_kind_refused(batch, tcp, EIO);
	}
	test_one_refused_too(batch);
	test_all_refused(batch);
	test_storms(batch);
	test_gone(batch);
	test_headers_refused(batch);
	test_headers_were_taken(batch);
	free_batch(batch);
	end_playing();
	return 0;
}
