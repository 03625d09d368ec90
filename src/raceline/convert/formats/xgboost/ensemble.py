"""Trees as one TreeEnsemble of ai.onnx.ml, which looks all of them up at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.xgboost.booster import Tree
from raceline.convert.formats.xgboost.fields import Array

if TYPE_CHECKING:
    import onnx_ir as ir

_BELOW, _MEMBER = 1, 6  # modes of a node: x < split; x is one of the node's categories
_SUM = 1


class _Table:
    """The attributes of a TreeEnsemble as they grow."""

    def __init__(self) -> None:
        self.columns: dict[str, list[Array]] = {}
        self.members: list[Array] = []
        self.num_nodes = 0
        self.num_leaves = 0

    def add(self, tree: Tree, output: int, group: int) -> None:
        """One output of a tree of more than one node; see the operator's text for the columns."""
        inner = tree.nodes[tree.left[tree.nodes] >= 0]
        leaves = tree.nodes[tree.left[tree.nodes] < 0]
        place = np.zeros(tree.left.size, np.int64)
        place[inner] = self.num_nodes + np.arange(inner.size)
        place[leaves] = self.num_leaves + np.arange(leaves.size)
        by_category = np.isin(inner, list(tree.members))
        yes = np.where(by_category, tree.right[inner], tree.left[inner])
        no = np.where(by_category, tree.left[inner], tree.right[inner])
        self._put("tree_roots", [self.num_nodes])
        self._put("nodes_featureids", tree.feature[inner])
        self._put("nodes_modes", np.where(by_category, _MEMBER, _BELOW))
        self._put("nodes_splits", np.where(by_category, 0, tree.threshold[inner]))
        self._put("nodes_missing_value_tracks_true", tree.default_left[inner] != by_category)
        for name, child in (("true", yes), ("false", no)):
            self._put(f"nodes_{name}nodeids", place[child])
            self._put(f"nodes_{name}leafs", tree.left[child] < 0)
        self._put("leaf_targetids", np.full(leaves.size, group))
        self._put("leaf_weights", tree.leaf[leaves, output])
        self.members += [np.append(tree.members[node], np.nan) for node in inner[by_category].tolist()]
        self.num_nodes += inner.size
        self.num_leaves += leaves.size

    def _put(self, name: str, column: Any) -> None:
        self.columns.setdefault(name, []).append(np.asarray(column))

    def attributes(self) -> dict[str, Any]:
        """As the operator takes them: integers as lists, the rest as tensors."""
        import onnx_ir as ir

        whole = {name: np.concatenate(parts) for name, parts in self.columns.items()}
        types = {"nodes_modes": np.uint8, "nodes_splits": np.float32, "leaf_weights": np.float32}
        result: dict[str, Any] = {
            name: ir.tensor(column.astype(types[name]), name=name)
            if name in types
            else column.astype(np.int64).tolist()
            for name, column in whole.items()
        }
        if self.members:
            result["membership_values"] = ir.tensor(np.concatenate(self.members).astype(np.float32))
        return result


def margin(b: Builder, x: ir.Value, trees: Sequence[Tree], base: Array) -> ir.Value:
    """The sum of all trees and of what the model starts from: (rows, outputs).

    Args:
        b: receives the nodes.
        x: (rows, features) float32.
        trees: all that count.
        base: (outputs,) float32, as a margin.
    """
    table, start = _Table(), base.astype(np.float32)
    for tree in trees:
        num_outputs = tree.leaf.shape[1]
        for output in range(num_outputs):
            group = tree.group if num_outputs == 1 else output
            if tree.nodes.size == 1:
                start[group] += tree.leaf[0, output]
            else:
                table.add(tree, output, group)
    if not table.num_nodes:
        rows = b.op("Shape", x, start=0, end=1)
        return b.op("Expand", start, b.op("Concat", rows, [start.size], axis=0))  # type: ignore[no-any-return]
    total = b.op(
        "TreeEnsemble", _whole_categories(b, x, trees), domain="ai.onnx.ml",
        n_targets=start.size, aggregate_function=_SUM, post_transform=0, **table.attributes(),
    )  # fmt: skip
    return b.op("Add", total, start)  # type: ignore[no-any-return]


def _whole_categories(b: Builder, x: ir.Value, trees: Sequence[Tree]) -> ir.Value:
    """The input with categories rounded down to whole numbers, as XGBoost takes them."""
    columns = {int(tree.feature[node]) for tree in trees for node in tree.members}
    if not columns:
        return x
    size = b.shape(x)[1]
    assert isinstance(size, int)
    return b.op("Where", np.isin(np.arange(size), list(columns)), b.op("Floor", x), x)  # type: ignore[no-any-return]
