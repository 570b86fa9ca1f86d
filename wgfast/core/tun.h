/* The inner port: anything whose read gives one IP packet and whose write takes one. A TUN device
 * (IFF_TUN | IFF_NO_PI), or one end of a Unix datagram or seqpacket pair, with which a program
 * without privileges speaks IP to its device. */
#ifndef WGF_TUN_H
#define WGF_TUN_H

#include <net/if.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wgf_batch;
struct wgf_device;

/* Opens and creates the interface; *name is replaced by what the system called it ("wg%d"). Returns the
 * non-blocking descriptor or -errno. */
int wgf_tun_open(char name[IFNAMSIZ]);
/* Makes a descriptor the device's inner port: non-blocking, known for what it is, published. The descriptor
 * stays the caller's. 0 or -errno; -EPROTOTYPE for a socket other than a Unix datagram or seqpacket one. */
int wgf_tun_adopt(struct wgf_device *device, int fd);
/* Name of the interface behind a descriptor; -errno where there is none (a socket pair). */
int wgf_tun_name(int fd, char name[IFNAMSIZ]);
/* The interface's MTU, seen from the namespace it lives in now. This and the next two: -ENODEV when it is
 * gone; any other error only says that it cannot be asked (-EPERM: it lives where we may not look). */
int wgf_tun_mtu(int fd);
int wgf_tun_set_mtu(int fd, int mtu);
/* 1 up, 0 down. */
int wgf_tun_is_up(int fd);
/* Reads packets into slots from batch->count on, until the batch is full (packets or bytes) or there
 * is nothing left. Returns how many, or -ENODEV when the interface is gone or the other end of a seqpacket
 * pair has closed (of a datagram pair the system does not tell). */
int wgf_tun_read(struct wgf_device *device, struct wgf_batch *batch);
/* Writes every inner packet of the batch that was not dropped; what is refused is counted and marked. */
void wgf_tun_write(struct wgf_device *device, struct wgf_batch *batch);
/* One packet (an ICMP answer); lost if there is no room. */
void wgf_tun_write_one(struct wgf_device *device, const uint8_t *packet, size_t len);

#endif
