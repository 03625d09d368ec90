"""Make the conformance vectors of docs/unified-ir-v2.md: `python tests/conformance/make_ir_v2.py`.

Bundles are put together by hand, with json, NumPy and onnx; outputs come from formulas written here. Nothing of
Raceline is imported: the vectors are what its reader and writer are held to.
"""

import copy
import hashlib
import json
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).parent / "ir_v2"
FLOAT, UINT8, INT8, BOOL, BF16 = (
    TensorProto.FLOAT, TensorProto.UINT8, TensorProto.INT8, TensorProto.BOOL, TensorProto.BFLOAT16,
)  # fmt: skip
RNG = np.random.default_rng(20261126)


def info(name, shape, kind=FLOAT):
    """An input or output of the graph."""
    return helper.make_tensor_value_info(name, kind, shape)


def floats(*shape):
    """Seeded numbers."""
    return RNG.standard_normal(shape).astype(np.float32)


class Bundle:
    """One vector under construction: a model, a manifest, and what goes into the folder."""

    def __init__(self, nodes, inputs, outputs, weights=(), functions=(), opset=17, domains=(), ir_version=8):
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
        graph = helper.make_graph(nodes, "vector", inputs, outputs)
        self.proto = helper.make_model(
            graph,
            opset_imports=imports,
            functions=list(functions),
            ir_version=ir_version,
            producer_name="hand",
        )
        self.weights = b""
        for name, array in weights:
            self.weight(name, array)
        self.signature = {
            "inputs": [self.spec(value) for value in inputs],
            "outputs": [self.spec(value) for value in outputs],
            "batch_axis": None,
        }
        self.extra = {}
        self.changes = {}
        self.profile, self.equivalence = None, None
        self.version = 1
        self.edit = lambda sheet: None
        self.text = lambda text: text
        self.after = lambda folder: None

    def weight(self, name, array):
        """An initializer: beside the graph where it is large, as the document says."""
        tensor = numpy_helper.from_array(array, name)
        if array.nbytes <= 1024:
            self.proto.graph.initializer.append(tensor)
            return
        data = tensor.raw_data
        start = -(-len(self.weights) // (4096 if len(data) >= 4096 else 64)) * (
            4096 if len(data) >= 4096 else 64
        )
        self.weights += bytes(start - len(self.weights)) + data
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", "weights.bin"), ("offset", start), ("length", len(data))):
            tensor.external_data.add(key=key, value=str(value))
        self.proto.graph.initializer.append(tensor)

    @staticmethod
    def spec(value, values=None):
        """The signature's words for an input or output."""
        kind = value.type.tensor_type
        names = {FLOAT: "float32", BOOL: "bool", TensorProto.INT64: "int64", TensorProto.INT4: "int4"}
        shape = [dim.dim_param or dim.dim_value for dim in kind.shape.dim]
        return {"name": value.name, "dtype": names[kind.elem_type], "shape": shape, "values": values}

    def write(self, folder):
        """The folder as it is to be read."""
        folder.mkdir(parents=True)
        held = {"model.onnx": self.proto.SerializeToString(deterministic=True), **self.extra}
        if self.weights:
            held["weights.bin"] = self.weights
        held |= self.changes
        sheet = {
            "format": "raceline.bundle",
            "format_version": self.version,
            "signature": self.signature,
            "provenance": {"source": "vector.onnx", "source_format": "onnx", "source_sha256": "",
                           "producer": "hand", "steps": ["made by hand"]},
            "model_sha256": hashlib.sha256(held["model.onnx"]).hexdigest(),
            "files": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "size_bytes": len(data)}
                for name, data in sorted(held.items())
            },
            "profile": self.profile,
            "equivalence": self.equivalence,
        }  # fmt: skip
        self.edit(sheet)
        for name, data in held.items():
            (folder / name).write_bytes(data)
        (folder / "bundle.json").write_text(self.text(json.dumps(sheet, indent=1) + "\n"))
        self.after(folder)


def tensor_json(array):
    """An array in the list of vectors."""
    return {
        "dtype": array.dtype.name,
        "shape": list(array.shape),
        "data": np.asarray(array).reshape(-1).tolist(),
    }


# ---------------------------------------------------------------- valid


