/* Cookies: two keyed hashes and one secret, no state per sender.
 *
 * What a sender must show before it may cost us a Diffie-Hellman is computed anew from its address
 * each time, so a flood of forged addresses fills nothing. Secrets are copied out under their lock and
 * used outside it: no thread waits for another one's hashing. The jar is the exception; only the
 * control plane and cookie replies, both rare, come there.
 *
 * A message is taken as bytes with its macs as the last 32, so initiation and response are one case. */
#include "cookie.h"

#include "aead.h"
#include "blake2s.h"
#include "bytes.h"
#include "random.h"

#define MACS_SIZE sizeof(struct wgf_message_macs)
#define SENDER_OFFSET offsetof(struct wgf_message_initiation, sender)
#define MESSAGE_MIN (SENDER_OFFSET + 4 + MACS_SIZE)

_Static_assert(sizeof(struct wgf_message_initiation) % 4 == 0 && sizeof(struct wgf_message_response) % 4 == 0 &&
		       MACS_SIZE % 4 == 0,
	       "what mac1 covers is whole words");
_Static_assert(SENDER_OFFSET == offsetof(struct wgf_message_response, sender), "one sender field");

static const uint8_t label_mac1[8] = {'m', 'a', 'c', '1', '-', '-', '-', '-'};
static const uint8_t label_cookie[8] = {'c', 'o', 'o', 'k', 'i', 'e', '-', '-'};

/* 0 means "none" in every birth, and a caller of the Engine may count time from 0. */
static uint64_t birth_at(uint64_t now)
{
	return now ? now : 1;
}

/* Threads read the clock once a batch, so a birth may lie a moment ahead of `now`: that is young. */
static bool young(uint64_t birth, uint64_t now)
{
	return birth != 0 && now < birth + WGF_COOKIE_REFRESH_TIME;
}

static void derive_key(uint8_t key[WGF_KEY_SIZE], const uint8_t label[8],
		       const uint8_t public_key[WGF_KEY_SIZE])
{
	struct wgf_blake2s state;
	wgf_blake2s_init(&state, WGF_KEY_SIZE, NULL, 0);
	wgf_blake2s_update(&state, label, 8);
	wgf_blake2s_update(&state, public_key, WGF_KEY_SIZE);
	wgf_blake2s_final(&state, key);
}

void wgf_cookie_keys(struct wgf_cookie_keys *keys, const uint8_t public_key[WGF_KEY_SIZE])
{
	derive_key(keys->mac1, label_mac1, public_key);
	derive_key(keys->cookie, label_cookie, public_key);
}

int wgf_cookie_checker_init(struct wgf_cookie_checker *checker)
{
	memset(checker->secret, 0, sizeof(checker->secret));
	checker->secret_birth = 0;
	return -pthread_mutex_init(&checker->lock, NULL);
}

void wgf_cookie_checker_wipe(struct wgf_cookie_checker *checker)
{
	pthread_mutex_destroy(&checker->lock);
	wgf_wipe(checker->secret, sizeof(checker->secret));
	checker->secret_birth = 0;
}

int wgf_cookie_jar_init(struct wgf_cookie_jar *jar, const uint8_t public_key[WGF_KEY_SIZE])
{
	wgf_cookie_keys(&jar->keys, public_key);
	memset(jar->cookie, 0, sizeof(jar->cookie));
	jar->cookie_birth = 0;
	memset(jar->last_mac1, 0, sizeof(jar->last_mac1));
	jar->sent_mac1 = false;
	return -pthread_mutex_init(&jar->lock, NULL);
}

void wgf_cookie_jar_wipe(struct wgf_cookie_jar *jar)
{
	pthread_mutex_destroy(&jar->lock);
	wgf_wipe(&jar->keys, sizeof(jar->keys));
	wgf_wipe(jar->cookie, sizeof(jar->cookie));
	wgf_wipe(jar->last_mac1, sizeof(jar->last_mac1));
	jar->cookie_birth = 0;
	jar->sent_mac1 = false;
}

void wgf_cookie_rotate(struct wgf_cookie_checker *checker, const uint8_t secret[WGF_HASH_SIZE],
		       uint64_t now)
{
	pthread_mutex_lock(&checker->lock);
	memcpy(checker->secret, secret, WGF_HASH_SIZE);
	checker->secret_birth = birth_at(now);
	pthread_mutex_unlock(&checker->lock);
}

void wgf_cookie_add_macs(struct wgf_cookie_jar *jar, uint8_t *message, size_t len, uint64_t now)
{
	uint8_t *mac1 = message + len - MACS_SIZE, *mac2 = mac1 + WGF_MAC_SIZE;
	pthread_mutex_lock(&jar->lock);
	wgf_blake2s(mac1, WGF_MAC_SIZE, jar->keys.mac1, WGF_KEY_SIZE, message, len - MACS_SIZE);
	memcpy(jar->last_mac1, mac1, WGF_MAC_SIZE);
	jar->sent_mac1 = true;
	if (young(jar->cookie_birth, now))
		wgf_blake2s(mac2, WGF_MAC_SIZE, jar->cookie, WGF_COOKIE_SIZE, message,
			    len - WGF_MAC_SIZE);
	else
		memset(mac2, 0, WGF_MAC_SIZE);
	pthread_mutex_unlock(&jar->lock);
}

