"""ONNX's own operator cases through the whole chain: read, optimise, run on an engine, compare.

    python -m benchmarks._conformance [--engine NAME]... [--sample N] [--json PATH] [--list STATUS]

The cases are those that the onnx package generates for runtimes to prove themselves
(`onnx.backend.test.loader`, kind "node"), each with inputs, expected outputs and tolerances. Each engine runs in
a child process with a time limit a case, so that one that crashes or hangs costs one case. What goes in or out of
a case and is no tensor that an engine passes (a sequence, 4-bit numbers) is made and taken apart inside its graph.
"""

import argparse
import dataclasses
import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import _conformance_edges as edges
from benchmarks._conformance_edges import as_array

CHAIN = "chain"
"""ONNX Runtime where it takes a case and agrees with the reference on generated inputs; else, patched up with the
reference for single nodes; else the reference. So the tuner chooses, speed aside."""
ENGINES = ("reference", "onnxruntime", "openvino", "mnn", CHAIN)
CASE_TIMEOUT_S = 30.0
PASSED, REFUSED, ROUNDED, WRONG, BROKEN = "passed", "refused", "rounded", "wrong", "broken"
_ROUNDING = 1e-6
"""Of an output's largest magnitude: what sums in another order move in 32 bits. onnx's own tolerance is relative to
each element, so that next to a sum of 500 a zero must stay below 1e-7."""
RANDOM = frozenset(
    "Bernoulli RandomNormal RandomNormalLike RandomUniform RandomUniformLike Multinomial".split()
)
_COARSE_RTOL = {"bfloat16": 2**-6, "float16": 2**-9}
"""Two units in the last place: for bfloat16 as in onnx's own runner, whose tolerance is under one of float16's."""


@dataclass(frozen=True)
class Outcome:
    """What became of one case on one engine.

    Attributes:
        status: passed; refused, with a deliberate error; rounded: it misses the case's tolerance by no more than
            rounding; wrong: the outputs differ; broken: another exception, a crash or a case that takes too long.
        reason: empty where it passed.
    """

    engine: str
    case: str
    status: str
    reason: str = ""


def load_cases() -> list[Any]:
    """The cases in order of name, each once."""
    from onnx.backend.test.loader import load_model_tests

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return sorted(load_model_tests(kind="node"), key=lambda case: case.name)


def run_cases(cases: Sequence[Any], engine: str, timeout_s: float = CASE_TIMEOUT_S) -> Iterator[Outcome]:
    """Run cases on an engine in child processes, one after another."""
    start = 0
    while start < len(cases):
        ours, theirs = Pipe(duplex=False)
        child = os.fork()
        if child == 0:
            _work(cases[start:], engine, theirs)
        theirs.close()
        try:
            for case in cases[start:]:
                start += 1
                try:
                    if not ours.poll(timeout_s):
                        yield Outcome(engine, case.name, BROKEN, f"took longer than {timeout_s:g} s")
                        break
                    yield Outcome(engine, case.name, *ours.recv_bytes().decode().split("\n", 1))
                except EOFError:
                    yield Outcome(engine, case.name, BROKEN, "the process died")
                    break
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            ours.close()


def _work(cases: Sequence[Any], engine: str, pipe: Connection) -> None:
    """The child: one answer a case; it never returns."""
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    warnings.simplefilter("ignore")
    for case in cases:
        pipe.send_bytes("\n".join(outcome(case, engine)).encode())
    os._exit(0)


def outcome(case: Any, engine: str) -> tuple[str, str]:
    """Status and reason of one case."""
    from raceline.core.errors import RacelineError

    stage: list[str] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            return _through(case, Path(folder) / f"{case.name}.onnx", engine, stage)
    except RacelineError as error:
        return REFUSED, f"{stage[-1]}: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
    except Exception as error:  # noqa: BLE001  whatever else comes out is what the case is there to find
        where = traceback.extract_tb(error.__traceback__)[-1]
        told = f"{type(error).__name__}: {str(error)[:300]} ({Path(where.filename).name}:{where.lineno})"
        return BROKEN, f"{stage[-1]}: {told}"


def _through(case: Any, path: Path, engine: str, stage: list[str]) -> tuple[str, str]:
    """Status and reason; `stage` grows by the name of each step before it is taken."""
    from raceline import engines
    from raceline.convert import optimise
    from raceline.convert.readers import onnx as reader
    from raceline.ir import Limits

    stage.append("read")
    case = edges.with_plain_edges(case)
    path.write_bytes(case.model.SerializeToString())
    source = reader.read(path, limits=Limits(max_model_bytes=1 << 30, allow_nan=True))
    stage.append("optimise")
    model, _ = optimise(source)
    stage.append("load")
    session = (
        _trusted(source, model) if engine == CHAIN else engines.load(engine).load(model, engines.Options())
    )
    stage.append("run")
    for inputs, expected in case.data_sets:
        given = {spec.name: value for spec, value in zip(case.model.graph.input, inputs, strict=False)}
        feeds = {spec.name: as_array(given[spec.name]) for spec in model.signature.inputs}
        model.signature.validate(feeds)
        found = session.run(feeds)
        outputs = [found[spec.name] for spec in model.signature.outputs]
        truths = [as_array(value) for value in expected]
        if problem := difference(case, outputs, truths):
            return ROUNDED if _is_rounding(outputs, truths) else WRONG, problem
    return PASSED, ""


