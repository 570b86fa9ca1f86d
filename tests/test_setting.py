"""The core's reading of a UAPI set against Python's, line by line, and what sets do to a device against a
model of it made of dictionaries."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uapioracle import check_text, outcome

from wgfast import Device, _core, generate_private_key, public_key
from wgfast.uapi import PeerBlock, Prefix, SetRequest, UapiError, dump, parse_set
from wgfast.uapi_apply import apply

ZERO = bytes(32)
KEYS = [f"{n:02x}" * 32 for n in range(1, 6)]
HOSTS = ["1.2.3.4:5", "[fd00::1]:99", "[fe80::1%7]:9", "[::ffff:1.2.3.4]:8"]
PREFIXES = [
    "10.0.0.0/8",
    "10.1.0.0/16",
    "10.1.2.3/32",
    "10.1.255.3/16",
    "0.0.0.0/0",
    "::/0",
    "fd00::1/64",
    "fd00::/64",
]
SPICE = [
    *"=-/:[]%+ \r\0\t",
    "true",
    "1",
    "0",
    "00",
    "65535",
    "65536",
    "4294967295",
    "4294967296",
    "/32",
    "/33",
    "lo",
    "٣",
]
WORDS = [
    *KEYS,
    KEYS[0].upper(),
    *HOSTS,
    *PREFIXES,
    *(f"-{prefix}" for prefix in PREFIXES),
    *SPICE,
    "a.example:7",
]
NAMES = [
    "private_key", "listen_port", "fwmark", "replace_peers", "public_key", "remove", "update_only",
    "preshared_key", "endpoint", "endpoint_host", "persistent_keepalive_interval", "replace_allowed_ips",
    "allowed_ip",
    "protocol_version", "nonsense", "", *_core.LIMIT_NAMES,
]  # fmt: skip
# Around what limits can be.
NUMBERS = [
    *("0", "7", "0007", "1000000000", "1000000001", "1000000000000", "1000000000001", "1000000000000000000"),
    *("1000000000000000001", "18446744073709551615", "18446744073709551616", "9" * 40, "0" * 40 + "1"),
]


def values(name: str) -> st.SearchStrategy[str]:
    """Most often one that the key takes."""
    fitting = {
        "private_key": KEYS, "public_key": KEYS, "preshared_key": KEYS,
        "endpoint": HOSTS, "allowed_ip": PREFIXES,
        "endpoint_host": ["a.example:7", ""], "protocol_version": ["1"], "listen_port": ["1", "051", "65535"],
        "fwmark": ["0", "4294967295"], "persistent_keepalive_interval": ["0", "25", "65535"],
        **dict.fromkeys(_core.LIMIT_NAMES, NUMBERS),
    }.get(name, ["true"])  # fmt: skip
    sign = st.sampled_from(["", "-"]) if name == "allowed_ip" else st.just("")
    odd = st.lists(st.sampled_from(WORDS), max_size=3).map("".join) | st.text(max_size=9)
    good = st.tuples(sign, st.sampled_from(fitting)).map("".join)
    return st.one_of(good, good, good, good, good, odd)


LINE = st.sampled_from(NAMES).flatmap(
    lambda name: values(name).map(lambda value: f"{name}={value}") if name else st.text(max_size=9)
)
TEXT = st.lists(LINE, max_size=12).map("\n".join)


@given(TEXT, st.sampled_from(["", f"public_key={KEYS[0]}\n"]), st.sampled_from(["", "\n", "\n\n"]))
@settings(max_examples=3000, deadline=None)
def test_lines_mean_what_they_mean_to_python(text: str, head: str, tail: str) -> None:
    check_text((head + text + tail).encode(errors="surrogatepass"))


@given(st.binary(max_size=200))
@settings(max_examples=500, deadline=None)
def test_bytes_mean_what_they_mean_to_python(text: bytes) -> None:
    check_text(text)
    check_text(f"public_key={KEYS[0]}\n".encode() + text)


@given(st.sampled_from(["allowed_ip=", "endpoint="]), st.text("0123456789abcdf:.[]/%-", max_size=60))
@settings(max_examples=2000, deadline=None)
def test_addresses_mean_what_they_mean_to_python(key: str, value: str) -> None:
    check_text(f"public_key={KEYS[0]}\n{key}{value}\n".encode())


def test_the_first_mistake_is_named() -> None:
    for first, second in (("endpoint_host=:", "allowed_ip=x"), ("allowed_ip=x", "endpoint_host=:")):
        with pytest.raises(UapiError, match=first.partition("=")[0]):
            parse_set(f"public_key={KEYS[0]}\n{first}\n{second}\n".encode())


# ---- what sets do ----


class Model:
    """A device as dictionaries, and a set as its words say: in their order, but what goes, goes last."""

    def __init__(self, own: bytes) -> None:
        self.own = own
        self.peers: dict[
            bytes, tuple[int, bytes, str | None, int]
        ] = {}  # incarnation, psk, endpoint, keepalive
        self.owner: dict[Prefix, int] = {}  # by incarnation
        self._made = 0

    def apply(self, request: SetRequest) -> None:
        doomed = dict.fromkeys(self.peers, False) if request.replace_peers else {}
        stale: set[tuple[int, Prefix]] = set()
        for block in request.peers:
            if block.public_key != self.own:
                self._apply(block, doomed, stale)
        for who, prefix in stale:
            if self.owner.get(prefix) == who:
                del self.owner[prefix]
        for key in doomed:
            self._remove(key)

    def _remove(self, key: bytes) -> None:
        gone = self.peers.pop(key)[0]
        self.owner = {prefix: who for prefix, who in self.owner.items() if who != gone}

    def _apply(self, block: PeerBlock, doomed: dict[bytes, bool], stale: set[tuple[int, Prefix]]) -> None:
        key = block.public_key
        if block.remove:
            if key in self.peers:
                doomed[key] = True
            return
        if block.update_only and (key not in self.peers or key in doomed):
            return
        reset = key in doomed
        if reset and doomed.pop(key):
            self._remove(key)
        if key not in self.peers:
            self._made += 1
            self.peers[key] = (self._made, ZERO, None, 0)
        who, psk, endpoint, keepalive = self.peers[key]
        if reset:
            psk, endpoint, keepalive = ZERO, None, 0
        if block.preshared_key is not None:
            psk = block.preshared_key
        if block.endpoint is not None:
            endpoint = f"{block.endpoint.host} {block.endpoint.port}"
        if block.persistent_keepalive is not None:
            keepalive = block.persistent_keepalive
        self.peers[key] = (who, psk, endpoint, keepalive)
        for prefix, add in block.allowed_ips.items():
            if add:
                self.owner[prefix] = who
                stale.discard((who, prefix))
            else:
                stale.add((who, prefix))
        if block.replace_allowed_ips or reset:
            given = {prefix for prefix, add in block.allowed_ips.items() if add}
            stale |= {(who, prefix) for prefix, of in self.owner.items() if of == who and prefix not in given}

    def state(self) -> dict[bytes, tuple[bytes, str | None, int, list[Prefix]]]:
        return {
            key: (psk, endpoint, keepalive, sorted(prefix for prefix, of in self.owner.items() if of == who))
            for key, (who, psk, endpoint, keepalive) in self.peers.items()
        }


def state_of(device: Device) -> dict[bytes, tuple[bytes, str | None, int, list[Prefix]]]:
    core, found = device.core, {}
    for handle in core.peers():
        info = core.peer_info(handle)
        endpoint = f"{info.endpoint.host} {info.endpoint.port}" if info.endpoint else None
        found[info.public_key] = (
            core.peer_psk(handle),
            endpoint,
            info.persistent_keepalive,
            sorted(map(tuple, core.peer_allowed(handle))),
        )
    return found


@pytest.fixture(scope="module")
def device() -> Iterator[Device]:
    made = Device(generate_private_key())
    yield made
    made.close()


WORD = st.one_of(
    *[st.sampled_from(PREFIXES).map(lambda prefix: f"allowed_ip={prefix}\n")] * 3,
    st.sampled_from(PREFIXES).map(lambda prefix: f"allowed_ip=-{prefix}\n"),
    st.sampled_from(HOSTS).map(lambda host: f"endpoint={host}\n"),
    st.sampled_from([KEYS[0], "00" * 32]).map(lambda key: f"preshared_key={key}\n"),
    st.sampled_from(["0", "25"]).map(lambda seconds: f"persistent_keepalive_interval={seconds}\n"),
    st.sampled_from(["remove=true\n", "update_only=true\n", "replace_allowed_ips=true\n"]),
)
BLOCK = st.tuples(st.sampled_from([*KEYS, "own"]), st.lists(WORD, max_size=5).map("".join))
SET = st.tuples(st.sampled_from(["", "", "replace_peers=true\n"]), st.lists(BLOCK, max_size=7))


@given(st.lists(SET, max_size=6))
@settings(max_examples=800, deadline=None)
def test_sets_do_what_their_words_say(device: Device, sets: list[tuple[str, list[tuple[str, str]]]]) -> None:
    own = bytes(device.public_key or b"")
    model = Model(own)
    apply(device, parse_set(b"replace_peers=true\n"))
    for head, blocks in sets:
        body = "".join(f"public_key={own.hex() if key == 'own' else key}\n{text}" for key, text in blocks)
        text = (head + body).encode()
        apply(device, parse_set(text))
        request = outcome(text)
        assert isinstance(request, SetRequest)
        model.apply(request)
        assert state_of(device) == model.state()


@given(st.lists(st.binary(min_size=16, max_size=16), max_size=30), st.binary(min_size=16, max_size=16))
@settings(max_examples=200, deadline=None)
def test_what_is_shown_is_taken_and_the_same(device: Device, addresses: list[bytes], where: bytes) -> None:
    """inet_ntop and inet_pton are the system's; between them stand the core's writer and reader."""
    apply(device, parse_set(b"replace_peers=true\n"))
    handle = device.core.add_peer(bytes.fromhex(KEYS[0]))
    device.core.peer_allow_many(handle, [(6, address, address[0] % 129) for address in addresses])
    device.core.peer_allow_many(handle, [(4, address[:4], address[0] % 33) for address in addresses])
    device.core.peer_set_endpoint(
        handle, _core.unpack_endpoint(where + bytes(24) + b"\x09\x00\x06\x00" + bytes(4))
    )
    before = state_of(device)
    text = b"".join(dump(device)).decode()
    kept = "".join(
        f"{line}\n"
        for line in text.splitlines()
        if not line.startswith(("last_", "tx_", "rx_", "private_", "listen_"))
    )
    apply(device, parse_set(b"replace_peers=true\n"))
    apply(device, parse_set(kept.encode()))
    after = state_of(device)
    if where.startswith(bytes(10) + b"\xff\xff"):  # an address of IPv4, to whoever reads it
        return
    assert after == before


def test_a_peer_with_very_many_prefixes_is_shown_whole(device: Device) -> None:
    apply(device, parse_set(b"replace_peers=true\n"))
    nets = [f"10.{n >> 8}.{n & 255}.0/24" for n in range(20000)]
    lines = "".join(f"allowed_ip={net}\n" for net in nets)
    apply(
        device,
        parse_set(f"public_key={KEYS[0]}\npublic_key={KEYS[1]}\n{lines}public_key={KEYS[2]}\n".encode()),
    )
    shown = b"".join(dump(device)).decode().splitlines()
    assert [line for line in shown if line.startswith("allowed")] == [f"allowed_ip={net}" for net in nets]
    assert {line for line in shown if line.startswith("public")} == {f"public_key={key}" for key in KEYS[:3]}


def test_more_peers_than_there_can_be_are_refused(monkeypatch: pytest.MonkeyPatch, device: Device) -> None:
    text = f"public_key={KEYS[0]}\npublic_key={KEYS[0]}\npublic_key={KEYS[1]}\nupdate_only=true\n".encode()
    apply(device, parse_set(b"replace_peers=true\n"))
    monkeypatch.setattr(_core, "PEERS_MAX", 0)
    with pytest.raises(UapiError) as refused:
        apply(device, parse_set(text))
    assert refused.value.errno == errno.ENOSPC
    assert state_of(device) == {}


def test_the_control_plane_has_its_turn_between_steps(device: Device) -> None:
    source = "".join(f"public_key={public_key(generate_private_key()).hex()}\n" for _ in range(3))
    many = "".join(f"public_key={n:064x}\nallowed_ip=10.{n >> 8}.{n & 255}.0/24\n" for n in range(1, 10000))
    turns: list[int] = []
    apply(device, parse_set((source + many).encode()), lambda: turns.append(device.core.info().peers))
    assert turns == sorted(turns)
    assert len(set(turns)) > 2
    assert device.core.info().peers == 10002
