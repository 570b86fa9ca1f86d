/* The row of blocks of a group of packets, and the passes of ChaCha20 along it.
 *
 * A row is the key block of every packet of the group, then their texts one after the other; a pass is
 * up to 32 blocks of the row, whosever they are. Keys and nonces stand in a window, one packet a lane, so
 * that a pass gets its input by one permutation for each word. Whole blocks go from registers to where
 * they belong; the rest waits in the stream. */
#ifndef WGF_PASSES_AVX512_H
#define WGF_PASSES_AVX512_H

#define GROUP 16u /* packets that share passes, one in each lane of the window */
#define PASS 32u  /* most blocks at a time */
#define BLOCK ((size_t)64)

/* Everything secret. */
struct scratch {
	__m512i window[11];   /* key (8 words), nonce (3 words) of the group's packets, if more than one */
	__m512i once[8];      /* one-time keys of the group's packets */
	union {               /* to cipher; to authenticate */
		__m512i input[2][12]; /* of this pass: key, block counter, nonce */
		struct {
			struct powers powers;          /* of the packet absorbed along */
			uint64_t tags[2][2 * PACKETS]; /* low halves, high halves */
			struct wgf_poly1305 single;
			uint8_t key[32];               /* one-time, of a single packet */
			struct mac mac[2];             /* packets 0 to 7, 8 to 15 */
		};
	};
	__m512i stream[PASS]; /* of this pass: blocks that are not added to a text at once */
	/* From here on nothing is secret. */
	struct aims to;       /* where the pass goes */
	uint32_t dirty;       /* places of the stream that ever got a block */
	unsigned ends;        /* lanes with the ends of texts, and whose */
	uint8_t end_lane[PASS], end_job[PASS];
};

#define ALL_VECTORS \
	"xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", \
	"xmm11", "xmm12", "xmm13", "xmm14", "xmm15", "xmm16", "xmm17", "xmm18", "xmm19", "xmm20", "xmm21", \
	"xmm22", "xmm23", "xmm24", "xmm25", "xmm26", "xmm27", "xmm28", "xmm29", "xmm30", "xmm31"
#define CLEAR(register) "vpxord %%" register ", %%" register ", %%" register "\n\t"

/* A wipe the optimiser may not drop, without the way to the library and back. */
INLINE void wipe_vectors(__m512i *v, size_t n)
{
	for (size_t i = 0; i < n; i++)
		_mm512_store_si512(&v[i], _mm512_setzero_si512());
	__asm__ volatile("" ::"r"(v) : "memory");
}

/* What the vector registers hold. */
INLINE void burn_registers(void)
{
	__asm__ volatile("vzeroall\n\t" CLEAR("zmm16") CLEAR("zmm17") CLEAR("zmm18") CLEAR("zmm19") CLEAR("zmm20")
			 CLEAR("zmm21") CLEAR("zmm22") CLEAR("zmm23") CLEAR("zmm24") CLEAR("zmm25") CLEAR("zmm26")
			 CLEAR("zmm27") CLEAR("zmm28") CLEAR("zmm29") CLEAR("zmm30") CLEAR("zmm31") ::: ALL_VECTORS);
}

static const uint8_t zeros[BLOCK];

/* Packets that share passes, the longest first; public. */
struct group {
	uint32_t first[GROUP] __attribute__((aligned(64))); /* where each text begins in the row of blocks */
	uint32_t prefix[GROUP];
	uint64_t counter[GROUP], len[GROUP];
	uint32_t blocks;                                   /* of the whole row */
	unsigned n;
	uint32_t refused;                                  /* a bit for each packet whose tag was wrong */
	struct wgf_aead_job *jobs[GROUP];
};

INLINE uint32_t text_blocks(const struct wgf_aead_job *job)
{
	return (uint32_t)((job->len + BLOCK - 1) / BLOCK);
}

INLINE __m512i load_keys(const uint8_t *a, const uint8_t *b)
{
	return _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)a)),
				  _mm256_loadu_si256((const __m256i *)b), 1);
}

static void fill_window(struct scratch *s, const struct group *g)
{
	const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
	const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
	const uint8_t *keys[GROUP];

	if (g->n == 1)
		return; /* choose_input needs none */
	for (unsigned i = 0; i < GROUP; i++)
		keys[i] = g->jobs[i < g->n ? i : 0]->key;
	for (unsigned i = 0; i < 4; i++) {
		__m512i a = load_keys(keys[i], keys[i + 4]), b = load_keys(keys[i + 8], keys[i + 12]);
		s->window[i] = _mm512_shuffle_i64x2(a, b, 0x88);     /* words 0 to 3 of four packets */
		s->window[i + 4] = _mm512_shuffle_i64x2(a, b, 0xdd); /* words 4 to 7 */
	}
	transpose_words(s->window);
	transpose_words(s->window + 4);
	__m512i low = _mm512_load_si512(g->counter), high = _mm512_load_si512(g->counter + 8);
	s->window[8] = _mm512_load_si512(g->prefix);
	s->window[9] = _mm512_permutex2var_epi32(low, even, high);
	s->window[10] = _mm512_permutex2var_epi32(low, odd, high);
}

