/* What a kernel leaves on the stack below its call: nothing that depends on a key, or that is one.
 *
 * The kernel runs on a stack of its own (makecontext), so that all of it is dead when the call is over
 * and can be read as memory. Each scene runs under three sets of keys, with everything else the same and
 * at the same addresses. A word of the stack that changes with the keys is residue, in whatever form the
 * kernel keeps its secrets (limbs, powers of r, half-done blocks), unless it is part of a ciphertext or a
 * tag that the world sees anyway. What is key, one-time key or key stream in plain form is named.
 *
 * Not under sanitizers: they keep their own things on the stack. With WGF_STACK_LIBRARY it is a library
 * for test_aead_stack.py, which scans the kernels of the extension as users have them.
 *
 * cc -I wgfast/core -I tests/core tests/core/test_aead_stack.c wgfast/core/{aead*,poly1305,selftest,
 * blake2s}.c -pthread */
#include <ucontext.h>

#include "aead.h"
#include "bytes.h"
#include "check.h"
#include "guard.h"

#define JOBS 64u
#define LENGTH_MAX 2100u
#define SETS 3u /* of keys; a fourth run repeats the first, to tell what changes without keys */
#define STACK (256u * 1024u)
#define WORDS (STACK / 4)
#define MIXED SIZE_MAX
#define BLOCKS_NAMED 8u /* blocks of each packet whose key stream is looked for */

enum scene { SEAL, OPEN, OPEN_FORGED };

static const char *const scene_names[] = {"seal", "open", "open, all forged"};

/* What is looked for by name. Values of 32 bits; a value and its kind are one number to sort by. */
enum kind { KEY, ONE_TIME_KEY, LIMB, KEY_STREAM, ROUNDS, KINDS };

static const char *const kind_names[KINDS + 1] = {
	"key", "one-time key", "limb of r", "key stream", "key stream before the last addition", "other",
};

struct words {
	uint64_t *values; /* sorted; value << 8 | kind */
	size_t n, room;
};

struct set {
	uint8_t keys[JOBS][WGF_KEY_SIZE];
	uint8_t sealed[JOBS][LENGTH_MAX + WGF_TAG_SIZE];
	struct words secret, public;
	uint32_t left[WORDS]; /* on the stack, after the call */
};

static struct set sets[SETS + 1];
static struct wgf_aead_job jobs[JOBS];
static uint8_t ads[JOBS][32], texts[JOBS][LENGTH_MAX];
static uint8_t input[JOBS][LENGTH_MAX + WGF_TAG_SIZE], output[JOBS][LENGTH_MAX + WGF_TAG_SIZE];
static size_t jobs_n;

/* ---- a call on a stack of its own ---- */

static struct {
	ucontext_t here, there;
	void (*function)(struct wgf_aead_job *jobs, size_t n);
	struct guard stack;
} away;

static void call_there(void)
{
	away.function(jobs, jobs_n);
}

/* Runs the function over all jobs and copies what it left behind. */
static void call_and_copy(void (*function)(struct wgf_aead_job *, size_t), uint32_t *left)
{
	memset(away.stack.first, 0, STACK);
	away.function = function;
	CHECK(getcontext(&away.there) == 0);
	away.there.uc_stack.ss_sp = away.stack.first;
	away.there.uc_stack.ss_size = STACK;
	away.there.uc_link = &away.here;
	makecontext(&away.there, call_there, 0);
	CHECK(swapcontext(&away.here, &away.there) == 0);
	memcpy(left, away.stack.first, STACK);
}

/* ---- what must not be found, and what may ---- */

static void words_add(struct words *words, uint32_t value, enum kind kind)
{
	if (words->n == words->room) {
		words->room = words->room ? 2 * words->room : 4096;
		words->values = realloc(words->values, words->room * sizeof(words->values[0]));
		CHECK(words->values != NULL);
	}
	words->values[words->n++] = (uint64_t)value << 8 | kind;
}

static int compare(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
	return (x > y) - (x < y);
}

