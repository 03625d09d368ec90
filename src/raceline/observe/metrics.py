"""Counters, gauges and histograms whose recording costs an append; Prometheus reads them when it scrapes.

A recording goes to the end of a queue of its series and nothing else happens: no lock, no sum, no bucket. The
queue is folded into totals when somebody scrapes, or a few entries at a time once it is long, so memory stays
bounded however long nobody asks. Counts are exact with any number of threads.

Each process counts for itself; a forked child begins at zero.
"""

import math
import os
import re
import threading
import weakref
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import ConfigError

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

UNITS = ("seconds", "bytes", "ratio", "items", "joules", "hertz")
"""How a histogram's name may end: the base unit of what it measures."""

LATENCY_BUCKETS_S = tuple(round(m * 10.0**e, 10) for e in range(-5, 2) for m in (1, 2, 5))
"""10 µs to 50 s, three to a decade."""

MAX_PENDING = 4096  # recordings of one series that may wait for a scrape
_CHUNK = 64  # folded at a time beyond that, so that no recording waits long
MAX_SERIES = 1000  # label sets of one metric; the rest are counted under OTHER, as hostile names would be
OTHER = "_other_"


class _Series(ABC):
    """One label set's recordings: those folded, and those that wait."""

    __slots__ = ("__weakref__", "_lock", "_pending")

    def __init__(self) -> None:
        self._pending: deque[Any] = deque()
        self._lock = threading.Lock()

    def _make_room(self) -> None:
        """Fold a few entries. Skipped while another thread folds; waits briefly where that is not enough.

        Never waits without end: a finaliser may record while its own thread folds.
        """
        if len(self._pending) < 16 * MAX_PENDING:
            held = self._lock.acquire(blocking=False)
        else:
            held = self._lock.acquire(timeout=0.05)
        if held:
            try:
                self._fold_some(_CHUNK)
            finally:
                self._lock.release()

    def read(self) -> Any:
        """What the series stands at, with all that waits at this moment; consistent in itself."""
        with self._lock:
            self._fold_some(len(self._pending))
            return self._state()

    def _fold_some(self, count: int) -> None:
        next_one = self._pending.popleft
        self._take([next_one() for _ in range(min(count, len(self._pending)))])

    @abstractmethod
    def _take(self, batch: list[Any]) -> None:
        """Fold recordings, the oldest first."""

    @abstractmethod
    def _state(self) -> Any:
        """What the recordings folded so far come to."""

    def restart(self) -> None:
        """Forget everything, and any lock that a thread lost in a fork may hold."""
        self._pending = deque()
        self._lock = threading.Lock()


class CounterSeries(_Series):
    """A counter with its labels chosen."""

    __slots__ = ("_value",)

    def __init__(self) -> None:
        super().__init__()
        self._value = 0.0

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more.

        Raises:
            ConfigError: the amount is negative or not a number.
        """
        if not amount >= 0:
            raise ConfigError(f"a counter cannot go up by {amount}")
        self._pending.append(float(amount))
        if len(self._pending) > MAX_PENDING:
            self._make_room()

    def _take(self, batch: list[float]) -> None:
        self._value += sum(batch)

    def _state(self) -> float:
        return self._value

    def restart(self) -> None:
        """Begin again at zero."""
        super().restart()
        self._value = 0.0


class GaugeSeries(_Series):
    """A gauge with its labels chosen."""

    __slots__ = ("_source", "_value")

    def __init__(self) -> None:
        super().__init__()
        self._value = 0.0
        self._source: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        """Be `value`."""
        self._pending.append((float(value),))
        if len(self._pending) > MAX_PENDING:
            self._make_room()

    def add(self, amount: float) -> None:
        """Go up by `amount`, or down where it is negative."""
        self._pending.append(float(amount))
        if len(self._pending) > MAX_PENDING:
            self._make_room()

    def watch(self, source: Callable[[], float]) -> None:
        """Be whatever `source()` says at each scrape; NaN where it raises. It must be quick."""
        self._source = source

    def read(self) -> float:
        """What the gauge stands at."""
        value: float = super().read()
        if self._source is None:
            return value
        try:
            return float(self._source())
        except Exception:  # noqa: BLE001 - a scrape must not fail because one source does
            return math.nan

    def _take(self, batch: list[tuple[float] | float]) -> None:
        for entry in batch:
            self._value = entry[0] if isinstance(entry, tuple) else self._value + entry

    def _state(self) -> float:
        return self._value

    def restart(self) -> None:
        """Begin again at zero."""
        super().restart()
        self._value = 0.0


class HistogramSeries(_Series):
    """A histogram with its labels chosen."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        super().__init__()
        self._bounds = bounds
        self._counts = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        """Record one value.

        Raises:
            ConfigError: it is not a number.
        """
        value = float(value)
        if value != value:
            raise ConfigError("a histogram cannot take a value that is not a number")
        self._pending.append(value)
        if len(self._pending) > MAX_PENDING:
            self._make_room()

    @contextmanager
    def time(self, clock: Clock | None = None) -> Iterator[None]:
        """Record the seconds the block takes, whether or not it raises."""
        clock = clock or SystemClock()
        start_s = clock.now_s()
        try:
            yield
        finally:
            self.observe(clock.now_s() - start_s)

    def _take(self, batch: list[float]) -> None:
        bounds, counts = self._bounds, self._counts
        for value in batch:
            counts[bisect_left(bounds, value)] += 1
        self._sum += sum(batch)

    def _state(self) -> tuple[list[tuple[str, int]], float]:
        """(upper bound, values at or below it) as Prometheus has it, and the sum of all values."""
        bounds = [*map(repr, self._bounds), "+Inf"]
        return list(zip(bounds, accumulate(self._counts), strict=True)), self._sum

    def restart(self) -> None:
        """Begin again at zero."""
        super().restart()
        self._counts = [0] * (len(self._bounds) + 1)
        self._sum = 0.0


