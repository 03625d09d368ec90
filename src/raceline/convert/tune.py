"""Find the fastest way to run a model on this machine, by measuring, and keep all that was measured."""

import hashlib
import json
import logging
import math
import random
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass

from raceline import __version__, engines
from raceline.convert.heat import Graph, Heat
from raceline.convert.measure import Bench
from raceline.convert.precision import Admission, Reduced, Way
from raceline.convert.truth import Truth
from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError
from raceline.core.paths import recall, store
from raceline.core.progress import Progress, Silent
from raceline.ir import (
    FULL,
    Candidate,
    Measurement,
    Model,
    PlatformProfile,
    Profile,
    Shapes,
    structural_sha256,
)
from raceline.ir.probe import describe

_logger = logging.getLogger(__name__)

METHOD = 3
"""Version of the way of measuring; profiles of another one are not taken from the cache."""

_FALLBACK = "patchwork"  # for models that no engine takes whole
_NOT_COMPETING = frozenset({"reference", _FALLBACK})  # exact, and hundreds of times too slow; see above

OpenBench = Callable[[Mapping[str, Model], Shapes], Bench]


def tune(
    source: Model,
    model: Model,
    platform: PlatformProfile,
    *,
    shapes: Shapes,
    batches: Sequence[int] = (1, 8),
    threads: Sequence[int] | None = None,
    engine_names: Sequence[str] = (),
    reduced: Reduced | None = None,
    budget_s: float = 30.0,
    progress: Progress | None = None,
    cache: bool = True,
    clock: Clock | None = None,
    open_bench: OpenBench | None = None,
    seed: int = 0,
) -> Profile:
    """Measure candidates and return the profile; its `best` is the choice.

    The `best` is of fewer bits only where that is clearly faster and within the accuracy budget.

    Candidates are all installed engines, on the graph as read and on the optimised one, with each number of
    threads; and of the promising ones also batches cut into chunks, run one after another or on several
    streams. Those whose outputs differ from the reference are marked as failures, as are those that crash,
    hang or refuse the model. Where all do, ONNX Runtime patched up with the reference gets its turn.

    Args:
        source: the model as it was read; also the reference that outputs are held against.
        model: the same, optimised.
        platform: this machine; part of the cache's key.
        shapes: the inputs' shapes at batch 1.
        batches: items in a call; those over 1 need a proven batch axis and are left out where there is none.
        threads: how many threads may be used in all; None: 1 and all cores.
        engine_names: the engines that compete; empty: those that suit the platform and are installed.
        reduced: ways of computing with fewer bits that compete too, of those engines; held against their
            accuracy budget and not against the reference.
        budget_s: how long timing may take; each candidate is timed at least once, whatever that takes.
        progress: told of each round.
        cache: look for an earlier profile of the same models, inputs, machine and engines, and keep this one,
            unless memory or time was short for a candidate that may do better on another day.
        clock: for the budget.
        open_bench: where candidates are measured; None: on this machine, which must be the platform.
        seed: of inputs and of the order within rounds.

    Raises:
        UnknownNameError, MissingDependencyError: an engine named is not there.
        BadModelError: no engine runs the model rightly; every reason is in the message.
        ConfigError: a batch or number of threads is below 1, or there is none; or the platform is another
            machine, of which nothing can be measured here.
    """
    if open_bench is None:
        _refuse_elsewhere(platform)
        open_bench = Bench
    plan = _plan(source, platform, batches, threads, engine_names)
    reduced = reduced or Reduced()
    key = _cache_key(source, model, platform, shapes, plan, budget_s, reduced)
    known = _recalled(key) if cache else None
    if known is not None:
        return known
    watch = Silent() if progress is None else progress
    variants = {"source": source, "optimised": model}
    if structural_sha256(source) == structural_sha256(model):
        del variants["source"]  # the same graph: measure it once
    ways = reduced.ways
    graphs = variants | {way.variant: way.model for way in ways if way.variant not in variants}
    admission = None if reduced.judge is None else Admission(reduced.judge)
    truth = Truth(source, shapes, seed)
    rows: list[Measurement] = []
    hindered: set[Candidate] = set()
    condemned: dict[Graph, str] = {}
    shares = _shares(plan.batches, budget_s)
    with open_bench(graphs, shapes) as bench:
        for contestants in (plan.engines, {} if engine_names else {_FALLBACK: ""}):
            if any(not row.failure for row in rows):
                break
            for batch in plan.batches:
                heat = Heat(bench, truth, clock or SystemClock(), random.Random(seed), condemned, admission)
                with watch.step(f"tune batch {batch}", total=shares[batch]) as step:
                    founders = _founders(variants, contestants, plan.threads, batch, ways)
                    heat.run(founders, plan.threads, shares[batch], step)
                rows += heat.measurements()
                hindered |= heat.hindered
    at_one = {name: tuple(shape) for name, shape in shapes.items()}
    profile = Profile(platform.key, structural_sha256(model), at_one, tuple(rows))
    for (engine, variant), why in condemned.items():
        profile = profile.without(engine, variant, why)
    profile.best()  # raises where nothing runs: such a profile is not worth keeping
    if hindered:
        _logger.info("not kept in the cache: %s", ", ".join(f"{c} was hindered" for c in sorted(hindered)))
    elif cache:
        store(key, json.dumps({"method": METHOD, "profile": profile.to_json()}))
    return profile


