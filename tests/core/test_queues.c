/* An interface of several queues: a flow leaves by one of them, whatever comes the other way, and keeps its order;
 * TCP flows spread by their ports, what may be fragments only by its addresses. It is opened again without headers as
 * one of a single queue is, and is left with one where the system cannot steer. */
#include "ends.h"

enum { QUEUES = 4, FLOWS = 64, ROUNDS = 3, LEN4 = 40, LEN6 = 60 };

struct sent {
	int version, protocol;
	uint8_t host; /* of the destination, beside the interface's own */
	uint16_t port;
	uint16_t fragment; /* IPv4: flags and offset */
};

/* Addresses, protocol, ports and a number are all that counts: the system passes the rest on as it is. */
static size_t write_sent(uint8_t *to, const struct end *end, const struct sent *what, uint32_t number)
{
	memset(to, 0, LEN6);
	uint8_t *transport = to + (what->version == 4 ? 20 : 40);
	if (what->version == 4) {
		memcpy(to, (uint8_t[]){0x45, 0, 0, LEN4, 0, 1, (uint8_t)(what->fragment >> 8), (uint8_t)what->fragment, 64,
				       (uint8_t)what->protocol, 0, 0, 10, 0, 0, end->number, 10, 0, 0, what->host}, 20);
	} else {
		memcpy(to, (uint8_t[]){0x60, [5] = LEN6 - 40, (uint8_t)what->protocol, 64, 0xfd, [23] = end->number, 0xfd}, 25);
		to[39] = what->host;
	}
	memcpy(transport, (uint8_t[]){(uint8_t)(what->port >> 8), (uint8_t)what->port, 0, 7, (uint8_t)(number >> 8),
				      (uint8_t)number}, 6);
	transport[12] = 5 << 4;
	return what->version == 4 ? LEN4 : LEN6;
}

static void send_raw(const struct end *end, const struct sent *what, uint32_t number)
{
	uint8_t packet[LEN6];
	struct sockaddr_storage to;
	struct end far = {.number = what->host};
	socklen_t size = name_of(&to, &far, what->version, 0);
	size_t len = write_sent(packet, end, what, number);
	const struct end *before = whereabouts;
	enter(end);
	int s = socket(what->version == 4 ? AF_INET : AF_INET6, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_RAW);
	CHECK(s >= 0 && sendto(s, packet, len, 0, (struct sockaddr *)&to, size) == (ssize_t)len);
	close(s);
	enter(before);
}

/* The answer to such a packet, written: Linux would steer by it. */
static void answer(struct end *end, const struct sent *what)
{
	uint8_t packet[LEN6];
	struct end far = {.number = what->host};
	struct sent back = *what;
	back.host = end->number;
	size_t len = write_sent(packet, &far, &back, 0);
	uint8_t *transport = packet + (what->version == 4 ? 20 : 40);
	memcpy(transport, (uint8_t[]){0, 7, (uint8_t)(what->port >> 8), (uint8_t)what->port}, 4);
	wgf_tun_write_one(end->device, packet, len);
}

/* What has left by each queue: numbers rise within a flow, which is in one queue. */
static void collect(struct end *end, int (*key)(const uint8_t *packet), int *queue_of, uint32_t *numbers)
{
	for (int q = 0; q < QUEUES; q++)
		while (clear(batch), wgf_tun_read(end->device, &end->device->tun.queues[q], batch) > 0)
			for (uint32_t i = 0; i < batch->count; i++) {
				const uint8_t *packet = batch->packets[i].inner;
				const uint8_t *transport = packet + (packet[0] >> 4 == 4 ? 20 : 40);
				int flow = key(packet);
				if (flow < 0)
					continue; /* the system's own */
				uint32_t number = (uint32_t)(transport[4] << 8 | transport[5]);
				CHECK(flow < FLOWS && (queue_of[flow] < 0 || queue_of[flow] == q));
				CHECK(number == numbers[flow]++);
				queue_of[flow] = q;
			}
}

static bool is_ours(const uint8_t *packet)
{
	const uint8_t *transport = packet + (packet[0] >> 4 == 4 ? 20 : 40);
	return transport[2] == 0 && transport[3] == 7;
}

static int key_by_port(const uint8_t *packet)
{
	const uint8_t *transport = packet + (packet[0] >> 4 == 4 ? 20 : 40);
	return is_ours(packet) ? (transport[0] << 8 | transport[1]) - 5000 : -1;
}

