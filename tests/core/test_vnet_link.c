/* The inner port on real TUN devices with IFF_VNET_HDR: what the system gives as super-packets is cut up, what is put
 * together reaches a socket, TCP runs from one to the other; and a device that has never taken a header is opened
 * again without, loses neither its name nor its addresses, and all of this goes on. */
#include <linux/capability.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <pthread.h>
#include <time.h>

#include "ends.h"

enum { MOST = 1 << 20, USO_BITS = 0x60 };

static struct wgf_batch *batch; /* a pool's */
static struct wgf_epoch epoch;

/* ---- Reading ---- */

/* Datagrams sent in one piece arrive in pieces, over as many batches as it takes. */
static void test_reads_datagrams(struct end *end, int version, uint32_t limit, uint16_t size, size_t payload)
{
	struct sockaddr_storage to;
	struct end far = {.number = 77};
	static uint8_t bytes[65000];
	uint8_t control[CMSG_SPACE(sizeof(size))] = {0};
	struct iovec vector = {bytes, payload};
	struct msghdr message = {.msg_name = &to, .msg_namelen = name_of(&to, &far, version, 9), .msg_iov = &vector,
				 .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	struct cmsghdr *head = CMSG_FIRSTHDR(&message);
	*head = (struct cmsghdr){.cmsg_level = SOL_UDP, .cmsg_type = UDP_SEGMENT, .cmsg_len = CMSG_LEN(sizeof(size))};
	memcpy(CMSG_DATA(head), &size, sizeof(size));
	for (size_t i = 0; i < payload; i++)
		bytes[i] = flow_byte((uint32_t)i);
	int s = open_socket(end, version, SOCK_DGRAM);
	device = end->device;
	longest_read = 0;
	CHECK(sendmsg(s, &message, 0) == (ssize_t)payload);
	size_t at = 0;
	wgf_batch_reset(batch, 0);
	batch->limit = limit;
	while (clear(batch), wgf_tun_read(end->device, batch) > 0)
		for (uint32_t i = 0; i < batch->count; i++) {
			const uint8_t *p = batch->packets[i].inner;
			size_t headers = transport_of(p) + 8, n = payload - at < size ? payload - at : size;
			if (p[version == 4 ? 9 : 6] != UDP)
				continue; /* the system's own */
			CHECK(batch->packets[i].inner_len == headers + n && is_right(p, headers + n));
			CHECK(is_of_flow(p + headers, n, (uint32_t)at));
			at += n;
		}
	CHECK(at == payload && all_drops() == 0);
	CHECK((longest_read > payload) == wgf_offload_active(&end->device->offloads, WGF_OFFLOAD_USO));
	close(s);
}

/* ---- Writing ---- */

/* n packets of one flow, written; they reach the socket as datagrams, or, if it asks for it, as they were put together. */
static void test_writes_datagrams(struct end *end, int version, uint32_t n, uint32_t payload, bool whole)
{
	static uint8_t bytes[65536];
	struct flow flow = flow_of(version, UDP, 2000);
	struct sockaddr_storage name;
	socklen_t size = name_of(&name, end, version, 2000);
	int s = open_socket(end, version, SOCK_DGRAM), yes = whole, most = MOST;
	CHECK(setsockopt(s, SOL_UDP, UDP_GRO, &yes, sizeof(yes)) == 0);
	CHECK(setsockopt(s, SOL_SOCKET, SO_RCVBUFFORCE, &most, sizeof(most)) == 0);
	CHECK(bind(s, (struct sockaddr *)&name, size) == 0);
	wgf_batch_reset(batch, 0);
	for (uint32_t i = 0; i < n; i++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		packet->inner_len = (uint32_t)write_packet(&flow, packet->inner, payload);
		wgf_batch_take(batch);
	}
	device = end->device;
	wgf_tun_write(device, batch);
	CHECK(all_drops() == 0);
	uint32_t messages = 0, at = 0;
	for (ssize_t got; (got = recv(s, bytes, sizeof(bytes), 0)) > 0; at += (uint32_t)got, messages++)
		CHECK((whole || got == (ssize_t)payload) && is_of_flow(bytes, (size_t)got, at));
	CHECK(at == n * payload);
	if (whole && n > 1)
		CHECK((messages < n) == wgf_offload_active(&end->device->offloads, WGF_OFFLOAD_USO));
	close(s);
}

static void test_writes_one(struct end *end)
{
	struct flow flow = flow_of(4, UDP, 2000);
	uint8_t packet[200], got[200];
	struct sockaddr_storage name;
	socklen_t size = name_of(&name, end, 4, 2000);
	int s = open_socket(end, 4, SOCK_DGRAM);
	CHECK(bind(s, (struct sockaddr *)&name, size) == 0);
	wgf_tun_write_one(end->device, packet, write_packet(&flow, packet, 100));
	CHECK(recv(s, got, sizeof(got), 0) == 100 && is_of_flow(got, 100, 0));
	close(s);
}

/* ---- TCP from one end to the other ---- */

/* What one end gives is looked at and taken to the other. */
static uint32_t carry(struct end *from, struct end *to)
{
	wgf_batch_reset(batch, 0);
	if (wgf_tun_read(from->device, batch) <= 0)
		return 0;
	for (uint32_t i = 0; i < batch->count; i++) {
		const uint8_t *p = batch->packets[i].inner;
		CHECK(batch->packets[i].inner_len <= MTU);
		if (p[p[0] >> 4 == 4 ? 9 : 6] == TCP)
			CHECK(is_right(p, batch->packets[i].inner_len));
	}
	wgf_tun_write(to->device, batch);
	return batch->count;
}

struct stream {
	int s;
	uint32_t sent, got;
};

static void go_on(struct stream *stream, uint32_t total)
{
	static uint8_t bytes[100000];
	uint32_t want = total - stream->sent < sizeof(bytes) ? total - stream->sent : sizeof(bytes);
	for (uint32_t i = 0; i < want; i++)
		bytes[i] = flow_byte(stream->sent + i);
	ssize_t n = want ? send(stream->s, bytes, want, MSG_NOSIGNAL) : 0;
	CHECK(n >= 0 || errno == EAGAIN);
	stream->sent += n > 0 ? (uint32_t)n : 0;
	n = recv(stream->s, bytes, sizeof(bytes), 0);
	CHECK(n > 0 || errno == EAGAIN);
	CHECK(n < 0 || is_of_flow(bytes, (size_t)n, stream->got));
	stream->got += n > 0 ? (uint32_t)n : 0;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void test_tcp(int version, int segment, uint32_t total)
{
	struct sockaddr_storage name;
	socklen_t size = name_of(&name, &ends[1], version, 2222);
	int server = open_socket(&ends[1], version, SOCK_STREAM), yes = 1;
	struct stream client = {.s = open_socket(&ends[0], version, SOCK_STREAM)}, other = {.s = -1};
	CHECK(setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes)) == 0);
	if (segment)
		CHECK(setsockopt(client.s, SOL_TCP, TCP_MAXSEG, &segment, sizeof(segment)) == 0);
	CHECK(bind(server, (struct sockaddr *)&name, size) == 0 && listen(server, 1) == 0);
	CHECK(connect(client.s, (struct sockaddr *)&name, size) < 0 && errno == EINPROGRESS);
	longest_read = longest_write = 0;
	for (double end = now() + 20; client.got < total || other.got < total;) {
		CHECK(now() < end);
		uint32_t moved = carry(&ends[0], &ends[1]) + carry(&ends[1], &ends[0]);
		if (other.s < 0)
			other.s = accept4(server, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
		if (other.s >= 0) {
			go_on(&client, total);
			go_on(&other, total);
		}
		if (!moved) {
			struct pollfd ready[] = {{ends[0].tun, POLLIN, 0}, {ends[1].tun, POLLIN, 0}};
			poll(ready, 2, 1);
		}
	}
	CHECK(client.got == total && other.got == total);
	close(client.s);
	close(other.s);
	close(server);
	for (int quiet = 0; quiet < 3;) /* the farewell */
		quiet = carry(&ends[0], &ends[1]) + carry(&ends[1], &ends[0]) ? 0 : quiet + 1;
}

static void test_healthy(void)
{
	for (int version = 4; version <= 6; version += 2) {
		test_reads_datagrams(&ends[1], version, WGF_BATCH_PACKETS, 1000, 40333);
		test_reads_datagrams(&ends[1], version, 7, 1000, 40333);
		test_reads_datagrams(&ends[1], version, 1, 1, 64);
		test_reads_datagrams(&ends[1], version, 3, 1372, 1372 * 45);
		test_writes_datagrams(&ends[0], version, 40, 1000, false);
		test_writes_datagrams(&ends[0], version, 40, 1000, true);
		test_writes_datagrams(&ends[0], version, 1, 1000, false);
		test_writes_datagrams(&ends[0], version, 200, 1, false);
		test_tcp(version, 0, 4000000);
		CHECK(longest_read > 20000 && longest_write > 20000);
		test_tcp(version, 100, 400000); /* hundreds of packets in one: more than a batch holds */
		CHECK(longest_read > 20000);
	}
	test_writes_one(&ends[0]);
}

/* ---- Asking for less ---- */

static void test_refused_at_open(void)
{
	struct end end;
	char name[IFNAMSIZ] = "wgless0";
	refuse_control(TUNSETIFF, IFF_VNET_HDR, EINVAL); /* the system knows no headers */
	int fd = wgf_link_open(name, true);
	CHECK(fd >= 0 && wgf_link_has_vnet(fd) == 0);
	close(fd);
	refuse_control(TUNSETIFF, IFF_VNET_HDR, EPERM);
	CHECK(wgf_link_open(name, true) == -EPERM);
	fd = wgf_link_open(name, false);
	CHECK(fd >= 0 && wgf_link_has_vnet(fd) == 0);
	close(fd);
	refuse_control(TUNSETOFFLOAD, USO_BITS, EINVAL);
	open_end(&end, 1);
	CHECK(is_state(WGF_OFFLOAD_USO, WGF_OFFLOAD_ABSENT, EINVAL) && is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_ACTIVE, 0));
	test_reads_datagrams(&end, 4, 7, 1000, 40333); /* by the system cut up, then */
	test_writes_datagrams(&end, 6, 40, 1000, true);
	close_end(&end);
	refuse_control(0, 0, 0);
}

