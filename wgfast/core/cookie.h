/* mac1, mac2 and the cookie reply (whitepaper section 5.4.4 and 5.4.7): who may cost us a
 * Diffie-Hellman. All of it is decided here, so that a flood never reaches Python. */
#ifndef WGF_COOKIE_H
#define WGF_COOKIE_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "blake2s.h"
#include "endpoint.h"
#include "limits.h"
#include "messages.h"

/* Keys that follow from a public key: HASH("mac1----" || key), HASH("cookie--" || key). */
struct wgf_cookie_keys {
	uint8_t mac1[WGF_KEY_SIZE];
	uint8_t cookie[WGF_KEY_SIZE];
};

/* A device's side as responder. */
struct wgf_cookie_checker {
	pthread_mutex_t lock;             /* the secret; held for a copy */
	uint8_t secret[WGF_HASH_SIZE];
	uint64_t secret_birth;            /* 0: no secret yet */
};

/* A peer's row as initiator: what it takes to send mac2. Control plane and cookie replies only. */
struct wgf_cookie_jar {
	pthread_mutex_t lock;
	struct wgf_cookie_keys keys;      /* of the peer's public key; never change */
	uint8_t cookie[WGF_COOKIE_SIZE];
	uint64_t cookie_birth;            /* 0: none */
	uint8_t last_mac1[WGF_MAC_SIZE];  /* of our last message */
	bool sent_mac1;                   /* and it may still be answered with a cookie */
};

void wgf_cookie_keys(struct wgf_cookie_keys *keys, const uint8_t public_key[WGF_KEY_SIZE]);
int wgf_cookie_checker_init(struct wgf_cookie_checker *checker);
void wgf_cookie_checker_wipe(struct wgf_cookie_checker *checker);
int wgf_cookie_jar_init(struct wgf_cookie_jar *jar, const uint8_t public_key[WGF_KEY_SIZE]);
void wgf_cookie_jar_wipe(struct wgf_cookie_jar *jar);

/* The new secret of which cookies are made; Python decides when (every COOKIE-REFRESH-TIME). */
void wgf_cookie_rotate(struct wgf_cookie_checker *checker, const uint8_t secret[WGF_HASH_SIZE],
		       uint64_t now);

/* The macs of a handshake message of ours (initiation or response), as its last 32 bytes. */
void wgf_cookie_add_macs(struct wgf_cookie_jar *jar, uint8_t *message, size_t len, uint64_t now);

/* What every mac1 begins with, hashed once. */
void wgf_cookie_mac1_start(struct wgf_blake2s *start, const struct wgf_cookie_keys *keys);
/* Of n messages of len bytes (a handshake message's), side by side. */
void wgf_cookie_mac1_valid(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
			   bool *valid);
/* mac2 over the cookie that belongs to this source address and port. False while there is no secret,
 * or one older than COOKIE-REFRESH-TIME. */
bool wgf_cookie_mac2_valid(struct wgf_cookie_checker *checker, const struct wgf_endpoint *from,
			   const uint8_t *message, size_t len, uint64_t now);
/* Makes the reply to a handshake message. False while there is no secret or no randomness. */
bool wgf_cookie_reply(struct wgf_cookie_checker *checker, const struct wgf_cookie_keys *keys,
		      const struct wgf_endpoint *from, const uint8_t *message, size_t len, uint64_t now,
		      struct wgf_message_cookie *reply);
/* Takes in a reply to our last message. False: it does not verify, or none was awaited. */
bool wgf_cookie_consume(struct wgf_cookie_jar *jar, const struct wgf_message_cookie *reply, uint64_t now);

#endif
