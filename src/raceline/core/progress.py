"""Progress of slow work, told to whoever watches: a terminal, a log, or nobody."""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Step(Protocol):
    """One named piece of work under way."""

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Report `amount` more done out of the step's total; `note` says what is at hand."""


class Progress(Protocol):
    """Where slow functions report."""

    def step(self, name: str, total: float | None = None) -> AbstractContextManager[Step]:
        """Enter a step of `total` units (None: unknown); leave it when the block ends."""


class Silent:
    """Progress that nobody watches; the default everywhere."""

    def step(self, name: str, total: float | None = None) -> AbstractContextManager[Step]:
        """A step that ignores what it is told."""
        return nullcontext(self)

    def advance(self, amount: float = 1.0, note: str = "") -> None:
        """Do nothing."""
