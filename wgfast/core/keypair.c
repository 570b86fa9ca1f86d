/* Keypairs: rows of secret memory. Published through the peer's slots and the index table, retired
 * through the epoch, wiped when the last batch that pinned one has been emitted.
 *
 * Whether a keypair may be used is asked in one place each for sending and receiving, with the same
 * comparisons in both directions: others shipped `>` in one and `>=` in the other. */
#include "keypair.h"

#include "device.h"
#include "handshake.h"

struct wgf_keypair *wgf_keypair_create(struct wgf_device *device, struct wgf_handshake *hs,
				       struct wgf_index_entry *entry, uint32_t remote_index,
				       bool initiator, uint64_t now)
{
	struct wgf_keypair *keypair = wgf_secret_take(&device->keypair_rows);
	if (!keypair)
		return NULL;
	keypair->device = device;
	keypair->entry = entry;
	keypair->remote_index = remote_index;
	keypair->initiator = keypair->initiator_too = initiator;
	keypair->birth = keypair->birth_too = now;
	atomic_init(&keypair->next_counter, 0);
	wgf_replay_reset(&keypair->replay);
	if (initiator)
		wgf_handshake_split(hs, keypair->send_key, keypair->receive_key);
	else
		wgf_handshake_split(hs, keypair->receive_key, keypair->send_key);
	atomic_store_explicit(&entry->keypair, keypair, memory_order_release);
	return keypair;
}

static void keypair_release(struct wgf_retired *retired)
{
	struct wgf_keypair *keypair = (struct wgf_keypair *)((char *)retired - offsetof(struct wgf_keypair, retired));
	wgf_secret_give(&keypair->device->keypair_rows, keypair);
}

void wgf_keypair_retire(struct wgf_keypair *keypair)
{
	if (!keypair)
		return;
	wgf_indextable_remove(&keypair->device->indices, keypair->entry);
	wgf_epoch_retire(&keypair->device->epoch, &keypair->retired, keypair_release);
}

static bool young(uint64_t birth, uint64_t now)
{
	/* `now` of a batch may lie before the birth of a keypair made meanwhile. */
	return now < birth || now - birth < WGF_REJECT_AFTER_TIME;
}

bool wgf_keypair_can_send(const struct wgf_keypair *keypair, uint64_t now)
{
	uint64_t next = atomic_load_explicit(&keypair->next_counter, memory_order_relaxed);
	return young(keypair->birth, now) && next < WGF_REJECT_AFTER_MESSAGES;
}

bool wgf_keypair_can_receive(const struct wgf_keypair *keypair, uint64_t counter, uint64_t now)
{
	return young(keypair->birth_too, now) && counter < WGF_REJECT_AFTER_MESSAGES;
}

size_t wgf_keypair_reserve(struct wgf_keypair *keypair, size_t n, uint64_t *first)
{
	uint64_t next = atomic_load_explicit(&keypair->next_counter, memory_order_relaxed);
	uint64_t count;
	do {
		if (next >= WGF_REJECT_AFTER_MESSAGES)
			return 0;
		uint64_t left = WGF_REJECT_AFTER_MESSAGES - next;
		count = n < left ? n : left;
	} while (!atomic_compare_exchange_weak_explicit(&keypair->next_counter, &next, next + count,
							memory_order_relaxed, memory_order_relaxed));
	*first = next;
	return (size_t)count;
}
