/* mac1, mac2 and cookie replies: against values from Python's hashlib, round trips between a jar and a
 * checker, and everything that must make them fail. */
#include <string.h>

#include "bytes.h"
#include "check.h"
#include "cookie.h"

#define START (500 * WGF_SECOND)
#define REFRESH WGF_COOKIE_REFRESH_TIME

static struct wgf_cookie_keys keys;       /* of the responder */
static struct wgf_blake2s mac1;
static uint8_t public_key[32], secret[32];
static const struct wgf_endpoint from4 = {.address = {192, 0, 2, 1}, .port = 51820, .family = 4};
static const struct wgf_endpoint from6 = {
	.address = {0x20, 1, 0xd, 0xb8, [15] = 1}, .port = 51820, .family = 6};

static void fill_message(uint8_t *message, size_t len)
{
	for (size_t i = 0; i < len; i++)
		message[i] = (uint8_t)(i * 7 + 1);
}

/* A responder's side whose secret was made at START, and an initiator's jar. */
static void begin(struct wgf_cookie_checker *checker, struct wgf_cookie_jar *jar)
{
	for (size_t i = 0; i < 32; i++) {
		public_key[i] = (uint8_t)i;
		secret[i] = (uint8_t)(255 - i);
	}
	wgf_cookie_keys(&keys, public_key);
	wgf_cookie_mac1_start(&mac1, &keys);
	CHECK(wgf_cookie_checker_init(checker) == 0);
	CHECK(wgf_cookie_jar_init(jar, public_key) == 0);
	wgf_cookie_rotate(checker, secret, START);
}

static void end(struct wgf_cookie_checker *checker, struct wgf_cookie_jar *jar)
{
	wgf_cookie_checker_wipe(checker);
	wgf_cookie_jar_wipe(jar);
	static const uint8_t zeros[32];
	CHECK(memcmp(checker->secret, zeros, 32) == 0 && memcmp(jar->keys.mac1, zeros, 32) == 0);
}

static void test_against_hashlib(void)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	uint8_t message[148];
	begin(&checker, &jar);
	CHECK(check_equals_hex(keys.mac1, 32,
			       "4fb2527ac956001553dc1ad9b55171b7d9daa3de1cdbcd71451830170c7e6cac"));
	CHECK(check_equals_hex(keys.cookie, 32,
			       "3dd5869c5202e45146936d1644f76ff697061661c181f3fd450eae43932eacec"));
	fill_message(message, sizeof(message));
	wgf_cookie_add_macs(&jar, message, sizeof(message), START);
	CHECK(check_equals_hex(message + 116, 16, "4851da3016ae3667f2039a71aee50a2c"));
	CHECK(check_equals_hex(message + 132, 16, "00000000000000000000000000000000"));
	check_hex(message + 132, 16, "193073e86f804ec34522dfa74ed21af6");
	CHECK(wgf_cookie_mac2_valid(&checker, &from4, message, sizeof(message), START));
	CHECK(!wgf_cookie_mac2_valid(&checker, &from6, message, sizeof(message), START));
	check_hex(message + 132, 16, "a7cbfe31b073f87726b794c402ffcd23");
	CHECK(wgf_cookie_mac2_valid(&checker, &from6, message, sizeof(message), START));
	end(&checker, &jar);
}

static bool mac1_valid(const uint8_t *message, size_t len)
{
	bool valid;
	wgf_cookie_mac1_valid(&mac1, &message, 1, len, &valid);
	return valid;
}

static void test_mac1(struct check_random *random)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	uint8_t message[148];
	begin(&checker, &jar);
	for (int round = 0; round < 200; round++) {
		size_t len = round % 2 ? 148 : 92;
		check_random_fill(random, message, len);
		wgf_cookie_add_macs(&jar, message, len, START);
		CHECK(mac1_valid(message, len));
		size_t bad = check_random_below(random, len - 16);
		message[bad] ^= (uint8_t)(1 << check_random_below(random, 8));
		CHECK(!mac1_valid(message, len));
	}
	end(&checker, &jar);
}

/* An initiator is answered with a cookie and proves its address with the next message. */
static void test_round_trip(const struct wgf_endpoint *from, size_t len)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	struct wgf_message_cookie reply, replay;
	uint8_t message[148];
	begin(&checker, &jar);
	fill_message(message, len);
	wgf_cookie_add_macs(&jar, message, len, START);
	CHECK(!wgf_cookie_mac2_valid(&checker, from, message, len, START));
	CHECK(wgf_cookie_reply(&checker, &keys, from, message, len, START, &reply));
	CHECK(reply.type == WGF_MESSAGE_COOKIE && !reply.reserved[0] && !reply.reserved[1] &&
	      !reply.reserved[2]);
	CHECK(memcmp(reply.receiver, message + 4, 4) == 0);
	replay = reply;
	CHECK(wgf_cookie_consume(&jar, &reply, START + 1));
	CHECK(!wgf_cookie_consume(&jar, &replay, START + 1)); /* none is awaited any more */

	message[30] ^= 1; /* as every new initiation differs from the last */
	wgf_cookie_add_macs(&jar, message, len, START + 2);
	CHECK(!wgf_cookie_consume(&jar, &replay, START + 3)); /* it answers the last message */
	CHECK(mac1_valid(message, len));
	CHECK(wgf_cookie_mac2_valid(&checker, from, message, len, START + 3));
	message[20] ^= 1;
	CHECK(!wgf_cookie_mac2_valid(&checker, from, message, len, START + 3));
	end(&checker, &jar);
}

