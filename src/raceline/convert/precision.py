"""Fewer bits as one more dimension of the tuner: graphs and settings that compete, and what they must keep."""

from __future__ import annotations

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

from raceline import __version__, engines
from raceline.convert.equivalence import Equivalence
from raceline.convert.few_rows import few_rows
from raceline.convert.measure import Bench, HinderedError
from raceline.convert.quantise import (
    RUNS_QDQ,
    RUNS_STORED,
    Budget,
    Judge,
    Quantised,
    Runner,
    Samples,
    Scheme,
    Stored,
    Study,
    apart,
    doubt,
    plan,
    schemes_for,
)
from raceline.convert.quantise.judge import Tensors
from raceline.convert.recipes import Recipe, RecipeBook, Recipes
from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import (
    BadModelError,
    ConfigError,
    MissingDependencyError,
    NotReadyError,
    RacelineError,
    ShapeError,
)
from raceline.core.progress import Progress, Silent
from raceline.engines import Session
from raceline.ir import (
    WEIGHTS_ONLY,
    Accuracy,
    Candidate,
    Model,
    PlatformProfile,
    Shapes,
    structural_sha256,
)
from raceline.ir.serialise import inlined

_logger = logging.getLogger(__name__)

_SAME = 0.1  # relative error between runs of one graph on one engine that differ in threads or streams only
_LEAST_ITEMS = 16
_ENOUGH_FOR_TWO = 256  # items that judge: with so many, what was chosen by some is judged by others
_PASSES = 12  # over the data, that a search for one engine may need
_LEAST_GAIN = 1.03
_FASTER = 1.01


@dataclass(frozen=True)
class Way:
    """A way of computing with fewer bits, for one engine.

    Attributes:
        engine: name of a file in engines/.
        precision: "int8", "bf16", "int8-weights" or "int4-weights".
        variant: name of the graph.
        model: the graph.
        found: how it was quantised; None where the engine rounds by itself.
        most_batch: items in a call beyond which it cannot win; 0 where nothing is known.
    """

    engine: str
    precision: str
    variant: str
    model: Model
    found: Quantised | None = None
    most_batch: int = 0


@dataclass(frozen=True)
class Reduced:
    """The ways that compete with full precision, and who judges them.

    Attributes:
        ways: all of them; none where the data or the model allows none.
        judge: scores them, on items that they were not calibrated on.
        notes: sentences for the user: what does not compete, and why.
        key: changes with all that could change a measurement.
        alone: whether full precision does not compete.
        recipes: how the graphs were made.
    """

    ways: tuple[Way, ...] = ()
    judge: Judge | None = None
    notes: tuple[str, ...] = ()
    key: str = ""
    alone: bool = False
    recipes: Recipes | None = None


