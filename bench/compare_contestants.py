"""Who takes part in bench/compare.py: names, commands, environments, and pairs of two different ends."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / "build" / "peers"
VETH, KERNEL, NULL = "veth", "kernel", "wgfast-null"
# The baseline is the first of these that takes part.
BASELINES = ("wireguard-go", "wireguard-go-system", KERNEL, "wgfast")
_ASSIGNMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NAME = re.compile(r"[\w.+@-]+")


class CommandLineError(Exception):
    """What was asked for cannot be understood; the text says what, and what is expected."""


class MissingError(Exception):
    """An implementation that is not on this machine; the text says why, or where it was looked for."""


@dataclass(frozen=True)
class Implementation:
    """One way to have a tunnel. `command` holds {if} where the interface's name goes; without one the
    tunnel is the kernel's, or there is none (plain veth)."""

    name: str
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    version: str = ""

    def argv(self, interface: str) -> list[str]:
        return [word.replace("{if}", interface) for word in self.command]

    def described(self) -> str:
        """The command as one would type it, the environment in front."""
        if not self.command:
            return "ip link add type wireguard" if self.name == KERNEL else "no tunnel"
        words = [f"{name}={shlex.quote(value)}" for name, value in self.environment.items()]
        return " ".join([*words, *(word if word == "{if}" else shlex.quote(word) for word in self.command)])


@dataclass(frozen=True)
class Contestant:
    """What a row of the report is about: the left end and the right end of a tunnel."""

    name: str
    left: Implementation
    right: Implementation

    @property
    def has_tunnel(self) -> bool:
        return self.left.name != VETH


def _wgfast() -> Implementation:
    """The checkout this file belongs to, run by the interpreter that has been installed for it."""
    own = ROOT / ".venv" / "bin" / "python"
    for python in (sys.executable, str(own)):
        # Its version can be told without what it depends on; a device cannot be made.
        program = "import wgfast; wgfast.Device; print('wgfast', wgfast.__version__)"
        version = _version([python, "-c", program], {"PYTHONPATH": str(ROOT)})
        if version:
            command = (python, "-m", "wgfast", "-f", "{if}")
            return Implementation("wgfast", command, {"PYTHONPATH": str(ROOT)}, version)
    raise MissingError(f"neither {sys.executable} nor {own} can run it: `make build` builds it")


def _null_cipher() -> Implementation:
    """wgfast without a cipher, for what everything else costs (null_cipher.c): never part of a package."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        raise MissingError("missing: gcc, to build null_cipher.c")
    library = ROOT / "build" / "null_cipher.so"
    library.parent.mkdir(exist_ok=True)
    source = Path(__file__).with_name("null_cipher.c")
    command = [
        compiler,
        "-std=c11",
        "-D_GNU_SOURCE",
        "-O2",
        "-shared",
        "-fPIC",
        str(source),
        "-o",
        str(library),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        raise MissingError(f"null_cipher.c: {done.stderr.strip()}")
    return _renamed(_wgfast(), NULL, {"LD_PRELOAD": str(library)})


def _wireguard_go() -> Implementation:
    path = PEERS / "bin" / "wireguard"
    if not path.exists():
        raise MissingError(
            f"the current one is not in {PEERS}: `make bench-compare` or --get-peers builds it"
        )
    return Implementation("wireguard-go", (str(path), "-f", "{if}"), {}, _go_version(path))


def _wireguard_go_system() -> Implementation:
    path = shutil.which("wireguard-go")
    if path is None:
        raise MissingError("no wireguard-go in PATH (Debian's package wireguard-go)")
    version = _version([path, "--version"])
    return Implementation("wireguard-go-system", (path, "-f", "{if}"), {}, version)


def _boringtun() -> Implementation:
    built = PEERS / "bin" / "boringtun-cli"
    path = str(built) if built.exists() else shutil.which("boringtun-cli")
    if path is None:
        raise MissingError(
            f"no boringtun-cli in {PEERS} or PATH: `make bench-compare` or --get-peers builds it"
        )
    command = (path, "-f", "{if}", "--disable-drop-privileges")
    return Implementation("boringtun", command, {}, _version([path, "--version"]))


def _kernel() -> Implementation:
    # Whether the kernel has it is known once a link has been made: compare_lab.kernel_refusal().
    return Implementation(KERNEL)


def _veth() -> Implementation:
    return Implementation(VETH)


BUILT_IN: dict[str, Callable[[], Implementation]] = {
    VETH: _veth,
    KERNEL: _kernel,
    "wgfast": _wgfast,
    "wireguard-go": _wireguard_go,
    "wireguard-go-system": _wireguard_go_system,
    "boringtun": _boringtun,
    NULL: _null_cipher,
}
EVERYBODY = tuple(name for name in BUILT_IN if name != NULL)


def _version(command: Sequence[str], environment: Mapping[str, str] | None = None) -> str:
    """The first line a program prints of its version, without its name; empty if it does not run."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            cwd="/",
            env={**os.environ, **(environment or {})},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    lines = (done.stdout + done.stderr).strip().splitlines()
    return lines[0].split(maxsplit=1)[-1] if lines else ""


