/* Settings: texts cut and damaged anywhere are taken or refused without a byte read beside them, what one
 * says of itself is consistent, and sets are applied while others look up, dump, scan and remove. */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include "dump.h"
#include "pair.h"
#include "setting.h"

#if defined(__SANITIZE_THREAD__)
/* A race is seen at once; what is read and what is answered is looked at elsewhere. */
#define HEIRS 1000u
#define MUTANTS 3000u
#else
#define HEIRS 8000u
#define MUTANTS 60000u
#endif

enum { TEXT = 1 << 16, ROUNDS = 400, CROWD = 300, MANY = 20000, PORTION = 4096, PACKETS = 64, PACKET = 64 };

/* ---- Texts ---- */

static const char sample[] =
	"private_key=e84b5a6d2717c1003a13b431570353dbaca9146cf150c5f8575680feba52027a\n"
	"listen_port=12912\nfwmark=0\nreplace_peers=true\n"
	"public_key=b85996fecc9c7f1fc6d2572a76eda11d59bcd20be8e543b15ce4bd85a8e75a33\n"
	"preshared_key=188515093e952f5f22e865cef3012e72f8b5f0b598ac0309d5dacce3b70fcf52\n"
	"replace_allowed_ips=true\nallowed_ip=192.168.4.4/32\nendpoint=[abcd:23::33%7]:51820\n"
	"public_key=58402e695ba1772b1cc9309755f043251ea77fdcf10fbe63989ceb7e19321376\n"
	"allowed_ip=192.168.4.6/32\nallowed_ip=-192.168.4.6/32\nallowed_ip=fd00::1/64\nallowed_ip=192.168.4.6/31\n"
	"endpoint=182.122.22.19:3233\npersistent_keepalive_interval=111\nendpoint_host=a.example:7\n"
	"public_key=662e14fd594556f522604703340351258903b64f35553763f19426ab2a515c58\n"
	"update_only=true\nendpoint=5.152.198.39:51820\nprotocol_version=1\nremove=true\n"
	"send_rate=1000000000000\nreceive_packet_burst=007\nreceive_used=1000000000000000000\n";

/* The text stands before a page that must not be read. */
static char *guarded(void)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *memory = mmap(NULL, TEXT + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(memory != MAP_FAILED && !mprotect(memory + TEXT, page, PROT_NONE));
	return memory + TEXT;
}

static void check_consistent(const struct wgf_setting *setting, size_t size)
{
	size_t prefixes = 0;
	for (size_t i = 0; i < setting->peers_n; i++) {
		const struct wgf_setting_peer *peer = &setting->peers[i];
		CHECK(peer->first == prefixes);
		prefixes += peer->count;
		CHECK(!(peer->said & WGF_SAID_LIMITS) || peer->limits < setting->limits_n);
		CHECK(peer->family == 0 || peer->family == 4 || peer->family == 6);
		for (uint32_t j = peer->first; j < prefixes; j++) {
			const struct wgf_setting_prefix *prefix = &setting->prefixes[j];
			CHECK(prefix->family == 4 ? prefix->length <= 32 : prefix->family == 6 && prefix->length <= 128);
		}
	}
	CHECK(prefixes == setting->prefixes_n);
	for (size_t i = 0; i < setting->limits_n; i++)
		for (uint32_t j = 0; j < WGF_LIMIT_COUNT; j++)
			CHECK(setting->limits[i].value[j] <= wgf_limit_most(j));
	for (size_t i = 0; i < setting->hosts_n; i++)
		CHECK(setting->hosts[i].offset + setting->hosts[i].length <= size && setting->hosts[i].peer < setting->peers_n);
}

static int parse(const char *end, const char *text, size_t size)
{
	struct wgf_setting *setting = wgf_setting_create();
	struct wgf_setting_fault fault;
	char *at = (char *)(uintptr_t)(end - size);
	memcpy(at, text, size);
	CHECK(setting);
	int error = wgf_setting_parse(setting, at, size, &fault);
	CHECK(error == 0 || error == -EINVAL);
	if (!error)
		check_consistent(setting, size);
	else
		CHECK(fault.offset + fault.length <= size && fault.line <= size + 2);
	wgf_setting_destroy(setting);
	return error;
}

