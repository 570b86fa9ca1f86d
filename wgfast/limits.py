"""Limits of a peer: how fast and how much it may send and receive. What counts, and what becomes of what
exceeds them, is written down in core/limiter.h."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Final

from . import _core
from .errors import ConfigError
from .settings import number

NAMES: Final = _core.LIMIT_NAMES  # those of the fields below, and send_used and receive_used
MOST: Final = dict(zip(NAMES, _core.LIMIT_MOSTS, strict=True))
_WAYS: Final = ("send", "receive")
_AMOUNT: Final = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,9}))?([kKMGT]?)(i?)")
_POWERS: Final = {"": 0, "k": 1, "K": 1, "M": 2, "G": 3, "T": 4}


@dataclass(frozen=True, slots=True)
class Limits:
    """Of inner packets, to the peer (send) and from it (receive). 0: no limit. `rate`: bits a second, and
    `burst`: how many bytes at once; 0 is a quarter of a second, at least 64 KiB. `packet_rate`: packets a
    second, and `packet_burst`: how many at once; 0 is a quarter of a second, at least 64. `quota`: bytes in
    all. A packet larger than the burst never passes."""

    send_rate: int = 0
    send_burst: int = 0
    send_packet_rate: int = 0
    send_packet_burst: int = 0
    send_quota: int = 0
    receive_rate: int = 0
    receive_burst: int = 0
    receive_packet_rate: int = 0
    receive_packet_burst: int = 0
    receive_quota: int = 0


@dataclass(frozen=True, slots=True)
class Usage:
    """Bytes that passed since the quota was set, and 0 where there is none."""

    sent: int = 0
    received: int = 0


def limits_of(values: Sequence[int]) -> Limits:
    """Of what the core has, in the order of NAMES."""
    return Limits(**{name: value for name, value in zip(NAMES, values, strict=True) if not is_used(name)})


def usage_of(values: Sequence[int]) -> Usage:
    return Usage(*(value for name, value in zip(NAMES, values, strict=True) if is_used(name)))


def check_limits(limits: Limits | None) -> dict[str, int]:
    """All limits by name, as the core takes them; None: none at all. ConfigError names what cannot be."""
    if limits is not None and not isinstance(limits, Limits):
        raise ConfigError(f"limits: {limits!r}: expected Limits(send_rate=..., ...)")
    return _checked("limits", asdict(limits or Limits()))


def check_usage(usage: Usage) -> dict[str, int]:
    if not isinstance(usage, Usage):
        raise ConfigError(f"usage: {usage!r}: expected Usage(sent=..., received=...)")
    return _checked("usage", {"send_used": usage.sent, "receive_used": usage.received})


def _checked(field: str, values: dict[str, int]) -> dict[str, int]:
    for name, value in values.items():
        number(f"{field}: {name}", value, 0, MOST[name])
    return values


def is_used(name: str) -> bool:
    return name.endswith("_used")


def shown(values: Sequence[int]) -> dict[str, int]:
    """Those that are set, and what is used of a quota, by name; `values` is in the order of NAMES."""
    known = dict(zip(NAMES, values, strict=True))
    quotas = {name.replace("_quota", "_used") for name in NAMES if name.endswith("_quota") and known[name]}
    return {name: value for name, value in known.items() if value or name in quotas}


# ---- for people ----


def parse_amount(text: str) -> int:
    """`10M`, `1.5G`, `64Ki`, `off`: k, M, G and T are powers of 1000, with an i of 1024. ValueError if it is
    none of these, or no whole number."""
    if text == "off":
        return 0
    found = _AMOUNT.fullmatch(text)
    if not found or (found[4] and not found[3]):
        raise ValueError
    unit: int = (1024 if found[4] else 1000) ** _POWERS[found[3]]
    fraction = found[2] or ""
    amount: int
    amount, rest = divmod(int(found[1] + fraction) * unit, 10 ** len(fraction))
    if rest:
        raise ValueError
    return amount


def amount_text(amount: int) -> str:
    """The shortest that parse_amount reads as the same, with powers of 1000 or 1024."""
    texts = [str(amount)]
    for prefix, power in _POWERS.items():
        for base, suffix in ((1000, prefix), (1024, f"{prefix}i")):
            if power and prefix != "K" and amount and amount % base**power == 0:
                texts.append(f"{amount // base**power}{suffix}")
    return min(texts, key=len)


def way_texts(values: Mapping[str, int]) -> dict[str, str]:
    """By direction, what is set of it: `10M bit/s, burst 64Ki bytes, 500 of 1G bytes used`. Only directions
    with limits."""
    texts = {}
    for way in _WAYS:
        parts = [
            template.format(amount_text(values[name]))
            for key, template in _TEMPLATES.items()
            if values.get(name := f"{way}_{key}")
        ]
        quota = values.get(f"{way}_quota", 0)
        if quota:
            parts.append(f"{amount_text(values.get(f'{way}_used', 0))} of {amount_text(quota)} bytes used")
        if parts:
            texts[way] = ", ".join(parts)
    return texts


_TEMPLATES: Final = {
    "rate": "{} bit/s",
    "burst": "burst {} bytes",
    "packet_rate": "{} packets/s",
    "packet_burst": "burst {} packets",
}
