/* One datagram after another at a constant rate, and a count of those that arrive: the traffic generator
 * of bench/compare.py, which builds it. iperf3 spends too much on a small datagram, and sends in bursts.
 *
 *     compare_udp send ADDRESS PORT SIZE RATE SECONDS RUN    prints what was sent, as JSON
 *     compare_udp receive ADDRESS PORT RUN                   prints "ready"; when its input ends, what arrived
 *
 * RUN is a number that each datagram carries beside its own: those of another run are not counted.
 *
 * Both do as little as they can for a datagram, for they share their processors with the tunnel. The sender
 * wakes up when a few are due and gives them to the kernel in one call. If it is woken late it catches up, but
 * with no more than BURST at once: the rest is left out and counted as skipped, so that a pause of the
 * sender is not taken for a loss of the tunnel. The receiver looks every millisecond instead of
 * being woken for each. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define BATCH 64		  /* datagrams in one system call */
#define BURST 192		  /* that may be sent at once after a pause: well below a TUN device's 500 */
#define TICK_NS 100000		  /* the least time between two wake-ups of the sender */
#define LOOK_NS 1000000		  /* between two looks of the receiver */
#define QUIET_NS 200000000	  /* nothing for so long after the input's end: nothing more will come */
#define BUFFER (32 << 20)	  /* of the receiving socket: what waits there is not lost */
#define NUMBERS (UINT32_C(1) << 26) /* the most datagrams of a run; the receiver has a bit for each */
#define SIZE_MIN sizeof(struct head)
#define SIZE_MAX_UDP 65507

struct head {
	uint32_t run, number;
};

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static void sleep_until(uint64_t ns)
{
	struct timespec until = {.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};

	while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
		;
}

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "compare_udp: %s: %s\n", what, strerror(errno));
	exit(1);
}

static int open_socket(const char *address, const char *port, bool sending)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = BUFFER;

	if (inet_pton(AF_INET, address, &at.sin_addr) != 1) {
		errno = EINVAL;
		fail(address);
	}
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, sending ? SO_SNDBUFFORCE : SO_RCVBUFFORCE, &size, sizeof(size)))
		fail("socket");
	if ((sending ? connect : bind)(fd, (struct sockaddr *)&at, sizeof(at)))
		fail(address);
	return fd;
}

/* BATCH datagrams that are sent again and again with other numbers, or received over one another. */
struct batch {
	struct mmsghdr messages[BATCH];
	struct iovec pieces[BATCH];
	uint8_t *memory;
	size_t size;
};

static void batch_init(struct batch *batch, size_t size)
{
	memset(batch, 0, sizeof(*batch));
	batch->size = size;
	batch->memory = calloc(BATCH, size);
	if (batch->memory == NULL)
		fail("memory");
	for (size_t i = 0; i < BATCH; i++) {
		batch->pieces[i] = (struct iovec){.iov_base = batch->memory + i * size, .iov_len = size};
		batch->messages[i].msg_hdr.msg_iov = &batch->pieces[i];
		batch->messages[i].msg_hdr.msg_iovlen = 1;
	}
}

struct sent {
	uint64_t sent, skipped, refused;
};

/* Sends `n` datagrams, numbered on from `sent->sent`. One that the kernel refuses counts as sent, and is missed at
 * the far end. */
static void send_burst(int fd, struct batch *batch, struct head head, uint64_t n, struct sent *sent)
{
	while (n > 0) {
		unsigned int m = n < BATCH ? (unsigned int)n : BATCH;
		int done;

		for (unsigned int i = 0; i < m; i++) {
			head.number = (uint32_t)(sent->sent + i);
			memcpy(batch->memory + i * batch->size, &head, sizeof(head));
		}
		done = sendmmsg(fd, batch->messages, m, 0);
		if (done < 0 && errno == EINTR)
			continue;
		if (done <= 0) {
			sent->refused++;
			done = 1;
		}
		sent->sent += (unsigned int)done;
		n -= (unsigned int)done;
	}
}

