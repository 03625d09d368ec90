"""The measured profile: what a model cost on a platform, for every configuration that was tried."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from raceline.core.errors import BadModelError, ConfigError
from raceline.core.records import from_json

FULL = "fp32"
"""The precision that needs no accuracy budget."""

WEIGHTS_ONLY = ("int8-weights", "int4-weights")
"""Precisions of graphs whose weights are stored in few bits while nothing else is quantised. An engine that has
kernels for such weights may round what they multiply as these want it, within the accuracy budget."""

_WORTH_IT = 0.98
"""Fewer bits or pinned threads must take at most this share of the time: within it, a race cannot tell who is
faster, and both have a price that no race shows."""

_MOST_SHOWN = 32  # characters of a value's name


@dataclass(frozen=True, order=True)
class Candidate:
    """One way to run a model.

    Attributes:
        engine: name of a file in engines/, or the recipe of a pair of them, FIRST>SECOND@VALUE.
        precision: arithmetic of the heavy operators: "fp32", "int8" where the graph says so (QDQ), "bf16" where
            the engine rounds by itself; or "int8-weights" and "int4-weights", where only weights have few bits.
        threads: CPU threads the engine may use for one call.
        batch: items in one call.
        streams: calls that run side by side, each with `threads` threads, each with batch / streams items.
        variant: which graph it runs: "source" (as read), "optimised" (after the passes), or a quantised one,
            such as "int8-openvino".
        chunk: items the engine takes at once; 0 means all that a stream has. Few items stay in the caches.
        optimise: whether the engine's own graph optimisation is on; off only to measure what it brings.
        pinned: whether each thread is kept on a physical core of its own.
    """

    engine: str
    precision: str = "fp32"
    threads: int = 1
    batch: int = 1
    streams: int = 1
    variant: str = "optimised"
    chunk: int = 0
    optimise: bool = True
    pinned: bool = False

    def __post_init__(self) -> None:
        if min(self.threads, self.batch, self.streams) < 1 or self.chunk < 0:
            raise ConfigError(f"{self} is no way to run a model", "threads, batch and streams start at 1")
        if self.pinned and (self.threads == 1 or self.streams > 1):
            raise ConfigError(f"{self} is no way to run a model", "only the threads of one call are pinned")

    @property
    def cores(self) -> int:
        """CPU cores it keeps busy."""
        return self.threads * self.streams

    @property
    def items_per_call(self) -> int:
        """Items in one call of the engine."""
        return self.chunk or -(-self.batch // self.streams)

    def __str__(self) -> str:
        engine = _shown(self.engine) + ("" if self.optimise else " unoptimised")
        streams = f" x{self.streams}" if self.streams > 1 else ""
        chunk = f" by {self.chunk}" if self.chunk else ""
        pinned = " pinned" if self.pinned else ""
        return (
            f"{engine} {self.precision} {self.variant} t{self.threads}{pinned}{streams} b{self.batch}{chunk}"
        )


def _shown(engine: str) -> str:
    """An engine's name as it is told: of a long value in a recipe only the end, which tells most."""
    pair, at, value = engine.partition("@")
    return engine if len(value) <= _MOST_SHOWN else f"{pair}{at}...{value[-_MOST_SHOWN:]}"


@dataclass(frozen=True)
class Accuracy:
    """What computing with fewer bits costs in accuracy.

    Attributes:
        metric: what was counted, such as "top1"; more is better.
        full: the score of the model with all its bits.
        quantised: the score with fewer.
        items: on how many items, none of which ranges were taken from where there were enough.
        origin: where these came from.
        labelled: whether true answers were known.
    """

    metric: str
    full: float
    quantised: float
    items: int
    origin: str
    labelled: bool = False

    def __post_init__(self) -> None:
        if self.items < 1:
            raise ConfigError(f"an accuracy on {self.items} items means nothing")

    @property
    def drop(self) -> float:
        """What was lost; below zero where something was gained."""
        return self.full - self.quantised

    def __str__(self) -> str:
        what = "" if self.labelled or self.metric == "fidelity" else " (agreement with the unquantised model)"
        return f"{self.metric}{what} {self.full:.4f} -> {self.quantised:.4f} on {self.items} items ({self.origin})"


UNTRIED = "not tried"
"""Begins the failure of a candidate that there was no time for."""


