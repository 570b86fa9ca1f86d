/* The text of a UAPI `set` (https://www.wireguard.com/xplatform/) into the records of a setting, in one
 * pass and by one line after the other: whatever is wrong is wrong with one line, which is named to the
 * caller. What is taken, and what is not, is as uapi.py has it, who words the refusals.
 *
 * Keys are secrets: their digits are read without a branch or an address that depends on them. */
#include <arpa/inet.h>
#include <errno.h>
#include <net/if.h>
#include <string.h>

#include "bytes.h"
#include "setting.h"

#define ADDRESS_TEXT 64u /* longer than any address, or name of an interface */

/* A piece of the text. */
struct span {
	const char *at;
	size_t size;
};

struct parser {
	struct wgf_setting *setting;
	const char *text;
};

static bool is(struct span span, const char *word)
{
	return span.size == strlen(word) && !memcmp(span.at, word, span.size);
}

static struct span from(struct span span, size_t at)
{
	return (struct span){span.at + at, span.size - at};
}

/* Where the character stands first, or the size. */
static size_t find(struct span span, char wanted)
{
	const char *at = span.size ? memchr(span.at, wanted, span.size) : NULL;
	return at ? (size_t)(at - span.at) : span.size;
}

static size_t find_last(struct span span, char wanted)
{
	const char *at = span.size ? memrchr(span.at, wanted, span.size) : NULL;
	return at ? (size_t)(at - span.at) : span.size;
}

/* ---- values ---- */

/* The value of a hexadecimal digit; anything else sets bits in *bad. */
static uint32_t nibble(uint8_t c, uint32_t *bad)
{
	uint32_t digit = c - (uint32_t)'0', letter = (c | 0x20u) - (uint32_t)'a';
	uint32_t is_digit = (digit - 10) >> 31 & ~(digit >> 31);  /* 0 to 9: 1 */
	uint32_t is_letter = (letter - 6) >> 31 & ~(letter >> 31);
	*bad |= 1 ^ (is_digit | is_letter);
	return ((0 - is_digit) & digit) | ((0 - is_letter) & (letter + 10));
}

static bool parse_key(struct span value, uint8_t key[WGF_KEY_SIZE])
{
	uint32_t bad = 0;
	if (value.size != 2 * WGF_KEY_SIZE)
		return false;
	for (size_t i = 0; i < WGF_KEY_SIZE; i++) {
		uint32_t high = nibble((uint8_t)value.at[2 * i], &bad);
		key[i] = (uint8_t)(high << 4 | nibble((uint8_t)value.at[2 * i + 1], &bad));
	}
	wgf_declassify(&bad, sizeof bad);
	return !bad;
}

/* most <= 10^18. */
static bool parse_large(struct span value, uint64_t most, uint64_t *number)
{
	uint64_t sum = 0;
	for (size_t i = 0; i < value.size; i++) {
		uint32_t digit = (uint8_t)value.at[i] - (uint32_t)'0';
		if (digit > 9)
			return false;
		sum = sum * 10 + digit; /* at most 10 * most + 9 */
		if (sum > most) {
			/* Too large already, and only digits may follow: both are refused. */
			return false;
		}
	}
	*number = sum;
	return value.size > 0;
}

static bool parse_number(struct span value, uint32_t most, uint32_t *number)
{
	uint64_t sum = 0;
	bool good = parse_large(value, most, &sum);
	*number = (uint32_t)sum;
	return good;
}

static bool parse_true(struct span value)
{
	return is(value, "true");
}

/* inet_pton wants a string. */
static bool parse_address(struct span value, int family, uint8_t address[16])
{
	char text[ADDRESS_TEXT];
	if (value.size >= sizeof text || find(value, '\0') != value.size)
		return false;
	memcpy(text, value.at, value.size);
	text[value.size] = 0;
	return inet_pton(family, text, address) == 1;
}

/* As it is written by everybody: no sign, no zeros in front. */
static bool parse_length(struct span value, uint32_t most, uint32_t *length)
{
	if (value.size > 3 || (value.size > 1 && value.at[0] == '0'))
		return false;
	return parse_number(value, most, length);
}

