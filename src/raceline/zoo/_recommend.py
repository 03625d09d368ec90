"""Rank the networks of one task for one machine, from figures that others took; nothing is measured here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from raceline.core.errors import ConfigError
from raceline.core.units import format_bytes, format_seconds

if TYPE_CHECKING:
    from raceline.zoo import Entry


@dataclass(frozen=True)
class Figures:
    """What one item of a network costs on a platform.

    Attributes:
        latency_s: median where measured, else the roofline's; None: unknown.
        memory_bytes: what the loaded engine added where measured, else weights and the largest step; None: unknown.
        measured: True where Raceline ran the network on such a machine. Else both are estimates: engines mostly
            need more, and less only by tricks (Winograd's convolutions, other precisions, data that stays cached).
        how: how it ran, or what was estimated from, in words.
    """

    latency_s: float | None
    memory_bytes: int | None
    measured: bool
    how: str


@dataclass(frozen=True)
class Limits:
    """What a network may cost; None: as much as it likes.

    Raises:
        ConfigError: a limit is not above zero.
    """

    latency_s: float | None = None
    memory_bytes: float | None = None

    def __post_init__(self) -> None:
        for name, value in (("latency", self.latency_s), ("memory", self.memory_bytes)):
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ConfigError(f"a {name} limit of {value:g} is impossible", "it must be above zero")

    @property
    def any(self) -> bool:
        """Whether there is one."""
        return self.latency_s is not None or self.memory_bytes is not None

    def __str__(self) -> str:
        latency = self.latency_s and f"{format_seconds(self.latency_s)} for an item"
        memory = self.memory_bytes and f"{format_bytes(self.memory_bytes)} of memory"
        return " and ".join(text for text in (latency, memory) if text)


@dataclass(frozen=True)
class Verdict:
    """One network, judged.

    Attributes:
        name: the network's.
        fits: whether it keeps the limits; where `figures` are an estimate, so is this.
        figures: its costs.
        published: how well trained weights answer; empty where no figure compares.
        why: the reason for its place or its refusal.
    """

    name: str
    fits: bool
    figures: Figures
    published: str
    why: str


@dataclass(frozen=True)
class Recommendation:
    """The networks of a task for a platform.

    Attributes:
        task, platform: for what.
        rule: how the picks are ordered, in words.
        picks: those that keep the limits, the best first.
        refused: the others, the nearest first.
    """

    task: str
    platform: str
    rule: str
    picks: tuple[Verdict, ...]
    refused: tuple[Verdict, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def recommend(
    entries: Sequence[Entry], figures: Mapping[str, Figures], platform: str, limits: Limits
) -> Recommendation:
    """Rank networks by what they cost on a platform.

    With a limit the most accurate that keeps it comes first, by published figures, which are compared within
    one data set only; without one, the fastest. What was measured stands before what is estimated.

    Args:
        entries: networks of one task, at least one.
        figures: name -> costs, of each.
        platform: whose figures these are, for people.
        limits: what a network may cost.

    Raises:
        ConfigError: no network keeps the limits; the message names the nearest and what it needs.
    """
    task = entries[0].task
    breaches = {entry.name: _breach(figures[entry.name], limits) for entry in entries}
    fitting = [entry for entry in entries if not breaches[entry.name]]
    others = [entry for entry in entries if breaches[entry.name]]
    others.sort(key=lambda entry: (_excess(figures[entry.name], limits), entry.name))
    if not fitting:
        raise _nothing_fits(task, platform, others[0].name, figures[others[0].name], limits)
    fitting.sort(key=_order(entries, figures, limits))
    leader: dict[tuple[str, str], Entry] = {}
    picks = []
    for entry in fitting:
        picks.append(_verdict(entry, figures[entry.name], _place(entry, fitting, figures, limits, leader)))
    refused = [_verdict(entry, figures[entry.name], breaches[entry.name], fits=False) for entry in others]
    return Recommendation(task, platform, _rule(limits), tuple(picks), tuple(refused))


def _rule(limits: Limits) -> str:
    order = "what was measured before what is estimated"
    if not limits.any:
        return f"no limit was given: the fastest first, {order}"
    return f"within {limits}: the most accurate by published figures first, compared within one data set; {order}"


def _order(entries: Sequence[Entry], figures: Mapping[str, Figures], limits: Limits) -> Any:
    """The key that the picks are sorted by."""
    yardsticks = [_yardstick(entry) for entry in entries if entry.published]

    def key(entry: Entry) -> tuple[Any, ...]:
        costs = figures[entry.name]
        latency_s = math.inf if costs.latency_s is None else costs.latency_s
        if not limits.any or entry.published is None:
            # A network whose accuracy nobody states comes after those that are compared.
            return (not costs.measured, limits.any, latency_s, entry.name)
        group = _yardstick(entry)
        return (not costs.measured, False, -yardsticks.count(group), group, -entry.published.value, latency_s)

    return key


def _yardstick(entry: Entry) -> tuple[str, str]:
    """What an entry's published figure is of; equal where two can be compared."""
    assert entry.published is not None
    return entry.published.data, entry.published.metric


def _breach(costs: Figures, limits: Limits) -> str:
    """Which limit a network breaks; empty where none, as far as is known."""
    broken = []
    pairs = (
        ("latency", costs.latency_s, limits.latency_s, format_seconds),
        ("memory", costs.memory_bytes, limits.memory_bytes, format_bytes),
    )
    for name, value, limit, shown in pairs:
        if limit is None:
            continue
        if value is None:
            broken.append(f"its {name} is unknown: {costs.how}")
        elif value > limit:
            known = "measured" if costs.measured else "an ESTIMATE of"
            broken.append(f"{name}: {known} {shown(value)} is over the limit of {shown(limit)}")
    return "; ".join(broken)


def _excess(costs: Figures, limits: Limits) -> float:
    """How many times the limit it needs, of the limit that it breaks most."""
    pairs = ((costs.latency_s, limits.latency_s), (costs.memory_bytes, limits.memory_bytes))
    return max((math.inf if value is None else value / limit for value, limit in pairs if limit), default=0.0)


def _nothing_fits(task: str, platform: str, name: str, costs: Figures, limits: Limits) -> ConfigError:
    needs = [
        shown
        for shown in (
            costs.latency_s and f"{format_seconds(costs.latency_s)} for an item",
            costs.memory_bytes and f"{format_bytes(costs.memory_bytes)} of memory",
        )
        if shown
    ]
    known = "measured" if costs.measured else "estimated"
    nearest = f"the nearest is {name} with {' and '.join(needs)} ({known})" if needs else costs.how
    return ConfigError(
        f"no network to {task} on {platform} keeps within {limits}",
        nearest,
        "Allow more, or take a smaller picture or a faster machine.",
    )


def _place(
    entry: Entry,
    fitting: Sequence[Entry],
    figures: Mapping[str, Figures],
    limits: Limits,
    leader: dict[tuple[str, str], Entry],
) -> str:
    """Why an entry stands where it does; `leader` holds the first of each yardstick so far."""
    reasons = [_cost(figures[entry.name], limits)]
    if entry.published is None:
        reasons.append("no published figure compares")
        return "; ".join(reasons)
    better = [other for other in fitting if _beats(other, entry, figures)]
    first = leader.setdefault(_yardstick(entry), entry)
    if better:
        best = max(better, key=lambda other: other.published.value if other.published else 0.0)
        reasons.append(f"{best.name} is both faster and more accurate")
    elif first is entry and limits.any:
        reasons.append(f"the most accurate on {entry.published.data} of what fits")
    elif limits.any and first.published is not None:
        points = 100 * (first.published.value - entry.published.value)
        reasons.append(f"{points:.1f} points below {first.name}")
    else:
        reasons.append("nothing here is both faster and more accurate")
    return "; ".join(reasons)


def _beats(other: Entry, entry: Entry, figures: Mapping[str, Figures]) -> bool:
    """Whether another is faster and more accurate, as far as both can be compared."""
    mine, theirs = figures[entry.name], figures[other.name]
    if entry.published is None or other.published is None or _yardstick(entry) != _yardstick(other):
        return False
    if mine.measured != theirs.measured or mine.latency_s is None or theirs.latency_s is None:
        return False
    return theirs.latency_s < mine.latency_s and other.published.value > entry.published.value


def _cost(costs: Figures, limits: Limits) -> str:
    """What it takes, against the limits, and how that is known."""
    if costs.latency_s is None:
        return costs.how
    if not costs.measured:
        caution = "; measure it before you rely on it" if limits.any else ""
        return f"ESTIMATE: {format_seconds(costs.latency_s)} if an engine reached the machine's peak{caution}"
    share = f", {costs.latency_s / limits.latency_s:.0%} of the limit" if limits.latency_s else ""
    return f"measured {format_seconds(costs.latency_s)}{share}"


def _verdict(entry: Entry, costs: Figures, why: str, *, fits: bool = True) -> Verdict:
    return Verdict(entry.name, fits, costs, str(entry.published or ""), why)
