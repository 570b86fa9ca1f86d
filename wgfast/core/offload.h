/* What the kernel does for many packets at once: which of it is in use, and if not, why.
 *
 * Each is tried when its port is opened, watched while it is used, and given up for good when the kernel refuses
 * what it should take; the tunnel goes on without. Any thread reads and gives up; a look is one relaxed load. */
#ifndef WGF_OFFLOAD_H
#define WGF_OFFLOAD_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

/* X(NAME, "name", "text") */
#define WGF_OFFLOADS(X) \
	X(VNET, "vnet", "a header before each packet of the interface (IFF_VNET_HDR)") \
	X(TSO, "tso", "TCP super-packets from and to the interface (TUN_F_TSO4, TUN_F_TSO6)") \
	X(USO, "uso", "UDP super-packets from and to the interface (TUN_F_USO4, TUN_F_USO6)") \
	X(SEGMENT, "udp-segment", "many datagrams in one send (UDP_SEGMENT)") \
	X(GRO, "udp-gro", "many datagrams in one receive (UDP_GRO)")

enum wgf_offload {
#define X(NAME, name, text) WGF_OFFLOAD_##NAME,
	WGF_OFFLOADS(X)
#undef X
	WGF_OFFLOAD_COUNT
};

enum wgf_offload_state {
	WGF_OFFLOAD_UNTRIED,
	WGF_OFFLOAD_ACTIVE,
	WGF_OFFLOAD_SWITCHED_OFF, /* by the user */
	WGF_OFFLOAD_ABSENT,       /* the kernel or the port has no such thing: errno says what it said */
	WGF_OFFLOAD_GIVEN_UP,     /* it refused what it should have taken, with this errno */
};

struct wgf_offloads {
	_Atomic uint32_t state[WGF_OFFLOAD_COUNT]; /* enum wgf_offload_state, errno << 8 */
};

const char *wgf_offload_name(enum wgf_offload offload); /* NULL beyond the list */
const char *wgf_offload_text(enum wgf_offload offload);

/* Before the ports are opened: a bit for each that shall not be used. */
void wgf_offload_switch_off(struct wgf_offloads *offloads, uint32_t mask);
/* May it be tried? Not if it was switched off or given up. */
bool wgf_offload_may(struct wgf_offloads *offloads, enum wgf_offload offload);
/* What came of trying: error 0, or the errno. Changes nothing that was switched off or given up. */
void wgf_offload_tried(struct wgf_offloads *offloads, enum wgf_offload offload, int error);
void wgf_offload_give_up(struct wgf_offloads *offloads, enum wgf_offload offload, int error);

static inline bool wgf_offload_active(struct wgf_offloads *offloads, enum wgf_offload offload)
{
	return (atomic_load_explicit(&offloads->state[offload], memory_order_relaxed) & 0xff) == WGF_OFFLOAD_ACTIVE;
}

#endif
