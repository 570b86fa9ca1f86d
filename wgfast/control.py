"""The control plane of one device: takes the core's news and debts, does what they ask for.

`Control` binds the core, the handshake (noise.py) and the policy (timers.py). It owns no thread, socket or
clock: whoever drives it (Device, Engine, the daemon) calls `process` when the core's event descriptor is
readable or the deadline it returned has come. One thread at a time.
"""

from __future__ import annotations

import hmac
import logging
import os
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, ParamSpec, get_args

from . import _core, noise, timers
from .errors import ConfigError, ForkedError, PeerRemovedError
from .keys import PublicKey
from .log import about
from .timers import Duty

if TYPE_CHECKING:
    from .keylog import KeyLog

log = logging.getLogger("wgfast")

EventName = Literal["handshake", "roamed", "load", "cookie", "loop", "tun_gone"]
EVENT_NAMES: tuple[EventName, ...] = get_args(EventName)
# Passes over news and debts in one call of process(), so that a flood cannot keep its caller in there.
ROUNDS = 8
# Dealt with in one pass: strangers' initiations, peers that owe something, answers to our initiations; some
# milliseconds' worth. More answers than debts, or what we began ourselves would put us under load.
PORTION = 16
DEBTS = 16
ANSWERS = 32
LOOP_LOG_INTERVAL = 10_000_000_000
_DOWN = _core.DROP_NAMES.index("send_down")


@dataclass(frozen=True, slots=True)
class News:
    """Something that happened; what a handler registered with `on` is given.

    `name` is one of
        handshake   a session came about with `peer` (`value` 1: we began it, 0: it did)
        roamed      `peer` is reached at `endpoint` from now on
        load        under load from now on (`value` 1) or no longer (0)
        cookie      `peer` is under load and gave us a cookie
        loop        the endpoint of `peer` routes into its own tunnel
        tun_gone    the inner interface was deleted
    """

    name: EventName
    at: int  # ns of the device's clock
    peer: PublicKey | None = None
    endpoint: _core.Endpoint | None = None
    value: int = 0


Handler = Callable[[News], object]
P = ParamSpec("P")


@dataclass(slots=True)
class Pending:
    """A handshake we began and that was not answered yet."""

    initiation: noise.Initiation
    attempts: int  # retries made so far


