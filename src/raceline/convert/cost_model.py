"""Predict how long a candidate will take before it is measured: who enters the race first, never who wins it.

The roofline gives a first guess: arithmetic at the peak rate, traffic at the memory's, a little for every node.
How far an engine stays behind it depends on what a network is made of. So

    log seconds = log roofline + a sum over the engine's coefficients x features,

the features being what shares of the guess each kind of work has, precision, threads, streams and items in a call.
The coefficients are fitted by ridge regression on tuned models (`python -m benchmarks._cost_model fit`); those that
ship were fitted on one family of CPUs, say so, and are pulled towards what this machine's own cache holds. How far
predictions are off is part of the model: for every engine, the factor that nine predictions of ten on models left
out of the fit keep to.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from statistics import median, quantiles
from typing import TYPE_CHECKING, Any

from raceline.core.errors import ConfigError, RacelineError
from raceline.core.paths import cache_dir
from raceline.core.records import from_json
from raceline.ir import FULL, Candidate, Model, PlatformProfile, Profile, Shapes, cost

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
"""Of the features; coefficients of another one mean nothing."""

_SHIPPED = "cost_model.json"
_RIDGE = 1.0
_DENSE = 100  # operations for an element of the result; below, a convolution is bound by traffic (depthwise)
_NODE_S = 1.5e-6  # what an engine spends on a node whatever it computes
_USUAL_FLOPS_PER_S = 5e10  # of one core, where the platform does not say
_USUAL_BYTES_PER_S = 1e10
_MOST_CACHED = 200  # profiles that are learnt from; reading them takes time
_HOPELESS = 3.0  # times the time of the best
_LEAST_MODELS = 3  # tuned on this machine, before their figures move the model

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Work:
    """What one item costs, by what bounds it.

    Attributes:
        dense_flops: of convolutions and products with long sums.
        thin_flops: of those with short sums, such as depthwise convolutions.
        moved_bytes: intermediate tensors that those read and write.
        other_bytes: those of all other nodes.
        weight_bytes: of a call, however many items it has.
        nodes: of a call, that compute or move anything.
    """

    dense_flops: int
    thin_flops: int
    moved_bytes: int
    other_bytes: int
    weight_bytes: int
    nodes: int

    def __post_init__(self) -> None:
        if min(asdict(self).values()) < 0:
            raise ConfigError("work cannot be negative")


def work_of(model: Model, shapes: Shapes) -> Work | None:
    """The work of one item, computed from the optimised graph; None where shapes do not tell it.

    Args:
        model: stays as it is.
        shapes: of the inputs, at batch 1.
    """
    try:
        found = cost(model, sizes_of(model, shapes))
    except RacelineError as error:
        _logger.debug("no prediction for %s: %s", model.name, error)
        return None
    heavy = [row for row in found.rows if row.multiply_add_flops]
    dense = [row for row in heavy if row.multiply_add_flops > _DENSE * row.written_bytes / 4]
    dense_flops = sum(row.multiply_add_flops for row in dense)
    moved = sum(row.moved_bytes for row in heavy)
    return Work(
        dense_flops=dense_flops,
        thin_flops=found.multiply_add_flops - dense_flops,
        moved_bytes=moved,
        other_bytes=found.intermediate_bytes - moved,
        weight_bytes=found.weight_bytes,
        nodes=sum(1 for row in found.rows if row.flops or row.moved_bytes),
    )


def sizes_of(model: Model, shapes: Shapes) -> dict[str, int]:
    """The size of every named axis of the inputs when they have these shapes."""
    return {
        dim: size
        for spec in model.signature.inputs
        for dim, size in zip(spec.shape, shapes[spec.name], strict=True)
        if isinstance(dim, str)
    }


@dataclass(frozen=True)
class Sample:
    """One measurement to learn from.

    Attributes:
        model: which; those of one model are left out together.
        seconds: of one call.
    """

    model: str
    work: Work
    candidate: Candidate
    platform: PlatformProfile
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Coefficients, and how far they are off.

    Attributes:
        coefficients: "engine:feature" -> weight.
        error: engine -> the factor that nine of ten predictions keep to, on models that were left out.
        median_error: engine -> that of five of ten.
        mended_error: engine -> as `error`, for larger batches once batch 1 was measured; see `Expectation.learn`.
        source: what it was fitted on.
        architecture: of the CPUs it was fitted on.
        version: of the features.
    """

    coefficients: dict[str, float]
    error: dict[str, float]
    median_error: dict[str, float]
    mended_error: dict[str, float]
    source: str
    architecture: str
    version: int = VERSION

    def predict_s(self, work: Work, candidate: Candidate, platform: PlatformProfile) -> float | None:
        """Seconds of one call; None for an engine that nothing is known of."""
        if candidate.engine not in self.error:
            return None
        guess_s, features = _features(work, candidate, platform)
        told = sum(self.coefficients.get(name, 0.0) * value for name, value in features.items())
        return guess_s * math.exp(max(-20.0, min(20.0, told)))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def _features(work: Work, candidate: Candidate, platform: PlatformProfile) -> tuple[float, dict[str, float]]:
    """The roofline's seconds, and what the distance from it depends on."""
    items = candidate.batch / candidate.streams
    calls = math.ceil(items / candidate.items_per_call)
    flops_per_s = platform.peak_ops_per_s("fp32", 1) or _USUAL_FLOPS_PER_S
    bytes_per_s = platform.memory_bytes_per_s_per_core or _USUAL_BYTES_PER_S
    parts = {
        "dense": items * work.dense_flops / flops_per_s / candidate.threads,
        "thin": items * work.thin_flops / flops_per_s / candidate.threads,
        "moved": items * work.moved_bytes / bytes_per_s / candidate.threads,
        "other": items * work.other_bytes / bytes_per_s / candidate.threads,
        "weights": calls * work.weight_bytes / bytes_per_s / candidate.threads,
        "nodes": calls * work.nodes * _NODE_S,
    }
    guess_s = max(1e-9, sum(parts.values()))
    shares = {name: seconds / guess_s for name, seconds in parts.items()}
    told = {
        "1": 1.0,
        **shares,
        "size": math.log10(guess_s) + 3.0,
        "threads": math.log(candidate.threads),
        "threads on nodes": math.log(candidate.threads) * shares["nodes"],
        "streams": math.log(candidate.streams),
        "items": math.log(candidate.items_per_call),
        "source": float(candidate.variant == "source"),
    }
    if candidate.precision != FULL:
        told |= {candidate.precision: 1.0, f"{candidate.precision} dense": shares["dense"]}
    return guess_s, {f"{candidate.engine}:{name}": value for name, value in told.items()}


