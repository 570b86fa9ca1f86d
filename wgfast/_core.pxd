# The C interface as Cython sees it, in the order of wgfast/core/wgfast.h. No function here needs the GIL.

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "<stdbool.h>" nogil:
    ctypedef bint cbool "bool"

cdef extern from "<net/if.h>" nogil:
    enum:
        IFNAMSIZ

cdef extern from "<errno.h>" nogil:
    enum:
        EDOM
        ENOKEY
        EOWNERDEAD

cdef extern from "<arpa/inet.h>" nogil:
    enum:
        AF_INET
        AF_INET6
        INET6_ADDRSTRLEN

    int inet_pton(int family, const char *text, void *address)
    const char *inet_ntop(int family, const void *address, char *text, unsigned size)

cdef extern from "core/bytes.h" nogil:
    void wgf_wipe(void *p, size_t n)

cdef extern from "core/gate.h" nogil:
    struct wgf_gate:
        pass

    int wgf_gate_init(wgf_gate *gate)
    void wgf_gate_destroy(wgf_gate *gate)
    bint wgf_gate_enter(wgf_gate *gate)
    void wgf_gate_leave(wgf_gate *gate)
    bint wgf_gate_close(wgf_gate *gate)
    void wgf_gate_wait(wgf_gate *gate)

cdef extern from "core/rows.h" nogil:
    struct wgf_row_block:
        uint8_t *data
        size_t stride
        size_t width
        size_t n

    struct wgf_row_jobs:
        wgf_row_block src
        wgf_row_block dst
        const uint32_t *lengths
        const uint8_t *keys
        size_t key_stride
        const void *nonces
        size_t nonce_size
        const uint8_t *ad
        size_t ad_stride
        size_t ad_len
        uint8_t *ok
        size_t bad_row
        uint32_t bad_length

    int wgf_rows_seal(wgf_row_jobs *jobs)
    int64_t wgf_rows_open(wgf_row_jobs *jobs)
    size_t wgf_rows_misfit(const uint32_t *lengths, size_t n, size_t width)
    bint wgf_rows_apart(const wgf_row_block *a, const wgf_row_block *b)

cdef extern from "core/blake2s.h" nogil:
    void wgf_blake2s(uint8_t *out, size_t out_len, const uint8_t *key, size_t key_len, const uint8_t *data, size_t len)
    void wgf_kdf(uint8_t *out1, uint8_t *out2, uint8_t *out3, const uint8_t *key, const uint8_t *data, size_t len)

cdef extern from "core/worker.h" nogil:
    uint64_t wgf_clock_now()

cdef extern from "core/link.h" nogil:
    int wgf_link_open(char *name, bint vnet, bint several)
    int wgf_link_name(int fd, char *name)
    int wgf_link_mtu(int fd)
    int wgf_link_set_mtu(int fd, int mtu)
    int wgf_link_is_up(int fd)

cdef extern from "core/offload.h" nogil:
    const uint32_t WGF_OFFLOAD_COUNT
    const char *wgf_offload_name(uint32_t offload)
    const char *wgf_offload_text(uint32_t offload)

