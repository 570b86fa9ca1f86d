/* ChaCha20-Poly1305 for aarch64, where every processor has NEON.
 *
 * The shape: a batch is one stream of ChaCha20 blocks, first the key block of every packet, then the
 * data blocks of one packet after the other. A pass computes the next four, whichever packets they
 * belong to, one in each 32-bit lane of sixteen of the 32 vector registers, so that nothing is spilled.
 * Poly1305 stays with poly1305.c: a 64-bit multiplication gives 128 bits in two instructions here, and
 * one block takes four of them, where NEON's 32-bit lanes would take 25 for two blocks.
 *
 * When opening, all packets are authenticated between their key blocks and their data blocks, so that
 * nothing is decrypted that is not right.
 *
 * No branch and no address depends on a secret. Everything secret stands in struct scratch, wiped at
 * the end with the stack below, where the compiler may have put registers. */
#include "aead.h"

#if defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__

#include <arm_neon.h>

#include "bytes.h"
#include "poly1305.h"

#define INLINE static inline __attribute__((always_inline))

#define CHUNK 16u /* packets whose key blocks are made together; they should stay in the cache */
#define LANES 4u
#define BLOCK ((size_t)64)

/* Which block a lane computes: counter 0 is the key of Poly1305. */
struct lane {
	size_t job;
	uint32_t counter;
};

struct scratch {
	uint32_t state[16][LANES];
	uint8_t stream[LANES][BLOCK];
	struct wgf_poly1305 mac[CHUNK];
	uint8_t tag[WGF_TAG_SIZE];

	/* Nothing secret from here on. */
	struct wgf_aead_job *jobs;
	size_t n;
	struct lane next; /* the next block to compute; job n: there is none */
};

INLINE uint32x4_t rotate_16(uint32x4_t x)
{
	return vreinterpretq_u32_u16(vrev32q_u16(vreinterpretq_u16_u32(x)));
}

INLINE uint32x4_t rotate_8(uint32x4_t x)
{
	const uint8x16_t by = {3, 0, 1, 2, 7, 4, 5, 6, 11, 8, 9, 10, 15, 12, 13, 14};
	return vreinterpretq_u32_u8(vqtbl1q_u8(vreinterpretq_u8_u32(x), by));
}

#define ROTATE(x, bits) vsriq_n_u32(vshlq_n_u32(x, bits), x, 32 - (bits))

/* Four quarter rounds, step by step, so that neighbouring instructions do not wait for each other. */
INLINE void quarter_rounds(uint32x4_t x[16], const size_t b[4], const size_t c[4], const size_t d[4])
{
	for (size_t i = 0; i < 4; i++) {
		x[i] = vaddq_u32(x[i], x[b[i]]);
		x[d[i]] = rotate_16(veorq_u32(x[d[i]], x[i]));
	}
	for (size_t i = 0; i < 4; i++) {
		x[c[i]] = vaddq_u32(x[c[i]], x[d[i]]);
		x[b[i]] = veorq_u32(x[b[i]], x[c[i]]);
		x[b[i]] = ROTATE(x[b[i]], 12);
	}
	for (size_t i = 0; i < 4; i++) {
		x[i] = vaddq_u32(x[i], x[b[i]]);
		x[d[i]] = rotate_8(veorq_u32(x[d[i]], x[i]));
	}
	for (size_t i = 0; i < 4; i++) {
		x[c[i]] = vaddq_u32(x[c[i]], x[d[i]]);
		x[b[i]] = veorq_u32(x[b[i]], x[c[i]]);
		x[b[i]] = ROTATE(x[b[i]], 7);
	}
}

