/* How much of a mapping has been touched. */
#ifndef WGF_RESIDENT_H
#define WGF_RESIDENT_H

#include <sys/mman.h>
#include <unistd.h>

#include "check.h"

static inline size_t resident_pages(void *memory, size_t size)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), pages = (size + page - 1) / page, n = 0;
	unsigned char *map = malloc(pages);
	CHECK(map && mincore(memory, size, map) == 0);
	for (size_t i = 0; i < pages; i++)
		n += map[i] & 1;
	free(map);
	return n;
}

#endif
