/* SipHash-2-4 of the bytes 0, 1, 2 and so on, under the key of the paper's example. All others than that of 15 bytes
 * (the paper's appendix A) are as `openssl mac ... SipHash` gives them. */
#include "check.h"
#include "siphash.h"

static const struct {
	size_t len;
	uint64_t hash;
} vectors[] = {
	{0, 0x726fdb47dd0e0e31}, {7, 0xab0200f58b01d137},  {8, 0x93f5f5799a932462},
	{9, 0x9e0082df0ba9e4b0}, {15, 0xa129ca6149be45e5}, {32, 0x7127512f72f27cce},
};

int main(void)
{
	const uint64_t key[2] = {0x0706050403020100, 0x0f0e0d0c0b0a0908};
	uint64_t one[2] = {0, 0}, other[2] = {0, 0};
	uint8_t data[32];
	for (uint8_t i = 0; i < sizeof(data); i++)
		data[i] = i;
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++)
		CHECK(wgf_siphash(key, data, vectors[i].len) == vectors[i].hash);
	CHECK(wgf_siphash_key(one) == 0 && wgf_siphash_key(other) == 0);
	CHECK(one[0] != other[0] && one[1] != other[1]);
	return 0;
}