/* Four rows of four words become four columns, written 16 bytes of each block apart. */
INLINE void put_columns(uint8_t stream[LANES][BLOCK], size_t at, const uint32x4_t x[4])
{
	uint64x2_t a = vreinterpretq_u64_u32(vtrn1q_u32(x[0], x[1]));
	uint64x2_t b = vreinterpretq_u64_u32(vtrn2q_u32(x[0], x[1]));
	uint64x2_t c = vreinterpretq_u64_u32(vtrn1q_u32(x[2], x[3]));
	uint64x2_t d = vreinterpretq_u64_u32(vtrn2q_u32(x[2], x[3]));
	vst1q_u8(stream[0] + at, vreinterpretq_u8_u64(vtrn1q_u64(a, c)));
	vst1q_u8(stream[1] + at, vreinterpretq_u8_u64(vtrn1q_u64(b, d)));
	vst1q_u8(stream[2] + at, vreinterpretq_u8_u64(vtrn2q_u64(a, c)));
	vst1q_u8(stream[3] + at, vreinterpretq_u8_u64(vtrn2q_u64(b, d)));
}

/* The four blocks of s->state, each in the order of its bytes. */
static __attribute__((noinline)) void pass(struct scratch *s)
{
	static const size_t column[3][4] = {{4, 5, 6, 7}, {8, 9, 10, 11}, {12, 13, 14, 15}};
	static const size_t diagonal[3][4] = {{5, 6, 7, 4}, {10, 11, 8, 9}, {15, 12, 13, 14}};
	uint32x4_t x[16];

	for (size_t i = 0; i < 16; i++)
		x[i] = vld1q_u32(s->state[i]);
	for (size_t round = 0; round < 20; round += 2) {
		quarter_rounds(x, column[0], column[1], column[2]);
		quarter_rounds(x, diagonal[0], diagonal[1], diagonal[2]);
	}
	for (size_t i = 0; i < 16; i++)
		x[i] = vaddq_u32(x[i], vld1q_u32(s->state[i]));
	for (size_t i = 0; i < 4; i++)
		put_columns(s->stream, 16 * i, x + 4 * i);
}

static uint32_t blocks_of(const struct wgf_aead_job *job)
{
	return (uint32_t)((job->len + BLOCK - 1) / BLOCK);
}

/* The first data block of this packet or of the first one after it that has data and is to be had. */
static void begin_data(struct scratch *s, size_t job, bool opening)
{
	while (job < s->n && (s->jobs[job].len == 0 || (opening && !s->jobs[job].ok)))
		job++;
	s->next = (struct lane){.job = job, .counter = 1};
}

static struct lane take(struct scratch *s, bool opening)
{
	struct lane lane = s->next;
	if (lane.job == s->n)
		return lane;
	if (lane.counter > 0 && lane.counter == blocks_of(&s->jobs[lane.job]))
		begin_data(s, lane.job + 1, opening);
	else if (lane.counter > 0)
		s->next.counter++;
	else if (++s->next.job == s->n && !opening) /* the rest of this pass is data already */
		begin_data(s, 0, opening);
	return lane;
}

static void set_lane(struct scratch *s, size_t i, struct lane lane)
{
	const struct wgf_aead_job *job = &s->jobs[lane.job];
	for (size_t k = 0; k < 8; k++)
		s->state[4 + k][i] = wgf_load_le32(job->key + 4 * k);
	s->state[12][i] = lane.counter;
	s->state[13][i] = job->prefix;
	s->state[14][i] = (uint32_t)job->counter;
	s->state[15][i] = (uint32_t)(job->counter >> 32);
}

/* dst := src ^ stream; in place or apart, at any address. */
static void apply(uint8_t *dst, const uint8_t *src, const uint8_t *stream, size_t len)
{
	for (; len >= 16; len -= 16) {
		vst1q_u8(dst, veorq_u8(vld1q_u8(src), vld1q_u8(stream)));
		dst += 16;
		src += 16;
		stream += 16;
	}
	for (size_t i = 0; i < len; i++)
		dst[i] = src[i] ^ stream[i];
}

static void use(struct scratch *s, size_t i, struct lane lane)
{
	const struct wgf_aead_job *job = &s->jobs[lane.job];
	if (lane.counter == 0) {
		wgf_poly1305_init(&s->mac[lane.job], s->stream[i]);
		return;
	}
	const size_t at = BLOCK * (lane.counter - 1), left = job->len - at;
	apply(job->dst + at, job->src + at, s->stream[i], left < BLOCK ? left : BLOCK);
}

