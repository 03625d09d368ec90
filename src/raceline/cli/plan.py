"""`raceline convert plan`: how a model should run on an accelerator that is not here."""

import json
from typing import Annotated

import typer

from raceline.cli.options import Json, MemoryLimit, ReaderOptions, Shapes, Values, pairs, shape


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
    from raceline.convert import Hints, IRTranslator, open_model, plan_for
    from raceline.core.units import parse_size_bytes
    from raceline.ir import Limits
    from raceline.loop import TerminalProgress

    progress = TerminalProgress()
    machine = IRTranslator(platform_profile=platform).platform
    limits = Limits(max_model_bytes=parse_size_bytes(memory_limit)) if memory_limit else None
    hints = Hints(
        pairs(shapes or [], "--shape", shape),
        pairs(values or [], "--value", float),
        pairs(read or [], "--read", str),
    )
    with progress.step("read"):
        source, sizes = open_model(model, limits=limits, hints=hints).settled()
    found = plan_for(source, machine, sizes, goal=goal, allow=allow or None, progress=progress)
    typer.echo(json.dumps(found.to_json()) if as_json else "\n".join(found.lines()))
