"""Read scikit-learn estimators: fitted ones in memory, and `.skops` files; pickles are refused."""

from __future__ import annotations

import dataclasses
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from raceline.convert.exporting import exported
from raceline.convert.files import Archive, content, sha256
from raceline.convert.onnx_file import read_onnx
from raceline.core.errors import BadModelError, MissingDependencyError
from raceline.ir import Limits, Model

description = "scikit-learn estimators and pipelines, in memory or as .skops files"
extensions = (".skops", ".pkl", ".joblib")
extra = "sklearn"

_PICKLES = frozenset({".pkl", ".pickle", ".joblib"})
_HEAD_BYTES = 1 << 16
_INSTALL = f"pip install 'raceline[{extra}]'"
_WAY_OUT = (
    "Opening a pickle can run any code. Load it where you trust it, then give the estimator itself to "
    "IRTranslator().parse(estimator), or save it by skops.io.dump(estimator, 'model.skops')."
)

Inputs = Mapping[str, tuple[str, int]]


def recognises(path: Path) -> bool:
    """Whether it is an archive of skops, or a pickle that names scikit-learn."""
    try:
        if not path.is_file():
            return False
        if _is_pickle(path):
            return True
        with zipfile.ZipFile(path) as archive, archive.open("schema.json") as schema:
            head = schema.read(_HEAD_BYTES)
    except (OSError, ValueError, KeyError, EOFError, NotImplementedError, RuntimeError, zipfile.BadZipFile):
        return False
    except Exception:  # noqa: BLE001  decompressors raise errors of their own
        return False
    return b'"__class__"' in head and b'"__loader__"' in head


def read(
    path: Path, *, limits: Limits | None = None, inputs: Inputs | None = None, trusted: Sequence[str] = ()
) -> Model:
    """Read a `.skops` file; scikit-learn loads and exports it in a child process.

    Args:
        path: the file.
        limits: what the file may ask of this machine.
        inputs: name -> (element type, columns), where they are more than one table of float32; the types are
            float32, float64, int64, bool and str.
        trusted: names of types in the file that may be loaded though they could run code.

    Raises:
        BadModelError: it is no whole file of skops, a pickle, holds types that are not trusted, or an estimator
            that skl2onnx does not know.
        MissingDependencyError: scikit-learn, skl2onnx or skops is not installed.
    """
    limits = limits or Limits()
    if path.suffix.lower() in _PICKLES:
        content(path, limits)
        raise BadModelError(f"{path.name} is a pickle and is not opened", next_step=_WAY_OUT)
    with Archive(path, limits) as archive:
        archive.read("schema.json")
    digest = sha256([path])
    request = {"path": str(path.resolve()), "trusted": list(trusted), "inputs": _plain(inputs)}
    with exported("sklearn", request, source=path.name, extra=extra) as (folder, said):
        producer = f"scikit-learn {said['version']}, {said['kind']}"
        return _named(read_onnx(folder / "model.onnx", limits=limits), path.name, digest, producer)


def takes(source: Any) -> bool:
    """Whether an object is an estimator, by the words of scikit-learn's own base class."""
    return any(kind.__module__ == "sklearn.base" for kind in type(source).__mro__) and hasattr(source, "fit")


def read_object(source: Any, *, limits: Limits | None = None, inputs: Inputs | None = None) -> Model:
    """Read a fitted estimator or pipeline; see `read`.

    Raises:
        BadModelError: it is not fitted, or skl2onnx does not know it.
        MissingDependencyError: skl2onnx is not installed.
    """
    kind = type(source).__name__
    try:
        import sklearn

        from raceline.convert.exporters import sklearn as exporter

        model = exporter.convert(source, _plain(inputs))
    except ImportError as error:
        raise MissingDependencyError(f"reading {kind}", error.name or str(error), _INSTALL) from error
    except Exception as error:  # its converters raise whatever they like
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        raise BadModelError(f"{kind} cannot be exported by skl2onnx", why) from error
    with tempfile.TemporaryDirectory(prefix="raceline-sklearn-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        producer = f"scikit-learn {sklearn.__version__}, {kind}"
        return _named(read_onnx(path, limits=limits), kind, sha256([path]), producer)


def example(folder: Path) -> Path:
    """Write the smallest useful model into `folder`: y = x (1, -2) + 0.5 by a linear regression.

    Raises:
        MissingDependencyError: scikit-learn or skops is not installed.
    """
    try:
        from skl2onnx import to_onnx  # noqa: F401  reading the example needs it
        from sklearn.linear_model import LinearRegression
        from skops import io
    except ImportError as error:
        raise MissingDependencyError("the example", error.name or str(error), _INSTALL) from error
    x = np.array([[0, 0], [1, 0], [0, 1], [2, 3]], np.float64)
    path = folder / "example.skops"
    io.dump(LinearRegression().fit(x, x @ [1.0, -2.0] + 0.5), path)
    return path


def answer(inputs: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """What the example computes."""
    return {"variable": (inputs["x"] @ np.array([[1], [-2]], np.float32) + 0.5).astype(np.float32)}


def _is_pickle(path: Path) -> bool:
    if path.suffix.lower() not in _PICKLES:
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head[:1] == b"\x80" and head[1:2] in {b"\x02", b"\x03", b"\x04", b"\x05"} and b"sklearn" in head


def _plain(inputs: Inputs | None) -> dict[str, list[Any]] | None:
    return None if inputs is None else {name: list(spec) for name, spec in inputs.items()}


def _named(model: Model, source: str, digest: str, producer: str) -> Model:
    """The model with its true origin instead of the ONNX file's on the way."""
    model.provenance = dataclasses.replace(
        model.provenance, source=source, source_format="sklearn", source_sha256=digest, producer=producer
    )
    return model