static void test_whose_cookie(void)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	struct wgf_message_cookie reply;
	uint8_t message[148];
	begin(&checker, &jar);
	fill_message(message, sizeof(message));
	wgf_cookie_add_macs(&jar, message, sizeof(message), START);
	CHECK(wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), START, &reply));
	CHECK(wgf_cookie_consume(&jar, &reply, START));
	wgf_cookie_add_macs(&jar, message, sizeof(message), START);

	struct wgf_endpoint other = from4;
	CHECK(wgf_cookie_mac2_valid(&checker, &other, message, sizeof(message), START));
	other.source[0] = 9; /* where it arrived is not where it came from */
	other.interface = 3;
	CHECK(wgf_cookie_mac2_valid(&checker, &other, message, sizeof(message), START));
	other.port++;
	CHECK(!wgf_cookie_mac2_valid(&checker, &other, message, sizeof(message), START));
	other.port--;
	other.address[3]++;
	CHECK(!wgf_cookie_mac2_valid(&checker, &other, message, sizeof(message), START));
	end(&checker, &jar);
}

static void test_ages(void)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	struct wgf_message_cookie reply;
	uint8_t message[148];
	static const uint8_t zeros[16];
	begin(&checker, &jar);
	fill_message(message, sizeof(message));
	wgf_cookie_add_macs(&jar, message, sizeof(message), START);
	CHECK(!wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), START + REFRESH, &reply));
	CHECK(wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), START - 5, &reply));
	CHECK(wgf_cookie_consume(&jar, &reply, START));

	wgf_cookie_add_macs(&jar, message, sizeof(message), START + REFRESH - 1);
	CHECK(wgf_cookie_mac2_valid(&checker, &from4, message, sizeof(message), START + REFRESH - 1));
	CHECK(!wgf_cookie_mac2_valid(&checker, &from4, message, sizeof(message), START + REFRESH));
	secret[0] ^= 1;
	wgf_cookie_rotate(&checker, secret, START + REFRESH);
	CHECK(!wgf_cookie_mac2_valid(&checker, &from4, message, sizeof(message), START + REFRESH));
	wgf_cookie_add_macs(&jar, message, sizeof(message), START + REFRESH);
	CHECK(memcmp(message + 132, zeros, 16) == 0); /* the cookie is too old to be shown */
	end(&checker, &jar);
}

static void test_no_secret_and_time_zero(void)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	struct wgf_message_cookie reply;
	uint8_t message[148];
	begin(&checker, &jar);
	wgf_cookie_checker_wipe(&checker);
	CHECK(wgf_cookie_checker_init(&checker) == 0);
	fill_message(message, sizeof(message));
	wgf_cookie_add_macs(&jar, message, sizeof(message), 0);
	CHECK(!wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), 0, &reply));
	wgf_cookie_rotate(&checker, secret, 0);
	CHECK(wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), 0, &reply));
	CHECK(!wgf_cookie_reply(&checker, &keys, &from4, message, 39, 0, &reply));
	CHECK(wgf_cookie_consume(&jar, &reply, 0));
	wgf_cookie_add_macs(&jar, message, sizeof(message), 0);
	CHECK(wgf_cookie_mac2_valid(&checker, &from4, message, sizeof(message), 0));
	end(&checker, &jar);
}

/* A forged reply changes nothing, and the true one is still taken in after it. */
static void test_forged_replies(struct check_random *random)
{
	struct wgf_cookie_checker checker;
	struct wgf_cookie_jar jar;
	struct wgf_message_cookie reply, forged;
	uint8_t message[148];
	begin(&checker, &jar);
	fill_message(message, sizeof(message));
	CHECK(wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), START, &reply));
	CHECK(!wgf_cookie_consume(&jar, &reply, START)); /* nothing was sent */
	wgf_cookie_add_macs(&jar, message, sizeof(message), START);
	CHECK(!wgf_cookie_consume(&jar, &reply, START)); /* the answer to another mac1 */
	CHECK(wgf_cookie_reply(&checker, &keys, &from4, message, sizeof(message), START, &reply));
	for (int i = 0; i < 500; i++) {
		forged = reply;
		size_t at = 8 + check_random_below(random, sizeof(forged) - 8);
		((uint8_t *)&forged)[at] ^= (uint8_t)(1 << check_random_below(random, 8));
		CHECK(!wgf_cookie_consume(&jar, &forged, START));
	}
	CHECK(jar.cookie_birth == 0 && jar.sent_mac1);
	CHECK(wgf_cookie_consume(&jar, &reply, START));
	end(&checker, &jar);
}

int main(void)
{
	struct check_random random = check_random_begin("cookie");
	test_against_hashlib();
	test_mac1(&random);
	test_round_trip(&from4, 148);
	test_round_trip(&from4, 92);
	test_round_trip(&from6, 148);
	test_whose_cookie();
	test_ages();
	test_no_secret_and_time_zero();
	test_forged_replies(&random);
	return 0;
}
