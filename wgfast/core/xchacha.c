/* XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03): HChaCha20 derives a key from the key and the first
 * 16 bytes of the nonce, and the chosen kernel does the rest with the last eight.
 *
 * HChaCha20 is one block, words at a time: only cookie replies come here, a few a second. */
#include "aead.h"

#include "bytes.h"

struct scratch {
	uint32_t x[16];
	uint8_t key[WGF_KEY_SIZE];
};

static inline uint32_t rotate(uint32_t x, int bits)
{
	return x << bits | x >> (32 - bits);
}

static inline void quarter_round(uint32_t *x, int a, int b, int c, int d)
{
	x[d] = rotate(x[d] ^ (x[a] += x[b]), 16);
	x[b] = rotate(x[b] ^ (x[c] += x[d]), 12);
	x[d] = rotate(x[d] ^ (x[a] += x[b]), 8);
	x[b] = rotate(x[b] ^ (x[c] += x[d]), 7);
}

/* Section 2.2: the rounds of ChaCha20 without the addition at the end; rows 0 and 3 are the key. */
static void hchacha20(struct scratch *s, const uint8_t nonce[16], const uint8_t key[WGF_KEY_SIZE])
{
	static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
	uint32_t *x = s->x;

	for (int i = 0; i < 4; i++) {
		x[i] = constants[i];
		x[4 + i] = wgf_load_le32(key + 4 * i);
		x[8 + i] = wgf_load_le32(key + 16 + 4 * i);
		x[12 + i] = wgf_load_le32(nonce + 4 * i);
	}
	for (int round = 0; round < 20; round += 2) {
		for (int i = 0; i < 4; i++)
			quarter_round(x, i, 4 + i, 8 + i, 12 + i);
		for (int i = 0; i < 4; i++)
			quarter_round(x, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
	}
	for (int i = 0; i < 4; i++) {
		wgf_store_le32(s->key + 4 * i, x[i]);
		wgf_store_le32(s->key + 16 + 4 * i, x[12 + i]);
	}
}

void wgf_aead_xseal(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
		    const uint8_t nonce[24], const uint8_t key[WGF_KEY_SIZE])
{
	struct scratch s;
	hchacha20(&s, nonce, key);
	struct wgf_aead_job job = {.key = s.key, .counter = wgf_load_le64(nonce + 16), .ad = ad,
				   .ad_len = ad_len, .src = src, .dst = dst, .len = len};
	wgf_aead_seal(&job, 1);
	wgf_wipe(&s, sizeof(s));
}

bool wgf_aead_xopen(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
		    const uint8_t nonce[24], const uint8_t key[WGF_KEY_SIZE])
{
	struct scratch s;
	hchacha20(&s, nonce, key);
	struct wgf_aead_job job = {.key = s.key, .counter = wgf_load_le64(nonce + 16), .ad = ad,
				   .ad_len = ad_len, .src = src, .dst = dst, .len = len};
	wgf_aead_open(&job, 1);
	wgf_wipe(&s, sizeof(s));
	return job.ok;
}
