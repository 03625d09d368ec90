"""What a rule sees of one Paddle operation: inputs by parameter, attributes, and no setting overlooked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from raceline.convert.build import Builder
from raceline.convert.formats.paddle.program import DTYPES, Operator, Variable
from raceline.convert.lower import Rules, SourceNode, UnsupportedError

_MEANINGLESS = frozenset(
    """op_role op_role_var op_namescope op_callstack op_device op_struct_name with_quant_attr use_cudnn use_mkldnn
    use_onednn use_quantizer mkldnn_data_type mkldnn_cache_capacity is_test exhaustive_search
    workspace_size_MB force_fp32_output Scale_in Scale_out Scale_weights Scale_in_eltwise Scale_x Scale_y
    Scale_data fuse_alpha fuse_beta data_norm_type trainable_statistics use_global_stats
    fuse_relu_before_depthwise_conv rand_seed seed fix_seed is_sparse is_distributed remote_prefetch padding_seed
    use_addto name fuse_brelu_threshold deterministic dynamic_shape original_dtype quantization_type activation_bits
    weight_bits out_threshold in_threshold quant_bits enable_int8 skip_quant force_cpu place_type
    momentum
    stop_gradient is_target moving_rate""".split()
)
"""Settings of training, scheduling and other engines: whatever they say, the result is the same."""

Result = Any
Translate = Callable[[Builder, "Call"], Result]


class Absent:
    """Stands for an output that is not computed, as the mask of a dropout."""

    def __init__(self, owner: str) -> None:
        self.owner = owner


class Call:
    """One operation.

    Attributes:
        op: the operator's name.
        outputs: parameter -> how many it writes.
    """

    def __init__(self, node: SourceNode, values: Sequence[Any]) -> None:
        operator: Operator = node.attributes["operator"]
        rest = iter(values)
        self._inputs = {slot: [next(rest) for _ in names] for slot, names in operator.inputs.items()}
        self._attributes = operator.attributes
        self._read: set[str] = set()
        self.op = operator.type
        self.outputs = {slot: len(names) for slot, names in operator.outputs.items()}

    def all(self, slot: str) -> list[Any]:
        """All values of a parameter, none where it is left out.

        Raises:
            UnsupportedError: one is an output of training, which is not computed.
        """
        found = [value for value in self._inputs.get(slot, ()) if value is not None]
        for value in found:
            if isinstance(value, Absent):
                raise UnsupportedError(f"it reads an output of {value.owner} that only training computes")
        return found

    def maybe(self, slot: str) -> Any:
        """The value of a parameter; None where it is left out."""
        found = self.all(slot)
        if len(found) > 1:
            raise ValueError(f"{len(found)} values for {slot}")
        return found[0] if found else None

    def value(self, slot: str) -> Any:
        """The value of a parameter that must be there."""
        found = self.maybe(slot)
        if found is None:
            raise ValueError(f"the input {slot} is missing")
        return found

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute."""
        self._read.add(name)
        return self._attributes.get(name, default)

    def has(self, name: str, *slots: str) -> bool:
        """Whether an attribute is given, or any of these parameters."""
        return name in self._attributes or any(self.all(slot) for slot in slots)

    def flag(self, name: str, default: bool = False) -> bool:
        """An attribute that is true or false."""
        return bool(self.get(name, default))

    def integer(self, name: str, default: int) -> int:
        """An attribute that is a whole number."""
        return int(self.get(name, default))

    def integers(self, name: str, default: Sequence[int] = ()) -> list[int]:
        """An attribute that is a list of whole numbers; a single number counts as a list."""
        found = self.get(name, default)
        return [int(item) for item in (found if isinstance(found, list | tuple) else [found])]

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(self.get(name, default))

    def text(self, name: str, default: str, *known: str) -> str:
        """An attribute that is text.

        Raises:
            UnsupportedError: it is none of those known.
        """
        found = str(self.get(name, default)) or default
        if known and found not in known:
            raise UnsupportedError(f"{name}={found!r}")
        return found

    def dtype(self, name: str, default: int = -1) -> np.dtype[Any] | None:
        """An attribute that names an element type; None where it says "as the input".

        Raises:
            UnsupportedError: a type that no tensor here has.
        """
        number = self.integer(name, default)
        if number < 0:
            return None
        if number not in DTYPES:
            raise UnsupportedError(f"element type number {number}")
        kind: np.dtype[Any] = DTYPES[number]
        return kind

    def ignore(self, *names: str) -> None:
        """Attributes that change nothing for this operator."""
        self._read.update(names)

    def need(self, name: str, wanted: Any) -> None:
        """An attribute that must have this value, or be absent.

        Raises:
            UnsupportedError: it has another.
        """
        found = self.get(name, wanted)
        if found != wanted:
            raise UnsupportedError(f"{name}={found!r}")

    def refuse_unread(self) -> None:
        """Refuse the operation if a setting was overlooked that is neither off, zero nor empty."""
        if self._attributes.get("mkldnn_data_type") == "int8":
            raise UnsupportedError("8 bits inside oneDNN")
        for name, value in self._attributes.items():
            known = name in self._read or name in _MEANINGLESS or name.startswith(("Scale_", "op_", "__"))
            if not known and not _is_off(value):
                raise UnsupportedError(f"attribute {name}={str(value)[:80]}")

    def constant(self, b: Builder, slot: str) -> np.ndarray[Any, Any]:
        """An input whose elements must be known.

        Raises:
            UnsupportedError: the model computes it.
        """
        array = b.array(self.value(slot))
        if array is None:
            raise UnsupportedError(f"the input {slot} is computed by the model")
        return array

    def listed(self, b: Builder, name: str, tensor: str = "", tensors: str = "") -> list[int]:
        """Whole numbers from a tensor, a list of tensors or an attribute, in that order; they must be known.

        Raises:
            UnsupportedError: the model computes them.
        """
        array = b.array(self.vector(b, name, tensor, tensors))
        if array is None:
            raise UnsupportedError(f"{name} is computed by the model")
        return [int(item) for item in array]

    def vector(self, b: Builder, name: str, tensor: str = "", tensors: str = "") -> Any:
        """As `listed`, but as an int64 tensor with one axis, which the model may compute."""
        found = self.get(name, ())
        whole = self.maybe(tensor) if tensor else None
        if whole is not None:
            return b.reshape(b.cast(whole, np.int64), [-1])
        parts = self.all(tensors) if tensors else []
        if parts:
            return b.op("Concat", *(b.reshape(b.cast(part, np.int64), [1]) for part in parts), axis=0)
        numbers = found if isinstance(found, list | tuple) else [found]
        return b.constant(np.array([int(item) for item in numbers], np.int64))


