/* The handshake's symmetric state: a whole Noise_IKpsk2 exchange, both sides, against values computed
 * independently; refusals; guard pages. X25519 and its results are stood in for by fixed bytes.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_handshake.c wgfast/core/{handshake,aead*,poly1305,
 * selftest,blake2s}.c */
#include <errno.h>
#include <stdbool.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "check.h"
#include "guard.h"
#include "handshake.h"

/* What both sides know, or exchange. Each is 32 bytes that count up from a value of its own. */
struct exchange {
	uint8_t responder_static[32], initiator_ephemeral[32], es[32], initiator_static[32], ss[32];
	uint8_t responder_ephemeral[32], ee[32], se[32], psk[32];
	uint8_t timestamp[WGF_TIMESTAMP_SIZE];
	uint8_t sealed_static[32 + WGF_TAG_SIZE], sealed_timestamp[WGF_TIMESTAMP_SIZE + WGF_TAG_SIZE];
	uint8_t sealed_empty[WGF_TAG_SIZE];
};

static struct exchange begin_exchange(void)
{
	struct exchange x;
	uint8_t *fields[] = {x.responder_static, x.initiator_ephemeral, x.es, x.initiator_static, x.ss,
			     x.responder_ephemeral, x.ee, x.se, x.psk};
	memset(&x, 0, sizeof(x));
	for (size_t i = 0; i < 9; i++)
		for (size_t j = 0; j < 32; j++)
			fields[i][j] = (uint8_t)(16 * i + 3 + j);
	for (size_t j = 0; j < WGF_TIMESTAMP_SIZE; j++)
		x.timestamp[j] = (uint8_t)(200 + j);
	return x;
}

static void mix_shared(struct wgf_handshake *hs, const uint8_t *shared)
{
	static const uint8_t zeros[32];
	memcpy(hs->shared, shared, 32);
	wgf_handshake_mix_shared(hs);
	CHECK(memcmp(hs->shared, zeros, 32) == 0);
}

static void mix_chain(struct wgf_handshake *hs, const uint8_t *shared)
{
	static const uint8_t zeros[32];
	memcpy(hs->shared, shared, 32);
	wgf_handshake_mix_chain(hs);
	CHECK(memcmp(hs->shared, zeros, 32) == 0);
}

static void create_initiation(struct wgf_handshake *hs, struct exchange *x)
{
	wgf_handshake_begin(hs, x->responder_static);
	wgf_handshake_mix_ephemeral(hs, x->initiator_ephemeral);
	mix_shared(hs, x->es);
	wgf_handshake_seal(hs, x->sealed_static, x->initiator_static, 32);
	wgf_handshake_mix_secret(hs, x->ss);
	wgf_handshake_seal(hs, x->sealed_timestamp, x->timestamp, WGF_TIMESTAMP_SIZE);
}

static void consume_initiation(struct wgf_handshake *hs, const struct exchange *x)
{
	uint8_t timestamp[WGF_TIMESTAMP_SIZE];
	wgf_handshake_begin(hs, x->responder_static);
	wgf_handshake_mix_ephemeral(hs, x->initiator_ephemeral);
	mix_shared(hs, x->es);
	CHECK(wgf_handshake_open(hs, hs->remote_static, x->sealed_static, 32));
	CHECK(memcmp(hs->remote_static, x->initiator_static, 32) == 0);
	wgf_handshake_mix_secret(hs, x->ss);
	CHECK(wgf_handshake_open(hs, timestamp, x->sealed_timestamp, WGF_TIMESTAMP_SIZE));
	CHECK(memcmp(timestamp, x->timestamp, WGF_TIMESTAMP_SIZE) == 0);
}

static void mix_response(struct wgf_handshake *hs, const struct exchange *x)
{
	wgf_handshake_mix_ephemeral(hs, x->responder_ephemeral);
	mix_chain(hs, x->ee);
	mix_chain(hs, x->se);
	wgf_handshake_mix_psk(hs, x->psk);
}

/* The values of the first message: https://www.wireguard.com/papers/wireguard.pdf section 5.4 gives
 * the strings, every implementation has these two digests. */
static void test_begin(void)
{
	static const char first_hash[] = "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3";
	struct exchange x = begin_exchange();
	struct wgf_handshake hs, expected;

	memset(&hs, 0, sizeof(hs));
	wgf_handshake_begin(&hs, x.responder_static);
	CHECK(check_equals_hex(hs.chain, 32, "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36"));
	check_hex(expected.hash, 32, first_hash);
	wgf_handshake_mix_hash(&expected, x.responder_static, 32);
	CHECK(memcmp(hs.hash, expected.hash, 32) == 0);
}

