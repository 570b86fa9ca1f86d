/* The sliding window of RFC 6479, as a ring of words of which sliding clears whole ones.
 *
 * A counter is accepted if it lies at most (WGF_REPLAY_WORDS - 1) * 64 behind the greatest accepted
 * so far, as in the RFC and in Linux. That far behind, its word is at most WGF_REPLAY_WORDS - 1
 * words behind the newest one, so it never shares a place of the ring with a newer word. The number
 * of words is no power of two: the remainder by a constant is a multiplication, and the ring needs
 * no more memory than the promised window. */
#include <string.h>

#include "replay.h"

#define WINDOW ((uint64_t)(WGF_REPLAY_WORDS - 1) * 64)

void wgf_replay_reset(struct wgf_replay *window)
{
	memset(window, 0, sizeof(*window));
}

/* Makes the counter the greatest: empties the words between the old newest one and its own. */
static void slide(struct wgf_replay *window, uint64_t counter)
{
	uint64_t word = window->next ? (window->next - 1) / 64 : 0;
	uint64_t newest = counter / 64;
	if (newest - word >= WGF_REPLAY_WORDS) {
		memset(window->seen, 0, sizeof(window->seen));
	} else {
		while (word != newest)
			window->seen[++word % WGF_REPLAY_WORDS] = 0;
	}
	window->next = counter + 1;
}

bool wgf_replay_accept(struct wgf_replay *window, uint64_t counter)
{
	if (counter >= WGF_REJECT_AFTER_MESSAGES)
		return false;
	if (counter >= window->next)
		slide(window, counter);
	else if (window->next - 1 - counter > WINDOW)
		return false;
	uint64_t *word = &window->seen[counter / 64 % WGF_REPLAY_WORDS];
	uint64_t bit = UINT64_C(1) << counter % 64;
	if (*word & bit)
		return false;
	*word |= bit;
	return true;
}

size_t wgf_replay_accept_many(struct wgf_replay *window, const uint64_t *counters, size_t n,
			      uint8_t *accepted)
{
	size_t total = 0;
	for (size_t i = 0; i < n; i++) {
		accepted[i] = wgf_replay_accept(window, counters[i]);
		total += accepted[i];
	}
	return total;
}
