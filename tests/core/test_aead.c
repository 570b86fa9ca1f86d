/* ChaCha20-Poly1305 and XChaCha20-Poly1305: published vectors, every usable kernel against guard
 * pages, mixed batches and tampering, the choice of a kernel, and two threads at once.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_aead.c wgfast/core/{aead*,poly1305,selftest,
 * blake2s,xchacha}.c -pthread */
#include <errno.h>
#include <pthread.h>

#include "aead.h"
#include "check.h"
#include "guard.h"
#include "poly1305.h"

#define JOBS 64u
#define LENGTH_MAX 2100u

static const char sunscreen[] = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip for "
				"the future, sunscreen would be it.";

static bool all_zero(const uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (p[i] != 0)
			return false;
	return true;
}

/* RFC 8439 appendix A.3, the vectors of whole blocks: 5 to 11 provoke every carry. */
static void test_poly1305_vectors(void)
{
	static const struct {
		const char *key, *message, *tag;
	} vectors[] = {
		{"0000000000000000000000000000000000000000000000000000000000000000",
		 "0000000000000000000000000000000000000000000000000000000000000000",
		 "00000000000000000000000000000000"},
		{"0200000000000000000000000000000000000000000000000000000000000000",
		 "ffffffffffffffffffffffffffffffff", "03000000000000000000000000000000"},
		{"02000000000000000000000000000000ffffffffffffffffffffffffffffffff",
		 "02000000000000000000000000000000", "03000000000000000000000000000000"},
		{"0100000000000000000000000000000000000000000000000000000000000000",
		 "fffffffffffffffffffffffffffffffff0ffffffffffffffffffffffffffffff"
		 "11000000000000000000000000000000",
		 "05000000000000000000000000000000"},
		{"0100000000000000000000000000000000000000000000000000000000000000",
		 "fffffffffffffffffffffffffffffffffbfefefefefefefefefefefefefefefe"
		 "01010101010101010101010101010101",
		 "00000000000000000000000000000000"},
		{"0200000000000000000000000000000000000000000000000000000000000000",
		 "fdffffffffffffffffffffffffffffff", "faffffffffffffffffffffffffffffff"},
		{"0100000000000000040000000000000000000000000000000000000000000000",
		 "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000"
		 "0000000000000000000000000000000001000000000000000000000000000000",
		 "14000000000000005500000000000000"},
		{"0100000000000000040000000000000000000000000000000000000000000000",
		 "e33594d7505e43b900000000000000003394d7505e4379cd0100000000000000"
		 "00000000000000000000000000000000",
		 "13000000000000000000000000000000"},
	};
	for (size_t i = 0; i < sizeof(vectors) / sizeof(vectors[0]); i++) {
		uint8_t key[32], message[64], tag[WGF_TAG_SIZE];
		size_t n = strlen(vectors[i].message) / 2;
		struct wgf_poly1305 mac;
		check_hex(key, sizeof(key), vectors[i].key);
		check_hex(message, n, vectors[i].message);
		wgf_poly1305_init(&mac, key);
		wgf_poly1305_update(&mac, message, n);
		wgf_poly1305_final(&mac, tag);
		CHECK(check_equals_hex(tag, sizeof(tag), vectors[i].tag));
	}
}