def minimal(x=None):
    x = floats(2, 3) if x is None else x
    bundle = Bundle([helper.make_node("Relu", ["x"], ["y"])], [info("x", ["n", 3])], [info("y", ["n", 3])])
    return bundle, {"x": x}, {"y": np.maximum(x, 0)}


def external():
    """Two large weights, one of over a page, and a small one that stays inside."""
    x, w, v, b = floats(2, 4), floats(4, 300), floats(300, 2), floats(2)
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("MatMul", ["h", "v"], ["g"]),
        helper.make_node("Add", ["g", "b"], ["y"]),
    ]
    bundle = Bundle(nodes, [info("x", ["n", 4])], [info("y", ["n", 2])], [("w", w), ("v", v), ("b", b)])
    return bundle, {"x": x}, {"y": (x.astype(np.float64) @ w @ v + b).astype(np.float32)}


def fused():
    """A Gemm and its LeakyRelu as one operator; alpha is handed on, and transB."""
    x, w, b = floats(2, 3), floats(4, 3), floats(4)
    function = helper.make_function(
        "raceline", "GemmLeakyRelu", ["x", "weight", "bias"], ["leakyrelu"],
        [helper.make_node("Gemm", ["x", "weight", "bias"], ["gemm"]),
         helper.make_node("LeakyRelu", ["gemm"], ["leakyrelu"])],
        [helper.make_opsetid("", 17)], ["transB", "leakyrelu_alpha"],
    )  # fmt: skip
    for node, (name, outer, kind) in zip(
        function.node, (("transB", "transB", 2), ("alpha", "leakyrelu_alpha", 1)), strict=True
    ):
        node.attribute.add(name=name, ref_attr_name=outer, type=kind)
    call = helper.make_node(
        "GemmLeakyRelu", ["x", "w", "b"], ["y"], domain="raceline", transB=1, leakyrelu_alpha=0.25
    )
    weights = [("w", w), ("b", b)]
    bundle = Bundle(
        [call], [info("x", ["n", 3])], [info("y", ["n", 4])], weights, [function], domains=["raceline"]
    )
    y = x @ w.T + b
    return bundle, {"x": x}, {"y": np.where(y < 0, np.float32(0.25) * y, y)}


def optional_operand():
    """A fused operator whose bias is left out, and one with a residual."""
    x = floats(1, 2, 4)
    w = floats(2, 2, 1)
    function = helper.make_function(
        "raceline", "ConvAdd", ["x", "weight", "residual"], ["add"],
        [helper.make_node("Conv", ["x", "weight"], ["conv"]),
         helper.make_node("Add", ["conv", "residual"], ["add"])],
        [helper.make_opsetid("", 17)],
    )  # fmt: skip
    call = helper.make_node("ConvAdd", ["x", "w", "x"], ["y"], domain="raceline")
    bundle = Bundle(
        [call], [info("x", [1, 2, 4])], [info("y", [1, 2, 4])], [("w", w)], [function], domains=["raceline"]
    )
    return bundle, {"x": x}, {"y": (np.einsum("oi,bil->bol", w[:, :, 0], x) + x).astype(np.float32)}


def ranges():
    """A batch axis, ranges and choices, and an axis whose name is a formula."""
    x, rate = floats(2, 3), np.array(16000, np.int64)
    nodes = [
        helper.make_node("Cast", ["rate"], ["r"], to=FLOAT),
        helper.make_node("Div", ["x", "r"], ["d"]),
        helper.make_node("Identity", ["d"], ["y"]),
    ]
    inputs = [info("x", ["n", "floor(w/2)"]), info("rate", [], TensorProto.INT64)]
    bundle = Bundle(nodes, inputs, [info("y", ["n", "floor(w/2)"])])
    bundle.signature["inputs"][0]["values"] = {"low": -1, "high": 1.5, "choices": [], "source": "user"}
    bundle.signature["inputs"][1]["values"] = {
        "low": 8000,
        "high": 16000,
        "choices": [8000, 16000],
        "source": "graph",
    }
    return bundle, {"x": x, "rate": rate}, {"y": x / np.float32(16000)}


def batch():
    bundle, inputs, outputs = minimal()
    bundle.signature["batch_axis"] = "n"
    return bundle, inputs, outputs


