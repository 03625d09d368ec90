"""What a margin means: the objectives of XGBoost, each with its link."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.xgboost.booster import Booster
from raceline.convert.formats.xgboost.fields import Array

if TYPE_CHECKING:
    import onnx_ir as ir

IDENTITY = frozenset(
    """
    reg:squarederror reg:linear reg:squaredlogerror reg:pseudohubererror reg:absoluteerror reg:quantileerror
    binary:logitraw rank:pairwise rank:ndcg rank:map
    """.split()
)
LOGISTIC = frozenset({"reg:logistic", "binary:logistic"})
EXPONENTIAL = frozenset({"count:poisson", "reg:gamma", "reg:tweedie", "survival:cox", "survival:aft"})
SOFTMAX = frozenset({"multi:softmax", "multi:softprob"})
HINGE = "binary:hinge"
KNOWN = IDENTITY | LOGISTIC | EXPONENTIAL | SOFTMAX | {HINGE}


def base_margin(booster: Booster) -> Array:
    """What the sum starts from: the stored score is in the space of predictions.

    Raises:
        ValueError: the objective cannot predict such a score.
    """
    score = booster.base_score.astype(np.float64)
    if booster.objective in LOGISTIC:
        if ((score <= 0) | (score >= 1)).any():
            raise ValueError(f"'base_score' is no probability: {score.tolist()}")
        score = np.log(score / (1 - score))
    if booster.objective in EXPONENTIAL:
        if (score <= 0).any():
            raise ValueError(f"'base_score' must be positive for {booster.objective}: {score.tolist()}")
        score = np.log(score)
    if booster.linear is not None:
        score = np.full_like(
            score, score[0]
        )  # since 3.1 there are several, and XGBoost adds the first to all
    return score.astype(np.float32)


def predictions(b: Builder, margin: ir.Value, booster: Booster) -> dict[str, ir.Value]:
    """The outputs by name.

    `prediction` is what `Booster.predict` gives: (rows,) where the model has one output, else (rows, outputs).
    Classifiers also have `label` (rows,) int64 and `probabilities` (rows, classes), which are what
    `XGBClassifier.predict` and `predict_proba` give.
    """
    if booster.objective in SOFTMAX:
        return _classes(b, margin, booster)
    values = _values(b, margin, booster.objective)
    found = {"prediction": b.op("Squeeze", values, [1]) if booster.num_groups == 1 else values}
    if booster.objective == "binary:logistic" and booster.num_groups == 1:
        likely = b.op("Greater", found["prediction"], b.scalar(0.5, values))
        found["label"] = b.cast(likely, np.int64)
        found["probabilities"] = b.op("Concat", b.op("Sub", b.scalar(1, values), values), values, axis=1)
    return found


def _values(b: Builder, margin: ir.Value, objective: str) -> ir.Value:
    """Predictions of the shape of the margins."""
    if objective in LOGISTIC | EXPONENTIAL:
        return b.op("Sigmoid" if objective in LOGISTIC else "Exp", margin)  # type: ignore[no-any-return]
    if objective == HINGE:
        return b.cast(b.op("Greater", margin, b.scalar(0, margin)), np.float32)
    return margin


def _classes(b: Builder, margin: ir.Value, booster: Booster) -> dict[str, ir.Value]:
    label = b.op("ArgMax", margin, axis=1, keepdims=0)
    probabilities = b.op("Softmax", margin, axis=1)
    named = booster.objective == "multi:softmax"
    return {
        "prediction": b.cast(label, np.float32) if named else probabilities,
        "label": label,
        "probabilities": probabilities,
    }