/* The next pass: places of the row from `at` on. The packet the first of them belongs to, or one
 * before it, is `job`. */
INLINE void choose_input(__m512i input[12], const struct scratch *s, const struct group *g, uint32_t at,
			 unsigned job)
{
	const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
	__m512i owner = _mm512_set1_epi32((int)job);

	if (g->n == 1) {
		UNROLLED for (unsigned i = 0; i < 8; i++)
			input[i] = _mm512_set1_epi32((int)wgf_load_le32(g->jobs[0]->key + 4 * i));
		input[8] = _mm512_add_epi32(lane, _mm512_set1_epi32((int)at));
		input[9] = _mm512_set1_epi32((int)g->jobs[0]->prefix);
		input[10] = _mm512_set1_epi32((int)g->jobs[0]->counter);
		input[11] = _mm512_set1_epi32((int)(g->jobs[0]->counter >> 32));
		return;
	}
	for (unsigned i = job + 1; i < g->n && g->first[i] < at + GROUP; i++) {
		uint32_t before = g->first[i] > at ? g->first[i] - at : 0;
		owner = _mm512_mask_add_epi32(owner, (__mmask16)(0xffffu << before), owner, _mm512_set1_epi32(1));
	}
	__m512i block = _mm512_sub_epi32(_mm512_add_epi32(lane, _mm512_set1_epi32((int)(at + 1))),
					 _mm512_permutexvar_epi32(owner, _mm512_load_si512(g->first)));
	if (at == 0) {
		const __mmask16 keys = (__mmask16)((1u << g->n) - 1);
		owner = _mm512_mask_mov_epi32(owner, keys, lane);
		block = _mm512_mask_mov_epi32(block, keys, _mm512_setzero_si512());
	}
	for (unsigned i = 0; i < 8; i++)
		input[i] = _mm512_permutexvar_epi32(owner, s->window[i]);
	input[8] = block;
	for (unsigned i = 9; i < 12; i++)
		input[i] = _mm512_permutexvar_epi32(owner, s->window[i - 1]);
}

/* The first eight words of blocks that are one-time keys, one packet a lane. */
INLINE void keep_keys(struct scratch *s, const wide_words x[16], bool keys)
{
	if (keys) {
		UNROLLED for (unsigned i = 0; i < 8; i++)
			s->once[i] = (__m512i)x[i];
	}
}

static __attribute__((noinline)) void generate_32(struct scratch *s, bool keys)
{
	wide_words x[16], y[16];

	chacha20_load_wide(x, s->input[0]);
	chacha20_load_wide(y, s->input[1]);
	for (unsigned i = 0; i < 10; i++) {
		CHACHA20_TWO_DOUBLE_ROUNDS(x, y);
	}
	chacha20_add_wide(x, s->input[0]);
	keep_keys(s, x, keys);
	chacha20_deliver_wide(&s->to, 0, x);
	chacha20_add_wide(y, s->input[1]);
	chacha20_deliver_wide(&s->to, GROUP, y);
}

static __attribute__((noinline)) void generate_24(struct scratch *s, bool keys)
{
	wide_words x[16];
	narrow_words y[16];

	chacha20_load_wide(x, s->input[0]);
	chacha20_load_narrow(y, s->input[1]);
	for (unsigned i = 0; i < 10; i++) {
		CHACHA20_TWO_DOUBLE_ROUNDS(x, y);
	}
	chacha20_add_wide(x, s->input[0]);
	keep_keys(s, x, keys);
	chacha20_deliver_wide(&s->to, 0, x);
	chacha20_add_narrow(y, s->input[1]);
	chacha20_deliver_narrow(&s->to, GROUP, y);
}

static __attribute__((noinline)) void generate_16(struct scratch *s, bool keys)
{
	wide_words x[16];

	chacha20_load_wide(x, s->input[0]);
	for (unsigned i = 0; i < 10; i++) {
		CHACHA20_DOUBLE_ROUND(x);
	}
	chacha20_add_wide(x, s->input[0]);
	keep_keys(s, x, keys);
	chacha20_deliver_wide(&s->to, 0, x);
}

static __attribute__((noinline)) void generate_8(struct scratch *s, bool keys)
{
	narrow_words x[16];

	chacha20_load_narrow(x, s->input[0]);
	for (unsigned i = 0; i < 10; i++) {
		CHACHA20_DOUBLE_ROUND(x);
	}
	chacha20_add_narrow(x, s->input[0]);
	if (keys) {
		UNROLLED for (unsigned i = 0; i < 8; i++)
			s->once[i] = _mm512_castsi256_si512((__m256i)x[i]);
	}
	chacha20_deliver_narrow(&s->to, 0, x);
}

/* dst := src ^ stream, the first len bytes of a block; in place or apart, at any address. */
INLINE void apply(uint8_t *dst, const uint8_t *src, const __m512i *stream, size_t len)
{
	if (len >= BLOCK) {
		_mm512_storeu_si512(dst, _mm512_xor_si512(_mm512_loadu_si512(src), *stream));
		return;
	}
	__mmask64 mask = _bzhi_u64(~UINT64_C(0), (unsigned)len);
	_mm512_mask_storeu_epi8(dst, mask, _mm512_xor_si512(_mm512_maskz_loadu_epi8(mask, src), *stream));
}

