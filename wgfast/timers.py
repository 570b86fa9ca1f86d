"""What to do about debts, and when: the policy over the core's timers (whitepaper, section 6).

The core keeps the deadlines and reports who owes what (core/timers.h); here it is decided what that means. No
clock, no state but what is passed in: every function maps what is known at `now` to what is to be done.
"""

from __future__ import annotations

import enum
import random
from dataclasses import dataclass

from ._core import (
    COOKIE_REFRESH_TIME,
    DEBT_HANDSHAKE,
    DEBT_KEEPALIVE,
    DEBT_NEW_HANDSHAKE,
    DEBT_PERSISTENT,
    DEBT_RETRANSMIT,
    DEBT_ZERO_KEYS,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
    REKEY_TIMEOUT_JITTER,
)

# As Linux counts: the first initiation, then retries until more than this many were made.
MAX_ATTEMPTS = REKEY_ATTEMPT_TIME // REKEY_TIMEOUT
# How often the control plane looks whether it is still under load.
LOAD_CHECK = 1_000_000_000


class Duty(enum.Enum):
    """One thing to do for a peer; a plan lists them in the order in which they are to be done."""

    ZERO_KEYS = enum.auto()  # every session and the running handshake are forgotten
    GIVE_UP = enum.auto()  # the handshake ends, what waits for it is dropped
    CLEAR_SOURCE = enum.auto()  # our own address may be what keeps answers from coming
    INITIATE = enum.auto()
    KEEPALIVE = enum.auto()


@dataclass(frozen=True, slots=True)
class Plan:
    duties: tuple[Duty, ...]
    attempts: int  # retries made so far, this one included
    retry_at: int | None = None  # the initiation must wait until then


def plan(debts: int, attempts: int, shook_at: int, now: int, jitter: int) -> Plan:
    """What a peer's debts (bits of `_core.DEBT_*`) come to.

    `attempts`: retries of its running handshake so far. `shook_at`: when we last sent it an initiation or a
    response, 0 for never. `jitter`: see `retransmit_jitter`.
    """
    duties: list[Duty] = []
    initiate = False
    retry_at = None
    if debts & DEBT_ZERO_KEYS:
        duties.append(Duty.ZERO_KEYS)
    if debts & (DEBT_HANDSHAKE | DEBT_NEW_HANDSHAKE):
        # Somebody wants the session, so trying begins anew, whatever was tried before.
        attempts = 0
        initiate = True
    if debts & DEBT_RETRANSMIT and attempts > MAX_ATTEMPTS:
        return Plan((*duties, Duty.GIVE_UP, *_keepalive(debts)), 0)
    if debts & DEBT_RETRANSMIT:
        attempts += 1
        initiate = True
    if debts & (DEBT_RETRANSMIT | DEBT_NEW_HANDSHAKE):
        duties.append(Duty.CLEAR_SOURCE)
    if initiate and may_initiate(shook_at, now):
        duties.append(Duty.INITIATE)
    elif debts & DEBT_RETRANSMIT:
        retry_at = retransmit_at(shook_at, jitter)
    return Plan((*duties, *_keepalive(debts)), attempts, retry_at)


def _keepalive(debts: int) -> tuple[Duty, ...]:
    return (Duty.KEEPALIVE,) if debts & (DEBT_KEEPALIVE | DEBT_PERSISTENT) else ()


def may_initiate(shook_at: int, now: int) -> bool:
    """Initiations to one peer are at least REKEY-TIMEOUT apart (section 6.1). A response counts, as in
    Linux: whoever has just answered waits for the other side to confirm. `shook_at` 0: there was none."""
    return not shook_at or now - shook_at >= REKEY_TIMEOUT


def retransmit_at(shook_at: int, jitter: int) -> int:
    """When an initiation sent at `shook_at` is to be repeated."""
    return shook_at + REKEY_TIMEOUT + jitter


def retransmit_jitter() -> int:
    """Up to a third of a second, ns: two peers that began at once do not go on colliding (section 6.4)."""
    return random.randrange(REKEY_TIMEOUT_JITTER)


class CookieSecret:
    """When the secret that cookies are made of is to be replaced (section 5.4.7): every COOKIE-REFRESH-TIME,
    but an idle device is not woken for it, as whoever is under load is awake."""

    def __init__(self) -> None:
        self.birth: int | None = None

    def due(self, now: int) -> bool:
        return self.birth is None or now - self.birth >= COOKIE_REFRESH_TIME

    def rotated(self, now: int) -> None:
        self.birth = now


class Seldom:
    """Says a thing about a subject at most once in `interval` ns."""

    def __init__(self, interval: int) -> None:
        self._interval = interval
        self._said: dict[int, int] = {}

    def may(self, subject: int, now: int) -> bool:
        said = self._said.get(subject)
        if said is not None and now - said < self._interval:
            return False
        self._said[subject] = now
        return True

    def forget(self, subject: int) -> None:
        self._said.pop(subject, None)