def reduce(
    model: Model,
    samples: Samples,
    budget: Budget,
    platform: PlatformProfile,
    *,
    shapes: Shapes,
    engine_names: Sequence[str] = (),
    precisions: Sequence[str] = ("int8", "bf16", *WEIGHTS_ONLY),
    wanted: bool = False,
    deadline_s: float = 60.0,
    threads: int = 1,
    clock: Clock | None = None,
    progress: Progress | None = None,
    book: RecipeBook | None = None,
) -> Reduced:
    """Make the ways of computing with fewer bits that suit the engines of a platform.

    One calibration run serves all engines. Layers that must stay in floating point are searched for only
    where the engine is faster in 8 bits at all. What cannot be made is told in the notes.

    Args:
        model: optimised; stays as it is.
        samples: one half is calibrated on, the other judges; of many items a quarter chooses what stays in floating
            point, and another one, which nothing was chosen by, judges what came of it.
        budget: how much accuracy may be lost.
        platform: which instruction sets there are, and which engines suit them.
        shapes: the inputs' shapes at batch 1 that will be tuned for.
        engine_names: the engines that compete; empty: those of the platform.
        precisions: which to make.
        wanted: make weights of few bits even where they cannot be faster.
        deadline_s: seconds that all searches may take; one graph an engine is always tried.
        threads: of the engines, while searching.
        clock: for the deadline.
        progress: told of each step.
        book: where graphs that were found before are looked up, to be made again without searching.

    Raises:
        ShapeError: the data's shapes are not those that will be tuned for.
        BadModelError: the data makes the model compute NaN.
        ConfigError: there is too little data.
    """
    _same_shapes(samples, shapes)
    clock = clock or SystemClock()
    until_s = clock.now_s() + deadline_s
    asked = _asked(model, samples, budget, platform, engine_names, precisions, wanted)
    known = None if book is None else book.find(asked, deadline_s)
    seen, judged = samples.split()
    parts = judged.split() if judged.items >= _ENOUGH_FOR_TWO else (judged, judged)
    with Runner(judged, threads=threads) as run:
        affordable = (
            known.items if known else max(_LEAST_ITEMS, int(deadline_s / _PASSES / run.item_s(model)))
        )
        choosing, judge = _judges(model, parts, affordable, budget, run)
        maker = _Maker(
            model, platform, Study(model, seen, choosing, threads, clock, progress), run, progress or Silent()
        )
        able = [name for name in RUNS_QDQ if _offers(platform, engine_names, name, "int8")]
        if known is not None and maker.remade(known, able):
            return _reduced(maker, judge, samples, budget, known)
        if "int8" in precisions:
            maker.eight_bits(able, lambda: until_s - clock.now_s())
        if "bf16" in precisions and _offers(platform, engine_names, "openvino", "bf16"):
            maker.ways.append(Way("openvino", "bf16", "optimised", model))
        stored = [bits for bits in (8, 4) if Stored(bits).precision in precisions]
        if stored:
            engines_of = {
                bits: [n for n in _able(bits, wanted) if _takes(platform, engine_names, n)] for bits in stored
            }
            maker.weights_only(engines_of, shapes, lambda: until_s - clock.now_s(), wanted=wanted)
    if judge.samples.items < parts[1].items:
        maker.notes.append(f"judged by {judge.samples.items} items, for want of time")
    if maker.ways and (why := doubt(budget, judge.samples.items)):
        maker.notes.append(why)
    recipes = Recipes(asked, affordable, tuple(map(_recipe, maker.ways)), tuple(maker.notes))
    if book is not None and not maker.hindered:
        book.keep(recipes, deadline_s)
    return _reduced(maker, judge, samples, budget, recipes)


def _reduced(maker: _Maker, judge: Judge, samples: Samples, budget: Budget, recipes: Recipes) -> Reduced:
    made = [f"{way.variant} {way.precision} {structural_sha256(way.model)}" for way in maker.ways]
    key = hashlib.sha256("\n".join([repr(budget), samples.sha256(), *made]).encode())
    return Reduced(tuple(maker.ways), judge, recipes.notes, key.hexdigest(), recipes=recipes)


def _asked(
    model: Model,
    samples: Samples,
    budget: Budget,
    platform: PlatformProfile,
    engine_names: Sequence[str],
    precisions: Sequence[str],
    wanted: bool,
) -> str:
    """Changes with all that decides about the graphs, but for what is measured."""
    versions = []
    for name in RUNS_QDQ:
        with suppress(MissingDependencyError):
            versions.append(f"{name} {engines.load(name).version()}")
    asked = (
        __version__, structural_sha256(model), samples.sha256(), repr(budget), platform.key, *versions,
        *engine_names, *precisions, wanted,
    )  # fmt: skip
    return hashlib.sha256("\n".join(map(str, asked)).encode()).hexdigest()


def _recipe(way: Way) -> Recipe:
    if way.found is None:
        return Recipe(way.engine, way.precision, way.variant, way.most_batch)
    how = way.found.scheme
    return Recipe(
        way.engine, way.precision, way.variant, way.most_batch, how if isinstance(how, Scheme) else None,
        how if isinstance(how, Stored) else None, way.found.kept, way.found.score,
    )  # fmt: skip


def _same_shapes(samples: Samples, shapes: Shapes) -> None:
    wanted = {name: tuple(shape) for name, shape in shapes.items()}
    if samples.shapes != wanted:
        raise ShapeError(
            f"calibration data ({samples.origin}) is of other shapes than the model is tuned for",
            f"{samples.shapes} instead of {wanted}",
            "Give data of those shapes, or name the data's with --shape.",
        )


def _judges(
    model: Model, parts: tuple[Samples, Samples], affordable: int, budget: Budget, run: Runner
) -> tuple[Judge, Judge]:
    """Who judges what is tried, and who what came of it; of slow models by fewer items, to fit the deadline."""
    first, second = (part.thinned(affordable) for part in parts)
    choosing = Judge(model, first, budget, run=run)
    return choosing, choosing if parts[0] is parts[1] else Judge(model, second, budget, run=run)


