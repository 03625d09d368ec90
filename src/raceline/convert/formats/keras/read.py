"""From an open file to a model: structure, weights, inputs, layers, outputs."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from raceline.convert.build import Builder, Dim
from raceline.convert.formats.keras.calls import Calls, named_inputs
from raceline.convert.formats.keras.evaluate import TABLE, WAY_OUT
from raceline.convert.formats.keras.layers import Layer, Tensor
from raceline.convert.formats.keras.operations import plain_type
from raceline.convert.formats.keras.source import Source, open_source
from raceline.convert.formats.keras.structure import Reader, leaves
from raceline.convert.formats.keras.variables import MODELS
from raceline.convert.formats.keras.weights import assign
from raceline.convert.lower import UnsupportedError, lower
from raceline.core.errors import BadModelError
from raceline.core.units import counted
from raceline.ir.limits import Limits
from raceline.ir.model import Model
from raceline.ir.signature import Provenance

_logger = logging.getLogger(__name__)
_BATCH = "batch"


def read_keras(path: Path, *, limits: Limits | None = None) -> Model:
    """Read a .keras archive or a whole-model HDF5 file.

    Args:
        path: the file.
        limits: what the file may ask of this machine.

    Raises:
        BadModelError: it is no whole model of Keras 2 or 3, hostile, or beyond the limits.
        UnsupportedOperatorError: layers and uses of layers that have no translation, all of them.
    """
    limits = limits or Limits()
    return _model(open_source(path, limits), limits)


def _model(source: Source, limits: Limits) -> Model:
    _refuse_old(source)
    top = Reader(source.name, source.major, TABLE).layer(source.config)
    if top.graph is None:
        what = f"{source.name} holds a model of the class {top.kind}, whose layers are joined by Python code"
        raise BadModelError(what, "its file does not say how", WAY_OUT)
    assign(source, top, allow_nan=limits.allow_nan)
    builder = Builder(top.name, limits=limits)
    names = [_input_name(top, ref.layer, number) for number, ref in enumerate(named_inputs(top))]
    calls = Calls(source.name, limits)
    outputs = calls.unroll(top.graph, names)
    values: dict[str, Any] = {}
    for name, ref in zip(names, named_inputs(top), strict=True):
        shape, dtype = _declared(source, top, ref.layer)
        values[name] = Tensor(builder.input(name, dtype, _dims(name, shape)))
    lower(builder, calls.nodes, TABLE, values, source=source.name, way_out=WAY_OUT)
    for name, key in zip(leaves(outputs), _output_names(top, outputs), strict=True):
        builder.output(values[str(name)].value, key)
    model = builder.model(_provenance(source))
    caveats = _caveats(top)
    for caveat in caveats:
        _logger.warning("%s: %s", source.name, caveat)
    for step in _steps(top) + caveats:
        model = model.with_step(step)
    return model


def _refuse_old(source: Source) -> None:
    """Refuse what is older than Keras 2.

    Raises:
        BadModelError: it is.
    """
    if source.version.startswith(("0.", "1.")):
        raise BadModelError(
            f"{source.name} was written by Keras {source.version}",
            "the oldest that is read is 2.0",
            "Load it with Keras 2 and save it again.",
        )


def _provenance(source: Source) -> Provenance:
    return Provenance(
        source=source.name,
        source_format="keras",
        source_sha256=source.sha256,
        producer=f"keras {source.version}".strip(),
    )


def _input_name(top: Layer, layer: str, number: int) -> str:
    """The name by which callers know an input; that of the model's first layer where it has no layer of its own."""
    if layer:
        return layer
    first = next(iter(top.graph.layers))
    return f"{first}_input" if number == 0 else f"{first}_input_{number}"


