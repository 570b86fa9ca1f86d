/* Whether a setting can be carried through, asked before anything of it is applied. Most are far from any limit, which
 * is seen at once; near one it is counted what is there already. Between the question and the last step others may
 * change the device: what little they can add meanwhile is what the allowed IPs leave apart. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "handle.h"
#include "setting.h"

static bool makes_peer(const struct wgf_setting_peer *said)
{
	return !(said->said & (WGF_SAID_REMOVE | WGF_SAID_UPDATE_ONLY));
}

static int compare_keys(const void *a, const void *b)
{
	return memcmp(*(const uint8_t *const *)a, *(const uint8_t *const *)b, WGF_KEY_SIZE);
}

/* How many keys are not in the table yet, each counted once. UINT64_MAX: out of memory. */
static uint64_t new_keys(struct wgf_device *device, const struct wgf_setting *setting)
{
	const uint8_t **keys = malloc((setting->peers_n + 1) * sizeof *keys);
	uint64_t n = 0, distinct = 0;
	if (!keys)
		return UINT64_MAX;
	for (size_t i = 0; i < setting->peers_n; i++)
		if (makes_peer(&setting->peers[i]) && !wgf_peer_find(device, setting->peers[i].public_key))
			keys[n++] = setting->peers[i].public_key;
	qsort(keys, n, sizeof *keys, compare_keys);
	for (uint64_t i = 0; i < n; i++)
		distinct += i == 0 || compare_keys(&keys[i - 1], &keys[i]) != 0;
	free(keys);
	return distinct;
}

static int check_peers(struct wgf_device *device, const struct wgf_setting *setting, uint64_t *peers)
{
	*peers = device->peers.count + (uint64_t)setting->peers_n;
	if (*peers <= WGF_PEERS_MAX)
		return 0;
	uint64_t added = new_keys(device, setting); /* if every one were new, it were too many: look more closely */
	*peers = device->peers.count + added;
	if (added == UINT64_MAX)
		return -ENOMEM;
	return *peers > WGF_PEERS_MAX ? -ENOSPC : 0;
}

/* Each prefix as if it were new. */
static void demand_at_most(const struct wgf_setting *setting, struct wgf_demand *demand)
{
	for (size_t i = 0; i < setting->prefixes_n; i++)
		if (!setting->prefixes[i].away)
			demand->added[setting->prefixes[i].family == WGF_IPV6]++;
}

static void demand_closely(struct wgf_device *device, const struct wgf_setting *setting, struct wgf_demand *demand)
{
	for (size_t i = 0; i < setting->peers_n; i++) {
		const struct wgf_setting_peer *said = &setting->peers[i];
		const struct wgf_peer *peer = wgf_peer_find(device, said->public_key);
		uint32_t owner = peer ? (uint32_t)peer->handle : WGF_OWNER_NONE;
		for (uint32_t at = said->first; at < said->first + said->count; at++) {
			const struct wgf_setting_prefix *prefix = &setting->prefixes[at];
			if (!prefix->away)
				wgf_allowedips_demand(device->allowedips, demand, prefix->family, prefix->address,
						      prefix->length, owner);
		}
	}
}

static int check_prefixes(struct wgf_device *device, const struct wgf_setting *setting)
{
	struct wgf_demand most = {.added = {0}}, closely = most;
	demand_at_most(setting, &most);
	if (!wgf_allowedips_admit(device->allowedips, &most))
		return 0;
	demand_closely(device, setting, &closely);
	return wgf_allowedips_admit(device->allowedips, &closely) ? -EMLINK : 0;
}

int wgf_setting_check(struct wgf_device *device, const struct wgf_setting *setting, uint64_t *peers)
{
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	int error = check_peers(device, setting, peers);
	if (!error)
		error = check_prefixes(device, setting);
	pthread_mutex_unlock(&device->config);
	return error;
}