def quantised():
    """QDQ, symmetric int8."""
    x = floats(2, 3)
    w = RNG.integers(-127, 128, (3, 2)).astype(np.int8)
    sx, sw, z = np.float32(0.05), np.float32(0.02), np.int8(0)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "sx", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "sx", "z"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "sw", "z"], ["v"]),
        helper.make_node("MatMul", ["d", "v"], ["y"]),
    ]
    weights = [("w", w), ("sx", np.array(sx)), ("sw", np.array(sw)), ("z", np.array(z))]
    bundle = Bundle(nodes, [info("x", ["n", 3])], [info("y", ["n", 2])], weights, opset=21, ir_version=10)
    d = np.clip(np.round(x / sx), -128, 127).astype(np.float32) * sx
    return bundle, {"x": x}, {"y": (d @ (w.astype(np.float32) * sw)).astype(np.float32)}


def small_types():
    """int4 and bfloat16 weights, the first packed and beside the graph."""
    x = floats(2, 4)
    w = RNG.integers(-8, 8, (4, 600)).astype(ml_dtypes.int4)
    b = floats(600).astype(ml_dtypes.bfloat16)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["v"]),
        helper.make_node("MatMul", ["x", "v"], ["m"]),
        helper.make_node("Cast", ["b"], ["c"], to=FLOAT),
        helper.make_node("Add", ["m", "c"], ["s1"]),
        helper.make_node("ReduceSum", ["s1", "axes"], ["y"], keepdims=0),
    ]
    weights = [("w", w), ("s", np.array(0.5, np.float32)), ("b", b), ("axes", np.array([1]))]
    bundle = Bundle(nodes, [info("x", ["n", 4])], [info("y", ["n"])], weights, opset=21, ir_version=10)
    sums = x.astype(np.float64) @ (0.5 * w.astype(np.float64)) + b.astype(np.float64)
    return bundle, {"x": x}, {"y": sums.sum(1).astype(np.float32)}