/* ---- Illness ---- */

/* So many datagrams written, whatever becomes of them; they are marked and counted. */
static uint64_t write_some(struct end *end, uint32_t n)
{
	struct flow flow = flow_of(4, UDP, 9);
	uint64_t lost = 0;
	wgf_batch_reset(batch, 0);
	for (uint32_t i = 0; i < n; i++) {
		struct wgf_packet *packet = wgf_batch_next(batch);
		packet->inner_len = (uint32_t)write_packet(&flow, packet->inner, 100 + i); /* each longer: none joins another */
		wgf_batch_take(batch);
	}
	wgf_tun_write(end->device, batch);
	for (uint32_t i = 0; i < n; i++)
		lost += batch->packets[i].drop != WGF_DROP_NOT;
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == lost && drops(WGF_DROP_RECEIVE_INNER_FULL) == 0);
	return lost;
}

static bool all_stay(const struct end *end)
{
	return is_state(WGF_OFFLOAD_VNET, WGF_OFFLOAD_ACTIVE, 0) && is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_ACTIVE, 0) &&
	       is_state(WGF_OFFLOAD_USO, WGF_OFFLOAD_ACTIVE, 0) && atomic_load(&device->tun.vnet) &&
	       wgf_link_has_vnet(end->tun) == 1 && atomic_load(&device->tun.generation) == 0;
}

