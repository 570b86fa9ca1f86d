/* BLAKE2s, HMAC and the key derivation: RFC 7693's own self-test and vectors of Python's hashlib and
 * hmac, then any cutting of the input, guard pages and outputs laid over inputs.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_blake2s.c wgfast/core/blake2s.c */
#include "blake2s.h"
#include "check.h"
#include "guard.h"

/* RFC 7693 appendix E: its generator of inputs */
static void sequence(uint8_t *out, size_t n, uint32_t seed)
{
	uint32_t a = 0xdead4badu * seed, b = 1;
	for (size_t i = 0; i < n; i++) {
		uint32_t t = a + b;
		a = b;
		b = t;
		out[i] = (uint8_t)(t >> 24);
	}
}

/* RFC 7693 appendices B and E: a digest of digests over lengths of output, input and key. */
static void test_rfc7693(void)
{
	static const size_t out_lens[] = {16, 20, 28, 32}, lens[] = {0, 3, 64, 65, 255, 1024};
	uint8_t data[1024], key[32], out[32];
	struct wgf_blake2s all;

	wgf_blake2s(out, 32, NULL, 0, (const uint8_t *)"abc", 3);
	CHECK(check_equals_hex(out, 32, "508c5e8c327c14e2e1a72ba34eeb452f37458b209ed63a294d999b4c86675982"));

	wgf_blake2s_init(&all, 32, NULL, 0);
	for (size_t i = 0; i < 4; i++) {
		for (size_t j = 0; j < 6; j++) {
			sequence(data, lens[j], (uint32_t)lens[j]);
			wgf_blake2s(out, out_lens[i], NULL, 0, data, lens[j]);
			wgf_blake2s_update(&all, out, out_lens[i]);
			sequence(key, out_lens[i], (uint32_t)out_lens[i]);
			wgf_blake2s(out, out_lens[i], key, out_lens[i], data, lens[j]);
			wgf_blake2s_update(&all, out, out_lens[i]);
		}
	}
	wgf_blake2s_final(&all, out);
	CHECK(check_equals_hex(out, 32, "6a411f08ce25adcdfb02aba641451cec53c598b24f4fc787fbdc88797f4c1dfe"));
	for (size_t i = 0; i < sizeof(all); i++)
		CHECK(((uint8_t *)&all)[i] == 0); /* final wipes */
}

/* Expected values: python3 -c 'import hmac; hmac.new(key, data, "blake2s")' */
static void test_hmac(void)
{
	static const uint8_t data[] = {'H', 'i', ' ', 'T', 'h', 'e', 'r', 'e'};
	uint8_t key[100], out[32];

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)i;
	wgf_hmac(out, key, 32, data, sizeof(data));
	CHECK(check_equals_hex(out, 32, "65043ae3113da6f99a94d81b790a6a08dcddef85a14bb01d1aae2ae6d7250146"));
	wgf_hmac(out, key, 100, data, sizeof(data)); /* a key longer than a block is hashed */
	CHECK(check_equals_hex(out, 32, "cdec9371ffcb8b2a1fa8150ed561acca179b866f17b1d5855712bee2f1e1e0c0"));
	wgf_hmac(out, NULL, 0, NULL, 0);
	CHECK(check_equals_hex(out, 32, "eaf4bb25938f4d20e72656bbbc7a9bf63c0c18537333c35bdb67db1402661acd"));
}

static void test_kdf(void)
{
	static const char *const expected[3] = {
		"42a038507e272afffcea6d2d2a98346bcedbd242b0cab0cb664dd6dd486e38db",
		"cdc87247bb6325709c399eb10f937003b5f85b4e29f3d8016f4c10f9d8b5655c",
		"37009b4aeed47b33230402a8d0d209dc1c8f0762b16958d4b7362c72ff2fdacc",
	};
	uint8_t key[32], out[3][32];

	for (uint8_t i = 0; i < 32; i++)
		key[i] = i;
	for (unsigned wanted = 0; wanted < 8; wanted++) {
		memset(out, 0xa5, sizeof(out));
		wgf_kdf(wanted & 1 ? out[0] : NULL, wanted & 2 ? out[1] : NULL, wanted & 4 ? out[2] : NULL,
			key, (const uint8_t *)"data", 4);
		for (size_t i = 0; i < 3; i++)
			CHECK(wanted >> i & 1 ? check_equals_hex(out[i], 32, expected[i])
					      : out[i][0] == 0xa5 && out[i][31] == 0xa5);
	}
	wgf_kdf(key, out[1], NULL, key, (const uint8_t *)"data", 4); /* the first output over the key */
	CHECK(check_equals_hex(key, 32, expected[0]));
	CHECK(check_equals_hex(out[1], 32, expected[1]));
}

