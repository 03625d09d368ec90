"""What an XGBoost model file says, checked and as arrays; every version that writes JSON (1.0 and later)."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raceline.convert.formats.xgboost import fields, ubjson
from raceline.convert.formats.xgboost.fields import Array

MOST_DEPTH = 512
"""Deeper trees are refused: runtimes build trees recursively."""

_MOST_OUTPUTS = 1 << 20
_MOST_FEATURES = 1 << 31
_MOST_CATEGORY = 1 << 24  # whole numbers that float32 holds


@dataclass(frozen=True)
class Tree:
    """One tree, whose root is node 0.

    Attributes:
        nodes: those that are reached from the root, each exactly once; pruning leaves others behind.
        left: (nodes,) where a value below the threshold leads; -1 for a leaf.
        right: (nodes,) where any other leads.
        feature: (nodes,) which column is looked at.
        threshold: (nodes,) float32.
        default_left: (nodes,) whether a missing value leads to the left.
        members: node -> the categories that lead to the right, of nodes that split by category.
        leaf: (nodes, outputs of the tree) what a leaf adds.
        group: the model's output that a tree of one output adds to.
    """

    nodes: Array
    left: Array
    right: Array
    feature: Array
    threshold: Array
    default_left: Array
    members: Mapping[int, Array]
    leaf: Array
    group: int


@dataclass(frozen=True)
class Booster:
    """A model.

    Attributes:
        objective: its name, which decides what a margin means.
        num_features: columns.
        num_groups: outputs: classes or targets.
        base_score: (num_groups,) as stored: before the objective's inverse link.
        trees: in order; empty for a linear model.
        iterations: trees up to the end of each boosting round.
        linear: (num_features + 1, num_groups) of a linear model, the last row is the bias.
        attributes: what the user or a wrapper has noted.
        version: of XGBoost.
        feature_names: as the user has called the columns, or none.
    """

    objective: str
    num_features: int
    num_groups: int
    base_score: Array
    trees: Sequence[Tree]
    iterations: Sequence[int]
    linear: Array | None
    attributes: Mapping[str, Any]
    version: str
    feature_names: Sequence[str]

    @property
    def best_iteration(self) -> int | None:
        """The round that early stopping has chosen."""
        found = str(self.attributes.get("best_iteration", ""))
        return int(found) if found.isdecimal() and len(found) < 10 else None

    @property
    def by_wrapper(self) -> bool:
        """Whether XGBoost's scikit-learn interface has saved it, which predicts with the best rounds alone."""
        return "scikit_learn" in self.attributes


def parse(data: bytes) -> Booster:
    """Read a file's bytes, either spelling.

    Raises:
        ValueError: it is no whole and sound model; the message says where.
    """
    try:
        holder = ubjson.parse(data) if data[:2] == b"{L" else json.loads(data)
    except RecursionError as error:
        raise ValueError("it nests too deep") from error
    learner = fields.mapping(holder, "learner")
    parameters = fields.mapping(learner, "learner_model_param")
    num_features = fields.whole(parameters, "num_feature")
    num_groups = max(1, fields.whole(parameters, "num_class", 0), fields.whole(parameters, "num_target", 1))
    if num_groups > _MOST_OUTPUTS or num_features >= _MOST_FEATURES:
        raise ValueError(f"it claims {num_features} features and {num_groups} outputs")
    booster = fields.mapping(learner, "gradient_booster")
    trees, iterations, linear = _parts(booster, num_features, num_groups)
    names = learner.get("feature_names", [])
    attributes = learner.get("attributes", {})
    return Booster(
        objective=fields.text(fields.mapping(learner, "objective"), "name"),
        num_features=num_features,
        num_groups=num_groups,
        base_score=_base_score(parameters, num_groups),
        trees=trees,
        iterations=iterations,
        linear=linear,
        attributes=attributes if isinstance(attributes, dict) else {},
        version=".".join(str(number) for number in holder.get("version", [])[:3]),
        feature_names=[str(name) for name in names] if isinstance(names, list) else [],
    )


def _parts(
    booster: Mapping[str, Any], num_features: int, num_groups: int
) -> tuple[list[Tree], list[int], Array | None]:
    """Trees, their number at the end of each round, and linear weights."""
    kind = fields.text(booster, "name")
    if kind == "gblinear":
        weights = fields.floats(fields.mapping(booster, "model"), "weights", (num_features + 1) * num_groups)
        return [], [], weights.reshape(num_features + 1, num_groups)
    if kind not in {"gbtree", "dart"}:
        raise ValueError(f"a booster of the unknown kind {kind[:50]!r}")
    model = fields.mapping(fields.mapping(booster, "gbtree") if kind == "dart" else booster, "model")
    raw = fields.field(model, "trees")
    if not isinstance(raw, list):
        raise ValueError("'trees' is no list")
    groups = fields.integers(model, "tree_info", len(raw), low=0, stop=num_groups)
    drops = (
        fields.floats(booster, "weight_drop", len(raw)) if kind == "dart" else np.ones(len(raw), np.float32)
    )
    trees = []
    for index, (one, group, drop) in enumerate(zip(raw, groups, drops, strict=True)):
        try:
            trees.append(_tree(one, int(group), float(drop), num_features, num_groups))
        except ValueError as error:
            raise ValueError(f"tree {index}: {error}") from error
    return trees, _iterations(model, trees, num_groups), None


