"""Captures as files: pcapng (draft-ietf-opsawg-pcapng), one section, every link with its name, times in ns.

All links of a file are of one kind, because libpcap reads no other: bare IP packets (LINKTYPE_RAW), then of
one link only, because libpcap takes a second one of that kind for another; or packets with the header that
Linux puts before those of any link (LINKTYPE_LINUX_SLL2).
"""

from __future__ import annotations

import platform
import struct
from typing import BinaryIO, Final

from wgfast import __version__

LINKTYPE_RAW: Final = 101
LINKTYPE_LINUX_SLL2: Final = 276
INBOUND: Final = 1  # epb_flags, bits 0 and 1
OUTBOUND: Final = 2
SNAPLEN: Final = 1 << 18  # what Wireshark takes at most

_SECTION: Final = 0x0A0D0D0A
_INTERFACE: Final = 1
_STATISTICS: Final = 5
_PACKET: Final = 6
_BYTE_ORDER: Final = 0x1A2B3C4D
_NANOSECONDS: Final = 9  # if_tsresol: 10^-9 s

# Option codes of the blocks above, sections 3.5 and 4 of the draft.
_COMMENT, _END = 1, 0
_SECTION_OS, _SECTION_PROGRAM = 3, 4
_IF_NAME, _IF_DESCRIPTION, _IF_RESOLUTION, _IF_FILTER = 2, 3, 9, 11
_PACKET_FLAGS = 2
_STATS_RECEIVED, _STATS_DROPPED = 4, 5


class PcapngWriter:
    """Writes to `file`, which stays the caller's to close. `size` is how many bytes were written.

    `most` bounds it: what does not fit any more is refused, whole; room for the last statistics is kept.
    """

    _STATISTICS_SIZE: Final = 24 + 12 + 12 + 4

    def __init__(self, file: BinaryIO, linktype: int, most: int | None = None, comment: str = "") -> None:
        """ValueError: not even the beginning fits into `most`."""
        self.linktype = linktype
        self._file = file
        self._most = most
        self._links: dict[str, int] = {}
        self.size = 0
        options = [(_SECTION_OS, f"{platform.system()} {platform.release()}".encode())]
        options.append((_SECTION_PROGRAM, f"wgfast {__version__}".encode()))
        if comment:
            options.append((_COMMENT, comment.encode()))
        # Length of the section: -1, it is known when it ends.
        body = struct.pack("=IHHq", _BYTE_ORDER, 1, 0, -1)
        if not self._write(_block(_SECTION, body, options)):
            raise ValueError(f"size: {most}: is less than an empty capture takes")

    def add_link(self, name: str, description: str = "", expression: str = "") -> int | None:
        """The number of a link, to be given with its packets. None: it does not fit any more."""
        if name in self._links:
            return self._links[name]
        options = [(_IF_NAME, name.encode()), (_IF_RESOLUTION, bytes([_NANOSECONDS]))]
        if description:
            options.append((_IF_DESCRIPTION, description.encode()))
        if expression:
            options.append((_IF_FILTER, b"\0" + expression.encode()))
        body = struct.pack("=HHI", self.linktype, 0, SNAPLEN)
        # From now on there is a block of statistics more to keep room for.
        if not self._write(_block(_INTERFACE, body, options), self._STATISTICS_SIZE):
            return None
        return self._links.setdefault(name, len(self._links))

    def write(self, link: int, at: int, packet: bytes, direction: int) -> bool:
        """One packet, `at` ns since 1970. False: it does not fit any more."""
        kept = packet[:SNAPLEN]
        body = struct.pack("=IIIII", link, at >> 32, at & 0xFFFFFFFF, len(kept), len(packet)) + _padded(kept)
        return self._write(_block(_PACKET, body, [(_PACKET_FLAGS, struct.pack("=I", direction))]))

    def flush(self) -> None:
        """So that whoever reads the file meanwhile sees what there is."""
        self._file.flush()

    def finish(self, at: int, received: int, dropped: int) -> None:
        """Statistics of the whole capture, with the first link."""
        if not self._links:
            return
        options = [
            (_STATS_RECEIVED, struct.pack("=Q", received)),
            (_STATS_DROPPED, struct.pack("=Q", dropped)),
        ]
        body = struct.pack("=III", 0, at >> 32, at & 0xFFFFFFFF)
        self._file.write(_block(_STATISTICS, body, options))
        self.size += self._STATISTICS_SIZE
        self._file.flush()

    def _write(self, block: bytes, reserve: int = 0) -> bool:
        reserve += self._STATISTICS_SIZE
        if self._most is not None and self.size + len(block) + reserve > self._most:
            return False
        self._file.write(block)
        self.size += len(block)
        return True


def _block(kind: int, body: bytes, options: list[tuple[int, bytes]]) -> bytes:
    """Type, length, body, options, and the length once more."""
    encoded = b"".join(struct.pack("=HH", code, len(value)) + _padded(value) for code, value in options)
    encoded += struct.pack("=HH", _END, 0)
    length = 12 + len(body) + len(encoded)
    return struct.pack("=II", kind, length) + body + encoded + struct.pack("=I", length)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
