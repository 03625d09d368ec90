"""From a bundle on disk to sessions that run: which engine, how many threads, how large a batch.

The bundle's measured profile decides; settings override it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from raceline import engines
from raceline.core.clock import Clock
from raceline.core.errors import ConfigError
from raceline.ir import Measurement, Model, Profile, Shapes, Signature, make_inputs
from raceline.ir.host import usable_cpus
from raceline.serve.batching import Costs
from raceline.serve.costs import MeasuredCosts
from raceline.serve.sessions import ItemByItem
from raceline.serve.worker import Batch, Request, Runner, Worker

UNMEASURED_ENGINE = "onnxruntime"
UNMEASURED_MAX_BATCH = 32
_NEARLY = 0.95  # of the best throughput: a smaller batch or a lower latency is worth the rest


class OpenBundle(Protocol):
    """What serving needs of a bundle."""

    @property
    def model(self) -> Model:
        """The model to run."""

    @property
    def profile(self) -> Profile | None:
        """What it cost where it was measured; None where it was not."""


@dataclass(frozen=True)
class Settings:
    """How to serve a model; None leaves the choice to the bundle's profile.

    Attributes:
        engine: name of an engine.
        threads: CPU threads of one call.
        workers: calls side by side.
        max_batch: items in one batch.
        max_queue: items that may wait.
        warm_up: run once at batch 1 and at the largest batch before taking requests.
    """

    engine: str | None = None
    threads: int | None = None
    workers: int | None = None
    max_batch: int | None = None
    max_queue: int = 1024
    warm_up: bool = True

    def __post_init__(self) -> None:
        for name in ("threads", "workers", "max_batch", "max_queue"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name} is {value}", "it must be at least 1")


@dataclass(frozen=True)
class Choice:
    """The way a model is run.

    Attributes:
        engine, precision, threads, pinned, workers, max_batch: as served.
        seed_s: items in one call -> its measured seconds, to start the cost model.
        why: one sentence for the log.
    """

    engine: str
    precision: str = "fp32"
    threads: int = 1
    pinned: bool = False
    workers: int = 1
    max_batch: int = 1
    seed_s: Mapping[int, float] = field(default_factory=dict)
    why: str = ""

    def __str__(self) -> str:
        workers = f"{self.workers} worker{'s' if self.workers > 1 else ''}"
        pinned = "pinned " if self.pinned else ""
        threads = f"{self.threads} {pinned}thread{'s' if self.threads > 1 else ''}"
        batches = f"batches up to {self.max_batch}" if self.max_batch > 1 else "one item at a time"
        return f"{self.engine} {self.precision}, {workers} of {threads}, {batches}"


@dataclass(frozen=True)
class Loaded:
    """A model ready to run; `close` frees it.

    Attributes:
        workers: they share the session.
        memory_bytes: what the session added to this process, as its engine reports it.
    """

    signature: Signature
    choice: Choice
    session: engines.Session
    workers: Sequence[Worker]
    costs: Costs
    memory_bytes: int = 0

    def close(self, timeout_s: float = 10.0) -> None:
        """End the workers, then free the session; it is left alone where an engine call hangs on it."""
        if all([worker.close(timeout_s) for worker in self.workers]):
            self.session.close()


@dataclass(frozen=True)
class _Way:
    """A measurement as serving sees it: calls of `items` items, as many side by side as there are workers.

    A measured batch that the candidate cuts into chunks is so many calls; requests need not wait for the
    whole of it.
    """

    row: Measurement
    workers: int

    @property
    def items(self) -> int:
        return self.row.candidate.items_per_call

    @property
    def call_s(self) -> float:
        at_once = self.items * self.row.candidate.streams
        return self.row.latency_s / -(-self.row.candidate.batch // at_once)

    @property
    def items_per_s(self) -> float:
        return self.row.throughput_per_s * self.workers / self.row.candidate.streams


def choose(profile: Profile | None, settings: Settings, *, batched: bool, cores: int) -> Choice:
    """How to run a model.

    Of the measured configurations that fit the cores and the settings, those within 5 % of the best
    throughput are as good; among them the one of lowest latency at its fewest items wins. The largest batch
    is the smallest one that reaches within 5 % of the configuration's best: more would only cost latency.

    Args:
        profile: None where nothing was measured.
        settings: overrides.
        batched: the model has a batch axis; else every batch is one item.
        cores: CPU cores that one model may keep busy.
    """
    families = _families(_fitting(profile, settings, batched=batched, cores=cores))
    if not families:  # threads or workers that were not measured: the engine's choice still stands
        freely = replace(settings, threads=None, workers=None)
        families = _families(_fitting(profile, freely, batched=batched, cores=cores))
    chosen = _best(families) if families else _unmeasured(settings, batched=batched, cores=cores)
    if settings.max_batch is not None and batched:
        chosen = replace(chosen, max_batch=settings.max_batch)
    wanted = replace(
        chosen, threads=settings.threads or chosen.threads, workers=settings.workers or chosen.workers
    )
    as_measured = (wanted.threads, wanted.workers) == (chosen.threads, chosen.workers)
    return replace(wanted, pinned=chosen.pinned and as_measured)


def _fitting(profile: Profile | None, settings: Settings, *, batched: bool, cores: int) -> Iterator[_Way]:
    rows = profile.usable(threads=max(cores, settings.threads or 1)) if profile else []
    for row in rows:
        candidate = row.candidate
        # Calls side by side need no batch axis to serve different requests, only to be measured.
        workers = candidate.streams if batched else max(1, cores // candidate.threads)
        if (
            profile
            and candidate.variant == profile.variant
            and settings.engine in (None, candidate.engine)
            and settings.threads in (None, candidate.threads)
            and settings.workers in (None, workers)
            and (batched or candidate.batch == 1)
            and not (candidate.pinned and workers > 1)
        ):
            yield _Way(row, workers)


def _families(ways: Iterable[_Way]) -> list[list[_Way]]:
    """Ways that differ in the batch only, each list fewest items first."""
    families: dict[object, list[_Way]] = {}
    for way in ways:
        families.setdefault(replace(way.row.candidate, batch=1, chunk=0), []).append(way)
    return [sorted(family, key=lambda way: (way.items, way.call_s)) for family in families.values()]


def _best(families: Sequence[Sequence[_Way]]) -> Choice:
    def peak(family: Sequence[_Way]) -> float:
        return max(way.items_per_s for way in family)

    enough = _NEARLY * max(map(peak, families))
    family = min((f for f in families if peak(f) >= enough), key=lambda f: f[0].call_s)
    largest = next(way for way in family if way.items_per_s >= _NEARLY * peak(family))
    candidate = largest.row.candidate
    return Choice(
        engine=candidate.engine,
        precision=candidate.precision,
        threads=candidate.threads,
        pinned=candidate.pinned,
        workers=largest.workers,
        max_batch=largest.items,
        seed_s={way.items: way.call_s for way in reversed(family)},
        why=f"measured: {largest.items_per_s:.4g} items/s as {candidate}",
    )


def _unmeasured(settings: Settings, *, batched: bool, cores: int) -> Choice:
    return Choice(
        engine=settings.engine or UNMEASURED_ENGINE,
        threads=settings.threads or max(1, cores // (settings.workers or 1)),
        max_batch=UNMEASURED_MAX_BATCH if batched else 1,
        why="not measured in this configuration; defaults",
    )


def cores_here() -> int:
    """Physical cores this process may use, as its affinity and its time quota allow."""
    return len(usable_cpus())


def load(
    folder: Path, settings: Settings, clock: Clock, *, open_bundle: Callable[[Path], OpenBundle]
) -> Loaded:
    """Open a bundle, load its session and start its workers. Blocks until it can answer.

    Args:
        folder: the bundle.
        settings: overrides of what its profile chooses.
        clock: times the runs.
        open_bundle: reads and verifies it.

    Raises:
        RacelineError: the bundle is broken, or its engine is absent or refuses it; nothing stays loaded.
    """
    bundle = open_bundle(folder)
    signature = bundle.model.signature
    batched = signature.batch_axis is not None
    choice = choose(bundle.profile, settings, batched=batched, cores=cores_here())
    shapes = _shapes_at_one(signature, bundle.profile)
    session = open_session(bundle.model, choice, bundle.profile)
    runners = [
        Runner(session, clock, batched=batched, max_batch=choice.max_batch) for _ in range(choice.workers)
    ]
    costs = MeasuredCosts(choice.seed_s)
    if settings.warm_up and shapes is not None:
        _warm_up(runners[0], signature, shapes, choice.max_batch, costs)
    workers = [Worker(runner, f"{folder.name}-{index}") for index, runner in enumerate(runners)]
    return Loaded(signature, choice, session, workers, costs, session.memory_bytes())


def open_session(model: Model, choice: Choice, profile: Profile | None) -> engines.Session:
    """The session that serves a model.

    Batches vary in size, so it keeps its dynamic axes; where none are made, it need not.

    Args:
        model: the bundle's.
        choice: how to run it.
        profile: knows the shapes it was measured with.
    """
    engine = engines.load(choice.engine)
    shapes = _shapes_at_one(model.signature, profile)

    def load(shapes: Shapes) -> engines.Session:
        options = engines.Options(
            choice.threads, choice.precision, shapes, streams=choice.workers, pinned=choice.pinned
        )
        return engine.load(model, options)

    if choice.max_batch == 1 and shapes is not None:
        return ItemByItem(load, shapes, batched=model.signature.batch_axis is not None)
    return load({})


def _warm_up(runner: Runner, signature: Signature, shapes: Shapes, max_batch: int, costs: Costs) -> None:
    """Run the smallest and the largest batch twice: the first call allocates, the second tells its cost.

    A failure is left to the first request to show: generated inputs may be none that make sense.
    """
    for items in sorted({1, max_batch}):
        inputs = make_inputs(signature, engines.batched(signature, shapes, items), seed=0)
        group = tuple(inputs[spec.name].shape[1:] for spec in signature.inputs)
        batch = Batch([Request(inputs, items)], group)
        outcome = [runner.run(batch) for _ in range(2)][-1]
        if outcome.clean:
            costs.observe(items, outcome.run_s)


def _shapes_at_one(signature: Signature, profile: Profile | None) -> Shapes | None:
    """The inputs' shapes at batch 1, as they were measured; None where nothing tells the other axes."""
    if profile is not None and set(profile.shapes) == {spec.name for spec in signature.inputs}:
        return profile.shapes
    if set(signature.dynamic_axes) <= {signature.batch_axis}:
        return signature.concrete({axis: 1 for axis in signature.dynamic_axes})
    return None
