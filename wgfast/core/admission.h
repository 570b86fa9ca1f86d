/* Which handshake messages may cost us a Diffie-Hellman. */
#ifndef WGF_ADMISSION_H
#define WGF_ADMISSION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct wgf_device;
struct wgf_packet;

/* Messages of types 1, 2 and 3, a batch's at most: to a queue, answered with a cookie reply, or a counted drop. */
void wgf_admission_judge(struct wgf_device *device, struct wgf_packet *const *packets, size_t n, uint64_t now);
/* Under load: handshakes stand in line, or did a moment ago. */
bool wgf_admission_under_load(struct wgf_device *device, uint64_t now);

#endif
