"""`raceline convert quantise`: a model in few bits, within an accuracy budget."""

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
    from raceline.convert import quantise as bits


def quantise(
    model: Annotated[str, typer.Argument(help="A model file or folder of any format, or a bundle.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the bundle to write.")],
    data: Data = "",
    labels: Labels = None,
    weights_only: Annotated[
        int,
        typer.Option(
            help="Store the weights in 8 or 4 bits and compute in floating point; needs no data.",
            min=0,
            max=8,
        ),
    ] = 0,
    metric: Metric = "fidelity",
    accuracy_drop: AccuracyDrop = None,
    engine: Annotated[
        str,
        typer.Option(help="What will run it: onnxruntime, openvino or native; of weights alone any engine."),
    ] = "onnxruntime",
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
    Example: raceline convert quantise net.onnx --weights-only 4 -o net4
    """
    from raceline.convert import IRTranslator, shrink
    from raceline.convert import quantise as bits
    from raceline.core.errors import ConfigError

    if weights_only not in {0, 4, 8}:
        raise ConfigError(f"--weights-only {weights_only}", "8 and 4 bits are possible")
    if not data and not weights_only:
        raise ConfigError(
            "quantising needs calibration data", "ranges and accuracy are measured on it", "Give --data FILE."
        )
    from raceline.loop import TerminalProgress

    budget = bits.budget_of(metric, accuracy_drop, labelled=labels is not None)
    progress, translator = TerminalProgress(), IRTranslator()
    with progress.step("read"):
        source, sizes = opened_model(model, "", memory_limit, shapes, values, read).settled()
        samples = bits.samples_for(
            source.signature, data or bits.GENERATED, source.signature.concrete(sizes), labels
        )
    made = shrink(
        translator.optimize(source), samples, budget, translator.platform, out,
        engine=engine, weights_only=weights_only, deadline_s=seconds, progress=progress,
    )  # fmt: skip
    if as_json:
        typer.echo(json.dumps(made.to_json()))
    else:
        _show(made, budget)
    if not made.found.met:
        typer.echo(
            f"raceline: the accuracy budget of {budget.drop:g} could not be met; {out} holds the best found",
            err=True,
        )
        raise typer.Exit(1)


_SAME_SPEED = 0.97


def _show(made: "Shrunk", budget: "bits.Budget") -> None:
    from raceline.convert import quantise as bits
    from raceline.core.units import format_bytes

    found = made.found
    typer.echo(f"layers    {found.layers}: {found.scheme}")
    for name, why in found.notes.items():
        typer.echo(f"wider     {name}: {why}")
    for name in found.kept:
        alone = f"alone it costs {found.sensitivity[name]:.4f}" if found.sensitivity else ""
        typer.echo(f"kept      {name}: {alone or 'all were needed'}{found.kept_as}")
    for name, why in found.refused.items():
        typer.echo(f"left      {name}: {why}")
    if found.stopped:
        typer.echo(f"stopped   {found.stopped}")
    verdict = "within" if found.met else "NOT within"
    typer.echo(f"accuracy  {found.score}; {verdict} {budget.drop:g}, on {made.engine}")
    if why := bits.doubt(budget, found.score.items):
        typer.echo(f"doubt     {why}")
    typer.echo(
        f"bundle    {format_bytes(made.bytes_before)} -> {format_bytes(made.bytes_after)}, "
        f"{abs(made.reduction):.1%} {'larger' if made.reduction < 0 else 'smaller'}, "
        f"every file counted: {made.bundle}"
    )
    slower = ": SLOWER; `raceline convert tune` takes fewer bits only where they are faster"
    typer.echo(
        f"speed     {made.gain:.2f} times full precision's on {made.engine}, one item at a time, one thread"
        f"{slower if made.gain < _SAME_SPEED else ''}"
    )
