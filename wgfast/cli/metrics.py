"""metrics: numbers for Prometheus, served, written to a file, or printed."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING, Final

import click

from wgfast import client
from wgfast.cli.access import refuse
from wgfast.cli.completion import complete_interfaces
from wgfast.errors import ConfigError
from wgfast.reading import names_in

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

LISTEN: Final = "127.0.0.1:9586"  # the port that Prometheus lists for WireGuard exporters


@click.command("metrics")
@click.argument("words", metavar="[INTERFACE]...", nargs=-1, shell_complete=complete_interfaces)
@click.option("--listen", metavar="[ADDR]:PORT", help=f"Serve them there over HTTP.  [default: {LISTEN}]")
@click.option("--textfile", metavar="FILE", help="Write them to a file for node_exporter, once, atomically.")
@click.option("--once", is_flag=True, help="Print them and end.")
@click.option("--endpoint", is_flag=True, help="Also where each peer is.")
@click.option("--allowed-ips", is_flag=True, help="Label peers with their allowed IPs.")
@click.option(
    "--config", "configs", metavar="FILE", multiple=True, help="Label peers with the names this gives them."
)
def metrics_command(
    words: tuple[str, ...],
    listen: str | None,
    textfile: str | None,
    once: bool,
    endpoint: bool,
    allowed_ips: bool,
    configs: tuple[str, ...],
) -> None:
    """Numbers of each INTERFACE (all, if none is named) for Prometheus.

    What there is and how it is labelled: python -m pydoc wgfast.metrics
    """
    if not words:
        try:
            client.interfaces()
        except OSError as error:
            refuse("Unable to list interfaces", error, "all")
    if sum((once, textfile is not None, listen is not None)) > 1:
        raise click.UsageError("--listen, --textfile and --once exclude one another")
    registry = _registry(words, configs, endpoint, allowed_ips)
    if once:
        from prometheus_client import generate_latest

        click.echo(generate_latest(registry), nl=False)
    elif textfile is not None:
        _write(textfile, registry)
    else:
        _serve(listen or LISTEN, registry)


def _registry(
    words: tuple[str, ...], configs: tuple[str, ...], endpoint: bool, allowed_ips: bool
) -> CollectorRegistry:
    try:
        from prometheus_client import CollectorRegistry

        from wgfast.metrics import Collector
    except ImportError:
        raise click.ClickException(
            "prometheus-client is not installed: pip install 'wgfast[metrics]'"
        ) from None
    names: dict[bytes, str] = {}
    for path in configs:
        try:
            names.update(names_in(path))
        except ConfigError as error:
            raise click.ClickException(str(error)) from None
    registry = CollectorRegistry()
    registry.register(
        Collector(words or None, names=names if configs else None, endpoint=endpoint, allowed_ips=allowed_ips)
    )
    return registry


def _write(path: str, registry: CollectorRegistry) -> None:
    from prometheus_client import write_to_textfile

    try:
        write_to_textfile(path, registry)
    except OSError as error:
        raise click.ClickException(f"{path}: {error.strerror}") from None


def _serve(where: str, registry: CollectorRegistry) -> None:
    from prometheus_client import start_http_server

    from wgfast.metrics import parse_listen

    try:
        address, port = parse_listen(where)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--listen") from None
    # Blocked before there are threads, so that they leave them to us.
    ending = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, ending)
    try:
        start_http_server(port, address, registry)
    except OSError as error:
        raise click.ClickException(f"{where}: {error.strerror}: choose another with --listen") from None
    shown = f"[{address}]" if ":" in address else address
    click.echo(f"serving http://{shown}:{port}/metrics", err=True)
    signal.sigwait(ending)
