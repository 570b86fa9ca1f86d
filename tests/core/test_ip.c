/* Inner packets: any bytes of any length, in memory that ends where they end; ECN against RFC 6040's
 * table written out; checksums against a sum taken another way. */
#include <string.h>

#include "../../wgfast/core/ip.h"
#include "check.h"

enum { N = 0, E1 = 1, E0 = 2, CE = 3 };

/* [inner][outer], RFC 6040 figure 4 in the order of the code points; where it says drop, the mark is
 * left alone. */
static const uint8_t decapsulated[4][4] = {
	[N] = {N, N, N, N},
	[E1] = {E1, E1, E1, CE},
	[E0] = {E0, E1, E0, CE},
	[CE] = {CE, CE, CE, CE},
};
static const uint8_t encapsulated[4] = {[N] = N, [E1] = E1, [E0] = E0, [CE] = E0};

/* The sum of a correct header, its checksum included, is all ones. */
static uint32_t sum_of(const uint8_t *p, size_t n)
{
	uint32_t sum = 0;
	for (size_t i = 0; i < n; i++)
		sum += i % 2 ? p[i] : (uint32_t)p[i] * 256;
	return sum % 65535; /* 0: all ones (or all zeros) */
}

static uint8_t *exactly(size_t n)
{
	uint8_t *p = malloc(n ? n : 1);
	CHECK(p);
	return p;
}

static void make_v4(uint8_t *p, size_t header, size_t total)
{
	memset(p, 0, header);
	p[0] = (uint8_t)(0x40 | header / 4);
	p[2] = (uint8_t)(total >> 8);
	p[3] = (uint8_t)total;
	p[8] = 64;
	p[9] = 17;
	memcpy(p + 12, (uint8_t[]){10, 0, 0, 1, 10, 0, 0, 2}, 8);
}

static void make_v6(uint8_t *p, size_t payload)
{
	memset(p, 0, 40);
	p[0] = 0x60;
	p[4] = (uint8_t)(payload >> 8);
	p[5] = (uint8_t)payload;
	p[6] = 17;
	memset(p + 8, 0x11, 16);
	memset(p + 24, 0x22, 16);
}

static void test_parse(void)
{
	struct wgf_ip ip;
	uint8_t p[128] = {0};
	make_v4(p, 20, 60);
	CHECK(!wgf_ip_parse(&ip, p, 59));
	CHECK(wgf_ip_parse(&ip, p, 60) && ip.family == 4 && ip.length == 60);
	CHECK(wgf_ip_parse(&ip, p, 76) && ip.length == 60); /* the rest is padding */
	CHECK(ip.source == p + 12 && ip.destination == p + 16);
	make_v4(p, 20, 19); /* shorter than its header */
	CHECK(!wgf_ip_parse(&ip, p, 60));
	make_v4(p, 24, 20);
	CHECK(!wgf_ip_parse(&ip, p, 60));
	make_v4(p, 60, 60);
	CHECK(wgf_ip_parse(&ip, p, 60));
	make_v4(p, 20, 20);
	p[0] = 0x44; /* header of 16 */
	CHECK(!wgf_ip_parse(&ip, p, 60));
	make_v6(p, 0);
	CHECK(wgf_ip_parse(&ip, p, 40) && ip.family == 6 && ip.length == 40);
	CHECK(!wgf_ip_parse(&ip, p, 39));
	make_v6(p, 21);
	CHECK(!wgf_ip_parse(&ip, p, 60) && wgf_ip_parse(&ip, p, 61));
	CHECK(ip.source == p + 8 && ip.destination == p + 24);
	make_v6(p, 65535); /* 65575 in all: no sum of 16 bits */
	CHECK(!wgf_ip_parse(&ip, p, 100));
	CHECK(!wgf_ip_parse(&ip, p, 0));
}

static void test_fuzz(struct check_random *random)
{
	static const uint8_t address[16] = {10, 0, 0, 2};
	for (int round = 0; round < 200000; round++) {
		size_t len = check_random_below(random, round % 2 ? 80 : 24);
		uint8_t *p = exactly(len);
		struct wgf_ip ip;
		check_random_fill(random, p, len);
		if (len && round % 3) /* mostly with a version, and lengths that may just be possible */
			p[0] = (uint8_t)((p[0] & 15) | (round % 4 ? 0x40 : 0x60));
		if (len > 5 && round % 5) {
			p[2] = p[4] = 0;
			p[3] &= 127;
			p[5] &= 63;
		}
		if (len > 9 && round % 7)
			p[p[0] >> 4 == 4 ? 9 : 6] = round % 2 ? 17 : 44;
		wgf_ip_is_udp_to(p, len, 1, round % 2 ? 4 : 6, address, 2);
		if (wgf_ip_parse(&ip, p, len)) {
			size_t size = ip.family == 4 ? 4 : 16;
			CHECK(ip.length <= len && ip.family == p[0] >> 4);
			CHECK(ip.source >= p && ip.destination == ip.source + size);
			CHECK(ip.destination + size <= p + ip.length);
			CHECK(wgf_ip_ecn_encapsulate(p) < 4);
			wgf_ip_ecn_decapsulate(p, (uint8_t)check_random_next(random));
		}
		free(p);
	}
}

