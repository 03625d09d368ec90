"""All formats: what is read, what is written, and with which operators; from the plug-ins themselves."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import raceline.convert.readers as readers
import raceline.convert.writers as writers
from raceline.convert.opening import reader_options
from raceline.convert.writing import options_of
from raceline.core import plugins


@dataclass(frozen=True)
class Format:
    """One reader or writer.

    Attributes:
        name: its file's.
        direction: "read" or "write".
        description: in one line.
        extensions: of its files.
        extra: of Raceline, that installs what it needs; empty where it needs nothing more.
        operators: of the source that it translates, in alphabetical order; empty where it does not tell.
        options: that it takes by name, with their types.
    """

    name: str
    direction: str
    description: str
    extensions: tuple[str, ...]
    extra: str
    operators: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)


def known_formats() -> list[Format]:
    """Every format that is read or written, readers first."""
    found = [_reader(name) for name in plugins.names(readers)]
    bundle = Format(
        "bundle", "write", "Raceline's bundle: a folder of model.onnx, weights.bin and bundle.json", (), ""
    )
    return [*found, bundle, *(_writer(name) for name in plugins.names(writers))]


def formats_table() -> str:
    """The formats as tables of a Markdown document."""
    rows = known_formats()
    lines = ["| reads | files | options | needs | operators |", "|---|---|---|---|---|"]
    for row in rows:
        if row.direction == "read":
            files = ", ".join(f"`{extension}`" for extension in row.extensions) or "folder"
            count = len(row.operators) or "its own"
            lines.append(
                f"| `{row.name}`: {row.description} | {files} | {_options(row)} | {_extra(row)} | {count} |"
            )
    lines += ["", "| writes | options | needs |", "|---|---|---|"]
    for row in rows:
        if row.direction == "write":
            lines.append(f"| `{row.name}`: {row.description} | {_options(row)} | {_extra(row)} |")
    return "\n".join(lines)


def _options(row: Format) -> str:
    return ", ".join(f"`{option.partition(':')[0]}`" for option in row.options) or "none"


def _extra(row: Format) -> str:
    return "nothing more" if row.extra in {"", "base"} else f"`raceline[{row.extra}]`"


def _reader(name: str) -> Format:
    author = plugins.load(readers, name, kind="reader")
    told = author.operators() if hasattr(author, "operators") else []
    options = tuple(f"{option}: {kind}" for option, kind in reader_options(name).items())
    return Format(
        name, "read", author.description, tuple(author.extensions), author.extra, tuple(sorted(told)), options
    )


def _writer(name: str) -> Format:
    author = plugins.load(writers, name, kind="writer")
    options = tuple(f"{option}: {kind}" for option, kind in options_of(name).items())
    extensions = (author.extension,) if author.extension else ()
    return Format(name, "write", author.description, extensions, author.extra, options=options)
