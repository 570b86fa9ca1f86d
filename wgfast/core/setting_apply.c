/* A setting onto a device, some records, or prefixes of one, at a time: between two steps the device is anybody's, and packets
 * pass all the while. A peer or a route of it that was removed or replaced in between is no error.
 *
 * So that no packet meets a gap, what is to be taken away goes last of all: a prefix that goes from one peer to
 * another is moved in one step, and a peer that is to be removed and added again stays, with its session, and
 * only loses what is not mentioned. Until then such a peer is doomed: its row says by which plan, and why.
 * A prefix that is to go is withheld in a log of the plan, as are the later words that keep it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bytes.h"
#include "handle.h"
#include "setting.h"

#define STEP_COST 4096u /* peers and prefixes of one step, of a long list some: a few milliseconds */
#define FEW 32u         /* prefixes that are listed on the stack */

enum doom {
	DOOM_NOT,
	DOOM_REPLACED, /* all peers are to be replaced, and this one was not mentioned yet */
	DOOM_SAID,     /* by a line of its own */
};

struct withheld {
	uint64_t handle;
	uint64_t order;
	struct wgf_setting_prefix prefix; /* away: it is to go; otherwise it is the peer's again */
};

enum stage { STAGE_PEERS, STAGE_PREFIXES, STAGE_DOOMED, STAGE_DONE };

struct wgf_setting_plan {
	struct wgf_device *device;
	const struct wgf_setting *setting;
	uint64_t number;
	/* Under device->config. */
	enum stage stage;
	size_t at;       /* next record, prefix of the log */
	uint32_t cursor; /* or row */
	uint64_t handle; /* of the record's peer, while it is being given its prefixes; otherwise 0 */
	uint32_t given;  /* of the record's prefixes: dealt with so far */
	bool made, reset; /* the peer is new; or as good as new */
	struct withheld *log;
	size_t log_n, log_room;
	bool kept;       /* the log has words that keep a prefix */
	bool dooms;      /* there may be doomed peers */
};

/* What a step has to say. */
struct report {
	uint32_t wanted;
	struct wgf_setting_news *news;
	size_t n;
};

static void tell(struct report *report, uint64_t handle, size_t record, uint32_t what)
{
	if (what & report->wanted)
		report->news[report->n++] = (struct wgf_setting_news){handle, (uint32_t)record, what};
}

/* ---- Doom ---- */

static enum doom doom_of(const struct wgf_setting_plan *plan, const struct wgf_peer *peer)
{
	return peer->plan == plan->number ? (enum doom)peer->doom : DOOM_NOT;
}

/* From now on the row speaks of this plan. */
static void claim(struct wgf_setting_plan *plan, struct wgf_peer *peer)
{
	if (peer->plan != plan->number) {
		peer->plan = plan->number;
		peer->doom = DOOM_NOT;
		peer->withheld = false;
	}
}

static void set_doom(struct wgf_setting_plan *plan, struct wgf_peer *peer, enum doom doom)
{
	claim(plan, peer);
	peer->doom = doom;
	plan->dooms |= doom != DOOM_NOT;
}

struct wgf_setting_plan *wgf_setting_begin(struct wgf_device *device, const struct wgf_setting *setting)
{
	struct wgf_setting_plan *plan = calloc(1, sizeof *plan);
	if (!plan || !wgf_device_alive(device))
		return plan; /* a step of it says what is wrong */
	plan->device = device;
	plan->setting = setting;
	pthread_mutex_lock(&device->config);
	plan->number = ++device->plans;
	if (setting->said & WGF_SAID_REPLACE_PEERS) {
		uint32_t cursor = 0;
		struct wgf_peer *peer;
		while ((peer = wgf_peer_next(device, &cursor)))
			set_doom(plan, peer, DOOM_REPLACED);
	}
	pthread_mutex_unlock(&device->config);
	return plan;
}

void wgf_setting_end(struct wgf_setting_plan *plan)
{
	if (plan)
		free(plan->log);
	free(plan);
}

/* ---- Allowed IPs ---- */

static int withhold(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_setting_prefix *prefix,
		    bool away)
{
	if (plan->log_n == plan->log_room) {
		size_t room = plan->log_room ? 2 * plan->log_room : 256;
		struct withheld *log = realloc(plan->log, room * sizeof *log);
		if (!log)
			return -ENOMEM;
		plan->log = log;
		plan->log_room = room;
	}
	struct withheld *entry = &plan->log[plan->log_n++];
	*entry = (struct withheld){.handle = peer->handle, .order = plan->log_n, .prefix = *prefix};
	entry->prefix.away = away;
	claim(plan, peer);
	peer->withheld = true;
	plan->kept |= !away;
	return 0;
}

