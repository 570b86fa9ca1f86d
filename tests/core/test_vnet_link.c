/* The inner port on real TUN devices with IFF_VNET_HDR: what the system gives as super-packets is cut up, what is put
 * together reaches a socket, TCP runs from one to the other; also where the system knows less. */
#include "ends.h"

enum { USO_BITS = 0x60 };

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

static void test_healthy(void)
{
	for (int version = 4; version <= 6; version += 2) {
		check_reads_datagrams(&ends[1], version, WGF_BATCH_PACKETS, 1000, 40333);
		check_reads_datagrams(&ends[1], version, 7, 1000, 40333);
		check_reads_datagrams(&ends[1], version, 1, 1, 64);
		check_reads_datagrams(&ends[1], version, 3, 1372, 1372 * 45);
		check_writes_datagrams(&ends[0], version, 40, 1000, false);
		check_writes_datagrams(&ends[0], version, 40, 1000, true);
		check_writes_datagrams(&ends[0], version, 1, 1000, false);
		check_writes_datagrams(&ends[0], version, 200, 1, false);
		check_tcp(version, 0, 4000000);
		CHECK(longest_read > 2 * MTU && longest_write > 2 * MTU);
		check_tcp(version, 100, 400000); /* mostly hundreds of packets in one, more than a batch holds */
	}
}

/* ---- Asking for less ---- */

static void test_refused_at_open(void)
{
	struct end end;
	char name[IFNAMSIZ] = "wgless0";
	refuse_control(TUNSETIFF, IFF_VNET_HDR, EINVAL); /* the system knows no headers */
	int fd = wgf_link_open(name, true, false);
	CHECK(fd >= 0 && wgf_link_has_vnet(fd) == 0);
	close(fd);
	refuse_control(TUNSETIFF, IFF_VNET_HDR, EPERM);
	CHECK(wgf_link_open(name, true, false) == -EPERM);
	fd = wgf_link_open(name, false, false);
	CHECK(fd >= 0 && wgf_link_has_vnet(fd) == 0);
	close(fd);
	refuse_control(TUNSETOFFLOAD, USO_BITS, EINVAL);
	open_end(&end, 1);
	CHECK(is_state(WGF_OFFLOAD_USO, WGF_OFFLOAD_ABSENT, EINVAL) && is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_ACTIVE, 0));
	check_reads_datagrams(&end, 4, 7, 1000, 40333); /* by the system cut up, then */
	check_writes_datagrams(&end, 6, 40, 1000, true);
	close_end(&end);
	refuse_control(0, 0, 0);
}

/* An interface that stays keeps the offloads of whoever had it before, with headers; without, they must go. */
static void test_left_with_offloads(void)
{
	struct end end;
	open_end(&end, 1);
	CHECK(ioctl(end.tun, TUNSETPERSIST, 1) == 0);
	close(end.tun);
	enter(&end);
	end.tun = wgf_link_open(end.name, false, false);
	enter(NULL);
	CHECK(end.tun >= 0 && wgf_link_has_vnet(end.tun) == 0);
	forget_offloads();
	CHECK(wgf_tun_adopt(end.device, end.tun) == 0 && is_state(WGF_OFFLOAD_TSO, WGF_OFFLOAD_ABSENT, EOPNOTSUPP));
	check_reads_datagrams(&end, 4, 7, 1000, 40333);
	check_writes_datagrams(&end, 6, 40, 1000, true);
	CHECK(ioctl(end.tun, TUNSETPERSIST, 0) == 0);
	close_end(&end);
}

int main(void)
{
	if (!begin_ends("test_vnet_link"))
		return 0;
	open_end(&ends[0], 1);
	test_healthy();
	test_writes_one(&ends[0]);
	close_end(&ends[0]);
	test_refused_at_open();
	test_left_with_offloads();
	finish_ends();
	return 0;
}