static int parse_prefix(struct wgf_setting *setting, struct span value)
{
	uint8_t address[16];
	uint32_t length;
	bool away = value.size && value.at[0] == '-';
	if (away)
		value = from(value, 1);
	size_t slash = find(value, '/');
	struct span host = {value.at, slash};
	if (slash == value.size)
		return -EINVAL;
	bool six = find(host, ':') != host.size;
	if (!parse_address(host, six ? AF_INET6 : AF_INET, address) ||
	    !parse_length(from(value, slash + 1), six ? 128 : 32, &length))
		return -EINVAL;
	return wgf_setting_add_prefix(setting, six ? 6 : 4, address, length, away);
}

/* The scope's number, or the number of the interface of that name. */
static bool parse_scope(struct span value, uint32_t *scope)
{
	char name[IF_NAMESIZE];
	bool digits = value.size > 0;
	for (size_t i = 0; i < value.size; i++)
		digits = digits && value.at[i] >= '0' && value.at[i] <= '9';
	if (digits)
		return parse_number(value, UINT32_MAX, scope);
	if (value.size >= sizeof name || find(value, '\0') != value.size)
		return false;
	memcpy(name, value.at, value.size);
	name[value.size] = 0;
	*scope = if_nametoindex(name);
	return *scope != 0;
}

/* Our IPv6 socket carries IPv6 only: a mapped address is the IPv4 one, and its scope nothing. */
static bool parse_host6(struct wgf_setting_peer *peer, struct span host)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	size_t percent = find(host, '%');
	if (!parse_address((struct span){host.at, percent}, AF_INET6, peer->address))
		return false;
	peer->family = 6;
	if (!memcmp(peer->address, mapped, sizeof mapped)) {
		memmove(peer->address, peer->address + 12, 4);
		memset(peer->address + 4, 0, 12);
		peer->family = 4;
		return true;
	}
	return percent == host.size || parse_scope(from(host, percent + 1), &peer->scope);
}

/* 1.2.3.4:port, [v6]:port, [v6%scope]:port. */
static int parse_endpoint(struct wgf_setting_peer *peer, struct span value)
{
	bool bracketed = value.size && value.at[0] == '[';
	uint32_t port;
	if (bracketed)
		value = from(value, 1);
	size_t end = bracketed ? find(value, ']') : find_last(value, ':');
	size_t colon = bracketed ? end + 1 : end;
	if (colon >= value.size || value.at[colon] != ':' ||
	    !parse_number(from(value, colon + 1), UINT16_MAX, &port) || port == 0)
		return -EINVAL;
	memset(peer->address, 0, sizeof peer->address);
	peer->scope = 0;
	peer->family = 4;
	struct span host = {value.at, end};
	if (bracketed ? !parse_host6(peer, host) : !parse_address(host, AF_INET, peer->address))
		return -EINVAL;
	peer->port = (uint16_t)port;
	return 0;
}

/* ---- lines ---- */

static int parse_device_line(struct wgf_setting *setting, struct span key, struct span value)
{
	uint32_t number;
	if (is(key, "private_key")) {
		setting->said |= WGF_SAID_PRIVATE_KEY;
		return parse_key(value, setting->private_key) ? 0 : -EINVAL;
	}
	if (is(key, "listen_port")) {
		if (!parse_number(value, UINT16_MAX, &number))
			return -EINVAL;
		setting->said |= WGF_SAID_LISTEN_PORT;
		setting->listen_port = (uint16_t)number;
		return 0;
	}
	if (is(key, "fwmark")) {
		setting->said |= WGF_SAID_FWMARK;
		return parse_number(value, UINT32_MAX, &setting->fwmark) ? 0 : -EINVAL;
	}
	if (is(key, "replace_peers")) {
		setting->said |= WGF_SAID_REPLACE_PEERS;
		return parse_true(value) ? 0 : -EINVAL;
	}
	return -EINVAL;
}

static int parse_flag(struct wgf_setting_peer *peer, uint8_t said, struct span value)
{
	peer->said |= said;
	return parse_true(value) ? 0 : -EINVAL;
}

static int parse_host(const struct parser *parser, struct wgf_setting_peer *peer, struct span value)
{
	peer->said |= WGF_SAID_HOST;
	return wgf_setting_add_host(parser->setting, (size_t)(value.at - parser->text), value.size);
}

