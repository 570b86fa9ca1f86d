/* A TUN device with IFF_VNET_HDR, played by read, writev and ioctl of the test's own on a descriptor that does
 * nothing: what comes out of it is fed to it, what goes in is kept, and it refuses what the test has it refuse. */
#ifndef WGF_PLAYED_H
#define WGF_PLAYED_H

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <stdarg.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include "../../wgfast/core/link.h"
#include "../../wgfast/core/tun.h"
#include "flows.h"
#include "ports.h"

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

enum { HEADER = 10, ALL = WGF_SUPER_MAX + HEADER, READS = 64, FRESH = 16 };
enum { TSO_BITS = TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, USO_BITS = TUN_F_USO4 | TUN_F_USO6 };

/* ---- A device ---- */

static struct {
	int fd;
	bool vnet, up;
	unsigned refused;           /* offloads */
	unsigned offloads;          /* as they were set last */
	unsigned asked;             /* whether it is up, so often */

	uint8_t *in[600];           /* what comes out of it when read */
	ssize_t in_len[600];        /* or -errno */
	unsigned in_first, in_n;
	unsigned reads;
	unsigned loses_headers;     /* with this read: another thread has opened it again without */

	int (*judge)(const struct virtio_net_hdr *header); /* of a write: errno, or 0 */
	unsigned writes;            /* calls */
	uint8_t *out[600];          /* what was written, header and all */
	size_t out_len[600];
	unsigned out_n;
} dev;

ssize_t read(int fd, void *to, size_t room)
{
	if (fd != dev.fd)
		return syscall(SYS_read, fd, to, room);
	if (++dev.reads == dev.loses_headers) {
		dev.vnet = false;
		atomic_store(&device->tun.vnet, false);
		atomic_fetch_add(&device->tun.generation, 1);
	}
	ssize_t len = dev.in_first == dev.in_n ? -EAGAIN : dev.in_len[dev.in_first];
	uint8_t *bytes = len == -EAGAIN ? NULL : dev.in[dev.in_first++];
	if (len < 0) {
		errno = (int)-len;
		return -1;
	}
	if ((size_t)len > room)
		len = (ssize_t)room;
	memcpy(to, bytes, (size_t)len);
	free(bytes);
	return len;
}

ssize_t writev(int fd, const struct iovec *vectors, int n)
{
	if (fd != dev.fd)
		return syscall(SYS_writev, fd, vectors, n);
	struct virtio_net_hdr header = {0};
	size_t len = 0;
	dev.writes++;
	CHECK(n == 1 + dev.vnet || (dev.vnet && n > 2));
	CHECK(!dev.vnet || vectors[0].iov_len == HEADER);
	if (dev.vnet)
		memcpy(&header, vectors[0].iov_base, HEADER);
	CHECK(n < 3 || header.gso_type != VIRTIO_NET_HDR_GSO_NONE);
	errno = dev.judge ? dev.judge(&header) : 0;
	if (errno)
		return -1;
	uint8_t *bytes = malloc(ALL);
	CHECK(bytes && dev.out_n < 600);
	for (int i = 0; i < n; len += vectors[i++].iov_len) {
		CHECK(vectors[i].iov_len > 0 && len + vectors[i].iov_len <= ALL);
		memcpy(bytes + len, vectors[i].iov_base, vectors[i].iov_len);
	}
	dev.out[dev.out_n] = bytes;
	dev.out_len[dev.out_n++] = len;
	return (ssize_t)len;
}

static inline int control_device(unsigned long what, uintptr_t argument)
{
	struct ifreq *request = (struct ifreq *)argument;
	switch (what) {
	case TUNGETIFF:
		strcpy(request->ifr_name, "played0");
		request->ifr_flags = (short)(IFF_TUN | IFF_NO_PI | (dev.vnet ? IFF_VNET_HDR : 0));
		return 0;
	case TUNSETVNETHDRSZ:
		CHECK(*(int *)argument == HEADER);
		return 0;
	case TUNSETVNETLE:
		CHECK(*(int *)argument == 0);
		return 0;
	case TUNSETOFFLOAD:
		CHECK(!argument == !(argument & TUN_F_CSUM)); /* the others need it */
		if (argument & dev.refused)
			return EINVAL;
		dev.offloads = (unsigned)argument;
		return 0;
	default:
		return ENOTTY;
	}
}

int ioctl(int fd, unsigned long what, ...)
{
	va_list more;
	va_start(more, what);
	uintptr_t argument = va_arg(more, uintptr_t);
	va_end(more);
	if (fd == dev.fd) {
		errno = control_device(what, argument);
		return errno ? -1 : 0;
	}
	struct ifreq *request = (struct ifreq *)argument;
	if (what != SIOCGIFFLAGS || strcmp(request->ifr_name, "played0") != 0)
		return (int)syscall(SYS_ioctl, fd, what, argument);
	dev.asked++;
	request->ifr_flags = dev.up ? IFF_UP : 0;
	return 0;
}

static inline void forget_written(void)
{
	while (dev.out_n)
		free(dev.out[--dev.out_n]);
	dev.writes = dev.asked = 0;
}

/* As if new, and adopted. */
static inline void begin(bool vnet, unsigned refused, uint32_t off)
{
	forget_written();
	forget_offloads();
	wgf_offload_switch_off(&device->offloads, off);
	atomic_store(&device->tun.changing, false);
	dev.vnet = vnet;
	dev.up = true;
	dev.loses_headers = 0;
	dev.refused = refused;
	dev.offloads = ~0u;
	dev.judge = NULL;
	CHECK(wgf_tun_adopt(device, dev.fd) == 0 && atomic_load(&device->tun.vnet) == vnet);
}

/* ---- What comes out of it ---- */

static inline void feed(const void *bytes, ssize_t len)
{
	CHECK(dev.in_n < 600);
	dev.in[dev.in_n] = len < 0 ? NULL : malloc(len ? (size_t)len : 1);
	if (len >= 0)
		memcpy(dev.in[dev.in_n], bytes, (size_t)len);
	dev.in_len[dev.in_n++] = len;
}

static inline void feed_super(struct flow *flow, size_t payload, uint16_t size)
{
	static uint8_t bytes[ALL];
	size_t len = write_super(flow, bytes, payload, size);
	feed(bytes, (ssize_t)len);
}

/* With a header that asks for nothing, or without. */
static inline void feed_single(struct flow *flow, size_t payload)
{
	static uint8_t bytes[ALL];
	memset(bytes, 0, HEADER);
	size_t len = write_packet(flow, bytes + HEADER, payload);
	feed(dev.vnet ? bytes : bytes + HEADER, (ssize_t)(dev.vnet ? HEADER + len : len));
}

/* All that was fed is taken; next time from the beginning. */
static inline void fed_all(void)
{
	CHECK(dev.in_first == dev.in_n && wgf_super_next_length(&device->tun.queues[0].reading.super) == 0);
	dev.in_first = dev.in_n = dev.reads = 0;
}

/* ---- A test of it ---- */

static inline void begin_playing(void)
{
	make_device();
	dev.fd = eventfd(0, EFD_CLOEXEC);
	CHECK(dev.fd >= 0);
}

static inline void end_playing(void)
{
	forget_written();
	free_device(device);
	close(dev.fd);
}

#endif
