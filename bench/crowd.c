/* Messages made beforehand, sent at a constant rate: the traffic of bench/crowd.py, which builds it.
 *
 *     crowd ADDRESS PORT FILE SIZE RATE SECONDS    prints how many were sent
 *
 * FILE holds messages of SIZE bytes, one after the other; each is sent once. RATE is messages a second, 0: as
 * fast as can be. */
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "datagrams.h"

enum { TICK_NS = 1000000 };

struct messages {
	uint8_t *first;
	size_t size, count;
};

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
	int fd = open_socket(argv[1], argv[2], 1);
	printf("%zu\n", send_all(fd, messages, strtoull(argv[5], NULL, 10), atof(argv[6])));
	return 0;
}
