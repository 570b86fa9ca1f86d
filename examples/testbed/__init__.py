"""Networks of network namespaces on one machine, for the topologies beside this package.

Read topology.py first: a topology is declared, as machines and LANs, with what it claims. network.py builds
it out of hosts (host.py), a name server (nameserver.py) and cables; proofs.py and capture.py are what claims
are proved with; drawing.py shows it. Linux, root, iproute2, nftables, util-linux and ping are needed.
"""
