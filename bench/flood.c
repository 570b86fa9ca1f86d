/* Handshake initiations that are none, at a constant rate, and the least that can be done with them: the traffic of
 * bench/flood.py, which builds it.
 *
 *     flood send ADDRESS PORT RATE SECONDS    prints how many were sent
 *     flood spread ADDRESS PORT RATE SECONDS FIRST COUNT
 *                                             the same, but sends what it reads from its input, 148 bytes each, again
 *                                             and again, from COUNT addresses in turn, of which FIRST is the first;
 *                                             all must be the machine's own (an AnyIP route will do)
 *     flood sink ADDRESS PORT                 receives in batches and throws away; prints "ready", and when its input
 *                                             ends how many came
 *
 * What `send` makes has the type and length of an initiation and another random mac1. */
#include <poll.h>
#include <sys/random.h>
#include <unistd.h>

#include "datagrams.h"

enum { SIZE = 148, TICK_NS = 200000, MESSAGES_MAX = 1 << 16 };

static uint8_t bytes[BATCH][2048];
static struct iovec vectors[BATCH];
static struct mmsghdr headers[BATCH];

static void prepare(size_t room)
{
	for (int i = 0; i < BATCH; i++) {
		vectors[i] = (struct iovec){bytes[i], room};
		headers[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
	}
}

/* At a constant rate; `fill` is told which messages are to be the next, if they change. */
static void send_steadily(int fd, uint64_t rate, double seconds, void (*fill)(uint64_t first, unsigned n))
{
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9), sent = 0;
	for (uint64_t now; (now = now_ns()) < end;) {
		uint64_t due = (now - begin) * rate / 1000000000;
		unsigned n = due - sent < BATCH ? (unsigned)(due - sent) : BATCH;
		if (fill)
			fill(sent, n);
		int done = n ? sendmmsg(fd, headers, n, 0) : 0;
		sent += done > 0 ? (uint64_t)done : 0;
		if (done <= 0) {
			struct timespec pause = {.tv_nsec = TICK_NS};
			nanosleep(&pause, NULL);
		}
	}
	printf("%llu\n", (unsigned long long)sent);
}

static void send_flood(int fd, uint64_t rate, double seconds)
{
	for (int i = 0; i < BATCH; i++) {
		if (getrandom(bytes[i], SIZE, 0) != SIZE)
			fail("getrandom");
		memcpy(bytes[i], "\1\0\0\0", 4);
	}
	send_steadily(fd, rate, seconds, NULL);
}

static uint8_t messages[MESSAGES_MAX][SIZE];
static uint64_t messages_n, sources_n;
static uint32_t first_source;
static struct sockaddr_in target;
static struct {
	_Alignas(struct cmsghdr) uint8_t room[CMSG_SPACE(sizeof(struct in_pktinfo))];
} controls[BATCH];

static void fill_spread(uint64_t first, unsigned n)
{
	for (unsigned i = 0; i < n; i++) {
		struct msghdr *header = &headers[i].msg_hdr;
		vectors[i] = (struct iovec){messages[(first + i) % messages_n], SIZE};
		header->msg_name = &target;
		header->msg_namelen = sizeof target;
		header->msg_control = &controls[i];
		header->msg_controllen = sizeof controls[i];
		struct cmsghdr *control = CMSG_FIRSTHDR(header);
		*control = (struct cmsghdr){CMSG_LEN(sizeof(struct in_pktinfo)), IPPROTO_IP, IP_PKTINFO};
		struct in_pktinfo info = {.ipi_spec_dst.s_addr = htonl(first_source + (uint32_t)((first + i) % sources_n))};
		memcpy(CMSG_DATA(control), &info, sizeof info);
	}
}

static void send_spread(char **arguments)
{
	struct in_addr source;
	/* Bound, not connected: what is answered is taken in, and not refused by an ICMP message. */
	int fd = open_socket("0.0.0.0", "0", 0), size = BUFFER;
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	target = (struct sockaddr_in){.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(arguments[1]))};
	if (inet_pton(AF_INET, arguments[0], &target.sin_addr) != 1 || inet_pton(AF_INET, arguments[4], &source) != 1)
		fail("address");
	first_source = ntohl(source.s_addr);
	sources_n = strtoull(arguments[5], NULL, 10);
	messages_n = fread(messages, SIZE, MESSAGES_MAX, stdin);
	if (!messages_n || !sources_n)
		fail("nothing to send");
	send_steadily(fd, strtoull(arguments[2], NULL, 10), atof(arguments[3]), fill_spread);
}

static void sink(int fd)
{
	struct pollfd watched[2] = {{fd, POLLIN, 0}, {0, POLLIN, 0}};
	uint64_t received = 0;
	puts("ready");
	fflush(stdout);
	while (poll(watched, 2, -1) > 0) {
		int n;
		while ((n = recvmmsg(fd, headers, BATCH, MSG_DONTWAIT, NULL)) > 0)
			received += (uint64_t)n;
		if (watched[1].revents)
			break;
	}
	printf("%llu\n", (unsigned long long)received);
}

int main(int argc, char **argv)
{
	if (argc == 6 && !strcmp(argv[1], "send")) {
		prepare(SIZE);
		send_flood(open_socket(argv[2], argv[3], 1), strtoull(argv[4], NULL, 10), atof(argv[5]));
	} else if (argc == 8 && !strcmp(argv[1], "spread")) {
		prepare(SIZE);
		send_spread(argv + 2);
	} else if (argc == 4 && !strcmp(argv[1], "sink")) {
		prepare(sizeof(bytes[0]));
		sink(open_socket(argv[2], argv[3], 0));
	} else {
		fprintf(stderr, "usage: flood send ADDRESS PORT RATE SECONDS | flood sink ADDRESS PORT |\n"
				"       flood spread ADDRESS PORT RATE SECONDS FIRST COUNT <MESSAGES\n");
		return 2;
	}
	return 0;
}
