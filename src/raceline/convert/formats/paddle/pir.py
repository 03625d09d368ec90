"""Paddle 3's program file (inference.json): the same operations under newer names, in JSON.

They are brought into the form of older programs, for which the rules are written: each line of `_TABLE` gives
an operation's old name, the old parameters of its inputs and outputs in order, and settings that were renamed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from raceline.convert.files import refuse_growth
from raceline.convert.formats.paddle.program import DTYPES, Block, Operator, Program, Variable
from raceline.core.errors import BadModelError
from raceline.core.units import counted
from raceline.ir import Limits

_TABLE = """
add elementwise_add X Y > Out
subtract elementwise_sub X Y > Out
multiply elementwise_mul X Y > Out
divide elementwise_div X Y > Out
maximum elementwise_max X Y > Out
minimum elementwise_min X Y > Out
fmax elementwise_fmax X Y > Out
fmin elementwise_fmin X Y > Out
elementwise_pow elementwise_pow X Y > Out
remainder elementwise_mod X Y > Out
floor_divide elementwise_floordiv X Y > Out
equal|not_equal|less_than|less_equal|greater_than|greater_equal = X Y > Out
logical_and|logical_or|logical_xor|bitwise_and|bitwise_or|bitwise_xor = X Y > Out
logical_not|bitwise_not|abs|exp|log|log2|log10|log1p|expm1|sqrt|rsqrt|square|floor|ceil|trunc = X > Out
round|sin|cos|tan|asin|acos|atan|sinh|cosh|asinh|acosh|atanh|erf|reciprocal|sign|assign = X > Out
isnan isnan_v2 X > Out
isinf isinf_v2 X > Out
isfinite isfinite_v2 X > Out
relu|sigmoid|tanh|softsign|silu|swish|gelu|elu|celu|selu|softplus|logsigmoid|stanh = X > Out
relu6|thresholded_relu|tanh_shrink|softmax|log_softmax = X > Out
mish mish X > Out lambda=threshold
leaky_relu leaky_relu X > Out negative_slope=alpha
hardsigmoid hard_sigmoid X > Out
hardswish hard_swish X > Out
hardtanh brelu X > Out
hardshrink hard_shrink X > Out
softshrink softshrink X > Out threshold=lambda
maxout maxout X > Out
prelu prelu X Alpha > Out
scale scale X ScaleTensor > Out
pow pow X > Out y=factor
clip clip X Min Max > Out
add_n sum X > Out
increment increment X > Out value=step
sum reduce_sum X AxisTensor > Out keepdim=keep_dim dtype=out_dtype
mean reduce_mean X AxisTensor > Out axis=dim keepdim=keep_dim
max reduce_max X AxisTensor > Out keepdim=keep_dim
min reduce_min X AxisTensor > Out keepdim=keep_dim
amax reduce_amax X > Out axis=dim keepdim=keep_dim
amin reduce_amin X > Out axis=dim keepdim=keep_dim
prod reduce_prod X AxisTensor > Out keepdim=keep_dim
any reduce_any X > Out axis=dim keepdim=keep_dim
all reduce_all X > Out axis=dim keepdim=keep_dim
logsumexp logsumexp X > Out
p_norm p_norm X > Out
norm norm X > Out Norm
frobenius_norm frobenius_norm X AxisTensor > Out keepdim=keep_dim
cumsum cumsum X AxisTensor > Out
matmul matmul_v2 X Y > Out transpose_x=trans_x transpose_y=trans_y
bmm bmm X Y > Out
mv mv X Vec > Out
dot dot X Y > Out
addmm addmm Input X Y > Out alpha=Alpha beta=Beta
einsum einsum Operands > Out InnerCache XShape
conv2d|depthwise_conv2d|conv3d = Input Filter > Output
conv2d_transpose conv2d_transpose Input Filter OutputSizeTensor > Output
conv2d_transpose_bias conv2d_transpose Input Filter Bias OutputSizeTensor > Output
depthwise_conv2d_transpose depthwise_conv2d_transpose Input Filter OutputSizeTensor > Output
conv3d_transpose conv3d_transpose Input Filter > Output
pool2d pool2d X KernelSize > Out
pool3d pool3d X > Out kernel_size=ksize
max_pool2d_with_index max_pool2d_with_index X > Out Mask kernel_size=ksize
unfold unfold X > Y
deformable_conv deformable_conv Input Offset Filter Mask > Output
batch_norm batch_norm X Mean Variance Scale Bias > Y MeanOut VarianceOut SavedMean SavedVariance ReserveSpace \
data_format=data_layout
layer_norm layer_norm X Scale Bias > Y Mean Variance
instance_norm instance_norm X Scale Bias > Y SavedMean SavedVariance
group_norm group_norm X Scale Bias > Y Mean Variance data_format=data_layout
bilinear_interp bilinear_interp_v2 X OutSize SizeTensor Scale > Out data_format=data_layout
nearest_interp nearest_interp_v2 X OutSize SizeTensor Scale > Out data_format=data_layout
bicubic_interp bicubic_interp_v2 X OutSize SizeTensor Scale > Out data_format=data_layout
linear_interp linear_interp_v2 X OutSize SizeTensor Scale > Out data_format=data_layout
trilinear_interp trilinear_interp_v2 X OutSize SizeTensor Scale > Out data_format=data_layout
pad pad X PadValue > Out
pad3d pad3d X Paddings > Out pad_value=value
pixel_shuffle pixel_shuffle X > Out
channel_shuffle channel_shuffle X > Out
grid_sample grid_sampler X Grid > Output
embedding lookup_table_v2 Ids W > Out
dropout dropout X Seed DropoutProb > Out Mask p=dropout_prob mode=dropout_implementation
rnn rnn Input PreState WeightList SequenceLength Dropout > Out DropoutState State Reserve
reshape reshape2 X Shape > Out XShape
transpose transpose2 X > Out perm=axis
squeeze squeeze2 X AxesTensor > Out XShape
unsqueeze unsqueeze2 X AxesTensor > Out XShape
flatten flatten_contiguous_range X > Out XShape
slice slice Input StartsTensor EndsTensor > Out
strided_slice strided_slice Input StartsTensor EndsTensor StridesTensor > Out
set_value set_value Input StartsTensor EndsTensor StepsTensor > Out
set_value_with_tensor set_value Input ValueTensor StartsTensor EndsTensor StepsTensor > Out
concat concat X AxisTensor > Out
stack stack X > Y
split split X SectionsTensor AxisTensor > Out
split_with_num split X AxisTensor > Out
unstack unstack X > Y
unbind unbind X > Out
expand expand_v2 X Shape > Out
expand_as expand_as_v2 X Y > Out
tile tile X RepeatTimes > Out
broadcast_tensors broadcast_tensors X > Out
meshgrid meshgrid X > Out
roll roll X ShiftsTensor > Out
flip flip X > Out
shape shape Input > Out
shape64 shape Input > Out
numel size Input > Out
cast cast X > Out dtype=out_dtype
full fill_constant > Out
full_int_array assign_value > Out value=values
full_with_tensor fill_constant ValueTensor ShapeTensor > Out
full_like fill_any_like X ValueTensor > Out
assign_value assign_value Buffer > Out
arange range Start End Step > Out
tril tril_triu X > Out
triu tril_triu X > Out
one_hot one_hot_v2 X depth_tensor > Out
where where Condition X Y > Out
nonzero where_index Condition > Out
masked_select masked_select X Mask > Y
gather gather X Index Axis > Out
gather_nd gather_nd X Index > Out
index_select index_select X Index > Out axis=dim
index_sample index_sample X Index > Out
take_along_axis take_along_axis Input Index > Result axis=Axis
scatter scatter X Ids Updates > Out
scatter_nd_add scatter_nd_add X Index Updates > Out
argmax arg_max X AxisTensor > Out
argmin arg_min X AxisTensor > Out
topk top_k_v2 X K > Out Indices
argsort argsort X > Out Indices
yolo_box yolo_box X ImgSize > Boxes Scores
multiclass_nms3 multiclass_nms3 BBoxes Scores RoisNum > Out Index NmsRoisNum
matrix_nms matrix_nms BBoxes Scores > Out Index RoisNum
roi_align roi_align X ROIs RoisNum > Out
box_coder box_coder PriorBox PriorBoxVar TargetBox > OutputBox
quantize_linear quantize_linear X Scale ZeroPoint InAccum InState > Y OutState OutAccum OutScale
dequantize_linear dequantize_linear X Scale ZeroPoint InAccum InState > Y OutState OutAccum OutScale
""".replace("\\\n", "")
_NUMBERS = {dtype.name: number for number, dtype in DTYPES.items()}
_KINDS = {
    "t_bool": "bool", "t_ui8": "uint8", "t_i8": "int8", "t_i16": "int16", "t_i32": "int32", "t_i64": "int64",
    "t_f16": "float16", "t_bf16": "bfloat16", "t_f32": "float32", "t_f64": "float64",
}  # fmt: skip
_DEPTH = 8
_MARKS = (b'"base_code"', b'"pir"')
_AGAIN = "Export the model again."


@dataclass(frozen=True)
class _Entry:
    """How an operation was called before."""

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    renamed: Mapping[str, str]


def _entries() -> dict[str, _Entry]:
    found = {}
    for line in _TABLE.strip().splitlines():
        before, _, after = line.partition(" > ")
        names, op, *inputs = before.replace(" >", "").split()
        rest = after.split()
        outputs = tuple(word for word in rest if "=" not in word)
        renamed = dict(word.split("=") for word in rest if "=" in word)
        for name in names.split("|"):
            found[name] = _Entry(name if op == "=" else op, tuple(inputs), outputs, renamed)
    return found


_ENTRIES = _entries()


def looks_like_pir(path: Path) -> bool:
    """Whether a file begins as a program of Paddle 3 in JSON does."""
    try:
        with path.open("rb") as file:
            head = file.read(400)
    except OSError:
        return False
    return head[:1] == b"{" and all(mark in head for mark in _MARKS)


@dataclass
class _State:
    """What is known while operations are read one after another.

    Attributes:
        lists: value number -> numbers of what it holds, for values that are lists.
        names: value number -> name.
        absent: value numbers that stand for nothing: inputs left out, and memory that only training uses.
    """

    operators: list[Operator] = field(default_factory=list)
    variables: dict[str, Variable] = field(default_factory=dict)
    lists: dict[int, list[int]] = field(default_factory=dict)
    names: dict[int, str] = field(default_factory=dict)
    absent: set[int] = field(default_factory=lambda: {0})
    next_number: int = -1

    def name(self, number: int) -> str:
        """The name of a value."""
        return self.names.get(number, f"value_{number}")

    def spread(self, number: int) -> tuple[str, ...]:
        """The names that a value stands for: none where it is left out, several for a list."""
        if number in self.absent:
            return ()
        return tuple(self.name(item) for item in self.lists.get(number, [number]))

    def fresh(self) -> int:
        """A number for a value that the file has none for."""
        self.next_number -= 1
        return self.next_number


def parse(data: bytes, source: str, limits: Limits) -> Program:
    """The program in a file's bytes, in the form of older ones.

    Raises:
        BadModelError: it is damaged, has branches or loops, or is beyond the limits.
    """
    refuse_growth(len(data), source, limits)
    try:
        whole = json.loads(data)
        regions = whole["program"]["regions"]
        (block,) = regions[0]["blocks"]
        listed = block["ops"]
        if len(listed) > limits.max_nodes:
            raise BadModelError(
                f"{source} is too large",
                f"it has {counted(len(listed), 'node')}, over the limit of {limits.max_nodes}",
            )
        state = _State()
        for op in listed:
            _add(state, op)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as error:
        why = f"its JSON is no program: {type(error).__name__} {error}"
        raise BadModelError(f"{source} is damaged", why[:300], "Download or export it again.") from error
    return Program((Block(state.variables, tuple(state.operators)),))


def _add(state: _State, op: dict[str, Any]) -> None:
    kind = str(op["#"])
    if kind == "p":
        _add_parameter(state, op)
        return
    outputs = [_declare(state, item) for item in op["O"]]
    inputs = [int(item["%"]) for item in op["I"]]
    attributes = {str(item["N"]): _value(item["AT"]) for item in op["A"]}
    if kind == "0.combine":
        state.lists[outputs[0]] = inputs
    elif kind == "0.split":
        state.names |= {
            out: state.name(item) for out, item in zip(outputs, state.lists[inputs[0]], strict=True)
        }
    elif kind == "0.slice":
        state.names[outputs[0]] = state.name(state.lists[inputs[0]][int(attributes["index"])])
    elif kind == "1.data":
        name = str(attributes["name"])
        _rename(state, outputs[0], name)
        state.operators.append(Operator("feed", {}, {"Out": (name,)}, {"col": len(state.operators)}))
    elif kind == "1.fetch":
        _add_fetch(state, inputs[0], attributes)
    else:
        _add_operator(state, kind, inputs, outputs, attributes)


def _add_parameter(state: _State, op: dict[str, Any]) -> None:
    number = _declare(state, op["O"])
    name = op["A"][3]
    if not isinstance(name, str) or name in state.variables:
        raise ValueError(f"the parameter {str(name)[:100]!r}")
    _rename(state, number, name, persistable=bool(op["OA"][0]))
    if not op["OA"][0]:
        state.absent.add(number)


def _add_fetch(state: _State, number: int, attributes: Mapping[str, Any]) -> None:
    settings = {"col": int(attributes["col"]), "name": str(attributes["name"])}
    state.operators.append(Operator("fetch", {"X": (state.name(number),)}, {}, settings))


def _rename(state: _State, number: int, name: str, *, persistable: bool = False) -> None:
    old = state.variables.pop(state.name(number))
    state.names[number] = name
    state.variables[name] = Variable(name, old.dtype, old.shape, persistable)


def _declare(state: _State, item: dict[str, Any]) -> int:
    """Take note of a value's type, and of the values in it if it is a list."""
    number, kind = int(item["%"]), item.get("TT") or {}
    if number == 0:
        return 0
    if str(kind.get("#", "")).endswith(".t_vec"):
        parts = [state.fresh() for _ in kind["D"]]
        state.lists[number] = parts
        for part, own in zip(parts, kind["D"], strict=True):
            _declare(state, {"%": part, "TT": own})
    elif kind:
        element = _KINDS.get(str(kind["D"][0]["#"]).partition(".")[2])
        dtype = DTYPES[_NUMBERS[element]] if element else None
        shape = tuple(int(size) for size in kind["D"][1])
        name = state.name(number)
        state.variables[name] = Variable(name, dtype, shape, persistable=False)
    return number


