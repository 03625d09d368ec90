"""What this machine can do, beside what NumPy's BLAS makes of it.

    python -m benchmarks.probe [--json]

Prints a table; with --json the last line is one JSON object. The peers run in processes of their own, in the
same minutes as the probe: one thread and all cores, each the best of several runs.

Checks that must hold if the probe is right: BLAS does not exceed the probe's FP32 peak beyond noise, and the
peak is a whole number of multiply-add units times the register's width times the clock.
"""

import argparse
import json
import os
import subprocess
import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from raceline.core.units import format_bytes
from raceline.ir import PlatformProfile
from raceline.ir.probe import describe, measure

REGISTER_LANES = {"fma": 8, "avx512f": 16, "neon": 4}  # FP32 numbers, where a multiply-add is one instruction

PEER = """
import json, time
import numpy as np

def best_s(run, tries):
    times = []
    for _ in range(tries):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)

n = 1536
a, b = np.random.default_rng(0).random((2, n, n), dtype=np.float32)
out = np.empty_like(a)
sgemm = 2 * n**3 / best_s(lambda: np.matmul(a, b, out=out), 12)
size = 32 * 2**20
x, y, z = (np.ones(size, np.float32) for _ in range(3))

def triad():
    np.multiply(z, 3.0, out=x)
    np.add(x, y, out=x)

# NumPy makes two passes: five arrays move where a fused loop moves three.
print(json.dumps({"sgemm": sgemm, "moved": 5 * 4 * size / best_s(triad, 8), "numpy": np.__version__}))
"""


def numpy_beside(threads: int) -> dict[str, Any]:
    """NumPy's sgemm (FLOP/s) and triad (bytes/s) with that many BLAS threads, in a process of its own."""
    chosen = {"OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"}
    # A kernel forced from outside would be an unfair peer.
    forced = {"OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE"}
    environment = {k: v for k, v in os.environ.items() if k not in forced} | dict.fromkeys(
        chosen, str(threads)
    )
    done = subprocess.run(
        [sys.executable, "-c", PEER], env=environment, capture_output=True, text=True, check=True
    )
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def figures(machine: PlatformProfile) -> dict[str, Any]:
    """The probe's figures and the peers', by name."""
    one, all_cores = numpy_beside(1), numpy_beside(machine.cores)
    peak, peak_all = machine.fp32_flops_per_s_per_core, machine.peak_ops_per_s("fp32")
    return {
        "platform": machine.to_json(),
        "key": machine.key,
        "numpy_version": one["numpy"],
        "sgemm_flops_per_s_one_core": one["sgemm"],
        "sgemm_flops_per_s_all_cores": all_cores["sgemm"],
        "sgemm_over_peak_one_core": one["sgemm"] / peak if peak else None,
        "sgemm_over_peak_all_cores": all_cores["sgemm"] / peak_all if peak_all else None,
        "numpy_triad_bytes_per_s_one_core": one["moved"],
        "fma_per_cycle": units(machine),
    }


def units(machine: PlatformProfile) -> dict[str, float]:
    """FP32 multiply-add instructions in each cycle, for each instruction set: 1, 2 or 4 on real cores."""
    return {
        r.instruction_set: r.per_core / (2 * REGISTER_LANES[r.instruction_set] * machine.clock_hz)
        for r in machine.rates
        if r.precision == "fp32" and r.instruction_set in REGISTER_LANES and r.per_core and machine.clock_hz
    }


def table(machine: PlatformProfile, beside: dict[str, Any]) -> Table:
    """The figures for people."""
    rows = Table(title=f"{machine.name}: {', '.join(machine.instruction_sets)}", title_justify="left")
    for column in ("what", "one core", "all cores", "note"):
        rows.add_column(column, justify="left" if column in {"what", "note"} else "right")
    for rate in machine.rates:
        unit = "GOP/s" if rate.precision == "int8" else "GFLOP/s"
        note = beside["fma_per_cycle"].get(rate.instruction_set) if rate.precision == "fp32" else None
        rows.add_row(
            f"{rate.precision} {rate.instruction_set}",
            giga(rate.per_core, unit),
            giga(rate.all_cores, unit),
            f"{note:.2f} instructions a cycle" if note else "",
        )
    rows.add_row(
        f"NumPy {beside['numpy_version']} sgemm",
        giga(beside["sgemm_flops_per_s_one_core"], "GFLOP/s"),
        giga(beside["sgemm_flops_per_s_all_cores"], "GFLOP/s"),
        f"{beside['sgemm_over_peak_one_core']:.0%} and {beside['sgemm_over_peak_all_cores']:.0%} of peak",
    )
    rows.add_row(
        "memory, triad",
        giga(machine.memory_bytes_per_s_per_core, "GB/s"),
        giga(machine.memory_bytes_per_s, "GB/s"),
        machine.source,
    )
    rows.add_row(
        "NumPy triad", giga(beside["numpy_triad_bytes_per_s_one_core"], "GB/s"), "", "two passes, bytes moved"
    )
    rows.add_row("clock", giga(machine.clock_hz, "GHz"), "", "of a busy core")
    for cache in machine.caches:
        shared = f"shared by {cache.shared_by}" if cache.shared_by > 1 else ""
        rows.add_row(f"L{cache.level} {cache.kind} cache", format_bytes(cache.size_bytes), "", shared)
    rows.add_row("memory", "", format_bytes(machine.memory_bytes or 0), "")
    return rows


def giga(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value / 1e9:.4g} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="end with one line of JSON")
    as_json = parser.parse_args().json
    machine = measure(describe())
    beside = figures(machine)
    console = Console(width=160, stderr=as_json)
    console.print(table(machine, beside))
    for choice in machine.engines:
        console.print(f"{choice.engine} ({choice.provider}; {', '.join(choice.precisions)}): {choice.reason}")
    if as_json:
        print(json.dumps(beside))


if __name__ == "__main__":
    main()
