/* Two ends, each a TUN device with IFF_VNET_HDR as the inner port of a device of ours, in a network namespace of its
 * own (as root). Between port and system stand a read, a writev and an ioctl of the test's own, which tell how much
 * went through at once and play a device that is ill. */
#ifndef WGF_ENDS_H
#define WGF_ENDS_H

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <sys/syscall.h>
#include <sys/uio.h>

#include "../../wgfast/core/link.h"
#include "../../wgfast/core/tun.h"
#include "flows.h"
#include "namespace.h"
#include "ports.h"

enum { MTU = 1420 };

/* ---- What is between the port and the system ---- */

static _Atomic int sick = -1;           /* a descriptor: it takes no write with a header */
static _Atomic int sick_error;
static _Atomic unsigned until_deletion; /* writes; then the interface is deleted */
static _Atomic size_t longest_read, longest_write;
static unsigned long refused_control;   /* this one fails: */
static uintptr_t refused_bits;          /* if its argument, or an interface's flags, have one of these */
static int refused_error;

static inline void delete_link(void);

static inline void note(_Atomic size_t *longest, ssize_t n)
{
	if (n > 0 && (size_t)n > atomic_load(longest))
		atomic_store(longest, (size_t)n);
}

ssize_t read(int fd, void *to, size_t room)
{
	ssize_t n = syscall(SYS_read, fd, to, room);
	note(&longest_read, n);
	return n;
}

ssize_t writev(int fd, const struct iovec *vectors, int n)
{
	if (until_deletion && --until_deletion == 0)
		delete_link();
	if (fd == sick && n > 1) {
		errno = sick_error;
		return -1;
	}
	ssize_t written = syscall(SYS_writev, fd, vectors, n);
	note(&longest_write, written);
	return written;
}

int ioctl(int fd, unsigned long what, ...)
{
	va_list more;
	va_start(more, what);
	uintptr_t argument = va_arg(more, uintptr_t);
	va_end(more);
	if (what == refused_control) {
		uintptr_t bits = what == TUNSETIFF ? (uintptr_t)((struct ifreq *)argument)->ifr_flags : argument;
		if (bits & refused_bits) {
			errno = refused_error;
			return -1;
		}
	}
	return (int)syscall(SYS_ioctl, fd, what, argument);
}

static inline void refuse_control(unsigned long what, uintptr_t bits, int error)
{
	refused_control = what;
	refused_bits = bits;
	refused_error = error;
}

/* ---- Two ends ---- */

struct end {
	struct wgf_device *device;
	int namespace, netlink, tun;
	char name[IFNAMSIZ];
	uint8_t number; /* 10.0.0.number, fd00::number */
};

static struct end ends[2];
static int home;

static const struct end *whereabouts; /* of this thread; NULL: at home */

static inline void enter(const struct end *end)
{
	CHECK(setns(end ? end->namespace : home, CLONE_NEWNET) == 0);
	whereabouts = end;
}

/* A socket where that end lives. */
static inline int open_socket(const struct end *end, int version, int type)
{
	const struct end *before = whereabouts;
	enter(end);
	int s = socket(version == 4 ? AF_INET : AF_INET6, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	CHECK(s >= 0);
	enter(before);
	return s;
}

static inline socklen_t name_of(struct sockaddr_storage *name, const struct end *end, int version, uint16_t port)
{
	struct wgf_endpoint e = {.family = (uint8_t)version, .port = port, .address = {10, 0, 0, end->number}};
	if (version == 6)
		memcpy(e.address, (uint8_t[]){0xfd, [15] = end->number}, 16);
	return wgf_endpoint_to_sockaddr(&e, name);
}

static inline void give_addresses(const struct end *end)
{
	struct sockaddr_storage name;
	struct ifreq request = {0};
	struct {
		struct in6_addr address;
		uint32_t prefix;
		int index;
	} six = {.prefix = 64};
	int s4 = open_socket(end, 4, SOCK_DGRAM), s6 = open_socket(end, 6, SOCK_DGRAM);
	strcpy(request.ifr_name, end->name);
	CHECK(ioctl(s4, SIOCGIFINDEX, &request) == 0);
	six.index = request.ifr_ifindex;
	name_of(&name, end, 4, 0);
	memcpy(&request.ifr_addr, &name, sizeof(request.ifr_addr));
	CHECK(ioctl(s4, SIOCSIFADDR, &request) == 0);
	((struct sockaddr_in *)&request.ifr_netmask)->sin_addr.s_addr = htonl(0xffffff00);
	CHECK(ioctl(s4, SIOCSIFNETMASK, &request) == 0);
	name_of(&name, end, 6, 0);
	six.address = ((struct sockaddr_in6 *)&name)->sin6_addr;
	CHECK(ioctl(s6, SIOCSIFADDR, &six) == 0);
	for (int i = 0; i < 2000 && bind(s6, (struct sockaddr *)&name, sizeof(struct sockaddr_in6)) < 0; i++)
		usleep(1000); /* the system has yet to make it valid */
	close(s4);
	close(s6);
}

/* Nothing of its own accord, or it comes between what is counted. */
static inline void calm_down(void)
{
	const char *const settings[] = {"all/accept_dad", "default/accept_dad", "default/router_solicitations"};
	for (size_t i = 0; i < 3; i++) {
		char path[100];
		sprintf(path, "/proc/sys/net/ipv6/conf/%s", settings[i]);
		int fd = open(path, O_WRONLY | O_CLOEXEC);
		if (fd >= 0)
			CHECK(write(fd, "0", 1) == 1 && close(fd) == 0);
	}
}

static inline void open_end(struct end *end, uint8_t number)
{
	*end = (struct end){.device = new_device(), .number = number, .name = "wgvnet%d"};
	CHECK(unshare(CLONE_NEWNET) == 0);
	end->namespace = open_namespace();
	calm_down();
	end->tun = wgf_link_open(end->name, true);
	CHECK(end->tun >= 0 && wgf_link_has_vnet(end->tun) == 1 && wgf_tun_adopt(end->device, end->tun) == 0);
	CHECK(wgf_link_set_mtu(end->tun, MTU) == 0);
	end->netlink = open_netlink(-1);
	enter(NULL);
	CHECK(change_link(end->netlink, RTM_NEWLINK, end->name, -1, IFF_UP) == 0);
	give_addresses(end);
	device = end->device;
}

static inline void close_end(struct end *end)
{
	atomic_store(&end->device->tun.fd, -1);
	close(end->tun);
	enter(end);
	CHECK(if_nametoindex(end->name) == 0); /* the interface was the descriptor's, and still is when that was replaced */
	enter(NULL);
	close(end->netlink);
	close(end->namespace);
	free_device(end->device);
}

static inline void delete_link(void)
{
	CHECK(change_link(ends[0].netlink, RTM_DELLINK, ends[0].name, -1, 0) == 0);
}

static struct wgf_batch *batch; /* a pool's */

static inline bool begin_ends(void)
{
	if (geteuid() != 0 || access("/dev/net/tun", R_OK | W_OK) != 0 || unshare(CLONE_NEWNET) != 0)
		return false;
	home = open_namespace();
	return true;
}

#endif
