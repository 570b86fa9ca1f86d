/* Count in, count out; the last one out of a closed gate says so. */
#include "gate.h"

int wgf_gate_init(struct wgf_gate *gate)
{
	atomic_init(&gate->state, 0);
	int error = pthread_mutex_init(&gate->lock, NULL);
	if (error)
		return -error;
	error = pthread_cond_init(&gate->empty, NULL);
	if (error)
		pthread_mutex_destroy(&gate->lock);
	return -error;
}

void wgf_gate_destroy(struct wgf_gate *gate)
{
	pthread_cond_destroy(&gate->empty);
	pthread_mutex_destroy(&gate->lock);
}

bool wgf_gate_enter(struct wgf_gate *gate)
{
	if (!(atomic_fetch_add(&gate->state, 1) & WGF_GATE_CLOSED))
		return true;
	wgf_gate_leave(gate);
	return false;
}

void wgf_gate_leave(struct wgf_gate *gate)
{
	if (atomic_fetch_sub(&gate->state, 1) != (WGF_GATE_CLOSED | 1))
		return;
	/* With the lock: whoever waits either has not looked yet or is asleep. */
	pthread_mutex_lock(&gate->lock);
	pthread_cond_broadcast(&gate->empty);
	pthread_mutex_unlock(&gate->lock);
}

bool wgf_gate_close(struct wgf_gate *gate)
{
	return !(atomic_fetch_or(&gate->state, WGF_GATE_CLOSED) & WGF_GATE_CLOSED);
}

void wgf_gate_wait(struct wgf_gate *gate)
{
	pthread_mutex_lock(&gate->lock);
	while (atomic_load(&gate->state) != WGF_GATE_CLOSED)
		pthread_cond_wait(&gate->empty, &gate->lock);
	pthread_mutex_unlock(&gate->lock);
}
