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
from raceline.core.errors import BadModelError, MissingDependencyError, UnsupportedOperatorError
from raceline.ir import Limits, Model, run_reference

description = "scikit-learn estimators and pipelines, in memory or as .skops files"
extensions = (".skops", ".pkl", ".joblib")
extra = "sklearn"

_PICKLES = frozenset({".pkl", ".pickle", ".joblib"})
_HEAD_BYTES = 1 << 16
_MOST_APART = 0.25  # of rows: some lie on an edge where float32 decides otherwise
_TOLERANCE = 1e-3
_SIMPLER = "Convert a simpler estimator, or the parts of this one."
_INSTALL = f"pip install 'raceline[{extra}]'"
_WAY_OUT = (
    "Opening a pickle can run any code. Load it where you trust it, then give the estimator itself to "
    "IRTranslator().parse(estimator), or save it by skops.io.dump(estimator, 'model.skops')."
)

Inputs = Mapping[str, tuple[str, int]]
Array = np.ndarray[Any, Any]


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
        model = _named(_plain_model(folder / "model.onnx", limits, path.name), path.name, digest, producer)
        with np.load(folder / "proof.npz", allow_pickle=False) as proof:
            return _proven(model, dict(proof), said["kind"])


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
        proof = exporter.proof(source, model)
    except ImportError as error:
        raise MissingDependencyError(f"reading {kind}", error.name or str(error), _INSTALL) from error
    except Exception as error:  # its converters raise whatever they like
        why = " ".join(f"{type(error).__name__}: {error}".split())[:600]
        raise BadModelError(f"{kind} cannot be exported by skl2onnx", why) from error
    with tempfile.TemporaryDirectory(prefix="raceline-sklearn-") as folder:
        path = Path(folder) / "model.onnx"
        path.write_bytes(model.SerializeToString())
        producer = f"scikit-learn {sklearn.__version__}, {kind}"
        read = _named(_plain_model(path, limits or Limits(), kind), kind, sha256([path]), producer)
        return _proven(read, proof, kind)


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


def answer(inputs: Mapping[str, Array]) -> dict[str, Array]:
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


def _plain_model(path: Path, limits: Limits, source: str) -> Model:
    """What skl2onnx wrote; NaN stands for a missing value there, as in imputers.

    Raises:
        BadModelError: it is not sound; names the estimator instead of the file on the way.
    """
    try:
        return read_onnx(path, limits=dataclasses.replace(limits, allow_nan=True))
    except UnsupportedOperatorError as error:
        raise UnsupportedOperatorError(source, error.uses, _SIMPLER) from error
    except BadModelError as error:
        what = f"what skl2onnx makes of {source} cannot be read"
        raise BadModelError(what, f"{error.what}: {error.why}", _SIMPLER) from error


def _proven(model: Model, proof: Mapping[str, Array], kind: str) -> Model:
    """The model, once it is known to compute what scikit-learn does.

    Args:
        model: as skl2onnx made it.
        proof: made-up rows and scikit-learn's answers; see `exporters.sklearn.proof`.
        kind: the estimator's class.

    Raises:
        BadModelError: it computes something else.
    """
    if not proof:
        return model
    feeds = {name.removeprefix("in "): array for name, array in proof.items() if name.startswith("in ")}
    found = run_reference(model, feeds)
    answers: dict[str, list[Array]] = {}
    for name, array in proof.items():
        if name.startswith("out "):
            answers.setdefault(name.split(" ")[1], []).append(array)
    for name, wanted in answers.items():
        share = min(_share_apart(found[name], array, proof["group"]) for array in wanted)
        if share > _MOST_APART:
            raise BadModelError(
                f"{model.provenance.source} is converted into something else by skl2onnx",
                f"the output {name!r} of {kind} differs from scikit-learn's in {share:.0%} of made-up rows",
                _SIMPLER,
            )
    return model.with_step(f"Compared with scikit-learn on made-up rows: {', '.join(answers)}.")


def _share_apart(found: Array, wanted: Array, groups: Array) -> float:
    """The share of rows, in the worst group, that differ by more than computing in float32 explains."""
    if found.size != wanted.size:
        return 1.0
    found = found.reshape(wanted.shape)
    if wanted.dtype.kind in "bU":
        apart = found.astype(wanted.dtype) != wanted
    else:
        apart = ~np.isclose(
            found.astype(np.float64), wanted, rtol=_TOLERANCE, atol=_TOLERANCE, equal_nan=True
        )
    rows = apart.reshape(len(wanted), -1).any(axis=1)
    return max(float(rows[groups == group].mean()) for group in np.unique(groups))


def _named(model: Model, source: str, digest: str, producer: str) -> Model:
    """The model with its true origin instead of the ONNX file's on the way."""
    model.provenance = dataclasses.replace(
        model.provenance, source=source, source_format="sklearn", source_sha256=digest, producer=producer
    )
    return model
