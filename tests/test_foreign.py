"""The C interface from another front end: cffi, without the binding, judged by other implementations."""

import hashlib
import os

import pytest
from cffi import FFI
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from wgfast import _core

DECLARATIONS = """
    struct wgf_aead_job {
        const uint8_t *key; uint64_t counter; uint32_t prefix; bool ok;
        const uint8_t *ad; size_t ad_len;
        const uint8_t *src; uint8_t *dst; size_t len;
    };
    struct wgf_aead_kernel {
        const char *name; bool (*supported)(void);
        void (*seal)(struct wgf_aead_job *jobs, size_t n);
        void (*open)(struct wgf_aead_job *jobs, size_t n);
    };
    const struct wgf_aead_kernel *wgf_aead_chosen(void);
    void wgf_blake2s(uint8_t *out, size_t out_len, const uint8_t *key, size_t key_len,
                     const uint8_t *data, size_t len);
    struct wgf_blake2s { uint32_t h[8]; uint64_t counted; uint8_t block[64]; size_t filled, out_len; };
    void wgf_blake2s_init(struct wgf_blake2s *state, size_t out_len, const uint8_t *key, size_t key_len);
    void wgf_blake2s_settle(struct wgf_blake2s *state);
    void wgf_blake2s_many(const struct wgf_blake2s *start, const uint8_t *const *messages, size_t n,
                          size_t len, uint8_t (*digests)[32]);
    struct wgf_device_options { uint32_t threads, offloads_off, queues; };
    struct wgf_device *wgf_device_create(const struct wgf_device_options *options);
    void wgf_device_destroy(struct wgf_device *device);
    bool wgf_device_alive(const struct wgf_device *device);
    int wgf_device_add_peer(struct wgf_device *device, const uint8_t *public_key, uint64_t *handle);
    int wgf_device_remove_peer(struct wgf_device *device, uint64_t handle);
    int wgf_peer_allow(struct wgf_device *device, uint64_t handle, int family, const uint8_t *address,
                       unsigned length);
    int wgf_device_route(struct wgf_device *device, int family, const uint8_t *address, uint64_t *handle);
"""


@pytest.fixture(scope="module")
def ffi():
    ffi = FFI()
    ffi.cdef(DECLARATIONS)
    return ffi


@pytest.fixture(scope="module")
def lib(ffi):
    return ffi.dlopen(_core.__file__)


def test_a_batch_sealed_from_c(ffi, lib):
    keys = [os.urandom(32) for _ in range(5)]
    texts = [os.urandom(n) for n in (0, 1, 64, 1420, 9000)]
    out = [ffi.new("uint8_t[]", len(text) + 16) for text in texts]
    kept = [(ffi.from_buffer(key), ffi.from_buffer(text)) for key, text in zip(keys, texts, strict=True)]
    jobs = ffi.new("struct wgf_aead_job[]", 5)
    for number, (key, text) in enumerate(kept):
        jobs[number].key, jobs[number].src, jobs[number].dst = key, text, out[number]
        jobs[number].counter, jobs[number].len = number, len(text)
    lib.wgf_aead_chosen().seal(jobs, 5)
    for number, (key, text) in enumerate(zip(keys, texts, strict=True)):
        nonce = bytes(4) + number.to_bytes(8, "little")
        assert bytes(out[number]) == ChaCha20Poly1305(key).encrypt(nonce, text, None)


def test_a_hash_from_c(ffi, lib):
    out, data = ffi.new("uint8_t[32]"), b"the quick brown fox" * 10
    lib.wgf_blake2s(out, 32, ffi.NULL, 0, data, len(data))
    assert bytes(out) == hashlib.blake2s(data).digest()


def test_a_device_from_c(ffi, lib):
    device = lib.wgf_device_create(ffi.new("struct wgf_device_options *", {"threads": 0}))
    handle, found = ffi.new("uint64_t *"), ffi.new("uint64_t *")
    assert lib.wgf_device_alive(device)
    assert lib.wgf_device_add_peer(device, bytes(range(32)), handle) == 0
    assert lib.wgf_peer_allow(device, handle[0], 4, bytes([10, 1, 0, 0]), 16) == 0
    assert lib.wgf_device_route(device, 4, bytes([10, 1, 2, 3]), found) == 0
    assert found[0] == handle[0]
    assert lib.wgf_device_remove_peer(device, handle[0]) == 0
    assert lib.wgf_device_route(device, 4, bytes([10, 1, 2, 3]), found) == 0
    assert found[0] == 0
    lib.wgf_device_destroy(device)


@pytest.mark.parametrize("length", [4, 60, 64, 68, 116, 128, 132, 192, 256])
def test_many_hashes_at_once(ffi, lib, length):
    key = os.urandom(32)
    start = ffi.new("struct wgf_blake2s *")
    lib.wgf_blake2s_init(start, 16, ffi.from_buffer(key), len(key))
    lib.wgf_blake2s_settle(start)
    for count in range(1, 27):
        messages = [os.urandom(length) for _ in range(count)]
        kept = [ffi.from_buffer(message) for message in messages]
        digests = ffi.new("uint8_t[][32]", count)
        lib.wgf_blake2s_many(start, [ffi.cast("uint8_t *", one) for one in kept], count, length, digests)
        for message, digest in zip(messages, digests, strict=True):
            assert bytes(digest)[:16] == hashlib.blake2s(message, key=key, digest_size=16).digest()
