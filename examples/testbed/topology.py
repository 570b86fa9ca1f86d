"""What a topology is: machines, the networks they stand in, and what is claimed of them.

The public internet is always there: three networks of RFC 5737 and RFC 3849 with a router between them,
which is .1 (and ::1) in each, and a name server. A machine stands in every network that one of its addresses
belongs to, and finds the rest of the world through the gateway of the first.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .network import Network

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
# A claim returns what shows that it holds, in a few words, and raises ProofError if it does not.
Proof = Callable[["Network"], str | None]

DOMAIN: Final = "example-vpn.dev"
NAME_SERVER: Final = "192.0.2.53"
NAME_SERVER6: Final = "2001:db8:1::53"
PORT_RESTRICTED: Final = "port-restricted"
SYMMETRIC: Final = "symmetric"


class ProofError(Exception):
    """What was claimed does not hold."""


class TopologyError(Exception):
    """The folder or the declaration of a topology cannot be used."""


@dataclass(frozen=True)
class Lan:
    """A network that the internet does not know. Its gateway is its first address."""

    name: str
    prefix: str
    prefix6: str = ""
    public: bool = False

    @property
    def prefixes(self) -> list[IPNetwork]:
        return [ipaddress.ip_network(prefix) for prefix in (self.prefix, self.prefix6) if prefix]

    def holds(self, address: str) -> bool:
        return any(ipaddress.ip_address(address) in prefix for prefix in self.prefixes)


INTERNET: Final = (
    Lan("public 1", "192.0.2.0/24", "2001:db8:1::/64", public=True),
    Lan("public 2", "198.51.100.0/24", "2001:db8:2::/64", public=True),
    Lan("public 3", "203.0.113.0/24", "2001:db8:3::/64", public=True),
)


@dataclass(frozen=True)
class Machine:
    """`nat` makes it a router that hides its LAN: port-restricted (it keeps the source port and lets in only
    what answers) or symmetric (the same, and every flow leaves from another port). `inside` makes it a
    container that another machine's configuration creates: it has nothing but what it is given there.
    `names` gives it a name server on all its addresses; `resolver` is the one it asks itself."""

    name: str
    addresses: tuple[str, ...] = ()
    nat: str = ""
    note: str = ""
    routes: tuple[str, ...] = ()
    inside: str = ""
    names: bool = False
    resolver: str = NAME_SERVER


def machine(name: str, *addresses: str, **rest: object) -> Machine:
    return Machine(name, addresses, **rest)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Claim:
    text: str
    prove: Proof


@dataclass
class Topology:
    """`names` adds to the name server's records; machines are in it as NAME.example-vpn.dev already."""

    title: str
    machines: tuple[Machine, ...]
    lans: tuple[Lan, ...] = ()
    names: dict[str, list[str]] = field(default_factory=dict)
    claims: list[Claim] = field(default_factory=list)
    folder: Path = Path()

    def claim(self, prove: Proof) -> Proof:
        """Decorator: the function proves what its docstring says."""
        self.claims.append(Claim(" ".join((prove.__doc__ or prove.__name__).split()), prove))
        return prove

    @property
    def networks(self) -> tuple[Lan, ...]:
        return INTERNET + self.lans

    def network_of(self, address: str) -> Lan:
        for lan in self.networks:
            if lan.holds(address):
                return lan
        raise TopologyError(f"{self.title}: {address} is in none of the networks; declare a Lan for it")

    def places(self, machine: Machine) -> dict[Lan, list[str]]:
        """The networks a machine stands in, in the order of its addresses."""
        found: dict[Lan, list[str]] = {}
        for address in machine.addresses:
            found.setdefault(self.network_of(address), []).append(address)
        return found

    def router_of(self, lan: Lan) -> Machine | None:
        """The machine that is the gateway of a LAN."""
        gateways = {str(prefix[1]) for prefix in lan.prefixes}
        return next((m for m in self.machines if gateways & set(m.addresses)), None)

    def configuration(self, machine: Machine) -> Path | None:
        path = self.folder / machine.name / "wg0.conf"
        return path if path.exists() else None

    @property
    def members(self) -> list[Machine]:
        """The machines that have a wg0.conf."""
        return [machine for machine in self.machines if self.configuration(machine)]

    def zone(self) -> dict[str, list[str]]:
        """Records of the name server: a machine behind a NAT is known by its router's public addresses."""
        records = {f"{m.name}.{DOMAIN}": self._public_addresses(m) for m in self.machines}
        return {name: found for name, found in records.items() if found} | self.names

    def _public_addresses(self, machine: Machine) -> list[str]:
        places = self.places(machine)
        found = [address for lan, addresses in places.items() if lan.public for address in addresses]
        routers = [router for lan in places if (router := self.router_of(lan)) not in (None, machine)]
        for router in routers if not found else []:
            assert router is not None
            found += self._public_addresses(router)
        return found


def load(folder: Path) -> Topology:
    """The topology that FOLDER/topology.py declares. TopologyError if there is none."""
    path = folder.resolve() / "topology.py"
    if not path.exists():
        raise TopologyError(f"{folder}: there is no topology.py in it; --list shows the topologies")
    spec = importlib.util.spec_from_file_location(f"topology_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    topology: Topology = module.topology
    topology.folder = path.parent
    return topology
