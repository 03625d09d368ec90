"""A whole Paddle model: find its files, read them, translate the program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.convert.build import Builder
from raceline.convert.formats.paddle import (
    activation,
    detection,
    math,
    neural,
    params,
    pir,
    program,
    quantised,
    select,
    shape,
    window,
)
from raceline.convert.formats.paddle.call import Absent, source_node
from raceline.convert.lower import lower, merged
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Model, Provenance

RULES = merged(
    activation.rules, detection.rules, math.rules, neural.rules, quantised.rules, select.rules, shape.rules,
    window.rules,
)  # fmt: skip
_PROGRAMS = ("__model__", "inference.pdmodel", "model.pdmodel", "inference.json")
_WEIGHTS = ("__params__", "params", "weights")
_WAY_OUT = (
    "Convert the model with paddle2onnx and read its ONNX file, or open an issue with the operator's name."
)


def program_of(path: Path) -> Path:
    """The program's file: the path itself, or the only one in the folder that it names.

    Raises:
        BadModelError: the folder has none, or several.
    """
    if not path.is_dir():
        return path
    known = [path / name for name in _PROGRAMS if (path / name).is_file()]
    found = known[:1] or sorted(p for p in path.glob("*.pdmodel") if p.is_file())
    if len(found) != 1:
        why = f"it has {len(found) or 'no'} program files (.pdmodel, __model__, inference.json)"
        raise BadModelError(f"{path.name} is no Paddle model", why, "Name the file itself.")
    return files.inside(path, found[0].name)


def read(path: Path, limits: Limits, beside: Path | None = None) -> Model:
    """Read and translate a model.

    Raises:
        BadModelError: its files are absent, damaged, hostile or do not belong together.
        UnsupportedOperatorError: operators that cannot be translated, all of them.
    """
    where = program_of(path)
    parse = pir.parse if pir.looks_like_pir(where) else program.parse
    parsed = parse(files.content(where, limits), where.name, limits)
    if not parsed.blocks:
        raise BadModelError(f"{where.name} is broken", "it has no block")
    main = parsed.blocks[0]
    wanted = params.weights_of(main.variables)
    weights, used = _weights(where, wanted, limits, beside)
    builder = Builder(where.stem, limits=limits)
    values: dict[str, Any] = {name: builder.constant(array, name) for name, array in weights.items()}
    _add_inputs(builder, main, values, where.name)
    nodes = [
        source_node(op, number, main.variables)
        for number, op in enumerate(main.operators)
        if op.type not in {"feed", "fetch"}
    ]
    lower(builder, nodes, RULES, values, source=where.name, way_out=_WAY_OUT)
    _add_outputs(builder, main, values, where.name)
    return builder.model(
        Provenance(
            source=path.name,
            source_format="paddle",
            source_sha256=files.sha256([where, *used]),
            producer=_producer(parsed.version),
        )
    )


def _producer(version: int) -> str:
    """Paddle's version from its number, as 2006001."""
    return f"paddle {version // 1_000_000}.{version // 1000 % 1000}.{version % 1000}" if version else "paddle"


def _weights(
    where: Path, wanted: list[program.Variable], limits: Limits, given: Path | None
) -> tuple[Mapping[str, Any], list[Path]]:
    """The weights, and the files that hold them."""
    if not wanted:
        return {}, []
    if given is not None:
        return params.combined(given, wanted, limits), [given]
    names = (f"{where.stem}.pdiparams", *_WEIGHTS) if where.suffix else (*_WEIGHTS, f"{where.name}.pdiparams")
    for name in names:
        beside = where.parent / name
        if beside.is_file():
            return params.combined(files.inside(where.parent, name), wanted, limits), [beside]
    if all("/" not in v.name and (where.parent / v.name).is_file() for v in wanted):
        return params.separate(where.parent, wanted, limits), [where.parent / v.name for v in wanted]
    raise BadModelError(
        f"{where.name} has no weights", f"{names[0]!r} is not beside it", "Put both files in one folder."
    )