cdef extern from "core/wgfast.h" nogil:
    # limits.h
    const uint64_t WGF_REKEY_AFTER_MESSAGES
    const uint64_t WGF_REJECT_AFTER_MESSAGES
    const uint64_t WGF_REKEY_AFTER_TIME
    const uint64_t WGF_REJECT_AFTER_TIME
    const uint64_t WGF_REKEY_ATTEMPT_TIME
    const uint64_t WGF_REKEY_TIMEOUT
    const uint64_t WGF_REKEY_TIMEOUT_JITTER
    const uint64_t WGF_KEEPALIVE_TIMEOUT
    const uint64_t WGF_COOKIE_REFRESH_TIME
    const uint32_t WGF_MESSAGE_MAX
    const uint32_t WGF_MTU_MAX
    const uint32_t WGF_BATCH_PACKETS
    const uint32_t WGF_THREADS_MAX
    const uint32_t WGF_QUEUES_MAX
    const uint32_t WGF_PEERS_MAX
    const uint32_t WGF_REPLAY_WINDOW
    enum:
        WGF_KEY_SIZE
        WGF_HASH_SIZE
        WGF_TAG_SIZE
        WGF_TIMESTAMP_SIZE
        WGF_HANDSHAKE_MESSAGE_MAX

    # aead.h
    struct wgf_aead_kernel:
        const char *name

    enum wgf_aead_state:
        WGF_AEAD_USABLE

    const wgf_aead_kernel *const wgf_aead_kernels[]
    wgf_aead_state wgf_aead_examine(const wgf_aead_kernel *kernel)
    const char *wgf_aead_reason(wgf_aead_state state)
    int wgf_aead_choose(const char *name)
    int wgf_aead_environment()
    const wgf_aead_kernel *wgf_aead_chosen()
    void wgf_aead_xseal(
        uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
        const uint8_t *nonce, const uint8_t *key,
    )
    bint wgf_aead_xopen(
        uint8_t *dst, const uint8_t *src, size_t len, const uint8_t *ad, size_t ad_len,
        const uint8_t *nonce, const uint8_t *key,
    )

    # replay.h
    struct wgf_replay:
        pass

    void wgf_replay_reset(wgf_replay *window)
    bint wgf_replay_accept(wgf_replay *window, uint64_t counter)
    size_t wgf_replay_accept_many(wgf_replay *window, const uint64_t *counters, size_t n, uint8_t *accepted)

    # allowedips.h
    enum:
        WGF_IPV4
        WGF_IPV6
    const uint32_t WGF_OWNER_NONE
    const uint32_t WGF_OWNER_MAX

    struct wgf_prefix:
        uint8_t family
        uint8_t length
        uint8_t address[16]
        uint32_t owner

    struct wgf_allowedips:
        pass

    int wgf_allowedips_insert(
        wgf_allowedips *table, int family, const uint8_t *address, unsigned length, uint32_t owner
    )
    int wgf_allowedips_insert_many(
        wgf_allowedips *table, int family, const void *addresses, const uint8_t *lengths, const uint32_t *owners,
        size_t n, size_t *at
    )
    int wgf_allowedips_remove(
        wgf_allowedips *table, int family, const uint8_t *address, unsigned length, uint32_t owner
    )
    size_t wgf_allowedips_remove_owner(wgf_allowedips *table, uint32_t owner)
    void wgf_allowedips_lookup4_many(wgf_allowedips *table, const uint32_t *addresses, size_t n, uint32_t *owners)
    void wgf_allowedips_lookup6_many(wgf_allowedips *table, const uint8_t *addresses, size_t n, uint32_t *owners)
    size_t wgf_allowedips_memory(wgf_allowedips *table)
    size_t wgf_allowedips_count(wgf_allowedips *table)
    size_t wgf_allowedips_list(wgf_allowedips *table, uint32_t owner, wgf_prefix *out, size_t max)

    struct wgf_routes:
        wgf_allowedips *table

    wgf_routes *wgf_routes_create()
    void wgf_routes_destroy(wgf_routes *routes)

    # drops.h, timers.h, events.h, endpoint.h
    enum:
        WGF_DROP_COUNT
        WGF_DROP_NOT
        WGF_DROP_STAGED
        WGF_DROP_CONSUMED
        WGF_DEBT_RETRANSMIT
        WGF_DEBT_KEEPALIVE
        WGF_DEBT_NEW_HANDSHAKE
        WGF_DEBT_ZERO_KEYS
        WGF_DEBT_PERSISTENT
        WGF_DEBT_HANDSHAKE
        WGF_EVENT_CONFIRMED
        WGF_EVENT_ROAMED
        WGF_EVENT_COOKIE
        WGF_EVENT_LOOP
        WGF_EVENT_LOAD
        WGF_EVENT_TUN_GONE

    const char *wgf_drop_name(int reason)
    const char *wgf_drop_text(int reason)

    struct wgf_endpoint:
        uint8_t address[16]
        uint8_t source[16]
        uint32_t scope
        uint32_t interface
        uint16_t port
        uint8_t family
        uint8_t has_source

    struct wgf_event:
        uint32_t kind
        uint32_t value
        uint64_t peer
        wgf_endpoint endpoint

    struct wgf_queued_handshake:
        uint64_t peer
        wgf_endpoint endpoint
        uint32_t length
        uint8_t *data

    struct wgf_owed:
        uint64_t peer
        uint32_t debts

    # handshake.h
    struct wgf_handshake:
        uint8_t *hash
        uint8_t *ephemeral
        uint8_t *shared
        uint8_t *remote_ephemeral
        uint8_t *remote_static

    struct wgf_x25519:
        int (*multiply)(uint8_t *out, const uint8_t *scalar, const uint8_t *point) noexcept nogil
        int (*base)(uint8_t *out, const uint8_t *scalar) noexcept nogil

    bint wgf_handshake_generate(wgf_handshake *hs, const wgf_x25519 *x25519, uint8_t *public_key)
    bint wgf_handshake_dh(wgf_handshake *hs, const wgf_x25519 *x25519, const uint8_t *point)
    void wgf_handshake_begin(wgf_handshake *hs, const uint8_t *responder_static)
    void wgf_handshake_mix_hash(wgf_handshake *hs, const uint8_t *data, size_t len)
    void wgf_handshake_mix_ephemeral(wgf_handshake *hs, const uint8_t *public_key)
    void wgf_handshake_mix_shared(wgf_handshake *hs)
    void wgf_handshake_mix_chain(wgf_handshake *hs)
    void wgf_handshake_mix_psk(wgf_handshake *hs, const uint8_t *psk)
    void wgf_handshake_seal(wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len)
    bint wgf_handshake_open(wgf_handshake *hs, uint8_t *dst, const uint8_t *src, size_t len)
    void wgf_handshake_split(wgf_handshake *hs, uint8_t *first, uint8_t *second)
    void wgf_handshake_wipe(wgf_handshake *hs)

    # limiter.h
    enum:
        WGF_LIMIT_COUNT
        WGF_LIMITS_ALL

    struct wgf_limits:
        uint64_t *value
        uint32_t said

    const char *wgf_limit_name(uint32_t limit)
    uint64_t wgf_limit_most(uint32_t limit)

    # wgfast.h: the device
    struct wgf_device:
        pass

    struct wgf_device_options:
        uint32_t threads
        uint32_t offloads_off
        uint32_t queues
    int wgf_device_offloads(wgf_device *device, uint32_t *states)

    wgf_device *wgf_device_create(const wgf_device_options *options)
    void wgf_device_destroy(wgf_device *device)
    bint wgf_device_alive(const wgf_device *device)
    int wgf_device_set_identity(wgf_device *device, const uint8_t *private_key, const uint8_t *public_key)
    int wgf_device_identity(wgf_device *device, uint8_t *private_key, uint8_t *public_key)
    int wgf_device_set_mtu(wgf_device *device, uint32_t mtu)
    int wgf_device_set_tun(wgf_device *device, int fd)
    int wgf_device_set_keeper(wgf_device *device, int (*prepare)(void *, int, int, uint32_t) noexcept nogil,
                              void *context)
    int wgf_device_bind(wgf_device *device, uint16_t port, uint32_t fwmark, uint16_t *bound)
    void wgf_device_unbind(wgf_device *device)
    int wgf_device_set_fwmark(wgf_device *device, uint32_t fwmark)
    int wgf_device_start(wgf_device *device)
    int wgf_device_stop(wgf_device *device)
    int wgf_device_clear_sources(wgf_device *device)
    int wgf_device_rotate_cookie(wgf_device *device, const uint8_t *secret, uint64_t now)
    bint wgf_device_under_load(wgf_device *device, uint64_t now)
    int wgf_device_drops(wgf_device *device, uint64_t *counts)
    int wgf_device_count_drop(wgf_device *device, uint32_t reason)

    struct wgf_device_info "wgf_device_info":
        uint32_t peers
        uint32_t indices
        uint32_t keypairs
        uint32_t threads
        uint32_t queues
        uint32_t events_waiting
        uint32_t handshakes_waiting
        uint32_t staged
        uint32_t rows
        uint64_t packet_memory_ceiling
        uint64_t rows_memory
        uint64_t allowedips_memory
        uint16_t listen_port

    int wgf_device_get_info "wgf_device_info"(wgf_device *device, wgf_device_info *info)
    int wgf_device_trim(wgf_device *device)

    # peers
    int wgf_device_add_peer(wgf_device *device, const uint8_t *public_key, uint64_t *handle)
    int wgf_device_remove_peer(wgf_device *device, uint64_t handle)
    int wgf_device_find_peer(wgf_device *device, const uint8_t *public_key, uint64_t *handle)
    int64_t wgf_device_peers(wgf_device *device, uint64_t *handles, size_t max)

    struct wgf_peer_info "wgf_peer_info":
        uint64_t handle
        uint8_t *public_key
        wgf_endpoint endpoint
        uint64_t sent_bytes
        uint64_t received_bytes
        uint64_t sent_packets
        uint64_t received_packets
        uint64_t handshake_at
        uint64_t session_birth
        uint64_t session_sent
        uint32_t staged
        uint16_t persistent_keepalive
        uint8_t has_psk
        uint8_t session_initiator

    int wgf_peer_get_info "wgf_peer_info"(wgf_device *device, uint64_t handle, wgf_peer_info *info)
    int wgf_peer_set_psk(wgf_device *device, uint64_t handle, const uint8_t *psk)
    int wgf_peer_psk(wgf_device *device, uint64_t handle, uint8_t *psk)
    int wgf_peer_set_endpoint(wgf_device *device, uint64_t handle, const wgf_endpoint *endpoint)
    int wgf_peer_clear_source(wgf_device *device, uint64_t handle)
    int wgf_peer_set_persistent_keepalive(wgf_device *device, uint64_t handle, uint16_t seconds, uint64_t now)
    int wgf_peer_set_limits(wgf_device *device, uint64_t handle, const wgf_limits *limits, uint64_t now)
    int wgf_peer_limits(wgf_device *device, uint64_t handle, wgf_limits *limits)
    int wgf_peer_allow(wgf_device *device, uint64_t handle, int family, const uint8_t *address, unsigned length)
    int wgf_peer_allow_many(wgf_device *device, uint64_t handle, const wgf_prefix *prefixes, size_t n)
    int wgf_peer_disallow(wgf_device *device, uint64_t handle, int family, const uint8_t *address, unsigned length)
    int wgf_peer_disallow_all(wgf_device *device, uint64_t handle)
    int64_t wgf_device_prefixes(wgf_device *device)
    int64_t wgf_peer_allowed(wgf_device *device, uint64_t handle, wgf_prefix *out, size_t max)
    int wgf_device_route(wgf_device *device, int family, const uint8_t *address, uint64_t *handle)

    # handshakes
    wgf_handshake *wgf_handshake_take()
    void wgf_handshake_give(wgf_handshake *hs)
    bint wgf_handshake_alive(const wgf_handshake *hs)
    int wgf_device_dh(
        wgf_device *device, wgf_handshake *hs, const wgf_x25519 *x25519, const uint8_t *point
    )
    int wgf_peer_mix_static(wgf_device *device, uint64_t handle, wgf_handshake *hs)
    int wgf_peer_learn_static(wgf_device *device, uint64_t handle, wgf_handshake *hs)
    int wgf_peer_mix_psk(wgf_device *device, uint64_t handle, wgf_handshake *hs)
    int wgf_peer_accept_timestamp(wgf_device *device, uint64_t handle, const uint8_t *stamp, uint64_t now)
    int wgf_peer_begin_handshake(wgf_device *device, uint64_t handle, uint32_t *local_index)
    int wgf_peer_end_handshake(wgf_device *device, uint64_t handle)
    int wgf_peer_send_handshake(wgf_device *device, uint64_t handle, uint8_t *message, size_t len, uint64_t now)
    int wgf_peer_begin_session_initiator(
        wgf_device *device, uint64_t handle, wgf_handshake *hs, uint32_t local_index, uint32_t remote_index,
        uint64_t now,
    )
    int wgf_peer_begin_session_responder(
        wgf_device *device, uint64_t handle, wgf_handshake *hs, uint32_t local_index, uint32_t remote_index,
        uint64_t now,
    )
    int wgf_peer_begin_answer(wgf_device *device, uint64_t handle, uint32_t *local_index)
    int wgf_peer_end_answer(wgf_device *device, uint64_t handle, uint32_t local_index)
    int wgf_peer_heard(
        wgf_device *device, uint64_t handle, const wgf_endpoint *sender, size_t message_len, uint64_t now
    )

    # what peers owe, news
    int64_t wgf_device_scan(wgf_device *device, uint64_t now, wgf_owed *owed, size_t max, uint64_t *next)
    int wgf_peer_send_keepalive(wgf_device *device, uint64_t handle, uint64_t now)
    int wgf_peer_handshake_sent(wgf_device *device, uint64_t handle, uint64_t *at)
    int wgf_peer_want_handshake(wgf_device *device, uint64_t handle, uint64_t now)
    int wgf_peer_want_handshake_done(wgf_device *device, uint64_t handle)
    int wgf_peer_arm_retransmit(wgf_device *device, uint64_t handle, uint64_t at)
    int wgf_peer_give_up(wgf_device *device, uint64_t handle, uint64_t now)
    int wgf_peer_zero_keys(wgf_device *device, uint64_t handle)
    int wgf_peer_stop(wgf_device *device, uint64_t handle)
    int wgf_device_event_fd(wgf_device *device)
    int64_t wgf_device_take_events(wgf_device *device, wgf_event *out, size_t max)
    int64_t wgf_device_take_answers(wgf_device *device, wgf_queued_handshake *out, size_t max)
    int64_t wgf_device_take_initiations(wgf_device *device, wgf_queued_handshake *out, size_t max)
    bint wgf_device_quiet(wgf_device *device)

    # the path over a caller's arrays
    struct wgf_rows:
        uint8_t *data
        size_t stride
        uint32_t *length

    int wgf_engine_send(
        wgf_device *device, const wgf_rows *packets, const wgf_rows *out, size_t n, wgf_endpoint *to,
        uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now,
    )
    int wgf_engine_receive(
        wgf_device *device, const wgf_rows *packets, const wgf_rows *out, size_t n, const wgf_endpoint *sender,
        const uint8_t *tos, uint64_t *peer, uint8_t *status, uint64_t now,
    )
    int64_t wgf_engine_drain(
        wgf_device *device, const wgf_rows *out, size_t n, wgf_endpoint *to, uint8_t *tos, uint64_t *peer,
        uint64_t now,
    )

