"""Run a model over calibration data and keep what each of its tensors was like."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline import engines
from raceline.convert.quantise.ranges import Observed
from raceline.convert.quantise.samples import Samples
from raceline.core.errors import BadModelError, RacelineError
from raceline.core.progress import Progress, Silent
from raceline.ir import Model, TensorSpec

if TYPE_CHECKING:
    import onnx_ir as ir

Array = np.ndarray[Any, Any]
BINS = 2048
_ENGINES = ("onnxruntime", "patchwork")  # the second for models that the first does not take whole


def observe(
    model: Model,
    samples: Samples,
    names: Collection[str],
    *,
    threads: int = 1,
    histograms: bool = True,
    progress: Progress | None = None,
) -> dict[str, Observed]:
    """Ranges, and histograms, of some values of a model over calibration data.

    Args:
        model: plain, without fused functions; stays as it is.
        samples: what to run it on; twice, where histograms are wanted.
        names: the values to watch, those of the main graph.
        threads: of the engine.
        histograms: whether to count values too, for the methods that need it.
        progress: told of each batch.

    Raises:
        BadModelError: no engine runs the model, or it computes NaN or infinity on these samples.
    """
    found = {name: Observed() for name in names}
    passes = 2 if histograms else 1
    with (progress or Silent()).step("calibrate", total=passes * sum(1 for _ in samples)) as step:
        session = open_exposed(model, names, threads)
        try:
            for turn in range(passes):
                for tensors in _watched(session, samples, names, model.name):
                    for name, values in tensors.items():
                        if turn == 0:
                            found[name].reach(values)
                        else:
                            found[name].count(values, BINS)
                    step.advance()
        finally:
            session.close()
    return found


def _watched(
    session: engines.Session, samples: Samples, names: Collection[str], model: str
) -> Iterator[dict[str, Array]]:
    for batch in samples:
        outputs = session.run(batch)
        tensors = {name: outputs[name] if name in outputs else batch[name] for name in names}
        for name, values in tensors.items():
            if not np.isfinite(values).all():
                raise BadModelError(
                    f"{model} computes NaN or infinity in {name!r} on the calibration data",
                    samples.origin,
                    "Ranges cannot be taken from such numbers: check the data's scale.",
                )
        yield tensors


def open_exposed(model: Model, names: Collection[str], threads: int) -> engines.Session:
    """A session of the model that also gives inner values.

    Raises:
        BadModelError: no engine runs it; every reason is in the message.
    """
    exposed = with_outputs(model, names)
    reasons = []
    for name in _ENGINES:
        try:
            return engines.load(name).load(exposed, engines.Options(threads=threads))
        except RacelineError as error:
            reasons.append(f"{name}: {error}")
    raise BadModelError(f"{model.name} cannot be run for calibration", "; ".join(reasons))


def with_outputs(model: Model, names: Collection[str]) -> Model:
    """A copy with more outputs: inner values of the main graph; inputs and outputs need no copy."""
    made = model.clone()
    graph = made.program.graph
    known = {spec.name for spec in (*made.signature.inputs, *made.signature.outputs)}
    values: Mapping[str, ir.Value] = {
        str(value.name): value for node in graph for value in node.outputs if value.name
    }
    specs = list(made.signature.outputs)
    for name in names:
        if name in known:
            continue
        value = values[name]
        graph.outputs.append(value)
        rank = 0 if value.shape is None else len(value.shape)
        specs.append(TensorSpec(name, "float32", tuple(f"{name}_{axis}" for axis in range(rank))))
    return replace(made, signature=replace(made.signature, outputs=tuple(specs)))
