/* Is what strangers send a flood? Counts datagrams that proved nothing, as a bucket that leaks at the rate from which
 * on it is one. A thread's own; what came for a peer, or from the interface, empties it. */
#ifndef WGF_STRANGERS_H
#define WGF_STRANGERS_H

#include <stdbool.h>
#include <stdint.h>

#include "limits.h"

#define WGF_STRANGER_TIME (WGF_SECOND / WGF_STRANGERS_PER_SECOND)

struct wgf_strangers {
	uint64_t at;     /* when it was last reckoned */
	uint64_t filled; /* ns that it takes to leak */
};

/* n of them came, or 0. */
static inline void wgf_strangers_came(struct wgf_strangers *strangers, uint32_t n, uint64_t now)
{
	uint64_t leaked = now > strangers->at ? now - strangers->at : 0;
	strangers->filled -= leaked < strangers->filled ? leaked : strangers->filled;
	strangers->filled += n * WGF_STRANGER_TIME;
	if (strangers->filled > 2 * WGF_STRANGERS_BURST * WGF_STRANGER_TIME) /* so that it is soon seen to end */
		strangers->filled = 2 * WGF_STRANGERS_BURST * WGF_STRANGER_TIME;
	strangers->at = now;
}

static inline void wgf_strangers_forget(struct wgf_strangers *strangers)
{
	strangers->filled = 0;
}

static inline bool wgf_strangers_flood(const struct wgf_strangers *strangers)
{
	return strangers->filled > WGF_STRANGERS_BURST * WGF_STRANGER_TIME;
}

#endif
