/* Messages made beforehand, sent at a constant rate: the traffic of bench/crowd.py, which builds it.
 *
 *     crowd ADDRESS PORT FILE SIZE RATE SECONDS    prints how many were sent
 *
 * FILE holds messages of SIZE bytes, one after the other; each is sent once. RATE is messages a second, 0: as
 * fast as can be. */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { BATCH = 64, TICK_NS = 1000000, BUFFER = 4 << 20 };

struct messages {
	uint8_t *first;
	size_t size, count;
};

static _Noreturn void fail(const char *what)
{
	fprintf(stderr, "crowd: %s: %s\n", what, strerror(errno));
	exit(1);
}

static uint64_t now_ns(void)
{
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

static struct messages map(const char *path, size_t size)
{
	struct stat status;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &status))
		fail(path);
	void *first = mmap(NULL, (size_t)status.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
	if (first == MAP_FAILED)
		fail(path);
	return (struct messages){first, size, (size_t)status.st_size / size};
}

static int connected(const char *address, const char *port)
{
	struct sockaddr_in at = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), size = BUFFER;
	if (fd < 0 || inet_pton(AF_INET, address, &at.sin_addr) != 1)
		fail(address);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof(size));
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)))
		fail("socket");
	return fd;
}

/* Returns how many were taken. */
static size_t send_some(int fd, struct messages messages, size_t from, size_t n)
{
	struct iovec vectors[BATCH];
	struct mmsghdr headers[BATCH];
	for (size_t i = 0; i < n; i++) {
		vectors[i] = (struct iovec){messages.first + (from + i) * messages.size, messages.size};
		headers[i].msg_hdr = (struct msghdr){.msg_iov = &vectors[i], .msg_iovlen = 1};
	}
	int done = sendmmsg(fd, headers, (unsigned)n, 0);
	return done > 0 ? (size_t)done : 0;
}

static size_t send_all(int fd, struct messages messages, uint64_t rate, double seconds)
{
	uint64_t begin = now_ns(), end = begin + (uint64_t)(seconds * 1e9);
	size_t sent = 0;
	for (uint64_t now; sent < messages.count && (now = now_ns()) < end;) {
		size_t due = rate ? (size_t)((now - begin) * rate / 1000000000) : messages.count;
		size_t n = (due < messages.count ? due : messages.count) - sent;
		size_t done = n ? send_some(fd, messages, sent, n < BATCH ? n : BATCH) : 0;
		sent += done;
		if (!done) {
			struct timespec pause = {.tv_nsec = TICK_NS};
			nanosleep(&pause, NULL);
		}
	}
	return sent;
}

int main(int argc, char **argv)
{
	if (argc != 7) {
		fprintf(stderr, "usage: crowd ADDRESS PORT FILE SIZE RATE SECONDS\n");
		return 2;
	}
	struct messages messages = map(argv[3], strtoull(argv[4], NULL, 10));
	int fd = connected(argv[1], argv[2]);
	printf("%zu\n", send_all(fd, messages, strtoull(argv[5], NULL, 10), atof(argv[6])));
	return 0;
}
