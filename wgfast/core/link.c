/* The interface behind a TUN descriptor: making it, and what it is asked and told.
 *
 * An interface may be moved to another network namespace while this process stays, so questions about
 * it go through a socket opened where it lives now. A namespace belongs to a thread, and a thread that
 * entered one might not be allowed back, so a short-lived thread goes, opens the socket and ends; the
 * socket stays of the namespace it was opened in, whoever uses it. */
#include "link.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/virtio_net.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#ifndef TUNGETDEVNETNS
#define TUNGETDEVNETNS _IO('T', 0xe3) /* Linux 5.2, missing from older headers */
#endif
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20 /* Linux 6.2 */
#define TUN_F_USO6 0x40
#endif

#define ATTEMPTS 3    /* at asking about an interface that is renamed or moved meanwhile */
#define PATIENCE 2000 /* milliseconds, with the threads that are still in a call */

/* ---- The interface ---- */

static int open_tun(void)
{
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	return fd < 0 ? -errno : fd;
}

/* A descriptor attached to the interface of that name, made if there is none. 0 or -errno. */
static int attach(int fd, char name[IFNAMSIZ], int more)
{
	struct ifreq request = {.ifr_flags = (short)(IFF_TUN | IFF_NO_PI | more)};
	memcpy(request.ifr_name, name, IFNAMSIZ);
	if (ioctl(fd, TUNSETIFF, &request) < 0)
		return -errno;
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return 0;
}

int wgf_link_open(char name[IFNAMSIZ], bool vnet, bool several)
{
	const int wanted = (vnet ? IFF_VNET_HDR : 0) | (several ? IFF_MULTI_QUEUE : 0);
	size_t length = strnlen(name, IFNAMSIZ);
	if (length == IFNAMSIZ)
		return -ENAMETOOLONG;
	memset(name + length, 0, IFNAMSIZ - length);
	int fd = open_tun();
	if (fd < 0)
		return fd;
	int error = attach(fd, name, wanted);
	if (error == -EINVAL && several)
		error = attach(fd, name, wanted & ~IFF_MULTI_QUEUE);
	if (error == -EINVAL && vnet)
		error = attach(fd, name, 0);
	if (!error)
		return fd;
	close(fd);
	return error;
}

int wgf_link_has_vnet(int fd)
{
	struct ifreq request = {0};
	int size = sizeof(struct virtio_net_hdr), little = 0;
	if (ioctl(fd, TUNGETIFF, &request) < 0)
		return -errno;
	if (!(request.ifr_flags & IFF_VNET_HDR))
		return 0;
	if (ioctl(fd, TUNSETVNETHDRSZ, &size) < 0)
		return -errno;
	ioctl(fd, TUNSETVNETLE, &little); /* an interface of somebody else's may have had it */
	return 1;
}

int wgf_link_offload(int fd, bool tcp, bool udp)
{
	unsigned long features = (tcp || udp ? TUN_F_CSUM : 0) | (tcp ? TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN : 0) |
				 (udp ? TUN_F_USO4 | TUN_F_USO6 : 0);
	return ioctl(fd, TUNSETOFFLOAD, features) < 0 ? -errno : 0;
}

int wgf_link_name(int fd, char name[IFNAMSIZ])
{
	struct ifreq request = {0};
	if (ioctl(fd, TUNGETIFF, &request) < 0)
		return errno == EBADFD ? -ENODEV : -errno;
	memcpy(name, request.ifr_name, IFNAMSIZ);
	return 0;
}

/* ---- Questions asked where the interface lives ---- */

struct visit {
	int namespace; /* where to go, or -1: stay */
	int result;    /* the socket, or -errno */
};

static void *visit(void *argument)
{
	struct visit *trip = argument;
	if (trip->namespace >= 0 && setns(trip->namespace, CLONE_NEWNET) < 0) {
		trip->result = -errno;
		return NULL;
	}
	trip->result = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (trip->result < 0)
		trip->result = -errno;
	return NULL;
}

static bool is_where_we_are(int namespace)
{
	struct stat there, here;
	return fstat(namespace, &there) == 0 && stat("/proc/thread-self/ns/net", &here) == 0 &&
	       there.st_dev == here.st_dev && there.st_ino == here.st_ino;
}

