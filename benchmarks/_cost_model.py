"""Fit the tuner's cost model, and say how far it is off: `python -m benchmarks._cost_model collect|fit FOLDER`.

`collect` tunes the benchmarks' models on this machine, FP32 and, with `--precision auto`, fewer bits on made-up
data, and leaves a log of each in FOLDER. `fit` fits the coefficients on those logs, prints the error on models
that were left out of the fit, and with `--out` writes what the package ships.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks._models import Case, real_models, zoo_models
from benchmarks.deploy import prepare
from raceline.convert import Reduced, TuningLog, cost_model, optimise, quantise, read_log, reduce, tune
from raceline.convert.cost_model import CostModel, Sample, samples_of
from raceline.core.errors import RacelineError
from raceline.core.paths import write_whole
from raceline.ir import Model, Shapes, this_machine

SEARCH_S = 15.0


def collect(folder: Path, budget_s: float, precision: str, names: list[str]) -> None:
    """Tune every model and keep its log; one that is there is not made again."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in [*real_models(), *zoo_models()]:
        path = folder / f"{case.name}-{precision}.jsonl"
        if (names and case.name not in names) or path.exists():
            continue
        began_s = time.perf_counter()
        part = path.with_suffix(".part")
        try:
            _tuned(case, part, budget_s, precision)
        except RacelineError as error:
            print(f"{case.name}: {str(error)[:200]}", file=sys.stderr)
            continue
        part.replace(path)
        print(f"{case.name}: {time.perf_counter() - began_s:.0f} s", flush=True)


def _tuned(case: Case, path: Path, budget_s: float, precision: str) -> None:
    source, sizes = prepare(case)
    model, _ = optimise(source)
    shapes = source.signature.concrete(sizes)
    reduced = _reduced(model, shapes) if precision == "auto" else Reduced()
    tune(source, model, this_machine(), shapes=shapes, budget_s=budget_s, cache=False, reduced=reduced,
         log=TuningLog(path))  # fmt: skip


def _reduced(model: Model, shapes: Shapes) -> Reduced:
    samples = quantise.samples_for(model.signature, "generated", shapes, None)
    budget = quantise.budget_of("fidelity", 0.9)  # what is learnt is speed; random weights keep no accuracy
    return reduce(model, samples, budget, this_machine(), shapes=shapes, deadline_s=SEARCH_S)


def fit(folder: Path, out: Path | None, note: str) -> None:
    """Fit on the logs of a folder, say how far it is off, and write it."""
    machine = this_machine()
    samples: list[Sample] = []
    logs = [read_log(path) for path in sorted(folder.glob("*.jsonl"))]
    used = [log for log in logs if log.head.work is not None and log.head.platform == machine.key]
    for log in used:
        assert log.head.work is not None
        samples += samples_of(log.head.models["optimised"], log.head.work, log.typical_s(), machine)
    head = used[0].head
    versions = ", ".join(f"{name} {version.split('-')[0]}" for name, version in sorted(head.engines.items()))
    count = len({sample.model for sample in samples})
    source = f"{count} models on {machine.model}, {head.date[:10]}, {versions}{note and f'; {note}'}"
    model = cost_model.fit(samples, source)
    _print(samples, model)
    if out is not None:
        write_whole(out, json.dumps(model.to_json(), indent=1, sort_keys=True).encode() + b"\n")


def _print(samples: list[Sample], model: CostModel) -> None:
    title = f"{model.source}; errors of models that were left out of the fit, one after the other"
    columns = ("engine", "samples", "half within", "nine of ten within", "once batch 1 is measured")
    table = Table(*columns, title=title, title_justify="left")
    for engine in sorted(model.error):
        count = sum(sample.candidate.engine == engine for sample in samples)
        errors = (model.median_error[engine], model.error[engine], model.mended_error[engine])
        table.add_row(engine, str(count), *(f"{error:.2f} x" for error in errors))
    Console().print(table)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("do", choices=("collect", "fit"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--budget", type=float, default=15.0)
    parser.add_argument("--precision", choices=("fp32", "auto"), default="fp32")
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--out", type=Path, help="where to write the fitted model")
    parser.add_argument("--note", default="", help="what else to say of where it was fitted")
    given = parser.parse_args(arguments)
    if given.do == "fit":
        fit(given.folder, given.out, given.note)
        return
    collect(given.folder, given.budget, given.precision, given.models)


if __name__ == "__main__":
    main()
