/* Records in one array that grows by an eighth at a time: what moves is nobody's but the changer's. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "prefixes.h"

void wgf_prefixes_init(struct wgf_prefixes *prefixes, unsigned words)
{
	*prefixes = (struct wgf_prefixes){.words = words, .used = 1}; /* number 0 is none */
}

void wgf_prefixes_destroy(struct wgf_prefixes *prefixes)
{
	free(prefixes->records);
	free(prefixes->lists);
}

static size_t record_size(const struct wgf_prefixes *prefixes)
{
	return sizeof(struct wgf_record) + 4 * (size_t)prefixes->words;
}

size_t wgf_prefixes_memory(const struct wgf_prefixes *prefixes)
{
	return prefixes->size * record_size(prefixes) + prefixes->lists_size * sizeof(*prefixes->lists);
}

int wgf_prefixes_reach(struct wgf_prefixes *prefixes, uint32_t owner)
{
	if (owner < prefixes->lists_size)
		return 0;
	uint32_t size = prefixes->lists_size ? prefixes->lists_size : 16;
	while (size <= owner)
		size *= 2;
	uint32_t *lists = realloc(prefixes->lists, size * sizeof(*lists));
	if (!lists)
		return -ENOMEM;
	memset(lists + prefixes->lists_size, 0, (size - prefixes->lists_size) * sizeof(*lists));
	prefixes->lists = lists;
	prefixes->lists_size = size;
	return 0;
}

/* ---- Records ---- */

static int resize(struct wgf_prefixes *prefixes, uint32_t size)
{
	void *records = realloc(prefixes->records, size * record_size(prefixes));
	if (!records)
		return -ENOMEM;
	prefixes->records = records;
	prefixes->size = size;
	return 0;
}

static uint32_t take(struct wgf_prefixes *prefixes)
{
	uint32_t number = prefixes->free;
	if (number) {
		prefixes->free = wgf_prefixes_at(prefixes, number)->next;
		return number;
	}
	if (prefixes->used >= prefixes->size && resize(prefixes, prefixes->size + prefixes->size / 8 + 16))
		return 0;
	return prefixes->used++;
}

static void give(struct wgf_prefixes *prefixes, uint32_t number)
{
	wgf_prefixes_at(prefixes, number)->next = prefixes->free;
	prefixes->free = number;
	if (prefixes->count > 0)
		return;
	/* The last one went: begin anew. */
	uint64_t work = prefixes->work;
	wgf_prefixes_destroy(prefixes);
	wgf_prefixes_init(prefixes, prefixes->words);
	prefixes->work = work;
}

static void list_enter(struct wgf_prefixes *prefixes, uint32_t number, uint32_t owner)
{
	struct wgf_record *record = wgf_prefixes_at(prefixes, number);
	record->is = (record->is & 0xff000000) | owner;
	record->earlier = 0;
	record->later = prefixes->lists[owner];
	if (record->later)
		wgf_prefixes_at(prefixes, record->later)->earlier = number;
	prefixes->lists[owner] = number;
}

static void list_leave(struct wgf_prefixes *prefixes, uint32_t number)
{
	struct wgf_record *record = wgf_prefixes_at(prefixes, number);
	if (record->earlier)
		wgf_prefixes_at(prefixes, record->earlier)->later = record->later;
	else
		prefixes->lists[wgf_record_owner(record)] = record->later;
	if (record->later)
		wgf_prefixes_at(prefixes, record->later)->earlier = record->earlier;
}

uint32_t wgf_prefixes_add(struct wgf_prefixes *prefixes, struct wgf_key key, unsigned length, uint32_t owner)
{
	uint32_t number = wgf_prefixes_reach(prefixes, owner) ? 0 : take(prefixes);
	if (!number)
		return 0;
	struct wgf_record *record = wgf_prefixes_at(prefixes, number);
	record->next = 0;
	record->is = (uint32_t)length << 24;
	record->address[0] = (uint32_t)(key.high >> 32);
	if (prefixes->words == 4) {
		record->address[1] = (uint32_t)key.high;
		record->address[2] = (uint32_t)(key.low >> 32);
		record->address[3] = (uint32_t)key.low;
	}
	list_enter(prefixes, number, owner);
	prefixes->count++;
	return number;
}

void wgf_prefixes_remove(struct wgf_prefixes *prefixes, uint32_t number)
{
	list_leave(prefixes, number);
	prefixes->count--;
	give(prefixes, number);
}

void wgf_prefixes_move(struct wgf_prefixes *prefixes, uint32_t number, uint32_t owner)
{
	list_leave(prefixes, number);
	list_enter(prefixes, number, owner);
}

/* ---- An owner's list in order: merge sort, for listing must not fail for want of memory ---- */

static bool stands_before(const struct wgf_prefixes *prefixes, uint32_t a, uint32_t b)
{
	const struct wgf_record *left = wgf_prefixes_at(prefixes, a), *right = wgf_prefixes_at(prefixes, b);
	return wgf_key_order(wgf_record_key(prefixes, left), wgf_record_length(left),
			     wgf_record_key(prefixes, right), wgf_record_length(right)) < 0;
}

static uint32_t merge(struct wgf_prefixes *prefixes, uint32_t a, uint32_t b)
{
	uint32_t merged = 0, *end = &merged;
	while (a && b) {
		uint32_t *less = stands_before(prefixes, b, a) ? &b : &a;
		*end = *less;
		end = &wgf_prefixes_at(prefixes, *less)->later;
		*less = *end;
	}
	*end = a ? a : b;
	return merged;
}

void wgf_prefixes_sort(struct wgf_prefixes *prefixes, uint32_t owner)
{
	uint32_t runs[32] = {0}; /* runs[i] is sorted and 2^i long, or empty */
	for (uint32_t rest = prefixes->lists[owner]; rest;) {
		uint32_t run = rest;
		struct wgf_record *record = wgf_prefixes_at(prefixes, run);
		rest = record->later;
		record->later = 0;
		unsigned i = 0;
		for (; i < 31 && runs[i]; i++) {
			run = merge(prefixes, runs[i], run);
			runs[i] = 0;
		}
		runs[i] = merge(prefixes, runs[i], run);
	}
	uint32_t sorted = 0, earlier = 0;
	for (unsigned i = 0; i < 32; i++)
		sorted = merge(prefixes, runs[i], sorted);
	prefixes->lists[owner] = sorted;
	for (uint32_t number = sorted; number; number = wgf_prefixes_at(prefixes, number)->later) {
		wgf_prefixes_at(prefixes, number)->earlier = earlier;
		earlier = number;
	}
}
