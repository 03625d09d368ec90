"""Write a trained, fake-quantised module down as QDQ."""

# No postponed annotations here: torch reads those of the operators below.
import copy
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from raceline.convert.exporting import quiet_torch
from raceline.convert.onnx_file import read_onnx
from raceline.convert.qat.fake import FakeQuantise
from raceline.convert.qat.kinds import Kinds
from raceline.convert.qat.layers import QuantisedLayer, apply
from raceline.convert.qat.tracing import FakeQuantised, layers_of, tensors_of
from raceline.convert.rewrite import optimise
from raceline.convert.versions import with_opset
from raceline.core.errors import BadModelError, MissingDependencyError
from raceline.ir import Model, with_batch_axis
from raceline.ir.notes import forget_notes
from raceline.ir.packed import OPSET as PACKED_OPSET
from raceline.ir.packed import packed
from raceline.ir.serialise import message_bytes

_OPSET = 18  # the exporter's own
_INSTALL = "pip install 'raceline[train]'"
_TIDYING = ("move_quantisation", "cancel_quantisation", "merge_common_subexpressions", "remove_dead_code")


@torch.library.custom_op("raceline_qat::quantised", mutates_args=())
def _quantised(x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    info = torch.iinfo(zero.dtype)
    whole = torch.round(x / step).add_(zero).clamp_(info.min, info.max)
    return whole.sub_(zero).mul_(step)


@_quantised.register_fake
def _quantised_shape(x: Tensor, step: Tensor, zero: Tensor) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("raceline_qat::dequantised", mutates_args=())
def _dequantised(small: Tensor, step: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    shape = [1] * small.ndim
    if step.ndim:
        shape[axis] = -1
    return small.to(torch.float32) * step.reshape(shape)


@_dequantised.register_fake
def _dequantised_shape(small: Tensor, step: Tensor, zero: Tensor | None, axis: int) -> Tensor:
    return torch.empty_like(small, dtype=torch.float32)


class _Quantise(nn.Module):
    """An activation to the grid and back, with settled numbers."""

    def __init__(self, quantiser: FakeQuantise) -> None:
        super().__init__()
        kind = getattr(torch, quantiser.scheme.activations)
        self.register_buffer("step", quantiser.step.detach().clone())
        self.register_buffer("zero", quantiser.zero_point.to(kind))

    def forward(self, x: Tensor) -> Any:
        return torch.ops.raceline_qat.quantised(x, self.step, self.zero)


class _Layer(nn.Module):
    """A layer whose weights are whole numbers.

    A convolution's bias stays in floating point and its zero points, all 0, are left out: a third of the bytes,
    and engines round the bias to the scale of the products as they load. For linear layers ONNX Runtime wants
    both written out.
    """

    def __init__(self, layer: QuantisedLayer, source: FakeQuantise | None) -> None:
        super().__init__()
        self.axis, self.inner = layer.axis or 0, layer.layer
        small, steps, bias = layer.whole(None if source is None else float(source.step.detach()))
        self.register_buffer("weight", small)
        self.register_buffer("weight_step", steps)
        self.register_buffer("bias", bias)
        self.register_buffer("bias_step", None)
        self.register_buffer("weight_zero", None)
        self.register_buffer("bias_zero", None)
        if isinstance(layer.layer, nn.Linear):
            self.weight_zero = torch.zeros_like(steps, dtype=torch.int8)
        if bias is not None and source is not None and isinstance(layer.layer, nn.Linear):
            self._round_bias(bias, (steps.double() * float(source.step.detach())).to(torch.float32))

    def _round_bias(self, bias: Tensor, products: Tensor) -> None:
        """A bias in 32 bits on the scale of the products it is added to."""
        self.bias, self.bias_step = torch.round(bias.double() / products.double()).to(torch.int32), products
        self.bias_zero = torch.zeros_like(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.raceline_qat.dequantised(
            self.weight, self.weight_step, self.weight_zero, self.axis
        )
        bias = self.bias
        if self.bias_step is not None:
            bias = torch.ops.raceline_qat.dequantised(bias, self.bias_step, self.bias_zero, 0)
        return apply(self.inner, x, weight, bias)


def frozen(module: FakeQuantised) -> fx.GraphModule:
    """A copy whose layers hold whole numbers; what it computes is what the exported model means."""
    made = copy.deepcopy(module.traced).eval()
    quantisers = {n: m for n, m in made.named_modules() if isinstance(m, FakeQuantise)}
    _repeat_where_moved(made)
    for name, layer in [(str(node.target), layer) for node, layer in layers_of(made)]:
        _put(made, name, _Layer(layer, quantisers.get(layer.source)))
    for name, quantiser in quantisers.items():
        _put(made, name, _Quantise(quantiser))
    for layer in made.modules():
        if isinstance(layer, _Layer):
            layer.inner.weight = layer.inner.bias = None  # the floats are not written
    made.recompile()
    return made


def _repeat_where_moved(made: fx.GraphModule) -> None:
    """Round again what was moved on its way to a layer, which changes nothing: engines look for it there."""
    kinds = Kinds(dict(made.named_modules()))
    for node, layer in layers_of(made):
        given = node.args[0]
        while kinds.keeps(given) and isinstance(given.args[0], fx.Node):
            given = given.args[0]
        if layer.source and str(given.target) != layer.source:
            with made.graph.inserting_before(node):
                node.replace_input_with(node.args[0], made.graph.call_module(layer.source, (node.args[0],)))
    made.recompile()


def _put(traced: fx.GraphModule, name: str, module: nn.Module) -> None:
    owner, _, last = name.rpartition(".")
    setattr(traced.get_submodule(owner), last, module)


def exported(
    module: FakeQuantised,
    *,
    name: str,
    batch_axis: str | None,
    pack: bool,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
) -> Model:
    """See `raceline.convert.qat.to_onnx`."""
    _check_finite(module)
    graph = frozen(module)
    with tempfile.TemporaryDirectory(prefix="raceline-export-") as folder:
        path = Path(folder) / f"{name}.onnx"
        _write(graph, module, path, (input_names, output_names), batch_axis)
        model = read_onnx(path)
        for value in model.program.graph.initializers.values():
            if value.const_value is not None:
                value.const_value.numpy()  # maps what lies beside the model while it is there
    provenance = replace(
        model.provenance, source=name, source_format="torch", producer=f"torch {torch.__version__}"
    )
    model, _ = optimise(replace(model, provenance=provenance), passes=_TIDYING)
    model = replace(model, provenance=provenance).with_step(_told(module))
    if pack and any(layer.bits <= 4 for layer in module.layers.values()):
        model = packed(with_opset(model, max(PACKED_OPSET, model.program.opset_imports[""])))
    return with_batch_axis(model, batch_axis) if batch_axis and _independent(module) else model


@torch.no_grad()
def _independent(module: FakeQuantised) -> bool:
    """Whether items answer alone as they do together, which makes axis 0 a batch.

    Shown before rounding, which treats every element alone: behind it, a sum in another order that falls on the
    other side of a step would look like a mixture.
    """
    plain = copy.deepcopy(module).eval()
    plain.set_mode("off", weights=False)
    generator = torch.Generator().manual_seed(0)
    two = []
    for x in module.example:
        other = x[:1]
        if x.is_floating_point():
            other = other + other.std(correction=0) * torch.randn(other.shape, generator=generator)
        else:
            other = other.flip(-1)
        two.append(torch.cat([x[:1], other]))
    together = tensors_of(plain(*two))
    alone = [tensors_of(plain(*(x[i : i + 1] for x in two))) for i in range(2)]
    if any(len(t) != 2 for t in together) or all(torch.equal(*pair) for pair in zip(*alone, strict=True)):
        return False
    rows = [torch.cat(pair) for pair in zip(*alone, strict=True)]
    return all(
        a.shape == b.shape and bool(torch.allclose(a, b, atol=1e-4 * float(a.abs().max()), rtol=1e-3))
        for a, b in zip(together, rows, strict=True)
    )


def _told(module: FakeQuantised) -> str:
    bits: dict[int, int] = {}
    for layer in module.layers.values():
        bits[layer.bits] = bits.get(layer.bits, 0) + 1
    listed = ", ".join(f"{count} with {width}-bit weights" for width, count in sorted(bits.items()))
    kept = f"; {len(module.refused)} stay in floating point" if module.refused else ""
    return (
        f"trained while quantised: {len(module.layers)} layers ({listed}), "
        f"{module.scheme.activations} activations{kept}"
    )


def _check_finite(module: FakeQuantised) -> None:
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise BadModelError(
                f"{name} is not finite", "training has diverged", "Train again with a lower learning rate."
            )


def _on_grid(x: Any, step: Any, zero: Any) -> Any:
    from onnxscript import opset18 as op

    return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)


def _off_grid(small: Any, step: Any, zero: Any, axis: int) -> Any:
    from onnxscript import opset18 as op

    return op.DequantizeLinear(small, step, zero, axis=axis)


def _write(
    graph: fx.GraphModule,
    module: FakeQuantised,
    path: Path,
    names: tuple[Sequence[str] | None, Sequence[str] | None],
    batch: str | None,
) -> None:
    try:
        import onnxscript  # noqa: F401  torch's exporter needs it and says so only by a traceback
    except ModuleNotFoundError as error:
        raise MissingDependencyError("exporting to ONNX", "onnxscript", _INSTALL) from error
    operators = torch.ops.raceline_qat
    table: Mapping[Any, Any] = {
        operators.quantised.default: _on_grid,
        operators.dequantised.default: _off_grid,
    }
    axis = None if batch is None else torch.export.Dim(batch)
    try:
        with quiet_torch():
            program = torch.onnx.export(
                graph,
                tuple(_of_two(x) if batch else x for x in module.example),
                dynamo=True,
                verbose=False,
                opset_version=_OPSET,
                custom_translation_table=table,
                input_names=names[0],
                output_names=names[1],
                dynamic_shapes=None if axis is None else tuple({0: axis} for _ in module.example),
            )
            proto = program.model_proto
            forget_notes(proto)  # half as many bytes as the weights
            path.write_bytes(message_bytes(proto, path.stem))
    except Exception as error:  # noqa: BLE001  torch's exporter raises what its many parts raise
        lines = str(error).splitlines()
        raise BadModelError(
            f"{path.stem} cannot be exported by torch", lines[0][:300] if lines else ""
        ) from error


def _of_two(x: Tensor) -> Tensor:
    """Two items: the exporter would take the sizes 0 and 1 for constants."""
    return torch.cat([x[:1], x[:1]])
