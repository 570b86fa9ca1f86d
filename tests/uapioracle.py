"""What a UAPI set says, read by Python alone, and that the core reads the same."""

from __future__ import annotations

import errno

import pytest

from wgfast import _core
from wgfast.uapi import Changes, PeerBlock, SetRequest, UapiError, parse_set, read_line


def outcome(text: bytes) -> SetRequest | tuple[int, str]:
    """By Python alone: one line after the other."""
    request = SetRequest()
    try:
        lines = text.decode("ascii")
        for number, line in enumerate(lines.removesuffix("\n").split("\n") if lines else (), 2):
            read_line(request, number, line)
    except UnicodeDecodeError as error:
        return errno.EINVAL, f"byte {text[error.start]:#04x}: a request is ASCII text"
    except UapiError as error:
        return error.errno, str(error)
    return request


def check_block(changes: Changes, i: int, block: PeerBlock) -> None:
    key, said, psk, endpoint, keepalive, prefixes, limits = changes.setting.peer(i)
    assert key == block.public_key
    assert bool(said & _core.SAID_REMOVE) == block.remove
    assert bool(said & _core.SAID_UPDATE_ONLY) == block.update_only
    assert bool(said & _core.SAID_REPLACE) == block.replace_allowed_ips
    assert (psk if said & _core.SAID_PSK else None) == block.preshared_key
    assert (endpoint if said & _core.SAID_ENDPOINT else None) == block.endpoint
    assert (keepalive if said & _core.SAID_KEEPALIVE else None) == block.persistent_keepalive
    assert (changes.hosts.get(i) if said & _core.SAID_HOST else None) == block.endpoint_host
    assert (limits if said & _core.SAID_LIMITS else None) == block.limits
    said_of = {(family, address, length): not away for family, address, length, away in prefixes}
    assert said_of == block.allowed_ips


def check_text(text: bytes) -> None:
    expected = outcome(text)
    if not isinstance(expected, SetRequest):
        with pytest.raises(UapiError) as refused:
            parse_set(text)
        assert (refused.value.errno, str(refused.value)) == expected
        return
    changes = parse_set(text)
    assert changes.setting.private_key == expected.private_key
    assert changes.setting.listen_port == expected.listen_port
    assert changes.setting.fwmark == expected.fwmark
    assert changes.setting.replace_peers == expected.replace_peers
    assert len(changes.setting) == len(expected.peers)
    for i, block in enumerate(expected.peers):
        check_block(changes, i, block)