def fit(samples: Sequence[Sample], source: str, *, base: CostModel | None = None) -> CostModel:
    """Fit the coefficients, and measure the errors by leaving out one model after the other.

    Args:
        samples: of engines alone and graphs whole.
        source: where they come from, in words.
        base: coefficients to start from; the fewer samples, the nearer the result stays to them.

    Raises:
        ConfigError: there are none.
    """
    if not samples:
        raise ConfigError("nothing to fit a cost model on", "no model was tuned", "Tune some.")
    table = _Table.of(samples, base)
    off = table.left_out()
    plain, mended = _by_engine(samples, off), _by_engine(samples, _mended(samples, off))
    return CostModel(
        coefficients=table.solved(),
        error=(base.error if base else {}) | {name: _nine_of_ten(f) for name, f in plain.items()},
        median_error=(base.median_error if base else {}) | {name: median(f) for name, f in plain.items()},
        mended_error=(base.mended_error if base else {})
        | {name: _nine_of_ten(f) for name, f in mended.items()},
        source=source,
        architecture=samples[0].platform.architecture,
    )


def _mended(samples: Sequence[Sample], off: Sequence[float]) -> list[float]:
    """What is left of the errors where those at the smallest batch are known; NaN at that batch itself."""
    smallest = {s.model: min(o.candidate.batch for o in samples if o.model == s.model) for s in samples}
    known: dict[tuple[str, str], list[float]] = {}
    for sample, one in zip(samples, off, strict=True):
        if sample.candidate.batch == smallest[sample.model]:
            known.setdefault((sample.model, sample.candidate.engine), []).append(one)
    return [
        one - median(known[key])
        if (key := (s.model, s.candidate.engine)) in known and s.candidate.batch > smallest[s.model]
        else math.nan
        for s, one in zip(samples, off, strict=True)
    ]


