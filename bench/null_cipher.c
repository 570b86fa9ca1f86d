/* No cipher at all, to see what everything else costs: `compare.py --impl veth,wgfast,wgfast-null` puts this library
 * before a daemon (LD_PRELOAD), where it stands in for the choice of a kernel. What is "sealed" is a copy with a
 * tag of zeros, and everything "opens". Nothing of it is part of the package. */
#include <string.h>

#include "../wgfast/core/aead.h"

static bool null_supported(void)
{
	return true;
}

static void null_seal(struct wgf_aead_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		memmove(jobs[i].dst, jobs[i].src, jobs[i].len);
		memset(jobs[i].dst + jobs[i].len, 0, WGF_TAG_SIZE);
	}
}

static void null_open(struct wgf_aead_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		memmove(jobs[i].dst, jobs[i].src, jobs[i].len);
		jobs[i].ok = true;
	}
}

static const struct wgf_aead_kernel null_kernel = {"null", null_supported, null_seal, null_open};

const struct wgf_aead_kernel *wgf_aead_chosen(void)
{
	return &null_kernel;
}