static int give(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_setting_prefix *prefix)
{
	int error = wgf_allowedips_insert(plan->device->allowedips, prefix->family, prefix->address, prefix->length,
					  (uint32_t)peer->handle);
	if (!error && peer->plan == plan->number && peer->withheld)
		error = withhold(plan, peer, prefix, false);
	return error;
}

static int compare_given(const void *a, const void *b)
{
	return wgf_setting_compare_prefixes(a, b);
}

static int withhold_others(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_prefix *owned,
			   size_t owned_n, const struct wgf_setting_prefix *given, size_t given_n)
{
	int error = 0;
	for (size_t i = 0; i < owned_n && !error; i++) {
		struct wgf_setting_prefix prefix = {.family = owned[i].family, .length = owned[i].length};
		memcpy(prefix.address, owned[i].address, sizeof prefix.address);
		if (!given_n || !bsearch(&prefix, given, given_n, sizeof *given, compare_given))
			error = withhold(plan, peer, &prefix, true);
	}
	return error;
}

/* The peer has just been given its new prefixes; of what it owns the others are to go. */
static int withhold_rest(struct wgf_setting_plan *plan, struct wgf_peer *peer,
			 const struct wgf_setting_prefix *prefixes, size_t n)
{
	struct wgf_allowedips *table = plan->device->allowedips;
	struct wgf_prefix few[FEW], *owned = few;
	size_t given_n = 0;
	size_t owned_n = wgf_allowedips_list(table, (uint32_t)peer->handle, NULL, 0);
	struct wgf_setting_prefix *given = malloc((n + 1) * sizeof *given);
	if (owned_n > FEW)
		owned = malloc(owned_n * sizeof *owned);
	int error = given && owned ? 0 : -ENOMEM;
	if (!error) {
		for (size_t i = 0; i < n; i++)
			if (!prefixes[i].away)
				given[given_n++] = prefixes[i];
		qsort(given, given_n, sizeof *given, compare_given);
		wgf_allowedips_list(table, (uint32_t)peer->handle, owned, owned_n);
		error = withhold_others(plan, peer, owned, owned_n, given, given_n);
	}
	if (owned != few)
		free(owned);
	free(given);
	return error;
}

/* Up to *most of the record's prefixes from where the last step left off. */
static int give_some(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_setting_peer *said, uint64_t *most)
{
	const struct wgf_setting_prefix *prefixes = plan->setting->prefixes + said->first;
	int error = 0;
	for (; plan->given < said->count && *most && !error; --*most) {
		if (!prefixes[plan->given].away)
			error = give(plan, peer, &prefixes[plan->given]);
		if (!error)
			plan->given++;
	}
	return error;
}

/* What the record takes from the peer, which has all it gives. */
static int take_away(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_setting_peer *said)
{
	const struct wgf_setting_prefix *prefixes = plan->setting->prefixes + said->first;
	size_t given = 0;
	int error = 0;
	if (plan->reset || said->said & WGF_SAID_REPLACE) {
		for (uint32_t i = 0; i < said->count; i++)
			given += !prefixes[i].away;
		/* It owns the one it was given just now: if it owns one, there are no others. (Of more, some may have been
		 * given steps ago and have gone elsewhere since.) */
		size_t owned = wgf_allowedips_list(plan->device->allowedips, (uint32_t)peer->handle, NULL, 0);
		return owned == 0 || (said->count == 1 && given == 1 && owned == 1)
			       ? 0
			       : withhold_rest(plan, peer, prefixes, said->count);
	}
	for (uint32_t i = 0; i < said->count && !error; i++)
		if (prefixes[i].away)
			error = withhold(plan, peer, &prefixes[i], true);
	return error;
}

/* ---- Peers ---- */

static uint32_t apply_psk(struct wgf_peer *peer, const struct wgf_setting_peer *said, bool made, bool reset)
{
	if (!(said->said & WGF_SAID_PSK) && !reset)
		return 0;
	if (wgf_equal(peer->psk, said->psk, WGF_KEY_SIZE))
		return 0;
	memcpy(peer->psk, said->psk, WGF_KEY_SIZE);
	if (reset)
		wgf_peer_end_sessions(peer); /* a new peer would have no session of the old key */
	wgf_peer_drop_handshake(peer);
	return made ? 0 : WGF_NEWS_PSK;
}

