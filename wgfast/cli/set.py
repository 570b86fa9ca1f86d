"""set: changes an interface and its peers, in the words of wg(8)."""

from __future__ import annotations

import click

from wgfast import client
from wgfast.cli import suggestions
from wgfast.cli.access import complain, refuse, refuse_usage
from wgfast.cli.set_words import SetWords
from wgfast.errors import WgfastError


@click.command("set", context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument(
    "words",
    nargs=-1,
    metavar="INTERFACE WORD...",
    type=click.UNPROCESSED,
    shell_complete=suggestions.for_set,
)
def set_command(words: tuple[str, ...]) -> None:
    """Changes an interface and its peers.

    \b
    [listen-port PORT] [fwmark MARK] [private-key FILE]
    [peer KEY [remove] [preshared-key FILE] [endpoint HOST:PORT]
        [persistent-keepalive SECONDS] [allowed-ips [+|-]IP/LENGTH[,...]]
        [rate-limit RATE] [send-LIMIT NUMBER] [receive-LIMIT NUMBER]]...

    Keys are read from files, so that no other user sees them; an empty file (/dev/null) takes the key away.
    off is 0 for fwmark and persistent-keepalive. allowed-ips replaces the peer's, unless entries begin with +
    (add) or - (take away); "" removes all. A name as an endpoint is resolved again by wgfast's daemon when
    the peer falls silent; for other daemons it is resolved once, now, with as many retries as
    WG_ENDPOINT_RESOLUTION_RETRIES says.

    Limits are kept by wgfast's daemon only. LIMIT is rate (bits a second), burst (bytes at once), packet-rate
    (packets a second), packet-burst (packets at once), quota (bytes in all) or used (bytes of the quota; 0
    begins anew). Numbers may end in k, M, G or T (1000) or Ki, Mi, Gi or Ti (1024); off is none. rate-limit
    is send-rate and receive-rate together. What exceeds a limit is dropped.
    """
    if len(words) < 2:
        refuse_usage("set")
    name = words[0]
    try:
        request = SetWords(complain).read(list(words[1:]))
        client.set(name, request, complain)
    except OSError as error:
        refuse("Unable to modify interface", error, name)
    except WgfastError as error:
        complain(str(error))
        raise SystemExit(1) from None
