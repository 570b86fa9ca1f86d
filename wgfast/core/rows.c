/* Rows into AEAD jobs, a batch's worth at a time on the stack: nothing is allocated, and a batch of a
 * million rows needs no more memory than one of sixty-four. */
#include "rows.h"

#include <errno.h>

#include "aead.h"
#include "bytes.h"

enum direction { SEAL, OPEN };

static bool fits(const struct wgf_row_jobs *jobs, size_t length, enum direction direction)
{
	if (length > jobs->src.width)
		return false;
	if (direction == SEAL)
		return jobs->dst.width >= WGF_TAG_SIZE && length <= jobs->dst.width - WGF_TAG_SIZE;
	return length < WGF_TAG_SIZE || length - WGF_TAG_SIZE <= jobs->dst.width;
}

static int misfit(struct wgf_row_jobs *jobs, size_t row, uint32_t length)
{
	jobs->bad_row = row;
	jobs->bad_length = length;
	return -EMSGSIZE;
}

static int check_lengths(struct wgf_row_jobs *jobs, enum direction direction)
{
	for (size_t i = 0; i < jobs->src.n; i++)
		if (!fits(jobs, jobs->lengths[i], direction))
			return misfit(jobs, i, jobs->lengths[i]);
	return 0;
}

static void describe(struct wgf_aead_job *job, const struct wgf_row_jobs *jobs, size_t i, size_t len)
{
	*job = (struct wgf_aead_job){
		.key = jobs->keys + i * jobs->key_stride,
		.ad = jobs->ad_len ? jobs->ad + i * jobs->ad_stride : NULL,
		.ad_len = jobs->ad_len,
		.src = jobs->src.data + i * jobs->src.stride,
		.dst = jobs->dst.data + i * jobs->dst.stride,
		.len = len,
	};
	if (jobs->nonce_size == sizeof(uint64_t)) {
		job->counter = ((const uint64_t *)jobs->nonces)[i];
	} else {
		const uint8_t *nonce = (const uint8_t *)jobs->nonces + i * jobs->nonce_size;
		job->prefix = wgf_load_le32(nonce);
		job->counter = wgf_load_le64(nonce + 4);
	}
}

int wgf_rows_seal(struct wgf_row_jobs *jobs)
{
	struct wgf_aead_job batch[WGF_BATCH_PACKETS];
	size_t filled = 0;
	int result = check_lengths(jobs, SEAL);

	for (size_t i = 0; i < jobs->src.n && result == 0; i++) {
		uint32_t length = *(const volatile uint32_t *)&jobs->lengths[i];
		if (!fits(jobs, length, SEAL)) {
			result = misfit(jobs, i, length);
			break;
		}
		describe(&batch[filled++], jobs, i, length);
		if (filled == WGF_BATCH_PACKETS) {
			wgf_aead_seal(batch, filled);
			filled = 0;
		}
	}
	if (filled)
		wgf_aead_seal(batch, filled);
	return result;
}

/* row[j]: which row job j is of; rows too short for a tag have none. */
static int64_t open_batch(struct wgf_row_jobs *jobs, struct wgf_aead_job *batch, const size_t *row,
			  size_t n)
{
	int64_t right = 0;

	if (n)
		wgf_aead_open(batch, n);
	for (size_t j = 0; j < n; j++) {
		jobs->ok[row[j]] = batch[j].ok;
		right += batch[j].ok;
	}
	return right;
}

int64_t wgf_rows_open(struct wgf_row_jobs *jobs)
{
	struct wgf_aead_job batch[WGF_BATCH_PACKETS];
	size_t row[WGF_BATCH_PACKETS];
	size_t filled = 0;
	int64_t right = 0;
	int result = check_lengths(jobs, OPEN);

	for (size_t i = 0; i < jobs->src.n && result == 0; i++) {
		uint32_t length = *(const volatile uint32_t *)&jobs->lengths[i];
		jobs->ok[i] = 0;
		if (length < WGF_TAG_SIZE)
			continue;
		if (!fits(jobs, length, OPEN)) {
			result = misfit(jobs, i, length);
			break;
		}
		row[filled] = i;
		describe(&batch[filled++], jobs, i, length - WGF_TAG_SIZE);
		if (filled == WGF_BATCH_PACKETS) {
			right += open_batch(jobs, batch, row, filled);
			filled = 0;
		}
	}
	right += open_batch(jobs, batch, row, filled);
	return result ? result : right;
}

size_t wgf_rows_misfit(const uint32_t *lengths, size_t n, size_t width)
{
	size_t i = 0;
	while (i < n && lengths[i] <= width)
		i++;
	return i;
}

static uintptr_t end_of(const struct wgf_row_block *block)
{
	return (uintptr_t)block->data + (block->n - 1) * block->stride + block->width;
}

bool wgf_rows_apart(const struct wgf_row_block *a, const struct wgf_row_block *b)
{
	uintptr_t at_a = (uintptr_t)a->data, at_b = (uintptr_t)b->data;

	if (a->n == 0 || b->n == 0 || a->width == 0 || b->width == 0)
		return true;
	if (end_of(a) <= at_b || end_of(b) <= at_a)
		return true;
	if (a->stride != b->stride)
		return false;
	/* Equal strides: every row meets the other block's rows at the same distance. */
	size_t apart = at_a <= at_b ? (at_b - at_a) % b->stride : b->stride - (at_a - at_b) % b->stride;
	return apart % b->stride != 0 && apart >= a->width && apart + b->width <= b->stride;
}
