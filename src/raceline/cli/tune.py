"""`raceline convert tune`: the fastest way to run a model on this machine, as a proven bundle."""

import json
from pathlib import Path
from typing import Annotated

import typer

from raceline.cli.options import (
    AccuracyDrop,
    Data,
    Json,
    Labels,
    MemoryLimit,
    Metric,
    Precision,
    ReaderOptions,
    Shapes,
    Values,
    pairs,
    shape,
)


def tune(
    model: Annotated[Path, typer.Argument(help="A model file or folder of any format, or a bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to write.")],
    budget: Annotated[
        str, typer.Option(help="How long loading, checking and measuring may take, such as 60s or 5min.")
    ] = "2min",
    log: Annotated[
        Path | None,
        typer.Option(
            help="Write all that happens there, and go on from there after a kill; else in the cache."
        ),
    ] = None,
    replay: Annotated[
        Path | None, typer.Option(help="Take the profile from this log of the same run, without measuring.")
    ] = None,
    data: Data = "",
    labels: Labels = None,
    metric: Metric = "fidelity",
    accuracy_drop: AccuracyDrop = None,
    precision: Precision = "auto",
    shapes: Shapes = None,
    values: Values = None,
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Measure engines, threads, batches and precisions, prove the fastest, write the bundle; say why it won.

    Example: raceline convert tune detector.onnx --budget 60s -o out/detector
    """
    from raceline.convert import TuningLog
    from raceline.core.units import parse_duration_s, parse_size_bytes
    from raceline.loop import Plan, TerminalProgress, show_tuned, tune_bundle

    plan = Plan(
        model=model,
        out=out,
        shapes=pairs(shapes or [], "--shape", shape),
        values=pairs(values or [], "--value", float),
        options=pairs(read or [], "--read", str),
        budget_s=parse_duration_s(budget),
        memory_limit_bytes=parse_size_bytes(memory_limit) if memory_limit else None,
        data=data,
        labels=labels,
        metric=metric,
        accuracy_drop=accuracy_drop,
        precision=precision,
    )
    found = tune_bundle(plan, TuningLog(log, replay), progress=TerminalProgress())
    if as_json:
        typer.echo(json.dumps(found.to_json()))
    else:
        from raceline.loop import wide_console

        show_tuned(found, wide_console())
