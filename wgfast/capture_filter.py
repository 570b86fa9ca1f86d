"""Which packets a packet socket shall see: expressions of pcap-filter(7), compiled by libpcap.

A program looks at the network header, wherever it is in the frame: one serves links of every kind.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import socket
import struct
from functools import cache
from typing import Final

from wgfast.errors import ConfigError
from wgfast.pcapng import SNAPLEN

_SO_ATTACH_FILTER: Final = 26
_DLT_RAW: Final = 12  # what libpcap calls LINKTYPE_RAW on Linux
_NET_OFF: Final = -0x100000 & 0xFFFFFFFF  # SKF_NET_OFF, linux/filter.h: offsets count from the network header
_NETMASK_UNKNOWN: Final = 0xFFFFFFFF
_NAMES: Final = ("libpcap.so.0.8", "libpcap.so.1", "libpcap.so")  # Debian, others, with the headers
# linux/bpf_common.h
_LD, _LDX, _CLASS = 0x00, 0x01, 0x07
_ABS, _IND, _MSH, _MODE = 0x20, 0x40, 0xA0, 0xE0

Instruction = tuple[int, int, int, int]  # code, jump if true, jump if false, k
NOTHING: Final[list[Instruction]] = [(0x06, 0, 0, 0)]
EVERYTHING: Final[list[Instruction]] = [(0x06, 0, 0, SNAPLEN)]


class _Instruction(ctypes.Structure):
    _fields_ = [
        ("code", ctypes.c_ushort),
        ("jt", ctypes.c_ubyte),
        ("jf", ctypes.c_ubyte),
        ("k", ctypes.c_uint32),
    ]


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_uint), ("instructions", ctypes.POINTER(_Instruction))]


def compile_expression(expression: str) -> list[Instruction]:
    """The program of an expression, for bare IP packets. ConfigError: libpcap is not installed, or what it
    says of the expression."""
    library = _libpcap()
    if "\0" in expression:
        raise ConfigError(f"filter: {expression!r}: has a zero byte in it")
    handle = library.pcap_open_dead(_DLT_RAW, SNAPLEN)
    if not handle:
        raise MemoryError("pcap_open_dead")
    try:
        program = _Program()
        if library.pcap_compile(handle, ctypes.byref(program), expression.encode(), 1, _NETMASK_UNKNOWN):
            said = library.pcap_geterr(handle).decode(errors="replace")
            raise ConfigError(f"filter: {expression!r}: {said}: see pcap-filter(7)")
        try:
            found = (program.instructions[i] for i in range(program.length))
            return [(each.code, each.jt, each.jf, each.k) for each in found]
        finally:
            library.pcap_freecode(ctypes.byref(program))
    finally:
        library.pcap_close(handle)


def udp_port(port: int) -> list[Instruction]:
    """UDP from or to that port, without libpcap. Of a datagram in fragments the first."""
    yes, no = 17, 18
    program = [
        (0x30, 0, 0, 0),  # ldb [0]: version
        (0x54, 0, 0, 0xF0),  # and #0xf0
        (0x15, 5, 0, 0x60),  # IPv6: 8
        (0x15, 0, no - 4, 0x40),
        (0x30, 0, 0, 9),  # ldb [9]: protocol
        (0x15, 0, no - 6, socket.IPPROTO_UDP),
        (0x28, 0, 0, 6),  # ldh [6]: fragment offset
        (0x45, no - 8, 4, 0x1FFF),
        (0x30, 0, 0, 6),  # ldb [6]: next header
        (0x15, 0, no - 10, socket.IPPROTO_UDP),
        (0x01, 0, 0, 40),  # ldx #40
        (0x05, 0, 0, 1),  # ja: over the next
        (0xB1, 0, 0, 0),  # ldxb 4*([0]&0xf)
        (0x48, 0, 0, 0),  # ldh [x + 0]: from
        (0x15, yes - 15, 0, port),
        (0x48, 0, 0, 2),  # ldh [x + 2]: to
    ]
    return [*program, (0x15, 0, 1, port), (0x06, 0, 0, SNAPLEN), (0x06, 0, 0, 0)]


def attach(target: socket.socket, program: list[Instruction]) -> None:
    """Makes a packet socket see only what the program lets pass. OSError: the kernel does not take it."""
    raw = b"".join(struct.pack("=HBBI", *_from_network_header(each)) for each in program)
    buffer = ctypes.create_string_buffer(raw, len(raw))
    target.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(program), ctypes.addressof(buffer))
    )


def _from_network_header(instruction: Instruction) -> Instruction:
    code, jump_true, jump_false, k = instruction
    loads = (code & _CLASS, code & _MODE) in ((_LD, _ABS), (_LD, _IND), (_LDX, _MSH))
    return code, jump_true, jump_false, (k + _NET_OFF) & 0xFFFFFFFF if loads else k


@cache
def _libpcap() -> ctypes.CDLL:
    library = _load()
    library.pcap_open_dead.restype = ctypes.c_void_p
    library.pcap_open_dead.argtypes = [ctypes.c_int, ctypes.c_int]
    library.pcap_compile.argtypes = [
        ctypes.c_void_p,
        ctypes.POINTER(_Program),
        ctypes.c_char_p,
        ctypes.c_int,
        ctypes.c_uint32,
    ]
    library.pcap_geterr.restype = ctypes.c_char_p
    library.pcap_geterr.argtypes = [ctypes.c_void_p]
    library.pcap_freecode.argtypes = [ctypes.POINTER(_Program)]
    library.pcap_freecode.restype = None
    library.pcap_close.argtypes = [ctypes.c_void_p]
    library.pcap_close.restype = None
    return library


def _load() -> ctypes.CDLL:
    for name in _NAMES:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    found = ctypes.util.find_library("pcap")
    if found:
        return ctypes.CDLL(found)
    raise ConfigError(
        "filter: expressions are compiled by libpcap, which is not installed: install it "
        "(Debian: apt install libpcap0.8), or leave the filter out"
    )