static int run_sender(const char *address, const char *port, size_t size, double rate, double seconds, uint32_t run)
{
	int fd = open_socket(address, port, true);
	struct head head = {.run = run};
	struct sent sent = {0, 0, 0};
	struct batch batch;
	uint64_t total = (uint64_t)(rate * seconds), begin;
	double step = rate * TICK_NS / 1e9; /* datagrams between two wake-ups */

	if (step < 1)
		step = 1;
	if (step > BATCH)
		step = BATCH;
	batch_init(&batch, size);
	begin = now_ns();
	for (uint64_t offered = 0; offered < total;) {
		uint64_t due = (uint64_t)((double)(now_ns() - begin) / 1e9 * rate) + 1;

		if (due > total)
			due = total;
		if (due > offered + BURST) {
			sent.skipped += due - offered - BURST;
			offered = due - BURST;
		}
		if (due > offered)
			send_burst(fd, &batch, head, due - offered, &sent);
		offered = due > offered ? due : offered;
		sleep_until(begin + (uint64_t)(((double)offered + step - 1) / rate * 1e9));
	}
	printf("{\"sent\": %" PRIu64 ", \"skipped\": %" PRIu64 ", \"refused\": %" PRIu64 ", \"seconds\": %.6f}\n",
	       sent.sent, sent.skipped, sent.refused, (double)(now_ns() - begin) / 1e9);
	return 0;
}

struct received {
	uint64_t received, duplicates, late, highest; /* late: after one with a higher number */
	uint8_t *seen;
};

static void count_one(struct received *received, const struct mmsghdr *message, uint32_t run)
{
	struct head head;
	uint8_t bit;

	if (message->msg_len < sizeof(head))
		return;
	memcpy(&head, message->msg_hdr.msg_iov->iov_base, sizeof(head));
	if (head.run != run || head.number >= NUMBERS)
		return;
	bit = (uint8_t)(1 << head.number % 8);
	if (received->seen[head.number / 8] & bit) {
		received->duplicates++;
		return;
	}
	received->seen[head.number / 8] |= bit;
	received->received++;
	if (head.number < received->highest)
		received->late++;
	else
		received->highest = head.number;
}

/* Reads what waits; returns whether anything did. */
static bool receive_waiting(int fd, struct batch *batch, struct received *received, uint32_t run)
{
	bool any = false;

	for (int rounds = 0; rounds < 1000; rounds++) {
		int n = recvmmsg(fd, batch->messages, BATCH, MSG_DONTWAIT, NULL);

		for (int i = 0; i < n; i++)
			count_one(received, &batch->messages[i], run);
		any |= n > 0;
		if (n < BATCH)
			break;
	}
	return any;
}

static bool input_ended(void)
{
	struct pollfd input = {.fd = STDIN_FILENO, .events = POLLIN};
	char byte;

	return poll(&input, 1, 0) > 0 && read(STDIN_FILENO, &byte, 1) <= 0;
}

static int run_receiver(const char *address, const char *port, uint32_t run)
{
	int fd = open_socket(address, port, false);
	struct received received = {.seen = calloc(NUMBERS / 8, 1)};
	struct batch batch;
	uint64_t last = now_ns();
	bool ended = false;

	if (received.seen == NULL)
		fail("memory");
	batch_init(&batch, sizeof(struct head)); /* the rest of a datagram is cut off, unread */
	puts("ready");
	fflush(stdout);
	for (;;) {
		uint64_t now = now_ns();

		if (receive_waiting(fd, &batch, &received, run) || !ended)
			last = now;
		else if (now - last > QUIET_NS)
			break;
		ended = ended || input_ended();
		sleep_until(now + LOOK_NS);
	}
	printf("{\"received\": %" PRIu64 ", \"duplicates\": %" PRIu64 ", \"late\": %" PRIu64 "}\n",
	       received.received, received.duplicates, received.late);
	return 0;
}

int main(int argc, char **argv)
{
	prctl(PR_SET_TIMERSLACK, 1); /* the default of 50 us is half a TICK_NS */
	if (argc == 5 && strcmp(argv[1], "receive") == 0)
		return run_receiver(argv[2], argv[3], (uint32_t)strtoul(argv[4], NULL, 10));
	if (argc == 8 && strcmp(argv[1], "send") == 0) {
		size_t size = strtoul(argv[4], NULL, 10);
		double rate = strtod(argv[5], NULL), seconds = strtod(argv[6], NULL);

		if (size >= SIZE_MIN && size <= SIZE_MAX_UDP && rate >= 1 && seconds > 0 && rate * seconds < NUMBERS)
			return run_sender(argv[2], argv[3], size, rate, seconds,
					  (uint32_t)strtoul(argv[7], NULL, 10));
	}
	fprintf(stderr, "usage: compare_udp send ADDRESS PORT SIZE RATE SECONDS RUN\n"
			"       compare_udp receive ADDRESS PORT RUN\n");
	return 2;
}
