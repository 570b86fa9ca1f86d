"""A key in a file, as `wg set` reads it. No message shows what was in it."""

from __future__ import annotations

from typing import Final

from wgfast.client_state import ZERO_KEY
from wgfast.config_values import BLANKS, BadValueError, parse_key
from wgfast.errors import ConfigError

KEY_CHARACTERS: Final = 44
_MOST: Final = 1 << 16  # bytes, blanks among them; /dev/zero never ends


def read_key_file(path: str) -> bytes:
    """The key; zeros, which mean none, from an empty file. ConfigError says what is wrong and where."""
    try:
        with open(path, "rb") as file:
            content = file.read(_MOST)
    except OSError as error:
        raise ConfigError(f"fopen: {error.strerror}: `{path}'") from None
    if not content:
        return ZERO_KEY
    text = content.decode("latin-1")
    if len(text) < KEY_CHARACTERS:
        raise ConfigError(f"Invalid length key in key file: `{path}'")
    if text[KEY_CHARACTERS:].strip(BLANKS):
        raise ConfigError(f"Found trailing characters in key file: `{path}'")
    try:
        return parse_key(text[:KEY_CHARACTERS])
    except BadValueError:
        raise ConfigError(f"Key is not the correct length or format: in `{path}'") from None