/* Blocks first to last - 1 of the pass are kept. */
INLINE void aim_at_stream(struct scratch *s, unsigned first, unsigned last)
{
	const __m512i eight = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);

	s->dirty |= (uint32_t)((UINT64_C(1) << last) - (UINT64_C(1) << first));
	for (; first < last; first += 8) {
		_mm512_storeu_si512(&s->to.src[first], _mm512_set1_epi64((long long)(uintptr_t)zeros));
		_mm512_storeu_si512(&s->to.dst[first], _mm512_add_epi64(
			_mm512_set1_epi64((long long)(uintptr_t)&s->stream[first]), eight));
	}
}

/* Blocks from `first` on are n whole ones of a text. */
INLINE void aim_at_text(struct scratch *s, unsigned first, unsigned n, const uint8_t *src, uint8_t *dst)
{
	const __m512i eight = _mm512_setr_epi64(0, 64, 128, 192, 256, 320, 384, 448);

	for (unsigned i = 0; i < n; i += 8) {
		const __m512i from = _mm512_set1_epi64((long long)((uintptr_t)src + i * BLOCK));
		const __m512i to = _mm512_set1_epi64((long long)((uintptr_t)dst + i * BLOCK));
		_mm512_storeu_si512(&s->to.src[first + i], _mm512_add_epi64(from, eight));
		_mm512_storeu_si512(&s->to.dst[first + i], _mm512_add_epi64(to, eight));
	}
}

/* What becomes of a pass: its whole blocks of texts are aimed where they belong, their ends stay for
 * finish. Packets that were refused get nothing, and nobody does where all is kept. The packet that
 * the next pass begins with. */
static unsigned aim(struct scratch *s, const struct group *g, uint32_t at, unsigned lanes, unsigned job,
		    bool keep)
{
	uint32_t lane = at == 0 ? g->n : 0;

	aim_at_stream(s, 0, keep ? lanes : lane);
	for (; job < g->n && !keep; job++) {
		const struct wgf_aead_job *j = g->jobs[job];
		const uint32_t place = at + lane - g->first[job], blocks = text_blocks(j) - place;
		const uint32_t here = blocks < PASS - lane ? blocks : PASS - lane;
		uint32_t whole = (uint32_t)(j->len / BLOCK) - place;
		whole = whole < here ? whole : here;
		if ((g->refused >> job & 1) != 0) {
			aim_at_stream(s, lane, lane + here);
		} else {
			aim_at_text(s, lane, whole, j->src + place * BLOCK, j->dst + place * BLOCK);
			if (whole < here) {
				aim_at_stream(s, lane + whole, lane + here);
				s->end_lane[s->ends] = (uint8_t)(lane + whole);
				s->end_job[s->ends++] = (uint8_t)job;
			}
		}
		lane += here;
		if (here < blocks)
			break;
	}
	if (!keep)
		aim_at_stream(s, lane, lanes);
	return job;
}

/* The ends of texts. */
static void finish(const struct scratch *s, const struct group *g)
{
	for (unsigned i = 0; i < s->ends; i++) {
		const struct wgf_aead_job *j = g->jobs[s->end_job[i]];
		size_t at = j->len / BLOCK * BLOCK;
		apply(j->dst + at, j->src + at, &s->stream[s->end_lane[i]], j->len - at);
	}
}

/* The pass at place `at`, whose first text is that of packet job. The packet that the next one begins
 * with. */
static unsigned pass(struct scratch *s, const struct group *g, uint32_t at, unsigned job, bool keep)
{
	const uint32_t left = g->blocks - at;
	const unsigned lanes = left > PASS ? PASS : (left + 7) / 8 * 8;
	unsigned next;

	s->ends = 0;
	next = aim(s, g, at, lanes, job, keep);
	choose_input(s->input[0], s, g, at, job);
	if (left > GROUP)
		choose_input(s->input[1], s, g, at + GROUP, job);
	if (lanes == 32)
		generate_32(s, at == 0);
	else if (lanes == 24)
		generate_24(s, at == 0);
	else if (lanes == 16)
		generate_16(s, at == 0);
	else
		generate_8(s, at == 0);
	finish(s, g);
	return next;
}

/* The first pass of what is to be opened is done before anything is verified: its key stream is kept
 * whole, and used up here. */
static unsigned use_kept(const struct scratch *s, const struct group *g)
{
	unsigned job = 0;
	for (uint32_t lane = g->n; job < g->n; job++) {
		const struct wgf_aead_job *j = g->jobs[job];
		size_t done = 0;
		for (; done < j->len && lane < PASS; done += BLOCK, lane++)
			if ((g->refused >> job & 1) == 0)
				apply(j->dst + done, j->src + done, &s->stream[lane], j->len - done);
		if (done < j->len)
			break;
	}
	return job;
}

#endif
