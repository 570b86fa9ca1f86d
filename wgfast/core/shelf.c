/* Where handshake states are taken from: one pool for the process, in secret memory as its rows are. A forked
 * child reads it as zeros: the states of the parent are dead there, and the child makes itself a new
 * pool, whatever lock the parent held in the moment of the fork. */
#include <stdatomic.h>
#include <stdlib.h>

#include "secret.h"
#include "wgfast.h"

#define STATE_ALIVE UINT64_C(0x68616e6473686b21)

struct state {
	struct wgf_handshake hs; /* first: a pointer to it is a pointer to the state */
	uint64_t alive;
};

struct shelf {
	uint64_t *alive; /* in secret memory: reads 0 in a forked child */
	struct wgf_secret_pool pool;
};

static _Atomic(struct shelf *) shelf;

static void destroy_shelf(struct shelf *unused)
{
	if (unused->alive)
		wgf_secret_unmap(unused->alive, sizeof *unused->alive);
	wgf_secret_pool_destroy(&unused->pool);
	free(unused);
}

static struct shelf *make_shelf(void)
{
	struct shelf *made = calloc(1, sizeof *made);
	if (!made)
		return NULL;
	if (wgf_secret_pool_init(&made->pool, sizeof(struct state))) {
		free(made);
		return NULL;
	}
	made->alive = wgf_secret_map(sizeof *made->alive);
	if (!made->alive) {
		destroy_shelf(made);
		return NULL;
	}
	*made->alive = STATE_ALIVE;
	return made;
}

static struct shelf *this_shelf(void)
{
	struct shelf *seen = atomic_load_explicit(&shelf, memory_order_acquire);
	if (seen && *seen->alive == STATE_ALIVE)
		return seen;
	struct shelf *made = make_shelf();
	if (!made || atomic_compare_exchange_strong(&shelf, &seen, made))
		return made; /* the parent's, if there was one, is left: its rows are empty */
	destroy_shelf(made); /* another thread was first */
	return seen;
}

struct wgf_handshake *wgf_handshake_take(void)
{
	struct shelf *from = this_shelf();
	struct state *state = from ? wgf_secret_take(&from->pool) : NULL;
	if (!state)
		return NULL;
	state->alive = STATE_ALIVE;
	return &state->hs;
}

bool wgf_handshake_alive(const struct wgf_handshake *hs)
{
	return hs && ((const struct state *)hs)->alive == STATE_ALIVE;
}

void wgf_handshake_give(struct wgf_handshake *hs)
{
	if (wgf_handshake_alive(hs))
		wgf_secret_give(&atomic_load_explicit(&shelf, memory_order_acquire)->pool, hs);
}
