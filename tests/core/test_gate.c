/* The gate: calls in several threads while another closes it. What it guards is freed as soon as the wait is
 * over, so that AddressSanitizer and ThreadSanitizer see a call that came too late or stayed too long. */
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>

#include "check.h"
#include "gate.h"

enum { ROUNDS = 300, CALLERS = 3 };

struct guarded {
	struct wgf_gate gate;
	_Atomic int *counter; /* freed after the gate was closed */
	_Atomic int passed;
};

static void *call(void *argument)
{
	struct guarded *guarded = argument;
	while (wgf_gate_enter(&guarded->gate)) {
		atomic_fetch_add(guarded->counter, 1);
		atomic_fetch_add(&guarded->passed, 1);
		wgf_gate_leave(&guarded->gate);
	}
	CHECK(!wgf_gate_enter(&guarded->gate));
	return NULL;
}

static void close_under_calls(void)
{
	struct guarded guarded = {.passed = 0};
	pthread_t callers[CALLERS];
	CHECK(!wgf_gate_init(&guarded.gate));
	guarded.counter = calloc(1, sizeof *guarded.counter);
	for (int i = 0; i < CALLERS; i++)
		CHECK(!pthread_create(&callers[i], NULL, call, &guarded));
	while (atomic_load(&guarded.passed) < 10)
		sched_yield();
	CHECK(wgf_gate_close(&guarded.gate));
	CHECK(!wgf_gate_close(&guarded.gate));
	wgf_gate_wait(&guarded.gate);
	free((void *)guarded.counter);
	for (int i = 0; i < CALLERS; i++)
		CHECK(!pthread_join(callers[i], NULL));
	wgf_gate_destroy(&guarded.gate);
}

int main(void)
{
	for (int i = 0; i < ROUNDS; i++)
		close_under_calls();
	return 0;
}
