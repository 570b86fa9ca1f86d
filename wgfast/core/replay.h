/* The sliding window of RFC 6479: which counters have been seen.
 *
 * A ring of 64-bit words indexed by counter / 64; sliding clears whole words, so one word of the
 * ring is always spent and the window is (WGF_REPLAY_WORDS - 1) * 64 packets. */
#ifndef WGF_REPLAY_H
#define WGF_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

/* 8,192 packets and the spent word, rounded up to whole cache lines with the field before it. */
#define WGF_REPLAY_WORDS 135u
_Static_assert((WGF_REPLAY_WORDS - 1) * 64 >= WGF_REPLAY_WINDOW, "window as large as promised");

struct wgf_replay {
	uint64_t next; /* one above the greatest counter accepted, 0 at first */
	uint64_t seen[WGF_REPLAY_WORDS];
};

void wgf_replay_reset(struct wgf_replay *window);

/* True, and remembered, if the counter is new, not older than the window, and below
 * WGF_REJECT_AFTER_MESSAGES. Call only with counters of authenticated packets; one thread at a time. */
bool wgf_replay_accept(struct wgf_replay *window, uint64_t counter);

/* Where the counter is remembered, whatever its value. */
static inline const uint64_t *wgf_replay_word(const struct wgf_replay *window, uint64_t counter)
{
	return &window->seen[counter / 64 % WGF_REPLAY_WORDS];
}

/* The same in order for n counters; accepted[i] is 1 or 0. Returns how many were accepted. */
size_t wgf_replay_accept_many(struct wgf_replay *window, const uint64_t *counters, size_t n,
			      uint8_t *accepted);

#endif
