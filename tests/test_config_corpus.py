"""Every file of tests/corpus, read by wgfast and by the installed wg and wg-quick: the same are accepted, and
the same is understood."""

from __future__ import annotations

import base64
import ipaddress
import itertools
import random
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import seeds
from corpusjudge import HOSTS, INTERFACE, Judge, Quick, judging
from lab.programs import PEER, SUBJECT, require, require_lab

from wgfast import config
from wgfast.config_sections import CANONICAL, QUICK_KEYS, SECTION_OF
from wgfast.keys import public_key
from wgfast.settings import Prefix

pytestmark = pytest.mark.lab

CORPUS = sorted((Path(__file__).parent / "corpus").glob("*.conf"))
NO_KEY = bytes(32)

# Where wgfast says no and the tools yes, and why that is better.
STRICTER = {
    "port_too_large": "wg takes it modulo 65536: it would listen on port 0, which is any",
    "port_plus": "getaddrinfo takes a sign; no file means to write one",
    "endpoint_port_zero": "nothing can be sent there",
    "endpoint_port_too_large": "wg takes it modulo 65536",
    "endpoint_star": "getaddrinfo takes * for the loopback address",
}
STRICTER_WG = {**STRICTER, "nul_byte": "wg does not see what stands after it on the line"}
STRICTER_QUICK = {
    **STRICTER,
    "address_three_numbers": "iproute2 takes 10.0.1 for 10.0.1.0",
    "dns_three_numbers": "wg-quick would tell the resolver a server that is none",
    "latin1_hook": "a hook is text, and what is not UTF-8 could not even be printed",
}
# Where wgfast says yes and the installed tools no.
LAXER = {
    "allowed_ips_plus": "wg knows signs since 1.0.20250521",
    "allowed_ips_minus": "wg knows signs since 1.0.20250521",
    "endpoint_scope_unknown": "the interface may be there later",
    "endpoint_unresolvable": "the daemon resolves names, as often as it takes",
}
LAXER_QUICK = {**LAXER, "address_twice": "the second would be refused as being there already; it is left out"}


@pytest.fixture(scope="module", params=[PEER, SUBJECT])
def judge(request: pytest.FixtureRequest) -> Iterator[Judge]:
    require_lab()
    with judging(request.param) as found:
        yield found


@pytest.fixture(scope="module")
def quick_judge() -> Iterator[Judge]:
    require_lab()
    require("wg-quick")
    with judging(PEER) as found:
        yield found