/* RFC 8439 appendix A.5 */
static void test_rfc8439_decryption(const struct wgf_aead_kernel *kernel)
{
	static const char text[] =
		"Internet-Drafts are draft documents valid for a maximum of six months and may be updated, "
		"replaced, or obsoleted by other documents at any time. It is inappropriate to use "
		"Internet-Drafts as reference material or to cite them other than as "
		"/\xe2\x80\x9cwork in progress./\xe2\x80\x9d";
	static const char sealed_hex[] =
		"64a0861575861af460f062c79be643bd5e805cfd345cf389f108670ac76c8cb2"
		"4c6cfc18755d43eea09ee94e382d26b0bdb7b73c321b0100d4f03b7f355894cf"
		"332f830e710b97ce98c8a84abd0b948114ad176e008d33bd60f982b1ff37c855"
		"9797a06ef4f0ef61c186324e2b3506383606907b6a7c02b0f9f6157b53c867e4"
		"b9166c767b804d46a59b5216cde7a4e99040c5a40433225ee282a1b0a06c523e"
		"af4534d7f83fa1155b0047718cbc546a0d072b04b3564eea1b422273f548271a"
		"0bb2316053fa76991955ebd63159434ecebb4e466dae5a1073a6727627097a10"
		"49e617d91d361094fa68f0ff77987130305beaba2eda04df997b714d6c6f2c29"
		"a6ad5cb4022b02709beead9d67890cbb22392336fea1851f38";
	uint8_t key[32], ad[12], sealed[281], out[265];

	check_hex(key, sizeof(key), "1c9240a5eb55d38af333888604f6b5f0473917c1402b80099dca5cbc207075c0");
	check_hex(ad, sizeof(ad), "f33388860000000000004e91");
	check_hex(sealed, sizeof(sealed), sealed_hex);
	struct wgf_aead_job job = {.key = key, .counter = UINT64_C(0x0807060504030201), .ad = ad,
				   .ad_len = sizeof(ad), .src = sealed, .dst = out, .len = sizeof(out)};
	kernel->open(&job, 1);
	CHECK(job.ok);
	CHECK(sizeof(text) - 1 == sizeof(out) && memcmp(out, text, sizeof(out)) == 0);
}

