/* BLAKE2s in portable C, one block at a time. HMAC and HKDF stand here too: WireGuard uses no other hash.
 *
 * Constant time: no branch and no address depends on data or key, only on their lengths. */
#include "blake2s.h"

#include <stdatomic.h>

#include "bytes.h"

#define BLOCK ((size_t)64)

#define INLINE static inline __attribute__((always_inline))
typedef uint32_t word;

INLINE uint32_t rotate_right(uint32_t x, int bits)
{
	return x >> bits | x << (32 - bits);
}

#include "blake2s_rounds.h"

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
	ten_rounds(s.v, s.m);
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

/* ---- Many at once ---- */

/* As many of them as take at least as long one by one as all lanes side by side. */
#define WORTH_A_VECTOR 2u

static bool has_vectors(void)
{
#if defined(__x86_64__)
	static _Atomic unsigned known; /* 0: not asked yet; 1: no; 2: yes. Any thread; who asks twice finds the same. */
	unsigned has = atomic_load_explicit(&known, memory_order_relaxed);
	if (!has) {
		has = wgf_blake2s_has_avx2() && wgf_selftest_blake2s(wgf_blake2s_avx2) ? 2 : 1;
		atomic_store_explicit(&known, has, memory_order_relaxed);
	}
	return has == 2;
#else
	return false;
#endif
}

static void one_by_one(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
		       uint8_t (*digests)[WGF_HASH_SIZE])
{
	for (size_t i = 0; i < n; i++) {
		struct wgf_blake2s state = *start;
		wgf_blake2s_update(&state, messages[i], len);
		wgf_blake2s_final(&state, digests[i]);
	}
}

#if defined(__x86_64__)
/* Up to as many as there are lanes; those without a message do the first one's again. */
static void side_by_side(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
			 uint8_t (*digests)[WGF_HASH_SIZE])
{
	const uint8_t *lanes[WGF_BLAKE2S_LANES];
	uint8_t all[WGF_BLAKE2S_LANES][WGF_HASH_SIZE];
	for (size_t i = 0; i < WGF_BLAKE2S_LANES; i++)
		lanes[i] = messages[i < n ? i : 0];
	wgf_blake2s_avx2(start, lanes, len, all);
	memcpy(digests, all, n * WGF_HASH_SIZE);
}
#else
#define side_by_side one_by_one
#endif

void wgf_blake2s_many(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
		      uint8_t (*digests)[WGF_HASH_SIZE])
{
	bool vectors = has_vectors();
	for (size_t i = 0; i < n; i += WGF_BLAKE2S_LANES) {
		size_t some = n - i < WGF_BLAKE2S_LANES ? n - i : WGF_BLAKE2S_LANES;
		if (vectors && some >= WORTH_A_VECTOR)
			side_by_side(start, messages + i, some, len, digests + i);
		else
			one_by_one(start, messages + i, some, len, digests + i);
	}
}

/* ---- HMAC and HKDF ---- */

/* RFC 2104: H(key ^ opad || H(key ^ ipad || message)): what begins with the key is kept for all messages under it. */
struct keyed {
	struct wgf_blake2s inner, outer;
};

static void hmac_key(struct keyed *keyed, const uint8_t *key, size_t key_len)
{
	uint8_t block[BLOCK] = {0};
	if (key_len > BLOCK)
		wgf_blake2s(block, WGF_HASH_SIZE, NULL, 0, key, key_len);
	else if (key_len > 0)
		memcpy(block, key, key_len);
	for (size_t i = 0; i < BLOCK; i++)
		block[i] ^= 0x36;
	wgf_blake2s_init(&keyed->inner, WGF_HASH_SIZE, NULL, 0);
	wgf_blake2s_update(&keyed->inner, block, BLOCK);
	for (size_t i = 0; i < BLOCK; i++)
		block[i] ^= 0x36 ^ 0x5c;
	wgf_blake2s_init(&keyed->outer, WGF_HASH_SIZE, NULL, 0);
	wgf_blake2s_update(&keyed->outer, block, BLOCK);
	wgf_wipe(block, sizeof(block));
}

/* For messages that are not empty: else the key is the last block of the inner hash. */
static void settle(struct keyed *keyed)
{
	wgf_blake2s_settle(&keyed->inner);
	wgf_blake2s_settle(&keyed->outer);
}

/* Of both parts together; out may be either. */
static void hmac(uint8_t out[WGF_HASH_SIZE], const struct keyed *keyed, const uint8_t *first, size_t first_len,
		 const uint8_t *second, size_t second_len)
{
	struct wgf_blake2s state = keyed->inner;
	uint8_t inner[WGF_HASH_SIZE];
	wgf_blake2s_update(&state, first, first_len);
	wgf_blake2s_update(&state, second, second_len);
	wgf_blake2s_final(&state, inner);
	state = keyed->outer;
	wgf_blake2s_update(&state, inner, WGF_HASH_SIZE);
	wgf_blake2s_final(&state, out);
	wgf_wipe(inner, sizeof(inner));
}

void wgf_hmac(uint8_t out[WGF_HASH_SIZE], const uint8_t *key, size_t key_len,
	      const uint8_t *data, size_t len)
{
	struct keyed keyed;
	hmac_key(&keyed, key, key_len);
	hmac(out, &keyed, NULL, 0, data, len);
	wgf_wipe(&keyed, sizeof(keyed));
}

/* RFC 5869 with no info: t0 = HMAC(key, data), then t_i = HMAC(t0, t_(i-1) || i). */
void wgf_kdf(uint8_t *out1, uint8_t *out2, uint8_t *out3, const uint8_t key[WGF_HASH_SIZE],
	     const uint8_t *data, size_t len)
{
	uint8_t *const outs[3] = {out1, out2, out3};
	struct {
		struct keyed keyed;
		uint8_t secret[WGF_HASH_SIZE]; /* t0, then each t */
	} s;
	size_t wanted = out3 != NULL ? 3 : out2 != NULL ? 2 : 1;

	wgf_hmac(s.secret, key, WGF_HASH_SIZE, data, len);
	hmac_key(&s.keyed, s.secret, WGF_HASH_SIZE);
	settle(&s.keyed);
	for (size_t i = 0; i < wanted; i++) {
		const uint8_t index = (uint8_t)(i + 1);
		hmac(s.secret, &s.keyed, s.secret, i > 0 ? WGF_HASH_SIZE : 0, &index, 1);
		if (outs[i] != NULL)
			memcpy(outs[i], s.secret, WGF_HASH_SIZE);
	}
	wgf_wipe(&s, sizeof(s));
}
