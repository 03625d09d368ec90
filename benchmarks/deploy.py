"""What tuning brings, on real models: `python -m benchmarks.deploy [--json] [--models NAME ...]`.

For every model, batch and number of threads, the tuned configuration beside plain ONNX Runtime, OpenVINO and MNN
on the graph as it was read, all loaded at once, specialised to the same shapes, and timed in interleaved rounds,
each engine in a process of its own. A plain engine takes the whole batch in one call and is given the better of
one thread and all that are allowed. Outputs are held against a reference run; a plain engine that computes the
wrong thing is marked and is no peer on that model.
"""

import argparse
import json
import math
import random
import statistics
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._models import INSTALL, Case, missing, real_models, zoo_models
from raceline.convert import Bench, IRTranslator, Truth, optimise, settle, tune, verify
from raceline.core.errors import RacelineError
from raceline.core.progress import Progress
from raceline.ir import Candidate, Model, Shapes, cost, this_machine
from raceline.loop import TerminalProgress

PEERS = ("onnxruntime", "openvino", "mnn")
TRAFFIC_MODELS = ("resnet50", "mobilenet_v2", "minilm_l6")
BATCHES = (1, 8)
THREADS = (1, 2)
TUNE_S = 40.0
RACE_S = 6.0
FIRST_ROUNDS = 5
MIN_ROUNDS = 15
CLOSE = 1.25  # times the fastest: who is slower than that after the first rounds is timed no further
SEED = 0
SLICE_S = 0.05  # of one runner in one round


@dataclass
class Race:
    """One model at one batch and number of threads; seconds of one call, medians over interleaved rounds.

    Attributes:
        threads: how many may be used.
        plain_s: the plain engines; those that refuse the model are absent.
        wrong: runners whose outputs are not the model's.
    """

    model: str
    batch: int
    threads: int
    tuned: str
    tuned_s: float
    plain_s: dict[str, float]
    unoptimised_s: float | None
    wrong: list[str] = field(default_factory=list)

    @property
    def peers_s(self) -> dict[str, float]:
        """The plain engines that compute the right thing."""
        return {engine: s for engine, s in self.plain_s.items() if engine not in self.wrong}

    @property
    def regret(self) -> float | None:
        """The tuned latency over that of the best plain engine; None where no plain engine is right."""
        return self.tuned_s / min(self.peers_s.values()) if self.peers_s else None


def prepare(case: Case) -> tuple[Model, dict[str, int]]:
    """The model as read, with its batch axis and the values its inputs make sense with."""
    source = IRTranslator().parse(case.path)
    values = {spec.name: spec.values for spec in case.inputs if spec.values}
    return settle(source, shapes=case.shapes(1), values=values)


def race(
    name: str, models: dict[str, Model], shapes: Shapes, tuned: Candidate, batch: int, threads: int
) -> Race:
    """Time the tuned candidate and the plain engines side by side."""
    plain = {
        (engine, count): Candidate(engine, threads=count, batch=batch, variant="source")
        for engine in PEERS
        for count in sorted({1, threads})
    }
    runners: dict[Any, Candidate] = {**plain, "tuned": tuned}
    if batch == threads == 1:
        runners["unoptimised"] = Candidate("onnxruntime", variant="source", optimise=False)
    truth = Truth(models["source"], shapes, SEED)
    with Bench(models, shapes) as bench:
        seconds = interleaved(bench, runners)
        wrong = {
            runner[0] if isinstance(runner, tuple) else runner
            for runner in seconds
            for outputs in [bench.compute(runners[runner], seed=SEED)]
            if truth.disagreement(runners[runner], SEED, outputs)
        }
    median = {runner: statistics.median(times) for runner, times in seconds.items()}
    return Race(
        model=name,
        batch=batch,
        threads=threads,
        tuned=str(tuned),
        tuned_s=median["tuned"],
        plain_s={
            engine: min(median[runner] for runner in plain if runner[0] == engine and runner in median)
            for engine in PEERS
            if any(runner[0] == engine for runner in median if isinstance(runner, tuple))
        },
        unoptimised_s=median.get("unoptimised"),
        wrong=sorted(wrong),
    )


def interleaved(bench: Bench, runners: dict[Any, Candidate]) -> dict[Any, list[float]]:
    """Seconds of many calls of each runner that works, in rounds of random order so that drift hits all.

    Runners that are one candidate share its figures: where tuning chose a plain engine's own configuration,
    timing it twice would only compare noise.
    """
    chance = random.Random(SEED)
    calls: dict[Candidate, int] = {}
    for candidate in dict.fromkeys(runners.values()):
        try:
            bench.load(candidate)
            once_s = min(bench.time(candidate, 3).times_s)
        except RacelineError as error:
            print(f"  {candidate} cannot run it: {str(error)[:160]}", file=sys.stderr)
            continue
        calls[candidate] = max(1, min(200, round(SLICE_S / once_s)))
    seconds: dict[Candidate, list[float]] = {candidate: [] for candidate in calls}
    racing = list(calls)
    began_s, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - began_s < RACE_S:
        for candidate in chance.sample(racing, len(racing)):
            timing = bench.time(candidate, calls[candidate])
            seconds[candidate].append(statistics.median(timing.times_s))
        rounds += 1
        if rounds == FIRST_ROUNDS:
            typical = {candidate: statistics.median(times) for candidate, times in seconds.items()}
            racing = [c for c in racing if typical[c] <= CLOSE * min(typical.values())]
    return {name: seconds[candidate] for name, candidate in runners.items() if candidate in seconds}


