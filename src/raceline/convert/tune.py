"""Find the fastest way to run a model on this machine by trying: engine x threads x batch x streams x graph.

Candidates run in child processes, in interleaved rounds of random order, first all of them and then the close ones.
One whose numbers are wrong or that crashes keeps its place in the profile, with the reason.
"""

import hashlib
import json
import random
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace

from raceline import engines
from raceline.convert.choose import corrected, survivors
from raceline.convert.equivalence import differences
from raceline.convert.measure import Bench
from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import ConfigError, MissingDependencyError, RacelineError
from raceline.core.paths import recall, store
from raceline.core.progress import Progress, Silent, Step
from raceline.ir import (
    Candidate,
    Measurement,
    Model,
    PlatformProfile,
    Profile,
    Reference,
    Shapes,
    make_inputs,
    structural_sha256,
)

VARIANTS = ("optimised", "source")
_SLICE_S = 0.03  # of one candidate in one round
_MAX_CALLS = 200
_HOPELESS = 2.0  # an engine so much slower at batch 1 on one thread is not tried in other configurations
_SLOWER = (1.5, 1.2, 1.08, 1.04)  # the bound narrows from round to round
_MIN_ROUNDS = 3


@dataclass(frozen=True)
class _Group:
    """Candidates that compete: one batch, one number of cores."""

    batch: int
    cores: int


def tune(
    source: Model,
    model: Model,
    platform: PlatformProfile,
    *,
    shapes: Shapes,
    batches: Sequence[int] = (1, 8),
    threads: Sequence[int] | None = None,
    budget_s: float = 30.0,
    progress: Progress | None = None,
    cache: bool = True,
    clock: Clock | None = None,
    seed: int = 0,
) -> Profile:
    """Measure candidates and keep what each cost.

    Args:
        source: the graph as it was read.
        model: the same after the passes.
        platform: this machine; its profile names the engines that suit.
        shapes: the inputs' shapes at batch 1.
        batches: items in one call; those above 1 only where the model has a batch axis.
        threads: cores a call may use; None for one and all.
        budget_s: how long to measure; loading the engines comes on top.
        progress: told of each candidate.
        cache: return what an earlier call on this machine found for the same model, engines and settings.
        clock: of the budget.
        seed: of the inputs and of the order in the rounds.

    Returns:
        every candidate that was tried; `Profile.best` names the fastest. Nothing may have worked: then `best`
        raises with every reason.
    """
    tuner = _Tuner(
        models={"optimised": model, "source": source},
        platform=platform,
        shapes=shapes,
        batches=batches if source.signature.batch_axis else (1,),
        threads=tuple(threads or sorted({1, platform.cores})),
        budget_s=budget_s,
        progress=Silent() if progress is None else progress,
        clock=clock or SystemClock(),
        seed=seed,
    )
    name = tuner.cache_name()
    known = _recalled(name) if cache else None
    if known is not None:
        return known
    profile = tuner.run()
    if cache:
        store(name, json.dumps(profile.to_json()))
    return profile


def _recalled(name: str) -> Profile | None:
    """A profile of an earlier call; None where there is none that can be read."""
    text = recall(name)
    try:
        return None if text is None else Profile.from_json(json.loads(text))
    except (ValueError, ConfigError):
        return None  # written by another version, or broken: measured again and replaced