static void test_damage(struct check_random *random)
{
	static const char spice[] = "=\n-/:[]%+ \0\x80" "0129afgzAF.truesq";
	char *end = guarded(), text[2 * sizeof sample];
	size_t taken = 0;
	CHECK(parse(end, sample, sizeof sample - 1) == 0);
	for (size_t size = 0; size < sizeof sample; size++) /* cut anywhere */
		parse(end, sample, size);
	for (size_t round = 0; round < MUTANTS; round++) {
		size_t size = sizeof sample - 1;
		memcpy(text, sample, size);
		for (size_t n = 1 + check_random_below(random, 3); n > 0; n--) {
			size_t at = check_random_below(random, size);
			size_t moved = check_random_below(random, 40) % (size - at);
			switch (check_random_below(random, 4)) {
			case 0:
				text[at] = spice[check_random_below(random, sizeof spice)];
				break;
			case 1:
				memmove(text + at, text + at + moved, size - at - moved);
				size -= moved;
				break;
			case 2:
				memmove(text + at + moved, text + at, size - at);
				size += moved;
				break;
			default:
				memcpy(text + at, sample + check_random_below(random, sizeof sample - moved), moved);
			}
		}
		taken += parse(end, text, size) == 0;
	}
	printf("setting: %zu of %u damaged texts are taken\n", taken, MUTANTS);
	munmap(end - TEXT, TEXT + (size_t)sysconf(_SC_PAGESIZE));
}

/* ---- Under traffic ---- */

static struct wgf_device *device;
static _Atomic bool stop;
static _Atomic uint64_t looked;

static void put_key(char *text, uint32_t number)
{
	for (size_t i = 0; i < WGF_KEY_SIZE; i++)
		sprintf(text + 2 * i, "%02x", (unsigned)((number >> 8 * (i % 4)) & 0xff) ^ (i < 4 ? 0u : 0x5au));
}

/* 10.0.0.0/8 is somebody's at every moment, and never anybody's but the two that it goes to and fro between. */
static void *looker(void *argument)
{
	static const uint8_t address[4] = {10, 1, 2, 3};
	(void)argument;
	while (!atomic_load(&stop)) {
		uint64_t owner;
		CHECK(!wgf_device_route(device, WGF_IPV4, address, &owner) && owner);
		atomic_fetch_add(&looked, 1);
	}
	return NULL;
}

/* The rest of the control plane: dumps, debts, and a peer of the crowd that goes in the middle of it. */
static void *meddler(void *argument)
{
	struct check_random *random = argument;
	static char text[1 << 16];
	struct wgf_owed owed[8];
	while (!atomic_load(&stop)) {
		uint32_t cursor = 0;
		size_t need;
		uint64_t next, handles[CROWD + 8];
		while (wgf_device_dump(device, &cursor, NULL, 0, 0, text, sizeof text, &need) > 0)
			;
		CHECK(wgf_device_scan(device, WGF_SECOND, owed, 8, &next) >= 0);
		int64_t n = wgf_device_peers(device, handles, CROWD + 8);
		struct wgf_peer_info info;
		uint64_t victim = n > 0 ? handles[check_random_below(random, (size_t)n)] : 0;
		if (n > 0 && n <= CROWD + 8 && !wgf_peer_info(device, victim, &info) && info.public_key[3] == 0x77)
			wgf_device_remove_peer(device, victim);
		usleep(100);
	}
	return NULL;
}

static void apply(const char *text, size_t size)
{
	struct wgf_setting *setting = wgf_setting_create();
	struct wgf_setting_fault fault;
	struct wgf_setting_news news[7];
	uint64_t peers;
	bool done = false;
	CHECK(setting && !wgf_setting_parse(setting, text, size, &fault));
	CHECK(!wgf_setting_check(device, setting, &peers));
	struct wgf_setting_plan *plan = wgf_setting_begin(device, setting);
	CHECK(plan);
	while (!done)
		CHECK(wgf_setting_step(plan, WGF_SECOND, UINT32_MAX, news, 7, &done) >= 0);
	wgf_setting_end(plan);
	wgf_setting_destroy(setting);
}

