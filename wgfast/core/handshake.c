/* The operations of Noise_IKpsk2 on a symmetric state, in the order in which a handshake meets them.
 * Each is a line or two of the whitepaper (section 5.4); which follows which is noise.py's business.
 *
 * Intermediate secrets are either fields of the state, which its owner wipes, or wiped here. */
#include "handshake.h"

#include "aead.h"
#include "blake2s.h"
#include "bytes.h"

static const uint8_t construction[] = "Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s";
static const uint8_t identifier[] = "WireGuard v1 zx2c4 Jason@zx2c4.com";

/* The strings are hashed without the zero that ends them in C. */
void wgf_handshake_begin(struct wgf_handshake *hs, const uint8_t responder_static[WGF_KEY_SIZE])
{
	wgf_blake2s(hs->chain, WGF_HASH_SIZE, NULL, 0, construction, sizeof(construction) - 1);
	memcpy(hs->hash, hs->chain, WGF_HASH_SIZE);
	wgf_handshake_mix_hash(hs, identifier, sizeof(identifier) - 1);
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
