"""What was done so far, and how each of it is undone, in reverse, if something after it fails."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, TypeVar

T = TypeVar("T")

# Called with "#" and what is about to be done, as a shell command that would do the same, or with "!" and
# something worth knowing: wg-quick's marks. What it raises stops the work as any failure does.
Report = Callable[[str, str], None]


def silent(mark: str, text: str) -> None:
    """A Report for programs that do not care."""


class Step(NamedTuple):
    text: str  # empty: it says itself what it does, if it does anything
    call: Callable[[], object]


class Journal:
    """A context: left by an exception, it undoes what was done in it."""

    def __init__(self, report: Report) -> None:
        self.report = report
        self._undo: list[Step] = []

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        if kind is not None:
            self._undo_all()

    def do(self, text: str, call: Callable[[], T], undo: Step | None = None) -> T:
        """Does one step, which does all or nothing if it raises an Exception. An interruption can come when
        it was done and not yet noted: `undo` is noted before, and must not mind having nothing to undo."""
        self.report("#", text)
        if undo is None:
            return call()
        self._undo.append(undo)
        try:
            return call()
        except Exception:
            self._undo.pop()
            raise

    def _undo_all(self) -> None:
        """Nothing, not even a report that cannot be written, keeps the rest from being undone."""
        interruption: BaseException | None = None
        while self._undo:
            step = self._undo[-1]
            try:
                self._undo_step(step)
            except Exception as error:
                with contextlib.suppress(Exception):
                    self.report("!", f"could not be undone: {step.text or 'a step'}: {error}")
            except BaseException as error:
                if interruption is None:
                    interruption = error
                    continue  # that step once more: it does not mind
            self._undo.pop()
        if interruption is not None:
            raise interruption

    def _undo_step(self, step: Step) -> None:
        with contextlib.suppress(Exception):
            if step.text:
                self.report("#", step.text)
        step.call()