def _offers(platform: PlatformProfile, engine_names: Sequence[str], engine: str, precision: str) -> bool:
    if engine_names and engine not in engine_names:
        return False
    offered = {choice.engine: choice.precisions for choice in platform.engines}
    return precision in offered.get(engine, () if offered or precision != "int8" else ("int8",))


def _able(bits: int, wanted: bool) -> Sequence[str]:
    """Engines that weights of so few bits are made for: those that may be faster, or any that has a kernel."""
    return RUNS_STORED[8] if wanted else RUNS_STORED[bits]


def _takes(platform: PlatformProfile, engine_names: Sequence[str], engine: str) -> bool:
    """Whether an engine competes; stored weights need no instructions that only some CPUs have."""
    known = {choice.engine for choice in platform.engines}
    return engine in engine_names if engine_names else not known or engine in known


@dataclass
class _Maker:
    """Makes the quantised graphs, engine after engine."""

    model: Model
    platform: PlatformProfile
    study: Study
    run: Runner
    progress: Progress
    ways: list[Way] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    hindered: bool = False

    def remade(self, known: Recipes, able: Sequence[str]) -> bool:
        """Make what was found before; whether it could be made."""
        try:
            if any(
                recipe.scheme for recipe in known.ways
            ):  # as then, so that ranges are equal to the last digit
                self.study.observe([scheme for ways in self._schemes(able).values() for scheme in ways])
            for recipe in known.ways:
                found = None
                if (how := recipe.scheme or recipe.stored) and recipe.score:
                    found = self.study.remade(how, recipe.kept, recipe.score)
                model = self.model if found is None else found.model
                self.ways.append(
                    Way(recipe.engine, recipe.precision, recipe.variant, model, found, recipe.most_batch)
                )
        except BadModelError as error:
            _logger.warning("what was found before cannot be made again (%s); searching", error)
            self.ways.clear()
            return False
        finally:
            self.notes.clear()
        return True

    def eight_bits(self, able: Sequence[str], left_s: Callable[[], float]) -> None:
        """A graph for each engine; a crash or a refusal of one is a note."""
        schemes = self._schemes(able)
        self.study.observe([scheme for ways in schemes.values() for scheme in ways])
        for place, (name, ways) in enumerate(schemes.items()):
            share_s = max(0.0, left_s()) / (len(schemes) - place)
            try:
                with self.progress.step(f"quantise for {name}"):
                    worth = functools.partial(self._no_gain, name)
                    scheme = self._fastest(ways, name)
                    found = self.study.within_budget(scheme, name, deadline_s=share_s, worth=worth)
            except RacelineError as error:
                if isinstance(error, ConfigError):
                    raise
                self.hindered |= isinstance(error, HinderedError | NotReadyError)
                self.notes.append(f"int8 on {name} is out: {error}")
                continue
            if found.met:
                self.ways.append(Way(name, "int8", f"int8-{name}", found.model, found))
            else:
                ended = f"; the search ended early: {found.stopped}" if found.stopped else ""
                self.notes.append(
                    f"int8 on {name} is out: not within the accuracy budget, the best found is "
                    f"{found.score} with {len(found.kept)} layers kept in floating point{ended}"
                )

    def _schemes(self, able: Sequence[str]) -> dict[str, Sequence[Scheme]]:
        """The schemes of each engine that has kernels for some layers; that another has none is a note."""
        found: dict[str, Sequence[Scheme]] = {}
        for name in able:
            ways = schemes_for(name, self.platform)
            try:
                plan(self.model, ways[0])
            except BadModelError as error:
                self.notes.append(f"int8 on {name} is out: {error}")
            else:
                found[name] = ways
        return found

    def _fastest(self, ways: Sequence[Scheme], engine: str) -> Scheme:
        """Of several schemes the one that is fastest with every layer in 8 bits; the first where it is close."""
        best, made = ways[0], self.study.made(ways[0])
        for scheme in ways[1:]:
            other = self.study.made(scheme)
            same = structural_sha256(other) == structural_sha256(made)
            if not same and self.run.gain(made, other, engine) >= _FASTER:
                best, made = scheme, other
        return best

    def weights_only(
        self,
        able: Mapping[int, Sequence[str]],
        shapes: Shapes,
        left_s: Callable[[], float],
        *,
        wanted: bool,
    ) -> None:
        """Graphs with weights in few bits, by bits and engine, where they may be faster; what is out is a note."""
        known = few_rows(replace(self.model, program=inlined(self.model.program)), shapes, self.platform)
        if known.why_not and not wanted:
            self.notes.append(f"weights alone in few bits are out: {known.why_not}")
            return
        most = 0 if wanted else known.most_batch
        pairs = [(Stored(bits), name) for bits, names in able.items() for name in names]
        for place, (scheme, name) in enumerate(pairs):
            share_s = max(0.0, left_s()) / (len(pairs) - place)
            try:
                with self.progress.step(f"store weights in {scheme.bits} bits for {name}"):
                    why = "" if wanted else self._too_slow(scheme, name)
                    found = None if why else self._stored(scheme, name, share_s)
            except RacelineError as error:
                if isinstance(error, ConfigError):
                    raise
                self.hindered |= isinstance(error, HinderedError | NotReadyError)
                found, why = None, str(error)
            if found is not None and found.met:
                variant = f"{scheme.precision}-{name}"
                self.ways.append(Way(name, scheme.precision, variant, found.model, found, most))
                continue
            why = why or f"not within the accuracy budget, the best found is {found and found.score}"
            self.notes.append(f"{scheme.precision} on {name} is out: {why}")

    def _stored(self, scheme: Stored, engine: str, deadline_s: float) -> Quantised:
        return self.study.within_budget(scheme, engine, deadline_s=deadline_s, precision=scheme.precision)

    def _too_slow(self, scheme: Stored, engine: str) -> str:
        """Why no accuracy need be measured: the engine is no faster with every weight in few bits."""
        made = self.study.shelf(scheme.bits).written(scheme)
        gain = self.run.gain(self.model, made, engine, scheme.precision)
        return "" if gain >= _LEAST_GAIN else f"it takes {1 / gain:.2f} times the time of full precision"

    def _no_gain(self, engine: str, made: Model) -> str:
        """Why keeping layers in floating point need not be tried; empty where it is worth the time."""
        gain = self.run.gain(self.model, made, engine)
        if gain >= _LEAST_GAIN:
            return ""
        return f"even with every layer in 8 bits it takes {1 / gain:.2f} times the time of full precision"


