/* Is a kernel right? Asked once before it is used, and in the tests. First the AEAD's, at the end BLAKE2s's.
 *
 * Three questions: does it give the published answer (RFC 8439) and the digest that an independent
 * implementation gives over 384 lengths; does it refuse every tag with one bit flipped and leave
 * zeros; and does it agree with the portable kernel over batches of mixed lengths, alignments, places
 * and tampering, without writing a byte beside its output. Kernels spread packets over lanes, so there
 * are full batches of like and of mixed lengths, and small ones where long packets stand among short
 * ones. A few milliseconds, memory from the heap: this is not the packet path. */
#include <stdlib.h>

#include "aead.h"
#include "blake2s.h"
#include "bytes.h"

#define JOBS 64u
#define ALIGNMENTS 64u
#define BESIDE (ALIGNMENTS + WGF_TAG_SIZE + 60u) /* room on both sides, to see a stray write */
#define ROOM (JOBS * (2100u + BESIDE))
#define STRAY 0xa5

/* A batch to try: lengths from `from` upwards by one, or, where `to` is larger, anything between, where
 * half of the jobs are at most `brief`. All of them fit into ROOM. */
struct deal {
	uint32_t jobs, from, to, brief;
	bool ones; /* ciphertext that is all ones: blocks that drive Poly1305's limbs to their limits */
};

static const struct deal deals[] = {
	{64, 0, 0, 0, false}, {64, 64, 0, 0, false}, {64, 128, 0, 0, false}, {64, 192, 0, 0, false},
	{64, 256, 0, 0, false}, {64, 320, 0, 0, false}, {64, 0, 2100, 2100, false}, {64, 0, 2100, 100, false},
	{64, 0, 0, 0, true}, {64, 0, 2100, 400, true}, {17, 0, 8000, 200, false}, {16, 0, 8000, 40, false},
	{9, 0, 9000, 1500, false}, {8, 0, 9000, 90, false}, {5, 0, 9000, 600, false}, {4, 0, 9000, 60, false},
	{4, 0, 9000, 2000, false}, {3, 0, 9000, 200, false}, {3, 0, 9000, 3000, false}, {2, 0, 9000, 64, false},
	{2, 0, 9000, 1500, false}, {2, 0, 9000, 9000, true}, {1, 0, 64, 64, false}, {1, 65, 256, 200, false},
	{1, 257, 512, 400, false}, {1, 513, 1500, 1000, false}, {1, 1500, 9000, 2000, true},
};

struct room {
	struct wgf_aead_job jobs[JOBS];
	size_t n;                     /* of them that are tried */
	size_t slot;                  /* bytes each has in the arrays below */
	uint8_t keys[JOBS][WGF_KEY_SIZE];
	uint8_t ad[JOBS][48];
	size_t offset[JOBS];          /* of the output in its slot */
	bool tampered[JOBS];
	uint8_t text[ROOM];           /* plaintext at offset 0 */
	uint8_t sealed[ROOM];
	uint8_t expected[ROOM];       /* sealed by the portable kernel */
	uint8_t opened[ROOM];
	uint64_t random;
};