/* Expected values: the same steps in Python with hashlib, hmac and cryptography. */
static void test_exchange(void)
{
	struct exchange x = begin_exchange();
	struct wgf_handshake initiator, responder;
	uint8_t send[2][32], receive[2][32], *none = NULL;

	memset(&initiator, 0, sizeof(initiator));
	memset(&responder, 0, sizeof(responder));
	create_initiation(&initiator, &x);
	consume_initiation(&responder, &x);
	mix_response(&responder, &x);
	wgf_handshake_seal(&responder, x.sealed_empty, none, 0);
	mix_response(&initiator, &x);
	CHECK(wgf_handshake_open(&initiator, none, x.sealed_empty, 0));
	wgf_handshake_split(&initiator, send[0], receive[0]);
	wgf_handshake_split(&responder, receive[1], send[1]);

	CHECK(memcmp(initiator.hash, responder.hash, 32) == 0);
	CHECK(check_equals_hex(initiator.hash, 32,
			       "c88cfaf5d7e0f1f449856902eb274c5af9ff9c90a23c5642acc36a37d0f27674"));
	CHECK(check_equals_hex(send[0], 32,
			       "15cd65b3a09c9913e23d903f2fcd0ebd13b6c5201dcf948bc91ce526988d94cf"));
	CHECK(check_equals_hex(receive[0], 32,
			       "63baeb90b1eefd2d378912e6200df7ef24f82922b7e5ab1ea39572a10d0ca895"));
	CHECK(memcmp(send[0], receive[1], 32) == 0 && memcmp(send[1], receive[0], 32) == 0);

	wgf_handshake_wipe(&initiator);
	for (size_t i = 0; i < sizeof(initiator); i++)
		CHECK(((uint8_t *)&initiator)[i] == 0);
}

/* Any bit of a sealed field that changes is noticed, leaves zeros and the hash as it was. */
static void test_refusals(void)
{
	struct exchange x = begin_exchange();
	struct wgf_handshake hs;

	memset(&hs, 0, sizeof(hs));
	create_initiation(&hs, &x);
	for (size_t bit = 0; bit < 8 * sizeof(x.sealed_static); bit++) {
		uint8_t before[32], out[32], seen = 0;
		wgf_handshake_begin(&hs, x.responder_static);
		wgf_handshake_mix_ephemeral(&hs, x.initiator_ephemeral);
		mix_shared(&hs, x.es);
		memcpy(before, hs.hash, 32);
		x.sealed_static[bit / 8] ^= (uint8_t)(1u << bit % 8);
		CHECK(!wgf_handshake_open(&hs, out, x.sealed_static, 32));
		x.sealed_static[bit / 8] ^= (uint8_t)(1u << bit % 8);
		for (size_t i = 0; i < 32; i++)
			seen |= out[i];
		CHECK(seen == 0 && memcmp(before, hs.hash, 32) == 0);
		CHECK(wgf_handshake_open(&hs, out, x.sealed_static, 32));
		CHECK(memcmp(out, x.initiator_static, 32) == 0);
	}
}

/* Everything at the edge of its page, in place and apart. */
static void test_guard_pages(struct check_random *random)
{
	struct guard state_pages = guard_map(sizeof(struct wgf_handshake)), pages[2];
	struct wgf_handshake *hs = (void *)guard_last(state_pages, sizeof(*hs)), saved;
	uint8_t text[600];

	pages[0] = guard_map(600 + WGF_TAG_SIZE);
	pages[1] = guard_map(600 + WGF_TAG_SIZE);
	check_random_fill(random, (uint8_t *)hs, sizeof(*hs));
	for (size_t len = 0; len <= 600; len++) {
		const size_t sealed_len = len + WGF_TAG_SIZE;
		uint8_t *plain = guard_last(pages[0], len), *sealed = guard_last(pages[1], sealed_len);

		check_random_fill(random, text, len);
		memcpy(plain, text, len);
		saved = *hs;
		wgf_handshake_seal(hs, sealed, plain, len);
		memset(plain, 0xa5, len);
		struct wgf_handshake other = saved;
		CHECK(wgf_handshake_open(&other, plain, sealed, len));
		CHECK(memcmp(plain, text, len) == 0 && memcmp(other.hash, hs->hash, 32) == 0);
		other = saved;
		CHECK(wgf_handshake_open(&other, sealed, sealed, len)); /* in place: same text, same hash */
		CHECK(memcmp(sealed, text, len) == 0 && memcmp(other.hash, hs->hash, 32) == 0);
		other = saved;
		wgf_handshake_seal(&other, sealed, sealed, len);
		CHECK(memcmp(other.hash, hs->hash, 32) == 0);
		wgf_handshake_mix_hash(hs, sealed, sealed_len);
		uint8_t *keys = guard_last(pages[1], 64);
		wgf_handshake_split(hs, keys, keys + 32);
	}
	guard_unmap(state_pages);
	guard_unmap(pages[0]);
	guard_unmap(pages[1]);
}

