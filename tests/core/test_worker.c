/* The workers' life beside the packets: started and stopped again and again under traffic, ports that move and
 * come back, an interface that goes away, what was retired while they were busy. */
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "pair.h"
#include "worker.h"

struct node {
	struct party party;
	int inner, other; /* our end of the interface, and the device's */
	uint16_t port;
};

static void make_node(struct node *node, uint8_t number, int type, uint32_t threads)
{
	int pair[2];
	uint8_t key[WGF_KEY_SIZE] = {number};
	struct wgf_device_options options = {.threads = threads};
	node->party.device = wgf_device_create(&options);
	CHECK(node->party.device);
	node->party.number = number;
	CHECK(!socketpair(AF_UNIX, type | SOCK_CLOEXEC, 0, pair));
	node->inner = pair[1];
	node->other = pair[0];
	CHECK(!wgf_device_set_identity(node->party.device, key, key));
	CHECK(!wgf_device_set_tun(node->party.device, pair[0]));
	CHECK(!wgf_device_bind(node->party.device, 0, 0, &node->port));
	CHECK(!wgf_device_start(node->party.device));
}

static void end_node(struct node *node)
{
	wgf_device_destroy(node->party.device);
	close(node->inner);
	close(node->other);
}

static void point(struct node *node, const struct node *at)
{
	struct wgf_endpoint endpoint = {.address = {127, 0, 0, 1}, .port = at->port, .family = 4};
	CHECK(!wgf_peer_set_endpoint(node->party.device, node->party.peer, &endpoint));
}

static void meet_node(struct node *a, struct node *b)
{
	a->party.peer = meet(&a->party, b->party.number);
	b->party.peer = meet(&b->party, a->party.number);
	point(a, b);
	point(b, a);
	begin_session(&a->party, &b->party, 3, wgf_clock_now());
}

/* One packet from a to b within a second or so, repeated as a program would. */
static void reaches(struct node *a, struct node *b)
{
	uint8_t packet[64], got[ROW];
	make_ipv4(packet, sizeof packet, a->party.number, b->party.number);
	for (int i = 0; i < 200; i++) {
		struct pollfd ready = {.fd = b->inner, .events = POLLIN};
		CHECK(write(a->inner, packet, sizeof packet) == sizeof packet);
		if (poll(&ready, 1, 10) == 1) {
			CHECK(read(b->inner, got, sizeof got) == sizeof packet && !memcmp(got, packet, sizeof packet));
			while (poll(&ready, 1, 20) == 1)
				CHECK(read(b->inner, got, sizeof got) == sizeof packet);
			return;
		}
	}
	CHECK(!"nothing arrives");
}

static _Atomic bool stop;

static void *flood(void *argument)
{
	struct node *node = argument;
	uint8_t packet[64];
	make_ipv4(packet, sizeof packet, node->party.number, 3 - node->party.number);
	while (!atomic_load(&stop)) {
		send(node->inner, packet, sizeof packet, MSG_DONTWAIT);
		while (recv(node->inner, packet + 40, 24, MSG_DONTWAIT) > 0)
			;
		usleep(20);
	}
	return NULL;
}

