"""ONNX Runtime on its CPU provider."""

import contextlib
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

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
from raceline.core.process import Growth
from raceline.engines import Options, Tensors, Tolerance
from raceline.engines._few_bits import with_products
from raceline.engines._pinning import own_cores
from raceline.ir import WEIGHTS_ONLY, Model, weights
from raceline.ir.packed import widened
from raceline.ir.serialise import IR_VERSION_CAP, inlined, to_proto
from raceline.ir.weights_only import for_products, restored

description = "ONNX Runtime, CPU provider"
tolerance = Tolerance(atol=1e-5, rtol=1e-4)

_NOWHERE = "held in memory"  # where initializers claim to be; never opened
# Where shapes are fixed it makes Gemm of MatMul and Add before bytes are looked for: on MiniLM 30 products then
# compute in floats, and a call takes 3.4 times as long.
_AGAINST_BYTES = ["MatMulAddFusion"]
_SMALL_BYTES = 1024  # shapes, axes, scalars: the runtime reads them while it optimises
_PRECISIONS = ("fp32", "int8")  # of the graph: it rounds where QuantizeLinear says so, and nowhere else
_MISSING_KERNEL = re.compile(r"Could not find an implementation for (\S+?)\(\d+\) node with name '([^']*)'")


def version() -> str:
    """Version of the onnxruntime package.

    Raises:
        MissingDependencyError: it is not installed.
    """
    return str(_runtime().__version__)


def load(model: Model, options: Options) -> "_Session":
    """Build an inference session.

    Raises:
        UnsupportedOperatorError: operators without a CPU kernel.
        BadModelError: the runtime refuses the model.
        ConfigError: a precision that this engine does not offer, or more pinned threads than cores.
    """
    if options.arithmetic not in _PRECISIONS:
        raise ConfigError(f"onnxruntime cannot run at {options.precision}", "it computes as the graph says")
    _refuse_bfloat16(model)
    _runtime()  # whose own memory is not the session's
    growth = Growth()
    with growth.measured(), own_cores(options):
        session, held = _open_fixed(model, options)
    return _Session(session, held, growth)


class _Session:
    """One InferenceSession. Its `run` is thread-safe, and what it returns is fresh memory each time."""

    def __init__(self, session: Any, held: list[Any], growth: Growth) -> None:
        self._session = session
        self._held = held  # the weights that the runtime uses in place
        self._outputs = [output.name for output in session.get_outputs()]
        self._growth = growth
        self._warm = False

    def run(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        if self._session is None:
            raise InvariantError("a closed session was run", "onnxruntime")
        if self._warm:
            return self._compute(inputs)
        self._warm = True
        with self._growth.measured():
            return self._compute(inputs)

    def _compute(self, inputs: Mapping[str, "np.ndarray[Any, Any]"]) -> Tensors:
        with _errors_explained(None):
            arrays = self._session.run(self._outputs, dict(inputs))
        return dict(zip(self._outputs, arrays, strict=True))

    def memory_bytes(self) -> int:
        return self._growth.size_bytes

    def close(self) -> None:
        self._session = None
        self._held = []


def _runtime() -> Any:
    """The package, imported on first use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "engine onnxruntime", "onnxruntime", "pip install onnxruntime"
        ) from error
    return onnxruntime


def _settings(options: Options) -> Any:
    """Session options: one pool that serves `streams` calls of `threads` threads each."""
    runtime = _runtime()
    settings = runtime.SessionOptions()
    # Each caller works too, so the pool holds the caller and the helpers of every stream.
    settings.intra_op_num_threads = options.streams * (options.threads - 1) + 1
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4  # what matters arrives as an exception
    # Helpers that spin between operators save 5 to 17 % of a call on two threads, and helpers that spin on
    # after it steal the time of whatever runs next.
    settings.add_session_config_entry("session.force_spinning_stop", "1")
    if not options.optimise:
        settings.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return settings


def _open_fixed(model: Model, options: Options) -> tuple[Any, list[Any]]:
    """A session for the shapes that were promised, or for any where none were."""
    if options.shapes:
        # Inference with fixed shapes also visits branches that are never taken with them, and fails there.
        with contextlib.suppress(BadModelError), _errors_explained(model):
            return _open(_fixed(model, options), options)
    with _errors_explained(model):
        return _open(model, options)


def _fixed(model: Model, options: Options) -> Model:
    """The model with the inputs' shapes written in."""
    import onnx_ir

    fixed = model.clone()
    for value in fixed.program.graph.inputs:
        value.shape = onnx_ir.Shape(options.shapes[value.name or ""])
    return fixed


def _open(model: Model, options: Options) -> tuple[Any, list[Any]]:
    """The runtime's session over the model's own weights, which are neither serialised nor copied, and those.

    That halves the time and the memory of loading, and knows no limit of 2 GiB. What the runtime packs for
    its kernels is a copy still.
    """
    import onnx_ir

    keep = for_products if options.precision in WEIGHTS_ONLY else None
    program, settings = inlined(widened(restored(model, keep), keep).program), _settings(options)
    if keep is not None:
        with_products(program)
    program.ir_version = min(program.ir_version, IR_VERSION_CAP)
    held = {}
    for value, tensor in list(weights.initializers(program)):
        if not value.uses() and not value.is_graph_output() and value.graph is not None:
            del value.graph.initializers[str(value.name)]  # the runtime drops it, and then misses it
        elif value.graph is program.graph and _can_be_held(tensor):
            held[value.name] = _runtime().OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy()))
            shape = onnx_ir.Shape(tensor.shape.numpy())
            value.const_value = onnx_ir.ExternalTensor(
                _NOWHERE, 0, tensor.nbytes, tensor.dtype, shape=shape, name=value.name or ""
            )
        elif isinstance(tensor, onnx_ir.ExternalTensor):  # the runtime does not know its folder
            value.const_value = onnx_ir.Tensor(tensor.numpy(), dtype=tensor.dtype, name=tensor.name)
    settings.add_external_initializers(list(held), list(held.values()))
    data = onnx_ir.serde.serialize_model(program).SerializeToString()
    rounds = any(node.op_type == "QuantizeLinear" for node in program.graph)
    session = _runtime().InferenceSession(
        data,
        settings,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=_AGAINST_BYTES if rounds else None,
    )
    return session, [*held.values()]