static void fall_ill(const struct end *end, int error)
{
	sick_error = error;
	sick = end ? end->tun : -1;
}

static struct ifreq ask_tun(const struct end *end)
{
	struct ifreq request;
	CHECK(ioctl(end->tun, TUNGETIFF, &request) == 0);
	return request;
}

static void check_reopened(const struct end *end, int error, unsigned index)
{
	struct ifreq request = ask_tun(end);
	for (unsigned i = WGF_OFFLOAD_VNET; i <= WGF_OFFLOAD_USO; i++)
		CHECK(is_state((enum wgf_offload)i, WGF_OFFLOAD_GIVEN_UP, error));
	CHECK(!atomic_load(&device->tun.vnet) && atomic_load(&device->tun.generation) == 1);
	CHECK(strcmp(request.ifr_name, end->name) == 0 && if_nametoindex(end->name) == index);
	CHECK(!(request.ifr_flags & (IFF_VNET_HDR | IFF_PERSIST)));
	CHECK(wgf_link_mtu(end->tun) == MTU && wgf_link_is_up(end->tun) == 1);
	CHECK(fcntl(end->tun, F_GETFL) & O_NONBLOCK && fcntl(end->tun, F_GETFD) & FD_CLOEXEC);
}

/* It takes no header; without, everything goes on, over the same addresses. */
static void test_opened_again(int error)
{
	struct end *end = &ends[0];
	open_end(end, 1);
	enter(end); /* as the daemon is */
	unsigned index = if_nametoindex(end->name);
	fall_ill(end, error);
	CHECK(write_some(end, 15) == 15 && all_stay(end));
	write_some(end, 40);
	check_reopened(end, error, index);
	CHECK(write_some(end, 40) == 0);
	for (int version = 4; version <= 6; version += 2) {
		test_reads_datagrams(end, version, 7, 1000, 40333);
		test_writes_datagrams(end, version, 40, 1000, true);
		test_tcp(version, 0, 1000000);
	}
	check_reopened(end, error, index);
	fall_ill(NULL, 0);
	close_end(end);
}

