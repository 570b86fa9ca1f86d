"""What the kernels leave on the stack, in the extension as users have it: tests/core/test_aead_stack.c alone
scans the kernels as the C tests are compiled, and other options of the compiler spill other registers."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from wgfast import _core

ROOT = Path(__file__).parent.parent
KERNELS = [name for name, usable, _ in _core.aead_kernels() if usable]

pytestmark = pytest.mark.skipif(not shutil.which("gcc"), reason="missing: gcc, to build the scanner")


@pytest.fixture(scope="module")
def scanner(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    built = tmp_path_factory.mktemp("scanner") / "scanner.so"
    source = ROOT / "tests" / "core" / "test_aead_stack.c"
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O2", "-shared", "-fPIC", "-DWGF_STACK_LIBRARY"]
    subprocess.run(
        ["gcc", *flags, "-iquote", ROOT / "wgfast" / "core", source, "-o", built], check=True, timeout=120
    )
    library = ctypes.CDLL(str(built))
    library.scan_kernel.restype = ctypes.c_size_t
    return library


@pytest.mark.parametrize("name", KERNELS)
def test_nothing_that_follows_the_keys_is_left(
    scanner: ctypes.CDLL, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    find = ctypes.CDLL(_core.__file__).wgf_aead_find
    find.restype = ctypes.c_void_p
    words = scanner.scan_kernel(ctypes.c_void_p(find(name.encode())))
    assert words == 0, capfd.readouterr().out
