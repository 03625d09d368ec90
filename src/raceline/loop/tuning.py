"""A model file in, a tuned and proven bundle out, with the reasons of every choice."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from raceline.convert import Equivalence, TuningLog
from raceline.core.progress import Progress, Silent
from raceline.core.units import counted, format_seconds
from raceline.ir import FULL, Measurement, Profile
from raceline.ir.bundle import refuse_to_replace_others
from raceline.loop.deployment import Plan
from raceline.loop.preparing import Stages, check_writable, prepare
from raceline.serve import Choice

_ENOUGH_CALLS = 5


@dataclass(frozen=True)
class Best:
    """What is fastest of all that uses at most so many cores, at one batch.

    Attributes:
        cores: how many may be used.
        measured: the fastest.
        why: what it was better than.
    """

    cores: int
    measured: Measurement
    why: str

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        row = self.measured
        return {
            "cores": self.cores,
            "batch": row.candidate.batch,
            "candidate": asdict(row.candidate),
            "latency_s": row.latency_s,
            "throughput_per_s": row.throughput_per_s,
            "accuracy": row.accuracy and asdict(row.accuracy),
            "why": self.why,
        }


@dataclass(frozen=True)
class Tuned:
    """What tuning a model found.

    Attributes:
        bundle: where it was written.
        profile: all that was measured.
        best: for each number of cores and batch.
        choice: how a server runs the bundle where nothing else is asked for.
        log: why the race ended, and what there is to say of the log.
        equivalence: the proof of what a server opens.
        notes: what of fewer bits did not compete or did not win, and why; and what is not certain.
        stage_s: seconds of each step.
    """

    bundle: Path
    profile: Profile
    best: tuple[Best, ...]
    choice: Choice
    log: TuningLog
    equivalence: Equivalence
    notes: tuple[str, ...]
    stage_s: dict[str, float]

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {
            "bundle": str(self.bundle),
            "platform": self.profile.platform,
            "best": [row.to_json() for row in self.best],
            "serves": f"{self.choice} ({self.choice.why})",
            "stops": [asdict(stop) for stop in self.log.stops],
            "log": self.log.written and str(self.log.written),
            "notes": [*self.log.notes, *self.notes],
            "equivalence": self.equivalence.to_json(),
            "stage_s": self.stage_s,
        }


def tune_bundle(plan: Plan, log: TuningLog | None = None, *, progress: Progress | None = None) -> Tuned:
    """Take a model file to a tuned, proven bundle at `plan.out`; nothing is served.

    Raises:
        RequestError: the model, a shape or a setting is unusable; the message says what to change.
        BadModelError: no engine runs it, or none that does is equivalent.
    """
    check_writable(plan.out)
    refuse_to_replace_others(plan.out)
    log, stages = log or TuningLog(), Stages(progress or Silent())
    made = prepare(plan, stages, log)
    with stages("bundle"):
        made.translator.export(
            made.served, plan.out, profile=made.profile, equivalence=made.equivalence.to_json()
        )
    best = tuple(best_of(made.profile))
    notes = (*made.reduced.notes, *_of_fewer_bits(made.profile, best), *_of_few_calls(best))
    return Tuned(plan.out, made.profile, best, made.choice, log, made.equivalence, notes, stages.seconds)


def _of_fewer_bits(profile: Profile, best: Sequence[Best]) -> list[str]:
    """Why ways of computing with fewer bits that were measured are the best nowhere."""
    chosen = {(row.measured.candidate.engine, row.measured.candidate.precision) for row in best}
    rows = [row for row in profile.measurements if row.candidate.precision != FULL]
    notes = []
    for engine, precision in dict.fromkeys((row.candidate.engine, row.candidate.precision) for row in rows):
        if (engine, precision) in chosen:
            continue
        mine = [r for r in rows if (r.candidate.engine, r.candidate.precision) == (engine, precision)]
        ratios = {
            (ratio, row.candidate.batch) for row in mine if (ratio := _against_full(row, profile)) is not None
        }
        missing = {row.candidate.batch for row in mine} - {batch for _, batch in ratios}
        if ratios:
            least, batch = min(ratios)
            told = f"{least:.2f} times the time of full precision, at batch {batch}"
            untold = f"; nothing is known of batch {', '.join(map(str, sorted(missing)))}" if missing else ""
            notes.append(f"{precision} on {engine} is not taken: at best {told}{untold}")
        else:
            notes.append(f"{precision} on {engine} is out: {mine[0].failure or 'nothing compares'}")
    return notes


def _against_full(row: Measurement, profile: Profile) -> float | None:
    """A row's time over that of the fastest of full precision at its batch, on as many cores."""
    full = [
        other.latency_s for other in profile.measurements
        if not other.failure and other.candidate.precision == FULL
        and other.candidate.batch == row.candidate.batch and other.candidate.cores <= row.candidate.cores
    ]  # fmt: skip
    return row.latency_s / min(full) if full and not row.failure else None


