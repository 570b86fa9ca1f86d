/* Packets in the rows of a caller's arrays: sealing and opening a batch of them, and the questions
 * that must be answered first (does every length fit, do two arrays lie apart). For the Python
 * binding and any other front end that has its packets in rows. */
#ifndef WGF_ROWS_H
#define WGF_ROWS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* n rows of `width` usable bytes, `stride` (>= width) bytes apart. */
struct wgf_row_block {
	uint8_t *data; /* only read where it is a source */
	size_t stride;
	size_t width;
	size_t n;
};

/* Row i of src goes to row i of dst. They lie apart, or begin at the same address with equal strides. */
struct wgf_row_jobs {
	struct wgf_row_block src, dst;
	const uint32_t *lengths;  /* of what src holds: seal, of the plaintext; open, the tag included */
	const uint8_t *keys;
	size_t key_stride;        /* 0: one key for all */
	const void *nonces;       /* n uint64_t: WireGuard's counters; or n times 12 bytes: RFC 8439 nonces */
	size_t nonce_size;        /* 8 or 12 */
	const uint8_t *ad;
	size_t ad_stride, ad_len; /* stride 0: one for all */
	uint8_t *ok;              /* written by open: 1 or 0 */

	size_t bad_row;           /* written on -EMSGSIZE: which row, and its length */
	uint32_t bad_length;
};

/* 0, or -EMSGSIZE if a length fits the rows of src or dst not, and nothing was written. A length is
 * looked at again when its row's turn comes, so that an array which another thread changes meanwhile
 * ends the batch with -EMSGSIZE and never reaches past a row. */
int wgf_rows_seal(struct wgf_row_jobs *jobs);
/* The same, or how many were right. A length that is shorter than a tag is not an error; its row is not ok. */
int64_t wgf_rows_open(struct wgf_row_jobs *jobs);

/* The first of n lengths greater than width, or n. */
size_t wgf_rows_misfit(const uint32_t *lengths, size_t n, size_t width);

/* No byte of a row of one is a byte of a row of the other. Exact where strides are equal (columns of one
 * array); otherwise by first and last byte. */
bool wgf_rows_apart(const struct wgf_row_block *a, const struct wgf_row_block *b);

#endif