/* RFC 8439 section 2.8.2 */
static bool published_answer(const struct wgf_aead_kernel *kernel)
{
	static const uint8_t sealed[] = {
		0xd3, 0x1a, 0x8d, 0x34, 0x64, 0x8e, 0x60, 0xdb, 0x7b, 0x86, 0xaf, 0xbc, 0x53, 0xef, 0x7e, 0xc2,
		0xa4, 0xad, 0xed, 0x51, 0x29, 0x6e, 0x08, 0xfe, 0xa9, 0xe2, 0xb5, 0xa7, 0x36, 0xee, 0x62, 0xd6,
		0x3d, 0xbe, 0xa4, 0x5e, 0x8c, 0xa9, 0x67, 0x12, 0x82, 0xfa, 0xfb, 0x69, 0xda, 0x92, 0x72, 0x8b,
		0x1a, 0x71, 0xde, 0x0a, 0x9e, 0x06, 0x0b, 0x29, 0x05, 0xd6, 0xa5, 0xb6, 0x7e, 0xcd, 0x3b, 0x36,
		0x92, 0xdd, 0xbd, 0x7f, 0x2d, 0x77, 0x8b, 0x8c, 0x98, 0x03, 0xae, 0xe3, 0x28, 0x09, 0x1b, 0x58,
		0xfa, 0xb3, 0x24, 0xe4, 0xfa, 0xd6, 0x75, 0x94, 0x55, 0x85, 0x80, 0x8b, 0x48, 0x31, 0xd7, 0xbc,
		0x3f, 0xf4, 0xde, 0xf0, 0x8e, 0x4b, 0x7a, 0x9d, 0xe5, 0x76, 0xd2, 0x65, 0x86, 0xce, 0xc6, 0x4b,
		0x61, 0x16, 0x1a, 0xe1, 0x0b, 0x59, 0x4f, 0x09, 0xe2, 0x6a, 0x7e, 0x90, 0x2e, 0xcb, 0xd0, 0x60,
		0x06, 0x91,
	};
	static const uint8_t ad[12] = {0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7};
	static const char text[] = "Ladies and Gentlemen of the class of '99: If I could offer you only one tip "
				   "for the future, sunscreen would be it.";
	uint8_t key[WGF_KEY_SIZE], out[sizeof(sealed)];

	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(0x80 + i);
	struct wgf_aead_job job = {.key = key, .prefix = 7, .counter = UINT64_C(0x4746454443424140), .ad = ad,
				   .ad_len = sizeof(ad), .src = (const uint8_t *)text, .dst = out,
				   .len = sizeof(text) - 1};
	kernel->seal(&job, 1);
	if (memcmp(out, sealed, sizeof(sealed)) != 0)
		return false;
	job.src = job.dst;
	kernel->open(&job, 1);
	return job.ok && memcmp(out, text, sizeof(text) - 1) == 0;
}

/* The digest was computed with python-cryptography (OpenSSL) over the same inputs. */
static bool independent_digest(const struct wgf_aead_kernel *kernel, struct room *room)
{
	static const uint8_t known[WGF_HASH_SIZE] = {
		0x3a, 0x08, 0x81, 0x43, 0xdd, 0xd2, 0xbd, 0xad, 0x65, 0x3e, 0x6b, 0x13, 0xe9, 0x38, 0xa1, 0x2b,
		0xb0, 0xf6, 0x40, 0xb0, 0x34, 0x9b, 0x4a, 0x22, 0x2c, 0xb9, 0x72, 0x46, 0x3c, 0x2a, 0x1f, 0xe9,
	};
	const size_t slot = ROOM / JOBS;
	uint8_t digest[WGF_HASH_SIZE];
	struct wgf_blake2s state;

	wgf_blake2s_init(&state, sizeof(digest), NULL, 0);
	for (uint32_t i = 0; i < 6 * JOBS; i += JOBS) {
		for (uint32_t k = 0; k < JOBS; k++) {
			uint32_t n = i + k; /* 0 to 319 bytes, then in steps of 27 to 2048 */
			struct wgf_aead_job job = {.key = room->keys[k],
						   .prefix = n * 0x9e3779b9u,
						   .counter = (n + 1) * UINT64_C(0x0123456789abcdef),
						   .ad = room->ad[k],
						   .ad_len = n % 37,
						   .src = room->text + k * slot,
						   .dst = room->sealed + k * slot,
						   .len = n < 320 ? n : 320 + (n - 319) * 27};
			for (uint32_t j = 0; j < WGF_KEY_SIZE; j++)
				room->keys[k][j] = (uint8_t)(n * 7 + j * 11 + 1);
			for (uint32_t j = 0; j < job.ad_len; j++)
				room->ad[k][j] = (uint8_t)(j * 31 + n * 3 + 5);
			for (uint32_t j = 0; j < job.len; j++)
				room->text[k * slot + j] = (uint8_t)(j * j + n * 13);
			room->jobs[k] = job;
		}
		kernel->seal(room->jobs, JOBS);
		for (uint32_t k = 0; k < JOBS; k++)
			wgf_blake2s_update(&state, room->jobs[k].dst, room->jobs[k].len + WGF_TAG_SIZE);
	}
	wgf_blake2s_final(&state, digest);
	return memcmp(digest, known, sizeof(known)) == 0;
}

static bool all_zero(const uint8_t *p, size_t n)
{
	uint8_t seen = 0;
	for (size_t i = 0; i < n; i++)
		seen |= p[i];
	return seen == 0;
}

