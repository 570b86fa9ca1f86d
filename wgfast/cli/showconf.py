"""showconf: an interface's settings as a configuration file that setconf reads."""

from __future__ import annotations

from collections.abc import Iterator

import click

from wgfast import client
from wgfast.cli import schema, suggestions
from wgfast.cli.access import refuse, refuse_usage
from wgfast.cli.show_pretty import key_text
from wgfast.client import DeviceState, PeerState, endpoint_text, prefix_text
from wgfast.client_state import ZERO_KEY


@click.command("showconf", context_settings={"ignore_unknown_options": True})
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON; its shape: python -m pydoc wgfast.cli.schema"
)
@click.option("--secrets", is_flag=True, help="With --json: private and preshared keys too.")
@click.argument(
    "words",
    nargs=-1,
    metavar="INTERFACE",
    type=click.UNPROCESSED,
    shell_complete=suggestions.for_interface,
)
def showconf_command(words: tuple[str, ...], as_json: bool, secrets: bool) -> None:
    """Shows the configuration of an interface, secrets and all, in the form that setconf reads."""
    if len(words) != 1:
        refuse_usage("showconf")
    try:
        state = client.get(words[0])
    except OSError as error:
        refuse("Unable to access interface", error, words[0])
    if as_json:
        statistics = client.statistics(state.name)
        whole = schema.interface_object(state, statistics, secrets=secrets)
        click.echo(schema.text(schema.document([schema.settings(whole)])))
    else:
        click.echo(configuration(state), nl=False)


def configuration(state: DeviceState) -> str:
    """The text, as `wg showconf` prints it."""
    lines = ["[Interface]"]
    if state.listen_port:
        lines.append(f"ListenPort = {state.listen_port}")
    if state.fwmark:
        lines.append(f"FwMark = {state.fwmark:#x}")
    if state.private_key is not None:
        lines.append(f"PrivateKey = {key_text(state.private_key)}")
    if not state.peers:
        lines.append("")
    for peer in state.peers:
        lines.append("")
        lines += _peer(peer)
    return "\n".join(lines) + "\n"


def _peer(peer: PeerState) -> Iterator[str]:
    yield "[Peer]"
    yield f"PublicKey = {key_text(peer.public_key)}"
    if peer.preshared_key != ZERO_KEY:
        yield f"PresharedKey = {key_text(peer.preshared_key)}"
    if peer.allowed_ips:
        yield f"AllowedIPs = {', '.join(map(prefix_text, peer.allowed_ips))}"
    if peer.endpoint is not None:
        yield f"Endpoint = {endpoint_text(peer.endpoint)}"
    if peer.persistent_keepalive:
        yield f"PersistentKeepalive = {peer.persistent_keepalive}"
