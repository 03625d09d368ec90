"""Translate a source's nodes into standard ONNX by a table of rules, and report all that has none at once.

A reader turns its file into `SourceNode`s in an order in which each comes after what it reads, and gives a table
of rules. A rule builds the standard operators for one node:

    @rules("Relu6")
    def relu6(b: Builder, node: SourceNode, x: ir.Value) -> ir.Value:
        return b.op("Clip", x, b.scalar(0, x), b.scalar(6, x))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from raceline.convert.build import Builder
from raceline.core.errors import BadModelError, RacelineError, ShapeError, UnsupportedOperatorError
from raceline.core.units import counted
from raceline.ir.load import PARSE_FAILURES, root_cause

Rule = Callable[..., Any]
"""Takes the builder, the node and what it reads, in order; returns what it writes: one value or several."""
Kind = TypeVar("Kind", bound=Rule)


@dataclass(frozen=True)
class SourceNode:
    """One operation as the source has it.

    Attributes:
        op: the operator's name in the source's own words.
        name: the node's name there, for names and messages.
        inputs: names of what it reads; "" where an optional input is left out.
        outputs: names of what it writes; "" where nobody reads it.
        attributes: settings, already plain Python values or arrays.
    """

    op: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


_FAULTS = (AssertionError, AttributeError, LookupError, NotImplementedError, TypeError)
# What a rule raises where its author did not think of such a node; a damaged file can lead there, too.


class UnsupportedError(Exception):
    """Raised by a rule for a use of its operator that it cannot translate; the message says what is special."""


class Rules:
    """A table from a source's operators to rules; used as a decorator."""

    def __init__(self) -> None:
        self.table: dict[str, Rule] = {}

    def __call__(self, *ops: str) -> Callable[[Kind], Kind]:
        """Enter the decorated function for these operators."""

        def enter(rule: Kind) -> Kind:
            for op in ops:
                assert op not in self.table, f"two rules for {op}"
                self.table[op] = rule
            return rule

        return enter


def merged(*tables: Rules) -> dict[str, Rule]:
    """One table of several; no operator may be in two."""
    result: dict[str, Rule] = {}
    for table in tables:
        assert not result.keys() & table.table.keys(), f"twice: {result.keys() & table.table.keys()}"
        result |= table.table
    return result


def lower(
    builder: Builder,
    nodes: Iterable[SourceNode],
    rules: Mapping[str, Rule],
    values: MutableMapping[str, Any],
    *,
    source: str,
    way_out: str,
) -> None:
    """Translate nodes in order; what they write is added to `values`.

    What one node cannot be translated does not stop the others: only nodes that need its results are skipped, so
    that one message can list everything.

    Args:
        builder: receives the standard nodes.
        nodes: each after those it reads.
        rules: operator -> rule.
        values: name -> what it stands for; the inputs and weights at first. Mostly values of the graph, but a
            rule may also write what only other rules understand, such as a list of values.
        source: the file's name, for messages.
        way_out: what a user can do about operators that have no rule.

    Raises:
        UnsupportedOperatorError: operators without a rule, and uses that a rule cannot translate, all of them.
        BadModelError: a node reads what nothing writes, or its attributes or inputs make no sense.
    """
    missing: dict[str, list[str]] = {}
    lost: set[str] = set()
    for node in nodes:
        if lost.intersection(node.inputs):
            lost.update(node.outputs)
            if node.op not in rules:
                missing.setdefault(node.op, []).append(node.name)
            continue
        rule = rules.get(node.op)
        if rule is None:
            missing.setdefault(node.op, []).append(node.name)
            lost.update(node.outputs)
            continue
        try:
            values.update(_written(node, _call(builder, rule, node, values, source), source))
        except UnsupportedError as error:
            missing.setdefault(f"{node.op}: {error}", []).append(node.name)
            lost.update(node.outputs)
        except UnsupportedOperatorError as error:  # of a graph inside this node
            for op, names in error.uses.items():
                missing.setdefault(op, []).extend(names)
            lost.update(node.outputs)
    if missing:
        raise UnsupportedOperatorError(source, missing, way_out)


def _call(
    builder: Builder, rule: Rule, node: SourceNode, values: Mapping[str, Any], source: str
) -> Sequence[Any]:
    """What a node writes, by its rule."""
    unknown = [name for name in node.inputs if name and name not in values]
    if unknown:
        raise BadModelError(
            f"{source} is broken",
            f"node {node.name!r} ({node.op}) reads {unknown[0]!r}, which nothing writes",
        )
    try:
        with builder.at(node.name):
            result = rule(builder, node, *(values[name] if name else None for name in node.inputs))
    except (UnsupportedError, UnsupportedOperatorError):
        raise
    except BadModelError as error:
        raise BadModelError(
            f"{source}: node {node.name!r} ({node.op}): {error.what}", error.why, error.next_step
        ) from error
    except (ShapeError, *PARSE_FAILURES) as error:
        if isinstance(error, RacelineError) and not isinstance(error, ShapeError):
            raise
        raise failed(f"{source}: node {node.name!r} ({node.op})", error, "Export the model again.") from error
    return result if isinstance(result, tuple) else (result,)


def failed(node: str, error: Exception, way_out: str) -> BadModelError:
    """The error for a node whose rule ended with an exception that it did not raise on purpose.

    Args:
        node: in words, with the file.
        error: what the rule raised.
        way_out: what a user can do where the file is to blame.
    """
    why = f"{type(error).__name__}: {root_cause(error)}"
    if not isinstance(error, _FAULTS):
        return BadModelError(f"{node} makes no sense", why, way_out)
    report = "If its own framework runs the file, this is a fault of Raceline's reader: please report this message."
    return BadModelError(f"{node} cannot be translated", f"its rule does not expect it: {why}", report)


def _written(node: SourceNode, results: Sequence[Any], source: str) -> dict[str, Any]:
    if len(results) < len([name for name in node.outputs if name]):
        what = f"{source}: node {node.name!r} ({node.op})"
        raise BadModelError(
            f"{what} declares {counted(len(node.outputs), 'output')}", f"the operator has {len(results)}"
        )
    return {name: result for name, result in zip(node.outputs, results, strict=False) if name}
