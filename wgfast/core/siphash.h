/* SipHash-2-4 (Aumasson and Bernstein, 2012): where strangers may choose what is hashed, nobody who does not know the
 * key can choose what falls together. */
#ifndef WGF_SIPHASH_H
#define WGF_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

int wgf_siphash_key(uint64_t key[2]); /* a random one: 0 or -errno */
uint64_t wgf_siphash(const uint64_t key[2], const uint8_t *data, size_t len);

#endif