static uint32_t apply_endpoint(struct wgf_peer *peer, const struct wgf_setting_peer *said, bool reset)
{
	uint32_t named = said->said & WGF_SAID_HOST ? WGF_NEWS_HOST : 0;
	if (!(said->said & WGF_SAID_ENDPOINT) && (!reset || named))
		return named;
	struct wgf_endpoint endpoint = {
		.family = said->family, .port = said->port, .scope = said->scope};
	memcpy(endpoint.address, said->address, sizeof endpoint.address);
	wgf_endpoint_store(&peer->endpoint, &endpoint);
	return named | WGF_NEWS_ENDPOINT;
}

static void apply_keepalive(struct wgf_peer *peer, const struct wgf_setting_peer *said, bool reset, uint64_t now)
{
	if (!(said->said & WGF_SAID_KEEPALIVE) && !reset)
		return;
	if (atomic_exchange_explicit(&peer->persistent_interval, said->keepalive, memory_order_relaxed) !=
	    said->keepalive)
		wgf_timers_persistent_changed(peer->device, peer, now);
}

static int apply_limits(struct wgf_setting_plan *plan, struct wgf_peer *peer, const struct wgf_setting_peer *said,
			bool reset, uint64_t now)
{
	struct wgf_limits limits = {.said = 0};
	if (said->said & WGF_SAID_LIMITS)
		limits = plan->setting->limits[said->limits];
	if (reset)
		limits.said = WGF_LIMITS_ALL;
	return limits.said ? wgf_limiter_set(peer, &limits, now) : 0;
}

/* All but prefixes and keepalive. The preshared key before anybody can want a handshake, limits before there is
 * anything that they limit. */
static int begin_peer(struct wgf_setting_plan *plan, struct wgf_peer *peer, uint64_t now, struct report *report)
{
	const struct wgf_setting_peer *said = &plan->setting->peers[plan->at];
	int error = apply_limits(plan, peer, said, plan->reset, now);
	if (error)
		return error;
	uint32_t what = apply_psk(peer, said, plan->made, plan->reset) | apply_endpoint(peer, said, plan->reset);
	if (what)
		tell(report, peer->handle, plan->at, what | (plan->reset ? WGF_NEWS_RESET : 0));
	plan->handle = peer->handle;
	plan->given = 0;
	return 0;
}

/* Up to *most of its prefixes, and after the last what is left to do. */
static int go_on(struct wgf_setting_plan *plan, uint64_t now, uint64_t *most)
{
	const struct wgf_setting_peer *said = &plan->setting->peers[plan->at];
	struct wgf_peer *peer = wgf_peer_get(plan->device, plan->handle);
	int error = peer ? give_some(plan, peer, said, most) : 0;
	if (error || (peer && plan->given < said->count))
		return error;
	if (peer)
		error = take_away(plan, peer, said);
	if (error)
		return error;
	/* Last: switching it on sends a packet, which wants all the rest. */
	if (peer)
		apply_keepalive(peer, said, plan->reset, now);
	plan->handle = 0;
	plan->at++;
	return 0;
}

static void remove_peer(struct wgf_peer *peer, size_t record, struct report *report)
{
	tell(report, peer->handle, record, WGF_NEWS_REMOVED);
	wgf_peer_remove(peer);
}

static bool is_ourselves(struct wgf_device *device, const uint8_t public_key[WGF_KEY_SIZE])
{
	struct wgf_identity *identity = atomic_load_explicit(&device->identity, memory_order_relaxed);
	return identity && !memcmp(identity->public_key, public_key, WGF_KEY_SIZE);
}

/* Finds or makes the peer of the next record, unless there is nothing to do with it. */
static int begin_record(struct wgf_setting_plan *plan, uint64_t now, struct report *report)
{
	struct wgf_device *device = plan->device;
	const struct wgf_setting_peer *said = &plan->setting->peers[plan->at];
	struct wgf_peer *peer = wgf_peer_find(device, said->public_key);
	enum doom doom = peer ? doom_of(plan, peer) : DOOM_NOT;
	if (is_ourselves(device, said->public_key)) /* as Linux: a peer with the device's own key is passed over */
		return 0;
	if (said->said & WGF_SAID_REMOVE) {
		if (peer)
			set_doom(plan, peer, DOOM_SAID);
		return 0;
	}
	if (said->said & WGF_SAID_UPDATE_ONLY && (!peer || doom != DOOM_NOT))
		return 0;
	if (doom == DOOM_SAID) { /* removed, then added: it is a new one */
		remove_peer(peer, plan->at, report);
		peer = NULL;
	}
	plan->made = !peer;
	if (plan->made) {
		uint64_t handle;
		int error = wgf_peer_create(device, said->public_key, &handle);
		if (error)
			return error;
		peer = wgf_peer_get(device, handle);
	}
	plan->reset = doom == DOOM_REPLACED;
	if (plan->reset)
		set_doom(plan, peer, DOOM_NOT);
	return begin_peer(plan, peer, now, report);
}

