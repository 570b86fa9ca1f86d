/* Destination unreachable, answered into the tunnel interface when no peer owns a destination or the
 * peer has no endpoint: the sender learns at once instead of timing out (as the Linux module does).
 * The answer comes from the address that could not be reached; the interface's own is not known to
 * the core. At most WGF_ICMP_PER_SECOND. */
#ifndef WGF_ICMP_H
#define WGF_ICMP_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define WGF_ICMP_MAX 1280u /* an answer is never longer than IPv6's minimum MTU */

struct wgf_icmp_limit {
	_Atomic uint64_t credit_at; /* virtual time of the next free answer (GCRA) */
};

bool wgf_icmp_allow(struct wgf_icmp_limit *limit, uint64_t now);

/* Builds the answer to an inner packet: IPv4 type 3 code 1 (host unreachable), IPv6 type 1 code 3
 * (address unreachable). Returns its length, or 0 where none may be sent: to ICMP errors, to fragments
 * but the first, to and from multicast, broadcast, loopback and unspecified addresses. */
size_t wgf_icmp_unreachable(uint8_t out[WGF_ICMP_MAX], const uint8_t *packet, size_t len);

#endif
