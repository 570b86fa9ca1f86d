/* Lookups of allowed IPs, inside a reader of the epoch: in the few prefixes of a family, or else in its trie. */
#include "allowedips_family.h"
#include "bytes.h"

#define LOOKUPS_AT_ONCE 65536u /* inside a reader, so that changes get their memory back */

static void nothing(size_t n, uint32_t *owners)
{
	for (size_t i = 0; i < n; i++)
		owners[i] = WGF_OWNER_NONE;
}

void wgf_allowedips_batch4(const struct wgf_allowedips *table, const uint32_t *addresses, size_t n,
			   uint32_t *owners)
{
	const struct wgf_few *few = atomic_load_explicit(&table->ipv4.few, memory_order_acquire);
	const struct wgf_trie *trie = atomic_load_explicit(&table->ipv4.trie, memory_order_acquire);
	if (few)
		wgf_few_lookup4(few, addresses, n, owners);
	else if (trie)
		wgf_trie_lookup4(trie, addresses, n, owners);
	else
		nothing(n, owners);
}

void wgf_allowedips_batch6(const struct wgf_allowedips *table, const uint8_t *addresses, size_t n,
			   uint32_t *owners)
{
	const struct wgf_few *few = atomic_load_explicit(&table->ipv6.few, memory_order_acquire);
	const struct wgf_trie *trie = atomic_load_explicit(&table->ipv6.trie, memory_order_acquire);
	if (few)
		wgf_few_lookup6(few, addresses, n, owners);
	else if (trie)
		wgf_trie_lookup6(trie, addresses, n, owners);
	else
		nothing(n, owners);
}

uint32_t wgf_allowedips_lookup4(const struct wgf_allowedips *table, const uint8_t address[4])
{
	uint32_t number = wgf_load_be32(address), owner;
	wgf_allowedips_batch4(table, &number, 1, &owner);
	return owner;
}

uint32_t wgf_allowedips_lookup6(const struct wgf_allowedips *table, const uint8_t address[16])
{
	uint32_t owner;
	wgf_allowedips_batch6(table, address, 1, &owner);
	return owner;
}

void wgf_allowedips_lookup4_many(struct wgf_allowedips *table, const uint32_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct wgf_reader reader;
	wgf_epoch_join(table->epoch, &reader);
	for (size_t done = 0; done < n; done += LOOKUPS_AT_ONCE) {
		size_t some = n - done < LOOKUPS_AT_ONCE ? n - done : LOOKUPS_AT_ONCE;
		wgf_epoch_enter(table->epoch, &reader);
		wgf_allowedips_batch4(table, addresses + done, some, owners + done);
		wgf_epoch_exit(&reader);
	}
	wgf_epoch_leave(table->epoch, &reader);
}

void wgf_allowedips_lookup6_many(struct wgf_allowedips *table, const uint8_t *addresses, size_t n,
				 uint32_t *owners)
{
	struct wgf_reader reader;
	wgf_epoch_join(table->epoch, &reader);
	for (size_t done = 0; done < n; done += LOOKUPS_AT_ONCE) {
		size_t some = n - done < LOOKUPS_AT_ONCE ? n - done : LOOKUPS_AT_ONCE;
		wgf_epoch_enter(table->epoch, &reader);
		wgf_allowedips_batch6(table, addresses + 16 * done, some, owners + done);
		wgf_epoch_exit(&reader);
	}
	wgf_epoch_leave(table->epoch, &reader);
}
