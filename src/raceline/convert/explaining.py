"""Why the passes did what they did: their rewrites and refusals, pass by pass, like reasons together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from raceline.convert import rewrite
from raceline.convert.rewrite import Refusal, Rewrite
from raceline.core.progress import Progress
from raceline.ir import Model

_SHOWN = 3  # examples of each reason


@dataclass(frozen=True)
class Reason:
    """One reason, for all places where it holds.

    Attributes:
        text: the reason, names in it left out where they differ.
        count: how many places.
        places: what each was about: the nodes before, and what came in their place.
    """

    text: str
    count: int
    places: tuple[str, ...]


@dataclass(frozen=True)
class Story:
    """What one pass did.

    Attributes:
        pass_name: the file in passes/.
        description: what it is for.
        rewrites: what it changed.
        refusals: where its pattern was seen and left, and why.
    """

    pass_name: str
    description: str
    rewrites: tuple[Reason, ...]
    refusals: tuple[Reason, ...]


@dataclass(frozen=True)
class Explanation:
    """All passes' stories.

    Attributes:
        name: the model's.
        nodes_before, nodes_after: of the graph.
        stories: of the passes that saw something, in the order in which passes run.
        idle: the passes that saw nothing.
    """

    name: str
    nodes_before: int
    nodes_after: int
    stories: tuple[Story, ...]
    idle: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def lines(self) -> list[str]:
        """The stories for people."""
        told = [f"{self.name}: {self.nodes_before} nodes became {self.nodes_after}"]
        for story in self.stories:
            told += ["", f"{story.pass_name}: {story.description}"]
            for word, reasons in (("rewrote", story.rewrites), ("left", story.refusals)):
                for reason in reasons:
                    told.append(f"  {word} {reason.count}: {reason.text}")
                    told += [f"      {place}" for place in reason.places[:_SHOWN]]
                    if reason.count > _SHOWN:
                        told.append(f"      and {reason.count - _SHOWN} more")
        if self.idle:
            told += ["", f"saw nothing to do: {', '.join(self.idle)}"]
        return told


def explain_model(
    model: Model, *, passes: Iterable[str] | None = None, progress: Progress | None = None
) -> Explanation:
    """Run the passes on a copy and tell their stories.

    Args:
        model: stays as it is.
        passes: whose stories; None for all. All passes run in any case, for each sees what others left.
        progress: told which pass is at work.

    Raises:
        UnknownNameError: there is no such pass; the message lists those there are.
    """
    asked = rewrite.names() if passes is None else list(passes)
    for name in asked:
        rewrite.load(name)
    result, report = rewrite.optimise(model, progress=progress)
    return explanation_of(model, result, report, passes=asked)


def explanation_of(
    source: Model, result: Model, report: Sequence[Rewrite | Refusal], *, passes: Iterable[str] | None = None
) -> Explanation:
    """The stories of an optimisation that was done.

    Args:
        source: the model before it.
        result: the model after it.
        report: its rewrites and refusals.
        passes: whose stories; None for all.
    """
    asked = rewrite.names() if passes is None else list(passes)
    stories = [_story(name, report) for name in rewrite.names() if name in asked]
    return Explanation(
        name=source.name,
        nodes_before=len(source.program.graph),
        nodes_after=len(result.program.graph),
        stories=tuple(story for story in stories if story.rewrites or story.refusals),
        idle=tuple(s.pass_name for s in stories if not s.rewrites and not s.refusals),
    )


def _story(name: str, report: Sequence[Rewrite | Refusal]) -> Story:
    own = [item for item in report if item.pass_name == name]
    return Story(
        pass_name=name,
        description=rewrite.load(name).description,
        rewrites=_grouped((item.reason, _change(item)) for item in own if isinstance(item, Rewrite)),
        refusals=_grouped((item.reason, ", ".join(item.nodes)) for item in own if isinstance(item, Refusal)),
    )


def _change(item: Rewrite) -> str:
    became = f" -> {', '.join(item.after)}" if item.after else ""
    return f"{', '.join(item.before)}{became}"


def _grouped(items: Iterable[tuple[str, str]]) -> tuple[Reason, ...]:
    """Like reasons together, the most frequent first; a reason that stands alone keeps its names."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for text, place in items:
        groups.setdefault(re.sub(r"'[^']*'|\d+", "…", text), []).append((text, place))
    reasons = [
        Reason(
            group[0][0] if len({text for text, _ in group}) == 1 else text,
            len(group),
            tuple(p for _, p in group),
        )
        for text, group in groups.items()
    ]
    return tuple(sorted(reasons, key=lambda reason: -reason.count))