static size_t compose(char *text, struct check_random *random, uint32_t owner, uint32_t other, bool replace)
{
	char key[2 * WGF_KEY_SIZE + 1], *at = text;
	at += sprintf(at, "%s", replace ? "replace_peers=true\n" : "");
	put_key(key, other);
	at += sprintf(at, "public_key=%s\nreplace_allowed_ips=true\n", key);
	put_key(key, owner);
	at += sprintf(at, "public_key=%s\nreplace_allowed_ips=true\nallowed_ip=10.0.0.0/8\n", key);
	for (size_t i = check_random_below(random, CROWD); i > 0; i--) {
		put_key(key, 0x77000000u | (uint32_t)check_random_below(random, CROWD));
		at += sprintf(at, "public_key=%s\nendpoint=192.0.2.1:%u\n%s%sallowed_ip=%s11.%u.0.0/16\n", key,
			      1 + (unsigned)check_random_below(random, 65535),
			      check_random_below(random, 4) ? "" : "remove=true\n",
			      check_random_below(random, 2) ? "" : "replace_allowed_ips=true\nsend_rate=3\nreceive_quota=5\n",
			      check_random_below(random, 3) ? "" : "-", (unsigned)check_random_below(random, 256));
	}
	return (size_t)(at - text);
}

static void test_under_traffic(struct check_random *random)
{
	struct wgf_device_options options = {.threads = 0};
	struct check_random other = {check_random_next(random)};
	char *text = malloc(CROWD * 256 + 1024);
	pthread_t threads[2];
	device = wgf_device_create(&options);
	CHECK(device && text);
	apply(text, compose(text, random, 1, 2, false));
	CHECK(!pthread_create(&threads[0], NULL, looker, NULL));
	CHECK(!pthread_create(&threads[1], NULL, meddler, &other));
	for (uint32_t round = 0; round < ROUNDS; round++)
		apply(text, compose(text, random, 1 + round % 2, 2 - round % 2, check_random_below(random, 2)));
	atomic_store(&stop, true);
	pthread_join(threads[0], NULL);
	pthread_join(threads[1], NULL);
	const char all_go[] = "replace_peers=true\n";
	apply(all_go, sizeof all_go - 1);
	struct wgf_device_info info;
	CHECK(!wgf_device_info(device, &info) && info.peers == 0 && info.keypairs == 0 && info.indices == 0);
	CHECK(wgf_allowedips_count(device->allowedips) == 0);
	wgf_epoch_collect(&device->epoch);
	CHECK(wgf_secret_pool_in_use(&device->peer_rows) == 0);
	printf("setting: %" PRIu64 " lookups met no gap\n", atomic_load(&looked));
	wgf_device_destroy(device);
	free(text);
}

/* ---- One peer with many prefixes ---- */

static uint64_t owned(uint32_t number)
{
	uint8_t key[WGF_KEY_SIZE];
	uint64_t handle;
	char text[2 * WGF_KEY_SIZE + 1];
	put_key(text, number);
	for (size_t i = 0; i < WGF_KEY_SIZE; i++)
		CHECK(sscanf(text + 2 * i, "%2hhx", &key[i]) == 1);
	return wgf_device_find_peer(device, key, &handle) ? 0 : (uint64_t)wgf_peer_allowed(device, handle, NULL, 0);
}

/* No step gives, moves or takes away more than a portion. The first peer is removed on the way if `meddle`. */
static void apply_in_portions(const char *text, size_t size, size_t least, bool meddle)
{
	struct wgf_setting *setting = wgf_setting_create();
	struct wgf_setting_fault fault;
	struct wgf_setting_news news[7];
	size_t steps = 0;
	bool done = false;
	CHECK(setting && !wgf_setting_parse(setting, text, size, &fault));
	struct wgf_setting_plan *plan = wgf_setting_begin(device, setting);
	CHECK(plan);
	for (; !done; steps++) {
		uint64_t before[2] = {owned(1), owned(2)}, handle;
		CHECK(wgf_setting_step(plan, WGF_SECOND, UINT32_MAX, news, 7, &done) >= 0);
		for (uint32_t i = 0; i < 2; i++) {
			uint64_t now = owned(i + 1);
			CHECK((now > before[i] ? now - before[i] : before[i] - now) <= PORTION);
		}
		if (meddle && steps == 1 && wgf_device_peers(device, &handle, 1) == 1)
			CHECK(!wgf_device_remove_peer(device, handle));
	}
	CHECK(steps >= least);
	wgf_setting_end(plan);
	wgf_setting_destroy(setting);
}

static size_t compose_many(char *text, uint32_t owner, const char *said, uint32_t from, uint32_t to)
{
	char key[2 * WGF_KEY_SIZE + 1], *at = text;
	put_key(key, owner);
	at += sprintf(at, "public_key=%s\n%s", key, said);
	for (uint32_t i = from; i < to; i++)
		at += sprintf(at, "allowed_ip=%u.%u.%u.0/24\n", 1 + (i >> 16), i >> 8 & 255, i & 255);
	return (size_t)(at - text);
}