@dataclass(frozen=True)
class Measurement:
    """What one candidate cost.

    Attributes:
        latency_s: median seconds of one call of `candidate.batch` items.
        latency_p99_s: 99th percentile of the same calls.
        memory_bytes: resident memory the loaded engine added, weights and buffers included.
        clock_hz: the CPU's clock while measuring, where it can be read.
        energy_j: energy of one call, where it can be measured.
        runs: number of timed calls.
        failure: why it could not run; the figures are then zero.
        accuracy: of a candidate with fewer bits: what its answers are worth.
    """

    candidate: Candidate
    latency_s: float = 0.0
    latency_p99_s: float = 0.0
    memory_bytes: int = 0
    clock_hz: float | None = None
    energy_j: float | None = None
    runs: int = 0
    failure: str = ""
    accuracy: Accuracy | None = None

    def __post_init__(self) -> None:
        if min(self.latency_s, self.latency_p99_s, self.memory_bytes, self.runs) < 0:
            raise ConfigError(f"the measurement of {self.candidate} has a negative figure")
        if not self.failure and not self.latency_s:
            raise ConfigError(f"the measurement of {self.candidate} has no latency and no failure")

    @property
    def untried(self) -> bool:
        """Whether there was no time to try it: that is no failure of its own."""
        return self.failure.startswith(UNTRIED)

    @property
    def throughput_per_s(self) -> float:
        """Items per second, calls back to back."""
        return self.candidate.batch / self.latency_s if self.latency_s else 0.0


@dataclass(frozen=True)
class Profile:
    """All measurements of one model on one platform.

    Attributes:
        platform: the PlatformProfile's key.
        model_sha256: digest of the model that was measured.
        shapes: the inputs' shapes at batch 1.
        variant: which candidates ran the graph of `model_sha256`, the one that a bundle carries.
    """

    platform: str
    model_sha256: str
    shapes: dict[str, tuple[int, ...]]
    measurements: tuple[Measurement, ...] = field(default=())
    variant: str = "optimised"

    def usable(self, *, threads: int | None = None, batch: int | None = None) -> list[Measurement]:
        """The measurements that may be chosen, fastest first; `threads` bounds threads x streams from above.

        `batch` keeps that batch alone. Left out are those that failed, and those of fewer bits or pinned threads
        that are not clearly faster than others without on as many cores.
        """
        ran = [m for m in self.measurements if not m.failure]
        rows: Iterable[Measurement] = (m for m in ran if _is_worth_it(m, ran))
        if threads is not None:
            rows = (m for m in rows if m.candidate.cores <= threads)
        if batch is not None:
            rows = (m for m in rows if m.candidate.batch == batch)
        return sorted(rows, key=lambda m: m.latency_s / m.candidate.batch)

    def best(self, *, threads: int | None = None, batch: int | None = None) -> Measurement:
        """The fastest measurement per item under those bounds.

        Raises:
            BadModelError: nothing ran; the message carries every candidate's failure.
        """
        rows = self.usable(threads=threads, batch=batch)
        if not rows:
            failures = dict.fromkeys(f"{m.candidate}: {m.failure}" for m in self.measurements if m.failure)
            raise BadModelError(
                "no engine could run this model", "; ".join(failures) or "nothing was measured"
            )
        return rows[0]

    def without(self, engine: str, variant: str, why: str, *, precision: str = "") -> "Profile":
        """The same, with an engine's measurements on a graph made failures: it computes the wrong thing there.

        `precision` makes only those of that precision fail.
        """
        rows = tuple(
            Measurement(row.candidate, failure=why, accuracy=row.accuracy)
            if (row.candidate.engine, row.candidate.variant) == (engine, variant)
            and precision in {"", row.candidate.precision}
            and not row.failure
            else row
            for row in self.measurements
        )
        return replace(self, measurements=rows)

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values; `pinned`, which readers of before do not know, only where it is true."""
        data = asdict(self)
        for row in data["measurements"]:
            if not row["candidate"]["pinned"]:
                del row["candidate"]["pinned"]
        return data

    @classmethod
    def from_json(cls, data: object) -> "Profile":
        """The profile of `to_json`.

        Raises:
            ConfigError: a field is missing, unknown or wrong; the message names it.
        """
        return from_json(cls, data)


def _is_worth_it(row: Measurement, ran: Iterable[Measurement]) -> bool:
    """Whether a candidate gives nothing up, or is clearly faster than all that give up less on as many cores."""
    mine = row.candidate
    if not _given_up(mine):
        return True
    rivals = (
        other.latency_s
        for other in ran
        if _given_up(other.candidate) < _given_up(mine)
        and other.candidate.batch == mine.batch
        and other.candidate.cores <= mine.cores
    )
    return row.latency_s <= _WORTH_IT * min(rivals, default=float("inf"))


def _given_up(candidate: Candidate) -> int:
    """How much of what costs nothing to keep: bits, and the scheduler's freedom to move threads."""
    return (candidate.precision != FULL) + candidate.pinned
