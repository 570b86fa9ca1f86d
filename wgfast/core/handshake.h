/* The symmetric state of one Noise_IKpsk2 handshake (whitepaper section 5.4) in memory that can be
 * wiped. noise.py decides the order of the operations; nothing secret passes through Python. */
#ifndef WGF_HANDSHAKE_H
#define WGF_HANDSHAKE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

struct wgf_handshake {
	uint8_t hash[WGF_HASH_SIZE];
	uint8_t chain[WGF_HASH_SIZE];
	uint8_t key[WGF_KEY_SIZE];          /* of the next seal or open */
	uint8_t ephemeral[WGF_KEY_SIZE];    /* our ephemeral private key */
	uint8_t shared[WGF_KEY_SIZE];       /* X25519 writes its result here */
	uint8_t remote_ephemeral[WGF_KEY_SIZE];
	uint8_t remote_static[WGF_KEY_SIZE];
	uint8_t private_key[WGF_KEY_SIZE];  /* the device's, while a point is multiplied by it */
};

/* libsodium's functions, of which the binding is given the addresses. */
struct wgf_x25519 {
	int (*multiply)(uint8_t *out, const uint8_t *scalar, const uint8_t *point); /* crypto_scalarmult */
	int (*base)(uint8_t *out, const uint8_t *scalar);                           /* crypto_scalarmult_base */
};

/* A new ephemeral key pair; false: there is no randomness, or the library failed. */
bool wgf_handshake_generate(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
			    uint8_t public_key[WGF_KEY_SIZE]);
/* shared := X25519(ephemeral, point), and the same of the device's private key (wgf_device_dh) in its place. false,
 * and nothing in shared: the point has low order, and whoever sent it wants a secret that everybody knows (RFC 7748,
 * section 6.1). */
bool wgf_handshake_dh(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
		      const uint8_t point[WGF_KEY_SIZE]);
bool wgf_handshake_dh_private(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
			      const uint8_t point[WGF_KEY_SIZE]);

/* C := HASH(construction); H := HASH(HASH(C || identifier) || responder_static) */
void wgf_handshake_begin(struct wgf_handshake *hs, const uint8_t responder_static[WGF_KEY_SIZE]);
void wgf_handshake_mix_hash(struct wgf_handshake *hs, const uint8_t *data, size_t len);
/* "e": C := KDF1(C, public), H := HASH(H || public) */
void wgf_handshake_mix_ephemeral(struct wgf_handshake *hs, const uint8_t public_key[WGF_KEY_SIZE]);
/* (C, key) := KDF2(C, shared); shared is wiped */
void wgf_handshake_mix_shared(struct wgf_handshake *hs);
/* the same from a secret that stays where it is (the static-static one) */
void wgf_handshake_mix_secret(struct wgf_handshake *hs, const uint8_t secret[WGF_KEY_SIZE]);
/* C := KDF1(C, shared) alone, where the paper derives no key ("ee", "se" of the response); wiped */
void wgf_handshake_mix_chain(struct wgf_handshake *hs);
/* (C, tau, key) := KDF3(C, psk); H := HASH(H || tau) */
void wgf_handshake_mix_psk(struct wgf_handshake *hs, const uint8_t psk[WGF_KEY_SIZE]);
/* AEAD with key, counter 0 and H as additional data, then H := HASH(H || ciphertext). dst and len as
 * in struct wgf_aead_job: len does not count the tag. Open leaves H as it was when it fails. */
void wgf_handshake_seal(struct wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len);
bool wgf_handshake_open(struct wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len);
/* (first, second) := KDF2(C, empty): the initiator sends with first and receives with second */
void wgf_handshake_split(struct wgf_handshake *hs, uint8_t first[WGF_KEY_SIZE],
			 uint8_t second[WGF_KEY_SIZE]);
void wgf_handshake_wipe(struct wgf_handshake *hs);

#endif
