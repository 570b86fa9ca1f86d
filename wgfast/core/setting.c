/* The records of a setting: arrays that grow where they are mapped, so that nothing is copied and
 * no key is left behind. Pages of the room that is not used yet do not exist. */
#include "setting.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "secret.h"

#define FIRST_ROOM 65536u /* bytes */

struct wgf_setting *wgf_setting_create(void)
{
	return wgf_secret_map(sizeof(struct wgf_setting));
}

void wgf_setting_destroy(struct wgf_setting *setting)
{
	if (!setting)
		return;
	wgf_secret_unmap_used(setting->peers, setting->peers_room * sizeof *setting->peers,
			      setting->peers_n * sizeof *setting->peers);
	wgf_secret_unmap_used(setting->prefixes, setting->prefixes_room * sizeof *setting->prefixes,
			      setting->prefixes_n * sizeof *setting->prefixes);
	wgf_secret_unmap_used(setting->limits, setting->limits_room * sizeof *setting->limits,
			      setting->limits_n * sizeof *setting->limits);
	wgf_secret_unmap_used(setting->hosts, setting->hosts_room * sizeof *setting->hosts,
			      setting->hosts_n * sizeof *setting->hosts);
	wgf_secret_unmap(setting, sizeof *setting);
}

/* Room for one more. The array, which may have moved, or NULL with everything as it was. */
static void *grow(void *array, size_t n, size_t *room, size_t each)
{
	if (n < *room)
		return array;
	size_t larger = *room ? 2 * *room : FIRST_ROOM / each;
	void *grown = array ? wgf_secret_remap(array, *room * each, larger * each) : wgf_secret_map(larger * each);
	if (grown)
		*room = larger;
	return grown;
}

struct wgf_setting_peer *wgf_setting_add_peer(struct wgf_setting *setting, const uint8_t public_key[WGF_KEY_SIZE])
{
	void *peers = setting->peers_n < UINT32_MAX
			      ? grow(setting->peers, setting->peers_n, &setting->peers_room, sizeof *setting->peers)
			      : NULL;
	if (!peers)
		return NULL;
	setting->peers = peers;
	struct wgf_setting_peer *peer = &setting->peers[setting->peers_n++];
	memset(peer, 0, sizeof *peer);
	memcpy(peer->public_key, public_key, WGF_KEY_SIZE);
	peer->first = (uint32_t)setting->prefixes_n;
	return peer;
}

static void mask_host_bits(uint8_t *address, size_t size, unsigned length)
{
	size_t whole = length / 8;
	if (whole < size) {
		address[whole] &= (uint8_t)(0xff00u >> (length % 8));
		memset(address + whole + 1, 0, size - whole - 1);
	}
}

int wgf_setting_add_prefix(struct wgf_setting *setting, uint8_t family, const uint8_t *address, unsigned length,
			   bool away)
{
	size_t size = family == 4 ? 4 : 16;
	if (setting->prefixes_n >= UINT32_MAX)
		return -EMSGSIZE;
	void *prefixes = grow(setting->prefixes, setting->prefixes_n, &setting->prefixes_room,
			      sizeof *setting->prefixes);
	if (!prefixes)
		return -ENOMEM;
	setting->prefixes = prefixes;
	struct wgf_setting_prefix *prefix = &setting->prefixes[setting->prefixes_n++];
	memset(prefix, 0, sizeof *prefix);
	memcpy(prefix->address, address, size);
	mask_host_bits(prefix->address, size, length);
	prefix->family = family;
	prefix->length = (uint8_t)length;
	prefix->away = away;
	setting->peers[setting->peers_n - 1].count++;
	return 0;
}

int wgf_setting_add_limit(struct wgf_setting *setting, uint32_t limit, uint64_t value)
{
	struct wgf_setting_peer *peer = &setting->peers[setting->peers_n - 1];
	if (limit >= WGF_LIMIT_COUNT || value > wgf_limit_most(limit))
		return -EINVAL;
	if (!(peer->said & WGF_SAID_LIMITS)) {
		void *all = grow(setting->limits, setting->limits_n, &setting->limits_room, sizeof *setting->limits);
		if (!all)
			return -ENOMEM;
		setting->limits = all;
		peer->limits = (uint32_t)setting->limits_n++;
		peer->said |= WGF_SAID_LIMITS;
		memset(&setting->limits[peer->limits], 0, sizeof *setting->limits);
	}
	setting->limits[peer->limits].value[limit] = value;
	setting->limits[peer->limits].said |= UINT32_C(1) << limit;
	return 0;
}

int wgf_setting_add_host(struct wgf_setting *setting, size_t offset, size_t length)
{
	void *hosts = grow(setting->hosts, setting->hosts_n, &setting->hosts_room, sizeof *setting->hosts);
	if (!hosts)
		return -ENOMEM;
	setting->hosts = hosts;
	setting->hosts[setting->hosts_n++] = (struct wgf_setting_host){
		.peer = (uint32_t)setting->peers_n - 1, .offset = (uint32_t)offset, .length = (uint32_t)length};
	return 0;
}

void wgf_setting_drop_prefixes(struct wgf_setting *setting)
{
	struct wgf_setting_peer *peer = &setting->peers[setting->peers_n - 1];
	setting->prefixes_n = peer->first;
	peer->count = 0;
}

/* ---- The last word ---- */

int wgf_setting_compare_prefixes(const struct wgf_setting_prefix *a, const struct wgf_setting_prefix *b)
{
	if (a->family != b->family)
		return a->family < b->family ? -1 : 1;
	int order = memcmp(a->address, b->address, sizeof a->address);
	return order ? order : (int)a->length - (int)b->length;
}

/* Equal prefixes in the order in which they were said. */
static int compare_words(const void *a, const void *b)
{
	const struct wgf_setting_prefix *p = *(const struct wgf_setting_prefix *const *)a;
	const struct wgf_setting_prefix *q = *(const struct wgf_setting_prefix *const *)b;
	int order = wgf_setting_compare_prefixes(p, q);
	return order ? order : (p < q ? -1 : 1);
}

/* Some of the prefixes are given and some taken away: of equal ones all but the last are left out. */
static int settle(struct wgf_setting_prefix *prefixes, uint32_t *count)
{
	const struct wgf_setting_prefix **words = malloc(*count * sizeof *words);
	struct wgf_setting_prefix *settled = malloc(*count * sizeof *settled);
	if (words && settled) {
		uint32_t kept = 0;
		for (uint32_t i = 0; i < *count; i++)
			words[i] = &prefixes[i];
		qsort(words, *count, sizeof *words, compare_words);
		for (uint32_t i = 0; i < *count; i++)
			if (i + 1 == *count || wgf_setting_compare_prefixes(words[i], words[i + 1]))
				settled[kept++] = *words[i];
		memcpy(prefixes, settled, kept * sizeof *settled);
		*count = kept;
	}
	int error = words && settled ? 0 : -ENOMEM;
	free(settled);
	free(words);
	return error;
}

int wgf_setting_end_peer(struct wgf_setting *setting)
{
	if (!setting->peers_n)
		return 0;
	struct wgf_setting_peer *peer = &setting->peers[setting->peers_n - 1];
	struct wgf_setting_prefix *prefixes = setting->prefixes + peer->first;
	uint32_t away = 0;
	for (uint32_t i = 0; i < peer->count; i++)
		away += prefixes[i].away;
	if (away == 0 || away == peer->count)
		return 0; /* nothing contradicts: saying it twice changes nothing */
	int error = settle(prefixes, &peer->count);
	setting->prefixes_n = peer->first + peer->count;
	return error;
}
