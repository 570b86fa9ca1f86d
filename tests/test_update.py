"""Device.update: what is left out stays, what is wrong changes nothing, and routes move without a gap."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator

import pytest
from configured import never_without_owner

from wgfast import ConfigError, Device, generate_preshared_key, generate_private_key, public_key
from wgfast.control import DEBTS
from wgfast.timers import REKEY_TIMEOUT

KEYS = [public_key(generate_private_key()) for _ in range(4)]
A, B, C, D = KEYS


@pytest.fixture
def device() -> Iterator[Device]:
    made = Device(generate_private_key())
    yield made
    made.close()


def nets(device: Device, key: object) -> list[str]:
    return [str(net) for net in device.peers[key].allowed_ips]


def test_peers_are_added_and_changed_and_the_rest_stays(device: Device) -> None:
    psk = generate_preshared_key()
    device.update(
        [
            {"public_key": A, "allowed_ips": "10.0.0.1, 10.1.0.0/16", "endpoint": "192.0.2.1:9"},
            {
                "public_key": str(B),
                "preshared_key": psk,
                "persistent_keepalive": 25,
                "allowed_ips": ["fd00::/64"],
            },
        ]
    )
    a, b = device.peer(A), device.peer(B)
    assert nets(device, A) == ["10.0.0.1/32", "10.1.0.0/16"]
    assert a.endpoint is not None
    assert a.endpoint[:2] == ("192.0.2.1", 9)
    assert (b.preshared_key, b.persistent_keepalive) == (psk, 25)
    device.update([{"public_key": A, "allowed_ips": ["fd00::/64"]}, {"public_key": B, "preshared_key": None}])
    assert (nets(device, A), nets(device, B)) == (["fd00::/64"], [])
    assert device.peer(A) == a
    assert a.endpoint[:2] == ("192.0.2.1", 9)
    assert (b.preshared_key, b.persistent_keepalive) == (None, 25)
    device.update(({"public_key": key} for key in (B, C)), replace=True)
    assert set(device.peers) == {B, C}
    assert b.persistent_keepalive == 0
    device.update([{"public_key": B, "remove": True}, {"public_key": D, "remove": True}])
    assert set(device.peers) == {C}


def test_names_are_kept_and_dropped(device: Device) -> None:
    device.names.lookup = lambda host, port: []
    device.update(
        [{"public_key": A, "endpoint_host": "a.example:7"}, {"public_key": B, "endpoint_host": "[b]:8"}]
    )
    assert (device.peer(A).endpoint_host, device.peer(B).endpoint_host) == ("a.example:7", "b:8")
    device.update([{"public_key": A, "endpoint": "192.0.2.1:9"}, {"public_key": B, "endpoint_host": None}])
    assert (device.peer(A).endpoint_host, device.peer(B).endpoint_host) == (None, None)
    device.update([{"public_key": A, "endpoint": None}])
    assert device.peer(A).endpoint is None


@pytest.mark.parametrize(
    ("said", "named"),
    [
        ({"allowed_ips": "10.0.0.0/33"}, "allowed_ips"),
        ({"endpoint": "192.0.2.1"}, "endpoint"),
        ({"endpoint_host": "a"}, "endpoint_host"),
        ({"preshared_key": "x"}, "preshared_key"),
        ({"persistent_keepalive": 65536}, "persistent_keepalive"),
        ({"allowed_ip": "10.0.0.0/8"}, "allowed_ip"),
        ({"public_key": A}, "public_key"),
        ({"public_key": "x"}, "public_key"),
    ],
)
def test_a_mistake_is_named_and_nothing_changes(device: Device, said: dict[str, object], named: str) -> None:
    device.update([{"public_key": C, "allowed_ips": "10.0.0.0/8"}])
    peers: list[dict[str, object]] = [
        {"public_key": A, "allowed_ips": "10.0.0.0/8"},
        {"public_key": B, **said},
    ]
    with pytest.raises(ConfigError, match=rf"peers\[1\]: {named}: "):
        device.update(peers, replace=True)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="public_key"):
        device.update([{"allowed_ips": "10.0.0.0/8"}])
    with pytest.raises(ConfigError, match="own"):
        device.update([{"public_key": device.public_key or b""}])
    assert set(device.peers) == {C}
    assert nets(device, C) == ["10.0.0.0/8"]


def test_a_route_that_moves_is_never_without_an_owner(device: Device) -> None:
    device.update([{"public_key": A, "allowed_ips": "10.0.0.0/8"}])
    with never_without_owner(device, bytes((10, 0, 0, 1))):
        for turn in range(300):
            owner, other = (A, B) if turn % 2 else (B, A)
            device.update(
                [
                    {"public_key": other, "allowed_ips": ()},
                    {"public_key": owner, "allowed_ips": "10.0.0.0/8"},
                ],
                replace=turn % 3 == 0,
            )


def test_peers_come_and_go_and_nothing_stays(device: Device) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    source = random.Random(seed)
    for _ in range(6):
        device.update(
            (
                {"public_key": source.randbytes(32), "allowed_ips": [f"10.{i >> 8}.{i & 255}.0/24"]}
                for i in range(3000)
            ),
            replace=True,
        )
        assert len(device.peers) == 3000
        device.update([], replace=True)
        info = device.core.info()
        assert (info.peers, info.keypairs, info.indices) == (0, 0, 0)


def test_updates_of_several_threads_are_one_after_the_other(device: Device) -> None:
    def change(mine: int) -> None:
        for turn in range(30):
            device.update(
                [{"public_key": KEYS[mine], "allowed_ips": f"10.{mine}.0.0/16", "remove": turn % 5 == 4}]
            )

    threads = [threading.Thread(target=change, args=(mine,)) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(device.peers) == 0


def test_many_preshared_keys_begin_handshakes_in_portions(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The running ones end at once; the others are begun as debts are, some in each pass."""
    keys = [public_key(generate_private_key()) for _ in range(100)]
    device.update([{"public_key": key, "endpoint": "127.0.0.1:9"} for key in keys])
    control = device.control
    control.enabled = True
    for handle in device.core.peers():
        control.handshake(handle, device.now(), time.time_ns())
    first = dict(control.pending)
    assert len(first) == len(keys)
    later = device.now() + REKEY_TIMEOUT
    monkeypatch.setattr(device, "now", lambda: later)
    device.update([{"public_key": key, "preshared_key": bytes(range(32))} for key in keys])
    assert len(control.pending) == DEBTS
    passes = 0
    while len(control.pending) < len(keys):
        before = len(control.pending)
        control.process(later, time.time_ns())
        assert before < len(control.pending) <= before + DEBTS
        passes += 1
    assert passes >= (len(keys) - DEBTS) // DEBTS
    assert all(control.pending[handle] is not running for handle, running in first.items())
    control.enabled = False
