/* BLAKE2s (RFC 7693): hash, keyed MAC, and HMAC and HKDF built on it as WireGuard uses them
 * (whitepaper section 5.4). */
#ifndef WGF_BLAKE2S_H
#define WGF_BLAKE2S_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

struct wgf_blake2s {
	uint32_t h[8];
	uint64_t counted;   /* bytes compressed so far */
	uint8_t block[64];
	size_t filled;      /* bytes waiting in block */
	size_t out_len;
};

void wgf_blake2s_init(struct wgf_blake2s *state, size_t out_len, const uint8_t *key, size_t key_len);
void wgf_blake2s_update(struct wgf_blake2s *state, const uint8_t *data, size_t len);
/* Takes in the key, or another first block, now: once for many messages that begin from copies of the state, each of which
 * shall be longer than 0. */
void wgf_blake2s_settle(struct wgf_blake2s *state);
void wgf_blake2s_final(struct wgf_blake2s *state, uint8_t *out); /* out_len bytes; wipes the state */

/* One call; key may be NULL when key_len is 0. out_len 1 to 32, key_len 0 to 32. */
void wgf_blake2s(uint8_t *out, size_t out_len, const uint8_t *key, size_t key_len,
		 const uint8_t *data, size_t len);

/* What n messages of len bytes (a multiple of 4, not 0) hash to, each begun from a copy of `start`, which is settled and
 * has taken in nothing but a key: in the first out_len bytes of a row. Side by side where the processor can. Not for
 * secrets: nothing is wiped. */
void wgf_blake2s_many(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
		      uint8_t (*digests)[WGF_HASH_SIZE]);

#define WGF_BLAKE2S_LANES 8u
#if defined(__x86_64__)
/* Of exactly WGF_BLAKE2S_LANES messages; blake2s_avx2.c. */
bool wgf_blake2s_has_avx2(void);
void wgf_blake2s_avx2(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t len,
		      uint8_t (*digests)[WGF_HASH_SIZE]);
#endif
/* selftest.c: do messages side by side hash to what they do alone? */
bool wgf_selftest_blake2s(void (*many)(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t len,
				       uint8_t (*digests)[WGF_HASH_SIZE]));

void wgf_hmac(uint8_t out[WGF_HASH_SIZE], const uint8_t *key, size_t key_len,
	      const uint8_t *data, size_t len);

/* KDF_n: the first n (1 to 3) outputs; those not wanted may be NULL. out1 may be key. */
void wgf_kdf(uint8_t *out1, uint8_t *out2, uint8_t *out3, const uint8_t key[WGF_HASH_SIZE],
	     const uint8_t *data, size_t len);

#endif