static void ecn_v4(struct check_random *random, uint8_t inner, uint8_t outer)
{
	uint8_t p[20], before[20];
	check_random_fill(random, p, sizeof(p));
	p[0] = 0x45;
	p[1] = (uint8_t)((p[1] & ~3) | inner);
	p[10] = p[11] = 0;
	uint16_t check = wgf_ip_checksum(p, sizeof(p), 0);
	p[10] = (uint8_t)(check >> 8);
	p[11] = (uint8_t)check;
	CHECK(sum_of(p, sizeof(p)) == 0);
	CHECK(wgf_ip_ecn_encapsulate(p) == encapsulated[inner]);
	memcpy(before, p, sizeof(p));
	wgf_ip_ecn_decapsulate(p, (uint8_t)((check_random_next(random) & ~UINT64_C(3)) | outer));
	CHECK((p[1] & 3) == decapsulated[inner][outer]);
	CHECK(sum_of(p, sizeof(p)) == 0);
	p[1] = before[1];
	p[10] = before[10];
	p[11] = before[11];
	CHECK(memcmp(p, before, sizeof(p)) == 0);
}

static void ecn_v6(struct check_random *random, uint8_t inner, uint8_t outer)
{
	uint8_t p[40], before[40];
	check_random_fill(random, p, sizeof(p));
	p[0] = (uint8_t)(0x60 | (p[0] & 15));
	p[1] = (uint8_t)((p[1] & ~0x30) | inner << 4);
	CHECK(wgf_ip_ecn_encapsulate(p) == encapsulated[inner]);
	memcpy(before, p, sizeof(p));
	wgf_ip_ecn_decapsulate(p, (uint8_t)((check_random_next(random) & ~UINT64_C(3)) | outer));
	CHECK((p[1] >> 4 & 3) == decapsulated[inner][outer]);
	p[1] = before[1];
	CHECK(memcmp(p, before, sizeof(p)) == 0);
}

static void test_ecn(struct check_random *random)
{
	for (int round = 0; round < 2000; round++)
		for (uint8_t both = 0; both < 16; both++) {
			ecn_v4(random, both / 4, both % 4);
			ecn_v6(random, both / 4, both % 4);
		}
}

static void test_udp_to(void)
{
	uint8_t p[64], to4[4] = {10, 0, 0, 2}, to6[16];
	static const uint8_t ports[4] = {0xca, 0x6c, 0x00, 0x35}; /* 51820 to 53 */
	memset(to6, 0x22, sizeof(to6));

	make_v4(p, 24, 32);
	memcpy(p + 24, ports, 4);
	CHECK(wgf_ip_is_udp_to(p, 32, 51820, 4, to4, 53));
	CHECK(!wgf_ip_is_udp_to(p, 32, 51821, 4, to4, 53));
	CHECK(!wgf_ip_is_udp_to(p, 32, 51820, 4, to4, 54));
	CHECK(!wgf_ip_is_udp_to(p, 32, 51820, 6, to6, 53));
	CHECK(!wgf_ip_is_udp_to(p, 32, 51820, 4, (uint8_t[]){10, 0, 0, 3}, 53));
	p[6] = 0x20; /* the first of several fragments */
	CHECK(wgf_ip_is_udp_to(p, 32, 51820, 4, to4, 53));
	p[7] = 1; /* a later one */
	CHECK(!wgf_ip_is_udp_to(p, 32, 51820, 4, to4, 53));
	make_v4(p, 20, 23); /* the ports are cut off */
	CHECK(!wgf_ip_is_udp_to(p, 32, 0, 4, to4, 0));

	make_v6(p, 8);
	memcpy(p + 40, ports, 4);
	CHECK(wgf_ip_is_udp_to(p, 48, 51820, 6, to6, 53));
	p[6] = 6;
	CHECK(!wgf_ip_is_udp_to(p, 48, 51820, 6, to6, 53));
	make_v6(p, 16);
	p[6] = 44;
	memset(p + 40, 0, 8);
	p[40] = 17;
	p[43] = 1; /* more will follow */
	memcpy(p + 48, ports, 4);
	CHECK(wgf_ip_is_udp_to(p, 56, 51820, 6, to6, 53));
	p[43] = 8 + 1;
	CHECK(!wgf_ip_is_udp_to(p, 56, 51820, 6, to6, 53));
}

static void test_checksum(struct check_random *random)
{
	static const uint8_t rfc1071[8] = {0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7};
	CHECK(wgf_ip_checksum(rfc1071, sizeof(rfc1071), 0) == (uint16_t)~0xddf2);
	CHECK(wgf_ip_checksum(rfc1071, 0, 0) == 0xffff);
	uint8_t *ones = exactly(65535);
	memset(ones, 0xff, 65535);
	/* 32,767 words and one byte, on top of the largest start: nothing may wrap on the way. */
	uint64_t total = UINT32_MAX + UINT64_C(32767) * 0xffff + 0xff00;
	uint16_t expected = (uint16_t)(total % 65535);
	CHECK((uint16_t)~wgf_ip_checksum(ones, 65535, UINT32_MAX) % 65535 == expected % 65535);
	free(ones);
	for (int round = 0; round < 2000; round++) {
		size_t len = check_random_below(random, 100);
		uint8_t *p = exactly(len);
		check_random_fill(random, p, len);
		CHECK((uint16_t)~wgf_ip_checksum(p, len, 0) % 65535 == sum_of(p, len));
		free(p);
	}
}

int main(void)
{
	struct check_random random = check_random_begin("test_ip");
	test_parse();
	test_fuzz(&random);
	test_ecn(&random);
	test_udp_to();
	test_checksum(&random);
	return 0;
}
