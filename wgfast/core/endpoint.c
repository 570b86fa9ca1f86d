/* Endpoints: a sequence lock of atomic words, and the way to and from the system's addresses.
 *
 * A peer's endpoint is looked at for every packet and changes a few times a day, so readers write
 * nothing and copy six words. There is no fence, which ThreadSanitizer could not see: words are
 * stored with release and loaded with acquire, so a reader that met one word of a writer also sees
 * the odd sequence that writer set before it, and finds at its second look that the sequence moved. */
#include <arpa/inet.h>
#include <sched.h>
#include <string.h>

#include "endpoint.h"

#define SPINS 64u /* one copy takes less; after that the other side has lost its processor */

static void wait_a_little(unsigned *spins)
{
	if (++*spins % SPINS == 0)
		sched_yield();
}

void wgf_endpoint_load(struct wgf_endpoint_cell *cell, struct wgf_endpoint *out)
{
	uint64_t words[WGF_ENDPOINT_WORDS];
	for (unsigned spins = 0;; wait_a_little(&spins)) {
		uint32_t before = atomic_load_explicit(&cell->sequence, memory_order_acquire);
		if (before & 1)
			continue;
		for (size_t i = 0; i < WGF_ENDPOINT_WORDS; i++)
			words[i] = atomic_load_explicit(&cell->words[i], memory_order_acquire);
		if (atomic_load_explicit(&cell->sequence, memory_order_relaxed) == before)
			break;
	}
	memcpy(out, words, sizeof(*out));
}

/* The writer's turn: makes the sequence odd and yields what it then is. */
static uint32_t begin_write(struct wgf_endpoint_cell *cell)
{
	for (unsigned spins = 0;; wait_a_little(&spins)) {
		uint32_t sequence = atomic_load_explicit(&cell->sequence, memory_order_relaxed);
		if (!(sequence & 1) &&
		    atomic_compare_exchange_weak_explicit(&cell->sequence, &sequence, sequence + 1,
							  memory_order_acquire, memory_order_relaxed))
			return sequence + 1;
	}
}

static void end_write(struct wgf_endpoint_cell *cell, uint32_t odd)
{
	atomic_store_explicit(&cell->sequence, odd + 1, memory_order_release);
}

/* Both only during the writer's turn. */
static void get_words(struct wgf_endpoint_cell *cell, struct wgf_endpoint *out)
{
	uint64_t words[WGF_ENDPOINT_WORDS];
	for (size_t i = 0; i < WGF_ENDPOINT_WORDS; i++)
		words[i] = atomic_load_explicit(&cell->words[i], memory_order_relaxed);
	memcpy(out, words, sizeof(*out));
}

static void put_words(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *value)
{
	uint64_t words[WGF_ENDPOINT_WORDS];
	memcpy(words, value, sizeof(*value));
	for (size_t i = 0; i < WGF_ENDPOINT_WORDS; i++)
		atomic_store_explicit(&cell->words[i], words[i], memory_order_release);
}

void wgf_endpoint_store(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *value)
{
	uint32_t odd = begin_write(cell);
	put_words(cell, value);
	end_write(cell, odd);
}

bool wgf_endpoint_roam(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *value)
{
	struct wgf_endpoint current;
	if (value->family != 4 && value->family != 6) /* an Engine's caller does not know */
		return false;
	/* Nearly every packet comes from where the last one came from: nothing is written then. */
	wgf_endpoint_load(cell, &current);
	if (memcmp(&current, value, sizeof(current)) == 0)
		return false;
	uint32_t odd = begin_write(cell);
	get_words(cell, &current);
	put_words(cell, value);
	end_write(cell, odd);
	return current.family && !wgf_endpoint_same_address(&current, value);
}

static bool has_this_source(const struct wgf_endpoint *endpoint, const struct wgf_endpoint *seen)
{
	if (!endpoint->has_source && endpoint->interface == 0)
		return false;
	return !seen || (endpoint->family == seen->family && endpoint->interface == seen->interface &&
			 memcmp(endpoint->source, seen->source, sizeof(seen->source)) == 0);
}

void wgf_endpoint_clear_source(struct wgf_endpoint_cell *cell, const struct wgf_endpoint *seen)
{
	struct wgf_endpoint current;
	wgf_endpoint_load(cell, &current);
	if (!has_this_source(&current, seen))
		return;
	uint32_t odd = begin_write(cell);
	get_words(cell, &current);
	/* Look again: a packet may meanwhile have taught another source, which is newer than `seen`. */
	if (has_this_source(&current, seen)) {
		memset(current.source, 0, sizeof(current.source));
		current.interface = 0;
		current.has_source = 0;
		put_words(cell, &current);
	}
	end_write(cell, odd);
}

bool wgf_endpoint_same_address(const struct wgf_endpoint *a, const struct wgf_endpoint *b)
{
	if (a->family != b->family || a->port != b->port || a->scope != b->scope)
		return false;
	return memcmp(a->address, b->address, a->family == 4 ? 4 : sizeof(a->address)) == 0;
}

socklen_t wgf_endpoint_to_sockaddr(const struct wgf_endpoint *endpoint, struct sockaddr_storage *out)
{
	if (endpoint->family == 4) {
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(endpoint->port)};
		memcpy(&in.sin_addr, endpoint->address, sizeof(in.sin_addr));
		memcpy(out, &in, sizeof(in));
		return sizeof(in);
	}
	if (endpoint->family == 6) {
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6,
					   .sin6_port = htons(endpoint->port),
					   .sin6_scope_id = endpoint->scope};
		memcpy(&in6.sin6_addr, endpoint->address, sizeof(in6.sin6_addr));
		memcpy(out, &in6, sizeof(in6));
		return sizeof(in6);
	}
	return 0;
}

bool wgf_endpoint_from_sockaddr(struct wgf_endpoint *endpoint, const struct sockaddr_storage *from)
{
	memset(endpoint, 0, sizeof(*endpoint));
	if (from->ss_family == AF_INET) {
		struct sockaddr_in in;
		memcpy(&in, from, sizeof(in));
		endpoint->family = 4;
		endpoint->port = ntohs(in.sin_port);
		memcpy(endpoint->address, &in.sin_addr, sizeof(in.sin_addr));
		return true;
	}
	if (from->ss_family == AF_INET6) {
		struct sockaddr_in6 in6;
		memcpy(&in6, from, sizeof(in6));
		endpoint->family = 6;
		endpoint->port = ntohs(in6.sin6_port);
		endpoint->scope = in6.sin6_scope_id;
		memcpy(endpoint->address, &in6.sin6_addr, sizeof(in6.sin6_addr));
		return true;
	}
	return false;
}