def _by_engine(samples: Sequence[Sample], off: Sequence[float]) -> dict[str, list[float]]:
    """Errors as factors of at least 1, by engine."""
    found: dict[str, list[float]] = {}
    for sample, one in zip(samples, off, strict=True):
        if not math.isnan(one):
            found.setdefault(sample.candidate.engine, []).append(math.exp(min(abs(one), 20.0)))
    return found


@dataclass(frozen=True)
class _Table:
    """Samples as a regression: `left` = `matrix` @ (what the base's coefficients are moved by).

    Attributes:
        names: of the K features.
        matrix: (N, K).
        left: (N,) logarithms of how many times longer a sample took than the base predicts.
        start: the base's coefficients.
    """

    samples: Sequence[Sample]
    names: list[str]
    matrix: np.ndarray[Any, Any]
    left: np.ndarray[Any, Any]
    start: dict[str, float]

    @classmethod
    def of(cls, samples: Sequence[Sample], base: CostModel | None) -> _Table:
        """The table of samples; without a base, from the roofline alone."""
        import numpy as np

        start = dict(base.coefficients) if base else {}
        found = [_features(s.work, s.candidate, s.platform) for s in samples]
        names = sorted({name for _, row in found for name in row})
        matrix = np.array([[row.get(name, 0.0) for name in names] for _, row in found])
        taken = np.log([s.seconds / guess_s for s, (guess_s, _) in zip(samples, found, strict=True)])
        return cls(samples, names, matrix, taken - matrix @ [start.get(name, 0.0) for name in names], start)

    def moved(self, without: str = "") -> np.ndarray[Any, Any]:
        """Ridge regression (K,) on all models but one; every model weighs the same."""
        import numpy as np

        counts = Counter(sample.model for sample in self.samples)
        typical = len(self.samples) / len(counts)
        weight = np.array([(s.model != without) * typical / counts[s.model] for s in self.samples])
        normal = self.matrix.T @ (self.matrix * weight[:, None]) + _RIDGE * np.eye(len(self.names))
        solution: np.ndarray[Any, Any] = np.linalg.solve(normal, self.matrix.T @ (self.left * weight))
        return solution

    def solved(self) -> dict[str, float]:
        """The coefficients."""
        moved = zip(self.names, self.moved(), strict=True)
        return self.start | {name: self.start.get(name, 0.0) + float(change) for name, change in moved}

    def left_out(self) -> list[float]:
        """Logarithms of how many times longer each sample took than predicted when its model is not fitted on."""
        found = [0.0] * len(self.samples)
        for model in sorted({sample.model for sample in self.samples}):
            off = self.left - self.matrix @ self.moved(without=model)
            for place, sample in enumerate(self.samples):
                if sample.model == model:
                    found[place] = float(off[place])
        return found


def _nine_of_ten(factors: Sequence[float]) -> float:
    return max(factors) if len(factors) < 10 else quantiles(factors, n=10)[-1]


def samples_of(
    name: str, work: Work, seconds: Mapping[Candidate, float], platform: PlatformProfile
) -> list[Sample]:
    """What can be learnt from the measurements of a model: those of engines alone."""
    return [
        Sample(name, work, candidate, platform, taken_s)
        for candidate, taken_s in seconds.items()
        if ">" not in candidate.engine and candidate.optimise
    ]


def shipped() -> CostModel:
    """The model that comes with the package."""
    text = resources.files("raceline.convert").joinpath(_SHIPPED).read_text(encoding="utf-8")
    return from_json(CostModel, json.loads(text))


