"""MNN on the CPU."""

import functools
import importlib
import queue
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from raceline.core.errors import (
    BadModelError,
    ConfigError,
    InvariantError,
    MissingDependencyError,
    RacelineError,
    ShapeError,
    UnsupportedOperatorError,
)
from raceline.core.process import Growth, silenced
from raceline.core.units import GIB
from raceline.engines import Options, Tensors, Tolerance, users
from raceline.engines._pinning import own_cores
from raceline.ir import Model, Shapes, Signature, TensorSpec, weights
from raceline.ir.packed import widened
from raceline.ir.serialise import write_onnx
from raceline.ir.weights_only import restored

description = "MNN, CPU back end"
# MNN approximates exp, tanh and their like, and convolves by Winograd with large tiles: 2e-3 was seen.
tolerance = Tolerance(atol=1e-5, rtol=5e-3)

# A .mnn file is one flatbuffer, which ends at 2 GiB: above this, weights go beside it.
_FILE_LIMIT_BYTES = GIB
_UNSUPPORTED = re.compile(r"These Op Not Support: (.*)")
# What the signature says -> what MNN holds. Anything else it would reinterpret without a word.
_HELD_AS = {"float32": np.float32, "float16": np.float32, "int32": np.int32, "int64": np.int32,
            "bool": np.int32, "uint8": np.uint8}  # fmt: skip
_NARROWED = np.iinfo(np.int32)


def version() -> str:
    """Version of the MNN package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return str(_runtime().mnn.version())


def load(model: Model, options: Options) -> "_Session":
    """Convert the model and prepare one MNN session for each stream.

    MNN optimises while converting and cannot be told not to: `options.optimise` changes nothing. A graph with
    control flow runs through MNN's module interface, which keeps Python's global lock for the whole run.

    Raises:
        UnsupportedOperatorError: operators that MNN cannot convert.
        BadModelError: MNN refuses the model, or has no equal of an input's or output's type.
        ConfigError: a precision that this engine does not offer, or more pinned threads than cores.
    """
    if options.arithmetic != "fp32":
        raise ConfigError(f"mnn cannot run at {options.precision}", "its converter takes no QDQ graphs")
    _refuse_types(model.signature)
    _runtime()  # whose own memory is not the session's
    growth = Growth()
    with (
        growth.measured(),
        own_cores(options),
        tempfile.TemporaryDirectory(prefix="raceline-") as folder,
    ):
        path = _convert(widened(restored(model)), Path(folder))
        kind = _ModuleNet if _has_control_flow(model) else _SessionNet
        nets = [kind(path, model.signature, options.threads) for _ in range(options.streams)]
        session = _Session(model.signature, nets, growth)
        if options.shapes:
            session.prepare(options.shapes)
    return session


class _Net(Protocol):
    """One loaded network; used by one thread at a time."""

    def resize(self, shapes: Shapes) -> None:
        """Plan for inputs of these shapes."""

    def compute(self, inputs: Tensors) -> Tensors:
        """All outputs of inputs that have the planned shapes and MNN's types; fresh arrays."""


