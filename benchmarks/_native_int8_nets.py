"""Whole nets in 8 bits on the native engine, beside the engines that run QDQ, and beside itself in floats.

    taskset -c 1 python -m benchmarks._native_int8_nets [--batch 1] [--models NAME,...] [--json]

Each engine gets the graph that `raceline convert quantise` would make for it on this machine, every layer in 8
bits, ranges by minimum and maximum of generated inputs. Calls are interleaved; the least CPU time of this thread
counts.
`off` is the relative error of the outputs against the reference run of the same quantised graph: what the engine's
kernels add to it. Where products saturate (no VNNI, weights of 8 bits) that is far more than a few steps.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._models import Case, real_models, zoo_models
from benchmarks.deploy import prepare
from raceline import engines
from raceline.convert import optimise, quantise
from raceline.convert.quantise.calibrate import observe
from raceline.core.errors import RacelineError
from raceline.engines import Options
from raceline.ir import make_inputs, run_reference, this_machine

NATIVE = "native"
ROUNDS = 8
CALIBRATED = 8  # items: speed does not hang on ranges


def measure(case: Case, batch: int) -> dict[str, Any]:
    """Milliseconds of each engine in 8 bits and of the native one in floats, and each one's error."""
    source, sizes = prepare(case)
    model, _ = optimise(source)
    at_one = source.signature.concrete(sizes)
    shapes = engines.batched(model.signature, at_one, batch)
    inputs = make_inputs(model.signature, shapes, seed=0)
    samples = quantise.samples_for(source.signature, quantise.GENERATED, at_one).thinned(CALIBRATED)
    options = Options(shapes=shapes)
    sessions = {f"{NATIVE} fp32": engines.load(NATIVE).load(model, options)}
    row: dict[str, Any] = {"batch": batch, "out": {}}
    for name in quantise.RUNS_QDQ:
        try:
            scheme = quantise.scheme_for(name, this_machine())
            planned = quantise.plan(model, scheme)
            made = quantise.quantise(planned, observe(planned.model, samples, planned.values), scheme)
            session = engines.load(name).load(made, Options(precision="int8", shapes=shapes))
            row[f"{name}_off"] = _off(session.run(inputs), run_reference(made, inputs))
        except RacelineError as error:
            row["out"][name] = str(error)[:200]
            continue
        sessions[f"{name} int8"] = session
    least = dict.fromkeys(sessions, float("inf"))
    for _ in range(ROUNDS):
        for name, session in sessions.items():
            for _ in range(2):  # the second finds its weights where the first left them
                begun = time.thread_time()
                session.run(inputs)
                least[name] = min(least[name], time.thread_time() - begun)
    row |= {f"{name}_ms": 1e3 * seconds for name, seconds in least.items()}
    peers = [seconds for name, seconds in least.items() if NATIVE not in name]
    if f"{NATIVE} int8" in least and peers:
        row["speedup_vs_best_other"] = min(peers) / least[f"{NATIVE} int8"]
    return row


def _off(found: engines.Tensors, expected: engines.Tensors) -> float:
    """Relative error of the outputs that are floats, the largest of them."""
    pairs = [(found[name], array) for name, array in expected.items() if array.dtype.kind == "f"]
    return max(
        (
            float(np.linalg.norm(one - other) / max(float(np.linalg.norm(other)), 1e-30))
            for one, other in pairs
        ),
        default=0.0,
    )


def show(rows: dict[str, dict[str, Any]]) -> None:
    """A table for people."""
    ways = [f"{NATIVE} fp32", *(f"{name} int8" for name in quantise.RUNS_QDQ)]
    table = Table("model", "batch", *(f"{way}, ms" for way in ways), *(f"{n} off" for n in quantise.RUNS_QDQ))
    for name, row in rows.items():
        times = [f"{row[f'{way}_ms']:.2f}" if f"{way}_ms" in row else "" for way in ways]
        errors = [f"{row[f'{n}_off']:.1e}" if f"{n}_off" in row else "" for n in quantise.RUNS_QDQ]
        table.add_row(name, str(row["batch"]), *times, *errors)
    Console(width=160).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--models", default="")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    chosen = set(filter(None, asked.models.split(",")))
    rows: dict[str, dict[str, Any]] = {}
    for case in (*zoo_models(), *real_models()):
        if (chosen and case.name not in chosen) or (asked.batch > 1 and not case.sizes_freely):
            continue
        try:
            rows[case.name] = measure(case, asked.batch)
        except RacelineError as error:
            print(f"{case.name}: {error}")
    show(rows)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
