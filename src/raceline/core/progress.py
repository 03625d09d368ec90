"""Progress of slow work, told to whoever watches: a terminal, a log, or nobody."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Step(Protocol):
    """One named piece of work under way."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Report `amount` more done out of the step's total; `note` says what is at hand."""


class Progress(Protocol):
    """Where slow functions report."""

    def step(self, name: str, total: float | None = None) -> "ProgressContext":
        """Enter a step of `total` units (None: unknown); leave it when the block ends."""


class ProgressContext(Protocol):
    """The `with` block of a step."""

    def __enter__(self) -> Step:
        """Begin the step."""

    def __exit__(self, *exc: object) -> bool | None:
        """End the step, well or not."""


class Silent:
    """Progress that nobody watches; the default everywhere."""

    @contextmanager
    def step(self, name: str, total: float | None = None) -> Iterator[Step]:
        """Yield a step that ignores what it is told."""
        yield self

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Do nothing."""
