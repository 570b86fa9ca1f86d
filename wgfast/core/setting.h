/* A change of a device's configuration: what a UAPI `set` or Device.update asks for, read and checked
 * whole, as compact records that setting_apply.c then applies peer by peer. A hundred thousand peers are some
 * ten megabytes of them. They hold keys, so they live in secret memory. Not to be changed while others use it. */
#ifndef WGF_SETTING_H
#define WGF_SETTING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limiter.h"
#include "limits.h"

struct wgf_device;
struct wgf_endpoint;

enum wgf_setting_said { /* bits: what a peer's record mentions */
	WGF_SAID_REMOVE = 1,
	WGF_SAID_UPDATE_ONLY = 2,
	WGF_SAID_PSK = 4,
	WGF_SAID_ENDPOINT = 8,
	WGF_SAID_KEEPALIVE = 16,
	WGF_SAID_REPLACE = 32,  /* its allowed IPs that are not among these go */
	WGF_SAID_HOST = 64,     /* its endpoint's name, which is Python's */
	WGF_SAID_LIMITS = 128,  /* some of them; the others stay */
};

enum wgf_setting_device { /* bits: what is said of the device itself */
	WGF_SAID_PRIVATE_KEY = 1,
	WGF_SAID_LISTEN_PORT = 2,
	WGF_SAID_FWMARK = 4,
	WGF_SAID_REPLACE_PEERS = 8,
};

struct wgf_setting_prefix { /* only bytes: no padding */
	uint8_t address[16]; /* network order; IPv4 in the first four; host bits are zero */
	uint8_t family, length;
	uint8_t away;        /* 1: to be taken from the peer, 0: to be given to it */
};

struct wgf_setting_peer {
	uint8_t public_key[WGF_KEY_SIZE];
	uint8_t psk[WGF_KEY_SIZE];
	uint8_t address[16]; /* of the endpoint, as in struct wgf_endpoint */
	uint32_t scope;
	uint32_t first, count; /* of its prefixes */
	uint32_t limits;       /* which of the setting's they are, where any are said */
	uint16_t port;
	uint16_t keepalive;  /* seconds */
	uint8_t family;      /* of the endpoint, 0: none */
	uint8_t said;        /* bits of enum wgf_setting_said */
};

/* Where in the text the name of an endpoint stands. Names are Python's to check. */
struct wgf_setting_host {
	uint32_t peer;
	uint32_t offset, length;
};

struct wgf_setting {
	uint8_t private_key[WGF_KEY_SIZE];
	uint32_t fwmark;
	uint16_t listen_port;
	uint8_t said; /* bits of enum wgf_setting_device */
	struct wgf_setting_peer *peers;
	struct wgf_setting_prefix *prefixes;
	struct wgf_limits *limits; /* of the peers that are said to have some */
	struct wgf_setting_host *hosts; /* of every line, in their order; of a peer the last counts, if any does */
	size_t peers_n, prefixes_n, limits_n, hosts_n;
	size_t peers_room, prefixes_room, limits_room, hosts_room;
};

/* The line a text was refused for. */
struct wgf_setting_fault {
	size_t offset, length; /* without its end */
	uint32_t line;         /* counted from 2: `set=1` is the first */
	bool of_peer;          /* it comes after a public_key */
};

struct wgf_setting *wgf_setting_create(void); /* nothing is said. NULL: out of memory */
void wgf_setting_destroy(struct wgf_setting *setting); /* wipes; NULL is allowed */

/* Building one by hand. NULL, -ENOMEM, or -EMSGSIZE: more than there can be. */
struct wgf_setting_peer *wgf_setting_add_peer(struct wgf_setting *setting, const uint8_t public_key[WGF_KEY_SIZE]);
/* For the peer that was added last. Host bits are masked. The address has 4 or 16 bytes, the length fits it. */
int wgf_setting_add_prefix(struct wgf_setting *setting, uint8_t family, const uint8_t *address, unsigned length,
			   bool away);
/* For the peer added last; of one limit the last word counts. -EINVAL: there is no such limit, or it is less. */
int wgf_setting_add_limit(struct wgf_setting *setting, uint32_t limit, uint64_t value);
/* For the peer added last: its prefixes are forgotten; the name of its endpoint stands there. */
void wgf_setting_drop_prefixes(struct wgf_setting *setting);
int wgf_setting_add_host(struct wgf_setting *setting, size_t offset, size_t length);
/* The peer added last is complete: of what was said of one prefix the last word stays. */
int wgf_setting_end_peer(struct wgf_setting *setting);

/* Reads the lines between `set=1` and the empty one into an empty setting. 0, -ENOMEM, -E2BIG (4 GiB), or
 * -EINVAL and what is wrong in *fault: then the hosts found before are still to be looked at. A byte that is
 * not ASCII is a fault of line 0 at its offset, whatever else there is. */
int wgf_setting_parse(struct wgf_setting *setting, const char *text, size_t size, struct wgf_setting_fault *fault);

/* In order of family, address, length. */
int wgf_setting_compare_prefixes(const struct wgf_setting_prefix *a, const struct wgf_setting_prefix *b);

/* ---- Whether it can be applied: setting_check.c ---- */

/* How many peers the device would have meanwhile: 0, or -ENOSPC if that is more than WGF_PEERS_MAX. -EMLINK: the allowed IPs
 * may not hold its prefixes beside those that are there (wgf_allowedips_admit). */
int wgf_setting_check(struct wgf_device *device, const struct wgf_setting *setting, uint64_t *peers);

/* ---- Applying it: setting_apply.c ---- */

enum wgf_setting_what { /* bits */
	WGF_NEWS_REMOVED = 1,  /* the peer of this handle is gone */
	WGF_NEWS_PSK = 2,      /* its preshared key is another one: its running handshake has ended */
	WGF_NEWS_ENDPOINT = 4, /* its endpoint was set, or reset */
	WGF_NEWS_RESET = 8,    /* it was to be replaced: what is not mentioned is as in a new peer */
	WGF_NEWS_HOST = 16,    /* its name was mentioned; unless WGF_NEWS_ENDPOINT came with it, a reset left
	                          its endpoint for Python to decide about */
};

struct wgf_setting_news {
	uint64_t handle;
	uint32_t peer; /* record, where there is one */
	uint32_t what;
};

struct wgf_setting_plan;

/* Sets out to apply it: all peers are doomed if they are to be replaced. The device and the setting outlive the plan.
 * NULL: out of memory. */
struct wgf_setting_plan *wgf_setting_begin(struct wgf_device *device, const struct wgf_setting *setting);
void wgf_setting_end(struct wgf_setting_plan *plan); /* NULL is allowed */
/* Applies some more of it, as much as takes a few milliseconds with the device locked: some thousand peers, or
 * prefixes of one; longer only where one peer has a hundred thousand prefixes that are all to be replaced, which are put in order
 * (a fifth of a second for 600,000), or where a table that has lost most of them is built anew. Each route move is
 * one step for packets, and what is taken away goes last of all. Returns how many of up to `max` (at least 2) news
 * there are for Python, of the kinds in `wanted`; *done when all is applied; or -errno: the device is as far as it came.
 * Any thread, one at a time. */
int64_t wgf_setting_step(struct wgf_setting_plan *plan, uint64_t now, uint32_t wanted,
			 struct wgf_setting_news *news, size_t max, bool *done);

#endif