@pytest.fixture(params=CORPUS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    found: Path = request.param
    return found


def parse(data: bytes, name: str, *, quick: bool) -> config.Config | str:
    """The configuration, or why it is refused."""
    try:
        return config.parse(config.decode(data), name, quick=quick)
    except config.ConfigFileError as error:
        return str(error)


def agree(
    accepted: bool, read: config.Config | str, name: str, stricter: dict[str, str], laxer: dict[str, str]
) -> None:
    ours = not isinstance(read, str)
    if name in stricter:
        # The daemon itself may refuse it too.
        assert not ours, stricter[name]
    elif name in laxer:
        assert (accepted, ours) == (False, True), laxer[name]
    else:
        assert accepted == ours, read


def test_there_are_enough() -> None:
    assert len(CORPUS) >= 60
    known = {path.stem for path in CORPUS}
    assert known >= {*STRICTER_WG, *STRICTER_QUICK, *LAXER_QUICK}


def test_wg_reads_the_same(judge: Judge, path: Path) -> None:
    data = path.read_bytes()
    read = parse(data, path.name, quick=False)
    accepted = judge.configure(data)
    agree(accepted, read, path.stem, STRICTER_WG, LAXER)
    if accepted and isinstance(read, config.Config):
        check_state(judge, read)


def test_wg_quick_reads_the_same(quick_judge: Judge, path: Path) -> None:
    data = path.read_bytes()
    quick = quick_judge.run_quick(data)
    read = parse(data, path.name, quick=True)
    accepted = quick.accepted and quick_judge.configure(quick.for_wg) and quick_judge.link_takes(quick)
    agree(accepted, read, path.stem, STRICTER_QUICK, LAXER_QUICK)
    if isinstance(read, config.Config):
        check_quick(quick, read.interface)


def check_quick(quick: Quick, interface: config.InterfaceSection) -> None:
    addresses = [ipaddress.ip_interface(address) for address in quick.addresses]
    # One that is there already is left out.
    assert interface.addresses == list(dict.fromkeys(addresses))
    assert quick.mtu == str(interface.mtu or 1420)
    # wg-quick has no use for search domains without a server.
    assert [str(server) for server in interface.dns] == quick.dns
    assert quick.search == (interface.dns_search if interface.dns else [])
    assert quick.routed == (interface.table != "off")
    assert quick.table == (interface.table if interface.table not in ("auto", "off") else None)
    up, down = interface.pre_up + interface.post_up, interface.pre_down + interface.post_down
    assert quick.hooks_up == [hook.replace("%i", INTERFACE) for hook in up]
    assert quick.hooks_down == [hook.replace("%i", INTERFACE) for hook in down]
    assert quick.saved == interface.save_config


def test_strip_prints_the_same(quick_judge: Judge, path: Path) -> None:
    data = path.read_bytes()
    accepted, printed = quick_judge.strip(data)
    try:
        ours = config.encode(config.strip(config.decode(data), path.name))
    except config.ConfigFileError:
        assert not accepted
    else:
        assert accepted
        assert ours == printed


def test_a_round_trip_keeps_every_byte(path: Path) -> None:
    data = path.read_bytes()
    read = parse(data, path.name, quick=True)
    if isinstance(read, config.Config):
        assert config.encode(read.to_text()) == data


# ---- mixtures ----


class Mixtures:
    """Configurations put together at random from the lines of those files whose fate is beyond dispute."""

    def __init__(self, test: str, quick: bool) -> None:
        self._random = random.Random(int(seeds.generator(test).integers(1 << 62)))
        disputed = {*STRICTER_WG, *STRICTER_QUICK, *LAXER_QUICK}
        paths = [path for path in CORPUS if path.stem not in disputed]
        lines = sorted(
            {line for path in paths for line in path.read_bytes().split(b"\n") if b"\0" not in line}
        )
        kinds: dict[str, list[bytes]] = {"[Interface]": [], "[Peer]": [], "": []}
        for line in lines:
            key = CANONICAL.get(line.partition(b"=")[0].decode("latin-1").lower().strip(), "")
            kinds[SECTION_OF.get(key, "") if quick or key not in QUICK_KEYS else ""].append(line)
        self._kinds = kinds

    def __iter__(self) -> Iterator[bytes]:
        while True:
            lines = [b"[Interface]", *self._some("[Interface]")]
            for number in range(self._random.randrange(3)):
                lines += [b"[Peer]", b"PublicKey=" + base64.b64encode(bytes([number + 1]) * 32)]
                lines += self._some("[Peer]")
            # wg-quick would not look at the first of two.
            if any(sum(key in line.lower() for line in lines) > 1 for key in (b"mtu", b"table")):
                continue
            if self._random.random() < 0.3:
                lines.insert(self._random.randrange(len(lines)), self._random.choice(self._kinds[""]))
            yield b"\n".join(lines) + self._random.choice([b"\n", b""])

    def _some(self, kind: str) -> list[bytes]:
        return self._random.choices(self._kinds[kind], k=self._random.randrange(4))


def test_mixtures_are_read_as_wg_reads_them(quick_judge: Judge) -> None:
    fates = []
    for data in itertools.islice(Mixtures("mixtures for wg", quick=False), 100):
        read = parse(data, "mixture", quick=False)
        fates.append(quick_judge.configure(data))
        assert fates[-1] == isinstance(read, config.Config), (data, read)
        if isinstance(read, config.Config):
            check_state(quick_judge, read)
    assert 0 < sum(fates) < len(fates)


def test_mixtures_are_read_as_wg_quick_reads_them(quick_judge: Judge) -> None:
    fates = []
    for data in itertools.islice(Mixtures("mixtures for wg-quick", quick=True), 40):
        accepted, printed = quick_judge.strip(data)
        read = parse(data, "mixture", quick=True)
        if accepted:
            assert config.encode(config.strip(config.decode(data), "mixture")) == printed
        quick = quick_judge.run_quick(data)
        # wg-quick stops at an address that is there already.
        if isinstance(read, str) or not any("given twice" in warning for warning in read.warnings):
            taken = accepted and quick_judge.configure(quick.for_wg) and quick_judge.link_takes(quick)
            assert taken == isinstance(read, config.Config), (data, read)
            fates.append(taken)
        if isinstance(read, config.Config):
            check_quick(quick, read.interface)
    assert 0 < sum(fates) < len(fates)


# ---- what the device should then be ----


def base64_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def endpoint_shown(endpoint: config.EndpointName, implementation: str) -> str:
    host = HOSTS.get(endpoint.host, endpoint.host)
    address, percent, scope = host.partition("%")
    if implementation == PEER:
        # It forgets the scope.
        return str(config.EndpointName(address, endpoint.port))
    if percent and scope.isdigit():
        host = f"{address}%{socket.if_indextoname(int(scope))}"
    # Its IPv6 socket carries IPv6 only.
    return str(config.EndpointName(host.removeprefix("::ffff:"), endpoint.port))


def expected_peers(read: config.Config, implementation: str) -> dict[str, list[str]]:
    """Each peer's fields of `wg show dump` that a configuration decides."""
    own = read.interface.private_key
    owners: dict[Prefix, bytes] = {}
    fields: dict[bytes, list[str]] = {}
    for peer in read.peers:
        if own and own != NO_KEY and peer.public_key == public_key(own):
            continue
        shown = fields.setdefault(peer.public_key, ["(none)", "(none)", "", "off"])
        if peer.preshared_key and peer.preshared_key != NO_KEY:
            shown[0] = base64_of(peer.preshared_key)
        if peer.endpoint:
            shown[1] = endpoint_shown(peer.endpoint, implementation)
        owners = {prefix: owner for prefix, owner in owners.items() if owner != peer.public_key}
        owners.update((allowed.prefix, peer.public_key) for allowed in peer.allowed_ips)
        if peer.persistent_keepalive is not None:
            shown[3] = str(peer.persistent_keepalive or "off")
    for key, shown in fields.items():
        mine = sorted(str(config.AllowedIP(prefix)) for prefix, owner in owners.items() if owner == key)
        shown[2] = ",".join(mine) or "(none)"
    return {base64_of(key): shown for key, shown in fields.items()}


def check_state(judge: Judge, read: config.Config) -> None:
    (private, _, port, fwmark), peers = judge.dump()
    interface = read.interface
    key = None if interface.private_key == NO_KEY else interface.private_key
    assert private == (base64_of(key) if key else "(none)")
    if interface.listen_port:
        assert port == str(interface.listen_port)
    assert fwmark == (f"{interface.fwmark:#x}" if interface.fwmark else "off")
    shown = {
        peer: [preshared, endpoint, ",".join(sorted(allowed.split(","))), keepalive]
        for peer, (preshared, endpoint, allowed, _, _, _, keepalive) in peers.items()
    }
    expected = expected_peers(read, judge.role)
    assert shown == expected
    # What the tool writes of it is read as the same.
    again = config.parse(judge.end.wg("showconf"), "showconf", quick=False)
    assert again.interface.private_key == key
    assert again.interface.fwmark == (interface.fwmark or None)
    assert expected_peers(again, judge.role) == expected
