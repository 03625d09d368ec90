"""What a model has done since it was loaded, counted as the protocol's ModelStatistics wants it."""

from dataclasses import dataclass, field

from raceline.serve.worker import Outcome


@dataclass(slots=True)
class Duration:
    """How often something happened and how long it took in all."""

    count: int = 0
    total_s: float = 0.0

    def add(self, duration_s: float) -> None:
        """Count one more, of that many seconds."""
        self.count += 1
        self.total_s += duration_s


@dataclass(slots=True)
class Computed:
    """The three parts of running, summed: copying rows in, the engine, cutting the answers apart."""

    count: int = 0
    gather_s: float = 0.0
    run_s: float = 0.0
    scatter_s: float = 0.0

    def add(self, outcome: Outcome, count: int) -> None:
        """Count a batch's times `count` times."""
        self.count += count
        self.gather_s += count * outcome.gather_s
        self.run_s += count * outcome.run_s
        self.scatter_s += count * outcome.scatter_s


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
        by_size = self.batches.get(items)
        if by_size is None:
            by_size = self.batches[items] = Computed()
        by_size.add(outcome, 1)