def _go_version(path: Path) -> str:
    """The module's version a Go program was built from; its own constant may lag behind."""
    go = shutil.which("go")
    if go:
        done = subprocess.run(
            [go, "version", "-m", str(path)], capture_output=True, text=True, timeout=20, check=False
        )
        found = re.search(r"^\s*mod\s+\S+\s+(\S+)", done.stdout, re.MULTILINE)
        if found:
            return found[1]
    return _version([str(path), "--version"])


def parse_implementations(given: Sequence[str]) -> dict[str, Callable[[], Implementation]]:
    """What --impl says: built-in names divided by commas, or NAME=[VARIABLE=VALUE...] COMMAND. A command that
    is a built-in name stands for that one's: `two=WGFAST_THREADS=2 wgfast`."""
    wanted: dict[str, Callable[[], Implementation]] = {}
    for text in given:
        for name, make in [_parse_command(text)] if "=" in text else _parse_names(text):
            if name in wanted:
                raise CommandLineError(f"--impl {text!r}: there are two of the name {name!r}")
            wanted[name] = make
    return wanted


def _parse_names(text: str) -> list[tuple[str, Callable[[], Implementation]]]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in BUILT_IN:
            raise CommandLineError(
                f"--impl {text!r}: {name!r} is none of {', '.join(BUILT_IN)}; "
                f"others are given as NAME=COMMAND, with {{if}} for the interface"
            )
    return [(name, BUILT_IN[name]) for name in names]


def _parse_command(text: str) -> tuple[str, Callable[[], Implementation]]:
    name, _, line = text.partition("=")
    if not _NAME.fullmatch(name) or name in (VETH, KERNEL):
        raise CommandLineError(
            f"--impl {text!r}: a name of letters, digits, and . + @ - _ was expected, not {VETH} or {KERNEL}"
        )
    try:
        words = shlex.split(line)
    except ValueError as error:
        raise CommandLineError(f"--impl {text!r}: {error}") from None
    environment: dict[str, str] = {}
    while words and _ASSIGNMENT.match(words[0]):
        variable, _, value = words.pop(0).partition("=")
        environment[variable] = value
    if len(words) == 1 and words[0] in BUILT_IN and words[0] not in (VETH, KERNEL):
        return name, lambda: _renamed(BUILT_IN[words[0]](), name, environment)
    if not any("{if}" in word for word in words):
        raise CommandLineError(f"--impl {text!r}: the command needs {{if}} where the interface's name goes")
    if "/" in words[0]:  # tunnels run in another directory
        words[0] = os.path.abspath(os.path.expanduser(words[0]))
    return name, lambda: _existing(Implementation(name, tuple(words), environment))


def _renamed(built_in: Implementation, name: str, environment: Mapping[str, str]) -> Implementation:
    both = {**built_in.environment, **environment}
    return Implementation(name, built_in.command, both, built_in.version)


def _existing(implementation: Implementation) -> Implementation:
    if shutil.which(implementation.command[0]) is None:
        raise MissingError(f"there is no program {implementation.command[0]}")
    return implementation


def parse_pairs(
    given: Sequence[str], wanted: Mapping[str, Callable[[], Implementation]]
) -> list[tuple[str, str]]:
    """--pair A/B: A on the left and B on the right, and the other way round."""
    pairs: list[tuple[str, str]] = []
    for text in given:
        left, _, right = text.partition("/")
        if not left or not right or "/" in right or left == right:
            raise CommandLineError(f"--pair {text!r}: two different names were expected, as in A/B")
        for name in (left, right):
            if name == VETH or (name not in wanted and name not in BUILT_IN):
                raise CommandLineError(
                    f"--pair {text!r}: {name!r} is no tunnel that --impl names or that is built in"
                )
        pairs += [(left, right), (right, left)]
    return list(dict.fromkeys(pairs))


def assemble(
    wanted: Mapping[str, Callable[[], Implementation]],
    pairs: Sequence[tuple[str, str]],
    kernel_refusal: Callable[[], str],
) -> tuple[list[Contestant], dict[str, str]]:
    """The contestants that can take part, and why each of the others cannot."""
    found: dict[str, Implementation] = {}
    left_out: dict[str, str] = {}
    built_in = {name: BUILT_IN[name] for pair in pairs for name in pair if name in BUILT_IN}
    for name, make in {**built_in, **wanted}.items():
        try:
            implementation = make()
            refusal = kernel_refusal() if name == KERNEL else ""
            if refusal:
                raise MissingError(refusal)
            found[name] = implementation
        except MissingError as missing:
            left_out[name] = str(missing)
    contestants = [Contestant(name, found[name], found[name]) for name in wanted if name in found]
    for pair in pairs:
        absent = [name for name in pair if name not in found]
        if absent:
            left_out["/".join(pair)] = f"there is no {absent[0]}"
        else:
            contestants.append(Contestant("/".join(pair), found[pair[0]], found[pair[1]]))
    return contestants, left_out


def choose_baseline(contestants: Sequence[Contestant], against: str | None) -> str | None:
    """Whom the others' figures are divided by. CommandLineError if `against` does not take part."""
    names = [contestant.name for contestant in contestants]
    if against is not None and against not in names:
        raise CommandLineError(f"--against {against!r}: not among {', '.join(names)}")
    tunnels = [contestant.name for contestant in contestants if contestant.has_tunnel]
    order = [name for name in BASELINES if name in tunnels] + tunnels
    return against or (order[0] if len(names) > 1 and order else None)
