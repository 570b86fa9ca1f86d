"""A topology, built: hosts, cables, routers, name servers, and wgfast on every host that has a wg0.conf."""

from __future__ import annotations

import contextlib
import ipaddress
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from wgfast import config, public_key

from .host import Container, Host
from .nameserver import NameServer
from .topology import NAME_SERVER, NAME_SERVER6, SYMMETRIC, Lan, Machine, ProofError, Topology, TopologyError

Progress = Callable[[str], None]

# Switches are bridges in hosts that no one sees: those of the internet where its router is, others apart.
_ROUTER: Final = "internet"
_SWITCHES: Final = "switches"
_NAMES: Final = "names"
# Anycast addresses come and go with forwarding, which hooks turn on and leave on.
_STATE: Final = """
ip -o link
ip -o address
for family in 4 6; do
    ip -$family rule
    ip -$family route show table all | grep -v ^anycast
done
nft list ruleset
ip netns
find /run/wireguard
cat /etc/resolv.conf
exit 0
"""
# Longer than an example runs; so what a NAT forgets, it forgets because a claim set it so.
_UDP_TIMEOUT: Final = 120


@dataclass(frozen=True)
class PeerRow:
    """A line of `wgfast show wg0 dump`."""

    endpoint: str
    allowed_ips: str
    handshake: int
    received: int
    sent: int
    keepalive: str