/* However the input is cut, and wherever it lies, the digest is the same. */
static void test_cuts(struct check_random *random)
{
	struct guard pages = guard_map(2100);
	uint8_t key[32], whole[32], parts[32];

	for (size_t len = 0; len <= 2100; len += len < 300 ? 1 : 41) {
		uint8_t *data = guard_last(pages, len);
		size_t key_len = check_random_below(random, 33), out_len = 1 + check_random_below(random, 32);
		struct wgf_blake2s state;

		check_random_fill(random, data, len);
		check_random_fill(random, key, key_len);
		wgf_blake2s(whole, out_len, key, key_len, data, len);
		wgf_blake2s_init(&state, out_len, key, key_len);
		for (size_t done = 0, n; done < len; done += n) {
			n = 1 + check_random_below(random, check_random_below(random, 2) ? len - done : 3);
			n = n < len - done ? n : len - done;
			wgf_blake2s_update(&state, data + done, n);
			wgf_blake2s_update(&state, NULL, 0);
		}
		wgf_blake2s_final(&state, parts);
		CHECK(memcmp(whole, parts, out_len) == 0);
		memmove(pages.first, data, len);
		wgf_blake2s(parts, out_len, key, key_len, pages.first, len);
		CHECK(memcmp(whole, parts, out_len) == 0);
	}
	guard_unmap(pages);
}

/* No more than out_len bytes of output are written, and the output may be the input. */
static void test_outputs(void)
{
	struct guard pages = guard_map(64);
	uint8_t expected[32];

	for (size_t out_len = 1; out_len <= 32; out_len++) {
		uint8_t *out = guard_last(pages, out_len);
		memset(out, 7, out_len);
		wgf_blake2s(expected, out_len, NULL, 0, out, out_len);
		wgf_blake2s(out, out_len, NULL, 0, out, out_len);
		CHECK(memcmp(out, expected, out_len) == 0);
	}
	uint8_t *out = guard_last(pages, 32);
	memset(out, 9, 32);
	wgf_hmac(expected, out, 32, out, 32);
	wgf_hmac(out, out, 32, out, 32);
	CHECK(memcmp(out, expected, 32) == 0);
	guard_unmap(pages);
}

/* Many at once: as each of them alone, whatever lies behind the end of the memory they are in. */
static void test_many(struct check_random *random)
{
	enum { MOST = 40 };
	const uint8_t *messages[MOST];
	uint8_t digests[MOST + 1][WGF_HASH_SIZE], expected[WGF_HASH_SIZE], key[WGF_KEY_SIZE];
	struct guard memory[MOST];
	struct wgf_blake2s start;
	for (size_t i = 0; i < MOST; i++)
		memory[i] = guard_map(512);
	for (int round = 0; round < 3000; round++) {
		size_t n = 1 + check_random_below(random, MOST), len = 4 * (1 + check_random_below(random, 50));
		size_t key_len = check_random_below(random, 4) ? WGF_KEY_SIZE : 0, out_len = 1 + check_random_below(random, 32);
		check_random_fill(random, key, sizeof(key));
		for (size_t i = 0; i < n; i++) {
			uint8_t *message = guard_last(memory[i], len);
			check_random_fill(random, message, len);
			messages[i] = message;
		}
		wgf_blake2s_init(&start, out_len, key, key_len);
		wgf_blake2s_settle(&start);
		memset(digests, 0xa5, sizeof(digests));
		wgf_blake2s_many(&start, messages, n, len, digests);
		for (size_t i = 0; i < n; i++) {
			wgf_blake2s(expected, out_len, key, key_len, messages[i], len);
			CHECK(memcmp(digests[i], expected, out_len) == 0);
		}
		for (size_t i = 0; i < WGF_HASH_SIZE; i++)
			CHECK(digests[n][i] == 0xa5);
	}
	for (size_t i = 0; i < MOST; i++)
		guard_unmap(memory[i]);
}

#if defined(__x86_64__)
static void wrong(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t len,
		  uint8_t (*digests)[WGF_HASH_SIZE])
{
	wgf_blake2s_avx2(start, messages, len, digests);
	if (len == 116)
		digests[7][31] ^= 1;
}

/* A kernel that is right is taken, one with a bit wrong in one lane of one length is not. */
static void test_selftest(void)
{
	if (!wgf_blake2s_has_avx2())
		return;
	CHECK(wgf_selftest_blake2s(wgf_blake2s_avx2));
	CHECK(!wgf_selftest_blake2s(wrong));
}
#else
static void test_selftest(void)
{
}
#endif

int main(void)
{
	struct check_random random = check_random_begin("test_blake2s");
	test_rfc7693();
	test_hmac();
	test_kdf();
	test_cuts(&random);
	test_outputs();
	test_many(&random);
	test_selftest();
	printf("test_blake2s: ok\n");
	return 0;
}
