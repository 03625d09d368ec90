"""The pass framework: runs the rewrites of passes/ to a fixed point, checks each and keeps their reasons.

A pass is one file in passes/. It has

- `description`: one line;
- `after`: the passes that must have run before it;
- `tolerance`: how far it may move an output, relative to that output's largest magnitude; 0 is bit-exact;
- `example()`: the smallest model on which it fires;

and either three functions that look at one node at a time,

- `pattern(node, scope) -> Match | None`: what ends in this node and might be rewritten;
- `check(match, scope) -> str`: a sentence why not; empty where it may be;
- `rewrite(match, scope) -> str`: do it, and say why it helps;
- optionally `backwards = True`: look at the nodes from the last to the first;

or one that looks at the whole program,

- `run(program) -> Iterator[tuple[tuple[str, ...], str]]`: what it changed and why, for each change.
"""

from __future__ import annotations

import graphlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import raceline.convert.passes as folder
from raceline.convert.ensure import Promise, ensure
from raceline.convert.fused import drop_unused
from raceline.convert.graph import Match, Scope, describe, scopes_of
from raceline.convert.shapes import forget_probes, infer
from raceline.core import plugins
from raceline.core.errors import ConfigError, InvariantError, UnknownNameError
from raceline.core.progress import Progress, Silent
from raceline.ir import Model

if TYPE_CHECKING:
    import onnx_ir as ir

ROUNDS = 24  # each round opens up at most a few more rewrites; a model that needs this many does not settle


@dataclass(frozen=True)
class Rewrite:
    """A change that was made.

    Attributes:
        pass_name: the file in passes/ that made it.
        before: the nodes (or weights, or functions) it was about.
        after: the nodes that came in their place.
        reason: why it helps, or why nothing is lost.
    """

    pass_name: str
    before: tuple[str, ...]
    after: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        became = f" -> {', '.join(self.after)}" if self.after else ""
        return f"{self.pass_name}: {_some(self.before)}{became}: {self.reason}"


@dataclass(frozen=True)
class Refusal:
    """A place where a pattern fitted and the rewrite would have been wrong or useless.

    Attributes:
        pass_name: the file in passes/ that refused.
        nodes: the nodes it was about.
        reason: why not.
    """

    pass_name: str
    nodes: tuple[str, ...]
    reason: str

    def __str__(self) -> str:
        return f"{self.pass_name} left {_some(self.nodes)}: {self.reason}"


def _some(names: Sequence[str], most: int = 12) -> str:
    """The names, or the first few and how many more."""
    rest = len(names) - most
    return ", ".join(names[:most]) + (f" and {rest} more" if rest > 0 else "")


Report = list[Rewrite | Refusal]


def names() -> list[str]:
    """All passes, in the order in which they run."""
    return [name for wave in _waves() for name in wave]


def _waves() -> list[list[str]]:
    return waves({name: load(name).after for name in plugins.names(folder)})


def load(name: str) -> Any:
    """The pass of that name.

    Raises:
        UnknownNameError: there is none; the message lists those there are.
    """
    return plugins.load(folder, name, kind="pass")


