/* The queue of handshake messages against a slow model, its fairness, who is pushed out, and many threads. */
#include <pthread.h>
#include <sched.h>

#include "bytes.h"
#include "check.h"
#include "handshakequeue.h"

#define MOST WGF_HANDSHAKES_WAITING
#define WRITERS 4u
#define EACH 20000u

/* Source number s: odd ones IPv6, of which the lower half and the port differ from message to message. */
static struct wgf_queued_handshake message_of(uint32_t source, uint32_t number)
{
	struct wgf_queued_handshake message = {.peer = number, .length = 148};
	message.endpoint.family = source % 2 ? 6 : 4;
	message.endpoint.port = (uint16_t)number;
	wgf_store_be32(message.endpoint.address + (source % 2 ? 4 : 0), source);
	if (source % 2)
		wgf_store_be32(message.endpoint.address + 12, number);
	wgf_store_le32(message.data, source);
	memset(message.data + 4, (int)(number & 0xff), sizeof message.data - 4);
	return message;
}

static uint32_t source_of(const struct wgf_queued_handshake *message)
{
	return wgf_load_le32(message->data);
}

static bool put(struct wgf_handshakequeue *queue, uint32_t source, uint32_t number)
{
	struct wgf_queued_handshake message = message_of(source, number);
	return wgf_handshakequeue_put(queue, &message);
}

static void check_whole(const struct wgf_queued_handshake *message)
{
	struct wgf_queued_handshake expected = message_of(source_of(message), (uint32_t)message->peer);
	CHECK(memcmp(message, &expected, sizeof expected) == 0);
}

/* ---- the model: messages in the order they came, and looks at all of them for everything ---- */

#define SOURCES 40u

struct waiting {
	uint32_t source, number;
};

struct model {
	struct waiting messages[MOST + 1];
	size_t n;
	uint32_t turns[SOURCES], turns_n;
	uint64_t changed[SOURCES], time; /* when the number of its messages did */
};

static size_t count_of(const struct model *model, uint32_t source)
{
	size_t n = 0;
	for (size_t i = 0; i < model->n; i++)
		n += model->messages[i].source == source;
	return n;
}

static uint32_t remove_oldest(struct model *model, uint32_t source)
{
	size_t i = 0;
	while (model->messages[i].source != source)
		i++;
	uint32_t number = model->messages[i].number;
	memmove(&model->messages[i], &model->messages[i + 1], (model->n - i - 1) * sizeof model->messages[0]);
	model->n--;
	model->changed[source] = ++model->time;
	return number;
}

static void leave_turns(struct model *model, uint32_t source)
{
	uint32_t i = 0;
	while (model->turns[i] != source)
		i++;
	memmove(&model->turns[i], &model->turns[i + 1], (model->turns_n - i - 1) * sizeof model->turns[0]);
	model->turns_n--;
}

static void push_out(struct model *model)
{
	uint32_t fattest = 0;
	for (uint32_t s = 1; s < SOURCES; s++) {
		size_t mine = count_of(model, s), most = count_of(model, fattest);
		if (mine > most || (mine == most && model->changed[s] < model->changed[fattest]))
			fattest = s;
	}
	remove_oldest(model, fattest);
	if (!count_of(model, fattest))
		leave_turns(model, fattest);
}

static bool model_put(struct model *model, uint32_t source, uint32_t number)
{
	bool full = model->n == MOST;
	if (full)
		push_out(model);
	if (!count_of(model, source))
		model->turns[model->turns_n++] = source;
	model->messages[model->n++] = (struct waiting){source, number};
	model->changed[source] = ++model->time;
	return full;
}

static struct waiting model_take(struct model *model)
{
	uint32_t source = model->turns[0], number = remove_oldest(model, source);
	leave_turns(model, source);
	if (count_of(model, source))
		model->turns[model->turns_n++] = source;
	return (struct waiting){source, number};
}

static void take_both(struct wgf_handshakequeue *queue, struct model *model, size_t wanted)
{
	static struct wgf_queued_handshake out[MOST + 1];
	size_t n = wgf_handshakequeue_take(queue, out, wanted);
	CHECK(n == (wanted < model->n ? wanted : model->n));
	for (size_t i = 0; i < n; i++) {
		struct waiting expected = model_take(model);
		CHECK(source_of(&out[i]) == expected.source && out[i].peer == expected.number);
		check_whole(&out[i]);
	}
	CHECK(wgf_handshakequeue_waiting(queue) == model->n);
}