@dataclass
class _Tuner:
    """One call of `tune`."""

    models: Mapping[str, Model]
    platform: PlatformProfile
    shapes: Shapes
    batches: Sequence[int]
    threads: Sequence[int]
    budget_s: float
    progress: Progress
    clock: Clock
    seed: int

    def __post_init__(self) -> None:
        self.engines = dict(installed(self.platform))
        self.variants = VARIANTS if self._variants_differ() else VARIANTS[:1]
        self._trusted: dict[int, engines.Tensors] = {}
        self._error: dict[str, float] = {}  # of each engine against the reference, at batch 1

    def _variants_differ(self) -> bool:
        return structural_sha256(self.models["optimised"]) != structural_sha256(self.models["source"])

    def cache_name(self) -> str:
        """Names everything the result depends on."""
        what = [
            [structural_sha256(self.models[v]) for v in VARIANTS], self.engines, dict(self.shapes),
            list(self.batches), list(self.threads), self.budget_s, asdict(Candidate("")),
        ]  # fmt: skip
        return f"profiles/{self.platform.key}/{hashlib.sha256(json.dumps(what).encode()).hexdigest()}.json"

    def run(self) -> Profile:
        """Measure group by group; engines that are hopeless in the first are left out of the others."""
        groups = [_Group(batch, cores) for batch in self.batches for cores in self.threads]
        rows: dict[Candidate, Measurement] = {}
        hopeful = list(self.engines)
        with (
            Bench(self.models, self.shapes, seed=self.seed) as bench,
            self.progress.step("tune", len(groups)) as step,
        ):
            for group in groups:
                names = candidates(group.batch, group.cores, hopeful, self.variants)
                previous = [c for c in rows if c.batch == group.batch and not rows[c].failure]
                best_so_far = min(previous, key=lambda c: rows[c].latency_s, default=None)
                rows |= self._group(
                    bench, [*names, *([best_so_far] if best_so_far else [])], step, len(groups)
                )
                if group == groups[0]:
                    hopeful = _hopeful(rows.values())
        return Profile(
            platform=self.platform.key,
            model_sha256=structural_sha256(self.models["optimised"]),
            shapes={name: tuple(shape) for name, shape in self.shapes.items()},
            measurements=tuple(rows.values()),
        )

    def _group(
        self, bench: Bench, names: Iterable[Candidate], step: Step, groups: int
    ) -> dict[Candidate, Measurement]:
        failures: dict[Candidate, str] = {}
        memory: dict[Candidate, int] = {}
        calls: dict[Candidate, int] = {}
        tried = list(dict.fromkeys(names))
        for candidate in tried:
            try:
                memory[candidate] = bench.load(candidate)
                failures |= self._wrong(bench, candidate)
                once_s = min(bench.time(candidate, 2).times_s)
                calls[candidate] = max(1, min(_MAX_CALLS, round(_SLICE_S / once_s)))
            except RacelineError as error:
                failures[candidate] = str(error)
            step.advance(0.5 / groups / len(tried), note=str(candidate))
        able = [c for c in calls if c not in failures]
        rounds, times = self._rounds(bench, {c: calls[c] for c in able}, failures, self.budget_s / groups)
        step.advance(0.5, note="")
        for candidate in memory:
            bench.drop(candidate)
        seconds = corrected(rounds) if rounds else {}
        good = {c: _measurement(c, seconds[c], times[c], memory[c]) for c in seconds if c not in failures}
        return good | {c: Measurement(c, failure=why) for c, why in failures.items()}

    def _rounds(
        self, bench: Bench, calls: Mapping[Candidate, int], failures: dict[Candidate, str], budget_s: float
    ) -> tuple[dict[Candidate, list[float]], dict[Candidate, list[float]]]:
        """Time in interleaved rounds until the budget is spent or one is left; medians of rounds, all times."""
        chance = random.Random(self.seed)
        rounds: dict[Candidate, list[float]] = {c: [] for c in calls}
        times: dict[Candidate, list[float]] = {c: [] for c in calls}
        still, began_s = list(calls), self.clock.now_s()
        count = 0
        while still and (count < _MIN_ROUNDS or (len(still) > 1 and self.clock.now_s() - began_s < budget_s)):
            for candidate in chance.sample(still, len(still)):
                try:
                    timing = bench.time(candidate, calls[candidate])
                except RacelineError as error:
                    failures[candidate] = str(error)
                    continue
                calm = [s for s, hit in zip(timing.times_s, timing.disturbed, strict=True) if not hit]
                times[candidate] += timing.times_s
                rounds[candidate].append(statistics.median(calm or timing.times_s))
            count += 1
            rounds = {c: r for c, r in rounds.items() if c not in failures}
            bound = _SLOWER[min(count // _MIN_ROUNDS, len(_SLOWER) - 1)]
            still = survivors(rounds, slower=bound) if rounds else []
        return rounds, times

    def _wrong(self, bench: Bench, candidate: Candidate) -> dict[Candidate, str]:
        """Why a candidate's numbers are not those of the model; empty where they are."""
        tolerance = engines.load(candidate.engine).tolerance
        worst = 0.0
        for output in differences(self._right(bench, candidate.batch), bench.compute(candidate), tolerance):
            if not output.ok:
                why = output.why or f"off by {output.max_rel:.1e} of its largest value"
                return {candidate: f"wrong numbers: output {output.name!r} is {why}"}
            worst = max(worst, output.max_rel or 0.0)
        if candidate.batch == 1:
            self._error[candidate.engine] = max(worst, self._error.get(candidate.engine, 0.0))
        return {}

    def _right(self, bench: Bench, batch: int) -> engines.Tensors:
        """What the model computes for the inputs that candidates of that batch get.

        At batch 1 that is the reference run. It takes seconds an item, so larger batches are held to the engine
        that was nearest to it.
        """
        if batch not in self._trusted:
            if batch > 1 and self._error:
                nearest = min(self._error, key=lambda engine: self._error[engine])
                self._trusted[batch] = bench.compute(Candidate(nearest, batch=batch, variant="source"))
            else:
                source = self.models["source"]
                shapes = engines.batched(source.signature, self.shapes, batch)
                inputs = make_inputs(source.signature, shapes, seed=self.seed)
                self._trusted[batch] = Reference(source).run(inputs)
        return self._trusted[batch]


def installed(platform: PlatformProfile) -> Iterable[tuple[str, str]]:
    """The engines that suit a platform and are here, with their versions; the slow reference comes last resort."""
    suitable = [choice.engine for choice in platform.engines if choice.engine in engines.names()]
    for name in dict.fromkeys(suitable):
        if name != "reference":
            try:
                yield name, engines.load(name).version()
            except MissingDependencyError:
                continue


def candidates(
    batch: int, cores: int, names: Iterable[str], variants: Iterable[str] = VARIANTS
) -> list[Candidate]:
    """All ways of running `batch` items on `cores` cores that are worth a try.

    A batch is computed at once, or cut into chunks that stay in the caches; cores work on one call together, or
    each on its own share of the batch.
    """
    found = []
    for engine in names:
        for variant in variants:
            one = Candidate(engine, threads=cores, batch=batch, variant=variant)
            found.append(one)
            found += [replace(one, chunk=size) for size in (1, 2) if size < batch]
            if 1 < cores <= batch:
                apart = replace(one, threads=1, streams=cores)
                found.append(apart)
                found += [replace(apart, chunk=size) for size in (1, 2) if size < batch // cores]
    return found


def _hopeful(rows: Iterable[Measurement]) -> list[str]:
    """Engines that are not far behind, in order of speed."""
    best: dict[str, float] = {}
    for row in rows:
        if not row.failure:
            engine = row.candidate.engine
            best[engine] = min(best.get(engine, row.latency_s), row.latency_s)
    fastest = min(best.values(), default=0.0)
    return sorted((e for e, s in best.items() if s <= _HOPELESS * fastest), key=lambda e: best[e])


def _measurement(
    candidate: Candidate, latency_s: float, times_s: Sequence[float], memory_bytes: int
) -> Measurement:
    slowest_first = sorted(times_s, reverse=True)
    return Measurement(
        candidate,
        latency_s=latency_s,
        latency_p99_s=slowest_first[len(slowest_first) // 100],
        memory_bytes=memory_bytes,
        runs=len(times_s),
    )