/* draft-irtf-cfrg-xchacha-03, appendix A.3.1 */
static void test_xchacha(void)
{
	static const char sealed_hex[] =
		"bd6d179d3e83d43b9576579493c0e939572a1700252bfaccbed2902c21396cbb"
		"731c7f1b0b4aa6440bf3a82f4eda7e39ae64c6708c54c216cb96b72e1213b452"
		"2f8c9ba40db5d945b11b69b982c1bb9e3f3fac2bc369488f76b2383565d3fff9"
		"21f9664c97637da9768812f615c68b13b52ec0875924c1c7987947deafd8780acf49";
	const size_t n = sizeof(sunscreen) - 1;
	uint8_t key[32], nonce[24], ad[12], sealed[130], out[114];

	check_hex(ad, sizeof(ad), "50515253c0c1c2c3c4c5c6c7");
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(0x80 + i);
	for (size_t i = 0; i < sizeof(nonce); i++)
		nonce[i] = (uint8_t)(0x40 + i);
	CHECK(n == sizeof(out));
	wgf_aead_xseal(sealed, (const uint8_t *)sunscreen, n, ad, sizeof(ad), nonce, key);
	CHECK(check_equals_hex(sealed, sizeof(sealed), sealed_hex));
	CHECK(wgf_aead_xopen(out, sealed, n, ad, sizeof(ad), nonce, key));
	CHECK(memcmp(out, sunscreen, n) == 0);
	for (size_t bit = 0; bit < 8 * sizeof(nonce); bit++) {
		nonce[bit / 8] ^= (uint8_t)(1u << bit % 8);
		memset(out, 0xa5, n);
		CHECK(!wgf_aead_xopen(out, sealed, n, ad, sizeof(ad), nonce, key));
		CHECK(all_zero(out, n));
		nonce[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	wgf_aead_xseal(sealed, NULL, 0, NULL, 0, nonce, key); /* an empty message is a tag */
	CHECK(wgf_aead_xopen(NULL, sealed, 0, NULL, 0, nonce, key));
}

/* One job between guard pages: src and dst at either end, in place and apart, sealed and opened. */
static void guarded(const struct wgf_aead_kernel *kernel, const struct guard *pages, size_t len,
		    size_t ad_len, int place, struct check_random *random)
{
	static uint8_t text[LENGTH_MAX], expected[LENGTH_MAX + WGF_TAG_SIZE];
	const size_t sealed_len = len + WGF_TAG_SIZE;
	const bool last = place & 1, in_place = place & 2;
	uint8_t *key = guard_last(pages[2], 32), *ad = guard_last(pages[3], ad_len);
	uint8_t *from = last ? guard_last(pages[0], len) : pages[0].first;
	uint8_t *to = last ? guard_last(pages[1], sealed_len) : pages[1].first;

	check_random_fill(random, key, 32);
	check_random_fill(random, ad, ad_len);
	check_random_fill(random, text, len);
	struct wgf_aead_job job = {.key = key, .counter = check_random_next(random), .ad = ad,
				   .ad_len = ad_len, .src = text, .dst = expected, .len = len};
	wgf_aead_portable.seal(&job, 1);

	job.dst = to;
	job.src = in_place ? to : from;
	memcpy(in_place ? to : from, text, len);
	kernel->seal(&job, 1);
	CHECK(memcmp(to, expected, sealed_len) == 0);

	job.src = to;
	job.dst = in_place ? to : from;
	if (!in_place)
		memset(from, 0xa5, len);
	kernel->open(&job, 1);
	CHECK(job.ok && memcmp(job.dst, text, len) == 0);

	memcpy(to, expected, sealed_len);
	to[check_random_below(random, sealed_len)] ^= (uint8_t)(1u << check_random_below(random, 8));
	kernel->open(&job, 1);
	CHECK(!job.ok && all_zero(job.dst, len));
}

static void test_guard_pages(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	struct guard pages[4];
	for (size_t i = 0; i < 4; i++)
		pages[i] = guard_map(LENGTH_MAX + WGF_TAG_SIZE);
	for (size_t len = 0; len <= LENGTH_MAX; len += len < 600 ? 1 : 29)
		for (int place = 0; place < 4; place++)
			guarded(kernel, pages, len, len % 3 == 0 ? len % 70 : 0, place, random);
	for (int place = 0; place < 4; place++)
		guarded(kernel, pages, LENGTH_MAX, 33, place, random);
	for (size_t i = 0; i < 4; i++)
		guard_unmap(pages[i]);
}

/* A batch whose jobs agree in nothing, every buffer ending or starting at a guard page. */
static void mixed_batch(const struct wgf_aead_kernel *kernel, const struct guard (*pages)[2], size_t n,
			struct check_random *random)
{
	static uint8_t keys[JOBS][32], ads[JOBS][64], texts[JOBS][LENGTH_MAX];
	static uint8_t expected[JOBS][LENGTH_MAX + WGF_TAG_SIZE];
	struct wgf_aead_job jobs[JOBS];
	bool tampered[JOBS];

	for (size_t i = 0; i < n; i++) {
		size_t len = check_random_below(random, check_random_below(random, 4) ? LENGTH_MAX + 1 : 80);
		check_random_fill(random, keys[i], 32);
		check_random_fill(random, ads[i], 64);
		check_random_fill(random, texts[i], len);
		jobs[i] = (struct wgf_aead_job){.key = keys[check_random_below(random, i + 1)],
						.counter = check_random_next(random),
						.prefix = (uint32_t)check_random_next(random),
						.ad = ads[i], .ad_len = check_random_below(random, 65),
						.src = texts[i], .dst = expected[i], .len = len};
		wgf_aead_portable.seal(&jobs[i], 1);
	}
	for (size_t i = 0; i < n; i++) {
		size_t len = jobs[i].len, slack = check_random_below(random, 33);
		uint8_t *src = guard_last(pages[i][0], len + slack);
		jobs[i].dst = guard_last(pages[i][1], len + WGF_TAG_SIZE);
		memcpy(src, texts[i], len);
		jobs[i].src = src;
	}
	kernel->seal(jobs, n);
	for (size_t i = 0; i < n; i++) {
		uint8_t *sealed = jobs[i].dst;
		size_t len = jobs[i].len, which = check_random_below(random, 6);
		CHECK(memcmp(sealed, expected[i], len + WGF_TAG_SIZE) == 0);
		tampered[i] = true;
		if (which == 0)
			sealed[check_random_below(random, len + WGF_TAG_SIZE)] ^= 0x10;
		else if (which == 1)
			jobs[i].counter ^= UINT64_C(1) << check_random_below(random, 64);
		else if (which == 2)
			jobs[i].prefix ^= UINT32_C(1) << check_random_below(random, 32);
		else if (which == 3 && jobs[i].ad_len > 0)
			ads[i][check_random_below(random, jobs[i].ad_len)] ^= 1;
		else
			tampered[i] = false;
		jobs[i].ok = tampered[i];
		jobs[i].dst = check_random_below(random, 2) ? sealed : guard_last(pages[i][0], len);
		jobs[i].src = sealed;
	}
	kernel->open(jobs, n);
	for (size_t i = 0; i < n; i++) {
		CHECK(jobs[i].ok == !tampered[i]);
		if (tampered[i])
			CHECK(all_zero(jobs[i].dst, jobs[i].len));
		else
			CHECK(memcmp(jobs[i].dst, texts[i], jobs[i].len) == 0);
	}
}

static void test_mixed_batches(const struct wgf_aead_kernel *kernel, struct check_random *random)
{
	static struct guard pages[JOBS][2];
	for (size_t i = 0; i < JOBS; i++)
		for (size_t k = 0; k < 2; k++)
			pages[i][k] = guard_map(LENGTH_MAX + 64);
	kernel->seal(NULL, 0);
	kernel->open(NULL, 0);
	for (size_t n = 1; n <= JOBS; n++)
		mixed_batch(kernel, pages, n, random);
	for (size_t i = 0; i < JOBS; i++)
		for (size_t k = 0; k < 2; k++)
			guard_unmap(pages[i][k]);
}

/* Every bit of key, additional data, ciphertext and tag counts. */
static void test_every_bit(const struct wgf_aead_kernel *kernel)
{
	struct {
		uint8_t key[32], ad[13], sealed[83 + WGF_TAG_SIZE];
	} in = {.key = {1}, .ad = {2}};
	uint8_t *bytes = (uint8_t *)&in, out[83] = {3};
	struct wgf_aead_job job = {.key = in.key, .counter = 5, .ad = in.ad, .ad_len = sizeof(in.ad),
				   .src = out, .dst = in.sealed, .len = sizeof(out)};
	kernel->seal(&job, 1);
	job.src = in.sealed;
	job.dst = out;
	for (size_t bit = 0; bit < 8 * sizeof(in); bit++) {
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
		memset(out, 0xa5, sizeof(out));
		kernel->open(&job, 1);
		/* Poly1305 and ChaCha20 use every bit of the ChaCha20 key, so none is without effect. */
		CHECK(!job.ok && all_zero(out, sizeof(out)));
		bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	}
	kernel->open(&job, 1);
	CHECK(job.ok && out[0] == 3 && all_zero(out + 1, sizeof(out) - 1));
}

/* Kernels with one fault each; the self-test must find all of them. */
static bool yes(void) { return true; }
static bool no(void) { return false; }

static void seal_wrong_last_byte(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_portable.seal(jobs, n);
	for (size_t i = 0; i < n; i++)
		if (jobs[i].len == 1400) /* one of the 384 lengths of the digest */
			jobs[i].dst[1399] ^= 1;
}

static void seal_stray(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_portable.seal(jobs, n);
	for (size_t i = 0; i < n; i++)
		if (n == JOBS && jobs[i].len == 100)
			jobs[i].dst[jobs[i].len + WGF_TAG_SIZE] = 0;
}

static void open_keeps_output(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_portable.open(jobs, n);
	for (size_t i = 0; i < n; i++)
		if (!jobs[i].ok && jobs[i].len > 0)
			jobs[i].dst[jobs[i].len - 1] = 1;
}

static void open_trusts(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_portable.open(jobs, n);
	jobs[n - 1].ok = true;
}

static void test_selftest(void)
{
	const struct wgf_aead_kernel *good = &wgf_aead_portable;
	const struct wgf_aead_kernel faulty[] = {
		{"wrong byte", yes, seal_wrong_last_byte, good->open},
		{"stray write", yes, seal_stray, good->open},
		{"keeps output", yes, good->seal, open_keeps_output},
		{"trusts", yes, good->seal, open_trusts},
	};
	const struct wgf_aead_kernel fine = {"fine", yes, good->seal, good->open};
	const struct wgf_aead_kernel absent = {"absent", no, NULL, NULL};

	for (size_t i = 0; i < sizeof(faulty) / sizeof(faulty[0]); i++)
		CHECK(wgf_aead_examine(&faulty[i]) == WGF_AEAD_FAILED);
	CHECK(wgf_aead_examine(&fine) == WGF_AEAD_USABLE);
	CHECK(wgf_aead_examine(&absent) == WGF_AEAD_UNSUPPORTED);
}

static void test_choice(void)
{
	CHECK(wgf_aead_find("portable") == &wgf_aead_portable);
	CHECK(wgf_aead_find("nonsense") == NULL);
	CHECK(wgf_aead_choose("nonsense") == -ENOENT);
	CHECK(wgf_aead_choose("portable") == 0);
	CHECK(wgf_aead_chosen() == &wgf_aead_portable);
	CHECK(wgf_aead_choose("") == -ENOENT);
	CHECK(wgf_aead_chosen() == &wgf_aead_portable);
	for (size_t i = 0; wgf_aead_kernels[i] != NULL; i++) {
		enum wgf_aead_state state = wgf_aead_examine(wgf_aead_kernels[i]);
		printf("test_aead: %s: %s\n", wgf_aead_kernels[i]->name, wgf_aead_reason(state));
		CHECK(state != WGF_AEAD_FAILED);
		CHECK(wgf_aead_choose(wgf_aead_kernels[i]->name) == (state == WGF_AEAD_USABLE ? 0 : -ENOTSUP));
	}
	CHECK(wgf_aead_choose(NULL) == 0);
}

/* Two threads make the first choice together, then seal and open while the choice changes. */
static void *seal_in_thread(void *argument)
{
	struct check_random random = {(uintptr_t)argument};
	uint8_t keys[16][32], texts[16][300], sealed[16][300 + WGF_TAG_SIZE];
	struct wgf_aead_job jobs[16];

	for (int round = 0; round < 200; round++) {
		for (size_t i = 0; i < 16; i++) {
			check_random_fill(&random, keys[i], 32);
			check_random_fill(&random, texts[i], sizeof(texts[i]));
			jobs[i] = (struct wgf_aead_job){.key = keys[i], .counter = i, .src = texts[i],
							.dst = sealed[i],
							.len = check_random_below(&random, 301)};
		}
		wgf_aead_seal(jobs, 16);
		for (size_t i = 0; i < 16; i++)
			jobs[i].src = sealed[i];
		wgf_aead_open(jobs, 16);
		for (size_t i = 0; i < 16; i++)
			CHECK(jobs[i].ok && memcmp(sealed[i], texts[i], jobs[i].len) == 0);
		CHECK(wgf_aead_choose(round % 2 ? NULL : "portable") == 0);
	}
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[2];
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, seal_in_thread, (void *)(i + 1)) == 0);
	for (size_t i = 0; i < 2; i++)
		CHECK(pthread_join(threads[i], NULL) == 0);
}

int main(void)
{
	struct check_random random = check_random_begin("test_aead");

	CHECK(setenv("WGFAST_AEAD", "nonsense", 1) == 0); /* must not stop the first use */
	test_threads();
	test_choice();
	test_selftest();
	test_poly1305_vectors();
	for (size_t i = 0; wgf_aead_kernels[i] != NULL; i++) {
		const struct wgf_aead_kernel *kernel = wgf_aead_kernels[i];
		if (wgf_aead_choose(kernel->name) != 0)
			continue;
		test_rfc8439_decryption(kernel);
		test_xchacha();
		test_every_bit(kernel);
		test_guard_pages(kernel, &random);
		test_mixed_batches(kernel, &random);
	}
	printf("test_aead: ok\n");
	return 0;
}
