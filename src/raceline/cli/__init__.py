"""The command line: `raceline ROOM VERB`, thin; it knows doors only."""

import json
import signal
import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from raceline.cli.convert import app as convert_app
from raceline.cli.options import (
    AccuracyDrop,
    Data,
    Json,
    Labels,
    Metric,
    Precision,
    ReaderOptions,
    Shapes,
    Values,
    pairs,
    shape,
)
from raceline.cli.zoo import app as zoo_app
from raceline.core import errors

__all__ = ["main"]

EXIT_CODES: dict[type[errors.RacelineError], int] = {
    errors.RequestError: 2,
    errors.UnavailableError: 1,
    errors.MissingDependencyError: 1,
    errors.UntrustedUpdateError: 1,
    errors.InvariantError: 1,
}
"""Exit code of each group of errors: 2 where the caller must change the request, 1 otherwise."""

_INTERRUPTED = 128 + signal.SIGINT

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The fastest line through the AI engineering loop for driving models.",
)

app.add_typer(convert_app, name="convert")
app.add_typer(zoo_app, name="zoo")


def exit_code(error: errors.RacelineError) -> int:
    """The exit code of the closest listed ancestor of the error's class."""
    return next(EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES)


def main() -> None:
    """Run the command line; a deliberate error becomes a sentence and an exit code, never a traceback."""
    signal.signal(signal.SIGTERM, _stop)
    try:
        app()
    except errors.RacelineError as error:
        typer.echo(f"raceline: {error}", err=True)
        sys.exit(exit_code(error))
    except SystemExit as end:
        if end.code == _INTERRUPTED:
            typer.echo("raceline: stopped", err=True)
        raise


def _stop(number: int, _: object) -> None:
    """SIGTERM ends what runs the way Ctrl-C does, so that children and temporary files go too."""
    sys.exit(128 + number)


@app.command()
def deploy(
    model: Annotated[Path, typer.Argument(help="The model file.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the bundle and the report.")] = Path(
        "out"
    ),
    name: Annotated[str, typer.Option(help="What to call the model; as its file by default.")] = "",
    shapes: Shapes = None,
    values: Values = None,
    read: ReaderOptions = None,
    budget: Annotated[str, typer.Option(help="How long the tuner may take, such as 30s or 2min.")] = "30s",
    seconds: Annotated[float, typer.Option(help="Seconds of each load test.", min=0.5)] = 5.0,
    port: Annotated[int, typer.Option(help="Port to serve on; 0 takes a free one.", min=0, max=65535)] = 8001,
    memory_limit: Annotated[str, typer.Option(help="Refuse models larger than this, such as 2GiB.")] = "",
    data: Data = "",
    labels: Labels = None,
    metric: Metric = "fidelity",
    accuracy_drop: AccuracyDrop = None,
    precision: Precision = "auto",
    once: Annotated[bool, typer.Option("--once", help="End after the report instead of serving on.")] = False,
    as_json: Json = False,
) -> None:
    """Read, optimise, tune, prove, serve and measure one model.

    Example: raceline deploy detector.onnx --shape images=1,3,320,320 --once
    """
    from raceline.core.units import parse_duration_s, parse_size_bytes
    from raceline.loop import Plan, TerminalProgress, deploy, show

    if not once:
        _check_free(port)
    plan = Plan(
        model=model,
        out=out,
        name=name,
        shapes=pairs(shapes or [], "--shape", shape),
        values=pairs(values or [], "--value", float),
        options=pairs(read or [], "--read", str),
        budget_s=parse_duration_s(budget),
        load_s=seconds,
        memory_limit_bytes=parse_size_bytes(memory_limit) if memory_limit else None,
        data=data,
        labels=labels,
        metric=metric,
        accuracy_drop=accuracy_drop,
        precision=precision,
    )
    progress = TerminalProgress()
    result = deploy(plan, progress=progress)
    if as_json:
        typer.echo(json.dumps(result.to_json()))
    else:
        show(result, progress.console)
    if not once:
        serve([result.bundle], port=port)


def _check_free(port: int) -> None:
    """Refuse a port that is taken now, before minutes of work.

    Raises:
        ConfigError: it is.
    """
    with socket.socket() as probing:
        probing.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probing.bind(("127.0.0.1", port))
        except OSError as error:
            raise errors.ConfigError(
                f"port {port}", error.strerror or str(error), "Give another --port."
            ) from error


@app.command()
def serve(
    bundles: Annotated[list[Path], typer.Argument(help="Bundle folders, as `raceline deploy` writes them.")],
    host: Annotated[
        str, typer.Option(help="Address to bind; loopback unless you say otherwise.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="gRPC port; 0 takes a free one.", min=0, max=65535)] = 8001,
    metrics_port: Annotated[int | None, typer.Option(help="Serve Prometheus metrics there.")] = None,
    engine: Annotated[str | None, typer.Option(help="Instead of the engine that measured best.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of one call.", min=1)] = None,
    workers: Annotated[int | None, typer.Option(help="Calls side by side.", min=1)] = None,
    max_batch: Annotated[int | None, typer.Option(help="Items in one batch.", min=1)] = None,
    parent: Annotated[int | None, typer.Option(help="End when this process does.", hidden=True)] = None,
    as_json: Json = False,
) -> None:
    """Serve bundles over gRPC (KServe v2) until stopped.

    Example: raceline serve out/detector --port 8001
    """
    from raceline.core.process import die_with
    from raceline.serve import Server, Settings, serve_bundle

    if parent is not None:
        die_with(parent)

    def announce(server: Server) -> None:
        choices = {model.name: model.loaded.choice for model in server.repository.live_models()}
        setups = {name: f"{choice} ({choice.why})" for name, choice in choices.items()}
        if as_json:
            typer.echo(json.dumps({"address": server.address, "models": setups}))
            return
        for name, setup in setups.items():
            typer.echo(f"{name}: {setup}", err=True)
        typer.echo(f"serving {', '.join(setups)} at grpc://{server.address}")

    settings = Settings(engine=engine, threads=threads, workers=workers, max_batch=max_batch)
    serve_bundle(
        bundles, host=host, port=port, metrics_port=metrics_port, settings=settings, on_ready=announce
    )


@app.command()
def probe(
    refresh: Annotated[
        bool, typer.Option("--refresh", help="Measure again instead of using the cache.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure what this machine can do: FP32 and INT8 rates, memory bandwidth, caches, instruction sets.

    Example: raceline probe --json
    """
    from raceline.ir.probe import this_machine

    platform = this_machine(refresh=refresh)
    if as_json:
        typer.echo(json.dumps(platform.to_json()))
        return
    typer.echo(f"{platform.name} ({platform.key})\n{', '.join(platform.instruction_sets)}")
    for rate in platform.rates:
        typer.echo(
            f"  {rate.precision:5} {rate.instruction_set:12} {(rate.per_core or 0) / 1e9:10.1f} Gop/s a core"
        )
    typer.echo(f"  memory {(platform.memory_bytes_per_s_per_core or 0) / 1e9:.1f} GB/s a core")
    for choice in platform.engines:
        typer.echo(f"  {choice.engine} ({', '.join(choice.precisions)}): {choice.reason}")
