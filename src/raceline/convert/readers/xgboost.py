"""Read XGBoost models: `.json` and `.ubj` files, boosters in memory; XGBoost itself is not needed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.files import content, refuse_growth
from raceline.convert.formats.xgboost import booster as files
from raceline.convert.formats.xgboost import ensemble, objective
from raceline.convert.formats.xgboost.booster import Booster
from raceline.convert.formats.xgboost.fields import Array
from raceline.core.errors import BadModelError, UnsupportedOperatorError
from raceline.ir import Limits, Model, Provenance

description = "XGBoost models (.json, .ubj): trees, DART and linear; also a Booster or XGBModel in memory"
extensions = (".json", ".ubj")
extra = ""

_UBJSON = b"{L" + (7).to_bytes(8, "big") + b"learner{"
_JSON = re.compile(rb'\s*\{\s*("version"\s*:\s*\[[\d,\s]*\]\s*,\s*)?"learner"\s*:\s*\{')
_HEAD_BYTES = 512
_EXPORT = "Save it again with Booster.save_model, as .ubj or .json."


def recognises(path: Path) -> bool:
    """Whether the file begins as XGBoost begins its models."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except (OSError, ValueError):
        return False
    return head.startswith(_UBJSON) or _JSON.match(head) is not None


def read(
    path: Path,
    *,
    limits: Limits | None = None,
    best_iteration: bool | None = None,
    missing: float | None = None,
) -> Model:
    """Read a model file.

    The model computes what `Booster.predict` does: input `x` (batch, features), output `prediction`; for
    classifiers also `label` and `probabilities`. NaN is a missing value.

    Args:
        path: the model file.
        limits: what the file may ask of this machine.
        best_iteration: whether only the rounds up to the best one count, where early stopping has noted it. By
            default they do in models that XGBoost's scikit-learn interface has saved, as there.
        missing: another value that stands for a missing one.

    Raises:
        BadModelError: it is no whole XGBoost model.
        UnsupportedOperatorError: it was trained for an objective that is unknown here.
    """
    limits = limits or Limits()
    with np.errstate(all="ignore"):  # numbers that overflow are refused where they count
        return _model(content(path, limits), path.name, limits, best_iteration, missing)


def takes(source: Any) -> bool:
    """Whether an object is a Booster, or a model of XGBoost's scikit-learn interface."""
    ours = any(kind.__module__.partition(".")[0] == "xgboost" for kind in type(source).__mro__)
    return ours and (hasattr(source, "save_raw") or hasattr(source, "get_booster"))


def read_object(
    source: Any,
    *,
    limits: Limits | None = None,
    best_iteration: bool | None = None,
    missing: float | None = None,
) -> Model:
    """Read a Booster or XGBModel; see `read`. An XGBModel's own value for what is missing is respected."""
    wrapped = hasattr(source, "get_booster")
    booster = source.get_booster() if wrapped else source
    if wrapped and best_iteration is None:
        best_iteration = True
    if wrapped and missing is None:
        missing = getattr(source, "missing", None)
    return _model(
        bytes(booster.save_raw("ubj")), type(source).__name__, limits or Limits(), best_iteration, missing
    )


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: one tree of one split, at x < 0.5."""
    tree = {
        "tree_param": {"num_nodes": "3", "num_feature": "2", "size_leaf_vector": "1"},
        "left_children": [1, -1, -1],
        "right_children": [2, -1, -1],
        "split_indices": [1, 0, 0],
        "split_conditions": [0.5, -1.0, 2.0],
        "default_left": [1, 0, 0],
    }
    model = {"trees": [tree], "tree_info": [0], "gbtree_model_param": {"num_trees": "1"}}
    learner = {
        "learner_model_param": {"base_score": "5E-1", "num_class": "0", "num_feature": "2"},
        "gradient_booster": {"name": "gbtree", "model": model},
        "objective": {"name": "reg:squarederror"},
    }
    path = folder / "example.json"
    path.write_text(json.dumps({"learner": learner, "version": [1, 7, 6]}), encoding="utf-8")
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"prediction": np.where(inputs["x"][:, 1] < 0.5, -0.5, 2.5).astype(np.float32)}


def _model(
    data: bytes, source: str, limits: Limits, best_iteration: bool | None, missing: float | None
) -> Model:
    refuse_growth(len(data), source, limits)
    try:
        booster = files.parse(data)
        if booster.num_features < 1:
            raise ValueError("it has no features")
        if booster.objective not in objective.KNOWN:
            way_out = f"Known are: {', '.join(sorted(objective.KNOWN))}."
            raise UnsupportedOperatorError(source, {booster.objective[:100]: ["the objective"]}, way_out)
        base = objective.base_margin(booster)
    except (ValueError, OverflowError, TypeError) as error:
        raise BadModelError(f"{source} is no whole XGBoost model", str(error)[:500], _EXPORT) from error
    return _built(booster, base, source, sha256(data).hexdigest(), limits, best_iteration, missing)


def _built(
    booster: Booster,
    base: Array,
    source: str,
    digest: str,
    limits: Limits,
    best_iteration: bool | None,
    missing: float | None,
) -> Model:
    b = Builder(Path(source).stem, limits=limits)
    x = b.input("x", np.float32, ["batch", booster.num_features])
    if missing is not None and not np.isnan(missing):
        present = b.cast(b.op("Not", b.op("Equal", x, b.scalar(missing, x))), np.float32)
        x = b.op("Mul", x, b.op("Div", present, present))  # 0 / 0 is NaN; a weight may not be
    rounds = _rounds(booster, best_iteration)
    num_trees = booster.iterations[rounds - 1] if rounds else len(booster.trees)
    if booster.linear is not None:
        margin = _linear(b, x, booster.linear, base)
    else:
        margin = ensemble.margin(b, x, booster.trees[:num_trees], base)
    for name, value in objective.predictions(b, margin, booster).items():
        b.output(value, name)
    producer = f"XGBoost {booster.version}".strip()
    model = b.model(
        Provenance(source=source, source_format="xgboost", source_sha256=digest, producer=producer)
    )
    if rounds and num_trees < len(booster.trees):
        model = model.with_step(
            f"Kept the best {rounds} rounds of {len(booster.iterations)}, as noted by early stopping."
        )
    if booster.feature_names:
        model = model.with_step(f"The columns of x are: {', '.join(booster.feature_names)[:1000]}.")
    return model


def _rounds(booster: Booster, best_iteration: bool | None) -> int | None:
    """How many rounds count; None for all."""
    best = booster.best_iteration
    wanted = booster.by_wrapper if best_iteration is None else best_iteration
    if not wanted or best is None or not booster.iterations:
        return None
    return min(best + 1, len(booster.iterations))


def _linear(b: Builder, x: Any, linear: Array, base: Array) -> Any:
    """Missing values count as nothing."""
    present = b.op("Where", b.op("IsNaN", x), b.scalar(0, x), x)
    return b.op("Gemm", present, linear[:-1], linear[-1] + base)
