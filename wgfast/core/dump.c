/* Peers as the lines of the UAPI. The digits of keys are made without a branch or an address that depends on
 * them. */
#include "dump.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "handle.h"

#define LONGEST_PREFIX 64u /* allowed_ip=, an address, /128 and the end of the line */
#define LONGEST_REST 1280u /* all else of a peer but its name: two keys, eight other lines, limits */
#define FEW 32u            /* prefixes that are listed on the stack */

_Static_assert(sizeof "allowed_ip=/128\n" - 1 + INET6_ADDRSTRLEN <= LONGEST_PREFIX, "an allowed IP fits");

static char *put(char *at, const char *text)
{
	size_t size = strlen(text);
	memcpy(at, text, size);
	return at + size;
}

static char *put_number(char *at, uint64_t number)
{
	char digits[20];
	size_t n = 0;
	do {
		digits[n++] = (char)('0' + number % 10);
		number /= 10;
	} while (number);
	while (n)
		*at++ = digits[--n];
	return at;
}

static char *put_line(char *at, const char *key, uint64_t number)
{
	at = put_number(put(at, key), number);
	*at++ = '\n';
	return at;
}

static char hexadecimal(uint32_t nibble)
{
	uint32_t letter = (9 - nibble) >> 31; /* 'a' comes 39 after what would follow '9' */
	return (char)('0' + nibble + ((0 - letter) & 39u));
}

static char *put_key(char *at, const char *name, const uint8_t key[WGF_KEY_SIZE])
{
	at = put(at, name);
	for (size_t i = 0; i < WGF_KEY_SIZE; i++) {
		*at++ = hexadecimal(key[i] >> 4);
		*at++ = hexadecimal(key[i] & 15u);
	}
	*at++ = '\n';
	return at;
}

static char *put_address(char *at, unsigned family, const uint8_t *address)
{
	if (family == 6) {
		inet_ntop(AF_INET6, address, at, INET6_ADDRSTRLEN);
		return at + strlen(at);
	}
	for (size_t i = 0; i < 4; i++) {
		at = put_number(at, address[i]);
		*at++ = '.';
	}
	return at - 1;
}

static char *put_endpoint(char *at, const struct wgf_endpoint *endpoint)
{
	if (endpoint->family != 4 && endpoint->family != 6)
		return at;
	at = put(at, endpoint->family == 6 ? "endpoint=[" : "endpoint=");
	at = put_address(at, endpoint->family, endpoint->address);
	if (endpoint->family == 6 && endpoint->scope) {
		*at++ = '%';
		at = put_number(at, endpoint->scope);
	}
	at = put(at, endpoint->family == 6 ? "]:" : ":");
	at = put_number(at, endpoint->port);
	*at++ = '\n';
	return at;
}

static char *put_name(char *at, const struct wgf_dump_name *name)
{
	if (!name)
		return at;
	at = put(at, "endpoint_host=");
	memcpy(at, name->text, name->size);
	at += name->size;
	*at++ = '\n';
	return at;
}

static uint64_t relaxed(_Atomic uint64_t *value)
{
	return atomic_load_explicit(value, memory_order_relaxed);
}

static bool has_limits(struct wgf_peer *peer)
{
	return atomic_load_explicit(&peer->limiter, memory_order_relaxed) != NULL;
}

/* Those that are set, and what is used of a quota. */
static char *put_limits(char *at, struct wgf_peer *peer)
{
	struct wgf_limits limits;
	wgf_limiter_get(peer, &limits);
	for (uint32_t i = 0; i < WGF_LIMIT_COUNT; i++) {
		bool used = i == WGF_LIMIT_SEND_USED || i == WGF_LIMIT_RECEIVE_USED;
		if (!limits.value[i] && !(used && limits.value[i - 1]))
			continue;
		at = put(at, wgf_limit_name(i));
		*at++ = '=';
		at = put_number(at, limits.value[i]);
		*at++ = '\n';
	}
	return at;
}

