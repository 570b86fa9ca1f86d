/* The inner port: both kinds of Unix pair and, as root, a TUN device that is moved to another namespace,
 * mistaken for nobody there, and deleted. */
#include <arpa/inet.h>
#include <errno.h>
#include <sys/stat.h>

#include "../../wgfast/core/link.h"
#include "../../wgfast/core/tun.h"
#include "namespace.h"
#include "ports.h"

enum { READS = 64 }; /* of one call, at most */

/* ---- A Unix pair ---- */

static void test_adopt_refuses(void)
{
	int pair[2], udp = socket(AF_INET, SOCK_DGRAM, 0);
	CHECK(udp >= 0 && wgf_tun_adopt(device, udp) == -EPROTOTYPE);
	close(udp);
	CHECK(wgf_tun_adopt(device, udp) == -EBADF);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK(wgf_tun_adopt(device, pair[0]) == -EPROTOTYPE);
	CHECK(atomic_load(&device->tun.queues[0].fd) == -1);
	close(pair[0]);
	close(pair[1]);
}

static int read_tun(struct wgf_batch *batch)
{
	clear(batch);
	return wgf_tun_read(device, device->tun.queues, batch);
}

static void test_pair_read(int other, struct wgf_batch *in)
{
	static uint8_t bytes[70000];
	CHECK(read_tun(in) == 0);
	CHECK(send(other, "one", 3, 0) == 3 && send(other, "", 0, 0) == 0);
	CHECK(send(other, bytes, WGF_MTU_MAX + 1, 0) == WGF_MTU_MAX + 1);
	CHECK(send(other, bytes, sizeof(bytes), 0) == sizeof(bytes));
	CHECK(send(other, "two", 3, 0) == 3);
	CHECK(read_tun(in) == 2 && in->bytes == 6);
	CHECK(memcmp(in->packets[0].inner, "one", 3) == 0 && memcmp(in->packets[1].inner, "two", 3) == 0);
	CHECK(drops(WGF_DROP_SEND_TOO_LARGE) == 2 && drops(WGF_DROP_SEND_MALFORMED) == 1);
	CHECK(send(other, bytes, WGF_MTU_MAX, 0) == WGF_MTU_MAX);
	CHECK(read_tun(in) == 1 && in->packets[0].inner_len == WGF_MTU_MAX && all_drops() == 0);
}

static void test_pair_limits(int other, struct wgf_batch *in)
{
	static uint8_t bytes[10000];
	struct wgf_batch *narrow = make_batch(16 + 101 + 16);
	for (int i = 0; i < 100; i++)
		CHECK(send(other, bytes, 40, 0) == 40);
	CHECK(read_tun(in) == READS && read_tun(in) == 100 - READS);
	int room = 1 << 20;
	CHECK(setsockopt(other, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room)) == 0);
	for (int i = 0; i < 300; i++)
		CHECK(send(other, bytes, 40, 0) == 40);
	clear(in); /* calls go on filling a batch until it is full */
	for (int i = 0; i < 4; i++)
		CHECK(wgf_tun_read(device, device->tun.queues, in) == READS);
	CHECK(in->count == WGF_BATCH_PACKETS && wgf_tun_read(device, device->tun.queues, in) == 0);
	in->limit = 7;
	CHECK(read_tun(in) == 7 && wgf_tun_read(device, device->tun.queues, in) == 0);
	in->limit = WGF_BATCH_PACKETS;
	CHECK(read_tun(in) == 300 - 256 - 7 && read_tun(in) == 0);
	/* What is refused is read as well, and as often: it must not hold the thread. */
	for (int i = 0; i < 80; i++)
		CHECK(send(other, "", 0, 0) == 0);
	CHECK(send(other, "one", 3, 0) == 3);
	CHECK(read_tun(in) == 0 && drops(WGF_DROP_SEND_MALFORMED) == READS);
	CHECK(read_tun(in) == 1 && drops(WGF_DROP_SEND_MALFORMED) == 80 - READS);
	for (int i = 0; i < 10; i++)
		CHECK(send(other, bytes, sizeof(bytes), 0) == sizeof(bytes));
	CHECK(read_tun(in) == 7 && read_tun(in) == 3 && all_drops() == 0);
	CHECK(send(other, bytes, 101, 0) == 101 && send(other, bytes, 100, 0) == 100);
	CHECK(read_tun(narrow) == 1 && narrow->packets[0].inner_len == 100);
	CHECK(drops(WGF_DROP_SEND_TOO_LARGE) == 1 && all_drops() == 0);
	free_batch(narrow);
}

