"""The doctor on the host's network: forwarding, reverse-path filter, routes and their MTU, ports.

Each check reads files of /proc and /sys below a root, and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from wgfast.cli.finding import Finding, read_number, read_text
from wgfast.device import MTU

ETHERNET_MTU: Final = 1500
IPV6_MTU_MIN: Final = 1280  # RFC 8200, section 5
DEFAULT_PORT: Final = 51820
# Outer headers of a data packet, IPv6 (40), UDP (8), WireGuard (32): what wg-quick takes off.
OVERHEAD: Final = 80
_ROUTE_UP: Final = 0x1  # linux/route.h
_ROUTE_REJECT: Final = 0x200
_FORWARDING: Final = {
    "IPv4": ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
    "IPv6": ("net.ipv6.conf.all.forwarding", "net/ipv6/conf/all/forwarding"),
}


class Route(NamedTuple):
    interface: str
    mtu: int  # 0: not known
    metric: int


def network_findings(
    tunnels: Sequence[str] = (), root: Path = Path("/"), port: int = DEFAULT_PORT
) -> Iterator[Finding]:
    """`tunnels`: WireGuard interfaces, whose routes lead to no endpoint."""
    for version in ("IPv4", "IPv6"):
        yield forwarding(root, version)
    yield reverse_path(root)
    yield ipv6(root)
    for version in ("IPv4", "IPv6"):
        yield default_route(root, version, tunnels)
    yield udp_port(root, port)


def forwarding(root: Path, version: str) -> Finding:
    """Whether the host passes on packets from one interface to another."""
    key, path = _FORWARDING[version]
    what = f"{version} forwarding"
    value = read_number(root, f"/proc/sys/{path}")
    if value is None:
        return Finding(what, "unknown", f"/proc/sys/{path} cannot be read")
    if value:
        return Finding(what, "yes", "packets of one peer can go on to another, or to a network")
    return Finding(
        what,
        "no",
        "enough for a client; a relay, gateway or server of other hosts' traffic needs it",
        f"only there: `sysctl -w {key}=1`, and that line in /etc/sysctl.d/ for the next start",
    )


def reverse_path(root: Path) -> Finding:
    """Strict filtering drops answers that leave by a routing table of their own, as those of a tunnel that
    carries everything (ip-sysctl: the larger of `all` and the interface's counts)."""
    what = "reverse-path filter"
    conf = root / "proc/sys/net/ipv4/conf"
    try:
        names = sorted(entry.name for entry in conf.iterdir())
    except OSError:
        return Finding(what, "unknown", f"/{conf.relative_to(root)} cannot be read")
    everywhere = read_number(root, "/proc/sys/net/ipv4/conf/all/rp_filter") or 0
    modes = {
        name: max(everywhere, read_number(root, f"/proc/sys/net/ipv4/conf/{name}/rp_filter") or 0)
        for name in names
        if name not in ("all", "default", "lo")
    }
    strict = [name for name, mode in modes.items() if mode == 1]
    if not strict:
        state = "loose" if 2 in modes.values() else "off"
        return Finding(what, state, "answers may come in by any interface")
    where = ", ".join(strict)
    if read_number(root, "/proc/sys/net/ipv4/conf/all/src_valid_mark"):
        return Finding(what, "strict", f"on {where}; marks count (src_valid_mark), so tunnels pass")
    remedy = "`sysctl -w net.ipv4.conf.all.rp_filter=2` (loose), or `net.ipv4.conf.all.src_valid_mark=1`"
    return Finding(
        what,
        "strict",
        f"on {where}: answers for a tunnel that carries all traffic are dropped, unless it is brought up by "
        "`wgfast up` or wg-quick, which set src_valid_mark",
        remedy,
    )


def ipv6(root: Path) -> Finding:
    if read_text(root, "/proc/net/if_inet6") is None:
        return Finding(
            "IPv6",
            "no",
            "the kernel runs without: no IPv6 endpoints, no IPv6 inside",
            "if it is needed: start the kernel without ipv6.disable=1",
        )
    if read_number(root, "/proc/sys/net/ipv6/conf/all/disable_ipv6"):
        return Finding(
            "IPv6",
            "no",
            "switched off: an interface cannot be given an IPv6 address",
            "if a configuration has one: `sysctl -w net.ipv6.conf.all.disable_ipv6=0`",
        )
    return Finding("IPv6", "yes", "endpoints and inner packets of both families")


def default_route(root: Path, version: str, tunnels: Sequence[str] = ()) -> Finding:
    """The way to the endpoints, as far as its MTU says how large an inner packet can be."""
    what = f"default route {version}"
    every = ipv4_defaults(root) if version == "IPv4" else ipv6_defaults(root)
    routes = [route for route in every if route.interface not in tunnels]
    if not routes:
        return Finding(what, "none", f"only endpoints with a route of their own are reached by {version}")
    route = min(routes, key=lambda found: found.metric)
    outer = route.mtu or read_number(root, f"/sys/class/net/{route.interface}/mtu")
    if not outer:
        return Finding(what, route.interface, "its MTU cannot be read")
    inner = outer - OVERHEAD
    reason = f"MTU {outer}: inner packets of up to {inner} bytes pass whole"
    if inner >= MTU:
        return Finding(what, route.interface, reason)
    remedy = f"MTU = {inner} under [Interface] (`wgfast up` finds it itself)"
    if inner < IPV6_MTU_MIN:
        reason += f", less than the {IPV6_MTU_MIN} that IPv6 inside needs"
        remedy += f"; for IPv6 inside, an outer link of at least {IPV6_MTU_MIN + OVERHEAD}"
    return Finding(what, route.interface, f"{reason}; the default of {MTU} is too large", remedy)


def ipv4_defaults(root: Path) -> list[Route]:
    """From /proc/net/route: interface, destination, gateway, flags, _, _, metric, mask, MTU, ..."""
    found = []
    for line in (read_text(root, "/proc/net/route") or "").splitlines()[1:]:
        fields = line.split()
        if len(fields) < 9 or fields[1] != "0" * 8 or fields[7] != "0" * 8:
            continue
        flags = int(fields[3], 16)
        if flags & _ROUTE_UP and not flags & _ROUTE_REJECT:
            found.append(Route(fields[0], int(fields[8]), int(fields[6])))
    return found


def ipv6_defaults(root: Path) -> list[Route]:
    """From /proc/net/ipv6_route: destination, length, source, length, next hop, metric, _, _, flags, name."""
    found = []
    for line in (read_text(root, "/proc/net/ipv6_route") or "").splitlines():
        fields = line.split()
        if len(fields) < 10 or fields[0] != "0" * 32 or fields[1] != "00" or fields[9] == "lo":
            continue
        flags = int(fields[8], 16)
        if flags & _ROUTE_UP and not flags & _ROUTE_REJECT:
            found.append(Route(fields[9], 0, int(fields[5], 16)))
    return found


def udp_port(root: Path, port: int) -> Finding:
    """Whether WireGuard's usual port is taken, by us or by somebody else."""
    what = f"UDP port {port}"
    wanted = f"{port:04X}"
    for path in ("/proc/net/udp", "/proc/net/udp6"):
        for line in (read_text(root, path) or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 1 and fields[1].rpartition(":")[2] == wanted:
                reason = "some program has it; a second interface needs another ListenPort"
                return Finding(what, "in use", reason)
    return Finding(what, "free", "what most configurations name as ListenPort")
