/* Secret memory: zeroed, aligned, wiped, left out of dumps and of forked children. */
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"
#include "secret.h"

static bool all_zero(const void *memory, size_t n)
{
	const uint8_t *p = memory;
	uint8_t any = 0;
	for (size_t i = 0; i < n; i++)
		any |= p[i];
	return any == 0;
}

static void test_rows(size_t row_size, size_t n)
{
	struct wgf_secret_pool pool;
	uint8_t **rows = calloc(n, sizeof(*rows));
	CHECK(rows);
	CHECK(wgf_secret_pool_init(&pool, row_size) == 0);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < n; i++) {
			rows[i] = wgf_secret_take(&pool);
			CHECK(rows[i] && (uintptr_t)rows[i] % 64 == 0);
			CHECK(all_zero(rows[i], row_size));
			memset(rows[i], (int)(1 + i % 255), row_size);
		}
		CHECK(pool.in_use == n);
		for (size_t i = 0; i < n; i++) { /* no row lies in another */
			CHECK(rows[i][0] == 1 + i % 255 && rows[i][row_size - 1] == 1 + i % 255);
			size_t link = sizeof(struct wgf_secret_row), before = wgf_secret_pool_memory(&pool);
			wgf_secret_give(&pool, rows[i]);
			bool there = wgf_secret_pool_memory(&pool) == before;
			CHECK(!there || row_size <= link || all_zero(rows[i] + link, row_size - link));
		}
		CHECK(pool.in_use == 0);
	}
	uint8_t *one = wgf_secret_take(&pool), *another = wgf_secret_take(&pool);
	wgf_secret_give(&pool, one);
	CHECK(wgf_secret_take(&pool) == one); /* rows are used again */
	wgf_secret_give(&pool, one);
	wgf_secret_give(&pool, another);
	wgf_secret_give(&pool, NULL);
	wgf_secret_pool_destroy(&pool);
	free(rows);
}

/* ---- Memory follows the rows ---- */

#define ROW_SIZE 640u
#define ROWS 20000u

static size_t bytes_for(size_t rows)
{
	size_t a_region = (65536 - 64) / ROW_SIZE;
	return (rows + a_region - 1) / a_region * 65536;
}

static void shuffle(struct check_random *random, uint8_t **rows, uint32_t n)
{
	for (uint32_t i = n; i > 1; i--) {
		uint32_t j = (uint32_t)check_random_below(random, i);
		uint8_t *row = rows[i - 1];
		rows[i - 1] = rows[j];
		rows[j] = row;
	}
}

static void take_rows(struct wgf_secret_pool *pool, uint8_t **rows, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		rows[i] = wgf_secret_take(pool);
		CHECK(rows[i] && all_zero(rows[i], ROW_SIZE));
		memset(rows[i], 0x77, ROW_SIZE);
	}
}

static void give_rows(struct wgf_secret_pool *pool, uint8_t **rows, size_t n)
{
	for (size_t i = 0; i < n; i++)
		wgf_secret_give(pool, rows[i]);
}

/* Whatever the order rows are given back in, what none of them is in goes, and one region stays. */
static void test_memory_comes_back(void)
{
	static uint8_t *rows[ROWS];
	struct check_random random = check_random_begin("memory_comes_back");
	struct wgf_secret_pool pool;
	CHECK(wgf_secret_pool_init(&pool, ROW_SIZE) == 0);
	CHECK(wgf_secret_pool_memory(&pool) == 0);
	for (int round = 0; round < 4; round++) {
		take_rows(&pool, rows, ROWS);
		CHECK(wgf_secret_pool_memory(&pool) == bytes_for(ROWS));
		if (round % 2)
			shuffle(&random, rows, ROWS);
		give_rows(&pool, rows, ROWS);
		CHECK(wgf_secret_pool_memory(&pool) == 65536);
	}
	wgf_secret_pool_destroy(&pool);
}

/* Rows go where others are: of a pool that shrinks and lives on the regions become empty in time. */
static void test_few_rows_come_together(void)
{
	static uint8_t *rows[ROWS];
	struct check_random random = check_random_begin("few_rows_come_together");
	struct wgf_secret_pool pool;
	CHECK(wgf_secret_pool_init(&pool, ROW_SIZE) == 0);
	take_rows(&pool, rows, ROWS);
	shuffle(&random, rows, ROWS);
	uint32_t few = ROWS / 10;
	give_rows(&pool, rows + few, ROWS - few);
	CHECK(wgf_secret_pool_memory(&pool) <= bytes_for(ROWS));
	take_rows(&pool, rows + few, few); /* where there is room: none is mapped for them */
	CHECK(wgf_secret_pool_memory(&pool) <= bytes_for(ROWS));
	give_rows(&pool, rows, 2 * few);
	CHECK(wgf_secret_pool_in_use(&pool) == 0 && wgf_secret_pool_memory(&pool) == 65536);
	wgf_secret_pool_destroy(&pool);
}