/* One message, its tag wrong by one bit in every way, in place and apart. */
static bool tags_refused(const struct wgf_aead_kernel *kernel, struct room *room)
{
	static const uint8_t text[77] = "refused";
	static const uint8_t key[WGF_KEY_SIZE] = "key";
	uint8_t sealed[sizeof(text) + WGF_TAG_SIZE];
	struct wgf_aead_job job = {.key = key, .counter = 1, .src = text, .dst = sealed, .len = sizeof(text)};

	kernel->seal(&job, 1);
	for (size_t bit = 0; bit < 8 * WGF_TAG_SIZE; bit += JOBS) {
		for (size_t k = 0; k < JOBS; k++) {
			uint8_t *wrong = room->sealed + k * sizeof(sealed), *opened = room->opened + k * sizeof(text);
			memcpy(wrong, sealed, sizeof(sealed));
			memset(opened, STRAY, sizeof(text));
			wrong[sizeof(text) + (bit + k) / 8] ^= (uint8_t)(1u << (bit + k) % 8);
			room->jobs[k] = job;
			room->jobs[k].ok = true;
			room->jobs[k].src = wrong;
			room->jobs[k].dst = k % 3 == 0 ? wrong : opened;
		}
		kernel->open(room->jobs, JOBS);
		for (size_t k = 0; k < JOBS; k++)
			if (room->jobs[k].ok || !all_zero(room->jobs[k].dst, sizeof(text)))
				return false;
	}
	return true;
}

/* xorshift64*: the same sequence at every start. */
static uint64_t next_random(struct room *room)
{
	uint64_t x = room->random;
	x ^= x >> 12;
	x ^= x << 25;
	x ^= x >> 27;
	room->random = x;
	return x * UINT64_C(0x2545f4914f6cdd1d);
}

static void fill_random(struct room *room, uint8_t *p, size_t n)
{
	for (size_t i = 0; i < n; i += 8) {
		uint8_t bytes[8];
		wgf_store_le64(bytes, next_random(room));
		memcpy(p + i, bytes, n - i < 8 ? n - i : 8);
	}
}

/* Jobs from text to sealed at random offsets. */
static void deal_jobs(struct room *room, const struct deal *deal)
{
	const bool mixed = deal->to > deal->from;

	room->n = deal->jobs;
	room->slot = (mixed ? deal->to : deal->from + deal->jobs) + BESIDE; /* at most ROOM for all: see the table */
	for (size_t k = 0; k < room->n; k++) {
		const uint64_t dice = next_random(room);
		const uint32_t to = dice >> 5 & 1 ? deal->to : deal->brief;
		struct wgf_aead_job *job = &room->jobs[k];
		*job = (struct wgf_aead_job){.key = room->keys[k - (dice & 1 && k > 0)],
					     .prefix = dice & 6 ? 0 : (uint32_t)(dice >> 16),
					     .counter = next_random(room),
					     .ad_len = dice >> 3 & 1 ? (dice >> 48) % 48 : 0,
					     .src = room->text + k * room->slot,
					     .len = deal->from + (mixed ? next_random(room) % (to - deal->from + 1) : k)};
		job->ad = job->ad_len > 0 ? room->ad[k] : NULL;
		room->offset[k] = (dice >> 8) % ALIGNMENTS;
		room->tampered[k] = (dice >> 56 & 3) == 0;
		fill_random(room, room->keys[k], WGF_KEY_SIZE);
		fill_random(room, room->ad[k], sizeof(room->ad[k]));
		fill_random(room, room->text + k * room->slot, job->len);
	}
}

/* Changes the plaintexts so that their ciphertext is all ones. */
static void make_ones(struct room *room)
{
	for (size_t k = 0; k < room->n; k++) {
		memset(room->text + k * room->slot, 0, room->jobs[k].len);
		room->jobs[k].dst = room->expected + k * room->slot;
	}
	wgf_aead_portable.seal(room->jobs, room->n);
	for (size_t k = 0; k < room->n; k++)
		for (size_t i = k * room->slot; i < k * room->slot + room->jobs[k].len; i++)
			room->text[i] = (uint8_t)~room->expected[i];
}

/* Every third job in place. */
static bool seals_like_portable(const struct wgf_aead_kernel *kernel, struct room *room)
{
	memset(room->sealed, STRAY, room->n * room->slot);
	memset(room->expected, STRAY, room->n * room->slot);
	for (size_t k = 0; k < room->n; k++)
		room->jobs[k].dst = room->expected + k * room->slot + room->offset[k];
	wgf_aead_portable.seal(room->jobs, room->n);
	for (size_t k = 0; k < room->n; k++) {
		struct wgf_aead_job *job = &room->jobs[k];
		job->dst = room->sealed + k * room->slot + room->offset[k];
		if (k % 3 == 0) {
			memcpy(job->dst, job->src, job->len);
			job->src = job->dst;
		}
	}
	kernel->seal(room->jobs, room->n);
	return memcmp(room->sealed, room->expected, room->n * room->slot) == 0;
}