def branches():
    """A graph inside a node, which sees a weight of the graph around it."""
    x, w = floats(3), floats(3)
    then = helper.make_graph([helper.make_node("Mul", ["x", "w"], ["t"])], "then", [], [info("t", [3])])
    other = helper.make_graph([helper.make_node("Sub", ["x", "w"], ["e"])], "other", [], [info("e", [3])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other)
    bundle = Bundle([node], [info("x", [3]), info("c", [], BOOL)], [info("y", [3])], [("w", w)])
    return bundle, {"x": x, "c": np.array(False)}, {"y": x - w}


def reported(x=None):
    """A profile, an equivalence report, and an attachment."""
    bundle, inputs, outputs = minimal(x)
    way = {"engine": "onnxruntime", "precision": "fp32", "threads": 2, "batch": 1, "streams": 1,
           "variant": "optimised", "chunk": 0, "optimise": True}  # fmt: skip
    row = {"candidate": way, "latency_s": 0.001, "latency_p99_s": 0.002, "memory_bytes": 4096, "clock_hz": None,
           "energy_j": None, "runs": 30, "failure": ""}  # fmt: skip
    failed = {"candidate": {"engine": "mnn"}, "failure": "no kernel"}
    bundle.profile = {"platform": "cpu-x", "model_sha256": "0" * 64, "shapes": {"x": [1, 3]},
                      "measurements": [row, failed], "variant": "optimised"}  # fmt: skip
    bundle.equivalence = {"ok": True, "outputs": [], "anything": [1, None]}
    bundle.extra = {"report.html": b"<p>fine</p>"}
    return bundle, inputs, outputs


def rounded():
    """Version 2: a measurement of a quantised graph says what its answers are worth."""
    bundle, inputs, outputs = reported(np.float32([[-1.0, 0.5, 2.0]]))
    bundle.version = 2
    row = bundle.profile["measurements"][0]
    row["candidate"] |= {"precision": "int8", "variant": "int8-onnxruntime"}
    row["accuracy"] = {"metric": "top1", "full": 0.98, "quantised": 0.975, "items": 200, "origin": "digits.npz",
                       "labelled": True}  # fmt: skip
    bundle.profile["variant"] = "int8-onnxruntime"
    return bundle, inputs, outputs


def unlisted():
    """A file that the manifest does not list is ignored."""
    bundle, inputs, outputs = minimal()
    bundle.after = lambda folder: (folder / "notes.txt").write_text("not part of it")
    return bundle, inputs, outputs


def unaligned():
    """Writers align; readers accept any offset."""
    bundle, inputs, outputs = external()
    bundle.weights = b"odd" + bundle.weights
    for tensor in bundle.proto.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "offset":
                entry.value = str(int(entry.value) + 3)
    return bundle, inputs, outputs


VALID = (minimal, external, fused, optional_operand, ranges, batch, quantised, small_types, branches, reported,
         rounded, unlisted, unaligned)  # fmt: skip


# ---------------------------------------------------------------- invalid: rule, name, how


def edited(change, base=minimal):
    """A bundle whose manifest is changed."""

    def make():
        bundle, _, _ = base()
        bundle.edit = change
        return bundle

    return make


def retold(change, base=minimal):
    """A bundle whose manifest's text is changed."""

    def make():
        bundle, _, _ = base()
        bundle.text = change
        return bundle

    return make


def rebuilt(change, base=minimal):
    """A bundle whose model is changed; sizes and digests are those of the changed one."""

    def make():
        bundle, _, _ = base()
        change(bundle)
        return bundle

    return make


def spoilt(change, base=external):
    """A bundle whose files are changed after the manifest was written."""

    def make():
        bundle, _, _ = base()
        bundle.after = change
        return bundle

    return make


def put(*path, value):
    """Set one value in the manifest."""

    def change(sheet):
        for key in path[:-1]:
            sheet = sheet[key]
        sheet[path[-1]] = value

    return change


def drop(*path):
    """Remove one key of the manifest."""

    def change(sheet):
        for key in path[:-1]:
            sheet = sheet[key]
        del sheet[path[-1]]

    return change


def entry(key, value):
    """Change what the first external tensor says of its bytes."""

    def change(bundle):
        tensor = next(t for t in bundle.proto.graph.initializer if t.external_data)
        for item in tensor.external_data:
            if item.key == key:
                item.value = value

    return change


def flip(folder):
    """Change one byte of the weights."""
    data = bytearray((folder / "weights.bin").read_bytes())
    data[100] ^= 1
    (folder / "weights.bin").write_bytes(data)


def node(*arguments, **attributes):
    """Put a node at the end of the graph."""
    return lambda bundle: bundle.proto.graph.node.append(helper.make_node(*arguments, **attributes))


def instead(*nodes):
    """Put these nodes in place of all."""

    def change(bundle):
        del bundle.proto.graph.node[:]
        bundle.proto.graph.node.extend(nodes)

    return change


def circle(bundle):
    """Let the fused function call itself."""
    bundle.proto.functions[0].node.append(
        helper.make_node("GemmLeakyRelu", ["x", "weight", "bias"], ["again"], domain="raceline")
    )
    bundle.proto.functions[0].opset_import.add(domain="raceline", version=1)


def sparse(bundle):
    """Add a sparse initializer."""
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    places = numpy_helper.from_array(np.zeros(1, np.int64), "i")
    bundle.proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [4]))


def third(change):
    """A bundle whose third weight, an embedded one, is changed."""
    return rebuilt(lambda bundle: change(bundle.proto.graph.initializer[2]), base=external)


def repeat_function(bundle):
    """Let the fused function be there twice."""
    bundle.proto.functions.append(copy.deepcopy(bundle.proto.functions[0]))


def cut_weights(folder):
    """Take the last byte away."""
    path = folder / "weights.bin"
    path.write_bytes(path.read_bytes()[:-1])


def packed():
    """An input of a type that exists for weights only."""
    nodes = [helper.make_node("Cast", ["x"], ["y"], to=FLOAT)]
    return Bundle(nodes, [info("x", [4], TensorProto.INT4)], [info("y", [4])], opset=21, ir_version=10)


def no_tensor():
    """An input that is a sequence."""
    bundle, _, _ = minimal()
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, ["n", 3]))
    bundle.proto.graph.input[0].CopyFrom(helper.make_value_info("x", kind))
    instead(helper.make_node("ConcatFromSequence", ["x"], ["y"], axis=0))(bundle)
    return bundle