S = TypeVar("S", bound=_Series)


class _Metric(ABC, Generic[S]):
    """A name, its help, and one series for each label set."""

    def __init__(
        self, name: str, description: str, labels: Sequence[str], registry: "Registry | None"
    ) -> None:
        _check_name(name, labels)
        self.name, self.description, self.label_names = name, description, tuple(labels)
        self._series: dict[tuple[str, ...], S] = {}
        self._lock = threading.Lock()
        self._single = None if labels else self._add_series(())
        (REGISTRY if registry is None else registry).add(self)

    def labels(self, **values: str) -> S:
        """The series of that label set. Keep it where it is used often: finding it costs more than recording.

        Raises:
            ConfigError: the labels are not exactly those that were declared, or not text.
        """
        try:
            key = tuple([values[name] for name in self.label_names])
        except KeyError:
            key = ()
        if len(values) != len(self.label_names) or len(key) != len(values):
            raise ConfigError(
                f"{self.name} has the labels {', '.join(self.label_names) or 'none'}",
                f"it was given {', '.join(values) or 'none'}",
            )
        return self._series.get(key) or self._add_series(key)

    def _add_series(self, key: tuple[str, ...]) -> S:
        for value in key:
            if not isinstance(value, str):
                raise ConfigError(f"a label of {self.name} is {value!r}", "labels are text")
        with self._lock:
            if len(self._series) >= MAX_SERIES:
                key = (OTHER,) * len(key)
            if key not in self._series:
                self._series[key] = self._new_series()
            return self._series[key]

    def _only(self) -> S:
        """The one series of a metric without labels."""
        return self._single or self.labels()

    def _rows(self) -> list[tuple[tuple[str, ...], Any]]:
        """Every label set with what its series stands at."""
        with self._lock:
            series = list(self._series.items())
        return [(key, one.read()) for key, one in series]

    def restart(self) -> None:
        """Begin again at zero, in a forked child."""
        self._lock = threading.Lock()
        for series in self._series.values():
            series.restart()

    @abstractmethod
    def _new_series(self) -> S:
        """An empty series."""

    @abstractmethod
    def family(self) -> "Family":
        """The metric as Prometheus's library takes it."""


class Counter(_Metric[CounterSeries]):
    """Something that only goes up. The name ends in `_total`.

    Args:
        name: for example `raceline_serve_requests_total`.
        description: one line for the people who read the scrape.
        labels: names of its labels; few values each.
        registry: where it is scraped; by default with everything else in this process.

    Raises:
        ConfigError: the name or a label breaks Prometheus's rules, or the name is taken.
    """

    def __init__(
        self, name: str, description: str, labels: Sequence[str] = (), registry: "Registry | None" = None
    ) -> None:
        if not name.endswith("_total"):
            raise ConfigError(f"the counter {name} must end in _total")
        super().__init__(name, description, labels, registry)

    def add(self, amount: float = 1.0) -> None:
        """Count `amount` more; for a counter without labels."""
        self._only().add(amount)

    def _new_series(self) -> CounterSeries:
        return CounterSeries()

    def family(self) -> "Family":
        """The metric as Prometheus's library takes it."""
        from prometheus_client.core import CounterMetricFamily

        family = CounterMetricFamily(self.name, self.description, labels=self.label_names)
        for key, value in self._rows():
            family.add_metric(key, value)
        return family