void wgf_cookie_mac1_start(struct wgf_blake2s *start, const struct wgf_cookie_keys *keys)
{
	wgf_blake2s_init(start, WGF_MAC_SIZE, keys->mac1, WGF_KEY_SIZE);
	wgf_blake2s_settle(start);
}

#define MACS_AT_ONCE (8 * WGF_BLAKE2S_LANES)

void wgf_cookie_mac1_valid(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n, size_t len,
			   bool *valid)
{
	uint8_t expected[MACS_AT_ONCE][WGF_HASH_SIZE];
	size_t covered = len - MACS_SIZE;
	for (size_t done = 0; done < n; done += MACS_AT_ONCE) {
		size_t some = n - done < MACS_AT_ONCE ? n - done : MACS_AT_ONCE;
		wgf_blake2s_many(start, messages + done, some, covered, expected);
		for (size_t i = 0; i < some; i++)
			valid[done + i] = wgf_equal(expected[i], messages[done + i] + covered, WGF_MAC_SIZE);
	}
}

/* The cookie of an address and port: the port too, or everybody behind one NAT would share it. A stale
 * secret makes no cookie either: nothing made of it would be accepted. */
static bool make_cookie(struct wgf_cookie_checker *checker, const struct wgf_endpoint *from,
			uint64_t now, uint8_t cookie[WGF_COOKIE_SIZE])
{
	uint8_t secret[WGF_HASH_SIZE], source[sizeof(from->address) + 2];
	pthread_mutex_lock(&checker->lock);
	bool usable = young(checker->secret_birth, now);
	if (usable)
		memcpy(secret, checker->secret, sizeof(secret));
	pthread_mutex_unlock(&checker->lock);
	if (!usable)
		return false;

	size_t address_len = from->family == 4 ? 4 : 16;
	memcpy(source, from->address, address_len);
	wgf_store_be16(source + address_len, from->port);
	wgf_blake2s(cookie, WGF_COOKIE_SIZE, secret, sizeof(secret), source, address_len + 2);
	wgf_wipe(secret, sizeof(secret));
	return true;
}

bool wgf_cookie_mac2_valid(struct wgf_cookie_checker *checker, const struct wgf_endpoint *from,
			   const uint8_t *message, size_t len, uint64_t now)
{
	static const uint8_t none[WGF_MAC_SIZE];
	uint8_t cookie[WGF_COOKIE_SIZE], expected[WGF_MAC_SIZE];
	/* Who has no cookie sends zeros, and is told so by a glance. */
	if (len < MESSAGE_MIN || memcmp(message + len - WGF_MAC_SIZE, none, WGF_MAC_SIZE) == 0 ||
	    !make_cookie(checker, from, now, cookie))
		return false;
	wgf_blake2s(expected, WGF_MAC_SIZE, cookie, sizeof(cookie), message, len - WGF_MAC_SIZE);
	bool valid = wgf_equal(expected, message + len - WGF_MAC_SIZE, WGF_MAC_SIZE);
	wgf_wipe(cookie, sizeof(cookie));
	wgf_wipe(expected, sizeof(expected)); /* a valid mac2 for a message whose sender has none */
	return valid;
}

bool wgf_cookie_reply(struct wgf_cookie_checker *checker, const struct wgf_cookie_keys *keys,
		      const struct wgf_endpoint *from, const uint8_t *message, size_t len, uint64_t now,
		      struct wgf_message_cookie *reply)
{
	uint8_t cookie[WGF_COOKIE_SIZE];
	if (len < MESSAGE_MIN || !wgf_random(reply->nonce, sizeof(reply->nonce)) ||
	    !make_cookie(checker, from, now, cookie))
		return false;
	reply->type = WGF_MESSAGE_COOKIE;
	memset(reply->reserved, 0, sizeof(reply->reserved));
	memcpy(reply->receiver, message + SENDER_OFFSET, sizeof(reply->receiver));
	wgf_aead_xseal(reply->encrypted_cookie, cookie, sizeof(cookie), message + len - MACS_SIZE,
		       WGF_MAC_SIZE, reply->nonce, keys->cookie);
	wgf_wipe(cookie, sizeof(cookie));
	return true;
}

bool wgf_cookie_consume(struct wgf_cookie_jar *jar, const struct wgf_message_cookie *reply, uint64_t now)
{
	uint8_t cookie[WGF_COOKIE_SIZE];
	pthread_mutex_lock(&jar->lock);
	bool taken = jar->sent_mac1 &&
		     wgf_aead_xopen(cookie, reply->encrypted_cookie, sizeof(cookie), jar->last_mac1,
				    WGF_MAC_SIZE, reply->nonce, jar->keys.cookie);
	if (taken) {
		memcpy(jar->cookie, cookie, sizeof(cookie));
		jar->cookie_birth = birth_at(now);
		jar->sent_mac1 = false; /* one reply for one message: a replayed one changes nothing */
	}
	pthread_mutex_unlock(&jar->lock);
	wgf_wipe(cookie, sizeof(cookie));
	return taken;
}
