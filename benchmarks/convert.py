"""Reading every format, proven: `python -m benchmarks.convert [--json] [--formats NAME ...] [--quick]`.

For each format one real model, read, and its outputs held against a runtime that nobody here wrote: the model's own
framework, OpenVINO, or its twin in another format. Then ONNX's own operator cases through the whole chain, the
traffic of intermediate tensors that the passes leave beside what ONNX Runtime's own optimiser leaves, and
silero-vad's TorchScript as far as a tuned and proven candidate.
"""

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

import raceline.convert.readers as readers
from benchmarks import _conformance, _formats
from benchmarks._models import real_models, zoo_models
from benchmarks._traffic import runtime_traffic_bytes
from benchmarks.deploy import prepare
from raceline import engines
from raceline.convert import IRTranslator, optimise, settle, tune, verify
from raceline.core import plugins
from raceline.core.errors import RacelineError
from raceline.ir import cost, this_machine
from raceline.loop import TerminalProgress

TRAFFIC_MODELS = ("resnet50", "mobilenet_v2", "minilm_l6")
SEEDS = (0, 1)
TIMES = 3  # reads, of which the median counts
ENGINE = "onnxruntime"


@dataclass
class Proof:
    """What reading one format's model gave.

    Attributes:
        max_rel: largest deviation of any output, relative to that output's largest magnitude.
        tolerance: what was allowed.
        read_s: seconds of one read, the median.
        peer: the converter that was timed beside it.
        peer_s: its seconds; None where it has none or refuses the model.
        peer_refusal: why it refuses.
        needs: Raceline's extra; empty where the format needs no framework.
    """

    format: str
    model: str
    oracle: str
    max_rel: float
    tolerance: float
    read_s: float
    peer: str = ""
    peer_s: float | None = None
    peer_refusal: str = ""
    needs: str = ""

    @property
    def ok(self) -> bool:
        """Whether every output is within the tolerance; NaN is not."""
        return self.max_rel <= self.tolerance


@dataclass
class Found:
    """All that was measured.

    Attributes:
        failed: format -> why its model could not be read or compared.
        absent: format -> what is not installed.
        conformance: status -> number of ONNX's cases.
        traffic: model -> shares of the traffic that our passes and ONNX Runtime's optimiser save.
    """

    proofs: list[Proof] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    conformance: Counter[str] = field(default_factory=Counter)
    traffic: dict[str, tuple[float, float]] = field(default_factory=dict)
    silero: str = "not tried"


def prove(case: _formats.Read) -> Proof:
    """Read a model and compare its outputs with those of its oracle."""
    translator = IRTranslator(input_format=case.format)
    model = translator.parse(case.path, **case.options)
    read_s = median_s(lambda: translator.parse(case.path, **case.options))
    # As it was read: what an engine's own optimiser reorders is another question.
    session = engines.load(ENGINE).load(model, engines.Options(optimise=False))
    worst = 0.0
    for seed in SEEDS:
        feeds = case.feeds(seed)
        model.signature.validate(feeds)
        worst = max(worst, deviation(session.run(feeds), case.expected(feeds)))
    session.close()
    proof = Proof(case.format, case.model, case.oracle, worst, case.tolerance, read_s)
    proof.needs = plugins.load(readers, case.format).extra
    if case.peer is not None:
        proof.peer, convert = case.peer
        proof.peer_s, proof.peer_refusal = timed_peer(convert)
    return proof


def timed_peer(convert: Callable[[], Any] | float | str) -> tuple[float | None, str]:
    """A peer's seconds, or why it refuses."""
    if isinstance(convert, str):
        return None, convert
    if isinstance(convert, float):
        return convert, ""
    try:
        convert()
        return median_s(convert), ""
    except Exception as error:  # noqa: BLE001  a peer may fail in any way; that is its result
        return None, " ".join(str(error).split())[:200] or type(error).__name__


def deviation(
    found: Mapping[str, np.ndarray[Any, Any]],
    expected: Mapping[str, np.ndarray[Any, Any]] | Sequence[np.ndarray[Any, Any]],
) -> float:
    """The largest difference of any output, relative to its largest magnitude; infinite for another shape."""
    pairs = (
        [(found[name], value) for name, value in expected.items()]
        if isinstance(expected, Mapping)
        else list(zip(found.values(), expected, strict=True))
    )
    worst = 0.0
    for ours, theirs in pairs:
        if ours.shape != theirs.shape:
            return float("inf")
        wide, other = ours.astype(np.float64), np.asarray(theirs, np.float64)
        gap = np.abs(wide - other).max(initial=0) / max(np.abs(other).max(initial=0), 1e-30)
        worst = max(worst, float(gap) if np.isfinite(gap) else float("inf"))
    return worst


def median_s(work: Callable[[], Any]) -> float:
    """Seconds of the work, the median of a few times."""
    times = []
    for _ in range(TIMES):
        began_s = time.perf_counter()
        work()
        times.append(time.perf_counter() - began_s)
    return statistics.median(times)


