"""Export a scikit-learn estimator by skl2onnx; as a script, one that a .skops file holds."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 24  # enough to tell a wrong conversion
EDGE_STEPS = 10  # halvings of the way to where a label changes; float32 can tell both sides apart
OPSETS = {"": 21, "ai.onnx.ml": 3}
TRUSTED = (
    "sklearn._loss.link.Interval",
    "sklearn._loss.link.IdentityLink",
    "sklearn._loss.link.LogitLink",
    "sklearn._loss.link.LogLink",
    "sklearn._loss.link.MultinomialLogit",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.metrics._dist_metrics.MinkowskiDistance64",
    "sklearn.neighbors._ball_tree.BallTree",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
)
"""Types of scikit-learn that skops asks about and that only hold data; they are loaded in a child process."""


def main() -> None:
    """Answer one request; see `exporting`."""
    given = json.load(sys.stdin)
    answer = Path(given["answer"])
    try:
        answer.write_text(json.dumps(_from_file(given)), encoding="utf-8")
    except ImportError as error:
        answer.write_text(json.dumps({"missing": error.name or str(error)}), encoding="utf-8")
    except Exception as error:  # noqa: BLE001  whatever the framework says is the answer
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        answer.write_text(json.dumps({"error": why}), encoding="utf-8")


def _from_file(given: dict[str, Any]) -> dict[str, Any]:
    import sklearn
    from skops import io

    unknown = set(io.get_untrusted_types(file=given["path"])) - {*TRUSTED, *given["trusted"]}
    if unknown:
        names = ", ".join(sorted(unknown))
        way_out = f"If you trust them, read it with trusted={sorted(unknown)!r}."
        return {"error": f"it holds types that could run code: {names}", "next_step": way_out}
    estimator = io.load(given["path"], trusted=[*TRUSTED, *given["trusted"]])
    model = convert(estimator, given["inputs"])
    Path(given["folder"], "model.onnx").write_bytes(model.SerializeToString())
    np.savez(Path(given["folder"], "proof.npz"), **proof(estimator, model))
    return {"version": sklearn.__version__, "kind": type(estimator).__name__}


def convert(estimator: Any, inputs: dict[str, Any] | None) -> Any:
    """The ONNX model of a fitted estimator.

    Args:
        estimator: anything that skl2onnx knows.
        inputs: name -> (element type, columns); None to find out.

    Raises:
        ValueError: what goes in cannot be found out.
        Whatever skl2onnx raises.
    """
    from skl2onnx import to_onnx

    types = _initial_types(inputs or _inputs(estimator))
    choices: list[Any] = [None, {type(_last(estimator)): {}}]
    if hasattr(estimator, "classes_") or hasattr(estimator, "predict_proba"):
        choices.insert(0, {id(estimator): {"zipmap": False}})
    with _plain_numbers():
        for options in choices[:-1]:
            try:
                return _settled(to_onnx(estimator, initial_types=types, options=options, target_opset=OPSETS))
            except (
                NameError
            ):  # no such option: some classifiers make no maps, and skl2onnx itself asks some for them
                continue
        return _settled(to_onnx(estimator, initial_types=types, options=choices[-1], target_opset=OPSETS))


def _last(estimator: Any) -> Any:
    """The step of a pipeline that predicts."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[-1][1]
    return estimator


def _settled(model: Any) -> Any:
    """The model with outputs as it computes them: skl2onnx (1.20) declares some in other shapes."""
    from onnx import helper, shape_inference

    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    for output in graph.output:
        maker = makers.get(output.name)
        while maker is not None and maker.op_type in {"Cast", "Identity"}:
            maker = makers.get(maker.input[0])
        if output.name == "label" and maker is not None and maker.op_type == "ArrayFeatureExtractor":
            # It always gives rows: here one, with the labels of all items (QuadraticDiscriminantAnalysis).
            makers[output.name].output[0] = "label_row"
            graph.initializer.append(helper.make_tensor("label_shape", 7, [1], [-1]))
            graph.node.append(
                helper.make_node("Reshape", ["label_row", "label_shape"], ["label"], "label_flat")
            )
    bare = type(model)()
    bare.CopyFrom(model)
    for output in bare.graph.output:
        output.type.tensor_type.ClearField("shape")
    for output, inferred in zip(graph.output, shape_inference.infer_shapes(bare).graph.output, strict=True):
        if _contradict(output.type.tensor_type, inferred.type.tensor_type):
            output.type.tensor_type.shape.CopyFrom(inferred.type.tensor_type.shape)
    return model


