"""Every kernel of our own beside the engines', one operator at a time.

    taskset -c 1 python -m benchmarks._native_kernels [--json] [--seconds 0.4] [--only TEXT]

How it is measured: benchmarks/_kernels.py. Three minutes on an idle core.
"""

import argparse
import json
from collections.abc import Iterator
from itertools import chain

from benchmarks import _native_conv, _native_dense, _native_int8
from benchmarks._kernels import Kernel, measure, shares_of_peak, show

SECONDS = 0.4  # for each kernel, all engines together


def kernels() -> Iterator[Kernel]:
    """All of them."""
    return chain(_native_conv.kernels(), _native_dense.kernels(), _native_int8.kernels())


def native_kernel_share_of_peak(seconds: float = SECONDS) -> dict[str, dict[str, float]]:
    """Figure of that name: kernel -> native, native_alone, onnxruntime, openvino, mnn -> share of the roofline."""
    return shares_of_peak(measure(kernels(), seconds))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="for each kernel, all engines together"
    )
    parser.add_argument("--only", default="", help="kernels whose names hold this text")
    chosen = parser.parse_args()
    times = measure(kernels(), chosen.seconds, chosen.only)
    show(times)
    if chosen.json:
        print(json.dumps({"native_kernel_share_of_peak": shares_of_peak(times)}))


if __name__ == "__main__":
    main()
