"""What a checked UAPI `set` does to a device, so that no packet meets a gap.

What can be refused (mark, port) comes first and is undone if the other is refused. Then the core applies the
peers, some thousand at a time (core/setting_apply.c); what of it concerns handshakes under way and names of
endpoints is done here. Between two such steps the device is not held: others may use it, and the control
plane goes on shaking hands.
"""

from __future__ import annotations

import contextlib
import errno
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from wgfast import _core
from wgfast.control import DEBTS
from wgfast.errors import PeerRemovedError
from wgfast.settings import parse_endpoint_host
from wgfast.uapi import Changes, UapiError

if TYPE_CHECKING:
    from wgfast.device import Device

_MANY: Final = 4096  # peers; of so many that are removed the system gets the memory back at once
_NEWS: Final = _core.NEWS_REMOVED | _core.NEWS_PSK | _core.NEWS_HOST


def apply(device: Device, changes: Changes, between: Callable[[], object] | None = None) -> None:
    """UapiError if the port, the mark, the number of peers or that of their allowed IPs is refused: then
    nothing has changed. `between` is called after each step: it may do what has to be done meanwhile. One set
    at a time."""
    setting = changes.setting
    with device.changing:
        with device.using() as core:
            wanted = _peers_wanted(core, setting)
            if wanted > _core.PEERS_MAX:
                raise UapiError(errno.ENOSPC, f"{wanted} peers: a device has {_core.PEERS_MAX} at most")
            _set_sockets(device, setting)
            if setting.private_key is not None:
                device.set_private_key(setting.private_key)
            plan = _core.SettingPlan(core, setting)
        done, removed = _step(device, plan, changes.hosts)
        while not done:
            if between:
                between()
            done, more = _step(device, plan, changes.hosts)
            removed += more
        if removed >= _MANY:
            with device.using() as core:
                core.trim()


def _peers_wanted(core: _core.Core, setting: _core.Setting) -> int:
    try:
        return core.setting_peers(setting)
    except OSError as error:
        raise UapiError(error.errno or errno.ENOSPC, str(error.strerror)) from error


def _step(device: Device, plan: _core.SettingPlan, hosts: dict[int, str]) -> tuple[bool, int]:
    """All is done, and how many peers were removed."""
    with device.using():
        # That an endpoint was set is news to nobody while no peer has a name.
        wanted = _NEWS | (_core.NEWS_ENDPOINT if len(device.names) else 0)
        done, news = plan.step(device.now(), wanted)
        rekeyed = 0
        for handle, peer, what in news:
            with contextlib.suppress(PeerRemovedError):  # by what the same step did later
                rekeyed += bool(what & _core.NEWS_PSK)
                _follow(device, handle, hosts.get(peer), what, rekeyed > DEBTS)
    return done, sum(what & _core.NEWS_REMOVED != 0 for _, _, what in news)


def _follow(device: Device, handle: int, host: str | None, what: int, among_many: bool) -> None:
    if what & _core.NEWS_REMOVED:
        device.control.forget(handle)
        if len(device.names):
            device.names.drop(handle)
        return
    if what & _core.NEWS_PSK:
        device.control.psk_changed(handle, device.now(), time.time_ns(), among_many=among_many)
    if not what & _core.NEWS_HOST:
        if what & _core.NEWS_ENDPOINT:
            device.names.drop(handle)
        return
    # A peer that only keeps the name it had keeps its endpoint until there is news of that name.
    keeps = bool(host) and host == device.names.of(handle)
    if what & _core.NEWS_RESET and not what & _core.NEWS_ENDPOINT and not keeps:
        device.core.peer_set_endpoint(handle, None)
    if host:
        device.names.keep(handle, *parse_endpoint_host(host))
    else:
        device.names.drop(handle)


def _set_sockets(device: Device, setting: _core.Setting) -> None:
    before, fwmark, listen_port = device.fwmark, setting.fwmark, setting.listen_port
    if fwmark is not None and fwmark != before:
        try:
            device.set_fwmark(fwmark)
        except OSError as error:
            remedy = "; it takes CAP_NET_ADMIN" if error.errno == errno.EPERM else ""
            raise UapiError(
                error.errno or errno.EIO, f"fwmark: {fwmark}: {error.strerror}{remedy}"
            ) from error
    if listen_port is None:
        return
    try:
        device.set_listen_port(listen_port)
    except OSError as error:
        if device.fwmark != before:
            device.set_fwmark(before)
        raise UapiError(
            error.errno or errno.EADDRINUSE,
            f"listen_port: {listen_port}: {error.strerror}; the old port stays",
        ) from error
