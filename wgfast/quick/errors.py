"""What stops wg-quick's work, with the exit status that wg-quick would end with."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pyroute2.netlink.exceptions import NetlinkError

from wgfast.errors import WgfastError

# What ip(8) ends with if the kernel refuses, and if it cannot read an argument.
REFUSED = 2
NOT_UNDERSTOOD = 255
NOT_FOUND = 127  # a shell's for a program that is not there
TIMED_OUT = 124  # that of timeout(1)


class QuickError(WgfastError):
    """`status` is the exit status a command ends with."""

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


@contextmanager
def refusals(what: str, remedies: dict[int, str] | None = None) -> Iterator[None]:
    """What the kernel refuses inside becomes a QuickError that begins with `what`; `remedies` by errno."""
    try:
        yield
    except NetlinkError as error:
        remedy = (remedies or {}).get(error.code)
        text = f"{what}: {error.args[-1]}" + (f": {remedy}" if remedy else "")
        raise QuickError(text, REFUSED) from error