def _iterations(model: Mapping[str, Any], trees: Sequence[Tree], num_groups: int) -> list[int]:
    """How many trees there are at the end of each round; versions before 2.0 do not say."""
    if "iteration_indptr" in model:
        ends = fields.integers(model, "iteration_indptr", low=0, stop=len(trees) + 1)
        if (np.diff(ends) < 0).any() or (ends.size and (ends[0] != 0 or ends[-1] != len(trees))):
            raise ValueError("'iteration_indptr' does not count the trees")
        return [int(end) for end in ends[1:]]
    parallel = fields.whole(fields.mapping(model, "gbtree_model_param"), "num_parallel_tree", 1)
    a_round = max(1, parallel) * num_groups
    return list(range(a_round, len(trees) + 1, a_round))


def _base_score(parameters: Mapping[str, Any], num_groups: int) -> Array:
    """One number of each output; a list since version 3.1."""
    spelt = fields.text(parameters, "base_score").strip("[]")
    numbers = np.array([float(part) for part in spelt.split(",")], np.float32)
    if numbers.size not in {1, num_groups} or not np.isfinite(numbers).all():
        raise ValueError(f"'base_score' is {spelt[:100]!r}")
    return np.broadcast_to(numbers, num_groups)


def _tree(raw: Any, group: int, drop: float, num_features: int, num_groups: int) -> Tree:
    parameters = fields.mapping(raw, "tree_param")
    count = fields.whole(parameters, "num_nodes")
    num_outputs = max(1, fields.whole(parameters, "size_leaf_vector", 1))
    if num_outputs not in {1, num_groups}:
        raise ValueError(f"its leaves hold {num_outputs} numbers in a model of {num_groups} outputs")
    left = fields.integers(raw, "left_children", count, low=-1, stop=count)
    right = fields.integers(raw, "right_children", count, low=-1, stop=count)
    nodes = _reached(left, right)
    feature = fields.integers(raw, "split_indices", count, low=0, stop=1 << 32)
    if (feature[nodes[left[nodes] >= 0]] >= num_features).any():
        raise ValueError("it looks at a feature that the model has not")
    threshold = fields.floats(raw, "split_conditions", count, finite=False)
    leaf = _leaves(raw, left, right, threshold, num_outputs) * np.float32(drop)
    members = _members(raw, left)
    ends, inner = nodes[left[nodes] < 0], nodes[left[nodes] >= 0]
    by_number = inner[~np.isin(inner, list(members))]  # what stands at the others means nothing
    if not np.isfinite(leaf[ends]).all() or not np.isfinite(threshold[by_number]).all():
        raise ValueError("a threshold or a leaf is not finite")
    return Tree(
        nodes=nodes,
        left=left,
        right=right,
        feature=feature,
        threshold=threshold,
        default_left=fields.integers(raw, "default_left", count, low=0, stop=2).astype(bool),
        members=members,
        leaf=leaf,
        group=group,
    )


def _leaves(raw: Any, left: Array, right: Array, threshold: Array, num_outputs: int) -> Array:
    """(nodes, outputs of the tree); what stands at inner nodes means nothing."""
    if num_outputs == 1:
        return threshold.reshape(-1, 1)
    if "leaf_weights" not in raw:  # before 3.2 each node has its place in one list
        return fields.floats(raw, "base_weights", left.size * num_outputs, finite=False).reshape(
            -1, num_outputs
        )
    packed = fields.floats(raw, "leaf_weights").reshape(-1, num_outputs)
    places = np.where(left < 0, right, 0)  # a leaf's right child is its place in the list
    if packed.size == 0 or places.min() < 0 or places.max() >= len(packed):
        raise ValueError("a leaf has no weights")
    return packed[places]


def _members(raw: Any, left: Array) -> dict[int, Array]:
    """The categories that lead to the right, of each inner node that splits by category."""
    kinds = (
        fields.integers(raw, "split_type", left.size, low=0, stop=2) if "split_type" in raw else np.zeros(0)
    )
    wanted = set(np.flatnonzero(kinds).tolist()) & set(np.flatnonzero(left >= 0).tolist())
    if not wanted:
        return {}
    categories = fields.integers(raw, "categories", low=0, stop=_MOST_CATEGORY)
    nodes = fields.integers(raw, "categories_nodes", low=0, stop=left.size)
    begins = fields.integers(raw, "categories_segments", nodes.size, low=0, stop=categories.size + 1)
    sizes = fields.integers(raw, "categories_sizes", nodes.size, low=0, stop=categories.size + 1)
    if (begins + sizes > categories.size).any() or not wanted <= set(nodes.tolist()):
        raise ValueError("the categories of a node are missing")
    found = {int(n): categories[b : b + s] for n, b, s in zip(nodes, begins, sizes, strict=True)}
    return {node: np.unique(found[node]) for node in sorted(wanted)}


def _reached(left: Array, right: Array) -> Array:
    """The nodes below the root in rising order; none may have two parents, and the depth is bounded."""
    if left.size == 0:
        raise ValueError("it has no nodes")
    inner = np.flatnonzero(left >= 0)
    children = np.concatenate([left[inner], right[inner]])
    if (children <= 0).any() or np.unique(children).size != children.size:
        raise ValueError("a node is the child of two, or lacks one, or leads back to the root")
    levels = [np.zeros(1, np.int64)]
    while levels[-1].size:
        inner = levels[-1][left[levels[-1]] >= 0]
        levels.append(np.concatenate([left[inner], right[inner]]))
        if len(levels) > MOST_DEPTH:
            raise ValueError(f"it is deeper than {MOST_DEPTH}")
    return np.sort(np.concatenate(levels))