MEASUREMENT = ("profile", "measurements", 0)
INVALID = (
    ("F3", "no_model", spoilt(lambda folder: (folder / "model.onnx").unlink())),
    ("F3", "no_manifest", spoilt(lambda folder: (folder / "bundle.json").unlink())),
    ("F3", "no_weights", spoilt(lambda folder: (folder / "weights.bin").unlink())),
    ("F5", "weights_cut", spoilt(cut_weights)),
    ("F5", "size_wrong", edited(put("files", "model.onnx", "size_bytes", value=7))),
    ("F6", "weights_changed", spoilt(flip)),
    ("F6", "digest_wrong", edited(put("files", "model.onnx", "sha256", value="0" * 64))),
    ("M1", "no_json", retold(lambda text: text[:-10])),
    ("M1", "nan", retold(lambda text: text.replace('"equivalence": null', '"equivalence": {"a": NaN}'))),
    ("M1", "key_twice", retold(lambda text: text.replace("{", '{"format_version": 1,', 1))),
    ("M2", "another_format", edited(put("format", value="raceline.report"))),
    ("M2", "a_list", retold(lambda text: "[]")),
    ("M3", "version_3", edited(put("format_version", value=3))),
    ("M3", "version_true", edited(put("format_version", value=True))),
    ("M3", "version_float", edited(put("format_version", value=1.0))),
    ("M3", "version_text", edited(put("format_version", value="1"))),
    ("M4", "key_missing", edited(drop("profile"))),
    ("M4", "key_unknown", edited(put("licence", value="MIT"))),
    ("M4", "spec_key_missing", edited(drop("signature", "inputs", 0, "values"))),
    ("M4", "file_key_unknown", edited(put("files", "model.onnx", "url", value="http://x"))),
    ("M5", "axis_zero", edited(put("signature", "inputs", 0, "shape", value=["n", 0]))),
    ("M5", "axis_true", edited(put("signature", "inputs", 0, "shape", value=["n", True]))),
    ("M5", "axis_empty", edited(put("signature", "inputs", 0, "shape", value=["", 3]))),
    ("M5", "size_negative", edited(put("files", "model.onnx", "size_bytes", value=-1))),
    ("M5", "size_float", edited(put("files", "model.onnx", "size_bytes", value=120.0))),
    ("M5", "steps_text", edited(put("provenance", "steps", value="made"))),
    ("M6", "path_outside", edited(put("files", "../secret", value={"sha256": "0" * 64, "size_bytes": 0}))),
    ("M6", "path_absolute", edited(put("files", "/etc/passwd", value={"sha256": "0" * 64, "size_bytes": 0}))),
    ("M6", "model_unlisted", edited(drop("files", "model.onnx"))),
    ("M6", "manifest_listed", edited(put("files", "bundle.json", value={"sha256": "0" * 64, "size_bytes": 9}))),
    ("M7", "digest_upper", edited(put("model_sha256", value="A" * 64))),
    ("M8", "equivalence_list", edited(put("equivalence", value=[]))),
    ("S1", "input_renamed", edited(put("signature", "inputs", 0, "name", value="z"))),
    ("S1", "output_missing", edited(put("signature", "outputs", value=[]))),
    ("S2", "dtype", edited(put("signature", "inputs", 0, "dtype", value="float64"))),
    ("S3", "rank", edited(put("signature", "inputs", 0, "shape", value=["n", 3, 1]))),
    ("S3", "size", edited(put("signature", "inputs", 0, "shape", value=["n", 4]))),
    ("S3", "no_shape", rebuilt(lambda b: b.proto.graph.input[0].type.tensor_type.ClearField("shape"))),
    ("S3", "named_axis_over_a_size", edited(put("signature", "inputs", 0, "shape", value=["n", "m"]))),
    ("S4", "batch_axis", edited(put("signature", "batch_axis", value="m"))),
    ("S5", "range", edited(put("signature", "inputs", 0, "values", "low", value=9), base=ranges)),
    ("P1", "negative_latency", edited(put(*MEASUREMENT, "latency_s", value=-1.0), base=reported)),
    ("P1", "no_latency", edited(put(*MEASUREMENT, "latency_s", value=0.0), base=reported)),
    ("P1", "no_threads", edited(put(*MEASUREMENT, "candidate", "threads", value=0), base=reported)),
    ("P1", "judged_by_nothing", edited(put(*MEASUREMENT, "accuracy", "items", value=0), base=rounded)),
    ("M4", "accuracy_in_version_1", edited(put("format_version", value=1), base=rounded)),
    ("M4", "profile_key", edited(put(*MEASUREMENT, "power_w", value=3), base=reported)),
    ("G1", "garbage", rebuilt(lambda b: b.changes.update({"model.onnx": b"\xff" * 200}))),
    ("G1", "empty_model", rebuilt(lambda b: b.changes.update({"model.onnx": b""}))),
    ("G2", "opset_of_tomorrow", rebuilt(lambda b: setattr(b.proto.opset_import[0], "version", 9999))),
    ("G2", "no_opset", rebuilt(lambda b: b.proto.ClearField("opset_import"))),
    ("G3", "unknown_operator", rebuilt(node("Reluu", ["x"], ["z"]))),
    ("G3", "unknown_domain", rebuilt(node("Relu", ["x"], ["z"], domain="com.example"))),
    ("G4", "written_twice", rebuilt(node("Relu", ["x"], ["y"]))),
    ("G4", "reads_nothing", rebuilt(node("Relu", ["nobody"], ["z"]))),
    ("G4", "a_cycle", rebuilt(instead(helper.make_node("Add", ["x", "b"], ["a"]),
                                      helper.make_node("Relu", ["a"], ["b"]),
                                      helper.make_node("Relu", ["b"], ["y"])))),
    ("G5", "output_of_nothing", rebuilt(instead(helper.make_node("Relu", ["x"], ["z"])))),
    ("G5", "no_outputs", rebuilt(lambda b: b.proto.graph.ClearField("output"))),
    ("G6", "packed_input", packed),
    ("G6", "sequence_input", no_tensor),
    ("G7", "sparse", rebuilt(sparse)),
    ("G9", "attribute_of_nothing", rebuilt(instead(helper.make_node("Relu", ["x"], ["y"], slope=2)))),
    ("G9", "input_missing", rebuilt(instead(helper.make_node("Add", ["x"], ["y"])))),
    ("G9", "type_contradicts", rebuilt(instead(helper.make_node("IsNaN", ["x"], ["y"])))),
    ("O1", "no_function", rebuilt(lambda b: b.proto.ClearField("functions"), base=fused)),
    ("O2", "calls_itself", rebuilt(circle, base=fused)),
    ("O2", "function_twice", rebuilt(repeat_function, base=fused)),
    ("O3", "output_unwritten", rebuilt(lambda b: b.proto.functions[0].node.pop(), base=fused)),
    ("W1", "another_file", rebuilt(entry("location", "model.onnx"), base=external)),
    ("W1", "outside", rebuilt(entry("location", "../weights.bin"), base=external)),
    ("W1", "weights_unlisted", edited(drop("files", "weights.bin"), base=external)),
    ("W2", "beyond_the_end", rebuilt(entry("offset", str(2**40)), base=external)),
    ("W2", "offset_negative", rebuilt(entry("offset", "-64"), base=external)),
    ("W2", "length_short", rebuilt(entry("length", "16"), base=external)),
    ("W2", "offset_text", rebuilt(entry("offset", "start"), base=external)),
    ("W2", "embedded_short", third(lambda t: setattr(t, "raw_data", b"1234"))),
    ("W2", "claims_terabytes", third(lambda t: t.dims.extend([2**30, 2**12]))),
    ("W3", "dimension_negative", third(lambda t: t.dims.__setitem__(0, -2))),
)  # fmt: skip


def main():
    """Write all vectors and their list."""
    shutil.rmtree(ROOT, ignore_errors=True)
    listed = {"format_version": 1, "document": "docs/unified-ir-v2.md", "vectors": []}
    for make in VALID:
        bundle, inputs, outputs = make()
        bundle.write(ROOT / "valid" / make.__name__)
        listed["vectors"].append({
            "folder": f"valid/{make.__name__}", "verdict": "accept",
            "inputs": {name: tensor_json(array) for name, array in inputs.items()},
            "outputs": {name: tensor_json(array) for name, array in outputs.items()},
        })  # fmt: skip
    for rule, name, make in INVALID:
        make().write(ROOT / "invalid" / name)
        listed["vectors"].append({"folder": f"invalid/{name}", "verdict": "reject", "rule": rule})
    (ROOT / "vectors.json").write_text(json.dumps(listed, indent=1) + "\n")


if __name__ == "__main__":
    main()