/* Times of plenty and of drain, some sources louder than others. */
static void test_against_model(struct check_random *random)
{
	static struct model model;
	struct wgf_handshakequeue queue;
	uint32_t number = 0;
	CHECK(wgf_handshakequeue_init(&queue) == 0);
	for (int round = 0; round < 60; round++) {
		uint32_t loud = (uint32_t)check_random_below(random, SOURCES);
		size_t puts = check_random_below(random, round % 3 ? 60 : 900);
		for (size_t i = 0; i < puts; i++) {
			bool noise = check_random_below(random, 3) == 0;
			uint32_t source = noise ? loud : (uint32_t)check_random_below(random, SOURCES);
			number++;
			CHECK(put(&queue, source, number) == model_put(&model, source, number));
		}
		take_both(&queue, &model, check_random_below(random, round % 4 ? 200 : MOST + 1));
	}
	take_both(&queue, &model, MOST + 1);
	take_both(&queue, &model, 1);
	wgf_handshakequeue_destroy(&queue);
}

/* A source with very many waiting, which came first, pushes out nobody and is served as one of all. */
static void test_one_floods(void)
{
	struct wgf_handshakequeue queue;
	struct wgf_queued_handshake out[101];
	CHECK(wgf_handshakequeue_init(&queue) == 0);
	for (uint32_t i = 0; i < 10 * MOST; i++)
		CHECK(put(&queue, 7, i) == (i >= MOST));
	for (uint32_t i = 0; i < 100; i++)
		CHECK(put(&queue, 1000 + i, i));
	for (uint32_t i = 0; i < 10 * MOST; i++)
		CHECK(put(&queue, 7, 10 * MOST + i));
	CHECK(wgf_handshakequeue_waiting(&queue) == MOST);
	CHECK(wgf_handshakequeue_take(&queue, out, 101) == 101);
	CHECK(source_of(&out[0]) == 7 && out[0].peer == 20 * MOST - (MOST - 100)); /* its newest were kept */
	for (uint32_t i = 0; i < 100; i++)
		CHECK(source_of(&out[i + 1]) == 1000 + i);
	wgf_handshakequeue_destroy(&queue);
}

/* Where each source is another, the oldest go. */
static void test_forged_sources(void)
{
	static struct wgf_queued_handshake out[MOST];
	struct wgf_handshakequeue queue;
	CHECK(wgf_handshakequeue_init(&queue) == 0);
	for (uint32_t i = 0; i < 3 * MOST + 5; i++)
		CHECK(put(&queue, i, i) == (i >= MOST));
	CHECK(wgf_handshakequeue_take(&queue, out, MOST) == MOST);
	for (uint32_t i = 0; i < MOST; i++)
		CHECK(out[i].peer == 2 * MOST + 5 + i);
	CHECK(wgf_handshakequeue_waiting(&queue) == 0);
	wgf_handshakequeue_destroy(&queue);
}

/* ---- threads ---- */

struct writer {
	struct wgf_handshakequeue *queue;
	uint32_t number;
	uint64_t pushed_out;
};

static void *write_many(void *argument)
{
	struct writer *writer = argument;
	for (uint32_t i = 1; i <= EACH; i++) {
		writer->pushed_out += put(writer->queue, writer->number, i);
		if (i % 512 == 0)
			sched_yield(); /* let the reader run dry */
	}
	return NULL;
}

/* What comes of one source comes in order and whole; nothing is lost uncounted. */
static void test_many_threads(void)
{
	struct wgf_handshakequeue queue;
	struct writer writers[WRITERS];
	pthread_t threads[WRITERS];
	struct wgf_queued_handshake out[50];
	uint64_t last[WRITERS] = {0}, taken = 0, pushed_out = 0;
	CHECK(wgf_handshakequeue_init(&queue) == 0);
	for (uint32_t i = 0; i < WRITERS; i++) {
		writers[i] = (struct writer){.queue = &queue, .number = i};
		CHECK(pthread_create(&threads[i], NULL, write_many, &writers[i]) == 0);
	}
	while (last[0] < EACH || last[1] < EACH || last[2] < EACH || last[3] < EACH) {
		size_t n = wgf_handshakequeue_take(&queue, out, 50);
		for (size_t i = 0; i < n; i++) {
			check_whole(&out[i]);
			CHECK(out[i].peer > last[source_of(&out[i])]); /* the newest of a source is never pushed out */
			last[source_of(&out[i])] = out[i].peer;
		}
		taken += n;
		if (!n)
			sched_yield();
	}
	for (uint32_t i = 0; i < WRITERS; i++) {
		pthread_join(threads[i], NULL);
		pushed_out += writers[i].pushed_out;
	}
	CHECK(taken + pushed_out == WRITERS * EACH);
	CHECK(wgf_handshakequeue_waiting(&queue) == 0);
	printf("handshakequeue: %" PRIu64 " taken, %" PRIu64 " pushed out\n", taken, pushed_out);
	wgf_handshakequeue_destroy(&queue);
}

int main(void)
{
	struct check_random random = check_random_begin("handshakequeue");
	test_against_model(&random);
	test_one_floods();
	test_forged_sources();
	test_many_threads();
	return 0;
}