class _Session:
    """A pool of networks, one for each stream; a call takes one and brings it back."""

    def __init__(self, signature: Signature, nets: list[Any], growth: Growth) -> None:
        self._signature = signature
        self._idle: queue.LifoQueue[_Net] = queue.LifoQueue()
        self._nets = nets
        self._shapes: dict[int, dict[str, tuple[int, ...]]] = {}
        self._growth = growth
        self._warm = False
        for net in nets:
            self._idle.put(net)

    def prepare(self, shapes: Shapes) -> None:
        """Plan every network for the shapes that it will see.

        Raises:
            BadModelError: MNN cannot plan the model at these shapes.
        """
        with silenced():  # MNN prints what goes wrong here, and returns an error code later
            for net in self._nets:
                self._resize(net, dict(shapes))

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        if not self._nets:
            raise InvariantError("a closed session was run", "mnn")
        if self._warm:
            return self._compute(inputs)
        self._warm = True
        with self._growth.measured():
            return self._compute(inputs)

    def _compute(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        held = {spec.name: _held(spec, inputs[spec.name]) for spec in self._signature.inputs}
        net = self._idle.get()
        try:
            self._resize(net, {name: array.shape for name, array in held.items()})
            outputs = net.compute(held)
        finally:
            self._idle.put(net)
        return {spec.name: _given_back(spec, outputs[spec.name]) for spec in self._signature.outputs}

    def _resize(self, net: _Net, shapes: dict[str, tuple[int, ...]]) -> None:
        if self._shapes.get(id(net)) != shapes:
            self._shapes.pop(id(net), None)
            net.resize(shapes)
            self._shapes[id(net)] = shapes

    def memory_bytes(self) -> int:
        return self._growth.size_bytes

    def close(self) -> None:
        self._nets = []
        self._idle = queue.LifoQueue()


class _SessionNet:
    """MNN's session interface: lean, and it lets other Python threads run meanwhile. No control flow."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        mnn = _runtime().mnn
        self._outputs = [spec.name for spec in signature.outputs]
        with silenced(), _refusals_explained(path):
            self._net = mnn.Interpreter(str(path))
            if path.with_suffix(".mnn.weight").exists():
                self._net.setExternalFile(str(path.with_suffix(".mnn.weight")))
            config = {"backend": "CPU", "precision": "high", "numThread": threads}
            self._session = self._net.createSession(config)
        self._inputs = self._net.getSessionInputAll(self._session)  # MNN drops those that nothing reads
        self._staged: dict[str, tuple[Any, np.ndarray[Any, Any]]] = {}

    def resize(self, shapes: Shapes) -> None:
        for name, tensor in self._inputs.items():
            self._net.resizeTensor(tensor, tuple(shapes[name]))
        self._net.resizeSession(self._session)
        self._staged = {n: self._stage(tuple(shapes[n]), t.getDataType()) for n, t in self._inputs.items()}

    def _stage(self, shape: tuple[int, ...], kind: Any) -> "tuple[Any, np.ndarray[Any, Any]]":
        """A tensor in plain order on the host, and a view of its memory that is good while it lives."""
        mnn = _runtime().mnn
        zeros = np.zeros(shape, _runtime().types[_key(kind)])
        tensor = mnn.Tensor(shape, kind, zeros, mnn.Tensor_DimensionType_Caffe)
        return tensor, tensor.getNumpyData().reshape(shape)

    def compute(self, inputs: Tensors) -> Tensors:
        for name, (tensor, view) in self._staged.items():
            np.copyto(view, inputs[name])
            self._inputs[name].copyFrom(tensor)
        code = self._net.runSession(self._session)
        if code != 0:
            raise BadModelError("mnn failed while running", f"error code {code}", "Try another engine.")
        return {name: self._fetch(name) for name in self._outputs}

    def _fetch(self, name: str) -> "np.ndarray[Any, Any]":
        output = self._net.getSessionOutput(self._session, name)
        tensor, view = self._stage(tuple(output.getShape()), output.getDataType())
        output.copyToHostTensor(tensor)
        return np.array(view)


class _ModuleNet:
    """MNN's module interface: it runs control flow, and holds Python's global lock while it does."""

    def __init__(self, path: Path, signature: Signature, threads: int) -> None:
        runtime = _runtime()
        self._inputs = [spec.name for spec in signature.inputs]
        self._outputs = [spec.name for spec in signature.outputs]
        high = 1  # BackendConfig::Precision_High
        config = {"backend": 0, "precision": high, "numThread": threads}
        with silenced(), _refusals_explained(path):
            self._manager = runtime.nn.create_runtime_manager((config,))
            if path.with_suffix(".mnn.weight").exists():
                self._manager.set_external(str(path.with_suffix(".mnn.weight")))
            self._module = runtime.nn.load_module_from_file(
                str(path), self._inputs, self._outputs, runtime_manager=self._manager
            )
        self._variables: dict[str, Any] = {}

    def resize(self, shapes: Shapes) -> None:
        self._variables.clear()

    def compute(self, inputs: Tensors) -> Tensors:
        for name in self._inputs:
            self._write(name, inputs[name])
        results = self._module.onForward([self._variables[name] for name in self._inputs])
        if len(results) != len(self._outputs):
            raise BadModelError("mnn failed while running", "it returned no outputs", "Try another engine.")
        return {n: np.array(v.read()) for n, v in zip(self._outputs, results, strict=True)}

    def _write(self, name: str, array: "np.ndarray[Any, Any]") -> None:
        expr = _runtime().expr
        if name not in self._variables:
            kind = {"float32": expr.float, "int32": expr.int, "uint8": expr.uint8}[array.dtype.name]
            self._variables[name] = expr.placeholder(list(array.shape), expr.NCHW, kind)
        self._variables[name].write(np.ascontiguousarray(array))


def _held(spec: TensorSpec, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The input as MNN holds it."""
    if array.dtype == np.int64 and array.size:
        if int(array.max()) > _NARROWED.max or int(array.min()) < _NARROWED.min:
            raise ShapeError(
                f"input {spec.name!r} holds values beyond 32 bits",
                "MNN computes whole numbers in 32 bits",
                "Use the engine onnxruntime.",
            )
    return array.astype(_HELD_AS[spec.dtype], copy=False)


def _given_back(spec: TensorSpec, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The output as the signature promises it.

    Raises:
        BadModelError: MNN computed another shape; it does so, without a word, where its converter errs.
    """
    if not spec.fits(array.shape):
        raise BadModelError(
            f"mnn computed {list(array.shape)} for {spec}",
            "its converter misread the model",
            "Try another engine.",
        )
    return array.astype(spec.dtype, copy=False)


def _refuse_types(signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype not in _HELD_AS:
            raise BadModelError(
                f"mnn cannot run {spec}", f"it knows {', '.join(_HELD_AS)}", "Use the engine onnxruntime."
            )


def _has_control_flow(model: Model) -> bool:
    return sum(1 for _ in model.program.graphs()) > 1


def _convert(model: Model, folder: Path) -> Path:
    """The model in MNN's own format; the weights lie beside it where they are large.

    Calls the converter that the package's `mnnconvert` command wraps: that command installs packages while it
    runs.

    Raises:
        UnsupportedOperatorError: operators that MNN cannot convert.
        BadModelError: the converter refuses the model.
    """
    source, target = folder / "model.onnx", folder / "model.mnn"
    large = weights.total_bytes(model.program) > _FILE_LIMIT_BYTES
    write_onnx(model, source, inline_functions=True, external_threshold_bytes=1024 if large else None)
    arguments = ["-f", "ONNX", "--modelFile", str(source), "--MNNModel", str(target), "--bizCode", "raceline"]
    with silenced() as heard:
        # Its return value is True whatever happens: what counts is the file.
        _runtime().tools.mnnconvert(["mnnconvert", *arguments, *(["--saveExternalData"] if large else [])])
    if not target.exists():
        raise _refusal(model, heard.text)
    return target


def _refusal(model: Model, printed: str) -> RacelineError:
    listing = _UNSUPPORTED.search(printed)
    if listing:
        missing = [name.strip().removeprefix("ONNX::") for name in listing[1].split("|")]
        return UnsupportedOperatorError(model.name, users(model, missing), "Try another engine.")
    errors = [
        line for line in printed.splitlines() if "ERROR" in line or "rror" in line or "Check failed" in line
    ]
    return BadModelError(f"mnn refuses {model.name}", " ".join(errors)[:500] or printed[-500:])


@contextmanager
def _refusals_explained(path: Path) -> Iterator[None]:
    """MNN raises plain Exception, and only that, where it cannot read its own format."""
    try:
        yield
    except Exception as error:  # noqa: BLE001  MNN has no class of its own
        if isinstance(error, RacelineError):
            raise
        raise BadModelError(f"mnn cannot load what it converted ({path.name})", str(error)) from error


@functools.cache
def _runtime() -> Any:
    """The package's parts, imported on first use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        with silenced():  # it prints the CPU's abilities
            tools = importlib.import_module("_tools")  # what the package's own commands call
            import MNN
            import MNN.expr
            import MNN.nn
    except ImportError as error:
        raise MissingDependencyError("engine mnn", "MNN", "pip install MNN") from error
    types = {_key(MNN.Halide_Type_Float): np.float32, _key(MNN.Halide_Type_Int): np.int32,
             _key(MNN.Halide_Type_Uint8): np.uint8}  # fmt: skip
    return SimpleNamespace(mnn=MNN, expr=MNN.expr, nn=MNN.nn, tools=tools, types=types)


def _key(kind: Any) -> str:
    return repr(kind)