static int parse_limit(struct wgf_setting *setting, struct span key, struct span value)
{
	uint64_t number;
	for (uint32_t limit = 0; limit < WGF_LIMIT_COUNT; limit++)
		if (is(key, wgf_limit_name(limit)))
			return parse_large(value, wgf_limit_most(limit), &number)
				       ? wgf_setting_add_limit(setting, limit, number)
				       : -EINVAL;
	return -EINVAL;
}

static int parse_peer_line(const struct parser *parser, struct span key, struct span value)
{
	struct wgf_setting *setting = parser->setting;
	struct wgf_setting_peer *peer = &setting->peers[setting->peers_n - 1];
	uint32_t number;
	if (is(key, "allowed_ip"))
		return parse_prefix(setting, value);
	if (is(key, "endpoint")) {
		/* The last word of name and numbers counts. */
		peer->said = (uint8_t)((peer->said | WGF_SAID_ENDPOINT) & ~WGF_SAID_HOST);
		return parse_endpoint(peer, value);
	}
	if (is(key, "replace_allowed_ips")) {
		wgf_setting_drop_prefixes(setting); /* what was said before it is replaced as well */
		return parse_flag(peer, WGF_SAID_REPLACE, value);
	}
	if (is(key, "preshared_key")) {
		peer->said |= WGF_SAID_PSK;
		return parse_key(value, peer->psk) ? 0 : -EINVAL;
	}
	if (is(key, "persistent_keepalive_interval")) {
		if (!parse_number(value, UINT16_MAX, &number))
			return -EINVAL;
		peer->said |= WGF_SAID_KEEPALIVE;
		peer->keepalive = (uint16_t)number;
		return 0;
	}
	if (is(key, "endpoint_host"))
		return parse_host(parser, peer, value);
	if (is(key, "remove"))
		return parse_flag(peer, WGF_SAID_REMOVE, value);
	if (is(key, "update_only"))
		return parse_flag(peer, WGF_SAID_UPDATE_ONLY, value);
	if (is(key, "protocol_version"))
		return is(value, "1") ? 0 : -EINVAL;
	return parse_limit(setting, key, value);
}

static int parse_line(const struct parser *parser, struct span line)
{
	struct wgf_setting *setting = parser->setting;
	uint8_t public_key[WGF_KEY_SIZE];
	size_t equals = find(line, '=');
	if (equals == line.size)
		return -EINVAL;
	struct span key = {line.at, equals}, value = from(line, equals + 1);
	if (!is(key, "public_key"))
		return setting->peers_n ? parse_peer_line(parser, key, value)
					: parse_device_line(setting, key, value);
	if (!parse_key(value, public_key))
		return -EINVAL;
	int error = wgf_setting_end_peer(setting);
	return error ? error : wgf_setting_add_peer(setting, public_key) ? 0 : -ENOMEM;
}

static size_t ascii_prefix(const char *text, size_t size)
{
	size_t i = 0;
	for (; i + 8 <= size; i += 8)
		if (wgf_load_le64((const uint8_t *)text + i) & UINT64_C(0x8080808080808080))
			break;
	while (i < size && (uint8_t)text[i] < 0x80)
		i++;
	return i;
}

int wgf_setting_parse(struct wgf_setting *setting, const char *text, size_t size, struct wgf_setting_fault *fault)
{
	const struct parser parser = {setting, text};
	memset(fault, 0, sizeof *fault);
	if (size > UINT32_MAX)
		return -E2BIG;
	fault->offset = ascii_prefix(text, size);
	if (fault->offset < size)
		return -EINVAL;
	if (size == 0)
		return 0;
	/* The end of the last line may be missing; after it there is no other line. */
	struct span rest = {text, text[size - 1] == '\n' ? size - 1 : size};
	int error = 0;
	for (fault->line = 2; !error; fault->line++) {
		struct span line = {rest.at, find(rest, '\n')};
		*fault = (struct wgf_setting_fault){(size_t)(line.at - text), line.size, fault->line,
						    setting->peers_n > 0};
		error = parse_line(&parser, line);
		if (error || line.size == rest.size)
			break;
		rest = from(rest, line.size + 1);
	}
	return error ? error : wgf_setting_end_peer(setting);
}
