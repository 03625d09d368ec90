"""Whole nets in 8 bits on the native engine, beside those of ONNX Runtime and of OpenVINO (quantised by NNCF).

    taskset -c 1 python -m benchmarks._native_quantised [--models NAME,...] [--rounds 12] [--json]

Every engine gets the graph that suits it best, from made-up calibration data, and the native one full precision
too; calls at one thread are interleaved, and the least CPU time of this thread counts. `off` is how far an engine
is from what its own graph says, computed in floats node by node, beside the largest number: where 8-bit sums are
exact, rounding alone may differ.
"""

import argparse
import json
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks import _int8_peers
from benchmarks._engines import nncf
from benchmarks._models import Case, named
from benchmarks._native import off
from raceline import engines
from raceline.convert import optimise
from raceline.convert.quantise import generated, plan, quantise, scheme_for
from raceline.convert.quantise.calibrate import observe
from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError
from raceline.engines import Options, Session
from raceline.ir import Model, Provenance, this_machine

OWN = ("native", "onnxruntime")
ITEMS = 8  # of calibration data
DEFAULT = ("minilm_l6", "mobilenet_v2", "resnet18", "vit_tiny", "nudenet", "magika", "ppocr_cls", "ppocr_rec")


def quantised(model: Model, case: Case, engine: str) -> Model:
    """The model in 8 bits, every layer of it, as it suits an engine here."""
    scheme = scheme_for(engine, this_machine())
    planned = plan(model, scheme)
    samples = generated(model.signature, case.shapes(1), count=ITEMS)
    return quantise(planned, observe(planned.model, samples, planned.values, histograms=False), scheme)


def sessions(case: Case, folder: Path, options: Options) -> tuple[dict[str, Session], dict[str, Session]]:
    """Whom to time, and who computes in floats what their graphs say, by the same names."""
    model, _ = optimise(reader.read(case.path))
    found = {"native": engines.load("native").load(model, options)}
    exact: dict[str, Session] = {}
    for name in OWN:
        small = quantised(model, case, name)
        found[f"{name} int8"] = engines.load(name).load(small, replace(options, precision="int8"))
        exact[f"{name} int8"] = engines.load("onnxruntime").load(small, replace(options, optimise=False))
    made = _int8_peers.nncf(case.path, [case.tensors(1, seed) for seed in range(ITEMS)], folder)
    for file in list(made.files.values())[:1]:  # the preset for speed
        peer = replace(model, provenance=Provenance(source=str(file)))
        found["openvino int8"] = nncf.load(peer, options)
    return found, exact


def measure(case: Case, rounds: int) -> dict[str, Any] | None:
    """Milliseconds of each, and how far each is off; None where the native engine refuses the model."""
    options = Options(shapes={name: tuple(shape) for name, shape in case.shapes(1).items()}, threads=1)
    with tempfile.TemporaryDirectory(prefix="raceline-") as folder:
        try:
            timed, exact = sessions(case, Path(folder), options)
        except BadModelError:
            return None
    inputs = case.tensors(1)
    row: dict[str, Any] = {}
    for name, session in exact.items():
        expected, found = session.run(inputs), timed[name].run(inputs)
        row[f"{name}_off"] = max(off(found[output], array) for output, array in expected.items())
        session.close()
    least = dict.fromkeys(timed, float("inf"))
    for _ in range(rounds):
        for name, session in timed.items():
            for _ in range(2):  # the second finds its weights where the first left them
                begun = time.thread_time()
                session.run(inputs)
                least[name] = min(least[name], time.thread_time() - begun)
    row |= {f"{name}_ms": 1e3 * seconds for name, seconds in least.items()}
    row["native_parts"] = [
        type(p).__name__ for plan in timed["native int8"]._plans.values() for p in plan.parts
    ]  # type: ignore[attr-defined]
    return row


def show(rows: dict[str, dict[str, Any]]) -> None:
    names = ("native", "native int8", "onnxruntime int8", "openvino int8")
    table = Table("model", *(f"{name}, ms" for name in names), "native off", "onnxruntime off")
    for model, row in rows.items():
        times = [f"{row[f'{name}_ms']:.2f}" if f"{name}_ms" in row else "-" for name in names]
        off = [f"{row[f'{name} int8_off']:.1e}" for name in OWN]
        table.add_row(model, *times, *off)
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(DEFAULT))
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    found = {case.name: measure(case, asked.rounds) for case in named(asked.models)}
    rows = {name: row for name, row in found.items() if row is not None}
    show(rows)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
