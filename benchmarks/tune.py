"""What fewer bits, splits and own kernels bring: `python -m benchmarks.tune [--json] [--models NAME ...]`.

Four parts, each by itself with --parts:

    races    tuned models beside the engines and others' quantisers, described below
    kernels  our kernels beside the engines', one operator at a time (benchmarks/_native_kernels.py)
    qat      training in few bits beside quantisation after training (benchmarks/_qat.py)
    search   how soon the tuner's choice is as good as what an hour finds (benchmarks/_search.py)

For every model, batch and number of threads, the tuned configuration, once in full precision and once with fewer
bits allowed, beside the plain engines on the graph as it was read, the 8-bit models that ONNX Runtime's own
quantiser and NNCF make of it, and OpenVINO's bf16; all loaded at once and timed in interleaved rounds, each engine
in a process of its own, three times over in fresh processes. Calibration data and accuracy budget are the same for
all, and who is outside the budget is no peer. Weights of the zoo's networks are random and inputs are generated, so
accuracy here is fidelity to the network in full precision; that of trained networks is what `qat_accuracy_drop`
measures.
"""

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import _int8_peers, _qat, _search
from benchmarks._models import INSTALL, Case, missing, real_models, zoo_models
from benchmarks._native_kernels import native_kernel_share_of_peak
from benchmarks.deploy import PEERS, THREADS, geomean, interleaved, prepare
from raceline import engines
from raceline.convert import Bench, Truth, optimise, quantise, reduce, tune
from raceline.convert.precision import Reduced
from raceline.core.errors import RacelineError
from raceline.core.progress import Progress
from raceline.ir import FULL, Accuracy, Candidate, Model, Profile, Provenance, Shapes, this_machine
from raceline.ir.engine_rules import multiplies_exactly
from raceline.loop import TerminalProgress

BATCHES = (1, 8)
TUNE_S = 120.0  # as `raceline convert tune` takes where nothing is said
SEARCH_S = 60.0  # for graphs of fewer bits, as there
REPEATS = 3  # of each race, with fresh processes; medians count
SEED = 0
PARTS = ("races", "kernels", "qat", "search")
FIGURES = (
    "picker_regret",
    "speedup_vs_best_single_engine",
    "speedup_vs_best_single_engine_worst",
    "speedup_vs_unoptimised",
    "within_budget",
    "native_kernel_share_of_peak",
    "qat_size_reduction",
    "qat_accuracy_drop",
    "tuning_seconds",
)
PEER_ENGINES = Path(__file__).parent / "_engines"


@dataclass
class Race:
    """One model at one batch and number of threads; seconds of one call, medians of runs of interleaved rounds.

    Attributes:
        threads: how many may be used.
        seconds: runner -> time. Runners are "tuned", "tuned fp32", "unoptimised", the plain engines, and the peers'
            8-bit models.
        out: runners that are no peers here, each with its reason.
        accuracy: of those with fewer bits.
        choice: what "tuned" and "tuned fp32" are.
    """

    model: str
    batch: int
    threads: int
    seconds: dict[str, float]
    out: dict[str, str] = field(default_factory=dict)
    accuracy: dict[str, str] = field(default_factory=dict)
    choice: dict[str, str] = field(default_factory=dict)

    def fastest(self, runners: Iterable[str]) -> float | None:
        """The least time of those of `runners` that are peers; None where none is."""
        return min(
            (self.seconds[r] for r in runners if r in self.seconds and r not in self.out), default=None
        )

    def __str__(self) -> str:
        regret = "no peer is right" if self.regret is None else f"regret {self.regret:.3f}"
        return f"{self.model} batch {self.batch} threads {self.threads}: {regret}, {self.choice.get('tuned', '')}"

    @property
    def regret(self) -> float | None:
        """The tuned time over that of the best peer, whatever its precision, within the accuracy budget."""
        best = self.fastest(r for r in self.seconds if r not in {"tuned", "tuned fp32", "unoptimised"})
        return None if best is None else self.seconds["tuned"] / best

    def gain(self, engine: str) -> float | None:
        """How much faster full precision is than always using one engine.

        Where that cannot run the model, or computes the wrong thing, its user is granted the best other one.
        """
        peer = self.fastest([engine]) or self.fastest(PEERS)
        return None if peer is None else peer / self.seconds["tuned fp32"]

    @property
    def gain_over_best(self) -> float | None:
        """How much faster full precision is than the fastest single engine here."""
        best = self.fastest(PEERS)
        return None if best is None else best / self.seconds["tuned fp32"]