def _contradict(declared: Any, inferred: Any) -> bool:
    """Whether an output's shape cannot be what it is declared to be."""
    if not declared.HasField("shape") or not inferred.HasField("shape"):
        return False
    one, other = ([dim.dim_value for dim in kind.shape.dim] for kind in (declared, inferred))
    return len(one) != len(other) or any(a and b and a != b for a, b in zip(one, other, strict=True))


def proof(estimator: Any, model: Any) -> dict[str, Any]:
    """Made-up rows, and what scikit-learn computes of them.

    Returns:
        `in NAME` for the input: random rows, rows that the estimator remembers, and rows on both sides of
        where a label changes; `group` for the kind of each row; `out NAME NUMBER` for outputs, one or several that
        each may be. Nothing where rows cannot be made up: of texts, or of more than one table.
    """
    if len(model.graph.input) != 1 or model.graph.input[0].type.tensor_type.elem_type not in {1, 11}:
        return {}
    (table,) = model.graph.input
    dtype = np.float32 if table.type.tensor_type.elem_type == 1 else np.float64
    columns = table.type.tensor_type.shape.dim[1].dim_value
    random = np.random.default_rng(0)
    outputs = [output.name for output in model.graph.output]
    groups = [
        random.normal(size=(ROWS, columns)) * np.geomspace(0.3, 10, ROWS)[:, None],
        _remembered(estimator, columns),
        _edges(estimator, random, columns) if "label" in outputs else np.zeros((0, columns)),
    ]
    rows = np.concatenate(groups).astype(dtype)
    found: dict[str, Any] = {}
    for name in outputs:
        methods = {"label": ["predict"], "probabilities": ["predict_proba"]}.get(name, [])
        if len(outputs) == 1 and not methods:
            methods = ["predict", "transform"]
        answers = [_answer(estimator, method, rows) for method in methods]
        found |= {f"out {name} {at}": item for at, item in enumerate(answers) if item is not None}
    kinds = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
    return found | {f"in {table.name}": rows, "group": kinds} if found else {}


