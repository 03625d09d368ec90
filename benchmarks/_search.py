"""How soon the tuner's choice is as good as what an hour finds."""

import math
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._models import Case
from benchmarks.deploy import THREADS, interleaved, prepare
from raceline.convert import (
    Bench,
    TuningLog,
    optimise,
    quantise,
    read_log,
    reduce,
    seconds_to_within,
    tune,
)
from raceline.core.progress import Progress
from raceline.ir import Candidate, Profile, this_machine

MODEL = "mobilenet_v2"  # the engines are nearest to each other there
SEARCH_S = 3600.0
SHARE = 0.05
_PATIENCE = 4  # times the usual budget, for each run of the long search


@dataclass
class Found:
    """What the search told.

    Attributes:
        seconds: (cores, batch) in words -> when the usual run's choice was, and stayed, near the best; None: never.
        gain: how much faster the best of the long search is than the usual run's choice.
        best: what that is.
        reduce_s: seconds for the graphs of fewer bits, which are part of `seconds`.
        runs: how many the long search had time for.
    """

    model: str
    seconds: dict[str, float | None]
    gain: dict[str, float]
    best: dict[str, str]
    reduce_s: float
    runs: int


def search(case: Case, budget_s: float, search_s: float, progress: Progress) -> Found:
    """Tune as usual, then again and again with other orders and more patience, and race all that was chosen."""
    source, sizes = prepare(case)
    model, _ = optimise(source)
    shapes = source.signature.concrete(sizes)
    began_s = time.perf_counter()
    samples = quantise.samples_for(source.signature, "generated", shapes)
    budget, machine = quantise.budget_of("fidelity", None), this_machine()
    reduced = reduce(model, samples, budget, machine, shapes=shapes, deadline_s=60.0, progress=progress)
    reduce_s = time.perf_counter() - began_s
    settings: dict[str, Any] = {"shapes": shapes, "threads": THREADS, "reduced": reduced, "progress": progress,
                                "cache": False}  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="raceline-search-") as folder:
        path = Path(folder) / "log.jsonl"
        usual = tune(source, model, machine, budget_s=budget_s, log=TuningLog(path), **settings)
        log = read_log(path)
    others: list[Profile] = []
    until_s = time.perf_counter() + search_s
    while time.perf_counter() < until_s:
        left_s = max(budget_s, until_s - time.perf_counter())
        patient_s = min(_PATIENCE * budget_s, left_s)
        others.append(tune(source, model, machine, budget_s=patient_s, seed=1 + len(others), **settings))
    models = {"source": source, "optimised": model} | {way.variant: way.model for way in reduced.ways}
    keys = [(threads, batch) for batch in log.head.batches for threads in THREADS]
    found = Found(case.name, {}, {}, {}, reduce_s, len(others))
    typical_s, best_s = log.typical_s(), {}
    with Bench(models, shapes) as bench:
        for threads, batch in keys:
            chosen = usual.best(threads=threads, batch=batch).candidate
            runners = {chosen, *(other.best(threads=threads, batch=batch).candidate for other in others)}
            gain, best = _race(bench, chosen, runners)
            name = f"{threads} cores, batch {batch}"
            found.gain[name], found.best[name] = gain, str(best)
            best_s[threads, batch] = typical_s[chosen] / gain
    near = seconds_to_within(log, share=SHARE, best_s=best_s)
    for (threads, batch), seconds in near.items():
        name = f"{threads} cores, batch {batch}"
        found.seconds[name] = None if math.isinf(seconds) else reduce_s + seconds
    return found


def _race(bench: Bench, chosen: Candidate, runners: set[Candidate]) -> tuple[float, Candidate]:
    """How much faster the best of some is than the one that was chosen, and which it is."""
    seconds = interleaved(bench, {candidate: candidate for candidate in sorted(runners)})
    typical = {candidate: median(times) for candidate, times in seconds.items()}
    best = min(typical, key=lambda candidate: typical[candidate])
    return typical[chosen] / typical[best], best


def worst_seconds(found: Found) -> float | None:
    """The latest of all numbers of cores and batches; None where one never came near."""
    known = [seconds for seconds in found.seconds.values() if seconds is not None]
    return max(known) if len(known) == len(found.seconds) and known else None
