/* What bench/aead.py measures, in C so that nobody pays for Python: wgfast's kernels and the libraries
 * a user could pick instead, behind one function each for a batch, and the loop that times them.
 *
 * Every library gets its best case: one key for all packets, so that a context with the key in place is
 * kept and only the nonce changes; no allocation and no set-up inside the timed loop. Compiled by
 * bench/aead.py with the flags of the libraries it found (HAVE_OPENSSL, HAVE_IPSEC_MB); libsodium and
 * wgfast itself are opened by path. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "aead.h"
#include "bytes.h"

#ifdef HAVE_OPENSSL
#include <openssl/crypto.h>
#include <openssl/evp.h>
#endif
#ifdef HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif
#if defined(__x86_64__) || defined(__i386__)
#include <x86intrin.h>
#endif

#define RIVALS 16
#define HEADER 16 /* in front of a packet, as in WireGuard: its data starts at a multiple of 16 */
#define NONCE 12

/* The contexts that a library needs between calls; one thread. */
struct rival {
	char version[96];
	void (*seal)(struct rival *rival, struct wgf_aead_job *jobs, size_t n);
	void (*open)(struct rival *rival, struct wgf_aead_job *jobs, size_t n);
	const struct wgf_aead_kernel *kernel;
	int (*sodium_seal)(unsigned char *, unsigned long long *, const unsigned char *, unsigned long long,
			   const unsigned char *, unsigned long long, const unsigned char *,
			   const unsigned char *, const unsigned char *);
	int (*sodium_open)(unsigned char *, unsigned long long *, unsigned char *, const unsigned char *,
			   unsigned long long, const unsigned char *, unsigned long long,
			   const unsigned char *, const unsigned char *);
	const uint8_t *key; /* the one in the contexts */
#ifdef HAVE_OPENSSL
	EVP_CIPHER_CTX *sealing, *opening;
#endif
#ifdef HAVE_IPSEC_MB
	IMB_MGR *manager;
#endif
};

static struct rival rivals[RIVALS];
static int rivals_known;

/* The packets of one measurement: plaintext, its sealed form, and where results go. */
struct packets {
	size_t total;
	uint8_t key[WGF_KEY_SIZE];
	uint8_t *memory;
	struct wgf_aead_job *seal, *open;
};

static void nonce_of(const struct wgf_aead_job *job, uint8_t nonce[NONCE])
{
	wgf_store_le32(nonce, job->prefix);
	wgf_store_le64(nonce + 4, job->counter);
}

static void wgfast_seal(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	rival->kernel->seal(jobs, n);
}

static void wgfast_open(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	rival->kernel->open(jobs, n);
}

/* The kernel of this name in the library at this path; -1 when it has none or cannot use it. */
int rival_add_wgfast(const char *path, const char *name)
{
	struct rival *rival = &rivals[rivals_known];
	void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
	if (library == NULL)
		return -1;
	/* POSIX lets an object pointer from dlsym become a function pointer; ISO C has no such cast. */
	const struct wgf_aead_kernel *(*find)(const char *);
	enum wgf_aead_state (*examine)(const struct wgf_aead_kernel *);
	*(void **)&find = dlsym(library, "wgf_aead_find");
	*(void **)&examine = dlsym(library, "wgf_aead_examine");
	if (find == NULL || examine == NULL || (rival->kernel = find(name)) == NULL)
		return -1;
	if (examine(rival->kernel) != WGF_AEAD_USABLE)
		return -1;
	rival->seal = wgfast_seal;
	rival->open = wgfast_open;
	return rivals_known++;
}

static void sodium_seal(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		uint8_t nonce[NONCE];
		nonce_of(job, nonce);
		rival->sodium_seal(job->dst, NULL, job->src, job->len, NULL, 0, NULL, nonce, job->key);
	}
}

static void sodium_open(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		uint8_t nonce[NONCE];
		nonce_of(job, nonce);
		job->ok = rival->sodium_open(job->dst, NULL, NULL, job->src, job->len + WGF_TAG_SIZE, NULL, 0,
					     nonce, job->key) == 0;
	}
}