static int key_by_host(const uint8_t *packet)
{
	return is_ours(packet) ? packet[packet[0] >> 4 == 4 ? 19 : 39] - 100 : -1;
}

/* Rounds of one packet of each flow, answered in between; how many of the queues were used. */
static unsigned spread(struct end *end, struct sent base, bool by_port, int (*key)(const uint8_t *packet))
{
	int queue_of[FLOWS];
	uint32_t numbers[FLOWS] = {0};
	unsigned used = 0;
	memset(queue_of, -1, sizeof queue_of);
	for (uint32_t round = 0; round < ROUNDS; round++) {
		for (int i = 0; i < FLOWS; i++) {
			struct sent what = base;
			what.port = (uint16_t)(by_port ? 5000 + i : 5000);
			what.host = (uint8_t)(by_port ? 100 : 100 + i);
			send_raw(end, &what, round);
			answer(end, &what);
		}
		collect(end, key, queue_of, numbers);
	}
	for (int i = 0; i < FLOWS; i++) {
		CHECK(numbers[i] == ROUNDS);
		used |= 1u << queue_of[i];
	}
	return (unsigned)__builtin_popcount(used);
}

static void check_spread(struct end *end, unsigned queues)
{
	device = end->device;
	CHECK(atomic_load(&device->tun.queues_n) == queues);
	for (int version = 4; version <= 6; version += 2) {
		CHECK(spread(end, (struct sent){.version = version, .protocol = TCP}, true, key_by_port) == queues);
		CHECK(spread(end, (struct sent){.version = version, .protocol = UDP}, true, key_by_port) == 1);
		CHECK(spread(end, (struct sent){.version = version, .protocol = UDP}, false, key_by_host) == queues);
	}
	/* The first of two fragments has ports, the second has not, and no port is looked for. */
	for (uint16_t fragment = 0x2000; fragment <= 0x2001; fragment++)
		CHECK(spread(end, (struct sent){4, TCP, 0, 0, fragment}, true, key_by_port) == 1);
}

static void test_several(void)
{
	struct end *end = &ends[0];
	open_end_of(end, 1, QUEUES);
	check_spread(end, QUEUES);
	close_end(end);
}

/* No packet with a header is taken: all queues are opened again without. */
static void test_opened_again(void)
{
	struct end *end = &ends[0];
	struct flow flow = flow_of(4, UDP, 9);
	struct ifreq request;
	open_end_of(end, 1, QUEUES);
	enter(end); /* as the daemon is */
	sick_error = EINVAL;
	sick = end->tun;
	wgf_batch_reset(batch, 0);
	for (uint32_t i = 0; i < 40; i++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		packet->inner_len = (uint32_t)write_packet(&flow, packet->inner, 100 + i);
		wgf_batch_take(batch);
	}
	wgf_tun_write(end->device, batch);
	device = end->device;
	CHECK(is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_GIVEN_UP, EINVAL) && atomic_load(&device->tun.generation) == 1);
	for (int q = 0; q < QUEUES; q++) {
		int fd = atomic_load(&device->tun.queues[q].fd);
		CHECK(ioctl(fd, TUNGETIFF, &request) == 0 && strcmp(request.ifr_name, end->name) == 0);
		CHECK(!(request.ifr_flags & (IFF_VNET_HDR | IFF_PERSIST)) && fcntl(fd, F_GETFD) & FD_CLOEXEC);
	}
	all_drops();
	check_spread(end, QUEUES);
	sick = -1;
	enter(NULL);
	close_end(end);
}

/* Without steering, and where the interface was made for one queue, there is one. */
static void test_one(void)
{
	struct end *end = &ends[0];
	refuse_control(TUNSETSTEERINGEBPF, UINTPTR_MAX, EINVAL);
	open_end_of(end, 1, QUEUES);
	refuse_control(0, 0, 0);
	check_spread(end, 1);
	enter(end);
	int fd = end->tun;
	CHECK(wgf_link_without_vnet(&fd, 1) == -EOPNOTSUPP); /* the other queues may be anybody's */
	enter(NULL);
	close_end(end);

	refuse_control(TUNSETIFF, IFF_MULTI_QUEUE, EINVAL);
	open_end_of(end, 1, QUEUES);
	refuse_control(0, 0, 0);
	check_spread(end, 1);
	CHECK(wgf_link_add_queue(end->tun) == -EOPNOTSUPP);
	close_end(end);
}

int main(void)
{
	if (!begin_ends("test_queues"))
		return 0;
	test_several();
	test_opened_again();
	test_one();
	finish_ends();
	return 0;
}
