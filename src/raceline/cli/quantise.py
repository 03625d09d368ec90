"""`raceline convert quantise`: a model in 8 bits, within an accuracy budget."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from raceline.cli.options import (
    AccuracyDrop,
    Data,
    Json,
    Labels,
    MemoryLimit,
    Metric,
    ReaderOptions,
    Shapes,
    Values,
    opened_model,
)

if TYPE_CHECKING:
    from raceline.convert import Shrunk


def quantise(
    model: Annotated[str, typer.Argument(help="A model file or folder of any format, or a bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to write.")],
    data: Data,
    labels: Labels = None,
    metric: Metric = "fidelity",
    accuracy_drop: AccuracyDrop = None,
    engine: Annotated[str, typer.Option(help="What will run it: onnxruntime or openvino.")] = "onnxruntime",
    seconds: Annotated[
        float, typer.Option(help="Seconds after which nothing new is tried.", min=1.0)
    ] = 120.0,
    shapes: Shapes = None,
    values: Values = None,
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Quantise a model to 8 bits and keep in floating point what accuracy needs; ends with 1 where that fails.

    Example: raceline convert quantise net.onnx --data samples.npz --labels classes.npy --metric top1 -o net8
    """
    from raceline.convert import IRTranslator, shrink
    from raceline.convert import quantise as bits
    from raceline.loop import TerminalProgress

    budget = bits.budget_of(metric, accuracy_drop)
    progress, translator = TerminalProgress(), IRTranslator()
    with progress.step("read"):
        source, sizes = opened_model(model, "", memory_limit, shapes, values, read).settled()
        samples = bits.samples_for(source.signature, data, source.signature.concrete(sizes), labels)
    made = shrink(
        translator.optimize(source), samples, budget, translator.platform, out,
        engine=engine, deadline_s=seconds, progress=progress,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(made.to_json()))
    else:
        _show(made, budget.drop)
    if not made.found.met:
        typer.echo(
            f"raceline: the accuracy budget of {budget.drop:g} could not be met; {out} holds the best found",
            err=True,
        )
        raise typer.Exit(1)


def _show(made: "Shrunk", allowed: float) -> None:
    from raceline.core.units import format_bytes

    found = made.found
    weights = f"{found.scheme.weight_bits}-bit weights, {found.scheme.activations} activations"
    typer.echo(f"layers    {found.layers} in 8 bits ({weights}, ranges by {found.scheme.method})")
    for name in found.kept:
        typer.echo(f"kept      {name}: alone it costs {found.sensitivity[name]:.4f}")
    for name, why in found.refused.items():
        typer.echo(f"left      {name}: {why}")
    if found.stopped:
        typer.echo(f"stopped   {found.stopped}")
    verdict = "within" if found.met else "NOT within"
    typer.echo(f"accuracy  {found.score}; {verdict} {allowed:g}, on {made.engine}")
    typer.echo(
        f"bundle    {format_bytes(made.bytes_before)} -> {format_bytes(made.bytes_after)}, "
        f"{made.reduction:.1%} smaller, every file counted: {made.bundle}"
    )
