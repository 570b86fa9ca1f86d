"""What the doctor says of one thing."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class Finding(NamedTuple):
    what: str
    state: str  # "yes", "no", "in use", or a value
    reason: str
    remedy: str = ""  # what to do; empty: nothing needs to be done


def read_text(root: Path, path: str) -> str | None:
    """The text of `path` below `root`, without blanks around it. None: it is not there, or not for us."""
    try:
        return (root / path.lstrip("/")).read_text(errors="replace").strip()
    except OSError:
        return None


def read_number(root: Path, path: str) -> int | None:
    """As read_text, for a file that holds one whole number; None also if it does not."""
    text = read_text(root, path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