static void fill_inner(struct wgf_batch *batch, uint32_t n, uint32_t len)
{
	clear(batch);
	for (uint32_t i = 0; i < n; i++) {
		struct wgf_packet *packet = &batch->packets[batch->count++];
		memset(packet->inner, (int)i, len);
		packet->inner_len = len;
		packet->drop = WGF_DROP_NOT;
	}
}

static void test_pair_write(int other, struct wgf_batch *batch)
{
	uint8_t bytes[2000];
	fill_inner(batch, 5, 50);
	batch->packets[1].drop = WGF_DROP_RECEIVE_REPLAYED;
	batch->packets[2].inner_len = 0; /* a keepalive */
	wgf_tun_write(device, batch);
	for (uint8_t i = 0; i < 5; i++)
		if (i != 1 && i != 2)
			CHECK(recv(other, bytes, sizeof(bytes), 0) == 50 && bytes[49] == i);
	CHECK(recv(other, bytes, sizeof(bytes), MSG_DONTWAIT) < 0 && all_drops() == 0);
	wgf_tun_write_one(device, (const uint8_t *)"answer", 6);
	CHECK(recv(other, bytes, sizeof(bytes), 0) == 6);

	uint64_t written = 0, lost = 0;
	for (int round = 0; round < 100; round++) { /* until nothing more goes in */
		fill_inner(batch, 64, 1400);
		wgf_tun_write(device, batch);
		for (uint32_t i = 0; i < 64; i++) {
			lost += batch->packets[i].drop == WGF_DROP_RECEIVE_INNER_FULL;
			written += batch->packets[i].drop == WGF_DROP_NOT;
		}
	}
	CHECK(lost > 0 && written + lost == 6400 && drops(WGF_DROP_RECEIVE_INNER_FULL) == lost);
	while (recv(other, bytes, sizeof(bytes), MSG_DONTWAIT) > 0)
		written--;
	CHECK(written == 0 && all_drops() == 0);
}

static void test_pair(int type)
{
	int pair[2];
	struct wgf_batch *batch = make_batch(65536);
	CHECK(socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair) == 0);
	CHECK(wgf_tun_adopt(device, pair[0]) == 0 && fcntl(pair[0], F_GETFL) & O_NONBLOCK);
	CHECK(wgf_link_mtu(pair[0]) < 0 && wgf_link_is_up(pair[0]) < 0);
	test_pair_read(pair[1], batch);
	test_pair_write(pair[1], batch);
	if (type == SOCK_SEQPACKET) /* a datagram pair holds ten */
		test_pair_limits(pair[1], batch);
	CHECK(send(pair[1], "last", 4, 0) == 4);
	close(pair[1]);
	CHECK(read_tun(batch) == 1 && batch->packets[0].inner_len == 4);
	CHECK(read_tun(batch) == (type == SOCK_SEQPACKET ? -ENODEV : 0));
	fill_inner(batch, 3, 50);
	wgf_tun_write(device, batch);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 3 && all_drops() == 0);
	wgf_tun_write_one(device, (const uint8_t *)"x", 1);
	atomic_store(&device->tun.queues[0].fd, -1);
	close(pair[0]);
	free_batch(batch);
}

/* ---- A TUN device, in a namespace of our own ---- */

static void test_tun_packets(int tun, const char *name)
{
	struct wgf_batch *batch = make_batch(65536);
	int s = socket(AF_INET, SOCK_DGRAM, 0), netlink = open_netlink(-1);
	struct ifreq request = {0};
	struct sockaddr_in self = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000001)};
	struct sockaddr_in far = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x0a000002), .sin_port = 9};
	CHECK(s >= 0);
	fill_inner(batch, 2, 60);
	wgf_tun_write(device, batch); /* the interface is down: EIO */
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 2 && read_tun(batch) == 0);

	CHECK(wgf_link_is_up(tun) == 0 && change_link(netlink, RTM_NEWLINK, name, -1, IFF_UP) == 0);
	CHECK(wgf_link_is_up(tun) == 1 && wgf_link_set_mtu(tun, WGF_MTU_MAX) == 0);
	strcpy(request.ifr_name, name);
	memcpy(&request.ifr_addr, &self, sizeof(self));
	CHECK(ioctl(s, SIOCSIFADDR, &request) == 0);
	memcpy(&request.ifr_dstaddr, &far, sizeof(far));
	CHECK(ioctl(s, SIOCSIFDSTADDR, &request) == 0);
	for (int i = 0; i < 70; i++)
		CHECK(sendto(s, request.ifr_name, 12, 0, (struct sockaddr *)&far, sizeof(far)) == 12);
	CHECK(read_tun(batch) == READS && batch->packets[63].inner_len == 40);
	CHECK(batch->packets[0].inner[0] == 0x45 && batch->bytes == 64 * 40);
	while (read_tun(batch) > 0)
		;
	static uint8_t large[WGF_MTU_MAX - 28];
	CHECK(sendto(s, large, sizeof(large), 0, (struct sockaddr *)&far, sizeof(far)) == sizeof(large));
	CHECK(read_tun(batch) == 1 && batch->packets[0].inner_len == WGF_MTU_MAX);
	/* The packet comes back in, but as nonsense: the interface takes IP and nothing else. */
	wgf_tun_write(device, batch);
	CHECK(all_drops() == 0);
	fill_inner(batch, 2, 60);
	memset(batch->packets[0].inner, 0xf0, 60);
	wgf_tun_write(device, batch);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) >= 1 && all_drops() == 0);
	close(s);
	close(netlink);
	free_batch(batch);
}

