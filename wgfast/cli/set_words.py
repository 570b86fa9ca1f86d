"""The words of `wg set` after the interface's name, turned into one request."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from wgfast import client_names, limits
from wgfast.cli.key_file import read_key_file
from wgfast.client import PeerBlock, SetRequest
from wgfast.config_values import (
    BadValueError,
    parse_allowed_ip,
    parse_endpoint,
    parse_fwmark,
    parse_keepalive,
    parse_key,
    parse_port,
    without_blanks,
)
from wgfast.errors import ConfigError

Report = Callable[[str], None]

# wgfast's own words, and which limits each of them sets.
LIMIT_WORDS: Final = {
    "rate-limit": ("send_rate", "receive_rate"),
    **{name.replace("_", "-"): (name,) for name in limits.NAMES},
}


class SetWords:
    """Reads the words in order; `warn` hears what is odd but done."""

    def __init__(self, warn: Report) -> None:
        self.request = SetRequest()
        self._peer: PeerBlock | None = None
        self._warn = warn

    def read(self, words: list[str]) -> SetRequest:
        """ConfigError for the first word that does not fit, in `wg`'s words."""
        rest = iter(words)
        for word in rest:
            take = _DEVICE_WORDS.get(word) if self._peer is None else _PEER_WORDS.get(word)
            if word == "peer":
                take = SetWords._begin_peer
            elif word == "remove" and self._peer is not None:
                self._peer.remove = True
                continue
            value = next(rest, None)
            if take is None or value is None:
                raise ConfigError(f"Invalid argument: {word}")
            take(self, value)
        return self.request

    @property
    def _current(self) -> PeerBlock:
        assert self._peer is not None
        return self._peer

    def _begin_peer(self, value: str) -> None:
        try:
            self._peer = PeerBlock(parse_key(value))
        except BadValueError:
            raise ConfigError(f"Key is not the correct length or format: `{value}'") from None
        self.request.peers.append(self._peer)

    def _listen_port(self, value: str) -> None:
        if not value:
            raise ConfigError("Unable to parse empty port")
        try:
            self.request.listen_port = parse_port(value)
        except BadValueError as error:
            # The resolver's words for what it cannot use; it takes a number that is too large.
            text = error.why if value.isdigit() else "Servname not supported for ai_socktype"
            raise ConfigError(f"{text}: `{value}'") from None

    def _fwmark(self, value: str) -> None:
        try:
            self.request.fwmark = parse_fwmark(value)
        except BadValueError:
            raise ConfigError(f"Fwmark is neither 0/off nor 0-0xffffffff: `{value}'") from None

    def _private_key(self, value: str) -> None:
        self.request.private_key = read_key_file(value)

    def _preshared_key(self, value: str) -> None:
        self._current.preshared_key = read_key_file(value)

    def _endpoint(self, value: str) -> None:
        client_names.split_endpoint(value)
        try:
            self._current.endpoint_host = str(parse_endpoint(value))
        except BadValueError as error:
            raise ConfigError(f"{error.why}: `{value}'") from None

    def _keepalive(self, value: str) -> None:
        try:
            self._current.persistent_keepalive = parse_keepalive(value)
        except BadValueError:
            raise ConfigError(
                f"Persistent keepalive interval is neither 0/off nor 1-65535: `{value}'"
            ) from None

    def _limits(self, value: str, names: tuple[str, ...]) -> None:
        """wgfast's own words."""
        try:
            amount = limits.parse_amount(value)
        except ValueError:
            raise ConfigError(
                f"Limit is neither 0/off nor a number with k, M, G, T (1000) or Ki, Mi, ... (1024): `{value}'"
            ) from None
        for name in names:
            if amount > limits.MOST[name]:
                raise ConfigError(f"Limit is more than {limits.amount_text(limits.MOST[name])}: `{value}'")
            self._current.limits = {**(self._current.limits or {}), name: amount}

    def _allowed_ips(self, value: str) -> None:
        """An entry with + or - makes the list a change to what the peer has; else it replaces that."""
        peer = self._current
        peer.replace_allowed_ips = True
        text = without_blanks(value)
        for entry in text.split(",") if text else ():
            try:
                allowed, has_host_bits = parse_allowed_ip(entry)
            except BadValueError:
                raise ConfigError(_allowed_ip_message(entry)) from None
            if has_host_bits:
                self._warn(f"Warning: AllowedIP has nonzero host part: {entry.lstrip('+-')}")
            if allowed.operation:
                peer.replace_allowed_ips = False
            peer.allowed_ips[allowed.prefix] = allowed.operation != "-"


def _allowed_ip_message(entry: str) -> str:
    plain = entry[1:] if entry[:1] in ("+", "-") else entry
    address = plain.partition("/")[0]
    try:
        parse_allowed_ip(address)
    except BadValueError:
        return f"Unable to parse IP address: `{address}'"
    return f"AllowedIP is not in the correct format: `{plain}'"


_DEVICE_WORDS: Final[dict[str, Callable[[SetWords, str], None]]] = {
    "listen-port": SetWords._listen_port,
    "fwmark": SetWords._fwmark,
    "private-key": SetWords._private_key,
}
_PEER_WORDS: Final[dict[str, Callable[[SetWords, str], None]]] = {
    "preshared-key": SetWords._preshared_key,
    "endpoint": SetWords._endpoint,
    "persistent-keepalive": SetWords._keepalive,
    "allowed-ips": SetWords._allowed_ips,
    **{word: functools.partial(SetWords._limits, names=names) for word, names in LIMIT_WORDS.items()},
}
