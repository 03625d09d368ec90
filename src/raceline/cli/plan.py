"""`raceline convert plan`: how a model should run on an accelerator that is not here."""

import json
from typing import Annotated

import typer

from raceline.cli.options import Json, MemoryLimit, ReaderOptions, Shapes, Values, opened_model


def plan(
    model: Annotated[str, typer.Argument(help="A model file or folder of any format, or a bundle.")],
    platform: Annotated[str, typer.Option(help="The machine: a name that ships, or a profile's file.")],
    goal: Annotated[str, typer.Option(help="latency: one item soon; throughput: many a second.")] = "latency",
    allow: Annotated[
        list[str] | None,
        typer.Option(help="A precision that is accepted: fp32, tf32, fp16, bf16, int8; all by default."),
    ] = None,
    shapes: Shapes = None,
    values: Values = None,
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Plan providers, precision, layout and batch for an accelerator, each with its reason; nothing is measured.

    Example: raceline convert plan detector.onnx --platform nvidia-a40 --goal throughput
    """
    from raceline.convert import IRTranslator, plan_for
    from raceline.loop import TerminalProgress

    progress = TerminalProgress()
    machine = IRTranslator(platform_profile=platform).platform
    with progress.step("read"):
        source, sizes = opened_model(model, "", memory_limit, shapes, values, read).settled()
    found = plan_for(source, machine, sizes, goal=goal, allow=allow or None, progress=progress)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))
