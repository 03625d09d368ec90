"""What tuning brings, on real models: `python -m benchmarks.deploy [--json] [--models NAME ...]`.

For every model, batch and number of threads: the tuned configuration beside plain ONNX Runtime, OpenVINO and MNN
on the untouched graph, all loaded at once and timed in interleaved rounds, each engine in a process of its own.
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
from raceline.convert import Bench, IRTranslator, differences, optimise, settle, tune, verify
from raceline.core.errors import RacelineError
from raceline.core.progress import Progress
from raceline.engines import Tensors, Tolerance
from raceline.ir import Candidate, Model, Shapes, cost, this_machine
from raceline.loop import TerminalProgress

PEERS = ("onnxruntime", "openvino", "mnn")
TRAFFIC_MODELS = ("resnet50", "mobilenet_v2", "minilm_l6")
CORRECT = Tolerance(atol=1e-5, rtol=5e-3)  # a peer that is further off than this is no peer on that model
BATCHES = (1, 8)
THREADS = (1, 2)
TUNE_S = 40.0
RACE_S = 6.0
MIN_ROUNDS = 7
SLICE_S = 0.05  # of one runner in one round


@dataclass
class Race:
    """One model at one batch and number of threads; seconds of one call, medians over interleaved rounds."""

    model: str
    batch: int
    threads: int
    tuned: str
    tuned_s: float
    plain_s: dict[str, float]
    unoptimised_s: float | None
    wrong: list[str] = field(default_factory=list)

    @property
    def regret(self) -> float:
        """The tuned latency over that of the best plain engine that computes the right thing."""
        return self.tuned_s / min(s for engine, s in self.plain_s.items() if engine not in self.wrong)


def prepare(case: Case) -> tuple[Model, dict[str, int]]:
    """The model as read, with its batch axis and the values its inputs make sense with."""
    source = IRTranslator().parse(case.path)
    values = {spec.name: spec.values for spec in case.inputs if spec.values}
    return settle(source, shapes=case.shapes(1), values=values)


def race(
    name: str, models: dict[str, Model], shapes: Shapes, tuned: Candidate, batch: int, threads: int
) -> Race:
    """Time the tuned candidate and the plain engines side by side."""
    runners = {e: Candidate(e, threads=threads, batch=batch, variant="source") for e in PEERS}
    runners["tuned"] = tuned
    if batch == threads == 1:
        runners["unoptimised"] = Candidate("onnxruntime", variant="source", optimise=False)
    with Bench(models, shapes) as bench:
        seconds = interleaved(bench, runners)
        right = bench.compute(tuned)
        wrong = [e for e in PEERS if e in seconds and not _agree(right, bench.compute(runners[e]))]
    median = {runner: statistics.median(times) for runner, times in seconds.items()}
    return Race(
        model=name,
        batch=batch,
        threads=threads,
        tuned=str(tuned),
        tuned_s=median["tuned"],
        plain_s={e: median[e] for e in PEERS if e in median},
        unoptimised_s=median.get("unoptimised"),
        wrong=wrong,
    )


def interleaved(bench: Bench, runners: dict[str, Candidate]) -> dict[str, list[float]]:
    """Seconds of many calls of each runner that works, in rounds of random order so that drift hits all."""
    chance = random.Random(0)
    calls: dict[str, int] = {}
    for name, candidate in runners.items():
        try:
            bench.load(candidate)
            once_s = min(bench.time(candidate, 3).times_s)
        except RacelineError as error:
            print(f"  {name} cannot run it: {str(error)[:160]}", file=sys.stderr)
            continue
        calls[name] = max(1, min(200, round(SLICE_S / once_s)))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    began_s, rounds = time.perf_counter(), 0
    while rounds < MIN_ROUNDS or time.perf_counter() - began_s < RACE_S:
        for name in chance.sample(sorted(calls), len(calls)):
            timing = bench.time(runners[name], calls[name])
            seconds[name].append(statistics.median(timing.times_s))
        rounds += 1
    return seconds


def _agree(right: Tensors, got: Tensors) -> bool:
    return all(difference.ok for difference in differences(right, got, CORRECT))


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
    return Found(
        races,
        1 - after.intermediate_bytes / before.intermediate_bytes,
        {proof.candidate: proof.ok for proof in proofs},
    )


def figures(found: dict[str, Found]) -> dict[str, Any]:
    """The figures by name; worst case as the scalar, details under `cases`."""
    races = [race for one in found.values() for race in one.races]
    at_one = [r.unoptimised_s / r.tuned_s for r in races if r.unoptimised_s]
    singles = {engine: geomean(_against(engine, r) for r in races) for engine in PEERS}
    traffic = [found[name].traffic_reduction for name in TRAFFIC_MODELS if name in found]
    return {
        "picker_regret": max(r.regret for r in races),
        "speedup_geomean_vs_best_single_engine": min(singles.values()),
        "memory_traffic_reduction": min(traffic, default=None),
        "speedup_vs_unoptimised": geomean(at_one),
        "equivalence_ok": all(ok for one in found.values() for ok in one.equivalent.values()),
        "models": sorted(found),
        "missing_models": missing(),
        "speedup_vs_single_engine": singles,
        "cases": {
            "races": [asdict(r) | {"regret": r.regret} for r in races],
            "memory_traffic_reduction": {name: one.traffic_reduction for name, one in found.items()},
            "equivalence": {name: one.equivalent for name, one in found.items()},
        },
        "machine": this_machine().key,
        "date": datetime.now(UTC).date().isoformat(),
    }


def _against(engine: str, race: Race) -> float:
    """Gain over always using one engine; where it cannot run the model its user falls back to the best other."""
    return race.plain_s.get(engine, min(race.plain_s.values())) / race.tuned_s


def geomean(values: Iterable[float]) -> float:
    """The geometric mean."""
    return math.exp(statistics.fmean(map(math.log, values)))


def table(found: dict[str, Found]) -> Table:
    """One line a race, milliseconds."""
    result = Table(title="ms a call, median of interleaved rounds; plain engines run the untouched graph")
    for head in ("model", "batch", "threads", *PEERS, "unoptimised", "tuned", "regret", "choice"):
        result.add_column(head, justify="left" if head in {"model", "choice"} else "right")
    for r in (race for one in found.values() for race in one.races):
        plain = [
            f"{r.plain_s[e] * 1e3:.3g}{'!' if e in r.wrong else ''}" if e in r.plain_s else "refuses"
            for e in PEERS
        ]
        bare = f"{r.unoptimised_s * 1e3:.3g}" if r.unoptimised_s else ""
        cells = (f"{r.batch}", f"{r.threads}", *plain, bare, f"{r.tuned_s * 1e3:.3g}", f"{r.regret:.3f}")
        result.add_row(r.model, *cells, r.tuned)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.deploy", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these")
    options = parser.parse_args(arguments)
    progress = TerminalProgress()
    cases = [*real_models(), *zoo_models(progress)]
    found = {}
    for case in cases:
        if not options.models or case.name in options.models:
            print(f"{case.name} ...", file=sys.stderr)
            found[case.name] = measure(case, progress)
    Console(width=180).print(table(found), "! its outputs are wrong on this model, so it is no peer there")
    for name in missing():
        print(f"not measured: {name} is not installed ({INSTALL})", file=sys.stderr)
    result = figures(found)
    print({name: result[name] for name in list(result)[:5]})
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
