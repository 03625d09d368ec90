"""Weights alone in 8 and in 4 bits: bytes of whole bundles, how near the outputs are, and the time of one call.

    taskset -c 1 python -m benchmarks._weights_only [--models NAME,...] [--rounds 12] [--json]

Every layer that can be is stored in so few bits, without a search for those that should not; `int4 zeros` has zero
points, where other 4 bits lie around zero. Batch 1, one thread; calls are interleaved, the least CPU time of this
thread counts, and a speed is the time of full precision over it. `widened` is the bundle of 4 bits at full
precision, as each engine runs it that may not use kernels for few bits. Fidelity is 1 minus the relative error of
the outputs for made-up inputs, on the engine that is named. `few rows` is what the rule says before any of this.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._few_row_nets import MADE
from benchmarks._models import Case, named
from raceline import engines
from raceline.convert import optimise
from raceline.convert.few_rows import few_rows
from raceline.convert.quantise import RUNS_STORED, Budget, Judge, Runner, Samples, Stored, shelf
from raceline.convert.readers import onnx, safetensors
from raceline.convert.shrinking import folder_bytes
from raceline.core.errors import BadModelError
from raceline.ir import FULL, Bundle, Candidate, Model, this_machine
from raceline.ir.serialise import inlined

SCHEMES = {"int8": Stored(8), "int4": Stored(4), "int4 zeros": Stored(4, asymmetric=True)}
ENGINES = ("onnxruntime", "openvino", "mnn", "native")
KERNELS = RUNS_STORED[8]
ITEMS = 8  # that fidelity is taken on


def measure(case: Case, rounds: int) -> dict[str, Any]:
    """All that is known of one model; what cannot be stored or run is left out."""
    model, _ = optimise((safetensors if case.path.is_dir() else onnx).read(case.path))
    shapes = case.shapes(1)
    begun = time.perf_counter()
    known = few_rows(replace(model, program=inlined(model.program)), shapes, this_machine())
    rule_s = time.perf_counter() - begun
    small = stored(model)
    sizes = {name: bundle_bytes(made) for name, made in {"fp32": model, **small}.items()}
    return {
        "bytes": sizes,
        "saved": {name: 1 - sizes[name] / sizes["fp32"] for name in small},
        "fidelity": fidelity(model, small, samples(model, case)),
        "speed": {
            engine: speed for engine in ENGINES if (speed := speeds(case, model, small, engine, rounds))
        },
        "few_rows": {"share": known.share, "why_not": known.why_not, "seconds": rule_s},
    }


def stored(model: Model) -> dict[str, Model]:
    """The model with every weight that can be in few bits; without those ways in which none can."""
    made = {}
    for name, scheme in SCHEMES.items():
        try:
            made[name] = shelf(model, scheme.bits).written(scheme)
        except BadModelError:
            continue
    return made


def bundle_bytes(model: Model) -> int:
    """Of all files of its bundle."""
    with tempfile.TemporaryDirectory(prefix="raceline-") as folder:
        Bundle.write(Path(folder, "bundle"), model)
        return folder_bytes(Path(folder, "bundle"))


def samples(model: Model, case: Case) -> Samples:
    """Inputs drawn from the ranges of the case."""
    drawn = [case.tensors(1, seed) for seed in range(ITEMS)]
    join = np.stack if model.signature.batch_axis is None else np.concatenate
    arrays = {name: join([one[name] for one in drawn]) for name in drawn[0]}
    return Samples(arrays, "made-up inputs", stacked=model.signature.batch_axis is not None)


def fidelity(model: Model, small: Mapping[str, Model], data: Samples) -> dict[str, float]:
    """Way and engine -> the score; "widened" is ONNX Runtime at full precision."""
    found = {}
    with Runner(data) as run:
        judge = Judge(model, data, Budget(), run=run)
        for name, made in small.items():
            ways = {"widened": ("onnxruntime", FULL)} | {e: (e, SCHEMES[name].precision) for e in KERNELS}
            for label, (engine, precision) in ways.items():
                try:
                    found[f"{name} {label}"] = judge.score(made, engine, precision).quantised
                except BadModelError:
                    continue
    return found


def speeds(
    case: Case, model: Model, small: Mapping[str, Model], engine: str, rounds: int
) -> dict[str, float]:
    """Times of full precision over those of each way, and its milliseconds; empty where the engine refuses."""
    ways = {"fp32": (model, FULL)}
    if engine in KERNELS:
        ways |= {name: (made, SCHEMES[name].precision) for name, made in small.items()}
    if "int4" in small:
        ways["widened"] = small["int4"], FULL
    shapes, inputs = case.shapes(1), case.tensors(1)
    try:
        sessions = {
            name: engines.prepare(made, Candidate(engine, precision), shapes)
            for name, (made, precision) in ways.items()
        }
    except BadModelError:
        return {}
    least = dict.fromkeys(sessions, float("inf"))
    for number in range(rounds):
        for name in [*sessions][:: -1 if number % 2 else 1]:
            for _ in range(2):  # the second finds its weights where the first left them
                begun = time.thread_time()
                sessions[name].run(inputs)
                least[name] = min(least[name], time.thread_time() - begun)
    for session in sessions.values():
        session.close()
    full_s = least.pop("fp32")
    return {"fp32_ms": 1e3 * full_s, **{name: full_s / seconds for name, seconds in least.items()}}


def show(rows: dict[str, dict[str, Any]]) -> None:
    sizes = Table(
        "model", "fp32, MB", *(f"{n}, MB" for n in SCHEMES), "few rows", title="bundles, every byte"
    )
    scores = Table("model", *(f"{n} {e}" for n in SCHEMES for e in ("widened", *KERNELS)), title="fidelity")
    kernels = [f"{engine} {name}" for engine in KERNELS for name in SCHEMES]
    times = Table("model", *kernels, *(f"{engine} widened" for engine in ENGINES), title="speed")
    for model, row in rows.items():
        held = [
            f"{row['bytes'][n] / 1e6:.3g} (-{row['saved'][n]:.0%})" if n in row["saved"] else "-"
            for n in SCHEMES
        ]
        rule = row["few_rows"]["why_not"] and "out"
        sizes.add_row(model, f"{row['bytes']['fp32'] / 1e6:.3g}", *held, rule or "worth a try")
        ways = [f"{n} {e}" for n in SCHEMES for e in ("widened", *KERNELS)]
        scores.add_row(model, *(f"{row['fidelity'][w]:.4f}" if w in row["fidelity"] else "-" for w in ways))
        asked = [(e, n) for e in KERNELS for n in SCHEMES] + [(e, "widened") for e in ENGINES]
        found = [row["speed"].get(engine, {}).get(name) for engine, name in asked]
        times.add_row(model, *("-" if value is None else f"{value:.2f}" for value in found))
    for table in (sizes, scores, times):
        Console(width=180).print(table)


def chosen(names: str, folder: Path) -> Iterator[Case]:
    """The nets of few rows, made in the folder, then the zoo's and the real ones; all where no name is given."""
    asked = set(filter(None, names.split(",")))
    yield from (make(folder) for name, make in MADE.items() if not asked or name in asked)
    if not asked or asked - set(MADE):
        yield from named(",".join(sorted(asked - set(MADE))))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default="")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="raceline-") as folder:
        rows = {case.name: measure(case, asked.rounds) for case in chosen(asked.models, Path(folder))}
    show(rows)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