int rival_add_sodium(const char *path)
{
	struct rival *rival = &rivals[rivals_known];
	void *library = dlopen(path, RTLD_LAZY | RTLD_LOCAL);
	int (*init)(void);
	const char *(*version)(void);
	if (library == NULL)
		return -1;
	*(void **)&init = dlsym(library, "sodium_init");
	*(void **)&version = dlsym(library, "sodium_version_string");
	*(void **)&rival->sodium_seal = dlsym(library, "crypto_aead_chacha20poly1305_ietf_encrypt");
	*(void **)&rival->sodium_open = dlsym(library, "crypto_aead_chacha20poly1305_ietf_decrypt");
	if (init == NULL || rival->sodium_seal == NULL || rival->sodium_open == NULL || init() < 0)
		return -1;
	if (version != NULL) /* PyNaCl's library does not export it */
		snprintf(rival->version, sizeof(rival->version), "%s", version());
	rival->seal = sodium_seal;
	rival->open = sodium_open;
	return rivals_known++;
}

#ifdef HAVE_OPENSSL
static void openssl_key(struct rival *rival, const uint8_t *key)
{
	if (rival->key == key)
		return;
	EVP_EncryptInit_ex(rival->sealing, NULL, NULL, key, NULL);
	EVP_DecryptInit_ex(rival->opening, NULL, NULL, key, NULL);
	rival->key = key;
}

static void openssl_seal(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	EVP_CIPHER_CTX *context = rival->sealing;
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		uint8_t nonce[NONCE];
		int len = 0;
		nonce_of(job, nonce);
		openssl_key(rival, job->key);
		EVP_EncryptInit_ex(context, NULL, NULL, NULL, nonce);
		EVP_EncryptUpdate(context, job->dst, &len, job->src, (int)job->len);
		EVP_EncryptFinal_ex(context, job->dst + job->len, &len);
		EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, WGF_TAG_SIZE, job->dst + job->len);
	}
}

static void openssl_open(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	EVP_CIPHER_CTX *context = rival->opening;
	for (struct wgf_aead_job *job = jobs; job < jobs + n; job++) {
		uint8_t nonce[NONCE], none[WGF_TAG_SIZE];
		int len = 0;
		nonce_of(job, nonce);
		openssl_key(rival, job->key);
		EVP_DecryptInit_ex(context, NULL, NULL, NULL, nonce);
		EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, WGF_TAG_SIZE,
				    (void *)(uintptr_t)(job->src + job->len));
		EVP_DecryptUpdate(context, job->dst, &len, job->src, (int)job->len);
		job->ok = EVP_DecryptFinal_ex(context, none, &len) > 0;
	}
}

int rival_add_openssl(void)
{
	struct rival *rival = &rivals[rivals_known];
	rival->sealing = EVP_CIPHER_CTX_new();
	rival->opening = EVP_CIPHER_CTX_new();
	if (rival->sealing == NULL || rival->opening == NULL ||
	    EVP_EncryptInit_ex(rival->sealing, EVP_chacha20_poly1305(), NULL, NULL, NULL) != 1 ||
	    EVP_DecryptInit_ex(rival->opening, EVP_chacha20_poly1305(), NULL, NULL, NULL) != 1)
		return -1;
	snprintf(rival->version, sizeof(rival->version), "%s", OpenSSL_version(OPENSSL_VERSION_STRING));
	rival->seal = openssl_seal;
	rival->open = openssl_open;
	return rivals_known++;
}
#else
int rival_add_openssl(void)
{
	return -1;
}
#endif

#ifdef HAVE_IPSEC_MB
static void ipsec_mb_finish(IMB_JOB *done, bool opening)
{
	if (opening) {
		struct wgf_aead_job *job = done->user_data;
		job->ok = wgf_equal(done->auth_tag_output, job->src + job->len, WGF_TAG_SIZE);
	}
}