@dataclass
class Admission:
    """Lets candidates with fewer bits into a race if what they compute is within the accuracy budget.

    Each graph on each engine is judged at each batch by all items; at other numbers of threads and streams,
    one call must give what was judged.
    """

    judge: Judge
    _known: dict[tuple[str, str, str, int], tuple[Accuracy, list[Tensors]]] = field(default_factory=dict)

    def judged(self, bench: Bench, candidate: Candidate) -> Accuracy:
        """What a candidate's answers are worth.

        Raises:
            BadModelError: it computes something else than it did at another number of threads.
            Everything that `Bench.answer` raises.
        """
        key = (candidate.engine, candidate.precision, candidate.variant, candidate.batch)
        calls = list(self.judge.samples.full_batches(candidate.batch))
        if key not in self._known:
            answers = bench.answer(candidate, calls)
            self._known[key] = self.judge.mark(answers), list(answers[:1])
        else:
            first = self._known[key][1]
            again = bench.answer(candidate, calls[:1])
            for name in first[0]:
                if (off := apart(name, first, again)) > _SAME:
                    raise BadModelError(
                        f"output {name!r} is off by {off:.1e} from what the same graph gave before"
                    )
        return self._known[key][0]

    def refuse_lossy(self, found: Accuracy) -> None:
        """Raise where more was lost than may be.

        Raises:
            BadModelError: it was.
        """
        if not self.judge.budget.allows(found):
            limit = self.judge.budget.drop
            raise BadModelError("not within the accuracy budget", f"{found}, and {limit:g} may be lost")


def verify_accuracy(judge: Judge, candidate: Candidate, session: Session) -> Equivalence:
    """Hold a session that computes with fewer bits against the accuracy budget, and close it.

    Args:
        judge: of the budget; its items are not those that ranges were taken from.
        candidate: what the session runs, in words.
        session: as a server would open it.

    Raises:
        BadModelError: the engine refuses an input.
    """
    try:
        answers = [session.run(call) for call in judge.samples.full_batches(candidate.batch)]
    finally:
        session.close()
    return Equivalence(
        candidate=str(candidate), atol=0.0, rtol=0.0, cases=(), seeds=(), outputs=(),
        accuracy=judge.mark(answers), allowed_drop=judge.budget.drop,
    )  # fmt: skip
