"""Threads on cores of their own beside free ones: the time of a call of two threads, pinned over free.

    python -m benchmarks._pinning [--models NAME,...] [--loads 3] [--rounds 15] [--json]

Each engine's candidates run in its own process, as the tuner times them, loaded anew `--loads` times. In each
round every candidate has its turn, the order changing, and the ratio is of the median calls, without those in which
another process was given the CPU. What is told is the median of all rounds' ratios, and the lowest and highest.
Time of the wall: affinity saves no computing.
"""

import argparse
import json
from dataclasses import replace
from statistics import median, quantiles
from typing import Any

from rich.console import Console
from rich.table import Table

from benchmarks._models import Case, named
from raceline.convert import optimise
from raceline.convert.choose import representative_s
from raceline.convert.measure import Bench
from raceline.convert.readers import onnx as reader
from raceline.core.errors import BadModelError
from raceline.ir import Candidate

ENGINES = ("onnxruntime", "openvino", "mnn", "native")
DEFAULT = ("resnet18", "mobilenet_v2", "vit_tiny", "minilm_l6", "nudenet", "magika")
TURN_S = 0.1  # about what a candidate's turn takes
MOST_CALLS = 50


def measure(case: Case, loads: int, rounds: int) -> dict[str, dict[str, Any]]:
    """Engine -> its ratios in short; without engines that refuse the model."""
    model, _ = optimise(reader.read(case.path))
    found: dict[str, list[tuple[float, float]]] = {}
    for _ in range(loads):
        with Bench({"optimised": model}, case.shapes(1)) as bench:
            calls = {}
            for engine in ENGINES:
                try:
                    calls[engine] = calls_in_a_turn(bench, Candidate(engine, threads=2))
                except BadModelError:
                    continue
            for number in range(rounds):
                for engine, count in calls.items():
                    found.setdefault(engine, []).append(one_round(bench, engine, count, bool(number % 2)))
    return {engine: in_short(pairs) for engine, pairs in found.items()}


def calls_in_a_turn(bench: Bench, free: Candidate) -> int:
    """How many calls take about as long as a turn shall; both candidates are loaded then.

    Raises:
        BadModelError: the engine refuses the model.
    """
    bench.load(free)
    bench.load(replace(free, pinned=True))
    return max(3, min(MOST_CALLS, round(TURN_S / max(1e-6, min(bench.time(free, 3).times_s)))))


def one_round(bench: Bench, engine: str, calls: int, pinned_first: bool) -> tuple[float, float]:
    """Seconds of a call, free and pinned."""
    seconds = {}
    for pinned in (pinned_first, not pinned_first):
        candidate = Candidate(engine, threads=2, pinned=pinned)
        timing = bench.time(candidate, calls)
        seconds[pinned] = representative_s(timing.times_s, timing.disturbed)
    return seconds[False], seconds[True]


def in_short(pairs: list[tuple[float, float]]) -> dict[str, Any]:
    """What the rounds of one engine say."""
    ratios = [pinned / free for free, pinned in pairs]
    lower, _, upper = quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    return {
        "pinned_over_free": median(ratios),
        "lowest": min(ratios),
        "highest": max(ratios),
        "middle_half": [lower, upper],
        "free_ms": 1e3 * median(free for free, _ in pairs),
        "rounds": len(ratios),
    }


def show(rows: dict[str, dict[str, dict[str, Any]]]) -> None:
    table = Table("model", *ENGINES, title="time of a call, pinned over free: median (lowest to highest)")
    for model, row in rows.items():
        cells = [
            "{pinned_over_free:.2f} ({lowest:.2f} to {highest:.2f})".format(**row[engine])
            if engine in row
            else "-"
            for engine in ENGINES
        ]
        table.add_row(model, *cells)
    Console(width=140).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", default=",".join(DEFAULT))
    parser.add_argument("--loads", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    rows = {case.name: measure(case, asked.loads, asked.rounds) for case in named(asked.models)}
    show(rows)
    if asked.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
