"""Proof that nothing broke: the candidate that was chosen, against a reference run of the original graph.

A failure says who is at fault, the passes or the engine, and names the first node that diverges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.qdq import comes_quantised
from raceline.convert.ties import are_ties
from raceline.core.errors import BadModelError, RacelineError
from raceline.core.progress import Progress, Silent
from raceline.core.records import from_json
from raceline.engines import Session, Tolerance, load, prepare
from raceline.ir import Accuracy, Candidate, Model, Reference, Signature, TensorSpec, make_inputs
from raceline.ir.near import is_exact, is_void, nearness

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
Sizes = Mapping[str, int]
Expose = Callable[[Sequence[str]], Tensors]

_NOTHING_FINITE = "the reference has no finite element"
_SHOWN = 4  # values of a diverging tensor that the report quotes
# A pass may reorder sums, no more; an engine may also use its own approximations of exp, erf and so on.
_STEPS = 0.05  # of an output's largest value, where numbers fell on the other side of a step
_OF_PASSES = Tolerance(atol=1e-6, rtol=1e-4)


@dataclass(frozen=True)
class Difference:
    """How far one output is from the reference, over all cases.

    Attributes:
        name: the output.
        max_abs: largest absolute difference (for integers, booleans and text: how many elements differ); None
            where the two cannot be compared.
        max_rel: the same over the largest magnitude in the reference.
        scale: largest magnitude in the reference; where it is tiny, the generated inputs exercise little.
        ok: whether it is within the tolerance, as a whole and in every slice (see `ir.near`).
        why: what is wrong where it is not a number too far: a shape, a type, NaN on one side, one slice. Where
            it is ok: what makes this a weak proof, such as a constant.
    """

    name: str
    max_abs: float | None
    max_rel: float | None
    scale: float
    ok: bool
    why: str = ""


@dataclass(frozen=True)
class Divergence:
    """The first place where values part.

    Attributes:
        blame: "passes" where the rewritten graph already differs in the reference, "source" where the original
            graph itself gives nothing finite, else "engine".
        node: the node that computes the value; empty where only the engine's own fusions part.
        operator: its operator.
        value: name of the value.
        expected: its first differing elements in the reference.
        got: the same elements as computed.
        difference: over the whole value.
    """

    blame: str
    node: str
    operator: str
    value: str
    expected: tuple[float, ...]
    got: tuple[float, ...]
    difference: Difference

    def __str__(self) -> str:
        where = f"node {self.node!r} ({self.operator})" if self.node else f"value {self.value!r}"
        if self.blame == "source":
            return f"{_NOTHING_FINITE} in an output; it is the original graph that first has none at {where}"
        return f"{self.blame} diverge first at {where}: {self.got} instead of {self.expected}"


@dataclass(frozen=True)
class Equivalence:
    """The verdict.

    Attributes:
        candidate: what ran, in words.
        atol, rtol: tolerance: |a - b| <= atol + rtol * max|b| for each output, and in each slice of it five
            times that beside its own maximum; the absolute part is less where an output is small.
        cases: sizes of the dynamic axes that were tried, each with every seed.
        seeds: of the generated inputs.
        outputs: the worst difference of each output.
        divergence: where a failure begins.
        accuracy: of a candidate with fewer bits, which is held against a budget instead: what its answers are
            worth on items that no range was taken from. `outputs` is then empty, and so are the tolerances.
        allowed_drop: how much of the score may be lost.
    """

    candidate: str
    atol: float
    rtol: float
    cases: tuple[dict[str, int], ...]
    seeds: tuple[int, ...]
    outputs: tuple[Difference, ...]
    divergence: Divergence | None = None
    accuracy: Accuracy | None = None
    allowed_drop: float = 0.0

    @property
    def ok(self) -> bool:
        """Whether every output agreed in every case; with fewer bits: whether the accuracy budget was kept."""
        if self.accuracy is not None:
            return self.accuracy.drop <= self.allowed_drop + 1e-12
        return all(output.ok for output in self.outputs)

    def __str__(self) -> str:
        if self.accuracy is not None:
            verdict = "within" if self.ok else "NOT within"
            return f"{verdict} the accuracy budget of {self.allowed_drop:g}: {self.accuracy}"
        verdict = "proven" if self.ok else "FAILED:"
        return f"{verdict} within {self.rtol:g} of each output's largest value"

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values, the verdict among them."""
        return {"ok": self.ok, **asdict(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Equivalence:
        """The verdict of `to_json`.

        Raises:
            ConfigError: a field is missing, unknown or wrong; the message names it.
        """
        return from_json(cls, {name: value for name, value in data.items() if name != "ok"})


def verify(
    source: Model,
    model: Model,
    candidate: Candidate,
    cases: Sequence[Sizes],
    *,
    seeds: Sequence[int] = (0,),
    session: Session | None = None,
    progress: Progress | None = None,
) -> Equivalence:
    """Compare a candidate with the reference run of the original graph.

    Args:
        source: the model as it was read.
        model: the graph of the candidate's variant.
        candidate: engine, threads and so on.
        cases: sizes of the dynamic axes to try; give at least two where there is one.
        seeds: inputs are generated anew for each.
        session: runs the candidate, and is closed; None to open one that keeps the dynamic axes.
        progress: told of each run.

    Raises:
        BadModelError: the reference or the engine refuses the model.
    """
    tolerance = tolerance_of(candidate.engine, source)
    reference = Reference(source)
    session = session or prepare(model, candidate, source.signature.concrete(cases[0]), fixed=False)
    worst: dict[str, Difference] = {}
    failing: Tensors | None = None
    try:
        with (progress or Silent()).step("compare with the reference", len(cases) * len(seeds)) as step:
            for sizes, seed in ((sizes, seed) for sizes in cases for seed in seeds):
                inputs = make_inputs(source.signature, source.signature.concrete(sizes), seed=seed)
                found = compare(reference, inputs, session.run(inputs), tolerance)
                _keep_worst(worst, found)
                if failing is None and not all(d.ok for d in found):
                    failing = inputs
                step.advance(note=f"{dict(sizes)}")
    finally:
        session.close()
    divergence = None if failing is None else locate(reference, model, candidate, failing, tolerance)
    return Equivalence(
        candidate=str(candidate),
        atol=tolerance.atol,
        rtol=tolerance.rtol,
        cases=tuple(dict(sizes) for sizes in cases),
        seeds=tuple(seeds),
        outputs=tuple(worst.values()),
        divergence=divergence,
    )


def tolerance_of(engine: str, source: Model) -> Tolerance:
    """How far an engine's outputs may be from the reference's.

    A graph that rounds to 8 bits turns the last digit of a number next to the middle between two steps into a
    whole step, which later layers carry on: there, outputs are held to steps and not to digits.
    """
    usual = load(engine).tolerance
    return replace(usual, rtol=max(usual.rtol, _STEPS)) if comes_quantised(source) else usual


def compare(
    reference: Reference,
    inputs: Tensors,
    got: Tensors,
    tolerance: Tolerance,
    *,
    expected: Tensors | None = None,
) -> list[Difference]:
    """Compare what an engine computed with the reference; positions of equal elements agree.

    Args:
        reference: of the model as it was read.
        inputs: with which the engine ran.
        got: its outputs.
        tolerance: the engine's.
        expected: the reference's outputs for these inputs, where they are known already.
    """
    found = differences(reference.run(inputs) if expected is None else expected, got, tolerance)
    return [_unless_ties(difference, reference, inputs, got, tolerance) for difference in found]


def differences(expected: Tensors, got: Tensors, tolerance: Tolerance) -> list[Difference]:
    """Compare outputs by name; a missing one differs, and one without a finite element proves nothing."""
    return [
        _proving(_difference(name, wanted, got.get(name), tolerance), wanted, tolerance)
        for name, wanted in expected.items()
    ]


def _difference(name: str, expected: Array, got: Array | None, tolerance: Tolerance) -> Difference:
    """Compare one tensor: integers, booleans and text must be equal; NaN agrees with NaN."""
    if problem := _misfit(expected, got):
        return Difference(name, None, None, 0.0, False, problem)
    assert got is not None
    if is_exact(expected.dtype):
        wrong = int(np.count_nonzero(expected != got))
        share = wrong / max(1, expected.size)
        return Difference(name, wrong, share, 0.0, not wrong, f"{wrong} elements differ" if wrong else "")
    near = nearness(got, expected, atol=tolerance.atol, rtol=tolerance.rtol)
    if near.max_abs is None:
        return Difference(name, None, None, 0.0, False, near.why)
    max_rel = near.max_abs / near.scale if near.scale else float(near.max_abs > 0)
    return Difference(name, near.max_abs, max_rel, near.scale, near.ok, near.why)


def _proving(found: Difference, expected: Array, tolerance: Tolerance) -> Difference:
    """The difference of an output; agreement proves nothing without numbers, and little with all the same."""
    if not found.ok or is_exact(expected.dtype) or not expected.size:
        return found
    if is_void(expected):
        return replace(found, ok=False, why=f"{_NOTHING_FINITE}, which proves nothing")
    numbers = expected[np.isfinite(expected)]
    if numbers.size > 1 and np.all(numbers == numbers[0]):
        return replace(found, why="every element is the same: the generated inputs exercise it little")
    if found.scale <= tolerance.atol:
        return replace(found, why="no element is larger than the tolerance: the inputs exercise it little")
    return found


def _unless_ties(
    found: Difference, reference: Reference, inputs: Tensors, got: Tensors, tolerance: Tolerance
) -> Difference:
    """The difference, forgiven where it is only another right answer (see `ties`)."""
    if found.ok or found.max_abs is None or got[found.name].dtype.kind not in "iu":
        return found
    if not are_ties(reference, inputs, found.name, got[found.name], tolerance):
        return found
    return replace(found, ok=True, why=f"{found.why}, all of them ties of equal elements")


def _misfit(expected: Array, got: Array | None) -> str:
    """What makes a comparison of numbers impossible; empty where nothing does."""
    if got is None:
        return "missing"
    if got.shape != expected.shape:
        return f"shape {list(got.shape)} instead of {list(expected.shape)}"
    both_text = got.dtype.kind in "OSU" and expected.dtype.kind in "OSU"
    return "" if both_text or got.dtype == expected.dtype else f"{got.dtype} instead of {expected.dtype}"


def _keep_worst(worst: dict[str, Difference], found: Iterable[Difference]) -> None:
    def badness(d: Difference) -> tuple[bool, float]:
        return not d.ok, np.inf if d.max_rel is None else d.max_rel

    for new in found:
        worst[new.name] = max(worst.get(new.name, new), new, key=badness)


# ---------------------------------------------------------------- where a failure begins


def locate(
    reference: Reference, model: Model, candidate: Candidate, inputs: Tensors, tolerance: Tolerance
) -> Divergence:
    """Find the first value, in order of computation, that differs from the original graph's.

    Args:
        reference: of the original graph.
        model: the rewritten graph.
        candidate: how the engine runs it.
        inputs: with which the outputs differ.
        tolerance: the engine's.
    """
    expected = dict(reference.steps(inputs))
    if spoilt := _nothing_finite(model, expected):
        return _divergence("source", spoilt, model, expected, expected)
    common = _computed(model, expected)
    rewritten = dict(Reference(model).steps(inputs))
    outputs = [spec.name for spec in model.signature.outputs]
    if _first(outputs, expected, rewritten, _OF_PASSES):
        first = _first([*common, *outputs], expected, rewritten, _OF_PASSES)
        return _divergence("passes", first, model, expected, rewritten)
    # Passes may keep a name for a value they scaled, so the engine is held against the graph that it ran.
    return _locate_in_engine(model, candidate, inputs, rewritten, common, tolerance)


def _locate_in_engine(
    model: Model,
    candidate: Candidate,
    inputs: Tensors,
    expected: Tensors,
    common: list[str],
    tolerance: Tolerance,
) -> Divergence:
    def expose(names: Sequence[str]) -> Tensors:
        shapes = {name: value.shape for name, value in inputs.items()}
        session = prepare(exposing(model, names, expected), replace(candidate, chunk=0), shapes, fixed=False)
        try:
            return session.run(inputs)
        finally:
            session.close()

    name, got = first_divergence(common, expected, expose, tolerance)
    return _divergence("engine", name, model, expected, got)


def first_divergence(
    names: Sequence[str], expected: Tensors, expose: Expose, tolerance: Tolerance
) -> tuple[str, Tensors]:
    """The first of `names` that an engine computes wrongly, and what it computed.

    All values are looked at in one run. Looking keeps an engine from fusing, which may hide the fault: then
    single values are looked at by bisection, one run each.

    Args:
        names: values in order of computation; the last one is known to differ.
        expected: every value in the reference.
        expose: runs the engine with these values as further outputs.
        tolerance: the engine's.
    """
    try:
        got = expose(names)
        if first := _first(names, expected, got, tolerance):
            return first, got
    except RacelineError:
        pass  # an engine may refuse some value as an output; single ones are tried below
    low, high = 0, len(names) - 1
    last_seen: Tensors = {}
    while low < high:
        middle = (low + high) // 2
        try:
            got = expose([names[middle]])
        except RacelineError:
            got = {}
        if names[middle] in got and _first([names[middle]], expected, got, tolerance):
            high, last_seen = middle, got
        else:
            low = middle + 1
    return names[high], last_seen or expose([names[high]])


def exposing(model: Model, names: Sequence[str], values: Tensors) -> Model:
    """The model with these values as further outputs; `values` tell their types."""
    import onnx_ir as ir

    result = model.clone()
    known = _values(result.program)
    have = {spec.name for spec in model.signature.outputs}
    new = [name for name in names if name not in have and name in known]
    for name in new:
        value = known[name]
        value.type = value.type or ir.TensorType(ir.DataType.from_numpy(values[name].dtype))
        value.shape = value.shape or ir.Shape([None] * values[name].ndim)
        result.program.graph.outputs.append(value)
    specs = tuple(_spec(name, values[name]) for name in new)
    signature: Signature = replace(model.signature, outputs=(*model.signature.outputs, *specs))
    return replace(result, signature=signature)


def _spec(name: str, value: Array) -> TensorSpec:
    return TensorSpec(name, value.dtype.name, tuple(f"{name}_{axis}" for axis in range(value.ndim)))


def _values(program: ir.Model) -> dict[str, ir.Value]:
    """What the nodes of the main graph compute, by name, in order."""
    return {out.name: out for node in program.graph for out in node.outputs if out.name}


def _computed(model: Model, expected: Tensors) -> list[str]:
    """Names of values that both graphs compute, in the rewritten graph's order."""
    names = [n for n in _values(model.program) if isinstance(expected.get(n), np.ndarray)]
    if not names:
        raise BadModelError(f"{model.name} has no value in common with its source")
    return names


def _first(names: Sequence[str], expected: Tensors, got: Tensors, tolerance: Tolerance) -> str:
    """The first name whose values differ; empty where none does."""
    both = (n for n in names if n in got)
    return next((n for n in both if not _difference(n, expected[n], got[n], tolerance).ok), "")


def _nothing_finite(model: Model, expected: Tensors) -> str:
    """The first value without a finite element, if an output has none either; else empty.

    The first that is NaN, if one is: infinity alone may be a mask.
    """
    void = [name for name, value in expected.items() if isinstance(value, np.ndarray) and is_void(value)]
    if not {spec.name for spec in model.signature.outputs} & set(void):
        return ""
    known = _values(model.program)
    return next((n for n in void if n in known and np.all(np.isnan(expected[n]))), void[-1])


def _divergence(blame: str, name: str, model: Model, expected: Tensors, got: Tensors) -> Divergence:
    value = _values(model.program).get(name)
    producer = value.producer() if value else None
    difference = _difference(name, expected[name], got.get(name), Tolerance(0.0, 0.0))
    wanted, computed = _samples(expected[name], got.get(name))
    return Divergence(
        blame=blame,
        node=(producer.name or "") if producer else "",
        operator=producer.op_type if producer else "",
        value=name,
        expected=wanted,
        got=computed,
        difference=difference,
    )


def _samples(expected: Array, got: Array | None) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The first few elements that differ most, on both sides."""
    if got is None or got.shape != expected.shape or expected.dtype.kind in "OSU":
        return (), ()
    a, b = got.reshape(-1).astype(np.float64), expected.reshape(-1).astype(np.float64)
    worst = np.argsort(-np.nan_to_num(np.abs(a - b), nan=np.inf), kind="stable")[:_SHOWN]
    return tuple(map(float, b[worst])), tuple(map(float, a[worst]))
