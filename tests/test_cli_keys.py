"""genkey, genpsk and pubkey against the real `wg`."""

from __future__ import annotations

import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from bothtools import Said
from lab.programs import require
from lab.topology import genkey, pubkey

from wgfast.keys import public_key

WGFAST = [sys.executable, "-m", "wgfast"]


@pytest.fixture(autouse=True)
def _has_wg() -> None:
    require("wg")


def keys(tool: list[str], *words: str, stdin: bytes = b"") -> Said:
    done = subprocess.run([*tool, *words], input=stdin, capture_output=True, timeout=20, check=False)
    return Said(done.returncode, done.stdout.decode(), done.stderr.decode())


def test_pubkey_reads_what_wg_reads() -> None:
    key = genkey().encode()
    for text in (
        *(key, key + b"\n", key + b" \t\r\n\0\n"),
        *(b"", b"\n", key[:-1], b" " + key, key + b"x", key + b"\n" + key, b"!" * 44),
        *(b"A" * 42 + b"B=", b"\xff" * 44, bytes(44), bytes(32).hex().encode()),
    ):
        theirs, ours = keys(["wg"], "pubkey", stdin=text), keys(WGFAST, "pubkey", stdin=text)
        assert (ours.status, ours.out) == (theirs.status, theirs.out), text
        message = theirs.err.strip().removeprefix("wg: ")
        assert ours.err.startswith(f"wgfast: {message}" if message else "")
        assert bool(ours.err) == bool(theirs.err)


def test_input_without_end_is_not_kept() -> None:
    """Refused at the first byte that does not belong there."""
    for words, source in ((["pubkey"], "yes"), (["pubkey"], f"printf %s {genkey()}; yes")):
        command = f"ulimit -v 2000000; ( {source} ) | {' '.join([*WGFAST, *words])}"
        done = subprocess.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=20, check=False
        )
        assert done.returncode == 1
        assert "Trailing characters found after key" in done.stderr


@pytest.mark.parametrize("command", ["genkey", "genpsk"])
def test_generated_keys_are_keys(command: str, tmp_path: Path) -> None:
    said = keys(WGFAST, command)
    assert (said.status, said.err) == (0, "")
    assert len(pubkey(said.out)) == 44
    open_to_all, mine = tmp_path / "open", tmp_path / "mine"
    for path, mode in ((open_to_all, 0o644), (mine, 0o600)):
        path.touch()
        path.chmod(mode)
        warnings = []
        for tool in (["wg"], WGFAST):
            with path.open("w") as file:
                done = subprocess.run(
                    [*tool, command], stdout=file, stderr=subprocess.PIPE, timeout=20, check=True
                )
            warnings.append(done.stderr.decode())
        assert warnings[0] == warnings[1]
        assert bool(warnings[0]) == bool(mode & stat.S_IRWXO)


def test_keys_as_json() -> None:
    private = json.loads(keys(WGFAST, "genkey", "--json").out)
    assert set(json.loads(keys(WGFAST, "genpsk", "--json").out)) == {"preshared_key"}
    public = json.loads(keys(WGFAST, "pubkey", "--json", stdin=private["private_key"].encode()).out)
    assert public == {"public_key": str(public_key(private["private_key"]))}
