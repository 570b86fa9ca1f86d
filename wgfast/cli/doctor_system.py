"""The doctor on the rest of the host: socket buffers, clock, random numbers, programs, files, interfaces.

Each check reads files below a root, or what it is given, and nothing else.
"""

from __future__ import annotations

import datetime
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from wgfast.cli.finding import Finding, read_number

SOCKET_BUFFER: Final = 4 << 20  # what the core asks for (udp.c)
CONFIGURATIONS: Final = "/etc/wireguard"
# No clock that is right shows less.
EARLIEST: Final = datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc)
_SEEDED: Final = 128  # bits; newer kernels always say 256
Which = Callable[[str], str | None]


def system_findings(
    now: float,
    net_admin: bool,
    interfaces: Sequence[str],
    root: Path = Path("/"),
    which: Which = shutil.which,
) -> Iterator[Finding]:
    """`now`: seconds since 1970. `net_admin`: whether CAP_NET_ADMIN is ours, which lifts some limits."""
    for direction in ("receive", "send"):
        yield socket_buffer(root, direction, net_admin)
    yield firewall(root, which)
    yield dns(which)
    yield kernel_module(root)
    yield clock(root, now)
    yield random_numbers(root)
    yield configurations(root)
    yield existing(interfaces)


def socket_buffer(root: Path, direction: str, net_admin: bool) -> Finding:
    """CAP_NET_ADMIN goes beyond the limit (SO_RCVBUFFORCE, socket(7))."""
    what = f"{direction} buffer"
    key = "net.core.rmem_max" if direction == "receive" else "net.core.wmem_max"
    limit = read_number(root, f"/proc/sys/{key.replace('.', '/')}")
    if limit is None:
        return Finding(what, "unknown", f"{key} cannot be read")
    if limit >= SOCKET_BUFFER:
        return Finding(what, "yes", f"{key} allows the {SOCKET_BUFFER:,} bytes we ask for")
    if net_admin:
        return Finding(what, "yes", f"{key} is {limit:,}, and CAP_NET_ADMIN goes beyond it")
    return Finding(
        what,
        "small",
        f"{key} is {limit:,}: bursts of more are lost",
        f"run as root, or `sysctl -w {key}={SOCKET_BUFFER}`",
    )


def firewall(root: Path, which: Which) -> Finding:
    """What `wgfast up` closes the ways around the tunnel with."""
    found = [name for name in ("nft", "iptables") if which(name)]
    if found:
        return Finding("firewall", found[0], "for tunnels that carry all traffic, and for NAT")
    return Finding(
        "firewall",
        "no",
        "neither nft nor iptables is on PATH: a tunnel that carries all traffic needs one",
        "install nftables",
    )


def dns(which: Which) -> Finding:
    """Who takes the servers of a DNS line."""
    for name, whose in (("resolvconf", "resolvconf"), ("resolvectl", "systemd-resolved")):
        if which(name):
            return Finding("DNS", name, f"{whose} takes the servers that a configuration names")
    reason = "neither resolvconf nor resolvectl is on PATH: /etc/resolv.conf is replaced and put back"
    return Finding("DNS", "file", reason)


def kernel_module(root: Path) -> Finding:
    if (root / "sys/module/wireguard").exists():
        return Finding("kernel WireGuard", "yes", "wgfast works beside it; `wg` and `wgfast show` know both")
    return Finding("kernel WireGuard", "no", "not loaded; wgfast does not need it")


def clock(root: Path, now: float) -> Finding:
    """A handshake carries the wall clock, one older than the last is refused (whitepaper, 5.1)."""
    if now < EARLIEST.timestamp():
        shown = datetime.datetime.fromtimestamp(now, datetime.timezone.utc)
        return Finding(
            "clock",
            "wrong",
            f"it shows {shown:%Y-%m-%d %H:%M} UTC: peers that saw a later one refuse our handshakes",
            "set it (`date -s`, an NTP client), before a tunnel starts",
        )
    # A virtual machine is told the time when it starts.
    if list(root.glob("sys/class/rtc/rtc*")) or (root / "sys/class/ptp").is_dir() or _virtual(root):
        return Finding("clock", "yes", "later than any handshake before, as far as we can tell")
    return Finding(
        "clock",
        "no chip",
        "after a start the clock stands in the past until the network sets it: handshakes are refused",
        "start tunnels after the clock is set (systemd: After=time-sync.target)",
    )


def _virtual(root: Path) -> bool:
    try:
        return " hypervisor" in (root / "proc/cpuinfo").read_text(errors="replace")
    except OSError:
        return False


def random_numbers(root: Path) -> Finding:
    bits = read_number(root, "/proc/sys/kernel/random/entropy_avail")
    if bits is None:
        return Finding("random numbers", "unknown", "/proc/sys/kernel/random/entropy_avail cannot be read")
    if bits >= _SEEDED:
        return Finding("random numbers", "yes", f"the kernel's generator is seeded ({bits} bits)")
    return Finding(
        "random numbers",
        "not yet",
        f"the kernel's generator has {bits} bits: making keys waits for more",
        "wait, or give the machine a source (virtio-rng, rng-tools)",
    )


def configurations(root: Path) -> Finding:
    """Whether others may read the private keys in there."""
    directory = root / CONFIGURATIONS.lstrip("/")
    try:
        files = sorted(directory.glob("*.conf"))
        closed = not stat.S_IMODE(directory.stat().st_mode) & 0o007
    except OSError:
        return Finding(CONFIGURATIONS, "none", "`wgfast up NAME` looks there for NAME.conf")
    readable = [file.name for file in files if _others_read(file)]
    if readable and not closed:
        names = ", ".join(readable)
        return Finding(
            CONFIGURATIONS,
            f"{len(files)} files",
            f"anyone here can read the private keys of {names}",
            f"`chmod 600 {CONFIGURATIONS}/*.conf`",
        )
    if not files:
        return Finding(CONFIGURATIONS, "empty", "`wgfast up NAME` looks there for NAME.conf")
    count = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    return Finding(CONFIGURATIONS, count, "nobody but their owner and group can read them")


def _others_read(file: Path) -> bool:
    try:
        return bool(file.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


def existing(interfaces: Sequence[str]) -> Finding:
    if not interfaces:
        return Finding("interfaces", "none", "no WireGuard interface is there")
    return Finding("interfaces", str(len(interfaces)), ", ".join(interfaces))