class Control:
    """See the module. `name` stands in log lines."""

    def __init__(self, core: _core.Core, name: str = "wgfast") -> None:
        self.core = core
        self.name = name
        self.pending: dict[int, Pending] = {}  # by handle
        self.enabled = True  # False while the device is down: debts fall due and are not paid
        self.keylog: KeyLog | None = None
        self.under_load = False
        self.handler_errors = 0
        self.errors = 0  # exceptions that are none of a handler's; each a mistake of ours
        self.courtesy: AbstractContextManager[None] = nullcontext()  # around what computes handshakes
        self._computing = False
        self._untold: deque[News] = deque()  # not empty for longer than handshakes are computed
        self._handlers: dict[str, list[Handler]] = {event: [] for event in EVENT_NAMES}
        self._stamper = noise.Tai64n()
        self._cookie = timers.CookieSecret()
        self._loop_log = timers.Seldom(LOOP_LOG_INTERVAL)
        self._takers: dict[int, Callable[[_core.Event, int], None]] = {
            _core.EVENT_CONFIRMED: self._take_confirmed,
            _core.EVENT_ROAMED: self._take_roamed,
            _core.EVENT_COOKIE: self._take_cookie,
            _core.EVENT_LOOP: self._take_loop,
            _core.EVENT_LOAD: self._take_load,
            _core.EVENT_TUN_GONE: self._take_tun_gone,
        }

    # ---- for the driver ----

    def process(self, now: int, wall: int) -> int | None:
        """Does what there is to do at `now` (ns of the core's clock; `wall`: ns since 1970, for time stamps),
        but not for long: a call ends with the first pass in which something was there by the portion.

        Returns when to call again at the latest (`now`: at once), None: not before there is news.
        """
        if self._cookie.due(now):
            self.core.rotate_cookie(os.urandom(32), now)
            self._cookie.rotated(now)
        deadline: int | None = now
        for _ in range(ROUNDS):
            # Before looking, so that what comes while we look makes the descriptor readable again.
            self.core.quiet()
            news = self.core.take_events()
            for event in news:
                self._guard(self._takers[event.kind], event, now)
            # What was begun is finished before more is begun, ours or a stranger's: an answer that waits for
            # long is asked for again. And who has a tunnel comes before who wants one.
            answers = self.core.take_answers(ANSWERS)
            self._take_all(answers, now)
            debts, following = self.core.scan(now, DEBTS)
            for peer, owed in debts:
                self._guard(self._pay, peer, owed, now, wall)
            initiations = self.core.take_initiations(PORTION)
            self._take_all(initiations, now)
            if not (news or answers or debts or initiations):
                deadline = following
                break
            if len(answers) == ANSWERS or len(debts) == DEBTS or len(initiations) == PORTION:
                break
        return self._watch_load(now, deadline)

    def on(self, event: EventName, handler: Handler) -> None:
        """Calls `handler(News)` whenever `event` happens, on the thread that runs the control plane. What it
        raises is logged and counted (`handler_errors`), nothing else. ConfigError when there is no such
        event."""
        if event not in self._handlers:
            raise ConfigError(f"event: {event!r}: expected one of {', '.join(EVENT_NAMES)}")
        self._handlers[event].append(handler)

    def off(self, event: EventName, handler: Handler) -> None:
        """Undoes `on`; a handler that is not registered is no error."""
        if handler in self._handlers.get(event, ()):
            self._handlers[event].remove(handler)

    def enable(self, now: int) -> None:
        """The device came up: peers with a persistent keepalive are greeted, as Linux does."""
        self.enabled = True
        for peer in self.core.peers():
            self._guard(self.greet, peer, now)

    def moved(self, now: int) -> None:
        """The device sends from elsewhere: who has a session with it is told, by a keepalive. Else a peer
        would go on sending to where nobody listens until this side happens to have something to say."""
        self.core.clear_sources()
        for peer in self.core.peers():
            if self.core.peer_info(peer).session_birth:
                self._guard(self.core.peer_send_keepalive, peer, now)

    def disable(self) -> None:
        """The device went down: sessions and handshakes end, what waits is dropped, debts are no longer
        paid."""
        self.enabled = False
        self.pending.clear()
        for peer in self.core.peers():
            self._guard(self.core.peer_stop, peer)

    # ---- for peers ----

    def handshake(self, peer: int, now: int, wall: int) -> None:
        """Begins a handshake as soon as REKEY-TIMEOUT since the last initiation allows. What cannot be sent
        now is tried again."""
        if not self.enabled:
            return
        shook_at = self.core.peer_handshake_sent(peer)
        if timers.may_initiate(shook_at, now):
            self._initiate(peer, 0, now, wall)
        else:
            self.core.peer_arm_retransmit(peer, timers.retransmit_at(shook_at, timers.retransmit_jitter()))

    def greet(self, peer: int, now: int) -> None:
        """The device came up, or the peer's endpoint was found or is another one: with a persistent keepalive
        it hears of us now, not when the next one is due."""
        if self.enabled and self.core.peer_info(peer).persistent_keepalive:
            self.core.peer_send_keepalive(peer, now)

    def set_psk(self, peer: int, psk: bytes, now: int, wall: int) -> None:
        """A changed preshared key counts at once: a running handshake, made with the old one, ends, and
        whoever has a session or was about to get one shakes hands anew. The session goes on until that is
        done."""
        if hmac.compare_digest(self.core.peer_psk(peer), psk):
            return
        self.core.peer_set_psk(peer, psk)
        self.psk_changed(peer, now, wall)

    def psk_changed(self, peer: int, now: int, wall: int, *, among_many: bool = False) -> None:
        """The rest of it, where the core has the key already. `among_many`: the handshake is computed when
        the debts of a pass are paid, not at once with those of all the others."""
        running = self.pending.pop(peer, None)
        if not running and not self.core.peer_info(peer).session_birth:
            return
        if among_many and self.enabled and timers.may_initiate(self.core.peer_handshake_sent(peer), now):
            self.core.peer_want_handshake(peer, now)
        else:
            self.handshake(peer, now, wall)

    def forget(self, peer: int) -> None:
        """The peer is about to be removed."""
        self.pending.pop(peer, None)
        self._loop_log.forget(peer)

    def forget_all(self) -> None:
        """Running handshakes end: the device is getting another private key."""
        for peer in list(self.pending):
            self._guard(self._end, peer)

    # ---- news ----

    def _take_all(self, messages: list[_core.Queued], now: int) -> None:
        """Handshakes are computed at a lower priority. What they lead to is told after, at our own: handlers,
        and the processes they start, are none of those that give way."""
        if not messages:
            return
        self._computing = True
        try:
            with self.courtesy:
                for message in messages:
                    self._guard(self._take, message, now)
        finally:
            self._computing = False
        self._tell_all()

    def _take(self, message: _core.Queued, now: int) -> None:
        if not self.enabled:
            self._refuse(_DOWN, message)  # it came in while the device went down
        elif message.peer:
            self._take_response(message, now)
        else:
            self._take_initiation(message, now)

    def _take_initiation(self, queued: _core.Queued, now: int) -> None:
        received = noise.consume_initiation(self.core, queued.data, now)
        answer = received if isinstance(received, int) else noise.create_response(self.core, received)
        if isinstance(received, int) or isinstance(answer, int):
            self._refuse(answer if isinstance(answer, int) else noise.INVALID, queued)
            return
        index, message = answer
        # The response goes to where the initiation came from.
        self._heard(received.peer, queued, now)
        if self.keylog:
            self.keylog.write(self.core, received.peer, received.handshake)
        self.core.peer_begin_session_responder(
            received.peer, received.handshake, index, received.remote_index, now
        )
        self._send(received.peer, message, now)

    def _take_response(self, queued: _core.Queued, now: int) -> None:
        pending = self.pending.get(queued.peer)
        if pending is None:
            self._refuse(noise.INVALID, queued)
            return
        done = noise.consume_response(self.core, pending.initiation, queued.data)
        if isinstance(done, int):
            self._refuse(done, queued)
            return
        del self.pending[queued.peer]
        self._heard(done.peer, queued, now)
        self.core.peer_begin_session_initiator(
            done.peer, done.handshake, done.local_index, done.remote_index, now
        )
        self._tell(News("handshake", now, self._key(done.peer), queued.endpoint, 1))

    def _take_confirmed(self, event: _core.Event, now: int) -> None:
        # A handshake of our own that crossed this one is not needed any more.
        if event.peer in self.pending:
            self._end(event.peer)
        self._tell(News("handshake", now, self._key(event.peer), event.endpoint, 0))

    def _take_roamed(self, event: _core.Event, now: int) -> None:
        self._tell(News("roamed", now, self._key(event.peer), event.endpoint))

    def _take_cookie(self, event: _core.Event, now: int) -> None:
        self._tell(News("cookie", now, self._key(event.peer), event.endpoint))

    def _take_loop(self, event: _core.Event, now: int) -> None:
        key = self._key(event.peer)
        if self._loop_log.may(event.peer, now):
            log.warning(
                "%s: peer(%s): its endpoint %s routes into its own tunnel; packets to it are dropped",
                self.name, key.short, event.endpoint.host if event.endpoint else "",
                extra=about("loop", peer=key.short, endpoint=event.endpoint.host if event.endpoint else None),
            )  # fmt: skip
        self._tell(News("loop", now, key, event.endpoint))

    def _take_load(self, event: _core.Event, now: int) -> None:
        if not self.under_load:
            self.under_load = True
            log.debug("%s: under load: handshakes need a cookie", self.name, extra=about("load", on=True))
            self._tell(News("load", now, value=1))

    def _take_tun_gone(self, event: _core.Event, now: int) -> None:
        self._tell(News("tun_gone", now))

    # ---- debts ----

    def _pay(self, peer: int, owed: int, now: int, wall: int) -> None:
        try:
            if self.enabled:
                self._fulfil(peer, owed, now, wall)
        finally:
            if owed & _core.DEBT_HANDSHAKE:
                self.core.peer_want_handshake_done(peer)

    def _fulfil(self, peer: int, owed: int, now: int, wall: int) -> None:
        pending = self.pending.get(peer)
        attempts = pending.attempts if pending else 0
        plan = timers.plan(
            owed, attempts, self.core.peer_handshake_sent(peer), now, timers.retransmit_jitter()
        )
        if pending:
            pending.attempts = plan.attempts
        if plan.retry_at is not None:
            self.core.peer_arm_retransmit(peer, plan.retry_at)
        for duty in plan.duties:
            if duty is Duty.ZERO_KEYS:
                self.pending.pop(peer, None)
                self.core.peer_zero_keys(peer)
            elif duty is Duty.GIVE_UP:
                self.pending.pop(peer, None)
                self._log_given_up(peer)
                self.core.peer_give_up(peer, now)
            elif duty is Duty.CLEAR_SOURCE:
                self.core.peer_clear_source(peer)
            elif duty is Duty.INITIATE:
                self._initiate(peer, plan.attempts, now, wall)
            elif duty is Duty.KEEPALIVE:
                self.core.peer_send_keepalive(peer, now)

    def _log_given_up(self, peer: int) -> None:
        key = self._key(peer).short
        log.debug("%s: peer(%s): no answer, giving up", self.name, key, extra=about("given_up", peer=key))

    def _initiate(self, peer: int, attempts: int, now: int, wall: int) -> None:
        with self.courtesy:
            made = noise.create_initiation(self.core, peer, self._stamper.stamp(peer, now, wall))
        if isinstance(made, int):
            self.core.count_drop(made)
            return
        initiation, message = made
        if self.keylog:
            self.keylog.write(self.core, peer, initiation.handshake)
        self.pending[peer] = Pending(initiation, attempts)
        self._send(peer, message, now)

    # ---- parts ----

    def _send(self, peer: int, message: bytearray, now: int) -> None:
        """A message that cannot leave (no endpoint yet, no route, no socket) is lost like one on the way:
        the core has armed the retransmission before it tried."""
        try:
            self.core.peer_send_handshake(peer, message, now)
        except OSError as error:
            key = self._key(peer).short
            extra = about("unsent", peer=key, error=error.strerror)
            log.debug("%s: peer(%s): handshake not sent: %s", self.name, key, error, extra=extra)

    def _heard(self, peer: int, queued: _core.Queued, now: int) -> None:
        if queued.endpoint is None:
            return
        if self.core.peer_heard(peer, queued.endpoint, len(queued.data), now):
            self._tell(News("roamed", now, self._key(peer), queued.endpoint))

    def _end(self, peer: int) -> None:
        self.pending.pop(peer, None)
        self.core.peer_end_handshake(peer)

    def _refuse(self, reason: int, queued: _core.Queued) -> None:
        self.core.count_drop(reason)
        where = queued.endpoint.host if queued.endpoint else "?"
        extra = about("refused", source=where, reason=_core.DROP_NAMES[reason])
        log.debug("%s: from %s: %s", self.name, where, _core.DROP_TEXTS[reason], extra=extra)

    def _key(self, peer: int) -> PublicKey:
        return PublicKey(self.core.peer_info(peer).public_key)

    def _watch_load(self, now: int, deadline: int | None) -> int | None:
        """The core says when load begins; that it has ended, somebody has to look."""
        if self.under_load and not self.core.under_load(now):
            self.under_load = False
            log.debug("%s: no longer under load", self.name, extra=about("load", on=False))
            self._tell(News("load", now, value=0))
        if not self.under_load:
            return deadline
        soon = now + timers.LOAD_CHECK
        return soon if deadline is None else min(soon, deadline)

    def _tell(self, news: News) -> None:
        self._untold.append(news)
        if not self._computing:
            self._tell_all()

    def _tell_all(self) -> None:
        while self._untold:
            news = self._untold.popleft()
            # A handler may have removed the peer since.
            if news.peer is None or self.core.find_peer(news.peer):
                self._call_handlers(news)

    def _call_handlers(self, news: News) -> None:
        for handler in tuple(self._handlers[news.name]):
            try:
                handler(news)
            except Exception:
                self.handler_errors += 1
                log.exception("%s: a handler of %r raised", self.name, news.name)

    def _guard(self, do: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """One peer's trouble is not another's. Only a fork ends the round: then nothing here is ours any
        more."""
        try:
            do(*args, **kwargs)
        except ForkedError:
            raise
        except PeerRemovedError:
            pass  # between the core's noticing and ours
        except Exception:
            self.errors += 1
            log.exception("%s: control plane", self.name)
