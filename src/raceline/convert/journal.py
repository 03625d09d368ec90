"""What happens in a race, told once: from a log as far as it goes, and then as it happens.

The race asks the journal for every loading, check and burst, and for the time. Where the log has the answer it is
taken from there, and the time with it; else the work is done and written down. So a run that was killed goes on
where it was, and a whole log gives the same profile again, by the same code that chose at first.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from raceline.convert.measure import Bench, HinderedError, Timing
from raceline.convert.precision import Admission
from raceline.convert.truth import Truth
from raceline.convert.tuning_log import Event, Head, Log, line, read_log
from raceline.core.clock import Clock
from raceline.core.errors import BadModelError, ConfigError, NotReadyError, RacelineError
from raceline.core.paths import write_whole
from raceline.core.units import counted, format_bytes
from raceline.ir import FULL, Accuracy, Candidate, Model, Shapes, weights
from raceline.ir.limits import available_memory_bytes

_COPIES = 3  # of the weights that an engine may hold at a time while it loads

_logger = logging.getLogger(__name__)


class DivergedError(Exception):
    """A log tells another race than the one that is run."""


@dataclass(frozen=True)
class Stop:
    """Why the race of a batch ended.

    Attributes:
        spent_s, budget_s: of time.
        untried: how many candidates were not tried, as they were expected to be slow or the time was used.
        unheard: engines with precisions and numbers of threads of which none was tried.
    """

    batch: int
    why: str
    spent_s: float
    budget_s: float
    untried: int = 0
    unheard: tuple[str, ...] = ()

    def __str__(self) -> str:
        untried = f"; {counted(self.untried, 'candidate')} not tried" if self.untried else ""
        untried += f", nothing of {', '.join(self.unheard)}" if self.unheard else ""
        times = f"{self.spent_s:.0f} s of {self.budget_s:.0f} s"
        return f"batch {self.batch}: stopped after {times}: {self.why}{untried}"


@dataclass
class TuningLog:
    """Where a run of the tuner is told, where it may go on from, and what there is to say of it afterwards.

    Args:
        path: the log; None: beside the profile in the cache, where there is one. One of the same run that was
            killed is gone on with; any other that is there is kept with ".old" after its name.
        replay: a log to compute the profile from, without measuring. One of another machine, version or model
            only says which candidates to try first.

    Attributes:
        notes: sentences for the user.
        stops: why each batch's race ended; none where the profile was in the cache.
        written: where the log is; None where none was written.
    """

    path: Path | None = None
    replay: Path | None = None
    notes: list[str] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    written: Path | None = None

    def tell(self, note: str) -> None:
        """Keep a sentence for the user."""
        _logger.info("%s", note)
        self.notes.append(note)


class LogFile:
    """An open log that no other process writes; every record is on disk before the next thing happens.

    Raises:
        OSError: it cannot be opened, or another process has it.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._file = open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK, 0o644), "r+b", buffering=0)  # noqa: SIM115
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise

    def keep(self, size_bytes: int) -> None:
        """Forget what is behind that length."""
        self._file.truncate(size_bytes)
        self._file.seek(size_bytes)

    def write(self, record: Head | Event) -> None:
        """Add a line."""
        self._file.write(line(record))

    def close(self) -> None:
        """Let others have it; a second call does nothing."""
        self._file.close()


