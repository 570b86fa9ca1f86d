/* Memory between two pages that must not be touched, so that one byte too far on either side is a
 * fault even where no sanitizer looks (vector intrinsics, assembly). */
#ifndef WGF_GUARD_H
#define WGF_GUARD_H

#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

struct guard {
	uint8_t *first; /* the first byte that may be used */
	size_t size;    /* whole pages */
};

static inline struct guard guard_map(size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	size = (size + page - 1) / page * page;
	uint8_t *all = mmap(NULL, size + 2 * page, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(all != MAP_FAILED);
	CHECK(mprotect(all, page, PROT_NONE) == 0);
	CHECK(mprotect(all + page + size, page, PROT_NONE) == 0);
	return (struct guard){all + page, size};
}

/* n bytes whose end is the last usable byte; guard.first is n bytes whose start is the first. */
static inline uint8_t *guard_last(struct guard guard, size_t n)
{
	CHECK(n <= guard.size);
	return guard.first + guard.size - n;
}

static inline void guard_unmap(struct guard guard)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	CHECK(munmap(guard.first - page, guard.size + 2 * page) == 0);
}

#endif
