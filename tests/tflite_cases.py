"""Small TensorFlow Lite models, one operator each with many settings; what LiteRT computes is in the fixtures."""

from dataclasses import dataclass, field

import numpy as np

from raceline.convert.formats.tflite.write import GraphSpec, OperatorSpec, TensorSpec, written


@dataclass(frozen=True)
class V:
    """An input that is fed: uniform numbers from low to high."""

    shape: tuple
    dtype: str = "float32"
    low: float = -2.0
    high: float = 2.0
    scale: tuple = ()
    zero: tuple = ()


@dataclass(frozen=True)
class K:
    """A constant."""

    data: object
    dtype: str = "float32"
    scale: tuple = ()
    zero: tuple = ()
    axis: int = 0


@dataclass(frozen=True)
class S:
    """State that the interpreter keeps; zeros at first."""

    shape: tuple


@dataclass(frozen=True)
class Case:
    name: str
    op: str
    operands: tuple
    options: tuple | None = None
    outputs: tuple = ("float32",)
    steps: int = 1  # of the output's scale, within which quantised results may differ
    custom: bytes = b""
    shape: tuple | None = None  # of the outputs, where the reader needs it from the file
    graphs: tuple = field(default=())

    def model(self):
        tensors, names, fed = {}, [], []
        for place, operand in enumerate(self.operands):
            name = f"x{place}" if operand is not None else ""
            names.append(name)
            if operand is None:
                continue
            if isinstance(operand, V):
                fed.append(name)
                spec = TensorSpec(operand.dtype, operand.shape, None, operand.scale, operand.zero)
            elif isinstance(operand, S):
                spec = TensorSpec("float32", operand.shape, variable=True)
            else:
                data = np.asarray(operand.data, operand.dtype)
                spec = TensorSpec(operand.dtype, data.shape, data, operand.scale, operand.zero, operand.axis)
            tensors[name] = spec
        outputs = []
        for place, kind in enumerate(self.outputs):
            dtype, scale, zero = kind if isinstance(kind, tuple) else (kind, (), ())
            tensors[f"y{place}"] = TensorSpec(dtype, self.shape, None, scale, zero)
            outputs.append(f"y{place}")
        main = GraphSpec(
            tensors, [OperatorSpec(self.op, names, outputs, self.options, self.custom)], fed, outputs
        )
        return written(main, *self.graphs)

    def feeds(self, seed=0):
        rng = np.random.default_rng(seed)
        result = {}
        for place, v in enumerate(self.operands):
            if isinstance(v, V):
                if v.dtype == "bool":
                    result[f"x{place}"] = rng.integers(0, 2, v.shape).astype(bool)
                elif v.dtype == "float32":
                    result[f"x{place}"] = rng.uniform(v.low, v.high, v.shape).astype("float32")
                else:
                    result[f"x{place}"] = rng.integers(
                        int(v.low), int(v.high), v.shape, endpoint=True
                    ).astype(v.dtype)
        return result


# One line a case reads as a table.
# fmt: off
# ruff: noqa: E501
CASES: list[Case] = []


def case(op, *operands, opt=None, name="", out="float32", steps=1, custom=b"", shape=None, graphs=()):
    outputs = tuple(out) if isinstance(out, list) else (out,)
    number = sum(c.op == op for c in CASES)
    title = f"{op.replace(' ', '_')}{'-' + name if name else ''}-{number}"
    CASES.append(Case(title, op, operands, opt, outputs, steps, custom, shape, graphs))


