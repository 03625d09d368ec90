"""Refuse a .pt2 archive that could run code while torch loads it.

torch.export.load (2.13) unpickles without limits what the archive marks as pickled (weights and constants with
`use_pickle`, objects named custom_obj_* and opaque_obj_*), falls back to such unpickling for sample inputs, loads
compiled libraries, evaluates symbolic sizes as Python, and looks up operators by dotted name. So only archives
are passed on whose weights are plain bytes, whose sizes are arithmetic, and whose operators are torch's own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from raceline.convert.files import Archive, refuse_growth
from raceline.core.errors import BadModelError

MARK = "archive_format"
_MODEL = "models/model.json"
_CONFIGS = ("data/weights/model_weights_config.json", "data/constants/model_constants_config.json")
_PLAIN_FILES = re.compile(r"(weight|tensor|constant)_\d+")
_TARGETS = re.compile(r"(torch\.ops\.(aten|prims|higher_order|_c10d_functional|quantized_decomposed)\.[\w.]+"
                      r"|_operator\.\w+|math\.\w+|torch\.sym_\w+|torch\._sym_\w+)")  # fmt: skip
_WORD = re.compile(r"[A-Za-z_]\w*")
_EXPRESSION = re.compile(r"[\w\s+\-*/%(),<>=!&|~.']*")
_QUOTED = re.compile(r"'([A-Za-z]\w*)'")
_SYMBOL = re.compile(r"(s|u|zuf|zf|f|i)\d+")
_FUNCTIONS = frozenset(
    """Symbol Integer Float Rational Add Mul Pow Max Min Abs Mod PythonMod FloorDiv CleanDiv CeilDiv ModularIndexing
    CeilToInt FloorToInt TruncToInt TruncToFloat RoundToInt RoundDecimal ToFloat IntTrueDiv FloatTrueDiv
    PowByNatural FloatPow LShift RShift Identity Where IsNonOverlappingAndDenseIndicator Eq Ne Lt Le Gt Ge And Or
    Not true false True False positive integer nonnegative real oo int_oo IntInfinity evaluate""".split()
)
_MOST_CHARS = 2_000


def prefix_of(names: Sequence[str]) -> str | None:
    """The folder in which the archive has everything, with its slash; None where it is no .pt2 archive."""
    marks = [name for name in names if name == MARK or name.endswith(f"/{MARK}")]
    return marks[0][: -len(MARK)] if len(marks) == 1 else None


def refuse_unsafe(archive: Archive, source: str) -> None:
    """Check all that torch would act upon.

    Raises:
        BadModelError: the archive is no .pt2 of this kind, or holds what could run code; says what.
    """
    prefix = prefix_of(archive.names())
    if prefix is None or archive.read(prefix + MARK).strip() != b"pt2":
        if any(name.endswith("serialized_exported_program.json") for name in archive.names()):
            raise BadModelError(
                f"{source} was saved by an old torch", "it keeps its weights as a pickle",
                "Load it with the torch that wrote it and save it again with a newer one.",
            )  # fmt: skip
        raise BadModelError(f"{source} is no .pt2 archive", "", "Save it with torch.export.save.")
    members = {name.removeprefix(prefix) for name in archive.names()}
    native = sorted(name for name in members if name.startswith("data/aotinductor"))
    if native:
        raise _unsafe(source, f"compiled code, {native[0]!r}")
    models = sorted(name for name in members if name.startswith("models/"))
    if models != [_MODEL]:
        raise BadModelError(f"{source} is not one exported program", f"it has: {', '.join(models) or 'none'}")
    for config in _CONFIGS:
        if config not in members:
            raise BadModelError(f"{source} is incomplete or of an old torch", f"it has no {config!r}")
        _check_payloads(_json(archive, prefix + config, source), source)
    _check_program(_json(archive, prefix + _MODEL, source), source)


def _check_payloads(config: Any, source: str) -> None:
    """Every weight and constant is plain bytes."""
    entries = config.get("config") if isinstance(config, dict) else None
    if not isinstance(entries, dict):
        raise BadModelError(f"{source} is broken", "its list of weights is no table")
    for name, entry in entries.items():
        pickled = not isinstance(entry, dict) or entry.get("use_pickle") is not False
        if pickled or not _PLAIN_FILES.fullmatch(str(entry.get("path_name"))):
            raise _unsafe(source, f"the pickled object {str(name)[:100]!r}")


def _check_program(program: Any, source: str) -> None:
    """Operators are torch's own, and sizes are arithmetic."""
    for key, value in _strings(program):
        if key == "target" and "." in value and not _TARGETS.fullmatch(value) and _leads_to_code(value):
            raise _unsafe(source, f"the operator {value[:100]!r}")
        if key == "expr_str" and not is_arithmetic(value):
            raise _unsafe(source, f"the size {value[:100]!r}")
    ranges = program.get("range_constraints") if isinstance(program, dict) else None
    for name in ranges or {}:
        if not is_arithmetic(name):
            raise _unsafe(source, f"the size {name[:100]!r}")


def _leads_to_code(target: str) -> bool:
    """Whether torch would look a name up; names of weights have dots too, and are only names."""
    return target.startswith(("torch", "_operator", "math", "#"))


def is_arithmetic(text: str) -> bool:
    """Whether an expression is of numbers, symbols and torch's own functions of sizes, and nothing else."""
    if len(text) > _MOST_CHARS or not _EXPRESSION.fullmatch(text) or "__" in text:
        return False
    bare = _QUOTED.sub(lambda found: found[1] if _SYMBOL.fullmatch(found[1]) else "?", text)
    if "'" in bare or "?" in bare or re.search(r"[A-Za-z_)]\s*\.|\.\s*[A-Za-z_]|\w\s+\w|\*\*\s*\d{4}", bare):
        return False
    return all(word in _FUNCTIONS or _SYMBOL.fullmatch(word) for word in _WORD.findall(bare))


def _strings(item: Any) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value with its key."""
    stack: list[tuple[str, Any]] = [("", item)]
    while stack:
        key, held = stack.pop()
        if isinstance(held, dict):
            stack.extend((str(k), v) for k, v in held.items())
        elif isinstance(held, list):
            stack.extend((key, v) for v in held)
        elif isinstance(held, str):
            yield key, held


def _json(archive: Archive, name: str, source: str) -> Any:
    refuse_growth(archive.sizes[name], source, archive.limits)
    try:
        return json.loads(archive.read(name))
    except (ValueError, RecursionError) as error:
        raise BadModelError(f"{source} is broken", f"member {name!r}: {error}") from error


def _unsafe(source: str, what: str) -> BadModelError:
    return BadModelError(
        f"{source} is refused", f"loading it could run code: it holds {what}",
        "Export the model again from its source, with torch.export.save.",
    )  # fmt: skip
