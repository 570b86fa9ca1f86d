/* X25519 into a handshake's state, then the operations of Noise_IKpsk2 on it, in the order in which a handshake meets them.
 * Each is a line or two of the whitepaper (section 5.4); which follows which is noise.py's business.
 *
 * Intermediate secrets are either fields of the state, which its owner wipes, or wiped here. */
#include "handshake.h"

#include "aead.h"
#include "blake2s.h"
#include "bytes.h"
#include "random.h"

/* HASH("Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"), and HASH of that and "WireGuard v1 zx2c4 Jason@zx2c4.com". */
static const uint8_t initial_chain[WGF_HASH_SIZE] = {
	0x60, 0xe2, 0x6d, 0xae, 0xf3, 0x27, 0xef, 0xc0, 0x2e, 0xc3, 0x35, 0xe2, 0xa0, 0x25, 0xd2, 0xd0,
	0x16, 0xeb, 0x42, 0x06, 0xf8, 0x72, 0x77, 0xf5, 0x2d, 0x38, 0xd1, 0x98, 0x8b, 0x78, 0xcd, 0x36,
};
static const uint8_t initial_hash[WGF_HASH_SIZE] = {
	0x22, 0x11, 0xb3, 0x61, 0x08, 0x1a, 0xc5, 0x66, 0x69, 0x12, 0x43, 0xdb, 0x45, 0x8a, 0xd5, 0x32,
	0x2d, 0x9c, 0x6c, 0x66, 0x22, 0x93, 0xe8, 0xb7, 0x0e, 0xe1, 0x9c, 0x65, 0xba, 0x07, 0x9e, 0xf3,
};

bool wgf_handshake_generate(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
			    uint8_t public_key[WGF_KEY_SIZE])
{
	/* By way of secret memory: libsodium keeps the scalar where its result goes until it has that. */
	bool made = wgf_random(hs->ephemeral, sizeof(hs->ephemeral)) && x25519->base(hs->shared, hs->ephemeral) == 0;
	if (made)
		memcpy(public_key, hs->shared, WGF_KEY_SIZE);
	wgf_wipe(hs->shared, sizeof(hs->shared));
	return made;
}

/* Whatever the library did with the result of a point of low order, it is not kept. */
static bool multiply(struct wgf_handshake *hs, const struct wgf_x25519 *x25519, const uint8_t *scalar,
		     const uint8_t *point)
{
	static const uint8_t zeros[WGF_KEY_SIZE];
	bool sound = x25519->multiply(hs->shared, scalar, point) == 0 &&
		     !wgf_equal(hs->shared, zeros, sizeof(zeros));
	if (!sound)
		wgf_wipe(hs->shared, sizeof(hs->shared));
	return sound;
}

bool wgf_handshake_dh(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
		      const uint8_t point[WGF_KEY_SIZE])
{
	return multiply(hs, x25519, hs->ephemeral, point);
}

bool wgf_handshake_dh_private(struct wgf_handshake *hs, const struct wgf_x25519 *x25519,
			      const uint8_t point[WGF_KEY_SIZE])
{
	bool sound = multiply(hs, x25519, hs->private_key, point);
	wgf_wipe(hs->private_key, sizeof(hs->private_key));
	return sound;
}

void wgf_handshake_begin(struct wgf_handshake *hs, const uint8_t responder_static[WGF_KEY_SIZE])
{
	memcpy(hs->chain, initial_chain, WGF_HASH_SIZE);
	memcpy(hs->hash, initial_hash, WGF_HASH_SIZE);
	wgf_handshake_mix_hash(hs, responder_static, WGF_KEY_SIZE);
}

static void hash_with(uint8_t out[WGF_HASH_SIZE], const struct wgf_handshake *hs, const uint8_t *data,
		      size_t len)
{
	struct wgf_blake2s state;
	wgf_blake2s_init(&state, WGF_HASH_SIZE, NULL, 0);
	wgf_blake2s_update(&state, hs->hash, WGF_HASH_SIZE);
	wgf_blake2s_update(&state, data, len);
	wgf_blake2s_final(&state, out);
}

void wgf_handshake_mix_hash(struct wgf_handshake *hs, const uint8_t *data, size_t len)
{
	hash_with(hs->hash, hs, data, len);
}

void wgf_handshake_mix_ephemeral(struct wgf_handshake *hs, const uint8_t public_key[WGF_KEY_SIZE])
{
	wgf_kdf(hs->chain, NULL, NULL, hs->chain, public_key, WGF_KEY_SIZE);
	wgf_handshake_mix_hash(hs, public_key, WGF_KEY_SIZE);
}

void wgf_handshake_mix_shared(struct wgf_handshake *hs)
{
	wgf_handshake_mix_secret(hs, hs->shared);
	wgf_wipe(hs->shared, sizeof(hs->shared));
}

void wgf_handshake_mix_secret(struct wgf_handshake *hs, const uint8_t secret[WGF_KEY_SIZE])
{
	wgf_kdf(hs->chain, hs->key, NULL, hs->chain, secret, WGF_KEY_SIZE);
}

void wgf_handshake_mix_chain(struct wgf_handshake *hs)
{
	wgf_kdf(hs->chain, NULL, NULL, hs->chain, hs->shared, WGF_KEY_SIZE);
	wgf_wipe(hs->shared, sizeof(hs->shared));
}

void wgf_handshake_mix_psk(struct wgf_handshake *hs, const uint8_t psk[WGF_KEY_SIZE])
{
	uint8_t tau[WGF_HASH_SIZE];
	wgf_kdf(hs->chain, tau, hs->key, hs->chain, psk, WGF_KEY_SIZE);
	wgf_handshake_mix_hash(hs, tau, sizeof(tau));
	wgf_wipe(tau, sizeof(tau));
}

void wgf_handshake_seal(struct wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len)
{
	struct wgf_aead_job job = {.key = hs->key, .ad = hs->hash, .ad_len = WGF_HASH_SIZE, .src = src,
				   .dst = dst, .len = len};
	wgf_aead_seal(&job, 1);
	wgf_handshake_mix_hash(hs, dst, len + WGF_TAG_SIZE);
}

/* The ciphertext is hashed before it is opened, because opening in place overwrites it; a message
 * that is refused leaves the hash as it was. */
bool wgf_handshake_open(struct wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len)
{
	uint8_t next[WGF_HASH_SIZE];
	struct wgf_aead_job job = {.key = hs->key, .ad = hs->hash, .ad_len = WGF_HASH_SIZE, .src = src,
				   .dst = dst, .len = len};

	hash_with(next, hs, src, len + WGF_TAG_SIZE);
	wgf_aead_open(&job, 1);
	if (job.ok)
		memcpy(hs->hash, next, WGF_HASH_SIZE);
	wgf_wipe(next, sizeof(next));
	return job.ok;
}

void wgf_handshake_split(struct wgf_handshake *hs, uint8_t first[WGF_KEY_SIZE],
			 uint8_t second[WGF_KEY_SIZE])
{
	wgf_kdf(first, second, NULL, hs->chain, NULL, 0);
}

void wgf_handshake_wipe(struct wgf_handshake *hs)
{
	wgf_wipe(hs, sizeof(*hs));
}
