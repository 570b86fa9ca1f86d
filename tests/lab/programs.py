"""What the lab runs on: WireGuard implementations as named commands, and the tools around them.

WGFAST_REQUIRE_PEERS=1 turns everything missing from a skip into a failure.
WGFAST_LAB_SUBJECT=wireguard-go lets another implementation play wgfast's part: so the lab itself
can be checked against implementations known to agree.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

SUBJECT = "wgfast"
PEER = "wireguard-go"


@dataclass(frozen=True)
class Implementation:
    """A userspace WireGuard that takes `[-f] INTERFACE`."""

    name: str
    argv: tuple[str, ...]

    def executable(self, directory: Path) -> str:
        """One path that runs it, for wg-quick, which takes no arguments; a wrapper if need be."""
        if len(self.argv) == 1:
            return self.argv[0]
        wrapper = directory / self.name
        wrapper.write_text(f'#!/bin/sh\nexec {" ".join(self.argv)} "$@"\n')
        wrapper.chmod(0o755)
        return str(wrapper)


def beyond_peer(reason: str) -> pytest.MarkDecorator:
    """For what is asked of wgfast and wireguard-go does not do: a lab that plays wgfast's part
    with wireguard-go expects these tests to fail, and shows that they can."""
    return pytest.mark.xfail(
        os.environ.get("WGFAST_LAB_SUBJECT") == PEER, reason=f"{PEER} {reason}", strict=False
    )


def missing(what: str) -> NoReturn:
    """Leaves the test out, saying why; a failure where every peer is required."""
    if os.environ.get("WGFAST_REQUIRE_PEERS") == "1":
        pytest.fail(f"missing, and WGFAST_REQUIRE_PEERS=1: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


def require(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            missing(f"the program {program}")


def require_lab() -> None:
    """Root, namespaces, TUN and the tools that every test here uses."""
    if os.geteuid() != 0:
        missing("root, to make network namespaces")
    if not Path("/dev/net/tun").exists():
        missing("/dev/net/tun")
    require("ip", "wg", "ping")


def _wgfast() -> tuple[str, ...] | None:
    # The command beside this interpreter is the build that the other tests import; one found
    # elsewhere on PATH may be older.
    beside = Path(sys.executable).parent / "wgfast"
    if beside.exists():
        return (str(beside),)
    found = shutil.which("wgfast")
    if found:
        return (found,)
    package = importlib.util.find_spec("wgfast")
    if package and importlib.util.find_spec("wgfast._core"):
        return (sys.executable, "-m", "wgfast")
    return None


def implementation(name: str) -> Implementation:
    """The implementation that plays the part `name`; skips or fails the test if there is none."""
    actual = os.environ.get("WGFAST_LAB_SUBJECT", SUBJECT) if name == SUBJECT else name
    if actual == SUBJECT:
        argv = _wgfast()
    else:
        path = shutil.which(actual)
        argv = (path,) if path else None
    if argv is None:
        missing(f"the WireGuard implementation {actual}")
    return Implementation(actual, argv)