cdef extern from "core/setting.h" nogil:
    enum:
        WGF_SAID_REMOVE
        WGF_SAID_UPDATE_ONLY
        WGF_SAID_PSK
        WGF_SAID_ENDPOINT
        WGF_SAID_KEEPALIVE
        WGF_SAID_REPLACE
        WGF_SAID_HOST
        WGF_SAID_LIMITS
        WGF_SAID_PRIVATE_KEY
        WGF_SAID_LISTEN_PORT
        WGF_SAID_FWMARK
        WGF_SAID_REPLACE_PEERS
        WGF_NEWS_REMOVED
        WGF_NEWS_PSK
        WGF_NEWS_ENDPOINT
        WGF_NEWS_RESET
        WGF_NEWS_HOST

    struct wgf_setting_prefix:
        uint8_t *address
        uint8_t family
        uint8_t length
        uint8_t away

    struct wgf_setting_peer:
        uint8_t *public_key
        uint8_t *psk
        uint8_t *address
        uint32_t scope
        uint32_t first
        uint32_t count
        uint32_t limits
        uint16_t port
        uint16_t keepalive
        uint8_t family
        uint8_t said

    struct wgf_setting_host:
        uint32_t peer
        uint32_t offset
        uint32_t length

    struct wgf_setting:
        uint8_t *private_key
        uint32_t fwmark
        uint16_t listen_port
        uint8_t said
        wgf_setting_peer *peers
        wgf_setting_prefix *prefixes
        wgf_limits *limits
        wgf_setting_host *hosts
        size_t peers_n
        size_t prefixes_n
        size_t hosts_n

    struct wgf_setting_fault:
        size_t offset
        size_t length
        uint32_t line
        bint of_peer

    struct wgf_setting_news:
        uint64_t handle
        uint32_t peer
        uint32_t what

    struct wgf_setting_plan:
        pass

    wgf_setting *wgf_setting_create()
    void wgf_setting_destroy(wgf_setting *setting)
    wgf_setting_peer *wgf_setting_add_peer(wgf_setting *setting, const uint8_t *public_key)
    int wgf_setting_add_prefix(
        wgf_setting *setting, uint8_t family, const uint8_t *address, unsigned length, bint away
    )
    int wgf_setting_add_limit(wgf_setting *setting, uint32_t limit, uint64_t value)
    int wgf_setting_end_peer(wgf_setting *setting)
    int wgf_setting_parse(wgf_setting *setting, const char *text, size_t size, wgf_setting_fault *fault)
    int wgf_setting_check(wgf_device *device, const wgf_setting *setting, uint64_t *peers)
    wgf_setting_plan *wgf_setting_begin(wgf_device *device, const wgf_setting *setting)
    void wgf_setting_end(wgf_setting_plan *plan)
    int64_t wgf_setting_step(
        wgf_setting_plan *plan, uint64_t now, uint32_t wanted, wgf_setting_news *news, size_t max, cbool *done
    )

cdef extern from "core/dump.h" nogil:
    struct wgf_dump_name:
        uint64_t handle
        const char *text
        size_t size

    int64_t wgf_device_dump(
        wgf_device *device, uint32_t *cursor, const wgf_dump_name *names, size_t names_n, int64_t wall, char *out,
        size_t size, size_t *need,
    )