/* The interface goes to `there`, while another of its name and another MTU appears here. */
static void test_tun_moves(int tun, char *name, int there)
{
	int here = open_netlink(-1);
	CHECK(wgf_link_set_mtu(tun, 1380) == 0 && wgf_link_mtu(tun) == 1380);
	CHECK(change_link(here, RTM_NEWLINK, name, there, 0) == 0);
	close(here);
	char same[IFNAMSIZ];
	memcpy(same, name, IFNAMSIZ);
	int impostor = wgf_link_open(same, true, false);
	CHECK(impostor >= 0 && strcmp(same, name) == 0 && wgf_link_set_mtu(impostor, 1234) == 0);
	CHECK(wgf_link_mtu(tun) == 1380 && wgf_link_mtu(impostor) == 1234);
	CHECK(wgf_link_is_up(tun) == 0);

	struct stat before, after; /* and this thread has stayed where it was */
	int home = open_namespace();
	CHECK(fstat(home, &before) == 0 && stat("/proc/thread-self/ns/net", &after) == 0);
	CHECK(before.st_ino == after.st_ino);
	close(home);

	int monitor = open_netlink(there);
	CHECK(wgf_link_set_mtu(tun, 1400) == 0 && hears_of_link(monitor));
	CHECK(wgf_link_mtu(tun) == 1400 && wgf_link_mtu(impostor) == 1234);
	struct wgf_batch *batch = make_batch(2048);
	CHECK(read_tun(batch) == 0);
	CHECK(change_link(monitor, RTM_DELLINK, name, -1, 0) == 0); /* deleted, there */
	CHECK(read_tun(batch) == -ENODEV);
	CHECK(wgf_link_mtu(tun) == -ENODEV && wgf_link_is_up(tun) == -ENODEV);
	CHECK(wgf_link_name(tun, same) == -ENODEV);
	fill_inner(batch, 2, 60);
	wgf_tun_write(device, batch);
	CHECK(drops(WGF_DROP_RECEIVE_INNER_REFUSED) == 2 && all_drops() == 0);
	free_batch(batch);
	close(monitor);
	close(impostor);
}

static void test_tun(void)
{
	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) != 0 || unshare(CLONE_NEWNET) != 0) {
		printf("test_tun: left out: TUN, which takes root and /dev/net/tun\n");
		return;
	}
	int there = open_namespace();
	CHECK(unshare(CLONE_NEWNET) == 0);
	switch_ipv6_off();
	char name[IFNAMSIZ] = "wgport%d", now[IFNAMSIZ], taken[IFNAMSIZ] = "wgport0";
	int tun = wgf_link_open(name, true, false);
	CHECK(tun >= 0 && strcmp(name, "wgport0") == 0);
	CHECK(wgf_link_open(taken, false, false) == -EBUSY);
	memset(taken, 'x', sizeof(taken)); /* no end */
	CHECK(wgf_link_open(taken, false, false) == -ENAMETOOLONG);
	CHECK(wgf_tun_adopt(device, tun) == 0 && !atomic_load(&device->tun.is_socket));
	CHECK(wgf_link_name(tun, now) == 0 && strcmp(now, name) == 0);
	CHECK(wgf_link_mtu(tun) == 1500 && wgf_link_set_mtu(tun, 10) == -EINVAL);
	test_tun_packets(tun, name);
	test_tun_moves(tun, name, there);
	atomic_store(&device->tun.queues[0].fd, -1);
	close(tun);
	close(there);
}

int main(void)
{
	make_device();
	test_adopt_refuses();
	test_pair(SOCK_SEQPACKET);
	test_pair(SOCK_DGRAM);
	test_tun();
	free_device(device);
	return 0;
}