static void test_portions(void)
{
	static const char replace[] = "replace_allowed_ips=true\n";
	struct wgf_device_options options = {.threads = 0};
	char *text = malloc(MANY * 40 + 256);
	device = wgf_device_create(&options);
	CHECK(device && text);
	apply_in_portions(text, compose_many(text, 1, "", 0, MANY), MANY / PORTION, false);
	CHECK(owned(1) == MANY && owned(2) == 0);
	apply_in_portions(text, compose_many(text, 1, replace, 100, MANY + 100), MANY / PORTION, false);
	CHECK(owned(1) == MANY);
	apply_in_portions(text, compose_many(text, 2, "", 100, MANY + 100), MANY / PORTION, false);
	CHECK(owned(1) == 0 && owned(2) == MANY);
	apply_in_portions(text, compose_many(text, 2, replace, 100, 101), MANY / PORTION, false);
	CHECK(owned(2) == 1);
	apply_in_portions(text, compose_many(text, 2, "", 0, MANY), MANY / PORTION, false);
	apply_in_portions(text, compose_many(text, 2, "remove=true\n", 0, 0), MANY / PORTION, false);
	CHECK(owned(2) == 0 && wgf_allowedips_count(device->allowedips) == 0);
	apply_in_portions(text, (size_t)sprintf(text, "replace_peers=true\n"), 1, false);
	apply_in_portions(text, compose_many(text, 1, "", 0, MANY), 2, true); /* the rest of it is nobody's */
	CHECK(owned(1) == 0 && wgf_allowedips_count(device->allowedips) == 0);
	wgf_device_destroy(device);
	free(text);
}

/* ---- Owners that are removed ---- */

/* A packet for 10.1.2.3 waits for a session of whoever has the address; that there is nobody no packet is told. */
static void *sender(void *argument)
{
	static _Thread_local uint8_t inner[PACKETS * PACKET], out[PACKETS * 2 * PACKET];
	uint32_t lengths[PACKETS], got[PACKETS];
	uint8_t status[PACKETS], tos[PACKETS];
	uint64_t peer[PACKETS];
	struct wgf_endpoint to[PACKETS];
	struct wgf_rows in = {inner, PACKET, lengths}, rows = {out, 2 * PACKET, got};
	(void)argument;
	for (size_t i = 0; i < PACKETS; i++) {
		lengths[i] = (uint32_t)make_ipv4(inner + PACKET * i, PACKET, 1, 2);
		memcpy(inner + PACKET * i + 16, (uint8_t[]){10, 1, 2, 3}, 4);
	}
	while (!atomic_load(&stop)) {
		CHECK(!wgf_engine_send(device, &in, &rows, PACKETS, to, tos, peer, status, WGF_SECOND));
		for (size_t i = 0; i < PACKETS; i++)
			CHECK(status[i] == WGF_DROP_STAGED && peer[i]);
		atomic_fetch_add(&looked, PACKETS);
	}
	return NULL;
}

/* Each set gives 10.0.0.0/8 to a peer that is new, and has the one that had it removed. */
static void test_heirs(void)
{
	struct wgf_device_options options = {.threads = 0};
	void *(*const mine[])(void *) = {looker, sender, sender};
	pthread_t threads[3];
	char key[2 * WGF_KEY_SIZE + 1], text[256];
	device = wgf_device_create(&options);
	CHECK(device);
	atomic_store(&stop, false);
	atomic_store(&looked, 0);
	for (uint32_t heir = 0; heir < HEIRS; heir++) {
		put_key(key, heir);
		int n = sprintf(text, "replace_peers=true\npublic_key=%s\nendpoint=192.0.2.1:5\nallowed_ip=10.0.0.0/8\n", key);
		apply(text, (size_t)n);
		for (size_t i = 0; heir == 0 && i < 3; i++)
			CHECK(!pthread_create(&threads[i], NULL, mine[i], NULL));
	}
	atomic_store(&stop, true);
	for (size_t i = 0; i < 3; i++)
		pthread_join(threads[i], NULL);
	printf("setting: %" PRIu64 " lookups and packets found an owner beside %u removals\n", atomic_load(&looked),
	       HEIRS - 1);
	wgf_device_destroy(device);
}

int main(void)
{
	struct check_random random = check_random_begin("setting");
	test_damage(&random);
	test_under_traffic(&random);
	test_portions();
	test_heirs();
	return 0;
}
