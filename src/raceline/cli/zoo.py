"""`raceline zoo`: networks to start from, and which of them suits a task and a machine."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from raceline.cli.options import Json

app = typer.Typer(
    no_args_is_help=True,
    help="Networks to start from, by task. Example: raceline zoo recommend --task segmentation --latency-ms 50",
)

_TASKS = "classify, detect, segment, estimate-depth, drive or embed-text; or classification, depth, ..."


@app.command("list")
def list_(
    task: Annotated[str, typer.Option(help=f"Only networks for this: {_TASKS}")] = "",
    as_json: Json = False,
) -> None:
    """List the networks: task, parameters, arithmetic, inputs, and the publication that each follows.

    Example: raceline zoo list --task segmentation
    """
    from raceline import zoo

    entries = zoo.list(task or None)
    if as_json:
        typer.echo(json.dumps({"models": [entry.to_json() for entry in entries]}))
        return
    for entry in entries:
        size = f"{entry.parameters / 1e6:.2f} M parameters, {entry.gflop:.3g} GFLOP"
        typer.echo(f"{entry.name:28} {entry.task:15} {size}\n    {', '.join(map(str, entry.inputs))}")
        typer.echo(f"    {entry.source}")
        if entry.published:
            typer.echo(f"    published: {entry.published}")
        if entry.trainable:
            typer.echo(f"    can be trained here: raceline zoo train {entry.name} -o {entry.name}.onnx")


@app.command()
def get(
    name: Annotated[str, typer.Argument(help="A network; `raceline zoo list` names them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file to write.")],
    seed: Annotated[int, typer.Option(help="Of the random weights.")] = 0,
    batch: Annotated[str, typer.Option(help="A fixed batch size, or `dynamic`.")] = "dynamic",
    as_json: Json = False,
) -> None:
    """Write a network as ONNX, with seeded random weights.

    Example: raceline zoo get resnet18 -o resnet18.onnx
    """
    from raceline import zoo
    from raceline.core.units import format_bytes
    from raceline.loop import TerminalProgress

    with TerminalProgress().step(f"export {name}"):
        path = zoo.export_onnx(name, out, seed=seed, batch=_batch(batch))
    if as_json:
        told = {"file": str(path), "name": name, "seed": seed, "batch": batch, "weights": "random"}
        typer.echo(json.dumps({**told, "size_bytes": path.stat().st_size}))
        return
    typer.echo(f"{path}  {format_bytes(path.stat().st_size)}")
    typer.echo(f"its weights are random (seed {seed}): it is as fast as a trained one, and answers nothing")


@app.command()
def train(
    name: Annotated[str, typer.Argument(help="A network; `raceline zoo list` says which can be trained.")],
    out: Annotated[Path, typer.Option("--out", "-o", dir_okay=False, help="The ONNX file to write.")],
    data: Annotated[
        str, typer.Option(help="Pictures that a package carries: digits or mnist_5k.")
    ] = "mnist_5k",
    epochs: Annotated[int, typer.Option(help="Passes over the training items.", min=1)] = 15,
    seed: Annotated[int, typer.Option(help="Of the first weights and the order of items.")] = 0,
    as_json: Json = False,
) -> None:
    """Train a small network on real pictures, and write it as ONNX with what it learned.

    Example: raceline zoo train resnet18_small --data digits -o digits.onnx
    """
    from raceline import zoo
    from raceline.core.units import format_bytes
    from raceline.loop import TerminalProgress

    trained = zoo.train(name, zoo.data(data), epochs=epochs, seed=seed, progress=TerminalProgress())
    path = zoo.export_onnx(name, out, trained=trained)
    if as_json:
        told = {"file": str(path), "name": name, "seed": seed, "data": data, "epoch": trained.epoch}
        reached = {"validation": trained.validation_accuracy, "test": trained.test_accuracy}
        typer.echo(json.dumps({**told, "accuracy": reached, "size_bytes": path.stat().st_size}))
        return
    typer.echo(f"{path}  {format_bytes(path.stat().st_size)}")
    typer.echo(f"{100 * trained.test_accuracy:.1f} % of {data}'s test items are right (seed {seed})")


def _batch(text: str) -> int | Literal["dynamic"]:
    from raceline.core.errors import ConfigError

    if text == "dynamic":
        return "dynamic"
    if not text.isdecimal():
        raise ConfigError(f"--batch {text} is impossible", next_step="Give a positive number or dynamic.")
    return int(text)


@app.command()
def recommend(
    task: Annotated[str, typer.Option(help=f"What it is for: {_TASKS}")],
    platform: Annotated[
        str, typer.Option(help="The machine: `this`, a name that ships, or a profile's file.")
    ] = "this",
    latency_ms: Annotated[float | None, typer.Option(help="Most milliseconds for one item.")] = None,
    memory_mb: Annotated[float | None, typer.Option(help="Most megabytes (1e6 bytes) of memory.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Tune the networks that were not measured yet, here.")
    ] = False,
    budget: Annotated[
        str, typer.Option(help="With --measure: how long each network may take, such as 5s.")
    ] = "5s",
    as_json: Json = False,
) -> None:
    """Rank the networks of a task for a machine: by measurements, else by estimates that are marked as such.

    Example: raceline zoo recommend --task classification --latency-ms 20 --measure
    """
    from raceline import zoo
    from raceline.core.units import parse_duration_s
    from raceline.loop import TerminalProgress, recommend, recommendation_lines

    limits = zoo.Limits(
        None if latency_ms is None else latency_ms / 1e3, None if memory_mb is None else memory_mb * 1e6
    )
    found = recommend(
        task,
        platform=None if platform == "this" else platform,
        limits=limits,
        measure=measure,
        budget_s=parse_duration_s(budget),
        progress=TerminalProgress(),
    )
    if as_json:
        typer.echo(json.dumps(found.to_json()))
        return
    typer.echo("\n".join(recommendation_lines(found)))
