/* The peers of a device: a flat array from identifier to row, mapped at its full size so that readers
 * index it without a lock and it never moves; pages exist only as far as identifiers were used. Public
 * keys are found by the control plane through open addressing under SipHash with a random key, since whoever
 * configures peers may not be trusted to choose keys that spread. An identifier is used again only
 * after its row was released, when no reader can still hold it from a lookup; one that does finds the row gone,
 * and looks the address up again. */
#include "peer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "bytes.h"
#include "device.h"
#include "keypair.h"
#include "limiter.h"
#include "siphash.h"

static void *map_array(size_t size)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	return memory == MAP_FAILED ? NULL : memory;
}

static void unmap_array(void *memory, size_t size)
{
	if (memory)
		munmap(memory, size);
}

#define ROWS_SIZE (WGF_PEERS_MAX * sizeof(_Atomic(struct wgf_peer *)))
#define GENERATIONS_SIZE (WGF_PEERS_MAX * sizeof(uint32_t))
#define LOOKS_SIZE (WGF_PEERS_MAX / WGF_PEERS_A_LOOK * sizeof(_Atomic uint64_t))
#define BY_KEY_FIRST 64u

int wgf_peertable_init(struct wgf_peertable *table)
{
	memset(table, 0, sizeof *table);
	int error = wgf_siphash_key(table->hash_key);
	if (error)
		return error;
	table->rows = map_array(ROWS_SIZE);
	table->looks = map_array(LOOKS_SIZE);
	table->generations = map_array(GENERATIONS_SIZE);
	table->free = map_array(GENERATIONS_SIZE);
	pthread_mutex_init(&table->free_lock, NULL);
	table->by_key_size = BY_KEY_FIRST;
	table->by_key = calloc(BY_KEY_FIRST, sizeof *table->by_key);
	if (!table->rows || !table->looks || !table->generations || !table->free || !table->by_key) {
		wgf_peertable_destroy(table);
		return -ENOMEM;
	}
	return 0;
}

void wgf_peertable_destroy(struct wgf_peertable *table)
{
	unmap_array(table->rows, ROWS_SIZE);
	unmap_array(table->looks, LOOKS_SIZE);
	unmap_array(table->generations, GENERATIONS_SIZE);
	unmap_array(table->free, GENERATIONS_SIZE);
	free(table->by_key);
	pthread_mutex_destroy(&table->free_lock);
	memset(table, 0, sizeof *table);
}

static uint32_t key_hash(const struct wgf_peertable *table, const uint8_t key[WGF_KEY_SIZE])
{
	return (uint32_t)wgf_siphash(table->hash_key, key, WGF_KEY_SIZE);
}

static struct wgf_peer *row(const struct wgf_peertable *table, uint32_t id)
{
	return atomic_load_explicit(&table->rows[id], memory_order_relaxed);
}

/* The slot that names the key's peer, or the free one where it would go. */
static uint32_t *key_slot(const struct wgf_peertable *table, const uint8_t key[WGF_KEY_SIZE])
{
	uint32_t mask = table->by_key_size - 1;
	for (uint32_t at = key_hash(table, key) & mask;; at = (at + 1) & mask) {
		uint32_t *slot = &table->by_key[at];
		if (!*slot || !memcmp(row(table, *slot - 1)->public_key, key, WGF_KEY_SIZE))
			return slot;
	}
}

static int by_key_grow(struct wgf_peertable *table)
{
	uint32_t *old = table->by_key, old_size = table->by_key_size;
	uint32_t *larger = calloc((size_t)old_size * 2, sizeof *larger);
	if (!larger)
		return -ENOMEM;
	table->by_key = larger;
	table->by_key_size = old_size * 2;
	for (uint32_t i = 0; i < old_size; i++)
		if (old[i])
			*key_slot(table, row(table, old[i] - 1)->public_key) = old[i];
	free(old);
	return 0;
}

/* Linear probing without marks: what follows a removed slot moves up. */
static void by_key_remove(struct wgf_peertable *table, const uint8_t key[WGF_KEY_SIZE])
{
	uint32_t mask = table->by_key_size - 1;
	uint32_t hole = (uint32_t)(key_slot(table, key) - table->by_key);
	for (uint32_t at = (hole + 1) & mask; table->by_key[at]; at = (at + 1) & mask) {
		uint32_t home = key_hash(table, row(table, table->by_key[at] - 1)->public_key) & mask;
		if (((at - home) & mask) >= ((at - hole) & mask)) {
			table->by_key[hole] = table->by_key[at];
			hole = at;
		}
	}
	table->by_key[hole] = 0;
}

static int take_identifier(struct wgf_peertable *table, uint32_t *id)
{
	uint32_t high = atomic_load_explicit(&table->high, memory_order_relaxed);
	int error = 0;
	pthread_mutex_lock(&table->free_lock);
	if (table->free_count)
		*id = table->free[--table->free_count];
	else if (high < WGF_PEERS_MAX)
		atomic_store_explicit(&table->high, (*id = high) + 1, memory_order_release);
	else
		error = -ENOSPC;
	pthread_mutex_unlock(&table->free_lock);
	return error;
}

static void give_identifier(struct wgf_peertable *table, uint32_t id)
{
	pthread_mutex_lock(&table->free_lock);
	table->free[table->free_count++] = id;
	pthread_mutex_unlock(&table->free_lock);
}