@dataclass
class Peers:
    """The 8-bit models that others made, as variants to load."""

    models: dict[str, Model]
    candidates: dict[str, Candidate]
    refusals: dict[str, str]


def peers_of(case: Case, source: Model, data: Sequence[dict[str, Any]], folder: Path) -> Peers:
    """What ONNX Runtime's quantiser and NNCF make of a model, in each way that they can, and OpenVINO's bf16."""
    machine = this_machine()
    exact = multiplies_exactly(machine.architecture, machine.instruction_sets)
    found = Peers({}, {}, {})
    for tool, made in (
        ("onnxruntime", _int8_peers.onnxruntime(case.path, data, folder, exact=exact)),
        ("nncf", _int8_peers.nncf(case.path, data, folder)),
    ):
        for way, path in made.files.items():
            name = f"{tool} int8 {way}"
            if tool == "nncf":
                model = replace(source, provenance=Provenance(source=str(path)))
            else:
                try:
                    model = prepare(replace(case, path=path))[0]
                except RacelineError as error:
                    found.refusals[name] = f"what it made is no sound model: {error}"
                    continue
            found.models[name.replace(" ", "-")] = model
            found.candidates[name] = Candidate(tool, variant=name.replace(" ", "-"))
        found.refusals |= {f"{tool} int8 {way}": why for way, why in made.why.items()}
    if any(c.engine == "openvino" and "bf16" in c.precisions for c in this_machine().engines):
        found.candidates["openvino bf16"] = Candidate(
            "openvino", "bf16", variant="source"
        )  # one switch of it
    return found


@dataclass
class Contest:
    """One model, tuned, and all that it is raced against."""

    name: str
    models: dict[str, Model]
    shapes: Shapes
    profile: Profile
    full: Profile
    reduced: Reduced
    peers: Peers

    def races(self, settings: Sequence[tuple[int, int]]) -> list[Race]:
        """Time everything at each batch and number of threads, and judge it.

        All is run several times, apart in time and in fresh processes, for where memory lies and who else uses the
        host move one engine against another in a whole race, however often its rounds alternate.
        """
        found = [self._begun(*setting) for setting in settings]
        runs: list[list[dict[str, float]]] = [[] for _ in settings]
        for _ in range(REPEATS):
            for race, times in zip(found, runs, strict=True):
                times.append(self._run(race, judged=bool(times)))
        for race, times in zip(found, runs, strict=True):
            names = [name for name in times[0] if all(name in one for one in times)]
            race.seconds = {name: statistics.median(one[name] for one in times) for name in names}
        return [merged(race) for race in found]

    def _begun(self, batch: int, threads: int) -> Race:
        runners = self._runners(batch, threads)
        choice = {name: str(runners[name]) for name in ("tuned", "tuned fp32")}
        return Race(self.name, batch, threads, {}, out=dict(self.peers.refusals), choice=choice)

    def _run(self, race: Race, *, judged: bool) -> dict[str, float]:
        """Seconds of each runner, in processes of this run; what they compute is judged once."""
        runners = self._runners(race.batch, race.threads)
        truth = Truth(self.models["source"], self.shapes, SEED)
        with Bench(self.models, self.shapes) as bench:
            times = interleaved(bench, runners)
            for name in () if judged else times:
                self._judge(bench, truth, name, runners[name], race)
        return {name: statistics.median(rounds) for name, rounds in times.items()}

    def _runners(self, batch: int, threads: int) -> dict[str, Candidate]:
        counts = sorted({1, threads})
        runners = {
            f"{engine} t{count}": Candidate(engine, threads=count, batch=batch, variant="source")
            for engine in PEERS
            for count in counts
        }
        for name, peer in self.peers.candidates.items():
            runners |= {f"{name} t{count}": replace(peer, threads=count, batch=batch) for count in counts}
        if threads == 1:
            runners["unoptimised"] = Candidate("onnxruntime", batch=batch, variant="source", optimise=False)
        runners["tuned"] = self.profile.best(threads=threads, batch=batch).candidate
        runners["tuned fp32"] = self.full.best(threads=threads, batch=batch).candidate
        return runners

    def _judge(self, bench: Bench, truth: Truth, name: str, candidate: Candidate, result: Race) -> None:
        """Mark a runner that computes the wrong thing, or one of fewer bits that loses too much."""
        fewer = "int8" in name or candidate.precision != FULL
        try:
            if not fewer:
                wrong = truth.disagreement(candidate, SEED, bench.compute(candidate, seed=SEED))
            else:
                assert self.reduced.judge is not None
                found: Accuracy = self.reduced.judge.mark(
                    bench.answer(candidate, self.reduced.judge.samples.full_batches(candidate.batch))
                )
                result.accuracy[name] = str(found)
                wrong = "" if self.reduced.judge.budget.allows(found) else "outside the accuracy budget"
        except RacelineError as error:
            wrong = str(error)
        if wrong:
            result.out[name] = wrong