/* ---- X25519, with functions that stand in for libsodium's ---- */

/* What the function met: where its result goes, what was there, and its scalar. */
static struct {
	uint8_t *out;
	const uint8_t *scalar;
	uint8_t scalar_then[32], result[32];
	int answer;
} met;

static int stand_in(uint8_t *out, const uint8_t *scalar)
{
	met.out = out;
	met.scalar = scalar;
	memcpy(met.scalar_then, scalar, 32);
	memcpy(out, met.result, 32);
	return met.answer;
}

static int stand_in_at(uint8_t *out, const uint8_t *scalar, const uint8_t *point)
{
	CHECK(point[0] == 9 && point[31] == 7);
	return stand_in(out, scalar);
}

static const struct wgf_x25519 stand_ins = {stand_in_at, stand_in};

static bool is_zero(const uint8_t *p)
{
	static const uint8_t zeros[32];
	return memcmp(p, zeros, 32) == 0;
}

/* Zeros that are called a success, and anything that is called a failure, are refused and not kept. */
static void test_multiplication(struct check_random *random)
{
	const uint8_t point[32] = {[0] = 9, [31] = 7};
	for (int private = 0; private < 2; private++) {
		for (int kind = 0; kind < 3; kind++) {
			struct wgf_handshake hs, before;
			check_random_fill(random, (uint8_t *)&hs, sizeof(hs));
			before = hs;
			check_random_fill(random, met.result, 32);
			met.result[5] |= 1;
			if (kind == 1)
				memset(met.result, 0, 32);
			met.answer = kind == 2 ? -1 : 0;
			bool sound = private ? wgf_handshake_dh_private(&hs, &stand_ins, point)
					     : wgf_handshake_dh(&hs, &stand_ins, point);
			CHECK(sound == (kind == 0));
			CHECK(sound ? memcmp(hs.shared, met.result, 32) == 0 : is_zero(hs.shared));
			CHECK(memcmp(met.scalar_then, private ? before.private_key : before.ephemeral, 32) == 0);
			CHECK(private ? is_zero(hs.private_key) : memcmp(&hs.private_key, before.private_key, 32) == 0);
			CHECK(memcmp(hs.ephemeral, before.ephemeral, 32) == 0);
		}
	}
}

static bool no_randomness;

/* In place of the library's. */
ssize_t getrandom(void *buffer, size_t size, unsigned flags)
{
	if (!no_randomness)
		return (ssize_t)syscall(SYS_getrandom, buffer, size, flags);
	errno = ENOSYS;
	return -1;
}

static bool within(const void *p, const struct wgf_handshake *hs)
{
	return (uintptr_t)p >= (uintptr_t)hs && (uintptr_t)p < (uintptr_t)(hs + 1);
}

/* libsodium has the scalar where its result is to be until it is done, so that must be secret memory too. */
static void test_key_pair(struct check_random *random)
{
	struct wgf_handshake hs;
	uint8_t public_key[32], first[32];
	check_random_fill(random, (uint8_t *)&hs, sizeof(hs));
	check_random_fill(random, met.result, 32);
	met.answer = 0;
	CHECK(wgf_handshake_generate(&hs, &stand_ins, public_key));
	CHECK(memcmp(public_key, met.result, 32) == 0);
	CHECK(met.scalar == hs.ephemeral && memcmp(met.scalar_then, hs.ephemeral, 32) == 0);
	CHECK(within(met.out, &hs) && is_zero(met.out));
	memcpy(first, hs.ephemeral, 32);
	CHECK(wgf_handshake_generate(&hs, &stand_ins, public_key));
	CHECK(memcmp(first, hs.ephemeral, 32) != 0);
	met.answer = -1;
	CHECK(!wgf_handshake_generate(&hs, &stand_ins, public_key));
	met.answer = 0;
	no_randomness = true;
	CHECK(!wgf_handshake_generate(&hs, &stand_ins, public_key));
	no_randomness = false;
}

int main(void)
{
	struct check_random random = check_random_begin("test_handshake");
	test_begin();
	test_exchange();
	test_refusals();
	test_guard_pages(&random);
	test_multiplication(&random);
	test_key_pair(&random);
	printf("test_handshake: ok\n");
	return 0;
}
