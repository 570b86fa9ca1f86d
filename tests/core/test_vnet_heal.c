/* Real TUN devices that fall ill: one that has never taken a header is opened again without, loses neither its name
 * nor its addresses, and everything goes on; one that refuses for another reason, or cannot be opened again, stays
 * as it is; one that is deleted is gone. */
#include <linux/capability.h>
#include <pthread.h>

#include "ends.h"

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
		check_reads_datagrams(end, version, 7, 1000, 40333);
		check_writes_datagrams(end, version, 40, 1000, true);
		check_tcp(version, 0, 1000000);
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
	check_writes_datagrams(end, 4, 40, 1000, true);
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
	CHECK(wgf_tun_read(end->device, end->device->tun.queues, batch) == -ENODEV);
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
	check_reads_datagrams(end, 6, 7, 1000, 40333);
	check_writes_datagrams(end, 4, 40, 1000, true);
	close_end(end);
}

static void *let_go(void *argument)
{
	usleep(20000);
	close(*(int *)argument);
	return NULL;
}

/* As long as a thread is in a call on the descriptor, the interface stays taken; a copy of it is as good. */
static void test_opened_again_when_free(void)
{
	struct end *end = &ends[0];
	pthread_t thread;
	open_end(end, 1);
	enter(end);
	int held = dup(end->tun);
	CHECK(held >= 0 && pthread_create(&thread, NULL, let_go, &held) == 0);
	fall_ill(end, EINVAL);
	write_some(end, 40);
	pthread_join(thread, NULL);
	check_reopened(end, EINVAL, if_nametoindex(end->name));
	fall_ill(NULL, 0);
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
		CHECK(wgf_tun_read(end->device, end->device->tun.queues, own) >= 0); /* it never seems to have gone */
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
	if (!begin_ends("test_vnet_heal"))
		return 0;
	test_down();
	test_deleted();
	for (int i = 0; i < OBSTACLES; i++)
		test_cannot_be_opened_again((enum obstacle)i);
	test_persistent();
	test_opened_again_when_free();
	test_opened_again(EINVAL);
	test_opened_again(EIO);
	for (int i = 0; i < 5; i++)
		test_opened_again_in_traffic();
	finish_ends();
	return 0;
}
