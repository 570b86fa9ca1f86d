"""Order under load: several threads and queues at either end, many flows of numbered datagrams, and TCP."""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Sequence

import pytest
from lab.end import End
from lab.namespace import Namespace
from lab.numbered import Flow, drain, opened
from lab.programs import SUBJECT, require
from lab.topology import Lab, Tunnel
from lab.traffic import IPERF_PORT, IperfServer, wait_ping

pytestmark = pytest.mark.lab

SECONDS = 2
AT_ONCE = 48


def keep_order(namespace: Namespace, how: str) -> None:
    """A veth sorts what comes by the processor it comes from; whoever sends from two is overtaken there, on
    the wire. Either way of preventing that: one queue (its NAPI), or one processor for all."""
    if how == "gro":
        require("ethtool")
        namespace.run("ethtool", "-K", "wire0", "tso", "off", "gro", "on")
    else:
        namespace.run("sh", "-c", "echo 1 > /sys/class/net/wire0/queues/rx-0/rps_cpus")


def flows_of(tunnel: Tunnel, sender: End) -> list[Flow]:
    """Datagrams one by one and in super-packets, read likewise."""
    other = tunnel.other(sender)
    forms = [(4, 1, False), (4, 1, True), (6, 1, False), (4, 16, True), (6, 16, False), (6, AT_ONCE, True)]
    return [Flow(sender, other, version, together, whole) for version, together, whole in forms]


def send_until(flows: Sequence[Flow], stop: threading.Event) -> None:
    while not stop.is_set():
        for flow in flows:
            flow.send(AT_ONCE)
        time.sleep(0.0005)  # the receivers, which share an interpreter with this, have to follow


def receive_until(flows: Sequence[Flow], stop: threading.Event) -> None:
    while not stop.is_set():
        for flow in select.select(flows, [], [], 0.05)[0]:
            flow.receive()


def load(tunnel: Tunnel) -> list[Flow]:
    """Flows in both directions while TCP runs in both; what they carried."""
    require("iperf3")
    stop = threading.Event()
    server = IperfServer(tunnel.responder.namespace)
    port = ("-p", str(IPERF_PORT), "--connect-timeout", "5000")
    stream = ("iperf3", "-c", tunnel.responder.address, *port, "--bidir", "-t", str(SECONDS))
    tcp = tunnel.initiator.namespace.spawn(*stream)
    with opened(flows_of(tunnel, tunnel.initiator) + flows_of(tunnel, tunnel.responder)) as flows:
        half = len(flows) // 2
        threads = [
            threading.Thread(target=send_until, args=(part, stop)) for part in (flows[:half], flows[half:])
        ]
        threads.append(threading.Thread(target=receive_until, args=(flows, stop)))
        for thread in threads:
            thread.start()
        try:
            time.sleep(SECONDS)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
        drain(flows)
    assert tcp.wait(10) == 0, tcp.output
    server.stop()
    return list(flows)


@pytest.mark.parametrize("how", ["gro", "rps"])
@pytest.mark.parametrize(("threads", "queues"), [(2, 1), (2, 2), (4, 4)])
def test_no_flow_is_out_of_order(lab: Lab, threads: int, queues: int, how: str) -> None:
    environ = {"WGFAST_THREADS": str(threads), "WGFAST_QUEUES": str(queues), "WGFAST_OFFLOAD": ""}
    tunnel = lab.tunnel(SUBJECT, SUBJECT, environs=(environ, environ))
    for end in tunnel.ends:
        assert (
            f"numqueues {queues} " in end.namespace.show("-d", "link", "show", end.interface) or queues == 1
        )
        keep_order(end.namespace, how)
    wait_ping(tunnel.initiator.namespace, tunnel.responder.address)
    flows = load(tunnel)
    for flow in flows:
        print(f"{len(flow.numbers)} of {flow.sent} arrived, up to {flow.pieces} as one")
    for flow in flows:
        flow.check(least=flow.sent // 10)
