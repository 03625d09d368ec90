"""Read functions of JAX: `file.py:function`, which runs that file, or a callable in memory."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import tempfile
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.exporting import exported
from raceline.convert.files import content, sha256
from raceline.convert.onnx_file import read_onnx
from raceline.core.errors import BadModelError, ConfigError, MissingDependencyError
from raceline.ir import Limits, Model

description = "JAX, Flax and Equinox functions, in memory or as file.py:function (which runs that file)"
extensions = (".py",)
extra = "jax"

_IMPORTS = re.compile(r"^\s*(?:import|from)\s+(?:jax|flax|equinox)\b", re.MULTILINE)
_FAMILY = frozenset({"jax", "jaxlib", "flax", "equinox"})
_MOST_SOURCE_BYTES = 1 << 24
_INSTALL = f"pip install 'raceline[{extra}]'"

Shapes = Sequence[Sequence[int | str]] | Mapping[str, Sequence[int | str]]
DTypes = Sequence[str] | Mapping[str, str]


def recognises(path: Path) -> bool:
    """Whether it names a function of a Python file that imports JAX; the file is looked at and not run."""
    file, function = _parts(path)
    try:
        if not function.isidentifier() or not file.is_file() or file.stat().st_size > _MOST_SOURCE_BYTES:
            return False
        text = file.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return False
    return _IMPORTS.search(text) is not None and function in text


def read(
    path: Path,
    *,
    limits: Limits | None = None,
    shapes: Shapes | None = None,
    dtypes: Sequence[str] | Mapping[str, str] | None = None,
    python: str | None = None,
) -> Model:
    """Read `file.py:function`. **This runs the file**, in a child process with the rights of this one.

    Args:
        path: the file, a colon and the name of a function of arrays in it.
        limits: what the model may ask of this machine.
        shapes: of the arguments, in order or by name; an open axis has a name. By default the function's own
            attribute `shapes`.
        dtypes: of the arguments, in order or by name; by default float32.
        python: an interpreter whose environment has jax and jax2onnx; by default this one.

    Raises:
        BadModelError: there is no such function, the file fails, or jax2onnx does not know an operation.
        MissingDependencyError: jax or jax2onnx is not installed there.
        ConfigError: no function is named.
    """
    limits = limits or Limits()
    file, function = _parts(path)
    if not function:
        content(file, limits)
        raise BadModelError(f"{path.name} names no function", "", f"Give it as {path.name}:FUNCTION.")
    content(file, limits)
    if not function.isidentifier():
        raise ConfigError(f"{function!r} is no name of a function", f"in {path.name}")
    digest = sha256([file])
    request = {
        "path": str(file.resolve()),
        "function": function,
        "shapes": _plain(shapes),
        "dtypes": _plain(dtypes),
    }
    with exported("jax", request, source=path.name, extra=extra, python=python) as (folder, said):
        model = read_onnx(folder / "model.onnx", limits=limits)
        return _named(model, path.name, digest, f"JAX {said['version']}")


def takes(source: Any) -> bool:
    """Whether an object is a callable of JAX, Flax or Equinox, or a function that sees one of them."""
    if isinstance(source, functools.partial):
        return takes(source.func)
    if not callable(source) or not _FAMILY & sys.modules.keys():
        return False
    if any(_root(kind.__module__) in _FAMILY for kind in type(source).__mro__):
        return True
    if not isinstance(source, types.FunctionType):
        return False
    held = [cell.cell_contents for cell in source.__closure__ or () if _is_filled(cell)]
    return any(
        _root(str(getattr(item, "__module__", None) or getattr(item, "__name__", ""))) in _FAMILY
        or _root(type(item).__module__) in _FAMILY
        for item in (*(source.__globals__.get(name) for name in source.__code__.co_names), *held)
    )


def read_object(
    source: Any, *, limits: Limits | None = None, shapes: Shapes | None = None, dtypes: DTypes | None = None
) -> Model:
    """Read a callable; see `read`. What it closes over, such as a module's parameters, becomes weights."""
    name = getattr(source, "__name__", type(source).__name__)
    try:
        import jax

        from raceline.convert.exporters import jax as exporter

        model = exporter.convert(source, _plain(shapes), _plain(dtypes))
    except ImportError as error:
        raise MissingDependencyError(f"reading {name}", error.name or str(error), _INSTALL) from error
    except Exception as error:  # jax and jax2onnx raise whatever they like
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        raise BadModelError(f"{name} cannot be exported by jax2onnx", why) from error
    with tempfile.TemporaryDirectory(prefix="raceline-jax-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        return _named(read_onnx(path, limits=limits), name, sha256([path]), f"JAX {jax.__version__}")


def example(folder: Path) -> Path:
    """Write the smallest useful function into `folder`: tanh(x w).

    Raises:
        MissingDependencyError: jax2onnx is not installed.
    """
    import importlib.util

    for module in ("jax", "jax2onnx"):
        if importlib.util.find_spec(module) is None:
            raise MissingDependencyError("the example", module, _INSTALL)
    path = folder / "example.py"
    path.write_text(
        "import jax.numpy as jnp\n\n\n"
        "def model(x):\n"
        "    return jnp.tanh(x @ jnp.array([[1.0, -1.0], [0.5, 2.0], [0.0, 1.0]]))\n\n\n"
        'model.shapes = [("batch", 3)]\n',
        encoding="utf-8",
    )
    return folder / "example.py:model"


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    (x,) = inputs.values()
    return {"out_0": np.tanh(x @ np.array([[1, -1], [0.5, 2], [0, 1]], np.float32))}


def _parts(path: Path) -> tuple[Path, str]:
    """The file, and the function after the colon."""
    file, colon, function = path.name.rpartition(":")
    return (path.with_name(file), function) if colon and file else (path, "")


def _plain(given: Any) -> Any:
    """Shapes or types as JSON has them."""
    if given is None:
        return None
    if isinstance(given, Mapping):
        return {name: item if isinstance(item, str) else list(item) for name, item in given.items()}
    return [item if isinstance(item, str) else list(item) for item in given]


def _root(module: str) -> str:
    return module.partition(".")[0]


def _is_filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _named(model: Model, source: str, digest: str, producer: str) -> Model:
    """The model with its true origin instead of the ONNX file's on the way."""
    model.provenance = dataclasses.replace(
        model.provenance, source=source, source_format="jax", source_sha256=digest, producer=producer
    )
    return model
