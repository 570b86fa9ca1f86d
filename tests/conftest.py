"""Fixtures shared by the tests. Its place puts tests/ on sys.path, so `lab` can be imported."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from lab.programs import require_lab
from lab.topology import Lab


def pytest_configure() -> None:
    """Started in the background (`&`, nohup) a shell's child ignores these, and so would every program that
    the tests start, and interrupt."""
    for number, ordinary in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGQUIT, signal.SIG_DFL),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, ordinary)


@pytest.fixture
def lab() -> Iterator[Lab]:
    require_lab()
    laboratory = Lab()
    try:
        yield laboratory
    finally:
        laboratory.close()
