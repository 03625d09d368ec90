"""What a model has done since it was loaded, counted as the protocol's ModelStatistics wants it."""

from dataclasses import dataclass, field

from raceline.serve.worker import Outcome


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float, count: int = 1) -> None:
        """Count `count` times `duration_s` seconds."""
        self.count += count
        self.total_s += count * duration_s


@dataclass(slots=True)
class Computed:
    """The three parts of running: copying rows in, the engine, cutting the answers apart."""

    gather: Duration = field(default_factory=Duration)
    run: Duration = field(default_factory=Duration)
    scatter: Duration = field(default_factory=Duration)

    def add(self, outcome: Outcome, count: int) -> None:
        """Count one batch's times for each of `count` requests (or once, for the batch itself)."""
        self.gather.add(outcome.gather_s, count)
        self.run.add(outcome.run_s, count)
        self.scatter.add(outcome.scatter_s, count)


@dataclass(slots=True)
class Statistics:
    """Totals of one model.

    Attributes:
        success: whole requests that were answered, from arrival to answer.
        fail: whole requests that were refused or failed.
        queue: from arrival to the start of the batch, of the requests that ran.
        requests: the parts of running; each request of a batch counts the batch's whole time.
        batches: the same by batch size, each batch once.
        items: rows inferred.
        executions: batches run.
        last_unix_ms: wall-clock moment of the last inference; 0 before the first.
    """

    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    requests: Computed = field(default_factory=Computed)
    batches: dict[int, Computed] = field(default_factory=dict)
    items: int = 0
    executions: int = 0
    last_unix_ms: int = 0

    def ran(self, outcome: Outcome, items: int, unix_ms: int) -> None:
        """Count a batch that ran without failure."""
        self.items += items
        self.executions += 1
        self.last_unix_ms = unix_ms
        self.requests.add(outcome, len(outcome.answers))
        self.batches.setdefault(items, Computed()).add(outcome, 1)