def _can_be_held(tensor: Any) -> bool:
    """Whether the runtime can use the tensor's array: not strings, nor types that NumPy itself lacks."""
    array_type = tensor.dtype.numpy()
    return tensor.nbytes > _SMALL_BYTES and array_type.kind in "fiub" and array_type.isbuiltin == 1


def _refuse_bfloat16(model: Model) -> None:
    signature = model.signature
    named = [spec.name for spec in (*signature.inputs, *signature.outputs) if spec.dtype == "bfloat16"]
    if named:
        raise BadModelError(
            f"onnxruntime cannot pass bfloat16 arrays ({', '.join(named)})",
            "its Python interface has no such type",
            "Cast them to float32 at the model's edge.",
        )


@contextmanager
def _errors_explained(model: Model | None) -> Iterator[None]:
    """Turn the runtime's exceptions into ours; `model` is given while loading."""
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    # InvalidArgument is the only one that a caller's tensors can cause.
    refused = (states.Fail, states.InvalidGraph, states.InvalidProtobuf, states.NotImplemented,
               states.RuntimeException, states.EPFail, states.NoSuchFile, states.NoModel,
               states.NotFound, states.EngineError, RuntimeError)  # fmt: skip
    try:
        yield
    except states.InvalidArgument as error:
        raise (ShapeError if model is None else BadModelError)("onnxruntime refused", str(error)) from error
    except refused as error:
        raise _explained(str(error), model) from error


def _explained(message: str, model: Model | None) -> RacelineError:
    if model is None:
        return BadModelError("onnxruntime failed while running", message)
    missing = _missing_kernels(model) if "NOT_IMPLEMENTED" in message else {}
    for operator, node in _MISSING_KERNEL.findall(message):
        missing.setdefault(operator, [node])  # lacks only this combination of types
    if missing:
        return UnsupportedOperatorError(model.name, missing, "Try another engine.")
    return BadModelError(f"onnxruntime refuses {model.name}", message)


def _missing_kernels(model: Model) -> dict[str, list[str]]:
    """Operators without a CPU kernel and without a function body; the runtime itself names only the first."""
    import onnx
    from onnxruntime.capi import onnxruntime_pybind11_state as states

    kernels = {(kernel.domain, kernel.op_name) for kernel in states.get_all_opkernel_def()}
    missing: dict[str, list[str]] = {}
    for node in to_proto(model).graph.node:
        domain = "" if node.domain == "ai.onnx" else node.domain
        known = onnx.defs.has(node.op_type, domain) and onnx.defs.get_schema(node.op_type, domain=domain)
        if (domain, node.op_type) not in kernels and not (known and known.has_function):
            missing.setdefault(node.op_type, []).append(node.name or node.output[0])
    return missing
