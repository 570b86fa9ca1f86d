/* Rows: which blocks lie apart, which lengths fit, and batches around the size of a chunk, in blocks that end
 * where memory ends. */
#include <errno.h>
#include <string.h>

#include "check.h"
#include "guard.h"
#include "rows.h"

enum { ROWS = 131, WIDTH = 96, TAG = 16 };

static void apart(void)
{
	static uint8_t memory[1024];
	struct wgf_row_block a = {memory, 100, 40, 5}, b = {memory + 40, 100, 60, 5};
	CHECK(wgf_rows_apart(&a, &b) && wgf_rows_apart(&b, &a)); /* columns of one array */
	b.data--;
	CHECK(!wgf_rows_apart(&a, &b) && !wgf_rows_apart(&b, &a)); /* they share one */
	b = (struct wgf_row_block){memory + 40, 100, 61, 5};
	CHECK(!wgf_rows_apart(&a, &b)); /* b's row reaches into the next of a */
	b = (struct wgf_row_block){memory + 440, 7, 7, 3};
	CHECK(wgf_rows_apart(&a, &b) && wgf_rows_apart(&b, &a)); /* after it */
	b.data--;
	CHECK(!wgf_rows_apart(&a, &b));
	b = (struct wgf_row_block){memory + 200, 100, 40, 2};
	CHECK(!wgf_rows_apart(&a, &b)); /* some rows of it */
	b.n = 0;
	CHECK(wgf_rows_apart(&a, &b));
}

static void misfit(void)
{
	const uint32_t lengths[] = {0, 10, 11, 10};
	CHECK(wgf_rows_misfit(lengths, 4, 11) == 4);
	CHECK(wgf_rows_misfit(lengths, 4, 10) == 2);
	CHECK(wgf_rows_misfit(lengths, 0, 0) == 0);
}

/* Seals n rows and opens them again in place; the last row ends at a guard page on both sides. */
static void round_trip(struct check_random *random, size_t n)
{
	struct guard plain = guard_map(ROWS * WIDTH), sealed = guard_map(ROWS * (WIDTH + TAG));
	uint8_t *from = guard_last(plain, n * WIDTH), *to = guard_last(sealed, n * (WIDTH + TAG));
	uint8_t keys[ROWS][32], ok[ROWS];
	uint64_t counters[ROWS];
	uint32_t lengths[ROWS];

	check_random_fill(random, from, n * WIDTH);
	check_random_fill(random, &keys[0][0], sizeof keys);
	for (size_t i = 0; i < n; i++) {
		counters[i] = check_random_next(random);
		lengths[i] = i + 1 == n ? WIDTH : (uint32_t)check_random_below(random, WIDTH + 1);
	}
	struct wgf_row_jobs jobs = {
		.src = {from, WIDTH, WIDTH, n}, .dst = {to, WIDTH + TAG, WIDTH + TAG, n},
		.lengths = lengths, .keys = &keys[0][0], .key_stride = 32,
		.nonces = counters, .nonce_size = 8, .ok = ok,
	};
	CHECK(wgf_rows_seal(&jobs) == 0);

	for (size_t i = 0; i < n; i++)
		lengths[i] += TAG;
	to[0] ^= n > 1; /* the first is forged */
	jobs.src = jobs.dst;
	CHECK(wgf_rows_open(&jobs) == (int64_t)(n - (n > 1)));
	for (size_t i = n > 1; i < n; i++)
		CHECK(ok[i] && !memcmp(from + i * WIDTH, to + i * (WIDTH + TAG), lengths[i] - TAG));

	lengths[n - 1] = WIDTH + TAG + 1;
	CHECK(wgf_rows_open(&jobs) == -EMSGSIZE && jobs.bad_row == n - 1 && jobs.bad_length == WIDTH + TAG + 1);
	CHECK(wgf_rows_seal(&jobs) == -EMSGSIZE);
	guard_unmap(plain);
	guard_unmap(sealed);
}

int main(void)
{
	struct check_random random = check_random_begin("test_rows");
	apart();
	misfit();
	for (size_t n = 1; n <= ROWS; n += n < 3 || n > 60 ? 1 : 7)
		round_trip(&random, n);
	return 0;
}
