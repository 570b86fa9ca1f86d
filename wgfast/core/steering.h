/* Which of an interface's queues a packet leaves by. */
#ifndef WGF_STEERING_H
#define WGF_STEERING_H

/* From now on packets of one flow leave the interface behind the descriptor by one queue: TCP goes by addresses and
 * ports, anything else, which may be fragments, by addresses. 0 or -errno: -EPERM without CAP_BPF. */
int wgf_steering_set(int fd);

#endif
