"""Trees of ai.onnx.ml by NumPy: all rows and trees take one step down at a time.

Source: the operator TreeEnsemble-5 of https://onnx.ai/onnx/operators/onnx_aionnxml_TreeEnsemble.html.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from statistics import NormalDist
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_MEMBER = 6
_COMPARE: Mapping[int, Callable[[Array, Array], Any]] = {
    0: np.less_equal, 1: np.less, 2: np.greater_equal, 3: np.greater, 4: np.equal, 5: np.not_equal,
}  # fmt: skip
_AVERAGE, _SUM, _MIN, _MAX = range(4)
_BLOCK = 1 << 20  # pairs of a row and a tree that are walked at once


def tree_ensemble(x: Array, given: Mapping[str, Any]) -> Array:
    """What the ensemble computes: (rows, targets).

    Args:
        x: (rows, features).
        given: the operator's attributes.

    Raises:
        ValueError: the trees lead in circles, or the scores are transformed in no way that the standard knows.
    """
    roots = np.asarray(given["tree_roots"])
    step = max(1, _BLOCK // max(1, roots.size))
    blocks = [_scores(x[at : at + step], roots, given) for at in range(0, len(x), step)]
    scores = np.concatenate(blocks) if blocks else np.zeros((0, int(given["n_targets"])))
    return _transformed(scores, int(given.get("post_transform", 0))).astype(x.dtype)


def _scores(x: Array, roots: Array, given: Mapping[str, Any]) -> Array:
    """The leaves' weights per target, brought together in double precision."""
    leaves = _leaves(x, roots, given)
    weights = np.asarray(given["leaf_weights"], np.float64)[leaves]
    targets = np.asarray(given["leaf_targetids"])[leaves]
    rows = np.broadcast_to(np.arange(len(x))[:, None], leaves.shape)
    how = int(given.get("aggregate_function", _SUM))
    shape = (len(x), int(given["n_targets"]))
    if how in {_SUM, _AVERAGE}:
        total = np.zeros(shape)
        np.add.at(total, (rows, targets), weights)
        return total / roots.size if how == _AVERAGE else total
    extreme = np.full(shape, np.inf if how == _MIN else -np.inf)
    (np.minimum if how == _MIN else np.maximum).at(extreme, (rows, targets), weights)
    return np.where(np.isinf(extreme), 0, extreme)


def _leaves(x: Array, roots: Array, given: Mapping[str, Any]) -> Array:
    """The leaf that each row reaches in each tree: (rows, trees)."""
    yes, no = np.asarray(given["nodes_truenodeids"]), np.asarray(given["nodes_falsenodeids"])
    yes_leaf, no_leaf = np.asarray(given["nodes_trueleafs"]), np.asarray(given["nodes_falseleafs"])
    place = np.repeat(roots[None], len(x), axis=0).reshape(-1)
    row = np.repeat(np.arange(len(x)), roots.size)
    walking = np.arange(place.size)
    for _ in range(yes.size + 1):
        if not walking.size:
            return place.reshape(len(x), roots.size)
        at = place[walking]
        holds = _holds(x, row[walking], at, given)
        place[walking] = np.where(holds, yes[at], no[at])
        walking = walking[np.where(holds, yes_leaf[at], no_leaf[at]) == 0]
    raise ValueError("the trees lead in circles")


def _holds(x: Array, row: Array, node: Array, given: Mapping[str, Any]) -> Array:
    """Whether each row passes the test of the node it stands at."""
    value = x[row, np.asarray(given["nodes_featureids"])[node]]
    split = np.asarray(given["nodes_splits"])[node]
    mode = np.asarray(given["nodes_modes"])[node]
    result = np.zeros(node.size, bool)
    for one, compare in _COMPARE.items():
        result |= (mode == one) & compare(value, split)
    sets = _member_sets(given)
    for one in np.unique(node[mode == _MEMBER]):
        here = node == one
        result[here] = np.isin(value[here], sets[int(one)])
    follows = given.get("nodes_missing_value_tracks_true")
    return result if follows is None else result | (np.isnan(value) & (np.asarray(follows)[node] != 0))


def _member_sets(given: Mapping[str, Any]) -> dict[int, Array]:
    """The set of each node that asks for one; the attribute lists them with NaN after each."""
    values = np.asarray(given.get("membership_values", ()))
    nodes = np.flatnonzero(np.asarray(given["nodes_modes"]) == _MEMBER)
    sets = np.split(values, np.flatnonzero(np.isnan(values)) + 1) if values.size else []
    return {int(node): one[~np.isnan(one)] for node, one in zip(nodes, sets, strict=False)}


def _transformed(scores: Array, how: int) -> Array:
    """NONE, SOFTMAX, LOGISTIC, SOFTMAX_ZERO, in which a score of zero stays one, or PROBIT."""
    if how == 0:
        return scores
    if how == 2:
        return np.asarray(1 / (1 + np.exp(-scores)))
    if how == 4:
        return np.asarray(np.frompyfunc(_probit, 1, 1)(scores), np.float64)
    if how not in {1, 3}:
        raise ValueError(f"post_transform {how} is none of the standard's, which are 0 to 4")
    counts = np.ones_like(scores, bool) if how == 1 else scores != 0
    powers = np.where(counts, np.exp(scores - scores.max(axis=1, keepdims=True)), 0)
    total = powers.sum(axis=1, keepdims=True)
    return np.asarray(powers / np.where(total == 0, 1, total))


def _probit(part: float) -> float:
    """What a normal variable stays below with this probability; NaN where it is none."""
    if 0 < part < 1:
        return NormalDist().inv_cdf(part)
    return {0.0: -math.inf, 1.0: math.inf}.get(part, math.nan)