def _declared(source: Source, top: Layer, name: str) -> tuple[list[Any], Any]:
    """Shape and type of an input.

    Raises:
        BadModelError: the file does not say, or it is no tensor of numbers.
    """
    layer = top.graph.layers.get(name) or next(iter(top.graph.layers.values()))
    config = layer.config
    if config.get("sparse") or config.get("ragged"):
        raise BadModelError(f"{source.name} is not dense", f"input {name!r} is a sparse or ragged tensor")
    shape = config.get("batch_shape", config.get("batch_input_shape"))
    if shape is None and top.kind == "Sequential":
        shape = _sequential_shape(top, layer)
    if not isinstance(shape, list) or not all(
        size is None or (isinstance(size, int) and 0 < size < 1 << 31) for size in shape
    ):
        raise BadModelError(
            f"{source.name} does not say what shape its input {name!r} has",
            f"it says {shape}",
            "Give the model an Input, or build it, and save it again.",
        )
    return shape, _input_type(
        source, name, config if layer.kind == "InputLayer" else {**config, "dtype": None}
    )


def _sequential_shape(top: Layer, first: Layer) -> Any:
    """The input's shape of a Sequential that has no InputLayer."""
    build = top.config.get("build_config")
    shape = top.config.get("build_input_shape") or (
        build.get("input_shape") if isinstance(build, dict) else None
    )
    if shape is None and first.graph is not None:
        inner = next(iter(first.graph.layers.values()))
        shape = inner.config.get("batch_shape", inner.config.get("batch_input_shape"))
    if shape is None and isinstance(first.config.get("build_config"), dict):
        shape = first.config["build_config"].get("input_shape")
    return shape


def _input_type(source: Source, name: str, config: Any) -> Any:
    dtype = config.get("dtype") or "float32"
    if isinstance(dtype, dict):
        inner = dtype.get("config")
        dtype = inner.get("name", "float32") if isinstance(inner, dict) else "float32"
    try:
        return plain_type(str(dtype).removeprefix("mixed_"))
    except UnsupportedError as error:
        raise BadModelError(
            f"{source.name} reads {dtype} in its input {name!r}",
            "networks of tensors of numbers are read",
            "Prepare text outside of the network.",
        ) from error


def _dims(name: str, shape: list[Any]) -> list[Dim]:
    """The axes of an input, open ones with names."""
    first = _BATCH if shape and shape[0] is None else None
    return [
        size if size is not None else first if axis == 0 and first else f"{name}_{axis}"
        for axis, size in enumerate(shape)
    ]


def _output_names(top: Layer, outputs: Any) -> list[str]:
    """A name for each output: its key where the outputs are a dictionary, else its layer's name as Keras has it."""
    if isinstance(outputs, dict) and not any(isinstance(item, dict | list) for item in outputs.values()):
        return sorted(outputs)
    return [str(ref.layer) or top.name for ref in leaves(top.graph.outputs)]


def _steps(top: Layer) -> list[str]:
    """What a reader of the provenance should know."""
    found: dict[str, int] = {}
    for layer in top.everyone():
        policy = layer.config.get("dtype")
        inner = policy.get("config") if isinstance(policy, dict) else None
        name = inner.get("name") if isinstance(inner, dict) else policy
        if (
            isinstance(name, str)
            and name not in {"float32", ""}
            and layer.kind not in {"InputLayer", *MODELS}
        ):
            if any(width in name for width in ("float16", "float64")):
                found[name] = found.get(name, 0) + 1
    return [
        f"Computed {counted(count, 'layer')} of the policy {name} in float32."
        for name, count in found.items()
    ]


def _caveats(top: Layer) -> list[str]:
    """Where Keras computes different numbers on different backends, which a file does not name."""
    cubic = [
        layer.name for layer in top.everyone() if str(layer.config.get("interpolation")).lower() == "bicubic"
    ]
    if not cubic:
        return []
    return [
        f"Interpolated bicubically ({', '.join(cubic[:5])}) as Keras does on TensorFlow; Keras on torch has "
        "another kernel and gives other numbers (by 0.26 in one case). Compare with the backend of its training."
    ]