/* What refuses because it is down is not ill. */
static void test_down(void)
{
	struct end *end = &ends[0];
	struct ifreq request = {0};
	open_end(end, 1);
	int s = open_socket(end, 4, SOCK_DGRAM);
	strcpy(request.ifr_name, end->name);
	CHECK(ioctl(s, SIOCSIFFLAGS, &request) == 0);
	close(s);
	enter(end);
	CHECK(write_some(end, 100) == 100 && all_stay(end));
	CHECK(change_link(end->netlink, RTM_NEWLINK, end->name, -1, IFF_UP) == 0);
	test_writes_datagrams(end, 4, 40, 1000, true);
	fall_ill(end, EINVAL); /* it has taken headers: something else is wrong */
	CHECK(write_some(end, 100) == 100 && all_stay(end));
	fall_ill(NULL, 0);
	close_end(end);
}

static void test_deleted(void)
{
	struct end *end = &ends[0];
	open_end(end, 1);
	until_deletion = 4;
	CHECK(write_some(end, 10) == 10 - 3 && all_drops() == 0);
	wgf_batch_reset(batch, 0);
	CHECK(wgf_tun_read(end->device, batch) == -ENODEV);
	wgf_tun_write_one(end->device, (const uint8_t *)"x", 1);
	CHECK(write_some(end, 100) == 100 && atomic_load(&device->tun.vnet));
	close_end(end);
}

/* This thread may do what the interface's namespace asks for, or may not. */
static void allow_administration(bool yes)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	CHECK(syscall(SYS_capget, &head, data) == 0);
	data[0].effective = yes ? data[0].effective | 1u << CAP_NET_ADMIN : data[0].effective & ~(1u << CAP_NET_ADMIN);
	CHECK(syscall(SYS_capset, &head, data) == 0);
}

/* The interface's, as somebody else has set it up. */
static void replace_tun(struct end *end, int more)
{
	struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | IFF_VNET_HDR | more)};
	CHECK(ioctl(end->tun, TUNSETPERSIST, 0) == 0);
	close(end->tun);
	enter(end);
	end->tun = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	strcpy(request.ifr_name, end->name);
	CHECK(end->tun >= 0 && ioctl(end->tun, TUNSETIFF, &request) == 0);
	CHECK(wgf_tun_adopt(end->device, end->tun) == 0 && wgf_link_set_mtu(end->tun, MTU) == 0);
	enter(NULL);
	CHECK(change_link(end->netlink, RTM_NEWLINK, end->name, -1, IFF_UP) == 0);
	give_addresses(end);
}

enum obstacle { ELSEWHERE, NOT_ALLOWED, QUEUES, OBSTACLES };

/* Where it cannot be opened again (it lives elsewhere, we may not, it has queues), it is not lost by the attempt. */
static void test_cannot_be_opened_again(enum obstacle obstacle)
{
	struct end *end = &ends[0];
	open_end(end, 1);
	if (obstacle == QUEUES)
		replace_tun(end, IFF_MULTI_QUEUE);
	if (obstacle != ELSEWHERE)
		enter(end);
	allow_administration(obstacle != NOT_ALLOWED);
	fall_ill(end, EINVAL);
	CHECK(write_some(end, 100) == 100);
	allow_administration(true);
	CHECK(all_stay(end) && !(ask_tun(end).ifr_flags & IFF_PERSIST));
	fall_ill(NULL, 0);
	test_reads_datagrams(end, 6, 7, 1000, 40333);
	test_writes_datagrams(end, 4, 40, 1000, true);
	close_end(end);
}

