"""What the shell completes where the commands of `wg` want a word."""

from __future__ import annotations

import base64
import contextlib
from collections.abc import Iterable
from typing import Final

import click
from click.shell_completion import CompletionItem

from wgfast import client
from wgfast.cli.access import FIELDS
from wgfast.cli.set_words import LIMIT_WORDS


def given(context: click.Context) -> list[str]:
    """The words before the one that is being completed."""
    return list(context.params.get("words") or ())


def matching(words: Iterable[str], begun: str) -> list[CompletionItem]:
    return [CompletionItem(word) for word in words if word.startswith(begun)]


def interfaces() -> list[str]:
    try:
        return client.interfaces()
    except OSError:
        return []


def peers(interface: str) -> list[str]:
    with contextlib.suppress(OSError):
        return [base64.b64encode(peer.public_key).decode() for peer in client.get(interface).peers]
    return []


def files(begun: str) -> list[CompletionItem]:
    return [CompletionItem(begun, type="file")]


def for_show(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    words = given(context)
    if not words:
        return matching((*interfaces(), "all", "interfaces"), begun)
    return matching(FIELDS, begun) if len(words) == 1 and words[0] != "interfaces" else []


def for_interface(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    return matching(interfaces(), begun) if not given(context) else []


def for_configuration(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    words = given(context)
    if not words:
        return matching(interfaces(), begun)
    return files(begun) if len(words) == 1 else []


_DEVICE_WORDS: Final = ("listen-port", "fwmark", "private-key", "peer")
_PEER_WORDS: Final = (
    *("remove", "preshared-key", "endpoint", "persistent-keepalive", "allowed-ips", "peer"),
    *LIMIT_WORDS,
)


def for_set(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
    words = given(context)
    if not words:
        return matching(interfaces(), begun)
    if words[-1] == "peer":
        return matching(peers(words[0]), begun)
    if words[-1] in ("private-key", "preshared-key"):
        return files(begun)
    if words[-1] in ("fwmark", "persistent-keepalive", *LIMIT_WORDS):
        return matching(("off",), begun)
    if words[-1] in ("listen-port", "endpoint", "allowed-ips"):
        return []
    return matching(_PEER_WORDS if "peer" in words else _DEVICE_WORDS, begun)
