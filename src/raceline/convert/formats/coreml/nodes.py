"""Operations of a block as source nodes, and the rules run over them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raceline.convert.build import Builder
from raceline.convert.formats.coreml.package import Source
from raceline.convert.formats.coreml.values import constant
from raceline.convert.lower import Rule, SourceNode, lower
from raceline.core.errors import BadModelError

WAY_OUT = "Convert the model again without these operations, or read it in the format that it was made from."


@dataclass
class Context:
    """What the rules of one model share.

    Attributes:
        source: the model on disk.
        table: all rules.
        depth: blocks around the operation at hand.
    """

    source: Source
    table: Mapping[str, Rule]
    depth: int = 0


def run_block(b: Builder, block: Any, context: Context, values: dict[str, Any]) -> None:
    """Translate a block's operations; what they write is added to `values`."""
    nodes = _nodes(block, context, values)
    lower(b, nodes, context.table, values, source=context.source.name, way_out=WAY_OUT)


def _nodes(block: Any, context: Context, values: dict[str, Any]) -> list[SourceNode]:
    """Operations in order; constants go into `values` at once."""
    nodes = []
    written = set(values)
    for operation in block.operations:
        name = _name(operation)
        for output in operation.outputs:
            if output.name in written:
                raise BadModelError(
                    f"{context.source.name} is broken", f"{output.name[:100]!r} is written twice"
                )
            written.add(output.name)
        try:
            if operation.type == "const":
                (output,) = operation.outputs
                values[output.name] = constant(operation.attributes["val"], context.source)
            else:
                nodes.append(_node(operation, name, context))
        except BadModelError as error:
            what = f"{context.source.name}: {operation.type[:60]} {name[:100]!r}: {error.what}"
            raise BadModelError(what, error.why, error.next_step) from error
        except (ValueError, OverflowError) as error:
            raise BadModelError(
                f"{context.source.name}: {operation.type[:60]} {name[:100]!r}", str(error)
            ) from error
    return nodes


def _name(operation: Any) -> str:
    return operation.outputs[0].name if operation.outputs else ""


def _node(operation: Any, name: str, context: Context) -> SourceNode:
    """An operation as the rules see it: names, and constants that stand among the arguments."""
    arguments: dict[str, list[Any]] = {}
    inputs: list[str] = []
    given = dict(operation.inputs)
    for key, value in operation.attributes.items():  # constant operations have their arguments here
        if key != "name" and operation.type.startswith("constexpr_"):
            arguments[key] = [(constant(value, context.source),)]
    for key, argument in sorted(given.items()):
        items: list[Any] = []
        for binding in argument.arguments:
            if binding.WhichOneof("binding") == "name":
                items.append(binding.name)
                inputs.append(binding.name)
            else:
                found = constant(binding.value, context.source)
                items += [(item,) for item in found] if isinstance(found, list) else [(found,)]
        arguments[key] = items
    for block in operation.blocks:
        inputs += _free(block)
    return SourceNode(
        op=operation.type,
        name=name,
        inputs=tuple(dict.fromkeys(inputs)),
        outputs=tuple(output.name for output in operation.outputs),
        attributes={
            "arguments": arguments,
            "outputs": operation.outputs,
            "blocks": operation.blocks,
            "context": context,
        },  # fmt: skip
    )


def _free(block: Any) -> list[str]:
    """Names that a block reads from outside of it."""
    own = {item.name for item in block.inputs}
    found: list[str] = []
    for operation in block.operations:
        names = [
            item.name for argument in operation.inputs.values() for item in argument.arguments if item.name
        ]
        for inner in operation.blocks:
            names += _free(inner)
        found += [name for name in names if name not in own]
        own.update(output.name for output in operation.outputs)
    return found + [name for name in block.outputs if name not in own]
