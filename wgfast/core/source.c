#include "source.h"

#include <errno.h>
#include <stddef.h>
#include <sys/random.h>

int wgf_source_key(uint64_t key[2])
{
	ssize_t got;
	do
		got = getrandom(key, 2 * sizeof(*key), 0);
	while (got < 0 && errno == EINTR);
	return got < 0 ? -errno : 0;
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

/* SipHash-2-4 of the nine bytes address || family: one whole word and the closing one, whose top byte
 * is the length. */
uint64_t wgf_source_hash(const uint64_t key[2], struct wgf_source source)
{
	const uint64_t words[2] = {source.address, UINT64_C(9) << 56 | source.family};
	uint64_t v[4] = {
		key[0] ^ UINT64_C(0x736f6d6570736575), key[1] ^ UINT64_C(0x646f72616e646f6d),
		key[0] ^ UINT64_C(0x6c7967656e657261), key[1] ^ UINT64_C(0x7465646279746573),
	};
	for (size_t i = 0; i < 2; i++) {
		v[3] ^= words[i];
		sip_round(v);
		sip_round(v);
		v[0] ^= words[i];
	}
	v[2] ^= 0xff;
	for (size_t i = 0; i < 4; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}