def rule(table: Rules, *ops: str, out: str = "Out") -> Callable[[Translate], Translate]:
    """Enter the decorated function for these operators.

    It returns a value, or parameter -> value or values; `out` is the parameter of a single one. Parameters that
    it does not return hold what only training computes.
    """

    def enter(function: Translate) -> Translate:
        def translate(b: Builder, node: SourceNode, *values: Any) -> tuple[Any, ...]:
            call = Call(node, values)
            result = function(b, call)
            call.refuse_unread()
            slots = result if isinstance(result, Mapping) else {out: result}
            written = (
                item for slot, count in call.outputs.items() for item in _written(slots, slot, count, call.op)
            )
            declared = node.attributes["declared"]
            return tuple(_as_declared(b, item, var) for item, var in zip(written, declared, strict=True))

        table(*ops)(translate)
        return function

    return enter


def source_node(operator: Operator, number: int, variables: Mapping[str, Variable]) -> SourceNode:
    """An operation in the form that `lower` takes; inputs and outputs in order of their parameters."""
    inputs = tuple(name for names in operator.inputs.values() for name in names)
    outputs = tuple(name for names in operator.outputs.values() for name in names)
    name = outputs[0] if outputs else f"{operator.type}_{number}"
    declared = [variables.get(name) for name in outputs]
    return SourceNode(operator.type, name, inputs, outputs, {"operator": operator, "declared": declared})


def bounded(number: int, what: str, most: int = 100_000) -> int:
    """A size for which an array is made at once, as no real model exceeds it.

    Raises:
        UnsupportedError: it is larger, or not positive.
    """
    if not 0 < number <= most:
        raise UnsupportedError(f"{what} {number}")
    return number


def positive(axis: int, rank: int) -> int:
    """An axis counted from the front.

    Raises:
        ValueError: there is no such axis.
    """
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} of {rank}")
    return axis + rank if axis < 0 else axis


def _written(slots: Mapping[str, Any], slot: str, count: int, op: str) -> list[Any]:
    if slot not in slots:
        return [Absent(op)] * count
    found = slots[slot]
    items = list(found) if isinstance(found, list | tuple) else [found]
    if len(items) != count:
        raise ValueError(f"it declares {count} outputs {slot}, the operator has {len(items)}")
    return items


def _as_declared(b: Builder, item: Any, variable: Variable | None) -> Any:
    """A value with the integer type and the number of axes that the program declares.

    Sums of small integers are wider than these; and programs written before Paddle 2.5 have no scalars and
    spell them as [1].
    """
    if isinstance(item, Absent) or variable is None or variable.dtype is None or item.shape is None:
        return item
    if variable.dtype.kind == b.dtype(item).kind == "i":
        item = b.cast(item, variable.dtype)
    rank = len(variable.shape)
    if (item.shape.rank(), rank) == (0, 1):
        return b.reshape(item, [1])
    return b.reshape(item, []) if rank == 0 and b.shape(item) == (1,) else item


def _is_off(value: Any) -> bool:
    return not value or (isinstance(value, list | tuple) and not any(value))