def _remembered(estimator: Any, columns: int) -> Any:
    """Rows that an estimator, or the first step of a pipeline, has kept: quantiles, centres, neighbours."""
    while hasattr(estimator, "steps"):
        estimator = estimator.steps[0][1]
    tables = [
        item[:: len(item) // ROWS + 1]
        for item in vars(estimator).values()
        if isinstance(item, np.ndarray)
        and item.ndim == 2
        and item.shape[1] == columns
        and item.dtype.kind == "f"
    ]
    found = np.concatenate([np.zeros((0, columns)), *tables])
    return found[np.isfinite(found).all(axis=1)][:ROWS]


def _edges(estimator: Any, random: Any, columns: int) -> Any:
    """Rows close to where the label changes: there a wrong threshold shows."""
    pool = np.abs(random.normal(size=(8 * ROWS, columns))) * np.geomspace(0.1, 1000, 8 * ROWS)[:, None]
    pool[::2] *= np.sign(random.normal(size=(4 * ROWS, columns)))
    labels = _answer(estimator, "predict", pool)
    if labels is None or labels.ndim != 1:
        return np.zeros((0, columns))
    other = np.flatnonzero(labels != labels[0])[: ROWS // 2]
    low, high = pool[np.zeros_like(other)], pool[other]
    for _ in range(EDGE_STEPS if len(other) else 0):
        middle = (low + high) / 2
        same = (_answer(estimator, "predict", middle) == labels[0])[:, None]
        low, high = np.where(same, middle, low), np.where(same, high, middle)
    return np.concatenate([low, high])


def _answer(estimator: Any, method: str, rows: Any) -> Any:
    """What a method gives, as an array of numbers or texts; None where it does not go."""
    try:
        found = getattr(estimator, method)(rows)
        found = np.asarray(found.toarray() if hasattr(found, "toarray") else found)
    except Exception:  # noqa: BLE001  many methods are there by name alone, or take other values
        return None
    found = found.astype(str) if found.dtype.kind in "OSU" else found
    return found if found.dtype.kind in "biufU" else None


def _initial_types(inputs: dict[str, Any]) -> list[tuple[str, Any]]:
    from skl2onnx.common import data_types as types

    kinds = {
        "float32": types.FloatTensorType,
        "float64": types.DoubleTensorType,
        "int64": types.Int64TensorType,
        "bool": types.BooleanTensorType,
        "str": types.StringTensorType,
    }
    if unknown := sorted({kind for kind, _ in inputs.values()} - set(kinds)):
        raise ValueError(f"inputs of type {unknown[0]!r}; there are: {', '.join(kinds)}")
    return [(name, kinds[kind]([None, int(columns)])) for name, (kind, columns) in inputs.items()]


def _inputs(estimator: Any) -> dict[str, tuple[str, int]]:
    """One table of float32, or a column each where columns have names and are treated apart."""
    columns = _column_transformer(estimator)
    names = getattr(estimator, "feature_names_in_", getattr(columns, "feature_names_in_", None))
    if columns is not None and names is not None:
        text = _text_columns(columns, list(names))
        return {str(name): ("str" if name in text else "float32", 1) for name in names}
    count = getattr(estimator, "n_features_in_", None)
    if count is None:
        raise ValueError(
            f"how many columns {type(estimator).__name__} takes is unknown, or it is not fitted; "
            "say inputs={'x': ('float32', COLUMNS)}"
        )
    return {"x": ("float32", int(count))}


def _column_transformer(estimator: Any) -> Any:
    """The first step that treats columns apart."""
    first = estimator
    while hasattr(first, "steps"):
        first = first.steps[0][1]
    return first if hasattr(first, "transformers_") else None


def _text_columns(transformer: Any, names: list[Any]) -> set[Any]:
    """Columns whose encoder has learnt texts."""
    found = set()
    for _, inner, columns in transformer.transformers_:
        chosen = (
            [columns] if isinstance(columns, str) else list(columns) if hasattr(columns, "__iter__") else []
        )
        steps = [step for _, step in inner.steps] if hasattr(inner, "steps") else [inner]
        for step in steps:
            for column, categories in zip(chosen, getattr(step, "categories_", ()), strict=False):
                if categories.dtype.kind in "OUS":
                    found.add(column if isinstance(column, str) else names[int(column)])
    return found


@contextmanager
def _plain_numbers() -> Iterator[None]:
    """Let skl2onnx (1.20) hand NumPy's numbers to onnx (1.23), which takes only Python's since 1.19."""
    from skl2onnx.common import _container  # noqa: PLC2701  nothing public leads there

    original = _container.make_node

    def make_node(*args: Any, **attributes: Any) -> Any:
        return original(*args, **{key: _plain(value) for key, value in attributes.items()})

    _container.make_node = make_node
    try:
        yield
    finally:
        _container.make_node = original


def _plain(value: Any) -> Any:
    """NumPy's numbers in a list as Python's; everything else as it is."""
    if not isinstance(value, list | tuple):
        return value
    plain = [item.item() if hasattr(item, "item") and not hasattr(item, "tocsr") else item for item in value]
    return [int(item) if isinstance(item, bool) else item for item in plain]


if __name__ == "__main__":
    main()
