"""Export a scikit-learn estimator by skl2onnx; as a script, one that a .skops file holds."""

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

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
    with _plain_numbers():
        if hasattr(estimator, "classes_") or hasattr(estimator, "predict_proba"):
            try:
                options = {id(estimator): {"zipmap": False}}
                return to_onnx(estimator, initial_types=types, options=options, target_opset=OPSETS)
            except NameError:  # some classifiers have no such option, and make no maps either
                pass
        return to_onnx(estimator, initial_types=types, target_opset=OPSETS)


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