/* Passes until there is no next block. Most lanes go on where the pass before stopped, in the same
 * packet: their keys and nonces stand in the state already. */
static void run_passes(struct scratch *s, bool opening)
{
	size_t of[LANES] = {SIZE_MAX, SIZE_MAX, SIZE_MAX, SIZE_MAX};

	while (s->next.job < s->n) {
		struct lane lanes[LANES];
		for (size_t i = 0; i < LANES; i++) {
			lanes[i] = take(s, opening);
			if (lanes[i].job == of[i])
				s->state[12][i] = lanes[i].counter;
			else if (lanes[i].job < s->n)
				set_lane(s, i, lanes[i]);
			of[i] = lanes[i].job;
		}
		pass(s);
		for (size_t i = 0; i < LANES; i++)
			if (lanes[i].job < s->n)
				use(s, i, lanes[i]);
	}
}

static void authenticate(struct scratch *s, size_t i, const uint8_t *text)
{
	const struct wgf_aead_job *job = &s->jobs[i];
	uint8_t lengths[16];
	wgf_store_le64(lengths, job->ad_len);
	wgf_store_le64(lengths + 8, job->len);
	wgf_poly1305_update(&s->mac[i], job->ad, job->ad_len);
	wgf_poly1305_update(&s->mac[i], text, job->len);
	wgf_poly1305_update(&s->mac[i], lengths, sizeof(lengths));
	wgf_poly1305_final(&s->mac[i], s->tag);
}

static void begin(struct scratch *s, struct wgf_aead_job *jobs, size_t n)
{
	static const uint32_t constants[4] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574};
	memset(s->state, 0, sizeof(s->state));
	for (size_t i = 0; i < 4; i++)
		vst1q_u32(s->state[i], vdupq_n_u32(constants[i]));
	s->jobs = jobs;
	s->n = n;
	s->next = (struct lane){0, 0};
}

/* Wipes the scratch, and where the functions called before had their registers put. */
static __attribute__((noinline)) void wipe(struct scratch *s)
{
	uint8_t below[1024];
	wgf_wipe(below, sizeof(below));
	wgf_wipe(s, offsetof(struct scratch, jobs));
}

static void neon_seal(struct wgf_aead_job *jobs, size_t n)
{
	struct scratch s;
	for (; n > 0; jobs += s.n, n -= s.n) {
		begin(&s, jobs, n < CHUNK ? n : CHUNK);
		run_passes(&s, false);
		for (size_t i = 0; i < s.n; i++) {
			authenticate(&s, i, jobs[i].dst);
			memcpy(jobs[i].dst + jobs[i].len, s.tag, WGF_TAG_SIZE);
		}
	}
	wipe(&s);
}

static void neon_open(struct wgf_aead_job *jobs, size_t n)
{
	struct scratch s;
	for (; n > 0; jobs += s.n, n -= s.n) {
		begin(&s, jobs, n < CHUNK ? n : CHUNK);
		run_passes(&s, true);
		for (size_t i = 0; i < s.n; i++) {
			authenticate(&s, i, jobs[i].src);
			jobs[i].ok = wgf_equal(s.tag, jobs[i].src + jobs[i].len, WGF_TAG_SIZE);
			if (!jobs[i].ok && jobs[i].len > 0)
				memset(jobs[i].dst, 0, jobs[i].len);
		}
		begin_data(&s, 0, true);
		run_passes(&s, true);
	}
	wipe(&s);
}

static bool neon_supported(void)
{
	return true;
}

const struct wgf_aead_kernel wgf_aead_neon = {
	.name = "neon",
	.supported = neon_supported,
	.seal = neon_seal,
	.open = neon_open,
};

#else

typedef int wgf_aead_neon_is_for_aarch64;

#endif