/* A row at the edge of a region, taken and given back again and again, maps and unmaps nothing. */
static void test_one_row_at_the_edge(void)
{
	static uint8_t *rows[ROWS];
	struct wgf_secret_pool pool;
	size_t full = (65536 - 64) / ROW_SIZE;
	CHECK(wgf_secret_pool_init(&pool, ROW_SIZE) == 0);
	take_rows(&pool, rows, full + 1);
	uint8_t *edge = rows[full];
	for (int i = 0; i < 100; i++) {
		wgf_secret_give(&pool, edge);
		CHECK(wgf_secret_pool_memory(&pool) == 2 * 65536);
		CHECK(wgf_secret_take(&pool) == edge);
	}
	give_rows(&pool, rows, full + 1);
	CHECK(wgf_secret_pool_memory(&pool) == 65536);
	wgf_secret_pool_destroy(&pool);
}

static void test_impossible_sizes(void)
{
	struct wgf_secret_pool pool;
	CHECK(wgf_secret_pool_init(&pool, 0) < 0);
	CHECK(wgf_secret_pool_init(&pool, SIZE_MAX) < 0);
	CHECK(wgf_secret_map(0) == NULL);
	CHECK(wgf_secret_map(SIZE_MAX) == NULL);
	wgf_secret_unmap(NULL, 4096);
}

/* Does the mapping that holds this address carry the flag ("dd", "wf") in the kernel's own list? */
static bool has_flag(const void *address, const char *flag)
{
	FILE *maps = fopen("/proc/self/smaps", "r");
	CHECK(maps);
	char line[512];
	bool inside = false, found = false;
	while (fgets(line, sizeof(line), maps)) {
		uintptr_t from, to;
		if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " ", &from, &to) == 2)
			inside = from <= (uintptr_t)address && (uintptr_t)address < to;
		else if (inside && strncmp(line, "VmFlags:", 8) == 0)
			found = strstr(line, flag) != NULL;
	}
	fclose(maps);
	return found;
}

static void test_flags(void)
{
	struct wgf_secret_pool pool;
	CHECK(wgf_secret_pool_init(&pool, 100) == 0);
	void *row = wgf_secret_take(&pool), *map = wgf_secret_map(5000);
	CHECK(row && map);
	CHECK(has_flag(row, " dd") && has_flag(row, " wf"));
	wgf_secret_give(&pool, row);
	CHECK(has_flag(row, " dd") && has_flag(row, " wf"));
	CHECK(wgf_secret_take(&pool) == row);
	CHECK(has_flag(map, " dd") && has_flag(map, " wf"));
	wgf_secret_unmap(map, 5000);
	wgf_secret_give(&pool, row);
	wgf_secret_pool_destroy(&pool);
}

/* The child reads zeros and can still take, give and destroy; the parent keeps what it had. */
static void test_fork(void)
{
	struct wgf_secret_pool pool;
	CHECK(wgf_secret_pool_init(&pool, 1000) == 0);
	void *given = wgf_secret_take(&pool);
	void *row = wgf_secret_take(&pool), *map = wgf_secret_map(5000);
	CHECK(given && row && map);
	memset(row, 0xa5, 1000);
	memset(map, 0x5a, 5000);
	wgf_secret_give(&pool, given);
	pid_t child = fork();
	CHECK(child >= 0);
	if (child == 0) {
		bool ok = all_zero(row, 1000) && all_zero(map, 5000);
		for (int i = 0; i < 200; i++) {
			void *another = wgf_secret_take(&pool);
			ok = ok && another && all_zero(another, 1000);
		}
		wgf_secret_give(&pool, row);
		wgf_secret_unmap(map, 5000);
		wgf_secret_pool_destroy(&pool);
		_exit(ok ? 0 : 1);
	}
	int status;
	CHECK(waitpid(child, &status, 0) == child);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(((uint8_t *)row)[999] == 0xa5 && ((uint8_t *)map)[4999] == 0x5a);
	wgf_secret_unmap(map, 5000);
	wgf_secret_give(&pool, row);
	wgf_secret_pool_destroy(&pool);
}

/* ---- Threads take and give side by side ---- */

static struct wgf_secret_pool shared;

static void *churn(void *argument)
{
	struct check_random random = {(uintptr_t)argument};
	uint8_t mine = (uint8_t)(1 + (uintptr_t)argument);
	uint8_t *rows[64] = {NULL};
	for (int i = 0; i < 20000; i++) {
		uint8_t **row = &rows[check_random_below(&random, 64)];
		if (!*row) {
			*row = wgf_secret_take(&shared);
			CHECK(*row && all_zero(*row, 192));
			memset(*row, mine, 192);
		} else {
			CHECK((*row)[0] == mine && (*row)[191] == mine);
			wgf_secret_give(&shared, *row);
			*row = NULL;
		}
	}
	for (int i = 0; i < 64; i++)
		wgf_secret_give(&shared, rows[i]);
	return NULL;
}

static void test_threads(void)
{
	pthread_t threads[2];
	CHECK(wgf_secret_pool_init(&shared, 192) == 0);
	for (uintptr_t i = 0; i < 2; i++)
		CHECK(pthread_create(&threads[i], NULL, churn, (void *)i) == 0);
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	CHECK(shared.in_use == 0);
	wgf_secret_pool_destroy(&shared);
}

int main(void)
{
	test_rows(1, 3000);
	test_rows(64, 1024);
	test_rows(1300, 200);
	test_rows(65536, 3);
	test_rows(100000, 3);
	test_memory_comes_back();
	test_few_rows_come_together();
	test_one_row_at_the_edge();
	test_impossible_sizes();
	test_flags();
	test_fork();
	test_threads();
	return 0;
}
