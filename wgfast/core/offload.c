/* The states of the offloads. One word each, so that a state and its reason are never torn. */
#include "offload.h"

#include <stddef.h>

static const char *const names[] = {
#define X(NAME, name, text) name,
	WGF_OFFLOADS(X)
#undef X
};

static const char *const texts[] = {
#define X(NAME, name, text) text,
	WGF_OFFLOADS(X)
#undef X
};

const char *wgf_offload_name(enum wgf_offload offload)
{
	return offload < WGF_OFFLOAD_COUNT ? names[offload] : NULL;
}

const char *wgf_offload_text(enum wgf_offload offload)
{
	return offload < WGF_OFFLOAD_COUNT ? texts[offload] : NULL;
}

void wgf_offload_switch_off(struct wgf_offloads *offloads, uint32_t mask)
{
	if (mask >> WGF_OFFLOAD_VNET & 1) /* super-packets need the header */
		mask |= 1u << WGF_OFFLOAD_TSO | 1u << WGF_OFFLOAD_USO;
	for (uint32_t i = 0; i < WGF_OFFLOAD_COUNT; i++)
		if (mask >> i & 1)
			atomic_store(&offloads->state[i], WGF_OFFLOAD_SWITCHED_OFF);
}

static bool is_final(uint32_t state)
{
	return (state & 0xff) == WGF_OFFLOAD_SWITCHED_OFF || (state & 0xff) == WGF_OFFLOAD_GIVEN_UP;
}

bool wgf_offload_may(struct wgf_offloads *offloads, enum wgf_offload offload)
{
	return !is_final(atomic_load(&offloads->state[offload]));
}

static void change(struct wgf_offloads *offloads, enum wgf_offload offload, uint32_t to)
{
	uint32_t state = atomic_load(&offloads->state[offload]);
	while (!is_final(state) && !atomic_compare_exchange_weak(&offloads->state[offload], &state, to))
		;
}

void wgf_offload_tried(struct wgf_offloads *offloads, enum wgf_offload offload, int error)
{
	change(offloads, offload, error ? WGF_OFFLOAD_ABSENT | (uint32_t)error << 8 : WGF_OFFLOAD_ACTIVE);
}

void wgf_offload_give_up(struct wgf_offloads *offloads, enum wgf_offload offload, int error)
{
	change(offloads, offload, WGF_OFFLOAD_GIVEN_UP | (uint32_t)error << 8);
}
