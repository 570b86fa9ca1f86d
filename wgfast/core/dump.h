/* The answer to UAPI's get=1, peer by peer, as text in a caller's buffer. */
#ifndef WGF_DUMP_H
#define WGF_DUMP_H

#include <stddef.h>
#include <stdint.h>

struct wgf_device;

/* The name of a peer's endpoint, which is Python's. */
struct wgf_dump_name {
	uint64_t handle;
	const char *text;
	size_t size;
};

/* Writes peers from identifier *cursor (at first 0) on, as many as fit, each whole and as it is at this moment.
 * names: in order of identifier (the lower half of the handle). wall: what to add to the device's time for the
 * nanoseconds since 1970. Returns the bytes written, 0 when there are no more peers; or -EMSGSIZE: the next peer
 * alone takes more, *need bytes; -ENOMEM; -EOWNERDEAD. What it wrote holds preshared keys. */
int64_t wgf_device_dump(struct wgf_device *device, uint32_t *cursor, const struct wgf_dump_name *names,
			size_t names_n, int64_t wall, char *out, size_t size, size_t *need);

#endif
