"""Convolutional nets on the native engine, beside every other engine.

    taskset -c 1 python -m benchmarks._native [--batch 1] [--threads 1] [--models NAME,...] [--json]

All engines get the graph that Raceline's passes made, with the shapes fixed; calls are interleaved, and the least
CPU time of this thread (with more threads: the least time) of each counts. `off` is how far the native engine's
outputs are from ONNX Runtime's, beside the largest.
"""

import argparse
import json
import time
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks._models import Case, named
from raceline import engines
from raceline.convert import optimise
from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError
from raceline.engines import Options

NATIVE = "native"
PEERS = ("onnxruntime", "openvino", "mnn")


def measure(case: Case, batch: int, threads: int, rounds: int) -> dict[str, Any] | None:
    """Milliseconds of each engine, and what the native one needed to load; None where it refuses the model."""
    model, _ = optimise(reader.read(case.path))
    shapes = {name: tuple(shape) for name, shape in case.shapes(batch).items()}
    inputs = case.tensors(batch)
    options = Options(shapes=shapes, threads=threads)
    start = time.perf_counter()
    try:
        sessions = {NATIVE: engines.load(NATIVE).load(model, options)}
    except BadModelError:
        return None
    load_s = time.perf_counter() - start
    sessions |= {name: engines.load(name).load(model, options) for name in PEERS}
    outputs = {name: session.run(inputs) for name, session in sessions.items()}
    clock = time.thread_time if threads == 1 else time.perf_counter
    least = dict.fromkeys(sessions, float("inf"))
    for _ in range(rounds):
        for name, session in sessions.items():
            for _ in range(2):  # the second finds its weights where the first left them
                begun = clock()
                session.run(inputs)
                least[name] = min(least[name], clock() - begun)
    best_peer = min(least[name] for name in PEERS)
    return {
        "batch": batch,
        "threads": threads,
        **{f"{name}_ms": 1e3 * seconds for name, seconds in least.items()},
        "speedup_vs_best_other": best_peer / least[NATIVE],
        "off": max(off(outputs[NATIVE][name], array) for name, array in outputs["onnxruntime"].items()),
        "load_s": load_s,
        "memory_bytes": sessions[NATIVE].memory_bytes(),
        "parts": [type(part).__name__ for plan in sessions[NATIVE]._plans.values() for part in plan.parts],
    }


def off(found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> float:
    """The largest difference beside the largest number; of others than floats the share that differs."""
    if expected.dtype.kind != "f":
        return float((found != expected).mean())
    return float(np.abs(found - expected).max() / max(np.abs(expected).max(), 1e-30))


def show(rows: dict[str, dict[str, Any]]) -> None:
    table = Table(
        "model", "batch", *(f"{name}, ms" for name in (NATIVE, *PEERS)), "speed-up", "off", "load, s", "MiB"
    )
    for name, row in rows.items():
        times = [f"{row[f'{engine}_ms']:.2f}" for engine in (NATIVE, *PEERS)]
        table.add_row(name, str(row["batch"]), *times, f"{row['speedup_vs_best_other']:.2f}", f"{row['off']:.1e}",
                      f"{row['load_s']:.1f}", str(row["memory_bytes"] >> 20))  # fmt: skip
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--models", default="")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    cases = [case for case in named(asked.models) if asked.batch == 1 or case.sizes_freely]
    found = {case.name: measure(case, asked.batch, asked.threads, asked.rounds) for case in cases}
    rows = {name: row for name, row in found.items() if row is not None}
    show(rows)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
