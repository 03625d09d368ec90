"""Time as an argument, so that decisions replay and tests do not wait."""

import time
from typing import Protocol


class Clock(Protocol):
    """Monotonic seconds from an arbitrary start."""

    def now_s(self) -> float:
        """Seconds since an arbitrary, fixed moment; never goes back."""

    def sleep_s(self, duration_s: float) -> None:
        """Let `duration_s` seconds pass."""


class SystemClock:
    """The machine's monotonic clock."""

    def now_s(self) -> float:
        """Seconds since an arbitrary moment at or before start-up."""
        return time.perf_counter()

    def sleep_s(self, duration_s: float) -> None:
        """Block this thread."""
        time.sleep(max(0.0, duration_s))


class ManualClock:
    """A clock that moves only when told."""

    def __init__(self, start_s: float = 0.0) -> None:
        self._now_s = start_s

    def now_s(self) -> float:
        """The moment that was last set."""
        return self._now_s

    def sleep_s(self, duration_s: float) -> None:
        """Move on by `duration_s` at once."""
        self._now_s += max(0.0, duration_s)