@dataclass
class Journal:
    """The course of one run, and its clock: the time is that of the last thing that happened.

    Args:
        clock: of what happens now.
        told: what a log tells, not yet asked for.
        file: where what happens is written; None: nowhere.
        retelling: whether nothing may happen that is not told.
    """

    clock: Clock
    told: deque[Event] = field(default_factory=deque)
    file: LogFile | None = None
    retelling: bool = False
    _now_s: float = 0.0
    _zero_s: float | None = None

    def __post_init__(self) -> None:
        if not self.told:
            self._zero_s = self.clock.now_s()

    def now_s(self) -> float:
        """Seconds since the run began, without those between a kill and going on."""
        return self._now_s

    def sleep_s(self, duration_s: float) -> None:
        """Let time pass; it counts with what happens next."""
        self.clock.sleep_s(duration_s)

    def anew(self, head: Head) -> Journal:
        """A journal that tells nothing, in the same file from its beginning."""
        if self.file is not None:
            self.file.keep(0)
            self.file.write(head)
        return Journal(self.clock, file=self.file)

    def close(self) -> None:
        """Let others have the file."""
        if self.file is not None:
            self.file.close()

    def happen(self, asked: Event, do: Callable[[], Mapping[str, Any]]) -> Event:
        """What came of `asked`: as told, or by doing it now.

        Raises:
            DivergedError: the log tells of something else.
            HinderedError, BadModelError: it failed, now or as told.
        """
        event = self._retold(asked) if self.told or self.retelling else self._done(asked, do)
        if event.error:
            raise (HinderedError if event.hindered else BadModelError)(event.error)
        return event

    def note(self, do: str, **about: Any) -> Event:
        """Write down a decision."""
        return self.happen(Event(do, 0.0, **about), dict)

    def _retold(self, asked: Event) -> Event:
        if not self.told:
            raise DivergedError(f"it ends before {_words(asked)}")
        event = self.told.popleft()
        if _asked(event) != _asked(asked):
            raise DivergedError(f"it tells of {_words(event)} where {_words(asked)} happens")
        self._now_s = max(self._now_s, event.t)
        if not self.told:
            self._zero_s = self.clock.now_s() - self._now_s
        return event

    def _done(self, asked: Event, do: Callable[[], Mapping[str, Any]]) -> Event:
        try:
            result = do()
        except RacelineError as error:
            hindered = isinstance(error, NotReadyError | HinderedError)
            result = {"error": str(error) or type(error).__name__, "hindered": hindered}
        assert self._zero_s is not None
        self._now_s = max(self._now_s, round(self.clock.now_s() - self._zero_s, 6))
        event = replace(asked, t=self._now_s, **result)
        if self.file is not None:
            self._write(event)
        return event

    def _write(self, event: Event) -> None:
        assert self.file is not None
        try:
            self.file.write(event)
        except OSError as error:
            _logger.warning("the tuning log %s ends here: %s", self.file.path, error.strerror or error)
            self.file.close()
            self.file = None


def _asked(event: Event) -> tuple[object, ...]:
    """What of an event is the question, not the answer."""
    return event.do, event.batch, event.candidate, event.calls, event.number, event.warm, event.why


def _words(event: Event) -> str:
    return f"{event.do} {event.candidate or event.why or f'batch {event.batch}'}"


@dataclass
class Recorded:
    """A bench all of whose answers go through a journal.

    Args:
        bench: does the work.
        truth: what outputs are held against.
        admission: judges candidates with fewer bits; None where there are none.
    """

    bench: Bench
    truth: Truth
    admission: Admission | None
    journal: Journal

    @property
    def models(self) -> Mapping[str, Model]:
        """Variant -> graph."""
        return self.bench.models

    @property
    def shapes(self) -> Shapes:
        """The inputs' shapes at batch 1."""
        return self.bench.shapes

    def founders(
        self, batch: int, proposed: Sequence[Candidate], waiting: Sequence[Candidate]
    ) -> tuple[list[Candidate], list[Candidate]]:
        """Who enters at once, in order, and who waits until time is left: as told, else as proposed.

        Raises:
            DivergedError: the log tells of other candidates.
        """
        told = self.journal.happen(
            Event("founders", 0.0, batch=batch),
            lambda: {"candidates": tuple(proposed), "waiting": tuple(waiting)},
        )
        if sorted(told.candidates) != sorted(proposed) or not set(told.waiting) <= set(proposed):
            raise DivergedError(f"at batch {batch} it tells of other candidates")
        return [c for c in told.candidates if c not in told.waiting], list(told.waiting)

    def load(self, candidate: Candidate) -> int:
        """Load a candidate where memory allows; the memory it added, in bytes.

        Raises:
            HinderedError, BadModelError: as `Journal.happen`.
        """
        return self.journal.happen(
            Event("load", 0.0, candidate=candidate), lambda: {"memory_bytes": self._loaded(candidate)}
        ).memory_bytes

    def _loaded(self, candidate: Candidate) -> int:
        needed = _COPIES * weights.total_bytes(self.models[candidate.variant].program)
        free = available_memory_bytes()
        if needed > free:
            why = f"loading may take {format_bytes(needed)}, and {format_bytes(free)} are free"
            raise NotReadyError("not tried beside the others", why)
        return self.bench.load(candidate)

    def check(self, candidate: Candidate) -> str | Accuracy:
        """How a candidate's outputs are wrong, empty where they are right; with fewer bits, what they are worth.

        Raises:
            HinderedError, BadModelError: as `Journal.happen`.
        """
        event = self.journal.happen(
            Event("check", 0.0, candidate=candidate), lambda: self._checked(candidate)
        )
        return event.accuracy or event.wrong

    def _checked(self, candidate: Candidate) -> dict[str, Any]:
        if candidate.precision != FULL:
            assert self.admission is not None
            return {"accuracy": self.admission.judged(self.bench, candidate)}
        for seed in self.truth.seeds(candidate.batch):
            outputs = self.bench.compute(candidate, seed=seed)
            if wrong := self.truth.disagreement(candidate, seed, outputs):
                return {"wrong": wrong}
        return {"wrong": ""}

    def refuse_lossy(self, found: Accuracy) -> None:
        """Raise where more was lost than may be.

        Raises:
            BadModelError: it was.
        """
        assert self.admission is not None
        self.admission.refuse_lossy(found)

    def time(self, candidate: Candidate, calls: int, *, warm: bool = True, number: int = -1) -> Timing:
        """Time `calls` calls, after an untimed one where `warm`; `number` is that of the round.

        Raises:
            HinderedError, BadModelError: as `Journal.happen`.
        """
        event = self.journal.happen(
            Event("time", 0.0, candidate=candidate, calls=calls, warm=warm, number=number),
            lambda: _burst(self.bench.time(candidate, calls, warm=warm)),
        )
        disturbed = set(event.disturbed)
        return Timing(event.times_s, tuple(place in disturbed for place in range(len(event.times_s))))

    def cut(self, variant: str, start: int, stop: int) -> str:
        """The name of the variant that is a part of another."""
        return self.bench.cut(variant, start, stop)

    def drop(self, candidate: Candidate) -> None:
        """Free what a candidate holds, if it is loaded."""
        self.bench.drop(candidate)