def for_platform(platform: PlatformProfile, method: int) -> CostModel | None:
    """The shipped model, moved towards what the cache holds of this machine; None where neither fits it.

    Args:
        platform: where candidates will run.
        method: version of the way of measuring.
    """
    base = shipped()
    known = base if base.architecture == platform.architecture and base.version == VERSION else None
    samples = list(_cached(platform, method))
    models = len({sample.model for sample in samples})
    if models < _LEAST_MODELS:
        return known
    return fit(samples, f"{models} models tuned on this machine, from {base.source}", base=known)


def _cached(platform: PlatformProfile, method: int) -> Iterable[Sample]:
    """What profiles in the cache tell of this machine; what is damaged is passed over."""
    folder = cache_dir() / "profiles" / platform.key
    for path in sorted(folder.glob("*.json"))[:_MOST_CACHED]:
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["method"] != method or data.get("work") is None:
                continue
            profile, work = Profile.from_json(data["profile"]), from_json(Work, data["work"])
        except (OSError, ValueError, KeyError, TypeError, RecursionError, ConfigError) as error:
            _logger.debug("nothing is learnt from %s: %s", path, error)
            continue
        seconds = {row.candidate: row.latency_s for row in profile.measurements if not row.failure}
        yield from samples_of(profile.model_sha256, work, seconds, platform)


@dataclass
class Expectation:
    """What is expected of the candidates of one model, corrected by what was measured of it.

    Args:
        model: None: nothing is expected.
        work: of the model's items; None where unknown.
        told_s: what a log of elsewhere tells of the same candidates; it goes before predictions.
    """

    model: CostModel | None
    work: Work | None
    platform: PlatformProfile
    told_s: Mapping[Candidate, float] = field(default_factory=dict)
    _off: dict[str, float] = field(default_factory=dict)

    def seconds(self, candidate: Candidate) -> float | None:
        """What a call should take; None where nothing is known."""
        if candidate in self.told_s:
            return self.told_s[candidate]
        if self.model is None or self.work is None:
            return None
        predicted_s = self.model.predict_s(self.work, candidate, self.platform)
        return None if predicted_s is None else predicted_s * self._off.get(candidate.engine, 1.0)

    def learn(self, measured_s: Mapping[Candidate, float]) -> None:
        """Correct each engine's predictions by what its candidates took at an earlier batch."""
        off: dict[str, list[float]] = {}
        for candidate, taken_s in measured_s.items():
            if self.model is not None and self.work is not None:
                predicted_s = self.model.predict_s(self.work, candidate, self.platform)
                if predicted_s:
                    off.setdefault(candidate.engine, []).append(taken_s / predicted_s)
        self._off |= {engine: median(factors) for engine, factors in off.items()}

    def ordered(self, founders: Iterable[Candidate]) -> list[Candidate]:
        """Those that should be fast first, then those of which nothing is known, optimised graphs before others."""

        def rank(candidate: Candidate) -> tuple[float, bool]:
            expected_s = self.seconds(candidate)
            return math.inf if expected_s is None else expected_s, candidate.variant == "source"

        return sorted(founders, key=rank)

    def hopeless(self, founders: Sequence[Candidate], *, first: bool) -> list[Candidate]:
        """Those that may wait: even at the edge of their engine's error they are far behind.

        They are expected to take more than three times what the best on as many cores should, and more than the
        errors of both engines explain. At the `first` batch each engine's best is never among them.
        """
        expected = {c: s for c in founders if (s := self.seconds(c)) is not None and self.model is not None}
        kept: set[Candidate] = set()
        if first:
            for engine in {c.engine for c in expected}:
                kept.add(min((c for c in expected if c.engine == engine), key=expected.__getitem__))
        waiting = []
        for candidate in self.ordered(c for c in expected if c not in kept):
            rivals = [c for c in expected if c.cores <= candidate.cores]
            best = min(rivals, key=expected.__getitem__)
            margin = max(_HOPELESS, self._error(candidate) * self._error(best))
            if candidate != best and expected[candidate] > margin * expected[best]:
                waiting.append(candidate)
        return waiting

    def _error(self, candidate: Candidate) -> float:
        """The factor that nine of ten expectations of an engine keep to."""
        if self.model is None:
            return math.inf
        known = self.model.mended_error if candidate.engine in self._off else self.model.error
        return known.get(candidate.engine, math.inf)
