/* ChaCha20-Poly1305 (RFC 8439) in portable C: the kernel that runs everywhere, and the one that all
 * others are tested against.
 *
 * ChaCha20 keeps a block as four rows in the compiler's own vectors of four 32-bit words (SSE2 and
 * NEON hold one in a register; elsewhere GCC splits it into words) and computes four blocks side by
 * side. Rows need no transpose at the end, and blocks are independent: the one-time key of Poly1305
 * is simply the first block of the first group, its neighbours are the first key stream.
 *
 * No branch and no address depends on a secret; lengths, and whether a tag was right, are public.
 * Everything secret that outlives a function call stands in struct scratch, wiped at the end, and so is the
 * stack below, where the compiler spills. */
#include "aead.h"

#include "bytes.h"
#include "poly1305.h"

typedef uint32_t row __attribute__((vector_size(16)));

#define WIDE 4u   /* blocks side by side */
#define NARROW 2u /* where more than this many would be thrown away */
#define BLOCK ((size_t)64)

struct scratch {
	row stream[4 * WIDE]; /* key stream, in the order of its bytes */
	row state[4];         /* constants; key, twice; block counter and nonce */
	struct wgf_poly1305 mac;
	uint8_t tag[WGF_TAG_SIZE];
};

#define INLINE static inline __attribute__((always_inline))

INLINE row rotate(row x, int bits)
{
	return x << bits | x >> (32 - bits);
}

/* Words in the processor's order to bytes in ChaCha20's, and back. */
INLINE row little_endian(row x)
{
#if __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
	return x << 24 | (x & 0xff00) << 8 | (x >> 8 & 0xff00) | x >> 24;
#else
	return x;
#endif
}

/* One quarter round of all columns of all blocks; the loops run over the blocks step by step, so
 * that neighbouring instructions do not wait for each other. */
INLINE void quarter_rounds(row x[][4], unsigned blocks)
{
	for (unsigned i = 0; i < blocks; i++)
		x[i][3] = rotate(x[i][3] ^ (x[i][0] += x[i][1]), 16);
	for (unsigned i = 0; i < blocks; i++)
		x[i][1] = rotate(x[i][1] ^ (x[i][2] += x[i][3]), 12);
	for (unsigned i = 0; i < blocks; i++)
		x[i][3] = rotate(x[i][3] ^ (x[i][0] += x[i][1]), 8);
	for (unsigned i = 0; i < blocks; i++)
		x[i][1] = rotate(x[i][1] ^ (x[i][2] += x[i][3]), 7);
}

/* Columns become diagonals. */
INLINE void shear(row x[][4], unsigned blocks)
{
	for (unsigned i = 0; i < blocks; i++) {
		row b = x[i][1], c = x[i][2], d = x[i][3];
		x[i][1] = (row){b[1], b[2], b[3], b[0]};
		x[i][2] = (row){c[2], c[3], c[0], c[1]};
		x[i][3] = (row){d[3], d[0], d[1], d[2]};
	}
}

/* And back. */
INLINE void unshear(row x[][4], unsigned blocks)
{
	for (unsigned i = 0; i < blocks; i++) {
		row b = x[i][1], c = x[i][2], d = x[i][3];
		x[i][1] = (row){b[3], b[0], b[1], b[2]};
		x[i][2] = (row){c[2], c[3], c[0], c[1]};
		x[i][3] = (row){d[1], d[2], d[3], d[0]};
	}
}

/* The next blocks of key stream; the block counter moves on. */
INLINE void generate(struct scratch *s, unsigned blocks)
{
	row x[WIDE][4];

	for (unsigned i = 0; i < blocks; i++) {
		for (unsigned j = 0; j < 4; j++)
			x[i][j] = s->state[j];
		x[i][3] += (row){i, 0, 0, 0};
	}
	for (unsigned round = 0; round < 20; round += 2) {
		quarter_rounds(x, blocks);
		shear(x, blocks);
		quarter_rounds(x, blocks);
		unshear(x, blocks);
	}
	for (unsigned i = 0; i < blocks; i++) {
		x[i][3] += (row){i, 0, 0, 0};
		for (unsigned j = 0; j < 4; j++)
			s->stream[4 * i + j] = little_endian(x[i][j] + s->state[j]);
	}
	s->state[3] += (row){blocks, 0, 0, 0};
}

