/* The queue of handshake messages: every source has a line of its own, and the sources are served in turn, one
 * message each. When all cells are taken, the oldest message of a source that has most waiting makes room: whoever
 * sends many pushes out their own, and where all have one, as when a flood forges its sources, the oldest goes,
 * whose sender is the next to try again.
 *
 * Sources that have something waiting stand in three lists: in a chain of the hash table; in the order of turns; and
 * among those with as many waiting, so that a longest line is found at once. Everything is of fixed size and linked
 * by pointers; memory is touched as far as so many ever waited. A mutex is enough: handshake messages are not the
 * packet path, and nothing is done under it but links and copies. */
#include "handshakequeue.h"

#include <errno.h>
#include <stdlib.h>

#include "source.h"

#define BUCKETS WGF_HANDSHAKES_WAITING

_Static_assert((BUCKETS & (BUCKETS - 1)) == 0, "a chain is chosen by a mask");
_Static_assert(WGF_HANDSHAKES_WAITING > WGF_UNDER_LOAD_HANDSHAKES, "under load before anybody is pushed out");

struct cell {
	struct wgf_queued_handshake message;
	struct cell *next; /* of the same source, or free */
};

struct node {
	struct node *before, *after;
};

struct list {
	struct node *first, *last;
};

struct line {
	struct node turn, level;
	struct wgf_source source;
	struct line *chain;      /* in the hash table, or free */
	struct cell *oldest, *newest;
	uint32_t count;          /* 0: free */
};

struct wgf_handshake_lines {
	struct cell cells[WGF_HANDSHAKES_WAITING];
	struct line lines[WGF_HANDSHAKES_WAITING]; /* each has a cell at least */
	uint32_t cells_used, lines_used;           /* ever */
	struct cell *free_cells;
	struct line *free_lines;
	struct line *buckets[BUCKETS];
	struct list turns;
	struct list levels[WGF_HANDSHAKES_WAITING + 1]; /* lines by their count */
	uint32_t most;                                  /* the highest count there is */
};

int wgf_handshakequeue_init(struct wgf_handshakequeue *queue)
{
	atomic_init(&queue->waiting, 0);
	int error = wgf_siphash_key(queue->hash_key);
	if (error)
		return error;
	queue->lines = calloc(1, sizeof(*queue->lines));
	if (!queue->lines)
		return -ENOMEM;
	error = -pthread_mutex_init(&queue->lock, NULL);
	if (error) {
		free(queue->lines);
		queue->lines = NULL;
	}
	return error;
}

void wgf_handshakequeue_destroy(struct wgf_handshakequeue *queue)
{
	if (!queue->lines)
		return;
	pthread_mutex_destroy(&queue->lock);
	free(queue->lines);
	queue->lines = NULL;
}

/* ---- lists ---- */

static struct line *of_turn(struct node *node)
{
	return (struct line *)((char *)node - offsetof(struct line, turn));
}

static struct line *of_level(struct node *node)
{
	return (struct line *)((char *)node - offsetof(struct line, level));
}

static void append(struct list *list, struct node *node)
{
	*node = (struct node){list->last, NULL};
	*(list->last ? &list->last->after : &list->first) = node;
	list->last = node;
}

static void unlink_node(struct list *list, struct node *node)
{
	*(node->before ? &node->before->after : &list->first) = node->after;
	*(node->after ? &node->after->before : &list->last) = node->before;
}

/* ---- lines ---- */

static struct line **chain_of(struct wgf_handshakequeue *queue, struct wgf_source source)
{
	return &queue->lines->buckets[wgf_source_hash(queue->hash_key, source) & (BUCKETS - 1)];
}

/* There is a free one, because there is a free cell. */
static struct line *open_line(struct wgf_handshake_lines *lines, struct line **chain, struct wgf_source source)
{
	struct line *line = lines->free_lines;
	if (line)
		lines->free_lines = line->chain;
	else
		line = &lines->lines[lines->lines_used++];
	*line = (struct line){.source = source, .chain = *chain};
	*chain = line;
	append(&lines->turns, &line->turn);
	return line;
}

static struct line *find_line(struct wgf_handshakequeue *queue, struct wgf_source source)
{
	struct line **chain = chain_of(queue, source);
	for (struct line *line = *chain; line; line = line->chain)
		if (wgf_source_same(line->source, source))
			return line;
	return open_line(queue->lines, chain, source);
}

static void close_line(struct wgf_handshakequeue *queue, struct line *line)
{
	struct line **link = chain_of(queue, line->source);
	while (*link != line)
		link = &(*link)->chain;
	*link = line->chain;
	unlink_node(&queue->lines->turns, &line->turn);
	line->chain = queue->lines->free_lines;
	queue->lines->free_lines = line;
}

static void set_count(struct wgf_handshake_lines *lines, struct line *line, uint32_t count)
{
	if (line->count)
		unlink_node(&lines->levels[line->count], &line->level);
	line->count = count;
	if (count)
		append(&lines->levels[count], &line->level);
	if (count > lines->most)
		lines->most = count;
	while (lines->most && !lines->levels[lines->most].first)
		lines->most--;
}

/* ---- messages ---- */

/* The oldest message of a line; its cell is the caller's. The line is closed with its last one. */
static struct cell *pop(struct wgf_handshakequeue *queue, struct line *line)
{
	struct cell *cell = line->oldest;
	line->oldest = cell->next;
	set_count(queue->lines, line, line->count - 1);
	if (!line->count)
		close_line(queue, line);
	return cell;
}

static void push(struct wgf_handshake_lines *lines, struct line *line, struct cell *cell)
{
	cell->next = NULL;
	*(line->count ? &line->newest->next : &line->oldest) = cell;
	line->newest = cell;
	set_count(lines, line, line->count + 1);
}

static struct cell *free_cell(struct wgf_handshake_lines *lines)
{
	struct cell *cell = lines->free_cells;
	if (cell)
		lines->free_cells = cell->next;
	else if (lines->cells_used < WGF_HANDSHAKES_WAITING)
		cell = &lines->cells[lines->cells_used++];
	return cell;
}

bool wgf_handshakequeue_put(struct wgf_handshakequeue *queue, const struct wgf_queued_handshake *message)
{
	pthread_mutex_lock(&queue->lock);
	struct wgf_handshake_lines *lines = queue->lines;
	struct cell *cell = free_cell(lines);
	bool full = !cell;
	if (full)
		cell = pop(queue, of_level(lines->levels[lines->most].first));
	else
		atomic_fetch_add_explicit(&queue->waiting, 1, memory_order_relaxed);
	cell->message = *message;
	push(lines, find_line(queue, wgf_source_of(&message->endpoint)), cell);
	pthread_mutex_unlock(&queue->lock);
	return full;
}

size_t wgf_handshakequeue_take(struct wgf_handshakequeue *queue, struct wgf_queued_handshake *out, size_t max)
{
	size_t n = 0;
	pthread_mutex_lock(&queue->lock);
	struct wgf_handshake_lines *lines = queue->lines;
	for (; n < max && lines->turns.first; n++) {
		struct line *line = of_turn(lines->turns.first);
		struct cell *cell = pop(queue, line);
		if (line->count) { /* to the end of the order */
			unlink_node(&lines->turns, &line->turn);
			append(&lines->turns, &line->turn);
		}
		out[n] = cell->message;
		cell->next = lines->free_cells;
		lines->free_cells = cell;
	}
	atomic_fetch_sub_explicit(&queue->waiting, (uint32_t)n, memory_order_relaxed);
	pthread_mutex_unlock(&queue->lock);
	return n;
}
