/* A program of the kernel's own machine (eBPF), run for each packet that leaves the interface.
 *
 * Left to itself Linux sends a flow to the queue by which its other direction was written last, and forgets that
 * after three seconds: packets of one flow would change queues on the way, and their places. A network card's
 * rule (receive-side scaling) keeps them: ports count where packets are not cut into fragments, that is for TCP.
 *
 * The result, modulo the number of queues, is the queue. A load past the end of the packet ends the program with 0. */
#include "steering.h"

#include <errno.h>
#include <linux/bpf.h>
#include <linux/if_tun.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FACTOR ((int32_t)0x9E3779B1u) /* 2^32 over the golden ratio; odd, so that no bit is lost */

/* Registers: a load puts its value into VALUE and spoils 1 to 5; CONTEXT is what it loads from. */
enum { VALUE = BPF_REG_0, CONTEXT = BPF_REG_6, SUM = BPF_REG_7, OFFSET = BPF_REG_8 };
enum { TCP = 6 };

#define LOAD(size, at) {.code = BPF_LD | BPF_ABS | (size), .imm = (at)}
#define LOAD_AT_OFFSET(size) {.code = BPF_LD | BPF_IND | (size), .src_reg = OFFSET}
#define SET(to, from) {.code = BPF_ALU64 | BPF_MOV | BPF_X, .dst_reg = (to), .src_reg = (from)}
#define PUT(to, value) {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = (to), .imm = (value)}
#define DO(operation, to, value) {.code = BPF_ALU64 | (operation) | BPF_K, .dst_reg = (to), .imm = (value)}
#define ADD(to, from) {.code = BPF_ALU64 | BPF_ADD | BPF_X, .dst_reg = (to), .src_reg = (from)}
#define UNLESS(value, skip) {.code = BPF_JMP | BPF_JNE | BPF_K, .dst_reg = VALUE, .imm = (value), .off = (skip)}
#define SKIP(n) {.code = BPF_JMP | BPF_JA, .off = (n)}
#define END {.code = BPF_JMP | BPF_EXIT}
/* Three instructions: one more word counts. */
#define COUNT(load) load, DO(BPF_MUL, SUM, FACTOR), ADD(SUM, VALUE)

/* What is skipped is counted in instructions; beyond the ones for an address family it is always up to the last four. */
static const struct bpf_insn program[] = {
	SET(CONTEXT, BPF_REG_1), PUT(SUM, 0),
	LOAD(BPF_B, 0), DO(BPF_RSH, VALUE, 4),
	UNLESS(4, 19), /* to IPv6 */
	COUNT(LOAD(BPF_W, 12)), COUNT(LOAD(BPF_W, 16)),
	LOAD(BPF_B, 9), UNLESS(TCP, 41),
	LOAD(BPF_H, 6), DO(BPF_AND, VALUE, 0x3fff), UNLESS(0, 38), /* a fragment */
	LOAD(BPF_B, 0), DO(BPF_AND, VALUE, 15), DO(BPF_LSH, VALUE, 2), SET(OFFSET, VALUE),
	COUNT(LOAD_AT_OFFSET(BPF_W)),
	SKIP(30), /* IPv6: */
	UNLESS(6, 29),
	COUNT(LOAD(BPF_W, 8)), COUNT(LOAD(BPF_W, 12)), COUNT(LOAD(BPF_W, 16)), COUNT(LOAD(BPF_W, 20)),
	COUNT(LOAD(BPF_W, 24)), COUNT(LOAD(BPF_W, 28)), COUNT(LOAD(BPF_W, 32)),
	COUNT(LOAD(BPF_W, 36)),
	LOAD(BPF_B, 6), UNLESS(TCP, 3),
	COUNT(LOAD(BPF_W, 40)),
	DO(BPF_MUL, SUM, FACTOR), SET(VALUE, SUM), DO(BPF_RSH, VALUE, 16),
	END,
};

static int load(void)
{
	union bpf_attr attributes;
	memset(&attributes, 0, sizeof attributes);
	attributes.prog_type = BPF_PROG_TYPE_SOCKET_FILTER;
	attributes.insns = (uintptr_t)program;
	attributes.insn_cnt = sizeof program / sizeof program[0];
	attributes.license = (uintptr_t)"MIT";
	long fd = syscall(SYS_bpf, BPF_PROG_LOAD, &attributes, sizeof attributes);
	return fd < 0 ? -errno : (int)fd;
}

int wgf_steering_set(int fd)
{
	int loaded = load();
	if (loaded < 0)
		return loaded;
	int error = ioctl(fd, TUNSETSTEERINGEBPF, &loaded) < 0 ? -errno : 0;
	close(loaded); /* the interface keeps what it uses */
	return error;
}
