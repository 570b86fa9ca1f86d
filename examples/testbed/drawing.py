"""A topology as text: who stands where, which tunnels there are, and which claims are proved."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from wgfast import PublicKey, config
from wgfast.settings import network

from .network import public_keys
from .topology import DOMAIN, PORT_RESTRICTED, SYMMETRIC, Claim, Lan, Machine, Topology

_NATS = {
    PORT_RESTRICTED: "NAT, port-restricted: keeps the source port",
    SYMMETRIC: "NAT, symmetric: another source port for every flow",
}


def draw(topology: Topology) -> RenderableType:
    heading = Text.assemble((topology.folder.name, "bold"), f": {topology.title}")
    return Group(heading, Text(), _places(topology), Text(), _tunnels(topology))


def _places(topology: Topology) -> Tree:
    """The internet's networks, the machines in them, and behind those that are routers their LANs."""
    root = Tree("[bold]the internet[/]", guide_style="dim")
    used = {lan for machine in topology.machines for lan in topology.places(machine)}
    for lan in topology.networks:
        if lan.public and lan in used:
            _add_network(root, topology, lan, None)
    return root


def _add_network(tree: Tree, topology: Topology, lan: Lan, router: Machine | None) -> None:
    title = Text.assemble(("" if lan.public else f"{lan.name}  ", "cyan"), (lan.prefix, "cyan"))
    if any(":" in a for m in topology.machines for a in topology.places(m).get(lan, [])):
        title.append(f"  {lan.prefix6}", "cyan")
    branch = tree.add(title)
    for machine in topology.machines:
        if machine is router or lan not in topology.places(machine):
            continue
        node = branch.add(_machine(topology, machine, lan))
        for other in topology.places(machine):
            if not other.public and topology.router_of(other) is machine:
                _add_network(node, topology, other, machine)
        for inner in topology.machines:
            if inner.inside == machine.name:
                node.add(_machine(topology, inner, None))


def _machine(topology: Topology, machine: Machine, lan: Lan | None) -> Text:
    text = Text.assemble((machine.name, "bold green" if topology.configuration(machine) else "bold"))
    for address in topology.places(machine).get(lan, []) if lan else []:
        text.append(f"  {address}")
    if path := topology.configuration(machine):
        interface = config.read(path).interface
        addresses = ", ".join(str(address) for address in interface.addresses)
        text.append(f"  wg0 {addresses}" if addresses else "  wg0", "green")
        if interface.listen_port:
            text.append(f"  port {interface.listen_port}", "green")
    if note := "; ".join(filter(None, (_NATS.get(machine.nat, machine.nat), machine.note))):
        text.append(f"  ({note})", "dim")
    return text


def _tunnels(topology: Topology) -> Table:
    """Every [Peer] section: who may send what to whom, and who calls whom."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for column in ("tunnel", "", "", "AllowedIPs", "Endpoint", "keepalive"):
        table.add_column(column, overflow="fold")
    owners = {key: name for name, key in public_keys(topology).items()}
    for machine in topology.members:
        path = topology.configuration(machine)
        assert path is not None
        own = config.read(path)
        # A list that all share has the machine's own section too, which the interface ignores.
        shared = [
            p for file in sorted(topology.folder.glob("*.conf")) for p in config.read(file, quick=False).peers
        ]
        for peer in [*own.peers, *shared]:
            name = owners.get(str(PublicKey(peer.public_key)), "?")
            if name != machine.name:
                table.add_row(machine.name, "━━▶" if peer.endpoint else "◀──", name, *_terms(peer))
    return table


def _terms(peer: config.PeerSection) -> tuple[Text, Text, str]:
    allowed = ", ".join(str(network(entry.prefix)) for entry in peer.allowed_ips)
    endpoint = str(peer.endpoint).replace(f".{DOMAIN}:", ":") if peer.endpoint else ""
    # Not markup: an IPv6 endpoint has brackets.
    return (
        Text(allowed),
        Text(endpoint),
        f"{peer.persistent_keepalive} s" if peer.persistent_keepalive else "",
    )


def claim_line(claim: Claim, mark: str, rest: str = "") -> RenderableType:
    """`mark` is one of · ✓ ✗; `rest` is what shows it, or why it does not hold."""
    style = {"✓": "bold green", "✗": "bold red"}.get(mark, "dim")
    grid = Table.grid(padding=(0, 1))
    grid.add_row(Text(f" {mark}", style), Text(claim.text))
    if rest:
        grid.add_row("", Text(rest, "red" if mark == "✗" else "dim"))
    return grid


def hints(entrances: dict[str, str], console: Console) -> None:
    """How to look around while it stands."""
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, entrance in entrances.items():
        table.add_row(Text(name, "bold"), entrance)
    console.print()
    console.print("It stands. To be on one of its machines, from another terminal, as root:")
    console.print(Padding(table, (0, 0, 0, 2)))
    console.print("There, for example: wgfast show; ip route; ping NAME; tcpdump -ni eth0")
    console.print("Ctrl-C takes all of it down.")
