"""Operations that hold blocks: `cond` and `while_loop`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.coreml.call import Call
from raceline.convert.formats.coreml.nodes import Context, run_block
from raceline.convert.formats.coreml.values import type_of
from raceline.convert.lower import Rules, UnsupportedError
from raceline.core.errors import UnsupportedOperatorError

if TYPE_CHECKING:
    import onnx_ir as ir

rules = Rules()
_MOST_DEPTH = 16


def _run(b: Builder, call: Call, block: Any, given: Mapping[str, Any]) -> list[ir.Value]:
    """A block's results in `b`, given its inputs."""
    context: Context = call.node.attributes["context"]
    context.depth += 1
    try:
        if context.depth > _MOST_DEPTH:
            raise UnsupportedError(f"blocks more than {_MOST_DEPTH} deep")
        values = {**call.scope, **given}
        run_block(b, block, context, values)
        results = [values[name] for name in block.outputs]
    except UnsupportedOperatorError as error:
        raise UnsupportedError(error.why) from error
    finally:
        context.depth -= 1
    return [b.constant(item) if isinstance(item, np.ndarray) else item for item in results]


def _types(call: Call) -> list[tuple[Any, list[int | None]]]:
    return [type_of(output.type) for output in call.node.attributes["outputs"]]


def _truth(b: Builder, value: ir.Value) -> ir.Value:
    """A condition without axes."""
    value = b.cast(value, bool)
    found: ir.Value = b.op("Reshape", value, np.zeros(0, np.int64)) if b.rank(value) else value
    return found


@rules("cond")
def cond(c: Call) -> Any:
    """One of two blocks."""
    yes, no = c.node.attributes["blocks"]
    branches = {}
    for key, block in (("then_branch", yes), ("else_branch", no)):
        inner = c.b.body(f"{c.node.name}_{key}")
        branches[key] = inner.close(_run(inner, c, block, {}))
    return tuple(c.b.control("If", [_truth(c.b, c("pred"))], _types(c), **branches))


@rules("while_loop")
def while_loop(c: Call) -> Any:
    """A block again and again, as long as another says."""
    test, body = c.node.attributes["blocks"]
    begin = c.values("loop_vars")
    types = _types(c)
    first = _run(c.b, c, test, _named(test, begin))
    inner = c.b.body(f"{c.node.name}_body")
    inner.input(f"{c.node.name}/round", np.int64, [])
    inner.input(f"{c.node.name}/going", bool, [])
    state = [inner.input(f"{c.node.name}/state", dtype, dims) for dtype, dims in types]
    after = _run(inner, c, body, _named(body, state))
    going = _run(inner, c, test, _named(test, after))
    graph = inner.close([_truth(inner, going[0]), *after])
    return tuple(c.b.control("Loop", [None, _truth(c.b, first[0]), *begin], types, body=graph))


def _named(block: Any, values: Sequence[ir.Value]) -> dict[str, ir.Value]:
    return {item.name: value for item, value in zip(block.inputs, values, strict=True)}
