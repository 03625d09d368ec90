"""Read TorchScript archives; torch, in a child process, only opens them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert import files
from raceline.convert.exporting import exported
from raceline.convert.formats.torchscript import program
from raceline.convert.formats.torchscript.recorded import recorded
from raceline.convert.formats.torchscript.translate import Given, translate
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError
from raceline.ir import Limits, Model, Provenance

description = "TorchScript archives (.pt, .pth, .jit) as torch.jit.save writes them; needs torch"
extensions = (".pt", ".pth", ".jit", ".ts", ".torchscript")
extra = "torch"


def recognises(path: Path) -> bool:
    """Whether the file is a zip archive with code and constants, as torch.jit.save writes it."""
    names = files.member_names(path)
    return any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names)


def read(
    path: Path,
    *,
    limits: Limits | None = None,
    shapes: Mapping[str, Sequence[int | str | None]] | None = None,
    dtypes: Mapping[str, str] | None = None,
    values: Mapping[str, Any] | None = None,
    method: str = "forward",
    python: str | Path | None = None,
) -> Model:
    """Read a TorchScript archive.

    Args:
        path: the archive.
        limits: what the file may ask of this machine.
        shapes: of inputs, a size or a name for each axis; a traced archive knows those it was traced with.
        dtypes: of inputs that are not float32, by torch's names.
        values: of inputs that are numbers, to fix them; others stay inputs.
        method: what to translate.
        python: interpreter of an environment that has torch; None: this one.

    Raises:
        ConfigError: shapes are needed, or an option names no input or method.
        MissingDependencyError: torch is not installed.
        UnsupportedOperatorError: operators that cannot be translated, all of them.
        BadModelError: the archive is broken, or only holds weights.
    """
    limits = limits or Limits()
    if what := "" if files.member_names(path) else files.checkpoint(path):
        raise BadModelError(f"{path.name} is {what}", files.CHECKPOINT_WHY, files.CHECKPOINT_WAY_OUT)
    with files.Archive(path, limits) as archive:
        _check_members(path, archive.names())
        kept = [name for name in archive.names() if name.endswith("/traced_inputs.pkl")]
        traced = recorded(archive.read(kept[0]), method) if kept else ()
    request = {"path": str(path.resolve()), "method": method}
    with exported("torchscript", request, source=path.name, extra=extra, python=python) as (folder, answer):
        if "methods" in answer:
            known = ", ".join(name for name in answer["methods"] if not name.startswith("_"))
            raise ConfigError(f"{path.name} has no method {method!r}", f"it has: {known}")
        loaded = program.load(folder, path.name)
    given = Given(shapes or {}, dtypes or {}, values or {}, traced)
    provenance = Provenance(
        source=path.name,
        source_format="torchscript",
        source_sha256=files.sha256([path]),
        producer=f"TorchScript, read by torch {answer['torch']}",
    )
    return translate(loaded, given, limits, provenance)


def operators() -> list[str]:
    """Operators that have a rule."""
    from raceline.convert.formats.torchscript.rules import RULES

    return sorted(RULES)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = relu(x w + b), for two items.

    Raises:
        MissingDependencyError: torch is not installed.
    """
    try:
        import torch
    except ModuleNotFoundError as error:
        raise MissingDependencyError(
            "an example of TorchScript", "torch", "pip install 'raceline[torch]'"
        ) from error

    layer = torch.nn.Linear(3, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(_WEIGHT.T.copy()))
        layer.bias.copy_(torch.from_numpy(_BIAS))
    path = folder / "example.pt"
    torch.jit.trace(torch.nn.Sequential(layer, torch.nn.ReLU()), torch.zeros(2, 3)).save(str(path))
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    (x,) = inputs.values()
    return {"output": np.maximum(x @ _WEIGHT + _BIAS, 0)}


_WEIGHT = np.arange(6, dtype=np.float32).reshape(3, 2) - 2
_BIAS = np.array([0.5, -1], np.float32)


def _check_members(path: Path, names: Sequence[str]) -> None:
    """Refuse an archive without code.

    Raises:
        BadModelError: it is none of TorchScript's; says what it is instead.
    """
    if any(name.endswith("/constants.pkl") for name in names) and any("/code/" in name for name in names):
        return
    if what := files.checkpoint(path):
        raise BadModelError(f"{path.name} is {what}", files.CHECKPOINT_WHY, files.CHECKPOINT_WAY_OUT)
    raise BadModelError(
        f"{path.name} is no TorchScript archive", "it has no code", "Save it with torch.jit.save."
    )