def _add_inputs(b: Builder, main: program.Block, values: dict[str, Any], source: str) -> None:
    for op in _in_order(main, "feed", "Out"):
        variable = main.variables.get(op)
        if variable is None or variable.dtype is None:
            raise BadModelError(f"{source} is broken", f"its input {op!r} is declared as no tensor")
        if op in values:
            raise BadModelError(f"{source} is broken", f"{op!r} is an input twice, or a weight")
        sizes = [None if dim < 0 else dim for dim in variable.shape]
        values[op] = b.input(op, variable.dtype, sizes)


def _add_outputs(b: Builder, main: program.Block, values: Mapping[str, Any], source: str) -> None:
    names = _in_order(main, "fetch", "X")
    if not names:
        raise BadModelError(f"{source} is no inference model", "no operation fetches a result")
    for name in names:
        if name not in values or isinstance(values[name], Absent):
            raise BadModelError(f"{source} is broken", f"nothing computes its output {name!r}")
    fetches = [op for op in main.operators if op.type == "fetch" and "name" in op.attributes]
    given = {op.inputs["X"][0]: str(op.attributes["name"]) for op in fetches}
    for place, name in enumerate(names):
        title = given.get(name, name)
        b.output(values[name], title if name not in names[:place] else f"{title}_{place}")


def _in_order(main: program.Block, kind: str, slot: str) -> list[str]:
    """Names that feed or fetch operations move, by their column."""
    found = [
        (column if isinstance(column := op.attributes.get("col", 0), int) else 0, name)
        for op in main.operators
        if op.type == kind
        for name in (op.inputs if kind == "fetch" else op.outputs).get(slot, ())
    ]
    return [name for _, name in sorted(found, key=lambda item: item[0])]


def example_files() -> tuple[bytes, bytes]:
    """The smallest useful model, y = relu(x w + b), as a program and its weights."""
    numbers = {dtype: number for number, dtype in program.DTYPES.items()}
    whole = program.message("Program")()
    block = whole.blocks.add(idx=0, parent_idx=-1)
    for name, dims, kept in (("x", [-1, 3], 0), ("w", [3, 2], 1), ("b", [2], 1), ("h", [-1, 2], 0),
                             ("s", [-1, 2], 0), ("y", [-1, 2], 0)):  # fmt: skip
        var = block.vars.add(name=name, persistable=bool(kept))
        var.type.type = 7
        var.type.lod_tensor.tensor.data_type = numbers[np.dtype(np.float32)]
        var.type.lod_tensor.tensor.dims.extend(dims)
    for name, kind in (("feed", 9), ("fetch", 10)):
        block.vars.add(name=name, persistable=True).type.type = kind
    _add(block, "feed", {"X": ["feed"]}, {"Out": ["x"]}, col=0)
    _add(block, "matmul_v2", {"X": ["x"], "Y": ["w"]}, {"Out": ["h"]})
    _add(block, "elementwise_add", {"X": ["h"], "Y": ["b"]}, {"Out": ["s"]}, axis=-1)
    _add(block, "relu", {"X": ["s"]}, {"Out": ["y"]})
    _add(block, "fetch", {"X": ["y"]}, {"Out": ["fetch"]}, col=0)
    whole.version.version = 0
    weights = params.serialised(example_bias()) + params.serialised(example_weight())
    return whole.SerializeToString(), weights


def example_weight() -> np.ndarray[Any, Any]:
    """The example's matrix."""
    return np.arange(6, dtype=np.float32).reshape(3, 2) - 2


def example_bias() -> np.ndarray[Any, Any]:
    """What the example adds."""
    return np.array([0.5, -0.5], np.float32)


def _add(block: Any, kind: str, reads: Any, writes: Any, **attributes: int) -> None:
    op = block.ops.add(type=kind)
    for slots, names in ((op.inputs, reads), (op.outputs, writes)):
        for parameter, arguments in names.items():
            slots.add(parameter=parameter, arguments=arguments)
    for name, number in attributes.items():
        op.attrs.add(name=name, type=0, i=number)
