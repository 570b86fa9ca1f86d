"""Gets what bench/compare.py compares wgfast with, and the tools it takes, from the package registries with
their ordinary clients: apt-get, go and cargo. Says what it could not get, and why."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from compare_contestants import PEERS

GO_MODULE = "golang.zx2c4.com/wireguard@latest"
CRATE = "boringtun-cli"
PACKAGES = {  # by the program that tells whether it is there
    "wireguard-go": "wireguard-go",
    "wg": "wireguard-tools",
    "ip": "iproute2",
    "iperf3": "iperf3",
    "ping": "iputils-ping",
    "ethtool": "ethtool",
    "gcc": "gcc libc6-dev",
}
Say = Callable[[str], None]


def get_peers(say: Say = print, directory: Path = PEERS) -> None:
    """Peers are built in `directory`; those that are there already are left as they are."""
    _get_packages(say)
    built = directory / "bin"
    built.mkdir(parents=True, exist_ok=True)
    _build(
        say,
        "the current wireguard-go",
        built / "wireguard",
        ["go", "install", GO_MODULE],
        {"GOBIN": str(built)},
    )
    _build(say, "boringtun", built / CRATE, ["cargo", "install", "--root", str(directory), CRATE], {})


def _get_packages(say: Say) -> None:
    missing = [package for program, package in PACKAGES.items() if shutil.which(program) is None]
    for program, package in PACKAGES.items():
        if package not in missing:
            say(f"{program}: is there")
    if not missing:
        return
    names = " ".join(missing)
    if shutil.which("apt-get") is None:
        say(f"{names}: could not be got: there is no apt-get")
    elif os.geteuid() != 0:
        say(f"{names}: could not be got: it takes root (`apt-get install {names}`)")
    else:
        environment = {"DEBIAN_FRONTEND": "noninteractive"}
        _run(["apt-get", "update", "-qq"], environment, 300)
        for package in missing:  # one that does not exist must not keep the others out
            why = _run(
                ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *package.split()],
                environment,
                600,
            )
            say(f"{package}: could not be got: {why}" if why else f"{package}: installed")


def _build(
    say: Say, what: str, program: Path, command: Sequence[str], environment: Mapping[str, str]
) -> None:
    line = " ".join(command)
    if program.exists():
        say(f"{what}: is there (remove {program} to have it built anew)")
    elif shutil.which(command[0]) is None:
        say(f"{what}: could not be got: there is no {command[0]}")
    else:
        say(f"{what}: {line}")
        why = _run(command, environment, 1800)
        if not why and not program.exists():
            why = f"`{line}` made no {program.name}"
        say(f"{what}: could not be got: {why}" if why else f"{what}: built")


def _run(command: Sequence[str], environment: Mapping[str, str], timeout: float) -> str:
    """Why it failed; empty if it did not."""
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **environment},
        )
    except subprocess.TimeoutExpired:
        return f"`{' '.join(command)}` was still running after {timeout:.0f} s"
    if done.returncode == 0:
        return ""
    said = (done.stderr.strip() or done.stdout.strip()).splitlines()
    return f"`{' '.join(command)}`: " + (" / ".join(said[-3:]) or f"exit status {done.returncode}")
