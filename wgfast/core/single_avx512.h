/* One short packet alone, as a tunnel that waits for answers carries them: up to eight blocks as rows.
 *
 * A row is a quarter of a block. One vector holds that row of four blocks, so four vectors hold four
 * blocks, and four more cost nothing, for the rounds are a chain: 280 ticks for up to eight, with nothing to
 * transpose but pieces, where a lane for each word (passes_avx512.h) takes 310 and the transposing.
 * Poly1305 is done without vectors: it would take longer to find the powers of r. */
#ifndef WGF_SINGLE_AVX512_H
#define WGF_SINGLE_AVX512_H

#define SINGLE ((size_t)256) /* the longest text that is done here */
#define SETS 2u              /* of four blocks */

/* Everything secret. */
struct single {
	__m512i stream[4 * SETS]; /* one-time key, then key stream */
	struct {
		struct wgf_poly1305 mac;
		uint8_t tag[WGF_TAG_SIZE];
	} __attribute__((aligned(64))) small;
};

INLINE wide_words rotate_words(wide_words x, int bits)
{
	return x << bits | x >> (32 - bits);
}

/* A quarter round of all columns of all blocks; the sets take turns, so that one's chain hides the other's. */
INLINE void row_quarters(wide_words x[][4], unsigned sets)
{
	UNROLLED for (unsigned i = 0; i < sets; i++)
		x[i][0] += x[i][1], x[i][3] = rotate_words(x[i][3] ^ x[i][0], 16);
	UNROLLED for (unsigned i = 0; i < sets; i++)
		x[i][2] += x[i][3], x[i][1] = rotate_words(x[i][1] ^ x[i][2], 12);
	UNROLLED for (unsigned i = 0; i < sets; i++)
		x[i][0] += x[i][1], x[i][3] = rotate_words(x[i][3] ^ x[i][0], 8);
	UNROLLED for (unsigned i = 0; i < sets; i++)
		x[i][2] += x[i][3], x[i][1] = rotate_words(x[i][1] ^ x[i][2], 7);
}

#define TURN(x, places) ((wide_words)_mm512_shuffle_epi32((__m512i)(x), places))

/* Columns become diagonals: rows turn by one, two and three words; and back, by three, two and one. */
INLINE void turn_rows(wide_words x[][4], unsigned sets, bool back)
{
	UNROLLED for (unsigned i = 0; i < sets; i++) {
		x[i][1] = back ? TURN(x[i][1], 0x93) : TURN(x[i][1], 0x39);
		x[i][2] = TURN(x[i][2], 0x4e);
		x[i][3] = back ? TURN(x[i][3], 0x39) : TURN(x[i][3], 0x93);
	}
}

INLINE void row_blocks(struct single *s, const struct wgf_aead_job *job, unsigned sets)
{
	const __m512i lane = _mm512_setr_epi32(0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0);
	const __m512i four = _mm512_maskz_set1_epi32(0x1111, 4);
	const __m128i nonce = _mm_setr_epi32(0, (int)job->prefix, (int)job->counter, (int)(job->counter >> 32));
	__m512i input[SETS][4], t[4];
	wide_words x[SETS][4];

	input[0][0] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)chacha20_constants));
	input[0][1] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)job->key));
	input[0][2] = _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(job->key + 16)));
	input[0][3] = _mm512_add_epi32(_mm512_broadcast_i32x4(nonce), lane);
	UNROLLED for (unsigned i = 0; i < sets; i++)
		UNROLLED for (unsigned j = 0; j < 4; j++) {
			input[i][j] = i == 0 || j < 3 ? input[0][j] : _mm512_add_epi32(input[0][3], four);
			x[i][j] = (wide_words)input[i][j];
		}
	for (unsigned round = 0; round < 20; round += 2) {
		row_quarters(x, sets);
		turn_rows(x, sets, false);
		row_quarters(x, sets);
		turn_rows(x, sets, true);
	}
	UNROLLED for (unsigned i = 0; i < sets; i++) {
		UNROLLED for (unsigned j = 0; j < 4; j++)
			t[j] = _mm512_add_epi32((__m512i)x[i][j], input[i][j]);
		transpose_pieces(t);
		UNROLLED for (unsigned j = 0; j < 4; j++)
			s->stream[4 * i + j] = t[j];
	}
}

static __attribute__((noinline)) void row_blocks_4(struct single *s, const struct wgf_aead_job *job)
{
	row_blocks(s, job, 1);
}

static __attribute__((noinline)) void row_blocks_8(struct single *s, const struct wgf_aead_job *job)
{
	row_blocks(s, job, SETS);
}

/* What the functions below the caller left on the stack, little as it is, and the registers. */
static __attribute__((noinline)) void burn_single(void)
{
	uint8_t frames[512];
	wgf_wipe(frames, sizeof(frames));
	burn_registers();
}

static void cipher_single(const struct single *s, const struct wgf_aead_job *job)
{
	for (size_t at = 0; at < job->len; at += BLOCK)
		apply(job->dst + at, job->src + at, &s->stream[1 + at / BLOCK], job->len - at);
}

static void authenticate_single(struct single *s, const struct wgf_aead_job *job, const uint8_t *text)
{
	uint8_t lengths[16];

	wgf_store_le64(lengths, job->ad_len);
	wgf_store_le64(lengths + 8, job->len);
	wgf_poly1305_init(&s->small.mac, (const uint8_t *)s->stream);
	wgf_poly1305_update(&s->small.mac, job->ad, job->ad_len);
	wgf_poly1305_update(&s->small.mac, text, job->len);
	wgf_poly1305_update(&s->small.mac, lengths, sizeof(lengths));
	wgf_poly1305_final(&s->small.mac, s->small.tag);
}

static __attribute__((noinline)) void do_single(struct wgf_aead_job *job, bool opening)
{
	struct single s;
	const size_t used = job->len <= 3 * BLOCK ? 4 : 4 * SETS;

	if (used == 4)
		row_blocks_4(&s, job);
	else
		row_blocks_8(&s, job);
	if (opening) {
		authenticate_single(&s, job, job->src);
		job->ok = wgf_equal(s.small.tag, job->src + job->len, WGF_TAG_SIZE);
		if (job->ok)
			cipher_single(&s, job);
		else if (job->len > 0)
			memset(job->dst, 0, job->len);
	} else {
		cipher_single(&s, job);
		authenticate_single(&s, job, job->dst);
		memcpy(job->dst + job->len, s.small.tag, WGF_TAG_SIZE);
	}
	wgf_wipe(s.stream, used * BLOCK);
	wgf_wipe(&s.small, sizeof(s.small));
	burn_single();
}

#endif
