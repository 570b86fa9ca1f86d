/* All of a trie's records in another trie: the same ones, or copies. */
#include <errno.h>
#include <stdlib.h>

#include "trie.h"

/* The records of a trie in order, and the lists they stood in. */
struct roll {
	const struct wgf_prefixes *prefixes;
	size_t count;
	struct {
		uint32_t number, next;
	} entries[];
};

static bool enroll(void *context, uint32_t number)
{
	struct roll *roll = context;
	roll->entries[roll->count].number = number;
	roll->entries[roll->count++].next = wgf_prefixes_at(roll->prefixes, number)->next;
	return true;
}

static int fill(struct wgf_trie *trie, const struct roll *roll)
{
	for (size_t i = 0; i < roll->count; i++)
		if (wgf_trie_insert(trie, roll->entries[i].number))
			return -ENOMEM;
	return 0;
}

int wgf_trie_adopt(struct wgf_trie *trie, struct wgf_trie *from)
{
	struct wgf_prefixes *prefixes = from->prefixes;
	struct roll *roll = malloc(sizeof(*roll) + prefixes->count * sizeof(roll->entries[0]));
	if (!roll)
		return -ENOMEM;
	roll->prefixes = prefixes;
	roll->count = 0;
	wgf_trie_walk(from, enroll, roll);
	int error = fill(trie, roll);
	for (size_t i = 0; error && i < roll->count; i++)
		wgf_prefixes_at(prefixes, roll->entries[i].number)->next = roll->entries[i].next;
	free(roll);
	return error;
}

struct copy {
	struct wgf_trie *to;
	const struct wgf_prefixes *from;
	int error;
};

static bool copy_record(void *context, uint32_t number)
{
	struct copy *copy = context;
	const struct wgf_record *record = wgf_prefixes_at(copy->from, number);
	number = wgf_prefixes_add(copy->to->prefixes, wgf_record_key(copy->from, record), wgf_record_length(record),
				  wgf_record_owner(record));
	copy->error = number ? wgf_trie_insert(copy->to, number) : -ENOMEM;
	return !copy->error;
}

int wgf_trie_copy(struct wgf_trie *trie, struct wgf_trie *from)
{
	struct copy copy = {.to = trie, .from = from->prefixes};
	wgf_trie_walk(from, copy_record, &copy);
	return copy.error;
}
