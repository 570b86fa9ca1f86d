/* Unreachable answers: what they say, with checksums summed another way; when there must be none; any
 * bytes of any length, in memory that ends where they end; and how many there may be in a second. */
#include <string.h>

#include "../../wgfast/core/icmp.h"
#include "../../wgfast/core/limits.h"
#include "check.h"

static void add(uint64_t *sum, const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		*sum += i % 2 ? p[i] : (uint64_t)p[i] * 256;
}

static size_t make_v4(uint8_t *p, uint8_t protocol, size_t total)
{
	memset(p, 0, total);
	p[0] = 0x45;
	p[2] = (uint8_t)(total >> 8);
	p[3] = (uint8_t)total;
	p[9] = protocol;
	memcpy(p + 12, (uint8_t[]){10, 0, 0, 1, 192, 0, 2, 9}, 8);
	for (size_t i = 20; i < total; i++)
		p[i] = (uint8_t)i;
	return total;
}

static size_t make_v6(uint8_t *p, uint8_t next, size_t total)
{
	memset(p, 0, total);
	p[0] = 0x60;
	p[4] = (uint8_t)((total - 40) >> 8);
	p[5] = (uint8_t)(total - 40);
	p[6] = next;
	p[8] = 0xfd;
	p[23] = 1;
	p[24] = 0x20;
	p[39] = 2;
	for (size_t i = 40; i < total; i++)
		p[i] = (uint8_t)i;
	return total;
}

static size_t smaller(size_t a, size_t b)
{
	return a < b ? a : b;
}

static void check_answer_v4(const uint8_t *out, size_t n, const uint8_t *p, size_t total)
{
	uint64_t header = 0, message = 0;
	CHECK(n == 28 + smaller(total, 576 - 28));
	CHECK(out[0] == 0x45 && out[9] == 1 && (size_t)(out[2] << 8 | out[3]) == n && out[8] == 64);
	CHECK(memcmp(out + 12, p + 16, 4) == 0 && memcmp(out + 16, p + 12, 4) == 0);
	CHECK(out[20] == 3 && out[21] == 1);
	CHECK(memcmp(out + 28, p, n - 28) == 0);
	add(&header, out, 20);
	add(&message, out + 20, n - 20);
	CHECK(header % 65535 == 0 && message % 65535 == 0);
}

static void check_answer_v6(const uint8_t *out, size_t n, const uint8_t *p, size_t total)
{
	uint64_t sum = n - 40 + 58;
	CHECK(n == 48 + smaller(total, WGF_ICMP_MAX - 48));
	CHECK(out[0] == 0x60 && out[6] == 58 && out[7] == 64);
	CHECK((size_t)(out[4] << 8 | out[5]) == n - 40);
	CHECK(memcmp(out + 8, p + 24, 16) == 0 && memcmp(out + 24, p + 8, 16) == 0);
	CHECK(out[40] == 1 && out[41] == 3);
	CHECK(memcmp(out + 48, p, n - 48) == 0);
	add(&sum, out + 8, 32);
	add(&sum, out + 40, n - 40);
	CHECK(sum % 65535 == 0);
}

static void test_answers(void)
{
	uint8_t p[1500], out[WGF_ICMP_MAX];
	for (size_t total = 20; total < sizeof(p) - 5; total += 7) {
		make_v4(p, 17, total);
		check_answer_v4(out, wgf_icmp_unreachable(out, p, total + 5), p, total);
	}
	for (size_t total = 40; total < sizeof(p) - 5; total += 7) {
		make_v6(p, 17, total);
		check_answer_v6(out, wgf_icmp_unreachable(out, p, total + 5), p, total);
	}
}

static bool answered(const uint8_t *p, size_t len)
{
	uint8_t out[WGF_ICMP_MAX];
	return wgf_icmp_unreachable(out, p, len) != 0;
}

static void test_not_for_v4(void)
{
	static const uint8_t nobody[][4] = {{0, 0, 0, 0}, {127, 0, 0, 1}, {224, 0, 0, 1},
					    {239, 1, 2, 3}, {255, 255, 255, 255}};
	static const uint8_t errors[] = {3, 4, 5, 11, 12, 31, 200};
	uint8_t p[64];
	for (size_t i = 0; i < sizeof(nobody) / 4; i++) {
		make_v4(p, 17, 60);
		memcpy(p + 12, nobody[i], 4);
		CHECK(!answered(p, 60));
		make_v4(p, 17, 60);
		memcpy(p + 16, nobody[i], 4);
		CHECK(!answered(p, 60));
	}
	make_v4(p, 1, 60);
	p[20] = 8;
	CHECK(answered(p, 60)); /* an echo request */
	for (size_t i = 0; i < sizeof(errors); i++) {
		p[20] = errors[i];
		CHECK(!answered(p, 60));
	}
	CHECK(!answered(p, make_v4(p, 1, 20))); /* ICMP without a type */
	make_v4(p, 17, 60);
	p[6] = 0x20;
	CHECK(answered(p, 60)); /* the first fragment */
	p[7] = 1;
	CHECK(!answered(p, 60));
	CHECK(!answered(p, 59)); /* nor anything that is no packet */
}

