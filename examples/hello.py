"""Two WireGuard devices in one program, without root: a packet goes in here and comes out there.

Each device's inner port is one end of a Unix socket pair, which carries whole IP packets; the name of a
TUN interface in its place ("wg0") gives the same tunnel to the whole machine. Between the devices there is
real WireGuard over UDP on loopback.

    python examples/hello.py
"""

import socket
import struct

import wgfast


def ipv4(source: str, destination: str, payload: bytes) -> bytes:
    """A minimal IPv4 packet, protocol 253 (for experiments, RFC 3692)."""
    addresses = socket.inet_aton(source) + socket.inet_aton(destination)
    return struct.pack("!BBHIBBH", 0x45, 0, 20 + len(payload), 0, 64, 253, 0) + addresses + payload


def main() -> None:
    alice_key, bob_key = wgfast.generate_private_key(), wgfast.generate_private_key()
    alice_inner, alice_port = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bob_inner, bob_port = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with (
        wgfast.Device(private_key=alice_key, tun=alice_port.fileno()) as alice,
        wgfast.Device(private_key=bob_key, tun=bob_port.fileno()) as bob,
    ):
        # Bob knows Alice's key and waits; Alice knows where Bob is.
        bob.add_peer(alice.public_key, allowed_ips=["10.0.0.1"])
        to_bob = alice.add_peer(
            bob.public_key, allowed_ips=["10.0.0.2"], endpoint=("127.0.0.1", bob.listen_port)
        )

        alice_inner.send(ipv4("10.0.0.1", "10.0.0.2", b"hello, bob"))
        bob_inner.settimeout(5)
        print("bob received:", bob_inner.recv(65536)[20:].decode())

        stats = to_bob.stats
        print(f"alice sent {stats.sent_bytes} bytes of UDP payload to {to_bob.endpoint}")


if __name__ == "__main__":
    main()
