"""What several commands take, and how it is written."""

from collections.abc import Callable
from typing import Annotated, Any

import typer

from raceline.core import errors

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
