/* Poly1305 (RFC 8439 section 2.5) as the AEAD uses it: every part is padded with zeros to whole
 * blocks, so the short last block of the general construction never occurs. Constant time. */
#ifndef WGF_POLY1305_H
#define WGF_POLY1305_H

#include <stddef.h>
#include <stdint.h>

#include "limits.h"

struct wgf_poly1305 {
	uint64_t r[2];   /* clamped */
	uint64_t h[3];   /* the accumulator, partly reduced: h[2] at most 4 */
	uint64_t pad[2]; /* added at the end */
};

void wgf_poly1305_init(struct wgf_poly1305 *mac, const uint8_t key[32]);
/* n bytes and zeros up to the next multiple of 16; p may be NULL when n is 0. */
void wgf_poly1305_update(struct wgf_poly1305 *mac, const uint8_t *p, size_t n);
void wgf_poly1305_final(struct wgf_poly1305 *mac, uint8_t tag[WGF_TAG_SIZE]); /* the owner wipes mac */

#endif