/* Jobs are handed in one by one and taken back as they become ready: this is where the library may
 * gather several packets into one vector. */
static void ipsec_mb_run(struct rival *rival, struct wgf_aead_job *jobs, size_t n, bool opening)
{
	IMB_MGR *manager = rival->manager;
	uint8_t nonces[256][NONCE], tags[256][WGF_TAG_SIZE];
	IMB_JOB *done;

	for (size_t i = 0; i < n; i++) {
		struct wgf_aead_job *job = &jobs[i];
		IMB_JOB *work = IMB_GET_NEXT_JOB(manager);
		nonce_of(job, nonces[i % 256]);
		work->cipher_mode = IMB_CIPHER_CHACHA20_POLY1305;
		work->hash_alg = IMB_AUTH_CHACHA20_POLY1305;
		work->chain_order = opening ? IMB_ORDER_HASH_CIPHER : IMB_ORDER_CIPHER_HASH;
		work->cipher_direction = opening ? IMB_DIR_DECRYPT : IMB_DIR_ENCRYPT;
		work->enc_keys = work->dec_keys = job->key;
		work->key_len_in_bytes = WGF_KEY_SIZE;
		work->u.CHACHA20_POLY1305.aad = NULL;
		work->u.CHACHA20_POLY1305.aad_len_in_bytes = 0;
		work->iv = nonces[i % 256];
		work->iv_len_in_bytes = NONCE;
		work->src = job->src;
		work->dst = job->dst;
		work->cipher_start_src_offset_in_bytes = work->hash_start_src_offset_in_bytes = 0;
		work->msg_len_to_cipher_in_bytes = work->msg_len_to_hash_in_bytes = job->len;
		work->auth_tag_output = opening ? tags[i % 256] : job->dst + job->len;
		work->auth_tag_output_len_in_bytes = WGF_TAG_SIZE;
		work->user_data = job;
		for (done = IMB_SUBMIT_JOB_NOCHECK(manager); done != NULL; done = IMB_GET_COMPLETED_JOB(manager))
			ipsec_mb_finish(done, opening);
	}
	while ((done = IMB_FLUSH_JOB(manager)) != NULL)
		ipsec_mb_finish(done, opening);
}

static void ipsec_mb_seal(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	ipsec_mb_run(rival, jobs, n, false);
}

static void ipsec_mb_open(struct rival *rival, struct wgf_aead_job *jobs, size_t n)
{
	ipsec_mb_run(rival, jobs, n, true);
}

int rival_add_ipsec_mb(int avx2_only)
{
	struct rival *rival = &rivals[rivals_known];
	IMB_ARCH arch = IMB_ARCH_AVX2;
	rival->manager = alloc_mb_mgr(0);
	if (rival->manager == NULL)
		return -1;
	if (avx2_only)
		init_mb_mgr_avx2(rival->manager);
	else
		init_mb_mgr_auto(rival->manager, &arch);
	if (imb_get_errno(rival->manager) != 0)
		return -1;
	snprintf(rival->version, sizeof(rival->version), "%s, %s", imb_get_version_str(),
		 arch == IMB_ARCH_AVX512 ? "AVX-512" : arch == IMB_ARCH_AVX2 ? "AVX2" : "older than AVX2");
	rival->seal = ipsec_mb_seal;
	rival->open = ipsec_mb_open;
	return rivals_known++;
}
#else
int rival_add_ipsec_mb(int avx2_only)
{
	(void)avx2_only;
	return -1;
}
#endif

const char *rival_version(int rival)
{
	return rivals[rival].version;
}

static size_t slot_of(size_t len)
{
	return (HEADER + len + WGF_TAG_SIZE + 63) / 64 * 64;
}

void packets_free(struct packets *packets)
{
	if (packets == NULL)
		return;
	free(packets->memory);
	free(packets->seal);
	free(packets->open);
	free(packets);
}

