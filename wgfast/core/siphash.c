#include "siphash.h"

#include <errno.h>

#include "bytes.h"
#include "random.h"

int wgf_siphash_key(uint64_t key[2])
{
	return wgf_random(key, 2 * sizeof(*key)) ? 0 : -EIO;
}

static uint64_t rotate(uint64_t v, unsigned bits)
{
	return v << bits | v >> (64 - bits);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[2] += v[3];
	v[1] = rotate(v[1], 13) ^ v[0];
	v[3] = rotate(v[3], 16) ^ v[2];
	v[0] = rotate(v[0], 32);
	v[2] += v[1];
	v[0] += v[3];
	v[1] = rotate(v[1], 17) ^ v[2];
	v[3] = rotate(v[3], 21) ^ v[0];
	v[2] = rotate(v[2], 32);
}

static void take_word(uint64_t v[4], uint64_t word)
{
	v[3] ^= word;
	sip_round(v);
	sip_round(v);
	v[0] ^= word;
}

uint64_t wgf_siphash(const uint64_t key[2], const uint8_t *data, size_t len)
{
	uint64_t v[4] = {
		key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
		key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
	};
	uint64_t last = (uint64_t)len << 56; /* what is no whole word, and the length */
	size_t at = 0;
	for (; at + 8 <= len; at += 8)
		take_word(v, wgf_load_le64(data + at));
	for (unsigned bits = 0; at < len; at++, bits += 8)
		last |= (uint64_t)data[at] << bits;
	take_word(v, last);
	v[2] ^= 0xff;
	for (size_t i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
