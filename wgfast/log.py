"""What the daemon tells its operator: lines on standard error, as many as LOG_LEVEL asks for."""

from __future__ import annotations

import logging
from typing import Final

# Below logging.DEBUG: for whoever debugs the daemon itself.
TRACE: Final = 5
LEVELS: Final = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "verbose": logging.DEBUG,
    "debug": TRACE,
}


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Nobody listens any more; the tunnel goes on."""


def configure(level: str) -> None:
    """`level` is one of LEVELS; any other, none at all for instance, means error."""
    handler = _Handler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s: %(message)s"))
    logger = logging.getLogger("wgfast")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(LEVELS.get(level, LEVELS["error"]))
