"""What examples/ shows of the library runs as it stands; the topologies have tests of their own."""

import subprocess
import sys
from pathlib import Path

PROGRAM = Path(__file__).parent.parent / "examples" / "hello.py"


def test_hello():
    done = subprocess.run([sys.executable, PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert "hello, bob" in done.stdout