def _burst(timing: Timing) -> dict[str, Any]:
    """A burst in whole nanoseconds, as the clock counts."""
    return {
        "times_s": tuple(max(1e-9, round(float(seconds), 9)) for seconds in timing.times_s),
        "disturbed": tuple(place for place, other in enumerate(timing.disturbed) if other),
    }


def begin(log: TuningLog, head: Head, cached: Path | None, clock: Clock) -> Journal:
    """A journal that writes to the log, and goes on from it where it is of the same run and did not end.

    Args:
        log: is told what there is to say.
        head: of the run.
        cached: where the log is if the user names no other; None: nowhere.
        clock: of what happens.

    Raises:
        ConfigError: the file the user named is no tuning log, or cannot be written.
    """
    path = log.path or cached
    file = None if path is None else _opened(log, path)
    if file is None:
        return Journal(clock)
    try:
        known = _known(log, file.path, head)
        if known is None:
            file.keep(0)
            file.write(head)
        else:
            file.keep(known.whole_bytes)
            log.tell(_resumption(known, file.path))
    except OSError as error:
        file.close()
        if log.path is not None:
            raise _cannot_write(log.path, error) from error
        log.tell(f"this run is not logged, and cannot go on after a kill: {path}: {error.strerror or error}")
        return Journal(clock)
    except BaseException:
        file.close()
        raise
    log.written = file.path
    return Journal(clock, deque(known.events if known else ()), file)


def _opened(log: TuningLog, path: Path) -> LogFile | None:
    try:
        if path.exists() and not path.is_file():
            raise OSError(0, "it is no file")
        return LogFile(path)
    except BlockingIOError:
        log.tell(f"another run writes {path}; this one is not logged")
    except OSError as error:
        if log.path is not None:
            raise _cannot_write(path, error) from error
        _logger.warning("no tuning log at %s: %s", path, error.strerror or error)
    return None


def _cannot_write(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"the log {path} cannot be written", error.strerror or str(error), "Name another place with --log."
    )


def _known(log: TuningLog, path: Path, head: Head) -> Log | None:
    """The log that is there, if it can be gone on with; else it is told why not, and kept if the user named it."""
    if path.stat().st_size == 0:
        return None
    try:
        known = read_log(path)
        if not (why := known.head.differences(head)) and not known.ended:
            return known
        note = f"{path} is of another run ({why})" if why else f"{path} is of a run that ended"
    except ConfigError as error:
        if log.path is not None and "damaged" not in error.what and not _begins_like_one(path):
            raise ConfigError(str(error), next_step="It is left as it is: give another --log.") from error
        note = str(error)
    if log.path is not None:
        old = path.with_name(f"{path.name}.old")
        write_whole(old, path.read_bytes())
        log.tell(f"{note}; it is kept as {old.name}, and all is measured")
    elif "that ended" not in note:
        log.tell(f"{note}; it is not used")
        _logger.warning("%s; it is not used", note)
    return None


def _begins_like_one(path: Path) -> bool:
    """Whether a file is a log, though perhaps of another version, or of a run killed in its first line."""
    with path.open("rb") as file:
        return file.read(12) == b'{"raceline":'


def _resumption(known: Log, path: Path) -> str:
    """What is known from a run that was killed."""
    tried = {e.candidate for e in known.events if e.candidate and "[" not in e.candidate.variant}
    founders = {c for e in known.events if e.do == "founders" for c in e.candidates}
    entered = {replace(c, batch=batch) for c in founders for batch in known.head.batches} | tried
    spent_s = known.events[-1].t if known.events else 0.0
    return f"resumed from {path}: {len(tried)} of {len(entered)} candidates known, {spent_s:.0f} s spent"