/* The kind of this value, or -1. Small numbers are lengths and counts. */
static int words_find(const struct words *words, uint32_t value)
{
	size_t low = 0, high = words->n;
	while (low < high) {
		size_t middle = (low + high) / 2;
		if (words->values[middle] >> 8 < value)
			low = middle + 1;
		else
			high = middle;
	}
	if (value < 0x10000 || low == words->n || words->values[low] >> 8 != value)
		return -1;
	return (int)(words->values[low] & 0xff);
}

static uint32_t rotate(uint32_t x, int bits)
{
	return x << bits | x >> (32 - bits);
}

static void quarter_round(uint32_t *x, int a, int b, int c, int d)
{
	x[d] = rotate(x[d] ^ (x[a] += x[b]), 16);
	x[b] = rotate(x[b] ^ (x[c] += x[d]), 12);
	x[d] = rotate(x[d] ^ (x[a] += x[b]), 8);
	x[b] = rotate(x[b] ^ (x[c] += x[d]), 7);
}

/* RFC 8439 section 2.3; rounds is the state before the last addition. */
static void chacha20(uint32_t rounds[16], uint32_t out[16], const struct wgf_aead_job *job, uint32_t counter)
{
	uint32_t in[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
	for (size_t i = 0; i < 8; i++)
		in[4 + i] = wgf_load_le32(job->key + 4 * i);
	in[12] = counter;
	in[13] = job->prefix;
	in[14] = (uint32_t)job->counter;
	in[15] = (uint32_t)(job->counter >> 32);
	memcpy(rounds, in, sizeof(in));
	for (int round = 0; round < 20; round += 2) {
		for (int i = 0; i < 4; i++)
			quarter_round(rounds, i, 4 + i, 8 + i, 12 + i);
		for (int i = 0; i < 4; i++)
			quarter_round(rounds, i, 4 + (i + 1) % 4, 8 + (i + 2) % 4, 12 + (i + 3) % 4);
	}
	for (size_t i = 0; i < 16; i++)
		out[i] = rounds[i] + in[i];
}

/* The low words of the limbs a kernel may cut r into, and five times them. */
static void add_limbs(struct words *words, const uint32_t key[4])
{
	static const unsigned radices[] = {26, 44, 52};
	uint64_t low = ((uint64_t)key[1] << 32 | key[0]) & UINT64_C(0x0ffffffc0fffffff);
	uint64_t high = ((uint64_t)key[3] << 32 | key[2]) & UINT64_C(0x0ffffffc0ffffffc);

	for (size_t i = 0; i < 3; i++)
		for (unsigned bit = 0; bit < 128; bit += radices[i]) {
			uint64_t limb = bit < 64 ? low >> bit : high >> (bit - 64);
			if (bit > 0 && bit < 64)
				limb |= high << (64 - bit);
			limb &= (UINT64_C(1) << radices[i]) - 1;
			words_add(words, (uint32_t)limb, LIMB);
			words_add(words, (uint32_t)(5 * limb), LIMB);
		}
	for (size_t i = 0; i < 4; i++)
		words_add(words, (uint32_t)((i < 2 ? low : high) >> 32 * (i % 2)), ONE_TIME_KEY);
}

/* Everything secret about a job whose key and nonce stand. */
static void add_secrets(struct words *words, const struct wgf_aead_job *job)
{
	uint32_t rounds[16], out[16];

	for (size_t i = 0; i < 8; i++)
		words_add(words, wgf_load_le32(job->key + 4 * i), KEY);
	for (uint32_t block = 0; block <= BLOCKS_NAMED && block <= (job->len + 63) / 64; block++) {
		chacha20(rounds, out, job, block);
		for (size_t i = 0; i < 16; i++) {
			words_add(words, out[i], block == 0 && i < 8 ? ONE_TIME_KEY : KEY_STREAM);
			words_add(words, rounds[i], ROUNDS);
		}
		if (block == 0)
			add_limbs(words, out);
	}
}

/* ---- scenes ---- */

/* Everything but the keys, which are the set's. */
static void deal(struct check_random *random, size_t n, size_t length)
{
	jobs_n = n;
	for (size_t i = 0; i < n; i++) {
		check_random_fill(random, texts[i], sizeof(texts[i]));
		check_random_fill(random, ads[i], sizeof(ads[i]));
		jobs[i] = (struct wgf_aead_job){.counter = check_random_next(random), .ad = ads[i],
						.ad_len = i % 3 ? 0 : check_random_below(random, 33),
						.len = length};
		if (length == MIXED)
			jobs[i].len = check_random_below(random, LENGTH_MAX + 1);
	}
}

static void begin_set(const struct wgf_aead_kernel *kernel, struct set *set, bool again)
{
	set->secret.n = set->public.n = 0;
	for (size_t i = 0; i < jobs_n; i++) {
		if (again)
			memcpy(set->keys[i], sets[0].keys[i], WGF_KEY_SIZE);
		jobs[i].key = set->keys[i];
		jobs[i].src = texts[i];
		jobs[i].dst = set->sealed[i];
		add_secrets(&set->secret, &jobs[i]);
	}
	kernel->seal(jobs, jobs_n);
	for (size_t i = 0; i < jobs_n; i++)
		for (size_t at = 0; at + 4 <= jobs[i].len + WGF_TAG_SIZE; at++)
			words_add(&set->public, wgf_load_le32(set->sealed[i] + at), 0);
	qsort(set->secret.values, set->secret.n, sizeof(uint64_t), compare);
	qsort(set->public.values, set->public.n, sizeof(uint64_t), compare);
}

/* The keys of the set go where those of the others went: addresses must not change. */
static void run_set(const struct wgf_aead_kernel *kernel, enum scene scene, struct set *set)
{
	static uint8_t keys[JOBS][WGF_KEY_SIZE];

	memcpy(keys, set->keys, sizeof(keys));
	for (size_t i = 0; i < jobs_n; i++) {
		const uint8_t *sealed = scene == OPEN ? set->sealed[i] : sets[0].sealed[i];
		if (scene == SEAL)
			memcpy(input[i], texts[i], jobs[i].len);
		else
			memcpy(input[i], sealed, jobs[i].len + WGF_TAG_SIZE);
		if (scene == OPEN_FORGED)
			input[i][jobs[i].len] ^= 1;
		jobs[i].key = keys[i];
		jobs[i].src = input[i];
		jobs[i].dst = i % 2 ? input[i] : output[i];
	}
	call_and_copy(scene == SEAL ? kernel->seal : kernel->open, set->left);
	for (size_t i = 0; i < jobs_n && scene != SEAL; i++)
		CHECK(jobs[i].ok == (scene == OPEN));
}

/* Of the word at this place of the stack: does it follow the keys, beyond what is public? */
static bool is_residue(size_t at, enum scene scene)
{
	if (sets[0].left[at] != sets[SETS].left[at])
		return false;
	bool differs = false;
	for (size_t k = 0; k < SETS; k++) {
		differs |= sets[k].left[at] != sets[0].left[at];
		/* What all forgeries contain is the same in all sets: a difference is a secret. */
		if (scene != OPEN_FORGED && words_find(&sets[k].public, sets[k].left[at]) >= 0)
			return false;
	}
	return differs;
}

/* Under every set: one hit may be chance. */
static int kind_at(size_t at)
{
	for (size_t k = 0; k < SETS; k++)
		if (words_find(&sets[k].secret, sets[k].left[at]) < 0)
			return -1;
	return words_find(&sets[0].secret, sets[0].left[at]);
}

struct residue {
	size_t words, shallowest, deepest; /* bytes below the call */
	size_t kinds[KINDS + 1];           /* the last: of no kind that is looked for */
};

static struct residue scan(enum scene scene)
{
	struct residue residue = {0};

	for (size_t at = 0; at < WORDS; at++) {
		int kind = kind_at(at);
		if (kind < 0 && !is_residue(at, scene))
			continue;
		residue.kinds[kind < 0 ? KINDS : kind]++;
		residue.shallowest = STACK - 4 * at;
		if (residue.words++ == 0)
			residue.deepest = residue.shallowest;
	}
	return residue;
}

static void print(const char *name, enum scene scene, size_t n, const char *lengths, struct residue residue)
{
	printf("test_aead_stack: %s: %s, %zu of %s: %zu words left, %zu to %zu bytes down:", name,
	       scene_names[scene], n, lengths, residue.words, residue.shallowest, residue.deepest);
	for (size_t i = 0; i <= KINDS; i++)
		if (residue.kinds[i] > 0)
			printf(" %zu %s;", residue.kinds[i], kind_names[i]);
	printf("\n");
}

/* How many words are left in all scenes together. Prints what each verb leaves at its worst. */
size_t scan_kernel(const struct wgf_aead_kernel *kernel);
size_t scan_kernel(const struct wgf_aead_kernel *kernel)
{
	static const struct {
		size_t n, length;
		const char *lengths;
	} batches[] = {{1, 0, "0 bytes"}, {1, 64, "64 bytes"}, {1, 1420, "1,420 bytes"},
		       {7, MIXED, "mixed lengths"}, {JOBS, 64, "64 bytes"}, {JOBS, 1420, "1,420 bytes"},
		       {JOBS, MIXED, "mixed lengths"}};
	struct check_random random = check_random_begin("test_aead_stack");
	struct residue worst[3] = {{0}};
	size_t where[3] = {0}, total = 0;

	away.stack = guard_map(STACK);
	for (size_t i = 0; i < sizeof(batches) / sizeof(batches[0]); i++) {
		deal(&random, batches[i].n, batches[i].length);
		for (size_t k = 0; k <= SETS; k++) {
			check_random_fill(&random, &sets[k].keys[0][0], sizeof(sets[k].keys));
			begin_set(kernel, &sets[k], k == SETS);
		}
		for (enum scene scene = SEAL; scene <= OPEN_FORGED; scene++) {
			for (size_t k = 0; k <= SETS; k++)
				run_set(kernel, scene, &sets[k]);
			struct residue residue = scan(scene);
			if (residue.words > worst[scene].words) {
				worst[scene] = residue;
				where[scene] = i;
			}
			total += residue.words;
		}
	}
	guard_unmap(away.stack);
	for (enum scene scene = SEAL; scene <= OPEN_FORGED; scene++)
		if (worst[scene].words > 0)
			print(kernel->name, scene, batches[where[scene]].n, batches[where[scene]].lengths,
			      worst[scene]);
	fflush(stdout);
	return total;
}

#ifndef WGF_STACK_LIBRARY
/* Leaves its key where it should not: the test must see it. */
static void __attribute__((noinline)) careless_seal(struct wgf_aead_job *all, size_t n)
{
	uint8_t copy[WGF_KEY_SIZE];
	wgf_aead_portable.seal(all, n);
	memcpy(copy, all[0].key, sizeof(copy));
	__asm__ volatile("" : : "r"(copy) : "memory");
}

/* Leaves only one bit of every word, in a form nobody looks for. */
static void __attribute__((noinline)) subtle_open(struct wgf_aead_job *all, size_t n)
{
	uint32_t copy[8];
	wgf_aead_portable.open(all, n);
	for (size_t i = 0; i < 8; i++)
		copy[i] = wgf_load_le32(all[0].key + 4 * i) * 0x9e3779b9u >> 31;
	__asm__ volatile("" : : "r"(copy) : "memory");
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED true
#else
#define SANITIZED false
#endif

int main(void)
{
	const struct wgf_aead_kernel careless = {"careless", wgf_aead_portable.supported, careless_seal,
						 wgf_aead_portable.open};
	const struct wgf_aead_kernel subtle = {"subtle", wgf_aead_portable.supported, wgf_aead_portable.seal,
					       subtle_open};
	size_t found = 0, portable;

	if (SANITIZED) {
		printf("test_aead_stack: left out: the sanitizer uses the stack\n");
		return 0;
	}
	/* This also binds what it calls: the dynamic linker would save registers on the stack below. */
	CHECK(wgf_aead_examine(&wgf_aead_portable) == WGF_AEAD_USABLE);
	portable = scan_kernel(&wgf_aead_portable);
	printf("test_aead_stack: two that must be found out:\n");
	CHECK(scan_kernel(&careless) > portable + 20);
	CHECK(scan_kernel(&subtle) > portable + 20);
	printf("test_aead_stack: the kernels:\n");
	for (size_t i = 0; wgf_aead_kernels[i] != NULL; i++)
		if (wgf_aead_examine(wgf_aead_kernels[i]) == WGF_AEAD_USABLE)
			found += scan_kernel(wgf_aead_kernels[i]);
	CHECK(found == 0);
	printf("test_aead_stack: ok\n");
	return 0;
}
#endif
