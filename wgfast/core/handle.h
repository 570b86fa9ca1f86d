/* From a handle to its peer's row, with the device's config lock held. */
#ifndef WGF_HANDLE_H
#define WGF_HANDLE_H

#include "device.h"
#include "wgfast.h"

/* 0 with the lock held, or -EOWNERDEAD (forked), -ESTALE (removed) without it. */
int wgf_handle_lock(struct wgf_device *device, uint64_t handle, struct wgf_peer **peer);
/* Unlocks, and frees what changes have retired and every reader has passed. */
void wgf_handle_unlock(struct wgf_device *device);

#endif
