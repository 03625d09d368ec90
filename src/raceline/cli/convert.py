"""`raceline convert`: look at models, compare them, explain what was done to them, write them in other formats."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from raceline.cli.options import Json, MemoryLimit, ReaderOptions, Shapes, Values, opened_model, pairs, shape
from raceline.cli.plan import plan
from raceline.cli.quantise import quantise
from raceline.cli.tune import tune

if TYPE_CHECKING:
    from raceline.convert import Comparison, Equivalence, Explanation, Inspection
    from raceline.ir import Model


class _WriteByDefault(TyperGroup):
    """`raceline convert MODEL --to FORMAT` means `raceline convert write MODEL --to FORMAT`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Put `write` in front of what is no command."""
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["write", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    no_args_is_help=True,
    cls=_WriteByDefault,
    help="Look at models, compare them, explain what was done to them, write them in other formats. "
    "Example: raceline convert detector.onnx --to openvino -o detector_ir",
)

app.command()(quantise)
app.command()(plan)
app.command()(tune)

ModelPath = Annotated[str, typer.Argument(help="A model file or folder of any format, or a bundle.")]
Format = Annotated[str, typer.Option("--format", help="Read it as this format; recognised by default.")]


@app.command()
def write(
    model: ModelPath,
    to: Annotated[str, typer.Option(help="Output format; `raceline convert formats` lists them.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File or folder to write.")],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="An option of the format: fp16=true, consumer=tensorrt-10, sizes=batch:1."
        ),
    ] = None,
    optimise: Annotated[
        bool,
        typer.Option("--optimise", help="Run the passes first; else the model is written as it was read."),
    ] = False,
    why: Annotated[
        bool, typer.Option("--why", help="With --optimise: list what each pass rewrote or left, and why.")
    ] = False,
    prove: Annotated[
        bool, typer.Option(help="Run what was written in its own runtime and compare it with the model.")
    ] = True,
    shapes: Shapes = None,
    values: Values = None,
    format: Format = "",  # noqa: A002  # the option's name
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Write a model in another format and prove that it computes the same; ends with 1 where it does not.

    Example: raceline convert detector.onnx --to openvino -o detector_ir --set fp16=true
    """
    from raceline.convert import IRTranslator, explanation_of, parsed_options
    from raceline.convert import prove as prove_written
    from raceline.core.errors import ConfigError
    from raceline.loop import TerminalProgress

    if why and not optimise:
        raise ConfigError("--why lists what --optimise did", "nothing was optimised", "Give both.")
    progress = TerminalProgress()
    translator = IRTranslator()
    options = {} if to == "bundle" else parsed_options(to, pairs(settings or [], "--set", str))
    with progress.step("read"):
        opened = opened_model(model, format, memory_limit, shapes, values, read)
    source = opened.model
    made = translator.optimize(source, progress=progress) if optimise else source
    story = explanation_of(source, made, [*translator.rewrites, *translator.refusals]) if why else None
    with progress.step(f"write {to}"):
        written = translator.export(made, out, output_format=to, **options)
    files = written if isinstance(written, list) else [written.folder / name for name in written.files]
    proof = None
    if prove and to != "bundle":
        known, sizes = opened.settled()
        cases = _cases(known, sizes, options)
        proof = prove_written(known, to, out, sizes=cases, options=options, progress=progress)
    _print(
        as_json,
        {
            "files": [str(path) for path in files],
            "proof": proof and proof.to_json(),
            "why": story and story.to_json(),
        },
        lambda: _written(files, proof, story),
    )
    if proof is not None and not proof.ok:
        raise typer.Exit(1)