static int peer_init(struct wgf_device *device, struct wgf_peer *peer, uint32_t id,
		     const uint8_t public_key[WGF_KEY_SIZE])
{
	int error = pthread_mutex_init(&peer->sessions, NULL);
	if (error)
		return -error;
	error = wgf_cookie_jar_init(&peer->jar, public_key);
	if (error) {
		pthread_mutex_destroy(&peer->sessions);
		return error;
	}
	peer->device = device;
	peer->handle = (uint64_t)++device->peers.generations[id] << 32 | id;
	memcpy(peer->public_key, public_key, WGF_KEY_SIZE);
	wgf_staged_open(peer);
	return 0;
}

int wgf_peer_create(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE], uint64_t *handle)
{
	struct wgf_peertable *table = &device->peers;
	uint32_t id;
	if (*key_slot(table, public_key))
		return -EEXIST;
	if ((table->count + 1) * 2 > table->by_key_size && by_key_grow(table))
		return -ENOMEM;
	struct wgf_peer *peer = wgf_secret_take(&device->peer_rows);
	if (!peer)
		return -ENOMEM;
	int error = take_identifier(table, &id);
	if (!error) {
		error = peer_init(device, peer, id, public_key);
		if (error)
			give_identifier(table, id);
	}
	if (error) {
		wgf_secret_give(&device->peer_rows, peer);
		return error;
	}
	/* The row first: key_slot reads it. */
	uint32_t *slot = key_slot(table, public_key);
	atomic_store_explicit(&table->rows[id], peer, memory_order_release);
	*slot = id + 1;
	table->count++;
	*handle = peer->handle;
	return 0;
}

struct wgf_peer *wgf_peer_find(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE])
{
	uint32_t named = *key_slot(&device->peers, public_key);
	return named ? row(&device->peers, named - 1) : NULL;
}

struct wgf_peer *wgf_peer_get(struct wgf_device *device, uint64_t handle)
{
	uint32_t id = (uint32_t)handle;
	if (id >= WGF_PEERS_MAX)
		return NULL;
	struct wgf_peer *peer = row(&device->peers, id);
	return peer && peer->handle == handle ? peer : NULL;
}

struct wgf_peer *wgf_peer_next(struct wgf_device *device, uint32_t *cursor)
{
	uint32_t high = atomic_load_explicit(&device->peers.high, memory_order_relaxed);
	while (*cursor < high) {
		struct wgf_peer *peer = row(&device->peers, (*cursor)++);
		if (peer)
			return peer;
	}
	return NULL;
}

/* When every reader has passed: only now may the identifier name another peer. Runs outside
 * device->config or inside it, whoever collects; the free stack has a lock of its own. */
static void peer_release(struct wgf_retired *retired)
{
	struct wgf_peer *peer = (struct wgf_peer *)((char *)retired - offsetof(struct wgf_peer, retired));
	struct wgf_device *device = peer->device;
	give_identifier(&device->peers, (uint32_t)peer->handle);
	wgf_limiter_free(atomic_load_explicit(&peer->limiter, memory_order_relaxed));
	wgf_cookie_jar_wipe(&peer->jar);
	pthread_mutex_destroy(&peer->sessions);
	wgf_secret_give(&device->peer_rows, peer);
}

void wgf_peer_remove(struct wgf_peer *peer)
{
	struct wgf_device *device = peer->device;
	uint32_t id = (uint32_t)peer->handle;
	wgf_allowedips_remove_owner(device->allowedips, id);
	wgf_timers_stop(peer);
	wgf_peer_end_sessions(peer);
	wgf_staged_close(device, peer);
	by_key_remove(&device->peers, peer->public_key);
	device->peers.count--;
	atomic_store_explicit(&device->peers.rows[id], NULL, memory_order_release);
	wgf_epoch_retire(&device->epoch, &peer->retired, peer_release);
}

/* ---- For readers ---- */

/* A row that is gone was taken out with release after the table had changed, so each look finds another owner than the one
 * before it, and no identifier comes twice: it is not used again while this reader is inside. */
struct wgf_peer *wgf_peer_of_address(struct wgf_device *device, uint8_t family, const uint8_t *address)
{
	for (uint32_t before = WGF_OWNER_NONE;;) {
		uint32_t owner = family == WGF_IPV4 ? wgf_allowedips_lookup4(device->allowedips, address)
						    : wgf_allowedips_lookup6(device->allowedips, address);
		struct wgf_peer *peer = wgf_peer_of_owner(&device->peers, owner);
		if (peer || owner == WGF_OWNER_NONE || owner == before)
			return peer;
		before = owner;
	}
}

void wgf_peers_fetch(struct wgf_peertable *table, const uint32_t *owners, uint32_t n)
{
	struct wgf_peer *peers[WGF_BATCH_PACKETS];
	for (uint32_t i = 0; i < n; i++) {
		peers[i] = wgf_peer_of_owner(table, owners[i]);
		if (peers[i])
			wgf_peer_fetch(peers[i]);
	}
	for (uint32_t i = 0; i < n; i++) {
		struct wgf_keypair *keypair = peers[i] ? atomic_load_explicit(&peers[i]->current, memory_order_acquire) : NULL;
		if (keypair)
			__builtin_prefetch(&keypair->next_counter, 1);
	}
}