/* ---- Steps ---- */

static int step_peers(struct wgf_setting_plan *plan, uint64_t now, struct report *report, size_t max)
{
	uint64_t most = STEP_COST;
	while (plan->at < plan->setting->peers_n) {
		int error = 0;
		if (most == 0 || report->n + 2 > max)
			return 0;
		if (!plan->handle) {
			error = begin_record(plan, now, report);
			most--;
		}
		if (!error && plan->handle)
			error = go_on(plan, now, &most);
		else if (!error)
			plan->at++;
		if (error)
			return error;
	}
	plan->stage = STAGE_PREFIXES;
	plan->at = 0;
	return 0;
}

static int compare_withheld(const void *a, const void *b)
{
	const struct withheld *p = a, *q = b;
	if (p->handle != q->handle)
		return p->handle < q->handle ? -1 : 1;
	int order = wgf_setting_compare_prefixes(&p->prefix, &q->prefix);
	return order ? order : (p->order < q->order ? -1 : 1);
}

/* Of what was said of one prefix of one peer the last word counts. */
static void settle_log(struct wgf_setting_plan *plan)
{
	size_t kept = 0;
	qsort(plan->log, plan->log_n, sizeof *plan->log, compare_withheld);
	for (size_t i = 0; i < plan->log_n; i++) {
		const struct withheld *this = &plan->log[i], *next = this + 1;
		if (i + 1 == plan->log_n || this->handle != next->handle ||
		    wgf_setting_compare_prefixes(&this->prefix, &next->prefix))
			plan->log[kept++] = *this;
	}
	plan->log_n = kept;
	plan->kept = false;
}

static void step_prefixes(struct wgf_setting_plan *plan)
{
	if (plan->kept)
		settle_log(plan);
	for (uint64_t cost = 0; plan->at < plan->log_n; plan->at++) {
		const struct withheld *entry = &plan->log[plan->at];
		if (cost++ >= STEP_COST)
			return;
		/* Another peer's by now: then it stays there. */
		if (entry->prefix.away && wgf_peer_get(plan->device, entry->handle))
			wgf_allowedips_remove(plan->device->allowedips, entry->prefix.family, entry->prefix.address,
					      entry->prefix.length, (uint32_t)entry->handle);
	}
	plan->stage = STAGE_DOOMED;
}

/* The prefixes of a doomed peer go in portions, the last ones with it. */
static void step_doomed(struct wgf_setting_plan *plan, struct report *report, size_t max)
{
	struct wgf_peer *peer = NULL;
	for (uint64_t cost = 0; plan->dooms; cost++) {
		if (cost >= STEP_COST || report->n == max)
			return;
		peer = wgf_peer_next(plan->device, &plan->cursor);
		if (!peer)
			break;
		if (doom_of(plan, peer) == DOOM_NOT)
			continue;
		size_t most = STEP_COST - cost;
		size_t gone = wgf_allowedips_remove_some(plan->device->allowedips, (uint32_t)peer->handle, most);
		cost += gone;
		if (gone == most)
			plan->cursor = (uint32_t)peer->handle; /* it is the next again */
		else
			remove_peer(peer, 0, report);
	}
	plan->stage = STAGE_DONE;
}

int64_t wgf_setting_step(struct wgf_setting_plan *plan, uint64_t now, uint32_t wanted,
			 struct wgf_setting_news *news, size_t max, bool *done)
{
	struct wgf_device *device = plan->device;
	struct report report = {wanted, news, 0};
	int error = 0;
	if (!wgf_device_alive(device))
		return -EOWNERDEAD;
	pthread_mutex_lock(&device->config);
	switch (plan->stage) {
	case STAGE_PEERS:
		error = step_peers(plan, now, &report, max);
		break;
	case STAGE_PREFIXES:
		step_prefixes(plan);
		break;
	case STAGE_DOOMED:
		step_doomed(plan, &report, max);
		break;
	case STAGE_DONE:
		break;
	}
	*done = plan->stage == STAGE_DONE;
	wgf_handle_unlock(device);
	/* What was done before an error is told first: the next step meets it again. */
	return error && !report.n ? error : (int64_t)report.n;
}
