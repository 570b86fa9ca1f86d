"""WGFAST_AEAD: what it forces, and that a name it cannot force is an error wherever packets would begin to
move. A process chooses its kernel once, so each case has a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from wgfast import _core

KERNELS = _core.aead_kernels()
UNUSABLE = [name for name, usable, _ in KERNELS if not usable]
BEGINNINGS = {
    "Device": "wgfast.Device(threads=1)",
    "Engine": "from wgfast.engine import Engine; Engine()",
    "seal": "wgfast.seal(n, l, bytes(32), c, n.copy())",
    "open": "wgfast.open(n, l, bytes(32), c, n.copy(), np.zeros(0, bool))",
    "aead_environment": "_core.aead_environment()",
}
PREAMBLE = """
import os
import numpy as np
import wgfast
from wgfast import _core
n, l, c = np.zeros((0, 64), np.uint8), np.zeros(0, np.uint32), np.zeros(0, np.uint64)
"""


def run(*arguments: str, kernel: str | None) -> subprocess.CompletedProcess[str]:
    environ = {name: value for name, value in os.environ.items() if name != "WGFAST_AEAD"}
    environ["COLUMNS"] = "300"
    if kernel is not None:
        environ["WGFAST_AEAD"] = kernel
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, timeout=60, env=environ, check=False
    )


def succeed(program: str, kernel: str | None) -> str:
    done = run("-c", PREAMBLE + program, kernel=kernel)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def check_explained(text: str, kernel: str) -> None:
    """The message names the variable, its value, and every kernel with its reason."""
    assert f"WGFAST_AEAD: {kernel!r}: cannot be used" in text
    assert all(f"{name} ({reason})" in text for name, _, reason in KERNELS)


@pytest.mark.parametrize("kernel", ["nonsense", "PORTABLE", "portable ", *UNUSABLE])
@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_a_kernel_that_cannot_be_used(beginning: str, kernel: str) -> None:
    done = run("-c", PREAMBLE + BEGINNINGS[beginning], kernel=kernel)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("wgfast.errors.ConfigError: ")
    check_explained(last, kernel)


@pytest.mark.parametrize("name", [name for name, usable, _ in KERNELS if usable])
def test_a_kernel_that_is_forced(name: str) -> None:
    each = "\n".join(BEGINNINGS.values())
    assert succeed(f"{each}\nprint(_core.aead_kernel())", name) == name


@pytest.mark.parametrize("kernel", [None, ""])
def test_no_name_means_the_best(kernel: str | None) -> None:
    best = next(name for name, usable, _ in KERNELS if usable)
    assert succeed("_core.aead_environment(); print(_core.aead_kernel())", kernel) == best


def test_an_error_is_a_value_error_and_writes_nothing() -> None:
    program = """
out = np.full((1, 80), 0xA5, np.uint8)
try:
    wgfast.seal(out[:, :64].copy(), np.full(1, 64, np.uint32), bytes(32), np.zeros(1, np.uint64), out)
except ValueError as error:
    assert isinstance(error, wgfast.ConfigError)
assert (out == 0xA5).all()
"""
    succeed(program, "nonsense")


def test_an_environment_that_is_corrected_counts() -> None:
    program = f"""
try:
    {BEGINNINGS["seal"]}
except wgfast.ConfigError:
    os.environ["WGFAST_AEAD"] = "portable"
{BEGINNINGS["seal"]}
print(_core.aead_kernel())
"""
    assert succeed(program, "nonsense") == "portable"


def test_an_explicit_choice_stands_above_the_environment() -> None:
    program = f"_core.aead_choose('portable'); {BEGINNINGS['seal']}; print(_core.aead_kernel())"
    assert succeed(program, "nonsense") == "portable"


def test_the_environment_is_not_read_again() -> None:
    program = f"""
{BEGINNINGS["seal"]}
os.environ["WGFAST_AEAD"] = "nonsense"
{BEGINNINGS["seal"]}
_core.Core(0)
"""
    succeed(program, None)


@pytest.mark.parametrize("arguments", [["-f", "wgfdnone"], ["wgfdnone"], ["demo", "--no-namespaces"]])
def test_the_command_refuses_to_begin(arguments: list[str]) -> None:
    """The daemon says so before it makes an interface: this needs no root."""
    done = run("-m", "wgfast", *arguments, kernel="nonsense")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    check_explained(" ".join((done.stdout + done.stderr).split()), "nonsense")


def test_the_doctor_lists_every_kernel_and_what_forces_one() -> None:
    done = run("-m", "wgfast", "doctor", kernel="portable")
    assert done.returncode == 0
    assert "usable; forced by WGFAST_AEAD=portable" in done.stdout
    assert all(f"AEAD kernel {name}" in done.stdout and reason in done.stdout for name, _, reason in KERNELS)
    assert "forced" not in run("-m", "wgfast", "doctor", kernel=None).stdout


def test_the_doctor_fails_where_the_environment_is_wrong() -> None:
    done = run("-m", "wgfast", "doctor", kernel="nonsense")
    assert done.returncode == 1
    check_explained(done.stdout, "nonsense")
    assert "in use" not in done.stdout