def _is_rounding(found: Sequence[Any], expected: Sequence[Any]) -> bool:
    """Whether nothing differs by more than rounding does next to the output's largest number."""
    for one, truth in zip(found, expected, strict=True):
        if one.shape != truth.shape or one.dtype != truth.dtype:
            return False
        if truth.dtype.kind != "f":
            if not np.array_equal(one, truth):
                return False
            continue
        gap = np.abs(one.astype(np.float64) - truth.astype(np.float64))
        if not np.all(gap <= _ROUNDING * np.abs(truth).max(initial=0)):
            return False
    return True


def _trusted(source: Any, model: Any) -> Any:
    """The fastest session that agrees with the reference run of the source on inputs that we generate."""
    from raceline import engines
    from raceline.convert import Truth
    from raceline.core.errors import RacelineError
    from raceline.ir import Candidate, make_inputs, suggest_sizes

    for name in ("onnxruntime", "patchwork"):
        try:
            (sizes,) = suggest_sizes(source, None, want=1)
            shapes = source.signature.concrete(sizes)
            candidate, truth = Candidate(name), Truth(source, shapes, seed=0)
            session = engines.load(name).load(model, engines.Options())
            for seed in truth.seeds(1):
                outputs = session.run(make_inputs(source.signature, shapes, seed=seed))
                if truth.disagreement(candidate, seed, outputs):
                    break
            else:
                return session
        except RacelineError:
            continue
    return engines.load("reference").load(model, engines.Options())


def difference(case: Any, found: Sequence[Any], expected: Sequence[Any]) -> str:
    """How the outputs differ, by the rules of onnx's own runner; empty where they do not."""
    random = any(node.op_type in RANDOM for node in case.model.graph.node)
    try:
        assert len(found) == len(expected), f"{len(found)} outputs for {len(expected)}"
        for one, truth in zip(found, expected, strict=True):
            assert one.shape == truth.shape, f"shape {one.shape} for {truth.shape}"
            text = truth.dtype.kind in "OSU"
            assert text or one.dtype == truth.dtype, f"{one.dtype} for {truth.dtype}"
            if text:
                np.testing.assert_array_equal(one.astype(str), truth.astype(str))
            elif not random:
                _close(one, truth, case.rtol, case.atol)
    except AssertionError as error:
        return " ".join(str(error).split())[:300]
    return ""


def _close(one: np.ndarray[Any, Any], truth: np.ndarray[Any, Any], rtol: float, atol: float) -> None:
    rtol = max(rtol, _COARSE_RTOL.get(one.dtype.name, 0))
    if one.dtype.isbuiltin != 1:
        one, truth = one.astype(np.float32), truth.astype(np.float32)
    np.testing.assert_allclose(one, truth, rtol=rtol, atol=atol)


def sampled(cases: Sequence[Any], count: int, seed: int = 0) -> list[Any]:
    """Some of the cases, the same for the same seed."""
    places = np.random.default_rng(seed).choice(len(cases), min(count, len(cases)), replace=False)
    return [cases[place] for place in sorted(places.tolist())]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, print a table, and leave every outcome as JSON."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--engine", action="append", choices=ENGINES, help="default: all")
    parser.add_argument("--sample", type=int, help="only so many cases")
    parser.add_argument("--case", action="append", help="only this case")
    parser.add_argument("--json", type=Path, help="where every outcome goes")
    parser.add_argument("--list", action="append", default=[], help="print the cases of this status")
    options = parser.parse_args(arguments)
    cases = load_cases()
    if options.sample:
        cases = sampled(cases, options.sample)
    if options.case:
        cases = [case for case in cases if case.name in options.case]
    found: list[Outcome] = []
    print(f"{'engine':<12} {'passed':>7} {'refused':>8} {'rounded':>8} {'wrong':>6} {'broken':>7} {'s':>6}")
    for engine in options.engine or ENGINES:
        begin = time.monotonic()
        here = list(run_cases(cases, engine))
        counts = Counter(one.status for one in here)
        columns = [counts[status] for status in (PASSED, REFUSED, ROUNDED, WRONG, BROKEN)]
        print(
            "{:<12} {:>7} {:>8} {:>8} {:>6} {:>7} {:>6.0f}".format(engine, *columns, time.monotonic() - begin)
        )
        for one in here:
            if one.status in options.list:
                print(f"  {one.status} {one.case}: {one.reason}")
        found += here
    if options.json:
        options.json.write_text(json.dumps([dataclasses.asdict(one) for one in found], indent=0))
    return 0


if __name__ == "__main__":
    sys.exit(main())
