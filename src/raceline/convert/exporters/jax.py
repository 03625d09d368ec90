"""Export a function of JAX by jax2onnx; as a script, one of the user's own Python file, which is run for it."""

import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

OPSET = 21

Shape = Sequence[int | str]


def main() -> None:
    """Answer one request; see `exporting`."""
    given = json.load(sys.stdin)
    answer = Path(given["answer"])
    try:
        answer.write_text(json.dumps(_from_file(given)), encoding="utf-8")
    except ImportError as error:
        answer.write_text(json.dumps({"missing": error.name or str(error)}), encoding="utf-8")
    except BaseException as error:  # noqa: BLE001  whatever the file or the framework raises is the answer
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        answer.write_text(json.dumps({"error": why}), encoding="utf-8")


def _from_file(given: dict[str, Any]) -> dict[str, Any]:
    import jax

    path = Path(given["path"])
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        return {"error": f"{path.name} is no Python file"}
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    function = getattr(module, given["function"], None)
    if not callable(function):
        return {"error": f"{path.name} has no function {given['function']!r}"}
    model = convert(function, given["shapes"], given["dtypes"])
    Path(given["folder"], "model.onnx").write_bytes(model.SerializeToString())
    return {"version": jax.__version__}


def convert(function: Any, shapes: Any, dtypes: Any) -> Any:
    """The ONNX model of a function of arrays.

    Args:
        function: what it closes over becomes weights.
        shapes: of each argument, by name or in order; an axis is a size, or a name where it is open. None takes
            the function's own attribute `shapes`.
        dtypes: of each argument, likewise; None for float32.

    Raises:
        ValueError: the shapes are not given, or do not fit the function.
        Whatever jax2onnx raises.
    """
    names = _names(function)
    ordered = _in_order(getattr(function, "shapes", None) if shapes is None else shapes, names, "shapes")
    if ordered is None:
        raise ValueError(
            "the shapes of the arguments are unknown: say shapes=[('batch', 3)] with one for each argument, or set "
            f"them as an attribute: {names[0] if names else 'function'}.shapes"
        )
    kinds = _in_order(dtypes, names, "dtypes") or ["float32"] * len(ordered)
    if len(kinds) != len(ordered):
        raise ValueError(f"{len(kinds)} dtypes for {len(ordered)} shapes")
    if not names or len(names) < len(ordered):
        names = [f"x{place}" for place in range(len(ordered))]
    inputs = [_struct(shape, kind) for shape, kind in zip(ordered, kinds, strict=True)]
    import jax2onnx  # only now: it takes ten seconds, and what is wrong with the request is told before
    import onnx_ir

    model = jax2onnx.to_onnx(
        function, inputs, opset=OPSET, input_names=names[: len(ordered)], return_mode="ir"
    )
    _name_outputs(model.graph)
    return onnx_ir.to_proto(model)


def _name_outputs(graph: Any) -> None:
    """Name the outputs out_0, out_1, ...: jax2onnx's own names change with its version and the last operation."""
    wanted = {f"out_{place}": value for place, value in enumerate(graph.outputs)}
    for node in graph.all_nodes():
        for value in node.outputs:
            if value.name in wanted and value is not wanted[value.name]:
                value.name += "_inner"
    for name, value in wanted.items():
        if not value.is_graph_input():
            value.name = name


def _names(function: Any) -> list[str]:
    """The positional arguments, as far as they are known."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []
    positional = {inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD}
    return [one.name for one in parameters if one.kind in positional]


def _in_order(given: Any, names: list[str], what: str) -> list[Any] | None:
    if isinstance(given, Mapping):
        if unknown := [name for name in given if name not in names]:
            raise ValueError(f"{what} for {unknown[0]!r}; the arguments are {', '.join(names)}")
        return [given[name] for name in names if name in given]
    return None if given is None else list(given)


def _struct(shape: Shape, dtype: str) -> Any:
    """A shape with a type; open axes are symbols of JAX."""
    import jax
    from jax import export

    if all(isinstance(dim, int) for dim in shape):
        return jax.ShapeDtypeStruct(tuple(shape), dtype)
    if dtype == "float32":
        return tuple(shape)
    return jax.ShapeDtypeStruct(export.symbolic_shape(",".join(map(str, shape))), dtype)


if __name__ == "__main__":
    main()
