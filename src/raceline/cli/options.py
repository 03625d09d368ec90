"""What several commands take, and how it is written."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from raceline.core import errors

if TYPE_CHECKING:
    from raceline.convert import Opened

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for machines.")]
Shapes = Annotated[
    list[str] | None, typer.Option("--shape", help="A dynamic input's shape: NAME=1,3,224,224.")
]
Values = Annotated[
    list[str] | None, typer.Option("--value", help="The value a scalar input must have: NAME=16000.")
]
ReaderOptions = Annotated[
    list[str] | None,
    typer.Option("--read", help="An option of the format's reader: signature=serving_default, weights=FILE."),
]
MemoryLimit = Annotated[str, typer.Option(help="Refuse models larger than this, such as 2GiB.")]

Data = Annotated[
    str,
    typer.Option(
        help="Calibration data: a .npz with an array for each input, or a .npy; axis 0 counts items. "
        '"generated" makes inputs up.'
    ),
]
Labels = Annotated[Path | None, typer.Option(help="A .npy with the true class of each item, for top1.")]
Metric = Annotated[
    str,
    typer.Option(help="What counts as accuracy: fidelity (1 - relative error of the outputs) or top1."),
]
AccuracyDrop = Annotated[
    float | None,
    typer.Option(
        help="How much accuracy may be lost, 0.01 for a point; by default 0.05 of fidelity, 0.01 of top1."
    ),
]
Precision = Annotated[
    str,
    typer.Option(
        help="auto: fewer bits where that is faster and within --accuracy-drop; or fp32, int8, int8-weights, "
        "int4-weights (weights in few bits, arithmetic in floating point)."
    ),
]


def pairs(items: list[str], option: str, parse: Callable[[str], Any]) -> dict[str, Any]:
    """`NAME=TEXT` items as a dictionary.

    Raises:
        ConfigError: an item has no `=`, or its text does not parse.
    """
    found = {}
    for item in items:
        name, sign, text = item.rpartition("=")
        try:
            if not sign or not name:
                raise ValueError("there is no '='")
            found[name] = parse(text)
        except ValueError as error:
            raise errors.ConfigError(
                f"{option} {item}", str(error), f"Write it as {option} NAME=VALUE."
            ) from error
    return found


def shape(text: str) -> tuple[int | str, ...]:
    """A shape such as `1,3,224,224` or `batch,512`; every size is at least 1, or the name of an open axis.

    Raises:
        ValueError: it is not.
    """
    parts = text.split(",") if text else ()
    sizes = tuple(size if size.isidentifier() else int(size) for size in parts)
    if any(isinstance(size, int) and size < 1 for size in sizes):
        raise ValueError("every size must be at least 1")
    return sizes


def opened_model(
    path: str,
    input_format: str = "",
    memory_limit: str = "",
    shapes: list[str] | None = None,
    values: list[str] | None = None,
    read: list[str] | None = None,
) -> "Opened":
    """The model at a path, within the limit, as the options say.

    Raises:
        ConfigError: an option does not parse.
        Everything that `convert.open_model` raises.
    """
    from raceline.convert import Hints, open_model
    from raceline.core.units import parse_size_bytes
    from raceline.ir import Limits

    limits = Limits(max_model_bytes=parse_size_bytes(memory_limit)) if memory_limit else None
    hints = Hints(
        pairs(shapes or [], "--shape", shape),
        pairs(values or [], "--value", float),
        pairs(read or [], "--read", str),
    )
    return open_model(path, input_format=input_format or None, limits=limits, hints=hints)