static char *put_peer(char *at, struct wgf_peer *peer, const struct wgf_dump_name *name, int64_t wall)
{
	struct wgf_endpoint endpoint;
	wgf_endpoint_load(&peer->endpoint, &endpoint);
	uint64_t shook = relaxed(&peer->handshake_at);
	uint64_t when = shook ? shook + (uint64_t)wall : 0;
	at = put_key(at, "public_key=", peer->public_key);
	at = put_key(at, "preshared_key=", peer->psk);
	at = put(at, "protocol_version=1\n");
	at = put_endpoint(at, &endpoint);
	at = put_name(at, name);
	at = put_line(at, "last_handshake_time_sec=", when / WGF_SECOND);
	at = put_line(at, "last_handshake_time_nsec=", when % WGF_SECOND);
	at = put_line(at, "tx_bytes=", relaxed(&peer->sent_bytes));
	at = put_line(at, "rx_bytes=", relaxed(&peer->received_bytes));
	at = put_line(at, "persistent_keepalive_interval=",
		      atomic_load_explicit(&peer->persistent_interval, memory_order_relaxed));
	return has_limits(peer) ? put_limits(at, peer) : at;
}

static char *put_prefixes(char *at, const struct wgf_prefix *prefixes, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		at = put_address(put(at, "allowed_ip="), prefixes[i].family, prefixes[i].address);
		*at++ = '/';
		at = put_number(at, prefixes[i].length);
		*at++ = '\n';
	}
	return at;
}

static const struct wgf_dump_name *name_of(const struct wgf_dump_name *names, size_t n, uint64_t handle)
{
	size_t low = 0, high = n;
	while (low < high) {
		size_t middle = low + (high - low) / 2;
		if ((uint32_t)names[middle].handle < (uint32_t)handle)
			low = middle + 1;
		else
			high = middle;
	}
	return low < n && names[low].handle == handle ? &names[low] : NULL;
}

/* Writes one peer into `size` bytes. Returns how many it took, 0 and *need if it does not fit, or -ENOMEM. */
static int64_t write_peer(struct wgf_peer *peer, const struct wgf_dump_name *name, int64_t wall, char *out,
			  size_t size, size_t *need)
{
	struct wgf_prefix few[FEW], *prefixes = few;
	struct wgf_allowedips *table = peer->device->allowedips;
	uint32_t owner = (uint32_t)peer->handle;
	size_t n = wgf_allowedips_list(table, owner, few, FEW);
	*need = LONGEST_REST + (name ? name->size : 0) + n * LONGEST_PREFIX;
	if (*need > size)
		return 0;
	if (n > FEW) {
		prefixes = malloc(n * sizeof *prefixes);
		if (!prefixes)
			return -ENOMEM;
		wgf_allowedips_list(table, owner, prefixes, n);
	}
	char *end = put_prefixes(put_peer(out, peer, name, wall), prefixes, n);
	if (prefixes != few)
		free(prefixes);
	return end - out;
}

int64_t wgf_device_dump(struct wgf_device *device, uint32_t *cursor, const struct wgf_dump_name *names,
			size_t names_n, int64_t wall, char *out, size_t size, size_t *need)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	size_t used = 0;
	int64_t took = 1; /* 0: there was a peer, and no room for it */
	pthread_mutex_lock(&device->config);
	for (;;) {
		uint32_t next = *cursor;
		struct wgf_peer *peer = wgf_peer_next(device, &next);
		if (!peer)
			break;
		const struct wgf_dump_name *name = name_of(names, names_n, peer->handle);
		took = write_peer(peer, name, wall, out + used, size - used, need);
		if (took <= 0)
			break;
		used += (size_t)took;
		*cursor = next;
	}
	pthread_mutex_unlock(&device->config);
	if (used)
		return (int64_t)used;
	return took == 0 ? -EMSGSIZE : took < 0 ? took : 0;
}