def _of_few_calls(best: Sequence[Best]) -> list[str]:
    """A warning where a choice rests on next to nothing."""
    fewest = min((row.measured.runs for row in best), default=_ENOUGH_CALLS)
    if fewest >= _ENOUGH_CALLS:
        return []
    return [f"a choice rests on {counted(fewest, 'call')} only, so it is not certain; give a longer --budget"]


def best_of(profile: Profile) -> list[Best]:
    """The fastest for each number of cores and batch, with what it was better than."""
    rows = profile.usable()
    found = []
    for batch in sorted({row.candidate.batch for row in rows}):
        for cores in sorted({row.candidate.cores for row in rows}):
            fitting = profile.usable(threads=cores, batch=batch)
            if fitting:
                left = {
                    row.candidate.engine for row in profile.measurements
                    if row.untried and row.candidate.batch == batch and row.candidate.cores <= cores
                }  # fmt: skip
                found.append(Best(cores, fitting[0], _why(fitting, left)))
    return found


def _why(rows: list[Measurement], untried: set[str]) -> str:
    """What the first of these is better than: the next engine, and full precision where it has fewer bits.

    Args:
        rows: measured, the fastest first.
        untried: engines that there was no time for, or not for all of their candidates.
    """
    best, *others = rows
    reasons = []
    if rival := next((r for r in others if r.candidate.engine != best.candidate.engine), None):
        reasons.append(f"{rival.latency_s / best.latency_s:.2f} times as fast as {rival.candidate.engine}")
    if best.candidate.precision != FULL:
        full = next((r for r in others if r.candidate.precision == FULL), None)
        reasons += [f"{full.latency_s / best.latency_s:.2f} times as fast as fp32"] if full else []
        reasons += [str(best.accuracy)] if best.accuracy else []
    if not reasons and (left := untried - {best.candidate.engine}):
        return f"there was no time to try {', '.join(sorted(left))}"
    return "; ".join(reasons) or "nothing else ran it"


def show_tuned(result: Tuned, console: Console) -> None:
    """Print the table of the best, and what there is to say."""
    table = Table("cores", "batch", "engine", "precision", "how", "a call", "items/s", "why", box=None)
    for row in result.best:
        measured, candidate = row.measured, row.measured.candidate
        table.add_row(
            str(row.cores), str(candidate.batch), candidate.engine, candidate.precision, _how(row),
            format_seconds(measured.latency_s), f"{measured.throughput_per_s:.1f}", row.why,
        )  # fmt: skip
    console.print(table)
    lines = [f"note    {note}" for note in (*result.log.notes, *result.notes)]
    lines += [f"tuned   {stop}" for stop in result.log.stops]
    lines += [f"time    {', '.join(f'{name} {seconds:.0f} s' for name, seconds in result.stage_s.items())}"]
    lines += [f"log     {result.log.written}"] if result.log.written else []
    lines += [f"serves  {result.choice} ({result.choice.why})"]
    lines += [f"proof   {result.equivalence}", f"bundle  {result.bundle}"]
    for line in lines:
        console.print(line, highlight=False, markup=False, soft_wrap=True)


def _how(row: Best) -> str:
    """Graph, threads, streams and chunks of a candidate."""
    candidate = row.measured.candidate
    streams = f", {candidate.streams} streams" if candidate.streams > 1 else ""
    chunk = f", by {candidate.chunk}" if candidate.chunk else ""
    pinned = " pinned" if candidate.pinned else ""
    return f"{candidate.variant}, {counted(candidate.threads, 'thread')}{pinned}{streams}{chunk}"
