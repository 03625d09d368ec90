"""The tuner's log: JSON lines, a head that says what is tuned where, then everything that happened, as it happened.

The head names versions, machine, graphs, shapes and budgets. The lines after it are events:

    founders     the order in which a batch's candidates enter the race, and which wait until time is left
    load, check  a candidate was loaded; its outputs were held against the reference or the accuracy budget
    time         a burst of calls: the seconds of each, and which of them were disturbed
    retired      candidates that are timed no more
    stop         a batch's race ended, and why
    end          the whole run ended; with the digest of the profile it found

Every line has `t`, the seconds since the run began, at its end. A line with `error` failed. The tuner's decisions
depend on nothing else, so from a whole log the same profile can be computed again without measuring, and from a
part of one a run that was killed goes on. A log may come from anywhere: it is read strictly.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from raceline.convert.choose import leaders, representative_s, typical_s
from raceline.convert.cost_model import Work
from raceline.convert.recipes import Recipes
from raceline.core.errors import ConfigError
from raceline.core.records import from_json
from raceline.core.units import MIB
from raceline.ir import Accuracy, Candidate, Profile

FORMAT = 1
_MOST_BYTES = 256 * MIB
_LONGEST_S = 1e7


@dataclass(frozen=True)
class Head:
    """What a log is of: all that decides what is measured, and what the measurements mean.

    Attributes:
        raceline: version of the package.
        method: version of the way of measuring.
        platform: key of the machine.
        engines: name -> version of those that compete.
        named: whether the user named them: then nothing stands in where all fail.
        models: variant -> digest of the graph.
        signature: digest of the inputs and outputs, ranges included.
        shapes: of the inputs, at batch 1.
        reduced: digest of what decides about fewer bits.
        date: when it began, UTC.
        log: version of the log's own format.
        work: what an item costs, computed; for those who learn from the log.
        recipes: how the graphs of fewer bits were made, for those who need the same.
    """

    raceline: str
    method: int
    platform: str
    engines: dict[str, str]
    named: bool
    models: dict[str, str]
    signature: str
    shapes: dict[str, tuple[int, ...]]
    batches: tuple[int, ...]
    threads: tuple[int, ...]
    budget_s: float
    seed: int
    reduced: str
    date: str
    log: int = FORMAT
    work: Work | None = None
    recipes: Recipes | None = None

    def differences(self, other: Head) -> str:
        """In what another head differs, in words; date, work and recipes do not count. Empty: in nothing."""
        mine, theirs = asdict(self), asdict(other)
        return ", ".join(
            f"{name} {_brief(mine[name])} instead of {_brief(theirs[name])}"
            for name in mine
            if name not in {"date", "work", "recipes"} and mine[name] != theirs[name]
        )


@dataclass(frozen=True)
class Event:
    """One line after the head; which fields it has depends on `do`.

    Attributes:
        t: seconds since the run began, when it ended.
        waiting: of founders: those that enter only if time is left.
        calls, number: of a burst: how many were asked for, and in which round.
        disturbed: which calls of a burst were.
        wrong: how outputs differ from the reference; empty where they do not.
        error: why it failed; `hindered` where it may succeed on another day.
        profile: digest of what was found, see `digest`.
    """

    do: str
    t: float
    batch: int = 0
    candidate: Candidate | None = None
    candidates: tuple[Candidate, ...] = ()
    waiting: tuple[Candidate, ...] = ()
    calls: int = 0
    number: int = -1
    warm: bool = True
    times_s: tuple[float, ...] = ()
    disturbed: tuple[int, ...] = ()
    memory_bytes: int = 0
    wrong: str = ""
    accuracy: Accuracy | None = None
    error: str = ""
    hindered: bool = False
    why: str = ""
    profile: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.t <= _LONGEST_S or not all(0 < s <= _LONGEST_S for s in self.times_s):
            raise ConfigError(f"{self.do} takes an impossible time")
        if self.memory_bytes < 0 or not all(0 <= place < len(self.times_s) for place in self.disturbed):
            raise ConfigError(f"{self.do} has impossible figures")


@dataclass(frozen=True)
class Log:
    """What a log tells.

    Attributes:
        events: in order; of a run that was killed, those until then.
        whole_bytes: length of the file up to its last whole line.
    """

    head: Head
    events: tuple[Event, ...]
    whole_bytes: int = 0

    @property
    def ended(self) -> bool:
        """Whether the run came to its end."""
        return bool(self.events) and self.events[-1].do == "end"

    def times(self, batch: int) -> dict[Candidate, dict[int, float]]:
        """Seconds of one call by candidate and round, of a batch; without those that failed later."""
        found: dict[Candidate, dict[int, float]] = {}
        for event in self.events:
            if event.candidate is None or event.candidate.batch != batch:
                continue
            if event.error:
                found.pop(event.candidate, None)
            elif event.do == "time" and event.number >= 0:
                found.setdefault(event.candidate, {})[event.number] = burst_s(event)
        return found

    def typical_s(self) -> dict[Candidate, float]:
        """Seconds of one call of every candidate that was timed in rounds."""
        return {c: s for batch in self.head.batches for c, s in typical_s(self.times(batch)).items()}


def read_log(path: Path) -> Log:
    """Read a log; a last line that was not written whole is left out.

    Raises:
        OSError: it cannot be read.
        ConfigError: it is too large, or anything but a log of this version; says at which line.
    """
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise ConfigError(f"{path} is no tuning log", f"it has {size} bytes, {_MOST_BYTES} at most are read")
    whole, newline, _ = path.read_bytes().rpartition(b"\n")
    if not newline:
        raise ConfigError(f"{path} is no tuning log", "it has not one whole line")
    records: list[Any] = []
    try:
        for row in whole.split(b"\n"):
            record = from_json(Event if records else Head, json.loads(row))
            if isinstance(record, Event):
                _refuse_incomplete(record)
            records.append(record)
    except (ValueError, RecursionError, ConfigError) as error:
        what = f"{path} is {'damaged' if records else 'no tuning log of this version'}"
        raise ConfigError(what, f"line {len(records) + 1}: {error}") from error
    return Log(records[0], tuple(records[1:]), len(whole) + 1)


def _refuse_incomplete(event: Event) -> None:
    if event.do in {"load", "check", "time"} and event.candidate is None:
        raise ConfigError(f"{event.do} names no candidate")
    if event.do == "time" and not event.error and not event.times_s:
        raise ConfigError("a burst has no times")


def line(record: Head | Event) -> bytes:
    """A record as a line of the log; what has its default is left out of events."""
    data = asdict(record) if isinstance(record, Head) else _sparse(record)
    return json.dumps(data, separators=(",", ":")).encode() + b"\n"


def digest(profile: Profile) -> str:
    """Changes with anything in a profile; seconds count to six digits, for mathematics libraries differ beyond."""
    data = profile.to_json()
    for row in data["measurements"]:
        row |= {name: f"{row[name]:.6g}" for name in ("latency_s", "latency_p99_s")}
    return hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()


def burst_s(event: Event) -> float:
    """One figure for a burst of calls; see `choose.representative_s`."""
    disturbed = set(event.disturbed)
    return representative_s(event.times_s, [place in disturbed for place in range(len(event.times_s))])


def seconds_to_within(
    log: Log, *, share: float = 0.05, best_s: Mapping[tuple[int, int], float] | None = None
) -> dict[tuple[int, int], float]:
    """When the choice came, and stayed, within a share of the best: by (cores, batch), in seconds.

    After every round, the choice is what leads the race so far; it is worth what it turned out to take in the
    end. Infinity where it never came so near.

    Args:
        log: of a run that ended.
        share: 0.05 for 5 %.
        best_s: what counts as the best, seconds of one call by (cores, batch), such as another log's after an
            hour (see `best_of`); None: the best of this log.
    """
    final_s = log.typical_s()
    wanted = best_s or best_of(log)
    reached = dict.fromkeys(wanted, math.inf)
    for batch in {batch for _, batch in wanted}:
        seen: dict[Candidate, dict[int, float]] = {}
        bursts = [e for e in log.events if e.do == "time" and e.number >= 0 and _batch(e) == batch]
        for event, following in zip(bursts, [*bursts[1:], None], strict=True):
            assert event.candidate is not None
            if event.error:
                seen.pop(event.candidate, None)
            else:
                seen.setdefault(event.candidate, {})[event.number] = burst_s(event)
            if following is None or following.number != event.number:
                _update(reached, wanted, batch, 1 + share, seen, final_s, event.t)
    return reached


def _batch(event: Event) -> int:
    return event.candidate.batch if event.candidate else event.batch


def _update(
    reached: dict[tuple[int, int], float],
    wanted: Mapping[tuple[int, int], float],
    batch: int,
    limit: float,
    seen: Mapping[Candidate, Mapping[int, float]],
    final_s: Mapping[Candidate, float],
    now_s: float,
) -> None:
    """Note for each number of cores whether what leads now is near enough to the best."""
    best = leaders(seen) if seen else {}
    for key in wanted:
        fitting = [cores for cores in best if cores <= key[0]]
        if key[1] != batch or not fitting:
            continue
        near = final_s.get(best[max(fitting)], math.inf) <= limit * wanted[key]
        reached[key] = min(reached[key], now_s) if near else math.inf


def best_of(log: Log) -> dict[tuple[int, int], float]:
    """Seconds of one call of the fastest candidate, by (cores, batch)."""
    found: dict[tuple[int, int], float] = {}
    for batch in log.head.batches:
        times = log.times(batch)
        typical = typical_s(times)
        for cores, leader in leaders(times).items() if typical else ():
            found[cores, batch] = typical[leader]
    return found


def _sparse(record: Any) -> dict[str, Any]:
    """A dataclass as JSON values, without the fields that have their default."""
    found: dict[str, Any] = {}
    for spec in fields(record):
        value = getattr(record, spec.name)
        if spec.default is not MISSING and value == spec.default:
            continue
        if isinstance(value, Candidate):
            value = _sparse(value)
        elif isinstance(value, Accuracy):
            value = asdict(value)
        elif spec.name in {"candidates", "waiting"}:
            value = [_sparse(candidate) for candidate in value]
        found[spec.name] = value
    return found


def _brief(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
