"""The C tests of tests/core: each as it is, then all of them under the sanitizers."""

from __future__ import annotations

import functools
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
TESTS = sorted(path.stem for path in (ROOT / "tests" / "core").glob("test_*.c"))

pytestmark = pytest.mark.skipif(
    not (shutil.which("make") and shutil.which("gcc")), reason="missing: make and gcc, to build the C tests"
)


def run(*command: str | Path, timeout: float) -> None:
    done = subprocess.run(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-8000:]


@functools.cache
def build() -> None:
    run("make", "-j2", "-C", "tests/core", "programs", "VARIANT=plain", timeout=600)


@pytest.mark.parametrize("name", TESTS)
def test_plain(name: str) -> None:
    build()
    run(ROOT / "build" / "core-plain" / name, timeout=300)


def test_under_sanitizers() -> None:
    run("make", "-j2", "sanitize", timeout=1800)


@pytest.mark.skipif(
    not (shutil.which("aarch64-linux-gnu-gcc") and shutil.which("qemu-aarch64")),
    reason="missing: gcc-aarch64-linux-gnu, libc6-dev-arm64-cross and qemu-user",
)
def test_on_aarch64() -> None:
    run("make", "-j2", "-C", "tests/core", "run", "VARIANT=aarch64", timeout=600)
