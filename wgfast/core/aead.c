/* The choice of the AEAD kernel: the list of those in this build, best first, what each examination
 * found, and the one in use.
 *
 * All of it is a few atomics, read without locks by every batch. Examining a kernel twice, when two
 * threads come at once, finds the same twice, so nobody waits for anybody. A kernel is constant data,
 * so a pointer to it needs no more ordering than acquire and release. */
#include "aead.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

const struct wgf_aead_kernel *const wgf_aead_kernels[] = {
#if defined(__x86_64__)
	&wgf_aead_avx512ifma,
	&wgf_aead_avx512,
	&wgf_aead_avx2,
#elif defined(__aarch64__) && __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
	&wgf_aead_neon,
#endif
	&wgf_aead_portable,
	NULL,
};

#define KERNELS (sizeof(wgf_aead_kernels) / sizeof(wgf_aead_kernels[0]) - 1)

/* One more than the enum wgf_aead_state found; 0: not examined yet. Any thread reads and writes. */
static atomic_uint examined[KERNELS];

/* NULL until the first choice. Any thread reads and writes. */
static const struct wgf_aead_kernel *_Atomic chosen;

/* Where not even the portable kernel gets its test vectors right, nothing may be sent: what is
 * sealed is zeros, and nothing opens. wgf_aead_choose has said -ENOTSUP before. */
static void refuse_seal(struct wgf_aead_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++)
		memset(jobs[i].dst, 0, jobs[i].len + WGF_TAG_SIZE);
}

static void refuse_open(struct wgf_aead_job *jobs, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		jobs[i].ok = false;
		if (jobs[i].len > 0)
			memset(jobs[i].dst, 0, jobs[i].len);
	}
}

static bool refuse_supported(void)
{
	return false;
}

static const struct wgf_aead_kernel refuse = {
	.name = "none",
	.supported = refuse_supported,
	.seal = refuse_seal,
	.open = refuse_open,
};

static enum wgf_aead_state examine_now(const struct wgf_aead_kernel *kernel)
{
	if (!kernel->supported())
		return WGF_AEAD_UNSUPPORTED;
	return wgf_selftest_aead(kernel) ? WGF_AEAD_USABLE : WGF_AEAD_FAILED;
}

enum wgf_aead_state wgf_aead_examine(const struct wgf_aead_kernel *kernel)
{
	for (size_t i = 0; i < KERNELS; i++) {
		if (wgf_aead_kernels[i] != kernel)
			continue;
		unsigned known = atomic_load_explicit(&examined[i], memory_order_acquire);
		if (known == 0) {
			known = 1 + (unsigned)examine_now(kernel);
			atomic_store_explicit(&examined[i], known, memory_order_release);
		}
		return (enum wgf_aead_state)(known - 1);
	}
	return examine_now(kernel); /* not of this build: a test's own */
}

const char *wgf_aead_reason(enum wgf_aead_state state)
{
	switch (state) {
	case WGF_AEAD_USABLE:
		return "usable";
	case WGF_AEAD_UNSUPPORTED:
		return "this processor lacks the instructions";
	case WGF_AEAD_FAILED:
		return "its self-test failed";
	}
	return "unknown";
}

const struct wgf_aead_kernel *wgf_aead_find(const char *name)
{
	for (size_t i = 0; i < KERNELS; i++)
		if (strcmp(wgf_aead_kernels[i]->name, name) == 0)
			return wgf_aead_kernels[i];
	return NULL;
}

/* What wgf_aead_choose would take, or NULL and the error it would return. */
static const struct wgf_aead_kernel *pick(const char *name, int *error)
{
	*error = 0;
	if (name != NULL) {
		const struct wgf_aead_kernel *kernel = wgf_aead_find(name);
		if (kernel == NULL)
			*error = -ENOENT;
		else if (wgf_aead_examine(kernel) != WGF_AEAD_USABLE)
			*error = -ENOTSUP;
		return *error == 0 ? kernel : NULL;
	}
	for (size_t i = 0; i < KERNELS; i++)
		if (wgf_aead_examine(wgf_aead_kernels[i]) == WGF_AEAD_USABLE)
			return wgf_aead_kernels[i];
	*error = -ENOTSUP;
	return NULL;
}

int wgf_aead_choose(const char *name)
{
	int error;
	const struct wgf_aead_kernel *kernel = pick(name, &error);
	if (kernel != NULL)
		atomic_store_explicit(&chosen, kernel, memory_order_release);
	return error;
}

/* By the environment, unless an explicit choice was made meanwhile: that one wins. NULL and the error
 * where WGFAST_AEAD names none that is usable: a fault is not stored, so that it can be corrected. */
static const struct wgf_aead_kernel *choose_first(int *error)
{
	const char *name = getenv("WGFAST_AEAD");
	const struct wgf_aead_kernel *none = NULL;
	const struct wgf_aead_kernel *kernel = pick(name != NULL && name[0] != '\0' ? name : NULL, error);

	if (kernel == NULL)
		return NULL;
	if (!atomic_compare_exchange_strong_explicit(&chosen, &none, kernel, memory_order_acq_rel,
						     memory_order_acquire))
		kernel = none;
	return kernel;
}

int wgf_aead_environment(void)
{
	int error = 0;
	if (atomic_load_explicit(&chosen, memory_order_acquire) == NULL)
		choose_first(&error);
	return error;
}

const struct wgf_aead_kernel *wgf_aead_chosen(void)
{
	int error;
	const struct wgf_aead_kernel *kernel = atomic_load_explicit(&chosen, memory_order_acquire);

	if (kernel == NULL)
		kernel = choose_first(&error);
	if (kernel == NULL) /* nobody asked wgf_aead_environment: packets must flow all the same */
		kernel = pick(NULL, &error);
	return kernel != NULL ? kernel : &refuse;
}