static void visit_in_thread(struct visit *trip)
{
	pthread_t thread;
	sigset_t all, before;
	/* No signal handler of the program may run in that thread, where the network is another. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int error = pthread_create(&thread, NULL, visit, trip);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (error)
		trip->result = -error;
	else
		pthread_join(thread, NULL);
}

/* Its descriptor; -ENODEV: the interface is gone, or its namespace is going, and it with it. For then the system answers
 * EINVAL, as one does that does not know the question, though the interface has its name for a while yet. */
static int open_namespace(int fd)
{
	static _Atomic bool known; /* the question is */
	int namespace = ioctl(fd, TUNGETDEVNETNS), error = errno;
	if (namespace >= 0) {
		atomic_store_explicit(&known, true, memory_order_relaxed);
		return namespace;
	}
	if (error == EBADFD || (error == EINVAL && atomic_load_explicit(&known, memory_order_relaxed)))
		return -ENODEV;
	return -error;
}

/* A socket in the interface's namespace; in ours where the system does not tell which that is. */
static int open_socket_there(int fd)
{
	struct visit trip = {-1, 0};
	int namespace = open_namespace(fd);
	if (namespace == -ENODEV)
		return namespace;
	if (namespace >= 0 && !is_where_we_are(namespace)) {
		trip.namespace = namespace;
		visit_in_thread(&trip);
	} else {
		visit(&trip);
	}
	if (namespace >= 0)
		close(namespace);
	return trip.result;
}

/* One interface request, by the name the interface has now. */
static int ask(int fd, unsigned long what, struct ifreq *request)
{
	for (int attempt = 0; attempt < ATTEMPTS; attempt++) {
		int error = wgf_link_name(fd, request->ifr_name);
		if (error)
			return error;
		int s = open_socket_there(fd);
		if (s < 0)
			return s;
		error = ioctl(s, what, request) < 0 ? errno : 0;
		close(s);
		if (error != ENODEV)
			return -error;
	}
	/* It exists, or it would have had no name: it lives where we are not allowed to look. */
	return -EPERM;
}

int wgf_link_mtu(int fd)
{
	struct ifreq request = {0};
	int error = ask(fd, SIOCGIFMTU, &request);
	return error ? error : request.ifr_mtu;
}

int wgf_link_set_mtu(int fd, int mtu)
{
	struct ifreq request = {.ifr_mtu = mtu};
	return ask(fd, SIOCSIFMTU, &request);
}

int wgf_link_is_up(int fd)
{
	struct ifreq request = {0};
	int error = ask(fd, SIOCGIFFLAGS, &request);
	return error ? error : (request.ifr_flags & IFF_UP) != 0;
}

/* ---- Without headers ---- */

static bool lives_here(int fd)
{
	int namespace = open_namespace(fd);
	bool here = namespace >= 0 && is_where_we_are(namespace);
	if (namespace >= 0)
		close(namespace);
	return here;
}

int wgf_link_add_queue(int fd)
{
	struct ifreq link = {0};
	if (ioctl(fd, TUNGETIFF, &link) < 0)
		return errno == EBADFD ? -ENODEV : -errno;
	if (!(link.ifr_flags & IFF_MULTI_QUEUE) || !lives_here(fd))
		return -EOPNOTSUPP;
	int more = open_tun();
	if (more < 0)
		return more;
	int error = attach(more, link.ifr_name, link.ifr_flags & (IFF_VNET_HDR | IFF_MULTI_QUEUE));
	if (!error)
		return more;
	close(more);
	return error;
}

/* The interface, if made for one queue, stays taken as long as a thread is in a call on the descriptor that was
 * replaced. */
static int attach_when_free(int fd, char name[IFNAMSIZ], int more)
{
	const struct timespec pause = {.tv_nsec = 1000000};
	int error = attach(fd, name, more);
	for (int i = 0; i < PATIENCE && error == -EBUSY; i++) {
		nanosleep(&pause, NULL);
		error = attach(fd, name, more);
	}
	return error;
}

/* A descriptor attached to nothing in its place. */
static int detach(int fd)
{
	int other = open_tun();
	if (other < 0)
		return other;
	int error = dup3(other, fd, O_CLOEXEC) < 0 ? -errno : 0;
	close(other);
	return error;
}

/* A descriptor stays attached as it is, so it is replaced by another one; the interface is made persistent
 * for that moment, or it would go with its last descriptor. Its offloads are its own and would stay: super-packets,
 * and packets without checksums, which nobody could tell from others any more. Headers are the interface's too: one
 * queue takes them from all, so none is attached as before when the first one is attached anew. */
int wgf_link_without_vnet(const int *fds, unsigned n)
{
	struct ifreq link = {0};
	if (ioctl(fds[0], TUNGETIFF, &link) < 0)
		return errno == EBADFD ? -ENODEV : -errno;
	if (!lives_here(fds[0]) || (n == 1 && link.ifr_flags & IFF_MULTI_QUEUE)) /* the others are somebody else's */
		return -EOPNOTSUPP;
	int error = wgf_link_offload(fds[0], false, false);
	if (!error && ioctl(fds[0], TUNSETPERSIST, 1) < 0)
		error = -errno;
	if (!error)
		error = detach(fds[0]);
	if (error)
		return error;
	for (unsigned i = 1; i < n && !error; i++)
		error = detach(fds[i]);
	for (unsigned i = 0; i < n && !error; i++)
		error = attach_when_free(fds[i], link.ifr_name, link.ifr_flags & IFF_MULTI_QUEUE);
	if (error)
		return -ENODEV;
	if (!(link.ifr_flags & IFF_PERSIST))
		ioctl(fds[0], TUNSETPERSIST, 0);
	return 0;
}
