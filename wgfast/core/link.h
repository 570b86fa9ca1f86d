/* The interface behind a TUN descriptor: IFF_TUN | IFF_NO_PI, with IFF_VNET_HDR where that may be. */
#ifndef WGF_LINK_H
#define WGF_LINK_H

#include <net/if.h>
#include <stdbool.h>

/* Opens and creates the interface; *name is replaced by what the system called it ("wg%d"). With vnet, each
 * packet has a struct virtio_net_hdr before it, unless the system knows no such thing; with several it may have more
 * queues, unless it is there already and made for one. Returns the non-blocking descriptor or -errno. */
int wgf_link_open(char name[IFNAMSIZ], bool vnet, bool several);
/* One more queue: a non-blocking descriptor, or -errno; -EOPNOTSUPP where the interface was made for one, or lives in
 * another namespace. */
int wgf_link_add_queue(int fd);
/* 1: each packet has a header of 10 bytes before it, in host byte order, from now on. 0: none. -errno. */
int wgf_link_has_vnet(int fd);
/* Super-packets of TCP and of UDP from the interface. 0 or -errno; then all is as before. */
int wgf_link_offload(int fd, bool tcp, bool udp);
/* The same interface without headers and super-packets, on the same descriptors, one for each of its queues, which
 * nobody uses meanwhile; epoll forgets them. 0 or -errno: -EOPNOTSUPP where the interface lives in another namespace or
 * was made for several queues, of which only one is given; -ENODEV: it is gone now. */
int wgf_link_without_vnet(const int *fds, unsigned n);
/* Name of the interface behind a descriptor; -errno where there is none (a socket pair). */
int wgf_link_name(int fd, char name[IFNAMSIZ]);
/* The interface's MTU, seen from the namespace it lives in now. This and the next two: -ENODEV when it is
 * gone; any other error only says that it cannot be asked (-EPERM: it lives where we may not look). */
int wgf_link_mtu(int fd);
int wgf_link_set_mtu(int fd, int mtu);
/* 1 up, 0 down. */
int wgf_link_is_up(int fd);

#endif
