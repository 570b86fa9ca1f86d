/* ChaCha20-Poly1305 (RFC 8439) of a batch, and XChaCha20-Poly1305 for the cookie reply.
 *
 * A batch is an array of jobs that need not agree in anything: key, nonce, length. The kernel is
 * chosen once, at load, by what the processor has and by the environment (WGFAST_AEAD); each
 * kernel implements the two functions of struct wgf_aead_kernel and is tested before it is used
 * (selftest.c). */
#ifndef WGF_AEAD_H
#define WGF_AEAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "limits.h"

struct wgf_aead_job {
	const uint8_t *key;   /* 32 bytes */
	uint64_t counter;     /* bytes 4 to 11 of the nonce, little-endian (WireGuard's counter) */
	uint32_t prefix;      /* bytes 0 to 3 of the nonce, little-endian; 0 in WireGuard */
	bool ok;              /* written by open: the tag was right */
	const uint8_t *ad;    /* additional data; may be NULL when ad_len is 0 */
	size_t ad_len;
	const uint8_t *src;   /* seal: len bytes. open: len bytes of ciphertext, then the tag */
	uint8_t *dst;         /* seal: len bytes of ciphertext, then the tag. open: len bytes */
	size_t len;           /* of the plaintext, tag not counted; at most 2^32 - 1 */
};

/* src and dst of one job are the same address or do not overlap; different jobs do not overlap.
 * Neither function reads or writes a byte outside what the job describes. */
struct wgf_aead_kernel {
	const char *name;
	bool (*supported)(void); /* by this processor */
	void (*seal)(struct wgf_aead_job *jobs, size_t n);
	/* Sets ok in every job; the output of a job whose tag is wrong is len zeros. */
	void (*open)(struct wgf_aead_job *jobs, size_t n);
};

/* Every kernel this build has, best first, portable last, then a NULL. */
extern const struct wgf_aead_kernel *const wgf_aead_kernels[];
extern const struct wgf_aead_kernel wgf_aead_portable;
#if defined(__x86_64__)
extern const struct wgf_aead_kernel wgf_aead_avx512;
extern const struct wgf_aead_kernel wgf_aead_avx512ifma;
extern const struct wgf_aead_kernel wgf_aead_avx2;
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
extern const struct wgf_aead_kernel wgf_aead_neon;
#endif

/* Why a kernel is not in use; the text stands beside it in wgf_aead_reason. */
enum wgf_aead_state {
	WGF_AEAD_USABLE,
	WGF_AEAD_UNSUPPORTED, /* the processor lacks the instructions */
	WGF_AEAD_FAILED,      /* its self-test failed: never used */
};

enum wgf_aead_state wgf_aead_examine(const struct wgf_aead_kernel *kernel); /* runs the self-test once */
const char *wgf_aead_reason(enum wgf_aead_state state);
const struct wgf_aead_kernel *wgf_aead_find(const char *name); /* NULL: no such kernel in this build */

/* Use the kernel of this name, or the best usable one when name is NULL. 0, -ENOENT for an unknown
 * name, -ENOTSUP for one that is not usable. Any thread; batches under way finish with the old one. */
int wgf_aead_choose(const char *name);
/* Makes the first choice, by the environment, unless one was made. 0, or what wgf_aead_choose says to the
 * name in WGFAST_AEAD: then nothing is chosen, and the next call reads the environment again. Whoever
 * can report it asks before the first packet. Not while another thread changes the environment. */
int wgf_aead_environment(void);
/* Never NULL. Where nothing was chosen yet: the one WGFAST_AEAD names, or the best one if it names none
 * that is usable; if even the portable one failed its self-test, one that refuses everything. */
const struct wgf_aead_kernel *wgf_aead_chosen(void);

static inline void wgf_aead_seal(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_chosen()->seal(jobs, n);
}

static inline void wgf_aead_open(struct wgf_aead_job *jobs, size_t n)
{
	wgf_aead_chosen()->open(jobs, n);
}

/* XChaCha20-Poly1305 (draft-irtf-cfrg-xchacha-03) with a 24-byte nonce; dst as in a job. */
void wgf_aead_xseal(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
		    const uint8_t nonce[24], const uint8_t key[WGF_KEY_SIZE]);
bool wgf_aead_xopen(uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
		    const uint8_t nonce[24], const uint8_t key[WGF_KEY_SIZE]);

/* selftest.c: one kernel against published vectors and, where it is not the portable one, against
 * the portable one over lengths, alignments, places and mixed batches. */
bool wgf_selftest_aead(const struct wgf_aead_kernel *kernel);

#endif