@app.command()
def inspect(
    model: ModelPath,
    shapes: Shapes = None,
    values: Values = None,
    platform: Annotated[
        str,
        typer.Option(
            help="Least times on this platform: a name that ships, or a file; this machine by default."
        ),
    ] = "",
    format: Format = "",  # noqa: A002  # the option's name
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Show what a model is: signature, operators, arithmetic, traffic, and the least time a platform needs.

    Example: raceline convert inspect detector.onnx --shape images=1,3,320,320
    """
    from raceline.convert import IRTranslator, inspect_model
    from raceline.loop import TerminalProgress

    progress = TerminalProgress()
    with progress.step("read"):
        opened = opened_model(model, format, memory_limit, shapes, values, read)
    with progress.step("find sizes"):
        settled, sizes = opened.settled()
    with progress.step("count"):
        found = inspect_model(settled, sizes, IRTranslator(platform_profile=platform or None).platform)
    _print(as_json, found.to_json(), lambda: _inspected(found))


@app.command()
def compare(
    first: ModelPath,
    second: ModelPath,
    shapes: Shapes = None,
    seed: Annotated[int, typer.Option(help="Of the generated inputs.")] = 0,
    rtol: Annotated[
        float, typer.Option(help="How far an output may be off, beside its largest magnitude.", min=0.0)
    ] = 1e-4,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Compare two models of any formats layer by layer on generated inputs; ends with 1 where they differ.

    Example: raceline convert compare detector.onnx out/detector
    """
    from raceline.convert import compare_models
    from raceline.loop import TerminalProgress

    progress = TerminalProgress()
    with progress.step("read"):
        one, other = (opened_model(path, memory_limit=memory_limit).model for path in (first, second))
    found = compare_models(
        one, other, shapes=pairs(shapes or [], "--shape", shape), seed=seed, rtol=rtol, progress=progress
    )
    _print(as_json, found.to_json(), lambda: _compared(found))
    if not found.ok:
        raise typer.Exit(1)


@app.command()
def explain(
    model: ModelPath,
    passes: Annotated[list[str] | None, typer.Option("--pass", help="Only what this pass did.")] = None,
    shapes: Shapes = None,
    values: Values = None,
    format: Format = "",  # noqa: A002  # the option's name
    read: ReaderOptions = None,
    memory_limit: MemoryLimit = "",
    as_json: Json = False,
) -> None:
    """Say which pass rewrote what and why, and where a pattern was seen and left, and why.

    Example: raceline convert explain detector.onnx --pass fuse_attention
    """
    from raceline.convert import explain_model
    from raceline.loop import TerminalProgress

    progress = TerminalProgress()
    with progress.step("read"):
        opened = opened_model(model, format, memory_limit, shapes, values, read)
    found = explain_model(opened.model, passes=passes or None, progress=progress)
    _print(as_json, found.to_json(), lambda: typer.echo("\n".join(found.lines())))


@app.command()
def formats(
    name: Annotated[str, typer.Argument(help="One format, with all its operators.")] = "",
    markdown: Annotated[bool, typer.Option("--markdown", help="As the tables of docs/formats.md.")] = False,
    as_json: Json = False,
) -> None:
    """List the formats that are read and written, what they need, and the operators they know.

    Example: raceline convert formats onnx
    """
    from raceline.convert import formats_table, known_formats
    from raceline.core.errors import UnknownNameError

    rows = known_formats()
    chosen = [row for row in rows if name in {"", row.name}]
    if not chosen:
        raise UnknownNameError("format", name, sorted({row.name for row in rows}))
    if markdown:
        typer.echo(formats_table())
        return

    def show() -> None:
        for row in chosen:
            needs = "" if row.extra in {"", "base"} else f" [needs raceline[{row.extra}]]"
            count = f" ({len(row.operators)} operators)" if row.operators else ""
            typer.echo(f"{row.direction:5} {row.name:14} {row.description}{count}{needs}")
            for option in row.options if name else ():
                typer.echo(f"        --{'read' if row.direction == 'read' else 'set'} {option}")
            for operator in row.operators if name else ():
                typer.echo(f"        {operator}")

    _print(as_json, {"formats": [row.to_json() for row in chosen]}, show)


def _cases(model: "Model", sizes: dict[str, int], options: dict[str, Any]) -> list[dict[str, int]]:
    """Sizes to prove at: those that were found, and three items where items may be stacked."""
    fixed = options.get("sizes")
    if fixed:
        return [{**sizes, **fixed}]
    axis = model.signature.batch_axis
    return [sizes] if axis is None else [sizes, {**sizes, axis: 3}]


def _print(as_json: bool, data: dict[str, Any], show: Callable[[], None]) -> None:
    """One JSON object for machines, or text for people."""
    if as_json:
        typer.echo(json.dumps(data))
    else:
        show()


def _written(files: list[Path], proof: "Equivalence | None", story: "Explanation | None") -> None:
    from raceline.core.units import format_bytes

    if story is not None:
        typer.echo("\n".join([*story.lines(), ""]))
    for path in files:
        typer.echo(f"{path}  {format_bytes(path.stat().st_size)}")
    if proof is None:
        return
    for output in proof.outputs:
        far = "" if output.max_rel is None else f"off by {output.max_rel:.1e} of its largest magnitude"
        typer.echo(f"  {output.name}: {'same' if output.ok else 'DIFFERS'}, {far or output.why}")
    cases = f"{len(proof.cases)} sizes x {len(proof.seeds)} seeds"
    verdict = "proven" if proof.ok else "NOT EQUAL"
    typer.echo(f"{verdict}: {proof.candidate}, {cases}, within {proof.rtol:g}")


def _inspected(found: "Inspection") -> None:
    from rich.table import Table

    from raceline.core.units import format_bytes, format_seconds
    from raceline.loop import wide_console

    typer.echo(f"{found.name} ({', '.join(text for text in found.source.values() if text)})")
    for note in found.notes:
        typer.echo(f"note     {note}")
    typer.echo(f"opsets   {', '.join(f'{domain} {version}' for domain, version in found.opsets.items())}")
    for word, specs in (("input", found.inputs), ("output", found.outputs)):
        for spec in specs:
            typer.echo(f"{word:8} {spec}")
    axes = ", ".join(f"{axis} = {size}" for axis, size in found.sizes.items()) or "none"
    typer.echo(f"axes     {axes}; batch axis: {found.batch_axis or 'not proven'}")
    typer.echo(
        f"one run  {found.flops / 1e9:.3g} GFLOP, {format_bytes(found.moved_bytes)} moved, "
        f"{format_bytes(found.weight_bytes)} of weights"
    )
    table = Table("operator", "nodes", "MFLOP", "moved", "weights", "least time", "bound by", box=None)
    for row in found.operators:
        least = "" if row.time_s is None else format_seconds(row.time_s) if row.time_s else "0"
        table.add_row(
            row.operator, str(row.count), f"{row.flops / 1e6:.3g}", format_bytes(row.moved_bytes),
            format_bytes(row.weight_bytes), least, row.bound,
        )  # fmt: skip
    wide_console().print(table)
    total = "unknown" if found.time_s is None else format_seconds(found.time_s)
    typer.echo(f"least time on {found.platform}: {total} (roofline, computed, all cores, FP32)")
    if found.uncounted:
        typer.echo(f"not counted: {', '.join(found.uncounted)}")


def _compared(found: "Comparison") -> None:
    for pair in found.inputs:
        typer.echo(f"input    {pair}")
    named = [layer for layer in found.layers if layer.how == "name"]
    numbers = [layer for layer in found.layers if layer.how == "numbers"]
    alone = [layer for layer in found.layers if not layer.how]
    typer.echo(
        f"layers   {len(named)} by name ({sum(layer.ok for layer in named)} agree), {len(numbers)} found by their "
        f"numbers, {len(alone)} without a counterpart"
    )
    for layer in sorted(named, key=lambda layer: -(layer.max_rel or 0.0))[:5]:
        if layer.max_rel:
            typer.echo(f"         {layer.value} ({layer.operator}): {layer.max_rel:.1e}")
    for output in found.differences:
        far = output.why if output.max_rel is None else f"off by {output.max_rel:.1e} {output.why}"
        typer.echo(f"output   {output.name}: {'same' if output.ok else 'DIFFERS'}, {far}")
    if found.divergence is not None:
        where = found.divergence
        typer.echo(f"first parting at node {where.node!r} ({where.operator}), value {where.value!r}")
    typer.echo("the models agree" if found.ok else "the models DIFFER")