@dataclass
class Found:
    """What one model gave."""

    races: list[Race]
    traffic_reduction: float
    equivalent: dict[str, bool]


def measure(case: Case, progress: Progress) -> Found:
    """Tune one model anew and race the choice of every batch and number of threads."""
    source, sizes = prepare(case)
    model, _ = optimise(source)
    shapes = source.signature.concrete(sizes)
    before, after = cost(source, sizes), cost(model, sizes)
    batches = BATCHES if source.signature.batch_axis else (1,)
    profile = tune(
        source, model, this_machine(), shapes=shapes, batches=batches, threads=THREADS, budget_s=TUNE_S,
        progress=progress, cache=False,
    )  # fmt: skip
    models = {"source": source, "optimised": model}
    races, chosen = [], {}
    for batch in batches:
        for threads in THREADS:
            tuned = profile.best(threads=threads, batch=batch).candidate
            chosen[tuned.engine, tuned.variant] = tuned
            races.append(race(case.name, models, shapes, tuned, batch, threads))
    axis = source.signature.batch_axis
    cases = [{**sizes, axis: 1}, {**sizes, axis: 3}] if axis else [sizes]
    proofs = [verify(source, models[c.variant], c, cases) for c in chosen.values()]
    equivalent = {proof.candidate: proof.ok for proof in proofs}
    equivalent |= {f"{r.tuned}, as raced": "tuned" not in r.wrong for r in races}
    return Found(races, 1 - after.intermediate_bytes / before.intermediate_bytes, equivalent)


def figures(found: dict[str, Found], failed: dict[str, str]) -> dict[str, Any]:
    """The figures by name; worst case as the scalar, details under `cases`. Every model weighs the same."""
    races = [race for one in found.values() for race in one.races]
    at_one = [r.unoptimised_s / r.tuned_s for r in races if r.unoptimised_s]
    singles = {
        engine: geomean(geomean(against(engine, r) for r in one.races) for one in found.values())
        for engine in PEERS
    }
    traffic = [found[name].traffic_reduction for name in TRAFFIC_MODELS if name in found]
    return {
        "picker_regret": max(r.regret for r in races if r.regret is not None),
        "speedup_geomean_vs_best_single_engine": min(singles.values()),
        "memory_traffic_reduction": min(traffic, default=None),
        "speedup_vs_unoptimised": geomean(at_one),
        "equivalence_ok": not failed and all(ok for f in found.values() for ok in f.equivalent.values()),
        "speedup_vs_single_engine": singles,
        "cases": {
            "races": [asdict(r) | {"regret": r.regret} for r in races],
            "memory_traffic_reduction": {name: one.traffic_reduction for name, one in found.items()},
            "equivalence": {name: one.equivalent for name, one in found.items()},
        },
    }


def against(engine: str, race: Race) -> float:
    """Gain over always using one engine.

    Where it cannot run the model, or computes the wrong thing, its user is granted the best other one.
    """
    peers_s = race.peers_s
    return peers_s.get(engine, min(peers_s.values(), default=race.tuned_s)) / race.tuned_s


def geomean(values: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table(found: dict[str, Found]) -> Table:
    """One line a race, milliseconds."""
    result = Table(title="ms a call, median of interleaved rounds")
    for head in ("model", "batch", "threads", *PEERS, "unoptimised", "tuned", "regret", "choice"):
        result.add_column(head, justify="left" if head in {"model", "choice"} else "right")
    for r in (race for one in found.values() for race in one.races):
        plain = [
            f"{r.plain_s[e] * 1e3:.3g}{'!' if e in r.wrong else ''}" if e in r.plain_s else "refuses"
            for e in PEERS
        ]
        bare = f"{r.unoptimised_s * 1e3:.3g}" if r.unoptimised_s else ""
        cells = (
            f"{r.batch}",
            f"{r.threads}",
            *plain,
            bare,
            f"{r.tuned_s * 1e3:.3g}",
            "" if r.regret is None else f"{r.regret:.3f}",
        )
        result.add_row(r.model, *cells, r.tuned)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    options = parser.parse_args(arguments)
    progress = TerminalProgress()
    cases = [*real_models(), *zoo_models(progress)]
    unknown = set(options.models or []) - {case.name for case in cases}
    if unknown:
        parser.error(
            f"unknown models: {', '.join(sorted(unknown))}; there are {', '.join(c.name for c in cases)}"
        )
    found = {}
    failed = {}
    for case in cases:
        if not options.models or case.name in options.models:
            print(f"{case.name} ...", file=sys.stderr)
            try:
                found[case.name] = measure(case, progress)
            except RacelineError as error:
                failed[case.name] = str(error)
                print(f"{case.name} failed: {error}", file=sys.stderr)
    Console(width=180).print(table(found), "! computes the wrong thing on this model, so it is no peer there")
    for name in missing():
        print(f"not measured: {name} is not installed ({INSTALL})", file=sys.stderr)
    result = figures(found, failed) | {
        "models": sorted(found),
        "failed_models": failed,
        "missing_models": missing(),
        "machine": this_machine().key,
        "date": datetime.now(UTC).date().isoformat(),
    }
    for name in list(result)[:5]:
        print(f"{name}: {result[name]}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
