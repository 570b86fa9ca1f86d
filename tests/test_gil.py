"""Traffic goes on while Python cannot run: the packet path needs no GIL.

How fast it goes on is measured by bench/gil.py; here it is only shown that it does.
"""

import ctypes
import importlib.util
import itertools
import time
from pathlib import Path

HOLD = 2.0  # seconds

spec = importlib.util.spec_from_file_location("bench_gil", Path(__file__).parent.parent / "bench" / "gil.py")
gil = importlib.util.module_from_spec(spec)
spec.loader.exec_module(gil)


def test_packets_pass_while_a_c_call_holds_the_gil():
    with gil.Tunnel() as tunnel:
        begin = time.monotonic()
        ctypes.PyDLL(None).usleep(int(HOLD * 1e6))
        end = time.monotonic()
        assert end - begin >= HOLD
        tunnel.rate(begin, end)  # waits for the pump's last line
        counts = [count for at, count in tunnel.counts if begin <= at <= end]
    # A line each tenth of a second, and in each tenth packets arrived.
    assert len(counts) > HOLD * 10 / 4
    assert all(later > earlier for earlier, later in itertools.pairwise(counts))


def test_packets_pass_while_a_thread_runs_python():
    with gil.Tunnel() as tunnel, gil.busy_thread():
        begin = time.monotonic()
        time.sleep(1)
        assert tunnel.rate(begin, time.monotonic()) > 0
