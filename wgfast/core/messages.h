/* The four messages on the wire (whitepaper section 5.4). Integers are little-endian and are read
 * and written with bytes.h, never through these members on a host of the other order. */
#ifndef WGF_MESSAGES_H
#define WGF_MESSAGES_H

#include <stdint.h>

#include "limits.h"

enum wgf_message_type {
	WGF_MESSAGE_INITIATION = 1,
	WGF_MESSAGE_RESPONSE = 2,
	WGF_MESSAGE_COOKIE = 3,
	WGF_MESSAGE_DATA = 4,
};

struct wgf_message_macs {
	uint8_t mac1[WGF_MAC_SIZE];
	uint8_t mac2[WGF_MAC_SIZE];
};

struct wgf_message_initiation {
	uint8_t type;
	uint8_t reserved[3];
	uint8_t sender[4];
	uint8_t ephemeral[WGF_KEY_SIZE];
	uint8_t encrypted_static[WGF_KEY_SIZE + WGF_TAG_SIZE];
	uint8_t encrypted_timestamp[WGF_TIMESTAMP_SIZE + WGF_TAG_SIZE];
	struct wgf_message_macs macs;
};

struct wgf_message_response {
	uint8_t type;
	uint8_t reserved[3];
	uint8_t sender[4];
	uint8_t receiver[4];
	uint8_t ephemeral[WGF_KEY_SIZE];
	uint8_t encrypted_nothing[WGF_TAG_SIZE];
	struct wgf_message_macs macs;
};

struct wgf_message_cookie {
	uint8_t type;
	uint8_t reserved[3];
	uint8_t receiver[4];
	uint8_t nonce[24];
	uint8_t encrypted_cookie[WGF_COOKIE_SIZE + WGF_TAG_SIZE];
};

struct wgf_message_data { /* the header; ciphertext and tag follow */
	uint8_t type;
	uint8_t reserved[3];
	uint8_t receiver[4];
	uint8_t counter[8];
};

#define WGF_DATA_OVERHEAD (sizeof(struct wgf_message_data) + WGF_TAG_SIZE)
#define WGF_HANDSHAKE_MESSAGE_MAX sizeof(struct wgf_message_initiation)

_Static_assert(sizeof(struct wgf_message_initiation) == 148, "initiation is 148 bytes");
_Static_assert(sizeof(struct wgf_message_response) == 92, "response is 92 bytes");
_Static_assert(sizeof(struct wgf_message_cookie) == 64, "cookie reply is 64 bytes");
_Static_assert(sizeof(struct wgf_message_data) == 16, "data header is 16 bytes");
_Static_assert(_Alignof(struct wgf_message_initiation) == 1, "messages lie at any address");

#endif