def silero_deploys(progress: TerminalProgress) -> str:
    """Empty where silero-vad's TorchScript becomes a tuned candidate that is proven equivalent; else why not."""
    try:
        path = _formats.package("silero_vad") / "data/silero_vad.jit"
        shapes = {"x": ("batch", 512)}
        source = IRTranslator().parse(path, shapes=shapes, values={"sr": 16000})
        source, sizes = settle(source)
        model, _ = optimise(source)
        profile = tune(
            source, model, this_machine(), shapes=source.signature.concrete(sizes), batches=(1,),
            threads=(1,), budget_s=5.0, progress=progress, cache=False,
        )  # fmt: skip
        while True:  # as `deploy` does: where an engine differs at open sizes, the next one gets its turn
            best = profile.best(threads=1).candidate  # raises, with all reasons, where none is left
            proof = verify(source, source if best.variant == "source" else model, best, [sizes])
            if proof.ok:
                return ""
            profile = profile.without(best.engine, best.variant, f"differs at {proof.divergence}")
    except (_formats.AbsentError, RacelineError) as error:
        return str(error)


def traffic(progress: TerminalProgress) -> dict[str, tuple[float, float]]:
    """For each model: what our passes save of the traffic of intermediate tensors, and what the runtime's do."""
    found = {}
    for case in [*zoo_models(progress), *real_models()]:
        source, sizes = prepare(case)
        model, _ = optimise(source)
        before = cost(source, sizes).intermediate_bytes
        ours = cost(model, sizes).intermediate_bytes
        theirs = runtime_traffic_bytes(case.path, case.tensors(1))
        found[case.name] = (1 - ours / before, 1 - theirs / before)
    return found


def figures(found: Found) -> dict[str, Any]:
    """The figures by name; details under `cases`."""
    proven = [proof for proof in found.proofs if proof.ok]
    named = [found.traffic[name] for name in TRAFFIC_MODELS if name in found.traffic]
    return {
        "formats_proven": len(proven),
        "formats_without_framework": sum(not proof.needs for proof in proven),
        "conformance_pass": found.conformance[_conformance.PASSED],
        "conformance_wrong": found.conformance[_conformance.WRONG] + found.conformance[_conformance.BROKEN],
        "silero_jit_deploys": found.silero == "",
        "memory_traffic_reduction": min((ours for ours, _ in named), default=None),
        "memory_traffic_reduction_onnxruntime": min((theirs for _, theirs in named), default=None),
        "read_seconds": {proof.format: proof.read_s for proof in found.proofs},
        "peer_read_seconds": {proof.format: proof.peer_s for proof in found.proofs if proof.peer},
        "cases": {
            "formats": [asdict(proof) | {"ok": proof.ok} for proof in found.proofs],
            "failed": found.failed,
            "absent": found.absent,
            "conformance": dict(found.conformance),
            "memory_traffic_reduction": {
                name: {"raceline": ours, "onnxruntime": theirs}
                for name, (ours, theirs) in found.traffic.items()
            },
            "silero": found.silero,
        },
    }


def table(proofs: Sequence[Proof]) -> Table:
    """One line a format."""
    result = Table(title="largest deviation relative to each output's largest magnitude; seconds of one read")
    for head in ("format", "model", "oracle", "deviation", "allowed", "needs", "read s", "peer", "peer s"):
        result.add_column(
            head, justify="right" if head in {"deviation", "allowed", "read s", "peer s"} else "left"
        )
    for proof in proofs:
        peer = f"{proof.peer_s:.2f}" if proof.peer_s is not None else "refuses" if proof.peer_refusal else ""
        gap = f"{proof.max_rel:.1e}" if proof.ok else f"[bold]{proof.max_rel:.1e}[/]"
        cells = (
            gap,
            f"{proof.tolerance:.0e}",
            proof.needs or "nothing",
            f"{proof.read_s:.2f}",
            proof.peer,
            peer,
        )
        result.add_row(proof.format, proof.model, proof.oracle, *cells)
    return result


def measure(wanted: Sequence[str], quick: bool, progress: TerminalProgress) -> Found:
    """Everything; of ONNX's cases a sample where `quick`."""
    found = Found()
    cases, found.absent, place = _formats.cases(wanted)
    with place:
        for case in cases:
            print(f"{case.format} ...", file=sys.stderr)
            try:
                found.proofs.append(prove(case))
            except RacelineError as error:
                found.failed[case.format] = str(error)
                print(f"{case.format} failed: {error}", file=sys.stderr)
    if wanted:
        return found
    print("silero-vad ...", file=sys.stderr)
    found.silero = silero_deploys(progress)
    print("traffic ...", file=sys.stderr)
    found.traffic = traffic(progress)
    print("ONNX's cases ...", file=sys.stderr)
    every = _conformance.load_cases()
    chosen = _conformance.sampled(every, 100) if quick else every
    found.conformance = Counter(one.status for one in _conformance.run_cases(chosen, _conformance.CHAIN))
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.convert", description=__doc__)
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    parser.add_argument(
        "--formats", nargs="+", metavar="NAME", default=(), help="only these, and nothing else"
    )
    parser.add_argument("--quick", action="store_true", help="only a hundred of ONNX's cases")
    options = parser.parse_args(arguments)
    known = [make.__name__ for make in _formats.CASES]
    if unknown := sorted(set(options.formats) - set(known)):
        parser.error(f"unknown formats: {', '.join(unknown)}; there are {', '.join(known)}")
    found = measure(options.formats, options.quick, TerminalProgress())
    Console(width=180).print(table(found.proofs))
    for name, why in found.absent.items():
        print(f"not measured: {name}: {why}", file=sys.stderr)
    result = figures(found) | {
        "machine": this_machine().key,
        "date": datetime.now(UTC).date().isoformat(),
    }
    for name in list(result)[:7]:
        print(f"{name}: {result[name]}")
    if options.json:
        print(json.dumps(result))


if __name__ == "__main__":
    main()