/* Three areas: plaintext, sealed, opened; the jobs lead from one to the next. A packet's places in two of
 * them are about half a page apart, modulo pages: were it a few bytes, processors would take loads for
 * dependent on stores that they only resemble in their last twelve bits. NULL without memory. */
struct packets *packets_make(const uint32_t *lengths, size_t total)
{
	struct packets *packets = calloc(1, sizeof(*packets));
	size_t area = 0;
	for (size_t i = 0; i < total; i++)
		area += slot_of(lengths[i]);
	area = (area + 4095) / 4096 * 4096 + 1984;
	if (packets == NULL)
		return NULL;
	packets->total = total;
	packets->memory = aligned_alloc(64, 3 * area + 64);
	packets->seal = calloc(total, sizeof(*packets->seal));
	packets->open = calloc(total, sizeof(*packets->open));
	if (packets->memory == NULL || packets->seal == NULL || packets->open == NULL) {
		packets_free(packets);
		return NULL;
	}
	for (size_t i = 0; i < sizeof(packets->key); i++)
		packets->key[i] = (uint8_t)(i * 37 + 11);
	for (size_t i = 0; i < 3 * area; i++)
		packets->memory[i] = (uint8_t)(i * 2654435761u >> 24);
	uint8_t *at = packets->memory + HEADER;
	for (size_t i = 0; i < total; i++, at += slot_of(lengths[i - 1])) {
		packets->seal[i] = (struct wgf_aead_job){.key = packets->key, .counter = i, .src = at,
							 .dst = at + area, .len = lengths[i]};
		packets->open[i] = packets->seal[i];
		packets->open[i].src = at + area;
		packets->open[i].dst = at + 2 * area;
	}
	return packets;
}

static void run(struct rival *rival, bool opening, struct wgf_aead_job *jobs, size_t total, size_t batch)
{
	for (size_t i = 0; i < total; i += batch) {
		size_t n = total - i < batch ? total - i : batch;
		if (opening)
			rival->open(rival, jobs + i, n);
		else
			rival->seal(rival, jobs + i, n);
	}
}

/* Does this rival open what it sealed, and seal what rival number 0 opens? */
int rival_agrees(int rival, struct packets *packets)
{
	for (int pass = 0; pass < 2; pass++) {
		struct rival *sealing = &rivals[pass == 0 ? rival : 0], *opening = &rivals[pass == 0 ? 0 : rival];
		run(sealing, false, packets->seal, packets->total, packets->total);
		for (size_t i = 0; i < packets->total; i++)
			packets->open[i].ok = false;
		run(opening, true, packets->open, packets->total, packets->total);
		for (size_t i = 0; i < packets->total; i++)
			if (!packets->open[i].ok ||
			    memcmp(packets->open[i].dst, packets->seal[i].src, packets->seal[i].len) != 0)
				return 0;
	}
	return 1;
}

/* Time-stamp ticks on x86, nanoseconds elsewhere; bench/aead.py measures how long one is. */
uint64_t ticks_now(void)
{
#if defined(__x86_64__) || defined(__i386__)
	return __rdtsc();
#else
	struct timespec now;
	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
#endif
}

/* How often another process has been given this one's processor. */
static long preemptions(void)
{
	struct rusage usage = {0};
	getrusage(RUSAGE_THREAD, &usage);
	return usage.ru_nivcsw;
}

/* Ticks for all packets, `repeats` times over, in batches of `batch`. What is opened was sealed before.
 * A time in which another process ran is thrown away, for the whole of its time slice would be in it. */
uint64_t rival_time(int rival, int opening, struct packets *packets, size_t batch, size_t repeats)
{
	struct wgf_aead_job *jobs = opening ? packets->open : packets->seal;
	uint64_t ticks = 0;

	for (int attempt = 0; attempt < 20; attempt++) {
		const long before = preemptions();
		const uint64_t begin = ticks_now();
		for (size_t i = 0; i < repeats; i++)
			run(&rivals[rival], opening, jobs, packets->total, batch);
		ticks = ticks_now() - begin;
		if (preemptions() == before)
			break;
	}
	return ticks;
}
