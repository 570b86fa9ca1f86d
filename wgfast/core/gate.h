/* A gate in front of something that can be closed: calls pass through it, and whoever closes it waits
 * until the last call has come out, so that nothing is freed under a call and no call starts after.
 *
 * Passing is one atomic add on the way in and one on the way out; the lock is touched only by a closing
 * and by the last call of one that waits. */
#ifndef WGF_GATE_H
#define WGF_GATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct wgf_gate {
	_Atomic uint32_t state; /* calls inside, and WGF_GATE_CLOSED; any thread */
	pthread_mutex_t lock;
	pthread_cond_t empty;
};

#define WGF_GATE_CLOSED (UINT32_C(1) << 31)

int wgf_gate_init(struct wgf_gate *gate); /* 0 or -errno */
void wgf_gate_destroy(struct wgf_gate *gate); /* nobody is inside, nobody waits */

bool wgf_gate_enter(struct wgf_gate *gate); /* false: closed, and there is nothing to leave */
void wgf_gate_leave(struct wgf_gate *gate);

/* True for the one caller that closed it, who then waits and frees. */
bool wgf_gate_close(struct wgf_gate *gate);
/* After close, from outside: returns when nobody is inside. Not in a forked child, where the threads
 * that were inside no longer exist. */
void wgf_gate_wait(struct wgf_gate *gate);

#endif