def merged(race: Race) -> Race:
    """The race in which peers that ran on one thread and on all count once, with the better that is right."""
    names = {name: name.rsplit(" t", 1)[0] for name in race.seconds}
    fastest: dict[str, float] = {}
    for name in sorted(race.seconds, key=lambda n: (n in race.out, race.seconds[n])):
        fastest.setdefault(names[name], race.seconds[name])
    right = {names[name] for name in race.seconds if name not in race.out}
    race.out = {names.get(name, name): why for name, why in race.out.items() if names.get(name) not in right}
    race.seconds = fastest
    return race


def measure(case: Case, progress: Progress) -> list[Race]:
    """Tune one model anew and race the choice of every batch and number of threads."""
    source, sizes = prepare(case)
    model, _ = optimise(source)
    shapes = source.signature.concrete(sizes)
    samples = quantise.samples_for(source.signature, "generated", shapes)
    machine = this_machine()
    reduced = reduce(
        model, samples, quantise.budget_of("fidelity", None), machine, shapes=shapes, deadline_s=SEARCH_S,
        progress=progress,
    )  # fmt: skip
    batches = BATCHES if source.signature.batch_axis else (1,)
    profile = tune(
        source, model, machine, shapes=shapes, batches=batches, threads=THREADS, reduced=reduced,
        budget_s=TUNE_S, progress=progress, cache=False,
    )  # fmt: skip
    full = replace(
        profile, measurements=tuple(m for m in profile.measurements if m.candidate.precision == FULL)
    )
    with tempfile.TemporaryDirectory(prefix="raceline-peers-") as scratch:
        calibration = list(samples.split()[0].full_batches(1))
        peers = peers_of(case, source, calibration, Path(scratch))
        models = {"source": source, "optimised": model} | {way.variant: way.model for way in reduced.ways}
        contest = Contest(case.name, models | peers.models, shapes, profile, full, reduced, peers)
        return contest.races([(batch, threads) for batch in batches for threads in THREADS])


def figures(found: dict[str, list[Race]]) -> dict[str, Any]:
    """The figures of the races by name; worst case as the scalar. Every model weighs the same in a mean."""
    races = [race for rows in found.values() for race in rows]
    singles = {
        engine: geomean(
            geomean(gain for race in rows if (gain := race.gain(engine)) is not None)
            for rows in found.values()
            if any(race.fastest(PEERS) for race in rows)
        )
        for engine in PEERS
    }
    bare = [
        geomean(gains)
        for rows in found.values()
        if (
            gains := [
                r.seconds["unoptimised"] / r.seconds["tuned"] for r in rows if "unoptimised" in r.seconds
            ]
        )
    ]
    return {
        "picker_regret": max((r.regret for r in races if r.regret is not None), default=None),
        "speedup_vs_best_single_engine": min(singles.values()),
        "speedup_vs_best_single_engine_worst": min(
            (r.gain_over_best for r in races if r.gain_over_best is not None), default=None
        ),
        "speedup_vs_unoptimised": geomean(bare) if bare else None,
        "speedup_vs_single_engine": singles,
        "within_budget": all("tuned" not in r.out and "tuned fp32" not in r.out for r in races),
    }


