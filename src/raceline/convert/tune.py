"""Find the fastest way to run a model on this machine, by measuring, and keep all that was measured."""

import hashlib
import json
import logging
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

from raceline import __version__, engines
from raceline.convert.cost_model import Expectation, Work, for_platform, work_of
from raceline.convert.heat import Graph, Heat
from raceline.convert.journal import DivergedError, Journal, Recorded, TuningLog, begin
from raceline.convert.measure import Bench
from raceline.convert.precision import Admission, Reduced, Way
from raceline.convert.truth import Truth
from raceline.convert.tuning_log import Event, Head, digest, read_log
from raceline.core.clock import Clock, ManualClock, SystemClock
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError, UnknownNameError
from raceline.core.paths import cache_dir, recall, store
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

METHOD = 4
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
    log: TuningLog | None = None,
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
        budget_s: how long it may take, loading and checking included. Of a batch's part of it they may take
            three quarters for the first of each engine at each precision and number of threads, and half for
            others of these; for the first of each engine also half of what is left for all batches. For each
            number of cores one is always tried. Who is left outside is told. Where five rounds of timing do
            not fit into the rest, a quarter more is taken.
        progress: told of each round.
        cache: look for an earlier profile of the same models, inputs, machine and engines, and keep this one,
            unless memory or time was short for a candidate that may do better on another day.
        clock: for the budget.
        open_bench: where candidates are measured; None: on this machine, which must be the platform.
        seed: of inputs and of the order within rounds.
        log: where all that happens is written, and where a run that was killed goes on from; or a log to take
            the profile from. None: beside the profile in the cache.

    Raises:
        UnknownNameError, MissingDependencyError: an engine named is not there.
        BadModelError: no engine runs the model rightly; every reason is in the message.
        ConfigError: a batch or number of threads is below 1, or there is none; or the platform is another
            machine, of which nothing can be measured here; or the log cannot be written.
    """
    if open_bench is None:
        _refuse_elsewhere(platform)
        open_bench = Bench
    watch = Silent() if progress is None else progress
    log = log or TuningLog()
    terms = _terms(source, platform, batches, threads, engine_names, budget_s, seed)
    contest = _Contest(source, model, platform, shapes, terms, reduced or Reduced(), open_bench, watch)
    if log.replay is not None and (found := contest.replayed(log, log.replay)) is not None:
        return found
    key = contest.cache_key()
    known = _recalled(f"{key}.json") if cache and log.path is None else None
    if known is not None:
        log.tell("nothing was measured: the profile is in the cache")
        return known
    profile, hindered = contest.measured(log, cache_dir() / f"{key}.jsonl" if cache else None, clock)
    profile.best()  # raises where nothing runs: such a profile is not worth keeping
    if hindered:
        _logger.info("not kept in the cache: %s", ", ".join(f"{c} was hindered" for c in sorted(hindered)))
    elif cache:
        known_work = None if contest.work is None else asdict(contest.work)
        data = {"method": METHOD, "profile": profile.to_json(), "work": known_work}
        store(f"{key}.json", json.dumps(data))
    return profile


@dataclass
class _Contest:
    """What is tuned, where, and on which terms."""

    source: Model
    model: Model
    platform: PlatformProfile
    shapes: Shapes
    terms: "_Terms"
    reduced: Reduced
    open_bench: OpenBench
    watch: Progress
    prior_s: dict[Candidate, float] = field(default_factory=dict)

    @cached_property
    def work(self) -> Work | None:
        """What an item costs."""
        return work_of(self.model, self.shapes)

    @property
    def variants(self) -> dict[str, Model]:
        """The graphs of full precision; one where passes changed nothing: it is measured once."""
        if structural_sha256(self.source) == structural_sha256(self.model):
            return {"optimised": self.model}
        return {"source": self.source, "optimised": self.model}

    @property
    def graphs(self) -> dict[str, Model]:
        """All graphs that compete."""
        return {way.variant: way.model for way in self.reduced.ways} | self.variants

    def measured(
        self, log: TuningLog, cached: Path | None, clock: Clock | None
    ) -> tuple[Profile, set[Candidate]]:
        """The profile, from measurements that the log has already and from new ones; and who was hindered."""
        head = replace(self.head(), work=self.work)
        journal = begin(log, head, cached, clock or SystemClock())
        try:
            return self._run(log, journal, self._expected())
        except DivergedError as error:
            log.tell(f"the log does not fit ({error}); all is measured anew")
            log.stops.clear()
            return self._run(log, journal.anew(head), self._expected())
        finally:
            journal.close()

    def replayed(self, log: TuningLog, path: Path) -> Profile | None:
        """The profile that a log tells, without measuring.

        None where it is of something else, or damaged: that is told, and what it tells is only expected.
        """
        if not path.exists():
            raise ConfigError(
                f"there is no log {path}", "", "Check the path, or leave --replay out to measure."
            )
        try:
            known = read_log(path)
        except (OSError, ConfigError) as error:
            log.tell(f"nothing is taken from the log: {error}")
            return None
        head = known.head
        versions = _versions(head.engines)
        terms = _Terms(head.batches, head.threads, versions, head.named, head.budget_s, head.seed)
        told = replace(self, terms=terms)
        why = known.head.differences(told.head()) or ("" if known.ended else "its run did not end")
        try:
            if not why:
                journal = Journal(clock=ManualClock(), told=deque(known.events), retelling=True)
                profile, _ = told._run(log, journal, Expectation(None, None, self.platform))
                log.tell(f"nothing was measured: {path} tells all of it")
                return profile
        except DivergedError as error:
            why = f"it does not fit: {error}"
        log.stops.clear()
        log.tell(f"{path} only says which candidates to try first ({why})")
        self.prior_s = known.typical_s()
        return None

    def _expected(self) -> Expectation:
        """What is expected of the candidates before any is measured."""
        model = None if self.work is None else for_platform(self.platform, METHOD)
        return Expectation(model, self.work, self.platform, self.prior_s)

    def _run(self, log: TuningLog, journal: Journal, expected: Expectation) -> tuple[Profile, set[Candidate]]:
        terms, ways = self.terms, self.reduced.ways
        admission = None if self.reduced.judge is None else Admission(self.reduced.judge)
        truth = Truth(self.source, self.shapes, terms.seed)
        rows: list[Measurement] = []
        hindered: set[Candidate] = set()
        condemned: dict[Graph, str] = {}
        with self.open_bench(self.graphs, self.shapes) as bench:
            recorded = Recorded(bench, truth, admission, journal)
            for contestants in (terms.engines, {} if terms.named else {_FALLBACK: ""}):
                if any(not row.failure for row in rows):
                    break
                for batch in terms.batches:
                    heat = Heat(recorded, batch, random.Random(terms.seed), condemned)
                    left_s = terms.budget_s - journal.now_s()
                    share_s = _share(batch, terms.batches, terms.budget_s, left_s)
                    with self.watch.step(f"tune batch {batch}", total=share_s) as step:
                        full = () if self.reduced.alone else self.variants
                        founders = _founders(full, contestants, terms.threads, batch, ways)
                        first = batch == terms.batches[0]
                        waiting = expected.hopeless(founders, first=first)
                        heat.run(
                            expected.ordered(founders), terms.threads, share_s, step, waiting, left_s / 2
                        )
                    found = heat.measurements()
                    rows += found
                    expected.learn({row.candidate: row.latency_s for row in found if not row.failure})
                    hindered |= heat.hindered
                    log.stops += [heat.stop] if heat.stop else []
        at_one = {name: tuple(shape) for name, shape in self.shapes.items()}
        profile = Profile(self.platform.key, structural_sha256(self.model), at_one, tuple(rows))
        for (engine, variant), why in condemned.items():
            profile = profile.without(engine, variant, why)
        end = journal.happen(Event("end", 0.0), lambda: {"profile": digest(profile)})
        if end.profile != digest(profile):
            raise DivergedError("it ends with another profile")
        return profile, hindered

    def head(self) -> Head:
        """What a log of this run begins with."""
        terms = self.terms
        return Head(
            raceline=__version__,
            method=METHOD,
            platform=self.platform.key,
            engines=dict(terms.engines),
            named=terms.named,
            models={variant: structural_sha256(graph) for variant, graph in sorted(self.graphs.items())},
            signature=hashlib.sha256(json.dumps(asdict(self.source.signature)).encode()).hexdigest(),
            shapes={name: tuple(shape) for name, shape in sorted(self.shapes.items())},
            batches=terms.batches,
            threads=terms.threads,
            budget_s=terms.budget_s,
            seed=terms.seed,
            reduced=self.reduced.key + (" alone" if self.reduced.alone else ""),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            recipes=self.reduced.recipes,
        )

    def cache_key(self) -> str:
        """Where in the cache the profile is: a name that changes with everything that could change it."""
        identity = {
            "raceline": __version__,
            "signature": asdict(self.source.signature),
            "models": [structural_sha256(self.source), structural_sha256(self.model)],
            "shapes": {name: list(shape) for name, shape in sorted(self.shapes.items())},
            "batches": self.terms.batches,
            "threads": self.terms.threads,
            "engines": self.terms.engines,
            "budget_s": self.terms.budget_s,
            "reduced": [self.reduced.key, self.reduced.alone],
        }
        identity_sha = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()
        return f"profiles/{self.platform.key}/{identity_sha}"


def _refuse_elsewhere(platform: PlatformProfile) -> None:
    here = describe()
    if platform.key != here.key:
        raise ConfigError(
            f"{platform.name} cannot be measured here",
            f"this machine is {here.name}",
            "Tune on that machine, or for this one with platform_profile=None.",
        )


@dataclass(frozen=True)
class _Terms:
    """What to try, and for how long; `engines` are name -> version, `named` if the user named them."""

    batches: tuple[int, ...]
    threads: tuple[int, ...]
    engines: dict[str, str]
    named: bool
    budget_s: float
    seed: int


def _terms(
    source: Model,
    platform: PlatformProfile,
    batches: Sequence[int],
    threads: Sequence[int] | None,
    engine_names: Sequence[str],
    budget_s: float,
    seed: int,
) -> _Terms:
    wanted = sorted(set(batches))
    counts = sorted(set(threads or (1, platform.cores)))
    if not wanted or not counts or wanted[0] < 1 or counts[0] < 1:
        raise ConfigError(f"cannot tune for batches {wanted} and threads {counts}", "all must be at least 1")
    if source.signature.batch_axis is None:
        wanted = [batch for batch in wanted if batch == 1] or [1]
    named = {name: engines.load(name).version() for name in engine_names}
    found = named or _installed(platform)
    return _Terms(tuple(wanted), tuple(counts), found, bool(named), budget_s, seed)


def _versions(names: Iterable[str]) -> dict[str, str]:
    """The versions of engines; "none" where one is not installed."""
    found = dict.fromkeys(names, "none")
    for name in found:
        with suppress(MissingDependencyError, UnknownNameError):
            found[name] = engines.load(name).version()
    return found


def _installed(platform: PlatformProfile) -> dict[str, str]:
    """The engines that can compete, with their versions: of those that suit the platform, where it says so."""
    suitable = {choice.engine for choice in platform.engines} or set(engines.names())
    found = {}
    for name in sorted(suitable & set(engines.names()) - _NOT_COMPETING):
        with suppress(MissingDependencyError):
            found[name] = engines.load(name).version()
    return found


def _share(batch: int, batches: Sequence[int], budget_s: float, left_s: float) -> float:
    """A batch's part of what is left of the budget; at least half of what it would have of all of it.

    Calls of larger batches take longer, in proportion; loading takes as long as for others.
    """
    weights: dict[int, float] = {each: each**0.25 for each in batches}
    left = weights[batch] / sum(weight for each, weight in weights.items() if each >= batch)
    return max(left_s * left, 0.5 * budget_s * weights[batch] / sum(weights.values()))


def _founders(
    variants: Iterable[str],
    contestants: Collection[str],
    threads: Sequence[int],
    batch: int,
    ways: Iterable[Way],
) -> list[Candidate]:
    """The candidates that a batch starts with."""
    kinds = [(engine, FULL, variant) for engine in contestants for variant in variants]
    kinds += [
        (way.engine, way.precision, way.variant)
        for way in ways
        if way.engine in contestants and (not way.most_batch or batch <= way.most_batch)
    ]
    return [
        Candidate(engine, precision, threads=count, batch=batch, variant=variant)
        for engine, precision, variant in kinds
        for count in threads
    ]


def _recalled(key: str) -> Profile | None:
    """The profile in the cache; None where there is none, or it is damaged or of another method."""
    text = recall(key)
    if text is None:
        return None
    try:
        data = json.loads(text)
        if data["method"] != METHOD:
            _logger.warning(
                "the tuning cache %s is of another version (way of measuring %s, not %s); measuring again",
                key, data["method"], METHOD,
            )  # fmt: skip
            return None
        profile = Profile.from_json(data["profile"])
        profile.best()
    except (ValueError, KeyError, TypeError, ConfigError, BadModelError) as error:
        _logger.warning("the tuning cache %s is damaged (%s); measuring again", key, error)
        return None
    return profile