static void test_not_for_v6(void)
{
	static const uint8_t loopback[16] = {[15] = 1}, all_nodes[16] = {0xff, 2, [15] = 1}, none[16] = {0};
	const uint8_t *nobody[] = {loopback, all_nodes, none};
	uint8_t p[128];
	for (size_t i = 0; i < 3; i++) {
		make_v6(p, 17, 60);
		memcpy(p + 8, nobody[i], 16);
		CHECK(!answered(p, 60));
		make_v6(p, 17, 60);
		memcpy(p + 24, nobody[i], 16);
		CHECK(!answered(p, 60));
	}
	make_v6(p, 58, 60);
	p[40] = 128;
	CHECK(answered(p, 60));
	p[40] = 1;
	CHECK(!answered(p, 60));
	p[40] = 137; /* a redirect */
	CHECK(!answered(p, 60));
	CHECK(!answered(p, make_v6(p, 58, 40)));

	make_v6(p, 0, 100); /* an error behind hop-by-hop (16), authentication (16) and a fragment header */
	p[40] = 51, p[41] = 1;
	p[56] = 44, p[57] = 2;
	p[72] = 58, p[74] = 0, p[75] = 1;
	p[80] = 128;
	CHECK(answered(p, 100));
	p[80] = 3;
	CHECK(!answered(p, 100));
	p[72] = 17;
	CHECK(answered(p, 100));
	p[75] = 9; /* not the first fragment */
	CHECK(!answered(p, 100));
	make_v6(p, 60, 60); /* a chain that is cut off */
	p[41] = 9;
	CHECK(!answered(p, 60));
	CHECK(!answered(p, make_v6(p, 43, 44)));
}

static void test_fuzz(struct check_random *random)
{
	static const uint8_t headers[] = {0, 43, 44, 51, 60, 58, 17};
	uint8_t *out = malloc(WGF_ICMP_MAX);
	CHECK(out);
	for (int round = 0; round < 200000; round++) {
		size_t len = check_random_below(random, 120);
		uint8_t *p = malloc(len ? len : 1);
		CHECK(p);
		check_random_fill(random, p, len);
		if (len >= 40 && round % 2) {
			make_v6(p, headers[check_random_below(random, sizeof(headers))], len);
			for (size_t at = 40; at + 1 < len; at += 8) {
				p[at] = headers[check_random_below(random, sizeof(headers))];
				p[at + 1] = (uint8_t)check_random_below(random, 3);
			}
		} else if (len >= 20 && round % 4) {
			make_v4(p, (uint8_t)check_random_below(random, 3), len);
			p[0] = (uint8_t)(0x40 | check_random_below(random, 16));
		}
		CHECK(wgf_icmp_unreachable(out, p, len) <= WGF_ICMP_MAX);
		free(p);
	}
	free(out);
}

static unsigned count_allowed(struct wgf_icmp_limit *limit, uint64_t from, uint64_t span, uint64_t step)
{
	unsigned allowed = 0;
	for (uint64_t t = from; t < from + span; t += step)
		allowed += wgf_icmp_allow(limit, t);
	return allowed;
}

static void test_limit(void)
{
	struct wgf_icmp_limit limit = {0};
	uint64_t now = 1000 * WGF_SECOND;
	CHECK(count_allowed(&limit, now, 1000, 1) >= 5); /* a burst */
	limit.credit_at = 0;
	unsigned busiest = count_allowed(&limit, now, WGF_SECOND, WGF_SECOND / 10000);
	CHECK(busiest <= WGF_ICMP_PER_SECOND && busiest > WGF_ICMP_PER_SECOND * 8 / 10);
	CHECK(wgf_icmp_allow(&limit, now + 2 * WGF_SECOND));
	CHECK(wgf_icmp_allow(&limit, WGF_SECOND)); /* a clock set back stops nothing for long */
}

int main(void)
{
	struct check_random random = check_random_begin("test_icmp");
	test_answers();
	test_not_for_v4();
	test_not_for_v6();
	test_fuzz(&random);
	test_limit();
	return 0;
}