def table(races: Iterable[Race]) -> Table:
    """One line a race, milliseconds."""
    result = Table(title="ms a call, median of interleaved rounds")
    fewer = ("onnxruntime int8", "nncf int8", "openvino bf16")
    heads = (
        "model",
        "batch",
        "threads",
        *PEERS,
        *fewer,
        "unoptimised",
        "tuned fp32",
        "tuned",
        "regret",
        "choice",
    )
    for head in heads:
        result.add_column(head, justify="left" if head in {"model", "choice"} else "right")
    for race in races:
        cells = [_cell(race, [engine]) for engine in PEERS]
        cells += [_cell(race, [n for n in race.seconds if n.startswith(tool)]) for tool in fewer]
        cells += [_cell(race, [name]) for name in ("unoptimised", "tuned fp32", "tuned")]
        regret = "" if race.regret is None else f"{race.regret:.3f}"
        result.add_row(race.model, str(race.batch), str(race.threads), *cells, regret, race.choice["tuned"])
    return result


def _cell(race: Race, runners: Sequence[str]) -> str:
    """The fastest of some runners; with a mark where none of them is right, or within the budget."""
    best = race.fastest(runners)
    if best is not None:
        return f"{best * 1e3:.3g}"
    ran = [race.seconds[r] for r in runners if r in race.seconds]
    return f"{min(ran) * 1e3:.3g}!" if ran else ""


def _races(cases: Sequence[Case], progress: Progress) -> dict[str, Any]:
    """Figures of the races; prints their table."""
    found: dict[str, list[Race]] = {}
    failed = {}
    for case in cases:
        print(f"{case.name} ...", file=sys.stderr)
        try:
            found[case.name] = measure(case, progress)
            for race in found[case.name]:
                print(f"  {race}", file=sys.stderr)
        except RacelineError as error:
            failed[case.name] = str(error)
            print(f"{case.name} failed: {error}", file=sys.stderr)
    races = [race for rows in found.values() for race in rows]
    Console(width=200).print(table(races), "! wrong, or outside the accuracy budget, so no peer there")
    for name in missing():
        print(f"not measured: {name} is not installed ({INSTALL})", file=sys.stderr)
    detail = {"cases": [asdict(race) | {"regret": race.regret} for race in races]}
    return figures(found) | detail | {"failed_models": failed, "missing_models": missing()}


def _searched(cases: Sequence[Case], search_s: float, progress: Progress) -> dict[str, Any]:
    """Figures of the search."""
    case = next(case for case in cases if case.name == _search.MODEL)
    found = _search.search(case, TUNE_S, search_s, progress)
    return {"tuning_seconds": _search.worst_seconds(found), "search": asdict(found) | {"search_s": search_s}}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tune",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument("--models", nargs="+", metavar="NAME", help="only these, in the races")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="only these")
    parser.add_argument("--seeds", type=int, default=_qat.SEEDS, help="of the qat part")
    parser.add_argument("--search-seconds", type=float, default=_search.SEARCH_S, help="of the search part")
    options = parser.parse_args(arguments)
    engines.__path__.append(str(PEER_ENGINES))
    progress = TerminalProgress()
    cases = [*real_models(), *zoo_models(progress)]
    names = [case.name for case in cases]
    if unknown := sorted(set(options.models or []) - set(names)):
        parser.error(f"unknown models: {', '.join(unknown)}; there are {', '.join(names)}")
    chosen = [case for case in cases if case.name in (options.models or names)]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "races": lambda: _races(chosen, progress),
        "kernels": lambda: {"native_kernel_share_of_peak": native_kernel_share_of_peak()},
        "qat": lambda: _qat.prove_all(range(options.seeds)),
        "search": lambda: _searched(cases, options.search_seconds, progress),
    }
    result: dict[str, Any] = {}
    for name in PARTS:
        if name in options.parts:
            result |= parts[name]()
    result |= {"machine": this_machine().key, "date": datetime.now(UTC).date().isoformat()}
    for name in FIGURES:
        if name in result:
            print(f"{name}: {result[name]}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
