"""No branch and no address of the AEAD depends on a secret: tests/core/constant_time.c under valgrind, which
knows no AVX-512; for those kernels bench/ has a statistical test."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("make", "gcc", "valgrind"))), reason="missing: make, gcc and valgrind"
)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False)


def test_aead_kernels_under_valgrind() -> None:
    done = run("make", "-j2", "-C", "tests/core", "run", "VARIANT=secrets")
    assert done.returncode == 0, (done.stdout + done.stderr)[-8000:]
    assert "constant_time: portable\nconstant_time: ok" in done.stdout


@pytest.mark.parametrize("how", ["branch", "address"])
def test_a_leak_is_found(how: str) -> None:
    assert run("make", "-j2", "-C", "tests/core", "programs", "VARIANT=secrets").returncode == 0
    done = run("valgrind", "-q", "--error-exitcode=7", "build/core-secrets/constant_time", how)
    assert done.returncode == 7, done.stdout + done.stderr
    assert "ninitialised" in done.stderr
