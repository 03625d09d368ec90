"""OpenVINO on its CPU plug-in."""

import functools
import importlib
import io
import queue
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from raceline.core.errors import (
    BadModelError,
    ConfigError,
    InvariantError,
    MissingDependencyError,
    ShapeError,
    UnsupportedOperatorError,
)
from raceline.core.process import Growth
from raceline.core.units import GIB
from raceline.engines import Options, Tensors, Tolerance, users
from raceline.ir import WEIGHTS_ONLY, Model, Signature, weights
from raceline.ir.packed import widened
from raceline.ir.serialise import to_proto, write_onnx
from raceline.ir.weights_only import for_products, restored

description = "OpenVINO, CPU plug-in"
tolerance = Tolerance(atol=1e-5, rtol=1e-4)

# A protobuf message ends at 2 GiB, and serialising holds the weights twice: above this, weights go by file.
_INLINE_LIMIT_BYTES = GIB
_HINTS = {"fp32": "f32", "int8": "f32", "bf16": "bf16"}  # 8 bits: where the graph says so
# The plug-in computes 64-bit floats in 32 bits and has no strings or bfloat16 arrays in its Python interface.
_REFUSED_TYPES = {"float64": "it computes them in 32 bits", "object": "it passes no strings",
                  "bfloat16": "its Python interface has no such type"}  # fmt: skip
_NARROWED = np.iinfo(np.int32)


def version() -> str:
    """Version of the openvino package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return str(_runtime().__version__)


def load(model: Model, options: Options) -> "_Session":
    """Compile the model for the CPU.

    OpenVINO has no switch that turns its optimisation off: `options.optimise` changes nothing.

    Raises:
        UnsupportedOperatorError: operators that OpenVINO cannot convert.
        BadModelError: OpenVINO refuses the model, or would compute it in a lower precision.
        ConfigError: a precision that this engine does not offer.
    """
    _check_precision(options.arithmetic)
    _refuse_types(model.signature)
    _core()  # whose own memory is not the session's
    growth = Growth()
    with growth.measured(), _refusals_explained(model):
        network = _read(widened(restored(model, for_products if options.precision in WEIGHTS_ONLY else None)))
        if options.shapes:
            names = _input_names(network, model.signature)
            network.reshape({i: list(options.shapes[name]) for i, name in enumerate(names)})
        compiled = _core().compile_model(network, "CPU", _settings(options))
    return _Session(model.signature, compiled, options.streams, growth)


class _Session:
    """One compiled model and a pool of requests, one for each stream; a call takes one and brings it back."""

    def __init__(self, signature: Signature, compiled: Any, streams: int, growth: Growth) -> None:
        self._compiled = compiled
        self._inputs = _input_names(compiled, signature)  # OpenVINO drops those that nothing reads
        self._outputs = [spec.name for spec in signature.outputs]
        self._growth = growth
        self._warm = False
        self._idle: queue.LifoQueue[Any] = queue.LifoQueue()
        for _ in range(streams):
            self._idle.put(compiled.create_infer_request())

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        if self._compiled is None:
            raise InvariantError("a closed session was run", "openvino")
        if self._warm:
            return self._compute(inputs)
        self._warm = True
        with self._growth.measured():
            return self._compute(inputs)

    def _compute(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        given = [_passable(name, inputs[name]) for name in self._inputs]
        request = self._idle.get()
        try:
            for place, array in enumerate(given):
                request.set_input_tensor(place, _tensor(array))
            request.infer({}, share_outputs=True)
            # The request's buffers are overwritten by the next call: the caller gets copies.
            return {n: np.array(request.get_output_tensor(i).data) for i, n in enumerate(self._outputs)}
        except RuntimeError as error:
            raise ShapeError("openvino refused the inputs", _reason(str(error))) from error
        finally:
            self._idle.put(request)

    def memory_bytes(self) -> int:
        return self._growth.size_bytes

    def close(self) -> None:
        self._compiled = None
        self._idle = queue.LifoQueue()


def _passable(name: str, array: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The array as OpenVINO can take it: contiguous, and whole numbers of 64 bits within 32."""
    if array.dtype == np.int64 and array.size:
        if int(array.max()) > _NARROWED.max or int(array.min()) < _NARROWED.min:
            raise ShapeError(
                f"input {name!r} holds values beyond 32 bits",
                "OpenVINO computes whole numbers in 32 bits",
                "Use the engine onnxruntime.",
            )
    return np.require(array, requirements="C")  # ascontiguousarray would turn a scalar into a vector