static __attribute__((noinline)) void generate_wide(struct scratch *s)
{
	generate(s, WIDE);
}

static __attribute__((noinline)) void generate_narrow(struct scratch *s)
{
	generate(s, NARROW);
}

/* dst := src ^ stream; in place or apart, at any address. */
static void apply(uint8_t *dst, const uint8_t *src, const row *stream, size_t len)
{
	for (; len >= sizeof(row); len -= sizeof(row)) {
		row x;
		memcpy(&x, src, sizeof(x));
		x ^= *stream++;
		memcpy(dst, &x, sizeof(x));
		src += sizeof(x);
		dst += sizeof(x);
	}
	const uint8_t *rest = (const uint8_t *)stream;
	for (size_t i = 0; i < len; i++)
		dst[i] = src[i] ^ rest[i];
}

/* Leaves the one-time key in block 0 of the stream and in mac, the first key stream in the blocks
 * after it, and the additional data absorbed. */
static void begin(struct scratch *s, const struct wgf_aead_job *job)
{
	s->state[0] = (row){0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}; /* "expand 32-byte k" */
	memcpy(&s->state[1], job->key, 2 * sizeof(row));
	s->state[1] = little_endian(s->state[1]);
	s->state[2] = little_endian(s->state[2]);
	s->state[3] = (row){0, job->prefix, (uint32_t)job->counter, (uint32_t)(job->counter >> 32)};

	if (job->len <= BLOCK * (NARROW - 1))
		generate_narrow(s);
	else
		generate_wide(s);
	wgf_poly1305_init(&s->mac, (const uint8_t *)s->stream);
	wgf_poly1305_update(&s->mac, job->ad, job->ad_len);
}

/* dst := src ^ key stream, of which begin has left the first blocks. */
static void cipher(struct scratch *s, const struct wgf_aead_job *job)
{
	size_t done = job->len < BLOCK * (WIDE - 1) ? job->len : BLOCK * (WIDE - 1);
	apply(job->dst, job->src, s->stream + 4, done);
	while (done < job->len) {
		size_t n = job->len - done;
		if (n <= BLOCK * NARROW)
			generate_narrow(s);
		else
			generate_wide(s);
		n = n < BLOCK * WIDE ? n : BLOCK * WIDE;
		apply(job->dst + done, job->src + done, s->stream, n);
		done += n;
	}
}

static void authenticate(struct scratch *s, const struct wgf_aead_job *job, const uint8_t *text)
{
	uint8_t lengths[16];
	wgf_store_le64(lengths, job->ad_len);
	wgf_store_le64(lengths + 8, job->len);
	wgf_poly1305_update(&s->mac, text, job->len);
	wgf_poly1305_update(&s->mac, lengths, sizeof(lengths));
	wgf_poly1305_final(&s->mac, s->tag);
}

/* Not inlined, so that whatever the compiler spilled lies below the callers, which wipe it. */
static __attribute__((noinline)) void seal_all(struct scratch *s, struct wgf_aead_job *jobs, size_t n)
{
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		begin(s, job);
		cipher(s, job);
		authenticate(s, job, job->dst);
		memcpy(job->dst + job->len, s->tag, WGF_TAG_SIZE);
	}
}

static __attribute__((noinline)) void open_all(struct scratch *s, struct wgf_aead_job *jobs, size_t n)
{
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		begin(s, job);
		authenticate(s, job, job->src);
		job->ok = wgf_equal(s->tag, job->src + job->len, WGF_TAG_SIZE);
		if (job->ok)
			cipher(s, job);
		else if (job->len > 0) /* dst may be NULL when there is nothing to write */
			memset(job->dst, 0, job->len);
	}
}

static void portable_seal(struct wgf_aead_job *jobs, size_t n)
{
	struct scratch s;
	seal_all(&s, jobs, n);
	wgf_wipe(&s, sizeof(s));
	wgf_wipe_stack();
}

static void portable_open(struct wgf_aead_job *jobs, size_t n)
{
	struct scratch s;
	open_all(&s, jobs, n);
	wgf_wipe(&s, sizeof(s));
	wgf_wipe_stack();
}

static bool portable_supported(void)
{
	return true;
}

const struct wgf_aead_kernel wgf_aead_portable = {
	.name = "portable",
	.supported = portable_supported,
	.seal = portable_seal,
	.open = portable_open,
};