class Gauge(_Metric[GaugeSeries]):
    """Something that goes up and down. The name ends in its unit or in what it counts, never in `_total`.

    Args and errors are those of Counter.
    """

    def __init__(
        self, name: str, description: str, labels: Sequence[str] = (), registry: "Registry | None" = None
    ) -> None:
        if name.endswith("_total"):
            raise ConfigError(f"the gauge {name} must not end in _total", "that is for counters")
        super().__init__(name, description, labels, registry)

    def set(self, value: float) -> None:
        """Be `value`; for a gauge without labels."""
        self._only().set(value)

    def add(self, amount: float) -> None:
        """Go up by `amount`, or down where it is negative; for a gauge without labels."""
        self._only().add(amount)

    def watch(self, source: Callable[[], float]) -> None:
        """Be whatever `source()` says at each scrape; for a gauge without labels."""
        self._only().watch(source)

    def _new_series(self) -> GaugeSeries:
        return GaugeSeries()

    def family(self) -> "Family":
        """The metric as Prometheus's library takes it."""
        from prometheus_client.core import GaugeMetricFamily

        family = GaugeMetricFamily(self.name, self.description, labels=self.label_names)
        for key, value in self._rows():
            family.add_metric(key, value)
        return family


class Histogram(_Metric[HistogramSeries]):
    """How a quantity is spread. The name ends in its base unit: `_seconds`, `_bytes`, `_ratio`, `_items`, ...

    Args:
        name: for example `raceline_serve_latency_seconds`.
        description: one line for the people who read the scrape.
        labels: names of its labels; few values each.
        buckets: upper bounds, rising; one for infinity is added.
        registry: where it is scraped; by default with everything else in this process.

    Raises:
        ConfigError: as for Counter, or the buckets do not rise.
    """

    def __init__(
        self,
        name: str,
        description: str,
        labels: Sequence[str] = (),
        buckets: Sequence[float] = LATENCY_BUCKETS_S,
        registry: "Registry | None" = None,
    ) -> None:
        if not name.endswith(tuple(f"_{unit}" for unit in UNITS)):
            raise ConfigError(f"the histogram {name} must end in its unit", f"one of {', '.join(UNITS)}")
        bounds = [float(bound) for bound in buckets]
        if not bounds or bounds != sorted(set(bounds)) or not all(map(math.isfinite, bounds)):
            raise ConfigError(f"the buckets of {name} must be finite and rise", f"they are {list(buckets)}")
        self._bounds = bounds
        super().__init__(name, description, labels, registry)

    def observe(self, value: float) -> None:
        """Record one value; for a histogram without labels."""
        self._only().observe(value)

    def _new_series(self) -> HistogramSeries:
        return HistogramSeries(self._bounds)

    def family(self) -> "Family":
        """The metric as Prometheus's library takes it."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(self.name, self.description, labels=self.label_names)
        for key, (buckets, total) in self._rows():
            family.add_metric(key, buckets, total)
        return family


class Registry:
    """The metrics that are scraped together; a collector for Prometheus's library."""

    def __init__(self) -> None:
        self._metrics: dict[str, _Metric[Any]] = {}
        self._lock = threading.Lock()
        _registries.add(self)

    def add(self, metric: _Metric[Any]) -> None:
        """Take a metric in.

        Raises:
            ConfigError: its name is taken.
        """
        with self._lock:
            if metric.name in self._metrics:
                raise ConfigError(f"there is a metric named {metric.name} already")
            self._metrics[metric.name] = metric

    def collect(self) -> Iterator["Family"]:
        """Every metric, up to date."""
        with self._lock:
            metrics = list(self._metrics.values())
        for metric in metrics:
            yield metric.family()

    def restart(self) -> None:
        """Begin again at zero, in a forked child."""
        self._lock = threading.Lock()
        for metric in self._metrics.values():
            metric.restart()


_registries: "weakref.WeakSet[Registry]" = weakref.WeakSet()
REGISTRY = Registry()


def _restart_all() -> None:
    for registry in list(_registries):
        registry.restart()


os.register_at_fork(after_in_child=_restart_all)

_RESERVED = {"le", "quantile"}


def _check_name(name: str, labels: Sequence[str]) -> None:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConfigError(f"{name!r} cannot name a metric", "letters, digits and underscores, in lower case")
    for label in labels:
        if not re.fullmatch(r"[a-z][a-z0-9_]*", label) or label in _RESERVED:
            raise ConfigError(f"{label!r} cannot name a label of {name}")
    if len(set(labels)) != len(labels):
        raise ConfigError(f"a label of {name} is there twice", ", ".join(labels))