/* An interface that was there before us stays when we go. */
static void test_persistent(void)
{
	struct end *end = &ends[0];
	open_end(end, 1);
	CHECK(ioctl(end->tun, TUNSETPERSIST, 1) == 0);
	enter(end);
	fall_ill(end, EINVAL);
	write_some(end, 100);
	CHECK(!atomic_load(&device->tun.vnet) && ask_tun(end).ifr_flags & IFF_PERSIST);
	CHECK(ioctl(end->tun, TUNSETPERSIST, 0) == 0);
	fall_ill(NULL, 0);
	close_end(end);
}

/* ---- Ill while others read and write ---- */

static _Atomic bool stop;
static _Atomic unsigned datagrams_read;

static void *read_on(void *argument)
{
	struct end *end = argument;
	struct wgf_batch *own = make_batch(2048);
	while (!atomic_load(&stop)) {
		clear(own);
		CHECK(wgf_tun_read(end->device, own) >= 0); /* it never seems to have gone */
		for (uint32_t i = 0; i < own->count; i++)
			if (own->packets[i].inner[9] == UDP) {
				CHECK(is_right(own->packets[i].inner, own->packets[i].inner_len));
				datagrams_read++;
			}
	}
	free_batch(own);
	return NULL;
}

static void *answer_on(void *argument)
{
	struct end *end = argument;
	struct flow flow = flow_of(4, UDP, 9);
	uint8_t packet[200];
	while (!atomic_load(&stop)) {
		wgf_tun_write_one(end->device, packet, write_packet(&flow, packet, 100));
		usleep(50);
	}
	return NULL;
}

static void test_opened_again_in_traffic(void)
{
	struct end *end = &ends[0];
	static const uint8_t bytes[900];
	struct sockaddr_storage to;
	struct end far = {.number = 77};
	pthread_t threads[2];
	open_end(end, 1);
	int s = open_socket(end, 4, SOCK_DGRAM);
	socklen_t size = name_of(&to, &far, 4, 9);
	enter(end);
	fall_ill(end, EINVAL);
	atomic_store(&stop, false);
	CHECK(pthread_create(&threads[0], NULL, read_on, end) == 0 && pthread_create(&threads[1], NULL, answer_on, end) == 0);
	for (unsigned i = 0, before = datagrams_read; i < 200 || datagrams_read < before + 200; i++) {
		sendto(s, bytes, sizeof(bytes), 0, (struct sockaddr *)&to, size);
		usleep(100);
		write_some(end, 1);
	}
	atomic_store(&stop, true);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	check_reopened(end, EINVAL, if_nametoindex(end->name));
	CHECK(write_some(end, 40) == 0);
	CHECK(drops(WGF_DROP_SEND_MALFORMED) < 10 && all_drops() == 0); /* read in that moment */
	fall_ill(NULL, 0);
	close(s);
	close_end(end);
}

int main(void)
{
	if (!begin_ends()) {
		printf("test_vnet_link: left out: TUN, which takes root and /dev/net/tun\n");
		return 0;
	}
	size_t ceiling = 0;
	CHECK(wgf_epoch_init(&epoch) == 0);
	batch = wgf_pool_create(1, WGF_SEND_ROOM, &epoch, &ceiling);
	CHECK(batch);
	open_end(&ends[1], 2);
	open_end(&ends[0], 1);
	test_healthy();
	close_end(&ends[0]);
	test_refused_at_open();
	test_down();
	test_deleted();
	for (int i = 0; i < OBSTACLES; i++)
		test_cannot_be_opened_again((enum obstacle)i);
	test_persistent();
	test_opened_again(EINVAL);
	test_opened_again(EIO);
	for (int i = 0; i < 5; i++)
		test_opened_again_in_traffic();
	close_end(&ends[1]);
	wgf_pool_destroy(batch, 1, &epoch);
	wgf_epoch_destroy(&epoch);
	return 0;
}
