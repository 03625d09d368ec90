"""Convolutional nets and transformers on kernels of our own, planned for their shapes; the rest on ONNX Runtime.

Offered where it may win: nets whose time goes into convolutions, or into linear layers around attention. Where a
graph is quantised, these multiply 8-bit numbers, exactly on every CPU.
docs/decisions/0013, 0015 and 0016 say what was measured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from raceline import __version__, engines
from raceline.core.errors import BadModelError, ConfigError
from raceline.engines import Options, Tolerance
from raceline.ir.weights_only import restored

if TYPE_CHECKING:
    from raceline.engines.native.session import NativeSession
    from raceline.ir import Model

__all__ = ["assemble", "description", "load", "tolerance", "version"]

description = (
    "Raceline's own kernels for convolutional nets and transformers, ONNX Runtime for what is around them"
)
_PRECISIONS = ("fp32", "int8")
tolerance = Tolerance(atol=1e-5, rtol=1e-4)


def version() -> str:
    """Versions of both parts.

    Raises:
        MissingDependencyError: ONNX Runtime is not installed.
    """
    return f"{__version__} with onnxruntime {engines.load('onnxruntime').version()}"


def load(model: Model, options: Options) -> NativeSession:
    """Cut the model into nets of our kernels and what is left, and choose a way for each convolution.

    With `options.shapes` all of that is done now; else for each shape of the inputs when it is first run. Nets
    that ONNX Runtime was measured to run faster are left to it, be it all of them.

    Raises:
        BadModelError: the model has neither a convolution nor attention that our kernels take, so other engines
            are as fast; or it has branches or loops.
        UnsupportedOperatorError: ONNX Runtime lacks an operator of the rest.
        ConfigError: a precision that is not offered, or kernels that this CPU lacks.
    """
    _refuse_precision(options)
    if not _may_have_work(model):
        raise _nothing(model)
    from raceline.engines.native.segments import refuse_graphs_inside

    refuse_graphs_inside(model)
    session = assemble(model, options)
    if options.shapes and not session.has_steps():
        session.close()
        raise _nothing(model)
    return session


def assemble(model: Model, options: Options) -> NativeSession:
    """As `load`, whether or not the model has something for our kernels.

    Raises:
        UnsupportedOperatorError: ONNX Runtime lacks an operator of the rest.
        ConfigError: as `load`.
    """
    from raceline.engines.native.session import NativeSession

    _refuse_precision(options)
    return NativeSession(restored(model), options)


def _refuse_precision(options: Options) -> None:
    if options.arithmetic not in _PRECISIONS:
        raise ConfigError(
            f"native cannot run at {options.precision}",
            "its kernels compute in single precision, and in 8 bits where the graph says so",
        )


def _nothing(model: Model) -> BadModelError:
    return BadModelError(
        f"nothing here for the native kernels: {model.name} has no convolution and no attention "
        "of single precision that they take",
        next_step="Use the engine onnxruntime.",
    )


def _may_have_work(model: Model) -> bool:
    graphs = [model.program.graph, *model.program.functions.values()]
    kinds = {node.op_type for graph in graphs for node in graph}
    return "Conv" in kinds or {"Softmax", "MatMul"} <= kinds
