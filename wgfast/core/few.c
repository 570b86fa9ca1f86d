/* Prefixes that are few; see few.h. */
#include "few.h"

#include <stdlib.h>
#include <string.h>

#include "allowedips.h"
#include "bytes.h"

#define AT_ONCE 512u     /* addresses, so that the answers so far stay in the first cache */
#define WORTH_VECTORS 4u /* of them */

static size_t size_of(uint32_t n)
{
	return sizeof(struct wgf_few) + n * sizeof(struct wgf_few_prefix);
}

/* ---- Made from a trie ---- */

struct making {
	struct wgf_few *few;
	const struct wgf_prefixes *prefixes;
};

static void words_of(const struct wgf_prefixes *prefixes, struct wgf_key key, uint64_t words[2])
{
	uint8_t bytes[16];
	words[0] = key.high >> 32;
	words[1] = 0;
	if (prefixes->words == 1)
		return;
	wgf_store_be64(bytes, key.high);
	wgf_store_be64(bytes + 8, key.low);
	memcpy(words, bytes, sizeof(bytes));
}

/* In order of address, then length: what covers others comes before them. */
static bool add(void *context, uint32_t number)
{
	const struct making *making = context;
	const struct wgf_record *record = wgf_prefixes_at(making->prefixes, number);
	const struct wgf_key ones = {UINT64_MAX, UINT64_MAX};
	struct wgf_few_prefix *prefix = &making->few->each[making->few->n++];
	words_of(making->prefixes, wgf_record_key(making->prefixes, record), prefix->address);
	words_of(making->prefixes, wgf_key_masked(ones, wgf_record_length(record)), prefix->mask);
	prefix->owner = wgf_record_owner(record);
	return true;
}

struct wgf_few *wgf_few_create(struct wgf_trie *trie)
{
	const struct wgf_prefixes *prefixes = trie->prefixes;
	if (prefixes->count == 0 || prefixes->count > (prefixes->words == 1 ? WGF_FEW4 : WGF_FEW6))
		return NULL;
	struct making making = {calloc(1, size_of(prefixes->count)), prefixes};
	if (making.few)
		wgf_trie_walk(trie, add, &making);
	return making.few;
}

void wgf_few_destroy(struct wgf_few *few)
{
	free(few);
}

static void release(struct wgf_retired *retired)
{
	free((char *)retired - offsetof(struct wgf_few, retired));
}

void wgf_few_retire(struct wgf_few *few, struct wgf_epoch *epoch)
{
	wgf_epoch_retire(epoch, &few->retired, release);
}

size_t wgf_few_memory(const struct wgf_few *few)
{
	return size_of(few->n);
}

/* ---- Lookups ---- */

static void some4(const struct wgf_few *few, const uint32_t *restrict addresses, size_t n, uint32_t *restrict owners)
{
	for (size_t i = 0; i < n; i++)
		owners[i] = WGF_OWNER_NONE;
	for (uint32_t k = 0; k < few->n; k++) {
		const uint32_t address = (uint32_t)few->each[k].address[0], mask = (uint32_t)few->each[k].mask[0];
		const uint32_t owner = few->each[k].owner;
		for (size_t i = 0; i < n; i++)
			owners[i] = (addresses[i] & mask) == address ? owner : owners[i];
	}
}

static uint32_t owner_of(const struct wgf_few *few, uint64_t first, uint64_t second)
{
	uint32_t owner = WGF_OWNER_NONE;
	for (uint32_t k = 0; k < few->n; k++) {
		const struct wgf_few_prefix *prefix = &few->each[k];
		uint64_t differs = ((first & prefix->mask[0]) ^ prefix->address[0]) |
				   ((second & prefix->mask[1]) ^ prefix->address[1]);
		const uint32_t keep = -(uint32_t)(differs != 0); /* compilers make a choice a branch, often mispredicted */
		owner = (owner & keep) | (prefix->owner & ~keep);
	}
	return owner;
}

void wgf_few_lookup4(const struct wgf_few *few, const uint32_t *addresses, size_t n, uint32_t *owners)
{
	size_t done = 0;
	while (n - done >= WORTH_VECTORS) {
		size_t some = n - done < AT_ONCE ? n - done : AT_ONCE;
		some4(few, addresses + done, some, owners + done);
		done += some;
	}
	for (; done < n; done++)
		owners[done] = owner_of(few, addresses[done], 0);
}

void wgf_few_lookup6(const struct wgf_few *few, const uint8_t *addresses, size_t n, uint32_t *owners)
{
	for (size_t i = 0; i < n; i++) {
		uint64_t words[2];
		memcpy(words, addresses + 16 * i, sizeof(words));
		owners[i] = owner_of(few, words[0], words[1]);
	}
}
