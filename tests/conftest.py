"""Fixtures shared by the tests. Its place puts tests/ on sys.path, so `lab` can be imported."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lab.programs import require_lab
from lab.topology import Lab


@pytest.fixture
def lab() -> Iterator[Lab]:
    require_lab()
    laboratory = Lab()
    try:
        yield laboratory
    finally:
        laboratory.close()