static bool is_stray(const uint8_t *p, const uint8_t *end)
{
	for (; p < end; p++)
		if (*p != STRAY)
			return false;
	return true;
}

/* Opens what was sealed, some of it tampered with anywhere; every fourth job in place. */
static bool opens_what_is_right(const struct wgf_aead_kernel *kernel, struct room *room)
{
	memset(room->opened, STRAY, room->n * room->slot);
	for (size_t k = 0; k < room->n; k++) {
		struct wgf_aead_job *job = &room->jobs[k];
		uint8_t *sealed = room->sealed + k * room->slot + room->offset[k];
		uint64_t dice = next_random(room);
		if (room->tampered[k])
			sealed[(dice >> 8) % (job->len + WGF_TAG_SIZE)] ^= (uint8_t)(1u << (dice & 7));
		job->dst = room->opened + k * room->slot + dice % ALIGNMENTS;
		job->ok = room->tampered[k];
		job->src = sealed;
		if (k % 4 == 0) {
			memcpy(job->dst, sealed, job->len + WGF_TAG_SIZE);
			job->src = job->dst;
		}
	}
	kernel->open(room->jobs, room->n);
	for (size_t k = 0; k < room->n; k++) {
		const struct wgf_aead_job *job = &room->jobs[k];
		const uint8_t *slot = room->opened + k * room->slot;
		if (job->ok == room->tampered[k])
			return false;
		if (job->ok ? job->len > 0 && memcmp(job->dst, room->text + k * room->slot, job->len) != 0
			    : !all_zero(job->dst, job->len))
			return false;
		if (!is_stray(slot, job->dst) ||
		    !is_stray(job->dst + job->len + (k % 4 == 0 ? WGF_TAG_SIZE : 0), slot + room->slot))
			return false;
	}
	return true;
}

static bool agrees_with_portable(const struct wgf_aead_kernel *kernel, struct room *room)
{
	room->random = UINT64_C(0x9e3779b97f4a7c15);
	for (size_t i = 0; i < sizeof(deals) / sizeof(deals[0]); i++) {
		deal_jobs(room, &deals[i]);
		if (deals[i].ones)
			make_ones(room);
		if (!seals_like_portable(kernel, room) || !opens_what_is_right(kernel, room))
			return false;
	}
	return true;
}

bool wgf_selftest_aead(const struct wgf_aead_kernel *kernel)
{
	struct room *room = calloc(1, sizeof(*room));
	bool right = room != NULL && published_answer(kernel) && independent_digest(kernel, room) &&
		     tags_refused(kernel, room) && agrees_with_portable(kernel, room);
	free(room);
	return right;
}

/* ---- BLAKE2s: lengths around one block, two and three, every lane with a message of its own ---- */

bool wgf_selftest_blake2s(void (*many)(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t len,
				       uint8_t (*digests)[WGF_HASH_SIZE]))
{
	uint8_t bytes[WGF_BLAKE2S_LANES * 3 + 200], digests[WGF_BLAKE2S_LANES][WGF_HASH_SIZE];
	uint8_t key[WGF_KEY_SIZE], expected[WGF_HASH_SIZE];
	const uint8_t *messages[WGF_BLAKE2S_LANES];
	struct wgf_blake2s start;
	for (size_t i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)(i * i + 7 * i + i / 16);
	for (size_t i = 0; i < sizeof(key); i++)
		key[i] = (uint8_t)(i * 11 + 3);
	for (size_t i = 0; i < WGF_BLAKE2S_LANES; i++)
		messages[i] = bytes + 3 * i;
	wgf_blake2s_init(&start, WGF_HASH_SIZE, key, sizeof(key));
	wgf_blake2s_settle(&start);
	for (size_t len = 4; len <= 200; len += 4) {
		many(&start, messages, len, digests);
		for (size_t i = 0; i < WGF_BLAKE2S_LANES; i++) {
			wgf_blake2s(expected, WGF_HASH_SIZE, key, sizeof(key), messages[i], len);
			if (memcmp(digests[i], expected, WGF_HASH_SIZE) != 0)
				return false;
		}
	}
	return true;
}
