"""What is told to the operator: lines on standard error, as many as LOG_LEVEL asks for, for people or, by
WGFAST_LOG_FORMAT=json, for programs.

A line of JSON is one object: `time` (RFC 3339, UTC), `level`, `interface`, `peer` (the short form of its
key), `event` (what happened, in a word), `message` (the line that people get) and `fields`, an object of what
the message is made of. Those that do not apply are null, or empty.
"""

from __future__ import annotations

import logging
import os
import time
from typing import Final

from wgfast.errors import ConfigError

# Below logging.DEBUG: for whoever debugs the daemon itself.
TRACE: Final = 5
LEVELS: Final = {
    "silent": logging.CRITICAL + 1,
    "error": logging.ERROR,
    "verbose": logging.DEBUG,
    "debug": TRACE,
}
FORMATS: Final = ("text", "json")
# For what must be seen though it is no error: at LOG_LEVEL=error this one's warnings are shown.
LOUD: Final = logging.getLogger("wgfast.loud")
_TEXT: Final = "%(asctime)s %(levelname)s: %(message)s"


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        """Nobody listens any more; the tunnel goes on."""


def about(event: str, *, peer: str | None = None, **fields: object) -> dict[str, object]:
    """What a log call passes as `extra`, so that programs need not read the text. The interface need not be
    said: every message with arguments begins with its name."""
    return {"wgfast": (event, peer, fields)}


class JsonFormatter(logging.Formatter):
    """One object a line, see the module."""

    def __init__(self) -> None:
        super().__init__()
        import json  # only who asks for it pays for it

        self._dumps = json.dumps

    def format(self, record: logging.LogRecord) -> str:
        event, peer, given = getattr(record, "wgfast", (None, None, {}))
        fields = dict(given)
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        seconds, microseconds = divmod(round(record.created * 10**6), 10**6)
        line = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{microseconds:06}Z",
            "level": record.levelname.lower(),
            "interface": _interface(record),
            "peer": peer or None,
            "event": event,
            "message": record.getMessage(),
            "fields": fields,
        }
        return self._dumps(line, default=str)  # ASCII: whatever the locale, it can be written


def _interface(record: logging.LogRecord) -> str | None:
    template, values = record.msg, record.args
    if isinstance(template, str) and template.startswith("%s: ") and isinstance(values, tuple) and values:
        return str(values[0])
    return None


def parse_format(text: str) -> str:
    """The value of WGFAST_LOG_FORMAT; empty: text. ConfigError when there is no such format."""
    if text and text not in FORMATS:
        raise ConfigError(f"WGFAST_LOG_FORMAT={text!r}: expected {' or '.join(FORMATS)}")
    return text or FORMATS[0]


def configure(level: str, form: str = "") -> None:
    """`level` is one of LEVELS; any other, none at all for instance, means error. `form`: one of FORMATS,
    empty: that of WGFAST_LOG_FORMAT. ConfigError when there is no such format."""
    kind = parse_format(form or os.environ.get("WGFAST_LOG_FORMAT", ""))
    handler = _Handler()
    handler.setFormatter(JsonFormatter() if kind == "json" else logging.Formatter(_TEXT))
    logger = logging.getLogger("wgfast")
    logger.handlers[:] = [handler]
    logger.propagate = False
    least = LEVELS.get(level, LEVELS["error"])
    logger.setLevel(least)
    LOUD.setLevel(min(least, logging.WARNING) if level != "silent" else least)
