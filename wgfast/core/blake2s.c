/* BLAKE2s in portable C, one block at a time with all rounds written out, so that the message words
 * are addressed by constants. HMAC and HKDF stand here too: WireGuard uses no other hash.
 *
 * Constant time: no branch and no address depends on data or key, only on their lengths. */
#include "blake2s.h"

#include "bytes.h"

#define BLOCK ((size_t)64)

static const uint32_t iv[8] = {
	0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
};

static const uint8_t sigma[10][16] = {
	{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
	{14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
	{11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
	{7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
	{9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
	{2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
	{12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
	{13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
	{6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
	{10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
};

#define INLINE static inline __attribute__((always_inline))

INLINE uint32_t rotate_right(uint32_t x, int bits)
{
	return x >> bits | x << (32 - bits);
}

INLINE void mix(uint32_t *v, int a, int b, int c, int d, uint32_t x, uint32_t y)
{
	v[a] += v[b] + x;
	v[d] = rotate_right(v[d] ^ v[a], 16);
	v[c] += v[d];
	v[b] = rotate_right(v[b] ^ v[c], 12);
	v[a] += v[b] + y;
	v[d] = rotate_right(v[d] ^ v[a], 8);
	v[c] += v[d];
	v[b] = rotate_right(v[b] ^ v[c], 7);
}

/* r is a constant at every call, so the schedule costs no loads. */
INLINE void one_round(uint32_t *v, const uint32_t *m, int r)
{
	const uint8_t *s = sigma[r];
	mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]]);
	mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]]);
	mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]]);
	mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]]);
	mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]]);
	mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]]);
	mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]]);
	mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]]);
}

/* Working words of one compression; wiped, because the data may be a key. */
struct scratch {
	uint32_t v[16];
	uint32_t m[16];
};

/* counted includes this block; last is all ones for the last block, else 0. */
static void compress(struct wgf_blake2s *state, const uint8_t *block, uint32_t last)
{
	struct scratch s;

	for (int i = 0; i < 16; i++)
		s.m[i] = wgf_load_le32(block + 4 * i);
	for (int i = 0; i < 8; i++) {
		s.v[i] = state->h[i];
		s.v[8 + i] = iv[i];
	}
	s.v[12] ^= (uint32_t)state->counted;
	s.v[13] ^= (uint32_t)(state->counted >> 32);
	s.v[14] ^= last;
	one_round(s.v, s.m, 0);
	one_round(s.v, s.m, 1);
	one_round(s.v, s.m, 2);
	one_round(s.v, s.m, 3);
	one_round(s.v, s.m, 4);
	one_round(s.v, s.m, 5);
	one_round(s.v, s.m, 6);
	one_round(s.v, s.m, 7);
	one_round(s.v, s.m, 8);
	one_round(s.v, s.m, 9);
	for (int i = 0; i < 8; i++)
		state->h[i] ^= s.v[i] ^ s.v[8 + i];
	wgf_wipe(&s, sizeof(s));
}

void wgf_blake2s_init(struct wgf_blake2s *state, size_t out_len, const uint8_t *key, size_t key_len)
{
	memset(state, 0, sizeof(*state));
	memcpy(state->h, iv, sizeof(iv));
	state->h[0] ^= 0x01010000 ^ (uint32_t)key_len << 8 ^ (uint32_t)out_len;
	state->out_len = out_len;
	if (key_len > 0) {
		memcpy(state->block, key, key_len);
		state->filled = BLOCK;
	}
}

void wgf_blake2s_settle(struct wgf_blake2s *state)
{
	if (state->filled < BLOCK)
		return;
	state->counted += BLOCK;
	compress(state, state->block, 0);
	state->filled = 0;
}

/* A full block waits until more comes, because the last one is compressed differently. */
void wgf_blake2s_update(struct wgf_blake2s *state, const uint8_t *data, size_t len)
{
	if (len == 0)
		return; /* data may be NULL */
	size_t room = BLOCK - state->filled;
	if (len > room) {
		memcpy(state->block + state->filled, data, room);
		state->counted += BLOCK;
		compress(state, state->block, 0);
		state->filled = 0;
		data += room;
		len -= room;
		for (; len > BLOCK; data += BLOCK, len -= BLOCK) {
			state->counted += BLOCK;
			compress(state, data, 0);
		}
	}
	memcpy(state->block + state->filled, data, len);
	state->filled += len;
}