def _add_operator(
    state: _State, kind: str, inputs: list[int], outputs: list[int], attributes: dict[str, Any]
) -> None:
    own = kind.partition(".")[2]
    entry = _ENTRIES.get(own) or _ENTRIES.get(own.removesuffix("_"))
    if entry is None or not kind.startswith("1.") or len(inputs) > len(entry.inputs):
        listed = {"X": tuple(name for number in inputs for name in state.spread(number))}
        written = {"Out": tuple(name for number in outputs for name in state.spread(number))}
        state.operators.append(Operator(f"pd_op.{own}" if kind[:2] == "1." else kind, listed, written, {}))
        return
    reads = {slot: state.spread(number) for slot, number in zip(entry.inputs, inputs, strict=False)}
    writes = {slot: state.spread(number) for slot, number in zip(entry.outputs, outputs, strict=False)}
    settings = {entry.renamed.get(name, name): value for name, value in attributes.items()}
    state.operators.append(Operator(entry.op, reads, writes, _completed(own, entry.op, settings)))


def _completed(own: str, op: str, settings: dict[str, Any]) -> dict[str, Any]:
    """Settings with what the older form says besides."""
    settings = {name: value for name, value in settings.items() if name not in {"place", "struct_name"}}
    if own == "full_int_array":
        settings["shape"] = [len(settings["values"])]
    if op == "tril_triu":
        settings["lower"] = own == "tril"
    if op in {"round", "grid_sampler"}:
        settings["half_to_even"] = True  # older versions take halves away from zero
    return settings


def _value(item: dict[str, Any], depth: int = 0) -> Any:
    """An attribute's value; element types as the numbers of older programs."""
    kind, data = str(item["#"]).partition(".")[2], item.get("D")
    if depth > _DEPTH:
        raise ValueError("an attribute is nested too deeply")
    if kind == "a_array":
        return [_value(part, depth + 1) for part in data or ()]
    if kind == "a_intarray":
        return [int(number) for number in data or ()]
    if kind == "a_dtype":
        return _NUMBERS.get(str(data), -1 if str(data).lower().startswith("undefined") else 10**6)
    if kind in {"a_f32", "a_f64"}:
        return float(item["D"] if "D" in item else str(item["VD"]))
    if kind in {"a_i32", "a_i64", "a_index"}:
        return int(data or 0)
    if kind == "a_bool":
        return bool(data)
    if kind in {"a_str", "a_place"}:
        return data
    return f"attribute of type {kind}"