def _refuse_elsewhere(platform: PlatformProfile) -> None:
    here = describe()
    if platform.key != here.key:
        raise ConfigError(
            f"{platform.name} cannot be measured here",
            f"this machine is {here.name}",
            "Tune on that machine, or for this one with platform_profile=None.",
        )


@dataclass(frozen=True)
class _Plan:
    """What to try."""

    batches: tuple[int, ...]
    threads: tuple[int, ...]
    engines: dict[str, str]  # name -> version


def _plan(
    source: Model,
    platform: PlatformProfile,
    batches: Sequence[int],
    threads: Sequence[int] | None,
    engine_names: Sequence[str],
) -> _Plan:
    wanted = sorted(set(batches))
    counts = sorted(set(threads or (1, platform.cores)))
    if not wanted or not counts or wanted[0] < 1 or counts[0] < 1:
        raise ConfigError(f"cannot tune for batches {wanted} and threads {counts}", "all must be at least 1")
    if source.signature.batch_axis is None:
        wanted = [batch for batch in wanted if batch == 1] or [1]
    named = {name: engines.load(name).version() for name in engine_names}
    return _Plan(tuple(wanted), tuple(counts), named or _installed(platform))


def _installed(platform: PlatformProfile) -> dict[str, str]:
    """The engines that can compete, with their versions: of those that suit the platform, where it says so."""
    suitable = {choice.engine for choice in platform.engines} or set(engines.names())
    found = {}
    for name in sorted(suitable & set(engines.names()) - _NOT_COMPETING):
        with suppress(MissingDependencyError):
            found[name] = engines.load(name).version()
    return found


def _shares(batches: Sequence[int], budget_s: float) -> dict[int, float]:
    """Each batch's part of the budget: larger ones take longer, but not in proportion to their worth."""
    weights = {batch: math.sqrt(batch) for batch in batches}
    return {batch: budget_s * weight / sum(weights.values()) for batch, weight in weights.items()}


def _founders(
    variants: Iterable[str],
    contestants: Collection[str],
    threads: Sequence[int],
    batch: int,
    ways: Iterable[Way],
) -> list[Candidate]:
    """The candidates that a batch starts with."""
    kinds = [(engine, FULL, variant) for engine in contestants for variant in variants]
    kinds += [(way.engine, way.precision, way.variant) for way in ways if way.engine in contestants]
    return [
        Candidate(engine, precision, threads=count, batch=batch, variant=variant)
        for engine, precision, variant in kinds
        for count in threads
    ]


def _cache_key(
    source: Model,
    model: Model,
    platform: PlatformProfile,
    shapes: Shapes,
    plan: _Plan,
    budget_s: float,
    reduced: Reduced,
) -> str:
    """Where in the cache the profile is: a name that changes with everything that could change it."""
    identity = {
        "raceline": __version__,
        "signature": asdict(source.signature),
        "models": [structural_sha256(source), structural_sha256(model)],
        "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        "batches": plan.batches,
        "threads": plan.threads,
        "engines": plan.engines,
        "budget_s": budget_s,
        "reduced": reduced.key,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
    return f"profiles/{platform.key}/{digest}.json"


def _recalled(key: str) -> Profile | None:
    """The profile in the cache; None where there is none, or it is damaged or of another method."""
    text = recall(key)
    if text is None:
        return None
    try:
        data = json.loads(text)
        if data["method"] != METHOD:
            return None
        profile = Profile.from_json(data["profile"])
        profile.best()
    except (ValueError, KeyError, TypeError, ConfigError, BadModelError) as error:
        _logger.warning("the tuning cache %s is damaged (%s); measuring again", key, error)
        return None
    return profile