def waves(after: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Names in groups, so that each comes in a later group than those it names; alphabetical inside a group.

    Raises:
        UnknownNameError: a pass names one that does not exist.
        ConfigError: passes wait for each other in a circle.
    """
    for needed in after.values():
        for name in needed:
            if name not in after:
                raise UnknownNameError("pass", name, sorted(after))
    sorter = graphlib.TopologicalSorter(after)
    try:
        sorter.prepare()
    except graphlib.CycleError as error:
        circle = " -> ".join(error.args[1])
        raise ConfigError("passes wait for each other", circle, "Take one name out of an `after`.") from error
    result: list[list[str]] = []
    while sorter.is_active():
        ready = sorted(sorter.get_ready())
        result.append(ready)
        sorter.done(*ready)
    return result


def optimise(
    model: Model, *, passes: Iterable[str] | None = None, progress: Progress | None = None
) -> tuple[Model, Report]:
    """Rewrite a model so that it moves and computes less and means the same.

    Works on a copy that shares the weights; inputs and outputs keep their names, types and shapes.
    Deterministic, and a second run changes nothing.

    Args:
        model: left as it is.
        passes: names of the passes to run; None for all.
        progress: told which pass is at work.

    Returns:
        The new model, its provenance one sentence a rewrite longer; and every rewrite in order, followed by
        the refusals that still stand at the end.

    Raises:
        UnknownNameError: a pass does not exist.
        InvariantError: a pass broke the graph, or passes undo each other.
    """
    chosen = _chosen(passes)
    result = model.clone()
    _name_nodes(result.program)
    run = _Run(result.program)
    infer(result.program)
    with (progress or Silent()).step("optimise", total=len(chosen)) as step:
        for count in range(1, len(chosen) + 1):
            step.advance(note=", ".join(chosen[count - 1]))
            run.settle([name for wave in chosen[:count] for name in wave])
    forget_probes(result.program)
    drop_unused(result.program)
    steps = (*result.provenance.steps, *map(str, run.rewrites))
    report: Report = [*run.rewrites, *run.refusals]
    return replace(result, provenance=replace(result.provenance, steps=steps)), report


def _chosen(passes: Iterable[str] | None) -> list[list[str]]:
    every = names()
    wanted = set(every) if passes is None else set(passes)
    for name in sorted(wanted - set(every)):
        raise UnknownNameError("pass", name, every)
    return [chosen for wave in _waves() if (chosen := [name for name in wave if name in wanted])]


def _name_nodes(program: ir.Model) -> None:
    """Name the nodes that have no name, so that reports can point at them."""
    count = 0
    for graph in scopes_of(program):
        for node in graph:
            if not node.name:
                node.name = f"{node.op_type}_{count}"
            count += 1


class _Run:
    """One optimisation under way.

    A pass runs only when those it comes after have nothing more to do: fusing a layer before its
    normalisation has been folded would hide it.
    """

    def __init__(self, program: ir.Model) -> None:
        self.program = program
        self.promise = Promise.of(program)
        self.rewrites: list[Rewrite] = []
        self._refusals: dict[str, list[Refusal]] = {}
        self._quiet: dict[
            str, int
        ] = {}  # pass -> how many rewrites there were when it last found nothing to do

    @property
    def refusals(self) -> list[Refusal]:
        """Those of each pass's last look at the graph."""
        return [refusal for refusals in self._refusals.values() for refusal in refusals]

    def settle(self, chosen: Sequence[str]) -> None:
        """Run these passes over and over until none changes anything."""
        for _ in range(ROUNDS):
            before = len(self.rewrites)
            for name in chosen:
                if self._quiet.get(name) != len(self.rewrites):
                    self._apply(name, load(name))
            if len(self.rewrites) == before:
                return
            infer(self.program)
        raise InvariantError("passes undo each other", f"they never settle; the last: {self.rewrites[-1]}")

    def _apply(self, name: str, author: Any) -> None:
        """Run one pass over all graphs, then check what it left."""
        before = len(self.rewrites)
        self._refusals[name] = []
        if hasattr(author, "run"):
            self.rewrites += [Rewrite(name, what, (), reason) for what, reason in author.run(self.program)]
        else:
            for graph in scopes_of(self.program):
                if graph is not self.program.graph and graph not in scopes_of(self.program):
                    continue  # the node around it was taken out meanwhile
                for outcome in _sweep(name, author, Scope(self.program, graph)):
                    kept: list[Any] = self.rewrites if isinstance(outcome, Rewrite) else self._refusals[name]
                    kept.append(outcome)
        if len(self.rewrites) > before:
            ensure(self.program, self.promise, name)
        else:
            self._quiet[name] = before


def _sweep(name: str, author: Any, scope: Scope) -> Iterator[Rewrite | Refusal]:
    """Offer every node of one graph to a pass, once."""
    order = reversed if getattr(author, "backwards", False) else tuple
    for node in order(tuple(scope.graph)):
        if node.graph is not scope.graph:
            continue  # an earlier rewrite took it out
        match: Match | None = author.pattern(node, scope)
        if match is None:
            continue
        before = tuple(map(describe, match.nodes))
        if why_not := match.obstacle or author.check(match, scope):
            yield Refusal(name, before, why_not)
            continue
        scope.inserted.clear()
        reason = author.rewrite(match, scope)
        after = tuple(describe(new) for new in scope.inserted if new.graph is scope.graph)
        yield Rewrite(name, before, after, reason)
