/* A device that is sent messages it must refuse. They end where their memory ends, so that a byte read too far is
 * a fault. */
#ifndef WGF_HOSTILE_H
#define WGF_HOSTILE_H

#include "guard.h"
#include "pair.h"

static struct party a, b; /* b receives */
static struct guard memory;
static uint64_t now = 1000 * WGF_SECOND;

/* A message that must be dropped for this reason, and be counted so exactly once. */
static inline void refuse(const uint8_t *message, size_t len, unsigned reason)
{
	struct tally before = tally_of(b.device);
	struct wgf_endpoint from = endpoint_of(a.number);
	uint8_t *copy = guard_last(memory, len), out[ROW];
	if (len)
		memmove(copy, message, len);
	struct outcome result = receive_from(b.device, copy, len, out, sizeof out, &from, 0, now);
	CHECK(result.status == reason);
	CHECK(result.length == 0);
	CHECK(counted(b.device, &before, reason, 1));
}

static inline struct outcome admit_from(const uint8_t *message, size_t len, uint8_t *out, uint8_t tos,
				  const struct wgf_endpoint *from)
{
	struct tally before = tally_of(b.device);
	uint8_t *copy = guard_last(memory, len);
	memmove(copy, message, len);
	struct outcome result = receive_from(b.device, copy, len, out, ROW, from, tos, now);
	CHECK(counted(b.device, &before, WGF_DROP_NOT, 0));
	return result;
}

static inline void admit(const uint8_t *message, size_t len, unsigned status)
{
	struct wgf_endpoint from = endpoint_of(a.number);
	uint8_t out[ROW];
	CHECK(admit_from(message, len, out, 0, &from).status == status);
}

/* A fresh pair with a confirmed session. */
static inline void begin(void)
{
	make_pair(&a, &b);
	begin_session(&a, &b, 9, now);
	confirm_session(&a, &b, now);
	struct wgf_event event;
	CHECK(take_events(b.device, &event, 1) == 1 && event.kind == WGF_EVENT_CONFIRMED && event.peer == b.peer);
}

static inline void end(void)
{
	wgf_device_destroy(a.device);
	wgf_device_destroy(b.device);
}

#endif