void wgf_blake2s_final(struct wgf_blake2s *state, uint8_t *out)
{
	uint8_t *digest = state->block;
	size_t out_len = state->out_len;

	state->counted += state->filled;
	memset(state->block + state->filled, 0, BLOCK - state->filled);
	compress(state, state->block, UINT32_MAX);
	for (int i = 0; i < 8; i++)
		wgf_store_le32(digest + 4 * i, state->h[i]);
	memcpy(out, digest, out_len);
	wgf_wipe(state, sizeof(*state));
}

void wgf_blake2s(uint8_t *out, size_t out_len, const uint8_t *key, size_t key_len,
		 const uint8_t *data, size_t len)
{
	struct wgf_blake2s state;
	wgf_blake2s_init(&state, out_len, key, key_len);
	wgf_blake2s_update(&state, data, len);
	wgf_blake2s_final(&state, out);
}

/* RFC 2104: H(key ^ opad || H(key ^ ipad || first || second)). out may be any of the inputs. */
static void hmac(uint8_t out[WGF_HASH_SIZE], const uint8_t *key, size_t key_len,
		 const uint8_t *first, size_t first_len, const uint8_t *second, size_t second_len)
{
	struct wgf_blake2s state;
	struct {
		uint8_t key[64];
		uint8_t inner[WGF_HASH_SIZE];
	} s = {0};

	if (key_len > BLOCK)
		wgf_blake2s(s.key, WGF_HASH_SIZE, NULL, 0, key, key_len);
	else if (key_len > 0)
		memcpy(s.key, key, key_len);
	for (size_t i = 0; i < BLOCK; i++)
		s.key[i] ^= 0x36;
	wgf_blake2s_init(&state, WGF_HASH_SIZE, NULL, 0);
	wgf_blake2s_update(&state, s.key, BLOCK);
	wgf_blake2s_update(&state, first, first_len);
	wgf_blake2s_update(&state, second, second_len);
	wgf_blake2s_final(&state, s.inner);
	for (size_t i = 0; i < BLOCK; i++)
		s.key[i] ^= 0x36 ^ 0x5c;
	wgf_blake2s_init(&state, WGF_HASH_SIZE, NULL, 0);
	wgf_blake2s_update(&state, s.key, BLOCK);
	wgf_blake2s_update(&state, s.inner, WGF_HASH_SIZE);
	wgf_blake2s_final(&state, out);
	wgf_wipe(&s, sizeof(s));
}

void wgf_hmac(uint8_t out[WGF_HASH_SIZE], const uint8_t *key, size_t key_len,
	      const uint8_t *data, size_t len)
{
	hmac(out, key, key_len, data, len, NULL, 0);
}

/* RFC 5869 with no info: t0 = HMAC(key, data), then t_i = HMAC(t0, t_(i-1) || i). */
void wgf_kdf(uint8_t *out1, uint8_t *out2, uint8_t *out3, const uint8_t key[WGF_HASH_SIZE],
	     const uint8_t *data, size_t len)
{
	uint8_t *const outs[3] = {out1, out2, out3};
	struct {
		uint8_t secret[WGF_HASH_SIZE];
		uint8_t previous[WGF_HASH_SIZE];
	} s;
	size_t wanted = out3 != NULL ? 3 : out2 != NULL ? 2 : 1;

	wgf_hmac(s.secret, key, WGF_HASH_SIZE, data, len);
	for (size_t i = 0; i < wanted; i++) {
		const uint8_t index = (uint8_t)(i + 1);
		hmac(s.previous, s.secret, WGF_HASH_SIZE, s.previous, i > 0 ? WGF_HASH_SIZE : 0, &index,
		     1);
		if (outs[i] != NULL)
			memcpy(outs[i], s.previous, WGF_HASH_SIZE);
	}
	wgf_wipe(&s, sizeof(s));
}