class Network:
    """All of it, while the block runs; afterwards nothing of it is left, however the block ended. `patient`:
    claims wait for what takes minutes, where they could hasten it."""

    def __init__(
        self, topology: Topology, patient: bool = False, progress: Progress = lambda what: None
    ) -> None:
        self.topology = topology
        self.patient = patient
        self.zone = topology.zone()
        self._progress = progress
        self._hosts: dict[str, Host] = {}
        self.name_servers: dict[str, NameServer] = {}
        self._keys = public_keys(topology)
        self._before: dict[str, set[str]] = {}
        self._standing: set[str] = set()

    def __enter__(self) -> Network:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, name: str) -> Host:
        return self._hosts[name]

    @property
    def entrances(self) -> dict[str, str]:
        """The command that leads into each machine, for those who want to look around."""
        return {machine.name: self[machine.name].entrance for machine in self.topology.machines}

    def close(self) -> None:
        for server in self.name_servers.values():
            with contextlib.suppress(OSError):
                server.close()
        for host in self._hosts.values():
            host.close()

    def _build(self) -> None:
        self._progress(f"{len(self.topology.machines)} machines")
        for name in (_ROUTER, _SWITCHES, _NAMES):
            self._hosts[name] = Host(name, NAME_SERVER)
        for machine in self.topology.machines:
            if machine.name in self._hosts:
                raise TopologyError(f"{self.topology.title}: two machines are called {machine.name}")
            outer = machine.inside and self._hosts[machine.inside]
            self._hosts[machine.name] = (
                Container(machine.name, outer) if outer else Host(machine.name, machine.resolver)
            )
        for host in self._hosts.values():
            host.wait_ready()
        self._progress("cables")
        self._lay_cables()
        for machine in self.topology.machines:
            if machine.nat:
                self._make_router(machine)
        for name in [_NAMES, *(machine.name for machine in self.topology.machines if machine.names)]:
            self.name_servers[name] = NameServer(self[name], self.zone)
        for machine in self.topology.members:
            self._install(machine)
        self._progress("tunnels")
        # Who can be called first: nobody's first call is lost.
        for called in (True, False):
            self.each(self.up, [m for m in self.topology.members if self._is_called(m) == called])

    # Cables

    def _lay_cables(self) -> None:
        internet, switches = self[_ROUTER], self[_SWITCHES]
        internet.sysctl("net.ipv4.ip_forward", 1)
        internet.sysctl("net.ipv6.conf.all.forwarding", 1)
        # A bridge has an address from its link alone, and would answer in LANs.
        switches.sysctl("net.ipv6.conf.default.disable_ipv6", 1)
        machines = [machine for machine in self.topology.machines if not machine.inside]
        machines.append(Machine(_NAMES, (NAME_SERVER, NAME_SERVER6)))
        bridges = {lan: f"net{index}" for index, lan in enumerate(self.topology.networks)}
        for owner, public in ((internet, True), (switches, False)):
            batch = []
            for lan, bridge in bridges.items():
                if lan.public == public:
                    batch += self._bridge(lan, bridge) + self._ports(lan, bridge, machines)
            owner.batch(*batch)
        for machine in machines:
            self[machine.name].batch(*self._addresses(machine))
        internet.batch(*self._routed_lans())

    def _bridge(self, lan: Lan, bridge: str) -> list[str]:
        """A network's switch. The router of the internet is every public network's gateway."""
        gateways = [f"{prefix[1]}/{prefix.prefixlen}" for prefix in lan.prefixes if lan.public]
        addresses = [_address(gateway, bridge) for gateway in gateways]
        return [f"link add {bridge} type bridge", f"link set {bridge} up", *addresses]

    def _ports(self, lan: Lan, bridge: str, machines: Iterable[Machine]) -> list[str]:
        """The cables between a switch and the machines. eth0 is in the network of the first address."""
        batch = []
        for number, machine in enumerate(machines):
            for index, place in enumerate(self.topology.places(machine)):
                if place == lan:
                    port, pid = f"{bridge}p{number}", self[machine.name].held
                    batch += [f"link add {port} type veth peer name eth{index} netns {pid}"]
                    batch += [f"link set {port} master {bridge} up"]
        return batch

    def _addresses(self, machine: Machine) -> list[str]:
        batch: list[str] = []
        gateways: dict[int, str] = {}
        for index, (lan, addresses) in enumerate(self.topology.places(machine).items()):
            batch.append(f"link set eth{index} up")
            for address in addresses:
                prefix = next(p for p in lan.prefixes if ipaddress.ip_address(address) in p)
                batch.append(_address(f"{address}/{prefix.prefixlen}", f"eth{index}"))
                if str(prefix[1]) not in machine.addresses:
                    gateways.setdefault(prefix.version, str(prefix[1]))
        batch += [f"route add default via {gateway}" for gateway in gateways.values()]
        return batch + [f"route add {route}" for route in machine.routes]

    def _routed_lans(self) -> list[str]:
        """IPv6 is translated by no router here: the internet has routes to the LANs behind them."""
        routes = []
        for lan in self.topology.lans:
            router = self.topology.router_of(lan)
            if not lan.prefix6 or router is None:
                continue
            outside = [a for a in router.addresses if ":" in a and self.topology.network_of(a).public]
            routes += [f"route add {lan.prefix6} via {address}" for address in outside]
        return routes

    def _make_router(self, machine: Machine) -> None:
        """Translates what leaves by eth0 and lets in only what answers. Dropping the rest before the kernel
        notes it as a flow is what hole-punching relies on: a noted flow would take the port away."""
        host = self[machine.name]
        host.sysctl("net.ipv4.ip_forward", 1)
        host.sysctl("net.ipv6.conf.all.forwarding", 1)
        how = "masquerade fully-random" if machine.nat == SYMMETRIC else "masquerade"
        host.nft(
            f"""
            table ip nat {{
                chain postrouting {{ type nat hook postrouting priority 100; oifname "eth0" {how}; }}
            }}
            table inet firewall {{
                chain only_answers {{
                    ct state established,related accept
                    meta l4proto {{ icmp, ipv6-icmp }} accept
                    drop
                }}
                chain input {{ type filter hook input priority 0; iifname "eth0" jump only_answers; }}
                chain forward {{ type filter hook forward priority 0; iifname "eth0" jump only_answers; }}
            }}
            """
        )
        self.forget_flows_after(machine.name, _UDP_TIMEOUT)

    def forget_flows_after(self, router: str, seconds: int) -> None:
        """How long a NAT keeps the mapping of a silent UDP flow."""
        for name in ("nf_conntrack_udp_timeout", "nf_conntrack_udp_timeout_stream"):
            self[router].sysctl(f"net.netfilter.{name}", seconds)

    @property
    def name_server(self) -> NameServer:
        """The internet's: the one that hosts ask unless they are declared to ask another."""
        return self.name_servers[_NAMES]

    # Tunnels

    def _install(self, machine: Machine) -> None:
        """A host's own files and those that all share, as /etc/wireguard has them."""
        folder = self.topology.folder
        target = self[machine.name].path("/etc/wireguard")
        for source in [*folder.glob("*.conf"), *(folder / machine.name).iterdir()]:
            with open(os.open(target / source.name, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as copy:
                copy.write(source.read_bytes())

    def up(self, name: str) -> None:
        self._before[name] = self._state(name)
        self[name].run("wgfast", "up", "wg0")
        self._standing.add(name)

    def down(self, name: str) -> None:
        self[name].run("wgfast", "down", "wg0")
        self._standing.discard(name)

    def leave_nothing(self) -> str:
        """Takes every tunnel down. ProofError if a host is not as it was before."""
        self.each(self.down, [machine for machine in self.topology.members if machine.name in self._standing])
        for name, before in self._before.items():
            differences = sorted(before ^ self._state(name))
            if differences:
                raise ProofError(f"{name}: not as it was: {'; '.join(differences[:5])}")
        return f"{sum(map(len, self._before.values()))} lines of links, addresses, routes, rules, tables"

    def _state(self, name: str) -> set[str]:
        """Links, addresses, routes, rules, firewall tables, sockets and resolv.conf, a line each."""
        return set(self[name].run("sh", "-c", _STATE).splitlines())

    def set(self, name: str, *arguments: str) -> None:
        """`wgfast set wg0 ...`"""
        self[name].run("wgfast", "set", "wg0", *arguments)

    def _is_called(self, machine: Machine) -> bool:
        path = self.topology.configuration(machine)
        listens = path is not None and config.read(path).interface.listen_port is not None
        return listens and any(lan.public for lan in self.topology.places(machine))

    def each(self, action: Callable[[str], object], machines: Iterable[Machine]) -> None:
        """Does something to several machines at a time."""
        pool = ThreadPoolExecutor(4)
        try:
            list(pool.map(action, [machine.name for machine in machines]))
        finally:
            # Who is interrupted does not wait: what still runs ends with the hosts.
            pool.shutdown(wait=False, cancel_futures=True)

    def peers(self, name: str) -> dict[str, PeerRow]:
        """The peers of a host's wg0, by the names of the machines that have their keys."""
        owners = {key: owner for owner, key in self._keys.items()}
        rows: dict[str, PeerRow] = {}
        for line in self[name].run("wgfast", "show", "wg0", "dump").splitlines()[1:]:
            key, _, endpoint, allowed_ips, handshake, received, sent, keepalive = line.split("\t")
            row = PeerRow(endpoint, allowed_ips, int(handshake), int(received), int(sent), keepalive)
            rows[owners.get(key, key)] = row
        return rows

    def key_of(self, name: str) -> str:
        """A machine's public key as commands take it."""
        return self._keys[name]


def public_keys(topology: Topology) -> dict[str, str]:
    """Names of machines to the public keys that their configurations' private keys have."""
    keys = {}
    for machine in topology.members:
        path = topology.configuration(machine)
        assert path is not None
        private_key = config.read(path).interface.private_key
        if private_key is None:
            raise TopologyError(f"{path}: has no PrivateKey; `wgfast genkey` makes one")
        keys[machine.name] = str(public_key(private_key))
    return keys


def _address(address: str, interface: str) -> str:
    # An address of IPv6 is usable at once without the detection of duplicates.
    return f"address add {address} dev {interface}" + (" nodad" if ":" in address else "")