def weights(shape, seed=1, dtype="float32"):
    rng = np.random.default_rng(seed)
    if dtype == "float32":
        return rng.uniform(-1, 1, shape).astype(dtype)
    return rng.integers(np.iinfo(dtype).min // 2, np.iinfo(dtype).max // 2, shape).astype(dtype)


# --- element-wise
POSITIVE = {"LOG", "RSQRT", "SQRT"}
for op in "ABS CEIL COS EXP FLOOR LOG LOGISTIC NEG ROUND RSQRT SIN SQRT TANH ELU HARD_SWISH SQUARE RELU RELU6 \
RELU_N1_TO_1 RELU_0_TO_1 SIGN".split():
    opt = {"ABS": "AbsOptions", "COS": "CosOptions", "EXP": "ExpOptions", "NEG": "NegOptions", "HARD_SWISH": "HardSwishOptions",
           "SQUARE": "SquareOptions", "SIGN": "SignOptions"}.get(op)
    low = 0.1 if op in POSITIVE else -8.0
    case(op, V((2, 3, 4), low=low, high=8.0), opt=(opt, {}) if opt else None)
case("ROUND", K([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), name="halves")
case("ABS", V((2, 3), "int32", -9, 9), opt=("AbsOptions", {}), out="int32")
case("NEG", V((2, 3), "int32", -9, 9), opt=("NegOptions", {}), out="int32")
case("LOGICAL_NOT", V((5,), "bool"), opt=("LogicalNotOptions", {}), out="bool")
for op, opt in (("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions"), ("DIV", "DivOptions")):
    for code in (0, 1, 2, 3):
        case(op, V((2, 3, 4)), V((3, 1), low=0.3), opt=(opt, {"fused_activation_function": code}), name=f"act{code}")
    if op != "DIV":
        case(op, V((2, 3), "int32", -9, 9), V((3,), "int32", -9, 9), opt=(opt, {}), out="int32")
case("DIV", V((2, 3), "int32", -9, 9), V((3,), "int32", 1, 4), opt=("DivOptions", {}), out="int32")
case("DIV", V((2, 3), "int32", -9, -2), V((3,), "int32", 2, 4), opt=("DivOptions", {}), out="int32", name="negative")
for op in ("FLOOR_DIV", "FLOOR_MOD"):
    opt = ("FloorDivOptions" if op == "FLOOR_DIV" else "FloorModOptions", {})
    case(op, V((20,), "int32", -9, 9), V((20,), "int32", 1, 5), opt=opt, out="int32")
    case(op, V((20,), "int32", -9, 9), V((20,), "int32", -5, -1), opt=opt, out="int32")
    case(op, V((20,), low=-9, high=9), V((20,), low=0.5, high=5), opt=opt)
    case(op, V((20,), low=-9, high=9), V((20,), low=-5, high=-0.5), opt=opt)
case("POW", V((2, 3), low=0.1, high=3), V((3,), low=-2, high=2), opt=("PowOptions", {}))
case("POW", V((2, 3), "int32", -4, 4), V((3,), "int32", 0, 3), opt=("PowOptions", {}), out="int32")
for op in ("MAXIMUM", "MINIMUM"):
    case(op, V((2, 3, 4)), V((4,)), opt=("MaximumMinimumOptions", {}))
    case(op, V((2, 3), "int32", -9, 9), V((3,), "int32", -9, 9), opt=("MaximumMinimumOptions", {}), out="int32")
case("SQUARED_DIFFERENCE", V((2, 3)), V((3,)), opt=("SquaredDifferenceOptions", {}))
case("ATAN2", V((50,), low=-3, high=3), V((50,), low=-3, high=3), opt=("ATan2Options", {}))
case("ATAN2", K([0.0, 1, -1, 0, 0, 2]), K([1.0, 0, 0, -1, 0, -2]), opt=("ATan2Options", {}), name="axes")
for op, kind in (("EQUAL", "Equal"), ("NOT_EQUAL", "NotEqual"), ("GREATER", "Greater"), ("GREATER_EQUAL", "GreaterEqual"),
                 ("LESS", "Less"), ("LESS_EQUAL", "LessEqual")):
    case(op, V((4, 5), "int32", 0, 2), V((5,), "int32", 0, 2), opt=(f"{kind}Options", {}), out="bool")
    case(op, V((4, 5)), V((4, 1)), opt=(f"{kind}Options", {}), out="bool")
case("EQUAL", V((9,), "bool"), V((9,), "bool"), opt=("EqualOptions", {}), out="bool")
case("LOGICAL_AND", V((9,), "bool"), V((9,), "bool"), opt=("LogicalAndOptions", {}), out="bool")
case("LOGICAL_OR", V((9,), "bool"), V((9,), "bool"), opt=("LogicalOrOptions", {}), out="bool")
case("BITWISE_XOR", V((9,), "int32", -99, 99), V((9,), "int32", -99, 99), opt=("BitwiseXorOptions", {}), out="int32")
case("RIGHT_SHIFT", V((20,), "int32", -99, 99), V((20,), "int32", 0, 6), opt=("RightShiftOptions", {}), out="int32")
case("RIGHT_SHIFT", V((20,), "uint8", 0, 255), V((20,), "uint8", 0, 7), opt=("RightShiftOptions", {}), out="uint8")
for approximate in (False, True):
    case("GELU", V((4, 5), low=-4, high=4), opt=("GeluOptions", {"approximate": approximate}))
case("LEAKY_RELU", V((4, 5)), opt=("LeakyReluOptions", {"alpha": 0.3}))
case("PRELU", V((2, 3, 4, 5)), K(weights((1, 1, 5))))
case("PRELU", V((2, 3, 4, 5)), K(weights((3, 4, 5))), name="full")
case("ADD_N", V((2, 3)), V((2, 3)), V((2, 3)), opt=("AddNOptions", {}))
case("ZEROS_LIKE", V((2, 3)), opt=("ZerosLikeOptions", {}))
case("SELECT", V((3,), "bool"), V((3, 4)), V((3, 4)), opt=("SelectOptions", {}), name="rows")
case("SELECT", V((3, 4), "bool"), V((3, 4)), V((3, 4)), opt=("SelectOptions", {}))
case("SELECT_V2", V((3, 1), "bool"), V((3, 4)), V((4,)), opt=("SelectV2Options", {}))
for beta in (1.0, 0.5):
    case("SOFTMAX", V((2, 3, 4)), opt=("SoftmaxOptions", {"beta": beta}))
case("LOG_SOFTMAX", V((3, 4)), opt=("LogSoftmaxOptions", {}))
case("L2_NORMALIZATION", V((2, 3, 4)), opt=("L2NormOptions", {}))
case("LOCAL_RESPONSE_NORMALIZATION", V((1, 3, 3, 8)),
     opt=("LocalResponseNormalizationOptions", {"radius": 2, "bias": 1.5, "alpha": 0.3, "beta": 0.7}))
case("FAKE_QUANT", V((40,), low=-3, high=3), opt=("FakeQuantOptions", {"min": -1.3, "max": 2.1, "num_bits": 4}))
for exclusive in (False, True):
    for reverse in (False, True):
        case("CUMSUM", V((2, 5)), K(1, "int32"), opt=("CumsumOptions", {"exclusive": exclusive, "reverse": reverse}))
case("BUCKETIZE", V((3, 7), low=-2, high=12), opt=("BucketizeOptions", {"boundaries": [0.0, 1.5, 10.0]}), out="int32")
for before, after in (("float32", "int32"), ("int32", "float32"), ("float32", "bool"), ("bool", "float32"), ("int32", "int64"), ("int32", "uint8")):
    kind = V((4, 5), before, *((0, 9) if before == "int32" else (-9, 9)))
    case("CAST", kind, opt=("CastOptions", {}), out=after, name=f"{before}-{after}")

# --- shapes
case("RESHAPE", V((2, 3, 4)), K([4, -1], "int32"), opt=("ReshapeOptions", {"new_shape": [4, -1]}))
case("RESHAPE", V((2, 3, 4)), opt=("ReshapeOptions", {"new_shape": [6, 4]}), name="option")
case("SQUEEZE", V((1, 3, 1, 4)), opt=("SqueezeOptions", {"squeeze_dims": [2]}))
case("SQUEEZE", V((1, 3, 1, 4)), opt=("SqueezeOptions", {"squeeze_dims": []}), name="all")
case("EXPAND_DIMS", V((2, 3)), K(-1, "int32"), opt=("ExpandDimsOptions", {}))
case("EXPAND_DIMS", V((2, 3)), K([1], "int32"), opt=("ExpandDimsOptions", {}))
case("TRANSPOSE", V((2, 3, 4)), K([2, 0, 1], "int32"), opt=("TransposeOptions", {}))
for axis in (1, -1):
    case("CONCATENATION", V((2, 3, 4)), V((2, 3, 4)), V((2, 3, 4)), opt=("ConcatenationOptions", {"axis": axis}))
case("PACK", V((2, 3)), V((2, 3)), opt=("PackOptions", {"values_count": 2, "axis": 1}))
case("PACK", V((2, 3)), V((2, 3)), opt=("PackOptions", {"values_count": 2, "axis": -1}))
case("UNPACK", V((2, 3, 4)), opt=("UnpackOptions", {"num": 3, "axis": 1}), out=["float32"] * 3)
case("SPLIT", K(1, "int32"), V((2, 6, 4)), opt=("SplitOptions", {"num_splits": 3}), out=["float32"] * 3)
case("SPLIT_V", V((2, 6)), K([1, -1, 2], "int32"), K(1, "int32"), opt=("SplitVOptions", {"num_splits": 3}), out=["float32"] * 3)
case("SLICE", V((3, 4, 5)), K([1, 0, 2], "int32"), K([2, -1, 2], "int32"), opt=("SliceOptions", {}))
SLICES = (
    ([0, 1, 1], [3, 4, 5], [1, 2, 1], {}),
    ([2, 3, 4], [0, 0, 0], [-1, -2, -1], {}),
    ([9, 9, 9], [0, 0, 0], [-1, -1, -1], {"begin_mask": 7, "end_mask": 5}),
    ([1, 1, 1], [2, 3, 9], [1, 1, 2], {"begin_mask": 1, "end_mask": 4}),
    ([1, 2, -1], [2, 3, 0], [1, 1, 1], {"shrink_axis_mask": 5}),
    ([0, 1], [0, 3], [1, 1], {"ellipsis_mask": 1}),
    ([1, 0, 0], [2, 0, 3], [1, 1, 1], {"ellipsis_mask": 2, "shrink_axis_mask": 1}),
    ([0, 0, 0, 1], [3, 0, 4, 4], [1, 1, 1, 1], {"new_axis_mask": 2}),
    ([-2, -3, 0], [-1, -1, 3], [1, 1, 1], {}),
    ([0, 0, 0], [0, 0, -1], [1, 1, 1], {"new_axis_mask": 1, "ellipsis_mask": 2, "shrink_axis_mask": 4}),
)
for begin, end, strides, masks in SLICES:
    case("STRIDED_SLICE", V((3, 4, 5)), K(begin, "int32"), K(end, "int32"), K(strides, "int32"), opt=("StridedSliceOptions", masks))
case("PAD", V((2, 3, 4)), K([[0, 1], [2, 0], [1, 1]], "int32"), opt=("PadOptions", {}))
case("PADV2", V((2, 3)), K([[0, 1], [2, 0]], "int32"), K(7.5), opt=("PadV2Options", {}))
for mode in (0, 1):
    case("MIRROR_PAD", V((3, 4)), K([[2, 1], [0, 3]], "int32"), opt=("MirrorPadOptions", {"mode": mode}))
case("TILE", V((2, 3)), K([2, 3], "int32"), opt=("TileOptions", {}))
case("SHAPE", V((2, 3)), opt=("ShapeOptions", {"out_type": 2}), out="int32")
case("RANK", V((2, 3)), opt=("RankOptions", {}), out="int32")
case("FILL", K([2, 3], "int32"), V((), low=1), opt=("FillOptions", {}))
case("RANGE", V((), "int32", 1, 3), V((), "int32", 9, 12), K(2, "int32"), opt=("RangeOptions", {}), out="int32")
case("REVERSE_V2", V((3, 4, 2)), K([1], "int32"), opt=("ReverseV2Options", {}))
case("REVERSE_SEQUENCE", V((3, 4, 5)), K([2, 3, 4], "int32"), opt=("ReverseSequenceOptions", {"seq_dim": 1, "batch_dim": 0}))
case("REVERSE_SEQUENCE", V((3, 4, 5)), K([2, 3, 4, 1], "int32"), opt=("ReverseSequenceOptions", {"seq_dim": 2, "batch_dim": 1}))
case("BROADCAST_TO", V((3, 1)), K([2, 3, 4], "int32"), opt=("BroadcastToOptions", {}))
case("BROADCAST_ARGS", K([3, 1], "int32"), K([2, 1, 4], "int32"), out="int32")
case("SPACE_TO_DEPTH", V((2, 4, 6, 3)), opt=("SpaceToDepthOptions", {"block_size": 2}))
case("DEPTH_TO_SPACE", V((2, 2, 3, 12)), opt=("DepthToSpaceOptions", {"block_size": 2}))
case("SPACE_TO_BATCH_ND", V((2, 5, 6, 3)), K([2, 3], "int32"), K([[1, 0], [2, 1]], "int32"), opt=("SpaceToBatchNDOptions", {}))
case("BATCH_TO_SPACE_ND", V((12, 3, 3, 2)), K([2, 3], "int32"), K([[1, 0], [2, 1]], "int32"), opt=("BatchToSpaceNDOptions", {}))
case("MATRIX_DIAG", V((2, 3)), opt=("MatrixDiagOptions", {}))
case("MATRIX_SET_DIAG", V((2, 3, 4)), V((2, 3)), opt=("MatrixSetDiagOptions", {}))
case("MATRIX_SET_DIAG", V((2, 4, 3)), V((2, 3)), opt=("MatrixSetDiagOptions", {}))
case("DILATE", V((3, 4)), K([2, 3], "int32"), K(-1.5), opt=("DilateOptions", {}))
case("DYNAMIC_UPDATE_SLICE", V((3, 4)), V((2, 2)), V((2,), "int32", -3, 6), opt=("DynamicUpdateSliceOptions", {}))

# --- reducing, finding, looking up
for op in ("SUM", "MEAN", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN"):
    for keep in (False, True):
        case(op, V((2, 3, 4)), K([0, -1], "int32"), opt=("ReducerOptions", {"keep_dims": keep}))
case("SUM", V((2, 3), "int32", -9, 9), K(1, "int32"), opt=("ReducerOptions", {}), out="int32")
for op in ("REDUCE_ANY", "REDUCE_ALL"):
    case(op, V((6, 2), "bool"), K([1], "int32"), opt=("ReducerOptions", {}), out="bool")
case("ARG_MAX", V((3, 4, 5)), K(1, "int32"), opt=("ArgMaxOptions", {"output_type": 4}), out="int64")
case("ARG_MIN", V((3, 4)), K(-1, "int32"), opt=("ArgMinOptions", {"output_type": 2}), out="int32")
case("TOPK_V2", V((3, 7)), K(4, "int32"), opt=("TopKV2Options", {}), out=["float32", "int32"])
case("GATHER", V((4, 5, 6)), K([[0, 2], [1, 1]], "int32"), opt=("GatherOptions", {"axis": 1}))
case("GATHER", V((4, 5)), V((3,), "int32", 0, 3), opt=("GatherOptions", {"axis": 0}))
case("GATHER", V((2, 4, 5)), V((2, 3), "int32", 0, 3), opt=("GatherOptions", {"axis": 1, "batch_dims": 1}), name="batch")
case("GATHER", V((2, 4, 5, 3)), V((2, 3), "int32", 0, 4), opt=("GatherOptions", {"axis": 2, "batch_dims": 1}), name="batch")
case("GATHER_ND", V((3, 4, 5)), K([[0, 1], [2, 3]], "int32"), opt=("GatherNdOptions", {}))
case("SCATTER_ND", K([[1], [3], [1]], "int32"), V((3, 2)), K([5, 2], "int32"), opt=("ScatterNdOptions", {}))
case("SPARSE_TO_DENSE", K([1, 3], "int32"), K([5], "int32"), V((2,)), K(0.5), opt=("SparseToDenseOptions", {}))
case("SPARSE_TO_DENSE", K([[1, 0], [3, 1]], "int32"), K([5, 2], "int32"), V(()), K(0.5), opt=("SparseToDenseOptions", {}))
for axis in (-1, 0, 1):
    case("ONE_HOT", K([[0, 2, -1], [1, 5, 0]], "int32"), K(4, "int32"), K(2.0), K(-1.0), opt=("OneHotOptions", {"axis": axis}))
case("UNIQUE", V((9,), "int32", 0, 4), opt=("UniqueOptions", {"idx_out_type": 2}), out=["int32", "int32"])
case("WHERE", V((4, 5), "bool"), opt=("WhereOptions", {}), out="int64")
case("SEGMENT_SUM", V((5, 2)), K([0, 0, 1, 1, 2], "int32"), opt=("SegmentSumOptions", {}))
for op, kind in (("SUM", "Sum"), ("PROD", "Prod"), ("MAX", "Max"), ("MIN", "Min")):
    case(f"UNSORTED_SEGMENT_{op}", V((5, 2)), K([2, 0, 2, 1, 0], "int32"), K(4, "int32"), opt=(f"UnsortedSegment{kind}Options", {}))
case("EMBEDDING_LOOKUP", V((4,), "int32", 0, 5), K(weights((6, 3))))
BOXES = [[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [0, 10.1, 1, 11.1], [0, 100, 1, 101]]
SCORES = [0.9, 0.75, 0.6, 0.95, 0.5, 0.3]
case("NON_MAX_SUPPRESSION_V4", K(BOXES), K(SCORES), K(4, "int32"), K(0.5), K(0.4), opt=("NonMaxSuppressionV4Options", {}), out=["int32", "int32"])
case("NON_MAX_SUPPRESSION_V5", K(BOXES), K(SCORES), K(4, "int32"), K(0.5), K(0.4), K(0.0), opt=("NonMaxSuppressionV5Options", {}), out=["int32", "float32", "int32"])

# --- networks' layers
for padding in (0, 1):
    for stride, dilation in ((1, 1), (2, 1), (1, 2)):
        opt = {"padding": padding, "stride_w": stride, "stride_h": stride, "dilation_w_factor": dilation, "dilation_h_factor": dilation}
        case("CONV_2D", V((2, 7, 8, 3)), K(weights((4, 3, 2, 3))), K(weights((4,))), opt=("Conv2DOptions", {**opt, "fused_activation_function": 1}))
        case("DEPTHWISE_CONV_2D", V((2, 7, 8, 3)), K(weights((1, 3, 2, 6))), K(weights((6,))), opt=("DepthwiseConv2DOptions", {**opt, "depth_multiplier": 2, "fused_activation_function": 3}))
case("CONV_2D", V((1, 5, 5, 4)), K(weights((6, 3, 3, 2))), K(weights((6,))), opt=("Conv2DOptions", {"stride_w": 1, "stride_h": 1}), name="groups")
for padding, size in ((0, [2, 8, 10, 3]), (1, [2, 9, 11, 3]), (1, [2, 10, 12, 3])):
    case("TRANSPOSE_CONV", K(size, "int32"), K(weights((3, 3, 3, 2))), V((2, 4, 5, 2)), K(weights((3,))), opt=("TransposeConvOptions", {"padding": padding, "stride_w": 2, "stride_h": 2}))
case("CONV_3D", V((1, 4, 5, 6, 2)), K(weights((2, 3, 2, 2, 3))), K(weights((3,))), opt=("Conv3DOptions", {"padding": 0, "stride_d": 2, "stride_w": 1, "stride_h": 2}))
case("CONV_3D_TRANSPOSE", K([1, 4, 6, 8, 3], "int32"), K(weights((2, 3, 2, 3, 2))), V((1, 2, 3, 4, 2)), opt=("Conv3DOptions", {"padding": 0, "stride_d": 2, "stride_w": 2, "stride_h": 2}))
for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D", "L2_POOL_2D"):
    for padding in (0, 1):
        opt = {"padding": padding, "stride_w": 2, "stride_h": 3, "filter_width": 3, "filter_height": 2, "fused_activation_function": 1}
        case(op, V((2, 7, 8, 3), low=0.1 if op.startswith("L2") else -2), opt=("Pool2DOptions", opt))
case("FULLY_CONNECTED", V((2, 3, 4)), K(weights((5, 4))), K(weights((5,))), opt=("FullyConnectedOptions", {"keep_num_dims": True, "fused_activation_function": 3}))
case("FULLY_CONNECTED", V((2, 3, 4)), K(weights((5, 4))), K(weights((5,))), opt=("FullyConnectedOptions", {}))
case("FULLY_CONNECTED", V((2, 3, 4)), K(weights((5, 12))), None, opt=("FullyConnectedOptions", {"fused_activation_function": 1}))
for x, y in ((False, False), (True, False), (False, True)):
    case("BATCH_MATMUL", V((2, 4, 3) if x else (2, 3, 4)), V((2, 5, 4) if y else (2, 4, 5)), opt=("BatchMatMulOptions", {"adj_x": x, "adj_y": y}))
for corners, halves in ((False, False), (True, False), (False, True)):
    for size in ([7, 9], [3, 2], [8, 10]):
        options = {"align_corners": corners, "half_pixel_centers": halves}
        case("RESIZE_BILINEAR", V((1, 4, 5, 2)), K(size, "int32"), opt=("ResizeBilinearOptions", options))
        case("RESIZE_NEAREST_NEIGHBOR", V((1, 4, 5, 2)), K(size, "int32"), opt=("ResizeNearestNeighborOptions", options))
GATES = [K(weights((3, 4), i)) for i in range(4)] + [K(weights((3, 3), i + 4)) for i in range(4)]
BIASES = [K(weights((3,), i + 9)) for i in range(4)]
for major in (False, True):
    case("UNIDIRECTIONAL_SEQUENCE_LSTM", V((2, 5, 4)), *GATES, None, None, None, *BIASES, None, None, S((5 if major else 2, 3)), S((5 if major else 2, 3)), None, None, None, None,
         opt=("UnidirectionalSequenceLSTMOptions", {"fused_activation_function": 4, "time_major": major, "cell_clip": 10.0}))
case("UNIDIRECTIONAL_SEQUENCE_LSTM", V((2, 5, 4)), None, *GATES[1:4], None, *GATES[5:], None, K(weights((3,), 20)), K(weights((3,), 21)), None, *BIASES[1:], None, None, S((2, 3)), S((2, 3)), None, None, None, None,
     opt=("UnidirectionalSequenceLSTMOptions", {"fused_activation_function": 4}), name="coupled-peephole")
BACK = [K(weights((3, 4), i + 30)) for i in range(4)] + [K(weights((3, 3), i + 34)) for i in range(4)]
for merge in (True, False):
    # One item where the batch comes first: of several, LiteRT 2.3 computes the second from memory it never set.
    case("BIDIRECTIONAL_SEQUENCE_LSTM", V((1 if merge else 2, 5, 4)), *GATES, None, None, None, *BIASES, None, None, *BACK, None, None, None, *BIASES, None, None,
         *[S((1 if merge else 5, 3))] * 4, None, None, None, None, None, None, None, None, None,
         opt=("BidirectionalSequenceLSTMOptions", {"fused_activation_function": 4, "merge_outputs": merge, "time_major": not merge}), out=["float32"] * (1 if merge else 2))
for code in (1, 4):
    case("UNIDIRECTIONAL_SEQUENCE_RNN", V((2, 5, 4)), GATES[0], GATES[4], BIASES[0], S((2, 3)), opt=("SequenceRNNOptions", {"fused_activation_function": code}))
case("BIDIRECTIONAL_SEQUENCE_RNN", V((2, 5, 4)), GATES[0], GATES[4], BIASES[0], S((2, 3)), GATES[1], GATES[5], BIASES[1], S((2, 3)), None, None, None,
     opt=("BidirectionalSequenceRNNOptions", {"fused_activation_function": 4, "merge_outputs": True}))
case("LSTM", V((2, 4)), V((2, 3)), K(weights((12, 7))), K(weights((12,))), V((2, 3)), opt=("LSTMOptions", {"fused_activation_function": 4, "kernel_type": 1}), out=["float32"] * 4)

# --- quantised: scale and zero point of each tensor
I8 = {"dtype": "int8", "low": -128, "high": 127}
U8 = {"dtype": "uint8", "low": 0, "high": 255}
X8 = V((2, 6, 6, 4), scale=(0.02,), zero=(5,), **I8)
PER_CHANNEL = tuple(0.005 + 0.002 * i for i in range(8))
Y8 = ("int8", (0.05,), (-10,))


def bias8(scales, seed=3):
    data = np.random.default_rng(seed).integers(-2000, 2000, len(scales))
    return K(data, "int32", scales, (0,) * len(scales))


for code in (0, 1, 3):
    opt = {"padding": 0, "stride_w": 2, "stride_h": 1, "fused_activation_function": code}
    case("CONV_2D", X8, K(weights((8, 3, 3, 4), 5, "int8"), "int8", PER_CHANNEL, (0,) * 8),
         bias8(tuple(0.02 * s for s in PER_CHANNEL)), opt=("Conv2DOptions", opt), out=Y8, name="int8")
    case("DEPTHWISE_CONV_2D", X8, K(weights((1, 3, 3, 8), 6, "int8"), "int8", PER_CHANNEL, (0,) * 8, 3),
         bias8(tuple(0.02 * s for s in PER_CHANNEL)), opt=("DepthwiseConv2DOptions", {**opt, "stride_h": 2, "depth_multiplier": 2}), out=Y8, name="int8")
case("CONV_2D", V((1, 5, 5, 3), scale=(0.01,), zero=(128,), **U8), K(np.random.default_rng(0).integers(0, 255, (4, 3, 3, 3)), "uint8", (0.02,), (120,)),
     K([100, -200, 300, 0], "int32", (0.0002,), (0,)), opt=("Conv2DOptions", {"stride_w": 1, "stride_h": 1}), out=("uint8", (0.03,), (100,)), name="uint8")
case("FULLY_CONNECTED", V((3, 16), scale=(0.02,), zero=(-3,), **I8), K(weights((8, 16), 7, "int8"), "int8", (0.01,), (0,)),
     K(np.arange(8) * 100 - 300, "int32", (0.0002,), (0,)), opt=("FullyConnectedOptions", {}), out=("int8", (0.08,), (4,)), name="int8")
case("FULLY_CONNECTED", V((3, 16), "int16", -9000, 9000, (0.001,), (0,)), K(weights((8, 16), 7, "int8"), "int8", (0.01,), (0,)),
     K(np.arange(8) * 1000, "int64", (0.00001,), (0,)), opt=("FullyConnectedOptions", {}), out=("int16", (0.002,), (0,)), name="int16")
case("TRANSPOSE_CONV", K([1, 8, 8, 4], "int32"), K(weights((4, 3, 3, 4), 8, "int8"), "int8", PER_CHANNEL[:4], (0,) * 4), V((1, 4, 4, 4), scale=(0.02,), zero=(5,), **I8),
     opt=("TransposeConvOptions", {"padding": 0, "stride_w": 2, "stride_h": 2}), out=Y8, name="int8")
A8, B8 = V((2, 3, 4), scale=(0.02,), zero=(5,), **I8), V((2, 3, 4), scale=(0.03,), zero=(-7,), **I8)
for op, opt in (("ADD", "AddOptions"), ("SUB", "SubOptions"), ("MUL", "MulOptions")):
    case(op, A8, B8, opt=(opt, {"fused_activation_function": 1}), out=Y8, name="int8")
case("CONCATENATION", V((2, 3), scale=(0.02,), zero=(5,), **I8), V((2, 3), scale=(0.02,), zero=(5,), **I8), opt=("ConcatenationOptions", {"axis": 1}), out=("int8", (0.02,), (5,)), name="int8")
for op in ("MAX_POOL_2D", "AVERAGE_POOL_2D"):
    case(op, X8, opt=("Pool2DOptions", {"padding": 0, "stride_w": 2, "stride_h": 2, "filter_width": 3, "filter_height": 3}), out=("int8", (0.02,), (5,)), name="int8")
case("LOGISTIC", A8, out=("int8", (1 / 256,), (-128,)), name="int8")
case("TANH", A8, out=("int8", (1 / 128,), (0,)), name="int8")
case("SOFTMAX", V((4, 6), scale=(0.05,), zero=(5,), **I8), opt=("SoftmaxOptions", {"beta": 1.0}), out=("int8", (1 / 256,), (-128,)), name="int8")
case("HARD_SWISH", A8, opt=("HardSwishOptions", {}), out=Y8, name="int8", steps=2)
case("LEAKY_RELU", A8, opt=("LeakyReluOptions", {"alpha": 0.2}), out=Y8, name="int8")
case("MEAN", X8, K([1, 2], "int32"), opt=("ReducerOptions", {"keep_dims": True}), out=("int8", (0.02,), (5,)), name="int8")
case("SUM", V((2, 4, 3), scale=(0.02,), zero=(5,), **I8), K([1], "int32"), opt=("ReducerOptions", {}), out=Y8, name="int8")
case("PAD", A8, K([[0, 0], [1, 1], [0, 2]], "int32"), opt=("PadOptions", {}), out=("int8", (0.02,), (5,)), name="int8")
case("RESHAPE", A8, K([6, 4], "int32"), out=("int8", (0.02,), (5,)), name="int8")
case("RESIZE_BILINEAR", X8, K([9, 11], "int32"), opt=("ResizeBilinearOptions", {"half_pixel_centers": True}), out=("int8", (0.02,), (5,)), name="int8")
case("QUANTIZE", V((3, 40)), opt=("QuantizeOptions", {}), out=("int8", (0.02,), (5,)))
case("QUANTIZE", A8, opt=("QuantizeOptions", {}), out=("int8", (0.03,), (-5,)), name="again")
case("QUANTIZE", A8, opt=("QuantizeOptions", {}), out=("uint8", (0.02,), (133,)), name="uint8")
case("DEQUANTIZE", A8, opt=("DequantizeOptions", {}))
case("DEQUANTIZE", K(weights((3, 4)), "float16"), opt=("DequantizeOptions", {}), name="half")
case("ARG_MAX", V((3, 9), scale=(0.02,), zero=(5,), **I8), K(1, "int32"), opt=("ArgMaxOptions", {"output_type": 2}), out="int32", name="int8")
case("MAXIMUM", A8, V((2, 3, 4), scale=(0.02,), zero=(5,), **I8), opt=("MaximumMinimumOptions", {}), out=("int8", (0.02,), (5,)), name="int8")
case("PRELU", A8, K(weights((1, 4), 2, "int8"), "int8", (0.01,), (0,)), out=Y8, name="int8")
case("L2_NORMALIZATION", V((3, 8), scale=(0.02,), zero=(5,), **I8), opt=("L2NormOptions", {}), out=("int8", (1 / 128,), (0,)), name="int8")
case("BATCH_MATMUL", A8, V((2, 4, 5), scale=(0.01,), zero=(3,), **I8), opt=("BatchMatMulOptions", {}), out=Y8, name="int8")


# --- subgraphs
def body(op, options, operands, results="float32", constants=()):
    tensors = {f"a{i}": TensorSpec(dtype, shape) for i, (dtype, shape) in enumerate(operands)}
    names = list(tensors)
    for i, array in enumerate(constants):
        tensors[f"c{i}"] = array
    tensors["r"] = TensorSpec(results, () if results == "bool" else operands[0][1])
    used = names if not constants else [names[0], *(f"c{i}" for i in range(len(constants)))]
    return GraphSpec(tensors, [OperatorSpec(op, used, ["r"], options)], names, ["r"], name=op.lower())


PAIR = [("float32", (2, 3)), ("float32", (2, 3))]
for flag in (True, False):
    case("IF", K(flag, "bool"), V((2, 3)), V((2, 3)), opt=("IfOptions", {"then_subgraph_index": 1, "else_subgraph_index": 2}), shape=(2, 3),
         graphs=(body("ADD", ("AddOptions", {}), PAIR), body("MUL", ("MulOptions", {}), PAIR)))
case("IF", V((), "bool"), V((2, 3)), V((2, 3)), opt=("IfOptions", {"then_subgraph_index": 1, "else_subgraph_index": 2}), shape=(2, 3),
     graphs=(body("ADD", ("AddOptions", {}), PAIR), body("MUL", ("MulOptions", {}), PAIR)))
ONE = [("float32", ())]
case("WHILE", V((), low=0.1, high=0.9), opt=("WhileOptions", {"cond_subgraph_index": 1, "body_subgraph_index": 2}), shape=(),
     graphs=(body("LESS", ("LessOptions", {}), ONE, "bool", [np.array(5, np.float32)]), body("ADD", ("AddOptions", {}), ONE, constants=[np.array(1, np.float32)])))


# --- Fourier transforms
@dataclass(frozen=True)
class Spectrum(Case):
    def model(self):
        length = np.array(self.options, np.int32)
        tensors = {
            "x0": TensorSpec("float32", self.operands[0].shape), "n": length,
            "c": TensorSpec("complex64", None), "y0": TensorSpec("float32", None),
        }
        steps = [
            OperatorSpec("RFFT2D", ["x0", "n"], ["c"], ("Rfft2dOptions", {})),
            OperatorSpec(self.op, ["c"], ["y0"], None),
        ]
        return written(GraphSpec(tensors, steps, ["x0"], ["y0"]))


for op in ("COMPLEX_ABS", "REAL", "IMAG"):
    CASES.append(Spectrum(f"RFFT2D-{op}", op, (V((3, 4, 8)),), (4, 8)))
CASES.append(Spectrum("RFFT2D-row", "COMPLEX_ABS", (V((2, 3, 1, 16)),), (1, 16)))
CASES.append(Spectrum("RFFT2D-cut", "COMPLEX_ABS", (V((2, 6, 12)),), (4, 8)))
CASES.append(Spectrum("RFFT2D-padded", "COMPLEX_ABS", (V((2, 3, 6)),), (4, 8)))

# --- the StableHLO operators that the interpreter has
for op in ("ADD", "MULTIPLY", "MAXIMUM", "MINIMUM"):
    case(f"STABLEHLO_{op}", V((2, 3), low=0.2, high=4), V((2, 3), low=0.5, high=2))
case("STABLEHLO_AND", V((6,), "bool"), V((6,), "bool"), out="bool")
case("BITCAST", K([1.5, -2.0]), opt=("BitcastOptions", {}), out="int32")