/* down and up, bind and unbind, while both sides send. */
static void test_restart_under_traffic(struct node *a, struct node *b)
{
	pthread_t threads[2];
	atomic_store(&stop, false);
	CHECK(!pthread_create(&threads[0], NULL, flood, a));
	CHECK(!pthread_create(&threads[1], NULL, flood, b));
	for (int i = 0; i < 30; i++) {
		struct node *node = i & 1 ? b : a, *other = i & 1 ? a : b;
		uint16_t port = node->port;
		usleep(3000);
		if (i % 3 == 0) {
			CHECK(!wgf_device_stop(node->party.device) && !wgf_device_stop(node->party.device));
			wgf_device_unbind(node->party.device);
			CHECK(!wgf_device_bind(node->party.device, port, 0, &node->port) && node->port == port);
			CHECK(!wgf_device_start(node->party.device) && !wgf_device_start(node->party.device));
		} else if (i % 3 == 1) {
			CHECK(!wgf_device_bind(node->party.device, 0, 0, &node->port) && node->port != port);
		} else {
			wgf_device_unbind(node->party.device);
			usleep(1000);
			CHECK(!wgf_device_bind(node->party.device, 0, 0, &node->port));
		}
		point(other, node);
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	uint8_t got[ROW];
	usleep(20000);
	while (recv(a->inner, got, sizeof got, MSG_DONTWAIT) > 0 || recv(b->inner, got, sizeof got, MSG_DONTWAIT) > 0)
		;
	/* A packet from an old port may have come after all, and been roamed to. */
	point(a, b);
	point(b, a);
	reaches(a, b);
	reaches(b, a);
}

static bool is_free(uint16_t port)
{
	struct wgf_endpoint any = {.family = 4, .port = port};
	struct sockaddr_storage name;
	socklen_t size = wgf_endpoint_to_sockaddr(&any, &name);
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	CHECK(s >= 0);
	bool bound = !bind(s, (struct sockaddr *)&name, size);
	close(s);
	return bound;
}

/* A port that was left while a batch was under way is given back as soon as it was emitted: by the workers, or by
 * whoever wants that port again. */
static void test_old_port(struct node *a, struct node *b)
{
	struct wgf_device *device = a->party.device;
	struct wgf_reader reader = {0};
	uint16_t first = a->port, second;
	wgf_epoch_join(&device->epoch, &reader);
	wgf_epoch_enter(&device->epoch, &reader);
	CHECK(!wgf_device_bind(device, 0, 0, &second));
	CHECK(!is_free(first));
	wgf_epoch_exit(&reader);
	CHECK(!wgf_device_bind(device, first, 0, &a->port) && a->port == first);
	CHECK(is_free(second));

	wgf_epoch_enter(&device->epoch, &reader);
	CHECK(!wgf_device_bind(device, 0, 0, &a->port));
	wgf_epoch_exit(&reader);
	wgf_epoch_leave(&device->epoch, &reader);
	point(b, a);
	reaches(a, b);
	for (int i = 0; i < 100 && !is_free(first); i++)
		usleep(1000);
	CHECK(is_free(first));
}

static uint64_t processor_time(void)
{
	struct timespec used;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
	return (uint64_t)used.tv_sec * WGF_SECOND + (uint64_t)used.tv_nsec;
}

struct stranger {
	int socket;
	_Atomic uint64_t sent;
};

/* Initiations that are none, as fast as they go. */
static void *molest(void *argument)
{
	struct stranger *stranger = argument;
	uint8_t junk[148] = {WGF_MESSAGE_INITIATION};
	while (!atomic_load(&stop))
		if (send(stranger->socket, junk, sizeof junk, 0) == sizeof junk)
			atomic_fetch_add(&stranger->sent, 1);
	return NULL;
}

/* A flood that waits already is read without a pause: were there one after every batch, more would come than is read,
 * and packets of peers would stand behind it. */
static void test_strangers_waiting(void)
{
	struct node node;
	enum { WAITING = 512 }; /* an ordinary socket has room for them */
	int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	uint8_t junk[148] = {WGF_MESSAGE_INITIATION};
	struct rusage before, after;
	uint64_t counts[WGF_DROP_COUNT], judged = 0;
	make_node(&node, 3, SOCK_SEQPACKET, 1);
	to.sin_port = htons(node.port);
	CHECK(s >= 0 && !connect(s, (struct sockaddr *)&to, sizeof to));
	CHECK(!wgf_device_stop(node.party.device) && !wgf_device_drops(node.party.device, counts));
	uint64_t first = counts[WGF_DROP_HANDSHAKE_MAC1];
	for (int i = 0; i < WAITING; i++)
		CHECK(send(s, junk, sizeof junk, 0) == sizeof junk);
	CHECK(!getrusage(RUSAGE_SELF, &before) && !wgf_device_start(node.party.device));
	for (; judged < WAITING; judged = counts[WGF_DROP_HANDSHAKE_MAC1] - first) {
		sched_yield();
		CHECK(!wgf_device_drops(node.party.device, counts));
	}
	CHECK(!getrusage(RUSAGE_SELF, &after));
	CHECK(after.ru_nvcsw - before.ru_nvcsw < WAITING / 64 / 2); /* a batch has 64 */
	close(s);
	end_node(&node);
}

/* While strangers keep the workers busy packets pass both ways, workers stop at once and start again; afterwards they
 * sleep. */
static void test_strangers(struct node *a, struct node *b)
{
	struct stranger stranger = {.socket = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0)};
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(a->port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	pthread_t thread;
	CHECK(stranger.socket >= 0 && !connect(stranger.socket, (struct sockaddr *)&to, sizeof to));
	uint64_t before[WGF_DROP_COUNT], after[WGF_DROP_COUNT];
	CHECK(!wgf_device_drops(a->party.device, before));
	atomic_store(&stop, false);
	CHECK(!pthread_create(&thread, NULL, molest, &stranger));
	for (int i = 0; i < 20; i++) {
		reaches(a, b);
		reaches(b, a);
		CHECK(!wgf_device_stop(a->party.device) && !wgf_device_start(a->party.device));
	}
	atomic_store(&stop, true);
	pthread_join(thread, NULL);
	usleep(50000);
	uint64_t used = processor_time();
	usleep(100000);
	CHECK(processor_time() - used < WGF_SECOND / 20);
	CHECK(!wgf_device_drops(a->party.device, after));
	uint64_t judged = after[WGF_DROP_HANDSHAKE_MAC1] - before[WGF_DROP_HANDSHAKE_MAC1];
	CHECK(judged > 0 && judged <= atomic_load(&stranger.sent));
	close(stranger.socket);
}

/* The interface goes while there is no room for news: said once, and nobody looks at it any more. */
static void test_interface_gone(struct node *node)
{
	struct wgf_event events[64];
	size_t said = 0;
	struct pollfd ready = {.fd = wgf_device_event_fd(node->party.device), .events = POLLIN};
	while (wgf_events_put(&node->party.device->events, &(struct wgf_event){.kind = WGF_EVENT_ROAMED}))
		;
	shutdown(node->inner, SHUT_RDWR);
	usleep(50000); /* nobody takes before it was noticed */
	for (int i = 0; i < 200; i++) {
		poll(&ready, 1, 10);
		wgf_device_quiet(node->party.device);
		size_t n = take_events(node->party.device, events, 64);
		for (size_t k = 0; k < n; k++)
			said += events[k].kind == WGF_EVENT_TUN_GONE;
		if (said)
			break;
	}
	usleep(50000);
	uint64_t before = processor_time();
	usleep(300000);
	CHECK(processor_time() - before < WGF_SECOND / 20);
	size_t n = take_events(node->party.device, events, 64);
	for (size_t k = 0; k < n; k++)
		said += events[k].kind == WGF_EVENT_TUN_GONE;
	CHECK(said == 1);
	CHECK(!wgf_device_stop(node->party.device) && !wgf_device_start(node->party.device));
	usleep(50000);
	before = processor_time();
	usleep(100000);
	CHECK(processor_time() - before < WGF_SECOND / 20);
}

/* What an Engine is not, and what a device is not any more. */
static void test_refused(void)
{
	struct wgf_device_options options = {.threads = WGF_THREADS_MAX + 1};
	uint16_t port;
	struct party engine;
	CHECK(!wgf_device_create(&options) && errno == EINVAL);
	make_party(&engine, 1);
	CHECK(wgf_device_start(engine.device) == -EOPNOTSUPP);
	CHECK(wgf_device_bind(engine.device, 0, 0, &port) == -EOPNOTSUPP);
	CHECK(wgf_device_set_tun(engine.device, 0) == -EBUSY);
	CHECK(!wgf_device_stop(engine.device));
	wgf_device_destroy(engine.device);
}

int main(void)
{
	struct node a, b;
	make_node(&a, 1, SOCK_SEQPACKET, 2);
	make_node(&b, 2, SOCK_SEQPACKET, 2);
	meet_node(&a, &b);
	reaches(&a, &b);
	reaches(&b, &a);
	test_old_port(&a, &b);
	test_restart_under_traffic(&a, &b);
	test_strangers(&a, &b);
	test_interface_gone(&a);
	end_node(&a);
	end_node(&b);
	test_strangers_waiting();
	test_refused();
	return 0;
}
