"""Prints the rates after pytest-benchmark's own table."""

from __future__ import annotations

import pytest
from rates import closing


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not closing:
        return
    terminalreporter.section("rates (median; of all threads, and per core)")
    width = max(len(name) for name, _, _, _ in closing)
    for name, each, gbits, threads in closing:
        line = f"{name:{width}} {each / 1e6:9.3f} M/s {each / threads / 1e6:9.3f} M/s/core"
        if gbits:
            line += f" {gbits:8.3f} Gbit/s {gbits / threads:8.3f} Gbit/s/core"
        terminalreporter.write_line(line)