def _tensor(array: "np.ndarray[Any, Any]") -> Any:
    """The array as a tensor without a copy, where its memory may be written."""
    return _runtime().Tensor(array, shared_memory=array.flags.writeable)


@functools.cache
def _runtime() -> Any:
    """The package, imported on first use, without its telemetry.

    Raises:
        MissingDependencyError: it is not installed.
    """
    # `import openvino` alone sends an event to a server on the internet and writes into the home folder.
    # With the telemetry package out of reach it falls back on its own stub.
    reachable = "openvino_telemetry" not in sys.modules
    if reachable:
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # how Python spells "not there"
    try:
        return importlib.import_module("openvino")
    except ImportError as error:
        raise MissingDependencyError("engine openvino", "openvino", "pip install openvino") from error
    finally:
        if reachable:
            del sys.modules["openvino_telemetry"]


@functools.cache
def _core() -> Any:
    """The one Core of this process: plug-ins and thread pools are shared."""
    core = _runtime().Core()
    core.get_property("CPU", "FULL_DEVICE_NAME")  # loads the plug-in now
    return core


def _check_precision(precision: str) -> None:
    """Refuse what the plug-in does not compute in on this CPU.

    Raises:
        ConfigError: it does not.
    """
    if precision not in _HINTS:
        raise ConfigError(f"openvino cannot run at {precision}", f"{', '.join(_HINTS)} are offered")
    if precision == "bf16" and "BF16" not in _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ConfigError("openvino cannot run at bf16 here", "this CPU has no instructions for it")


def _settings(options: Options) -> dict[str, Any]:
    return {
        # Without these two, CPUs with AMX or AVX-512 BF16 silently compute in bfloat16.
        "INFERENCE_PRECISION_HINT": _HINTS[options.arithmetic],
        "EXECUTION_MODE_HINT": "ACCURACY",
        "INFERENCE_NUM_THREADS": options.threads * options.streams,
        "NUM_STREAMS": options.streams,
        # Pinned threads of two models, or of a model and a server, end up on the same core.
        "ENABLE_CPU_PINNING": options.pinned,
        # `threads` counts logical CPUs; without this OpenVINO uses one thread a physical core at most.
        "ENABLE_HYPER_THREADING": True,
    }


def _read(model: Model) -> Any:
    """OpenVINO's form of the model, by way of memory, or of a file that it maps where weights are large."""
    if weights.total_bytes(model.program) <= _INLINE_LIMIT_BYTES:
        return _core().read_model(io.BytesIO(to_proto(model).SerializeToString()))
    with tempfile.TemporaryDirectory(prefix="raceline-") as folder:
        path = Path(folder) / "model.onnx"
        write_onnx(model, path, inline_functions=True, external_threshold_bytes=1024)
        return _core().read_model(path)


def _input_names(network: Any, signature: Signature) -> list[str]:
    """The signature's name of each input, in OpenVINO's order.

    Where an output is only a copy of an input, OpenVINO gives both the output's name; its place tells then.
    """
    known = [spec.name for spec in signature.inputs]
    names = []
    for place, port in enumerate(network.inputs):
        found = [str(name) for name in port.get_names() if name in known]
        if not found and len(network.inputs) != len(known):
            raise BadModelError("openvino lost an input's name", next_step="Try another engine.")
        names.append(found[0] if found else known[place])
    return names


def _refuse_types(signature: Signature) -> None:
    for spec in (*signature.inputs, *signature.outputs):
        if spec.dtype in _REFUSED_TYPES:
            raise BadModelError(
                f"openvino cannot run {spec}", _REFUSED_TYPES[spec.dtype], "Use the engine onnxruntime."
            )


@contextmanager
def _refusals_explained(model: Model) -> Iterator[None]:
    """Turn OpenVINO's one exception type into ours; it lists all operators it cannot convert."""
    try:
        yield
    except RuntimeError as error:
        listing = re.search(r"No conversion rule found for operations: (.*)", str(error))
        if listing:
            missing = [name.strip() for name in listing[1].split(",")]
            raise UnsupportedOperatorError(
                model.name, users(model, missing), "Try another engine."
            ) from error
        raise BadModelError(f"openvino refuses {model.name}", _reason(str(error))) from error


def _reason(message: str) -> str:
    """The telling lines of OpenVINO's message: without source locations and empty lines."""
    lines = [line.strip() for line in message.splitlines()]
    told = [x for x in lines if x and not re.match(r"(Exception from|Check '|FrontEnd API|Summary:)", x)]
    return " ".join(told)[:500] or message[:500]
