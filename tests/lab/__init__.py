"""A laboratory of network namespaces in which WireGuard implementations meet.

Read topology.py first: a Lab owns namespaces (namespace.py) and ends (end.py, configured through
`wg` or uapi.py); traffic.py sends, capture.py watches the wire, process.py bounds all of it.
"""
