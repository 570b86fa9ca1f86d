/* The kernel's random bytes. */
#ifndef WGF_RANDOM_H
#define WGF_RANDOM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/random.h>
#include <sys/types.h>

/* n up to 256, which come whole or not at all. false: the kernel has none (before 3.17, or forbidden). */
static inline bool wgf_random(void *out, size_t n)
{
	ssize_t got;
	do
		got = getrandom(out, n, 0);
	while (got < 0 && errno == EINTR);
	return got == (ssize_t)n;
}

#endif
