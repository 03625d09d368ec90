"""A reader of bundles written from docs/unified-ir-v2.md alone, with json, NumPy and onnx.

It shares no code with Raceline: that it agrees with Raceline's reader about every vector shows that the document
says enough.
"""

import hashlib
import json
import math
import os
import re
import stat

import ml_dtypes
import numpy as np
import onnx
import onnx.inliner
from onnx import TensorProto, checker, shape_inference
from onnx.reference import ReferenceEvaluator

CONTRIBUTED = "com.microsoft"
FUSED = "raceline"
MOST_MANIFEST_BYTES = 64 * 2**20
PARTS = {
    "top": {"format", "format_version", "signature", "provenance", "model_sha256", "files", "profile",
            "equivalence"},
    "signature": {"inputs", "outputs", "batch_axis"},
    "spec": {"name", "dtype", "shape", "values"},
    "values": {"low", "high", "choices", "source"},
    "provenance": {"source", "source_format", "source_sha256", "producer", "steps"},
    "file": {"sha256", "size_bytes"},
    "profile": {"platform", "model_sha256", "shapes", "measurements", "variant"},
    "measurement": {"candidate", "latency_s", "latency_p99_s", "memory_bytes", "clock_hz", "energy_j", "runs",
                    "failure", "accuracy"},
    "accuracy": {"metric", "full", "quantised", "items", "origin", "labelled"},
    "candidate": {"engine", "precision", "threads", "batch", "streams", "variant", "chunk", "optimise", "pinned"},
}  # fmt: skip
BITS = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.INT2: 2, TensorProto.UINT2: 2,
        TensorProto.FLOAT4E2M1: 4}  # fmt: skip
WEIGHTS_ONLY = {*BITS, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT8E4M3FNUZ, TensorProto.FLOAT8E5M2,
                TensorProto.FLOAT8E5M2FNUZ, TensorProto.FLOAT8E8M0}  # fmt: skip


class RejectedError(Exception):
    """The bundle breaks a rule; the message begins with its number."""


def need(condition, rule, why=""):
    """Reject the bundle unless the condition holds."""
    if not condition:
        raise RejectedError(f"{rule} {why}".strip())


def read(folder):
    """The manifest and the model with its weights inside.

    Raises:
        RejectedError: the bundle breaks a rule.
    """
    try:
        directory = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise RejectedError("F1 there is no folder") from error
    try:
        sheet = manifest(content(directory, "bundle.json", MOST_MANIFEST_BYTES))
        held = {}
        for name, entry in sheet["files"].items():
            held[name] = content(directory, name)
            need(len(held[name]) == entry["size_bytes"], "F5", name)
            need(hashlib.sha256(held[name]).hexdigest() == entry["sha256"], "F6", name)
    finally:
        os.close(directory)
    proto = model(held)
    check_signature(sheet["signature"], proto)
    return sheet, proto


def run(proto, inputs):
    """Outputs of a model by name; functions are inlined, for a body is what a call means."""
    proto = onnx.inliner.inline_local_functions(proto)
    names = [output.name for output in proto.graph.output]
    return dict(zip(names, ReferenceEvaluator(proto).run(names, inputs), strict=True))


def content(directory, name, most=None):
    """A plain file's bytes; links are not followed."""
    try:
        handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=directory)
    except FileNotFoundError as error:
        raise RejectedError(f"F3 {name}") from error
    except OSError as error:
        raise RejectedError(f"F2 {name}") from error
    status = os.fstat(handle)
    if not stat.S_ISREG(status.st_mode):
        os.close(handle)
        raise RejectedError(f"F2 {name}")
    with os.fdopen(handle, "rb") as file:
        need(most is None or status.st_size <= most, "F4")
        return file.read()


# ---------------------------------------------------------------- the manifest


def manifest(text):
    """`bundle.json`, checked."""

    def once(pairs):
        need(len({name for name, _ in pairs}) == len(pairs), "M1", "a name twice")
        return dict(pairs)

    def refuse(constant):
        raise RejectedError(f"M1 {constant}")

    try:
        sheet = json.loads(text.decode("utf-8"), object_pairs_hook=once, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise RejectedError("M1 no JSON") from error
    need(isinstance(sheet, dict) and sheet.get("format") == "raceline.bundle", "M2")
    version = sheet.get("format_version")
    need(type(version) is int and version in (1, 2), "M3", repr(version))
    part("top", sheet)
    signature(sheet["signature"])
    part("provenance", sheet["provenance"])
    for key, value in sheet["provenance"].items():
        need(isinstance(value, list if key == "steps" else str), "M5", key)
    need(all(isinstance(step, str) for step in sheet["provenance"]["steps"]), "M5")
    digest(sheet["model_sha256"])
    need(isinstance(sheet["files"], dict), "M5")
    for name, entry in sheet["files"].items():
        need(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name), "M6", name)
        part("file", entry)
        digest(entry["sha256"])
        whole(entry["size_bytes"], 0)
    need("model.onnx" in sheet["files"] and "bundle.json" not in sheet["files"], "M6")
    if sheet["profile"] is not None:
        profile(sheet["profile"], version)
    need(sheet["equivalence"] is None or isinstance(sheet["equivalence"], dict), "M8")
    return sheet


def part(kind, data, required=None):
    """An object with exactly the keys of its kind."""
    need(isinstance(data, dict), "M5", kind)
    required = PARTS[kind] if required is None else required
    need(required <= data.keys() <= PARTS[kind], "M4", f"{kind}: {sorted(data)}")


def whole(value, least, rule="M5"):
    """An integer that is no boolean."""
    need(type(value) is int, "M5" if rule == "M5" else rule, repr(value))
    need(value >= least, rule, repr(value))


def number(value, rule="M5"):
    """A finite number that is no boolean."""
    need(type(value) in (int, float) and math.isfinite(value), rule, repr(value))


def digest(value):
    """64 lower-case hexadecimal digits."""
    need(isinstance(value, str) and re.fullmatch(r"[0-9a-f]{64}", value), "M7", repr(value))


def signature(data):
    """The signature on its own; `check_signature` holds it against the graph."""
    part("signature", data)
    need(data["batch_axis"] is None or isinstance(data["batch_axis"], str), "M5")
    for side in ("inputs", "outputs"):
        need(isinstance(data[side], list), "M5", side)
        for spec in data[side]:
            part("spec", spec)
            need(isinstance(spec["name"], str) and isinstance(spec["dtype"], str), "M5")
            need(isinstance(spec["shape"], list), "M5")
            for dim in spec["shape"]:
                need(type(dim) is int and dim >= 1 or isinstance(dim, str) and dim, "M5", f"axis {dim!r}")
            if spec["values"] is not None:
                values(spec["values"])
            axis = data["batch_axis"]
            need(axis is None or spec["shape"][:1] == [axis], "S4", spec["name"])


def values(data):
    """What an input may hold."""
    part("values", data)
    need(isinstance(data["choices"], list) and isinstance(data["source"], str), "M5")
    for value in (data["low"], data["high"], *data["choices"]):
        number(value)
    need(data["low"] <= data["high"], "S5")


def profile(data, version):
    """What was measured."""
    part("profile", data, PARTS["profile"] - {"measurements", "variant"})
    need(isinstance(data["platform"], str) and isinstance(data["model_sha256"], str), "M5")
    need(isinstance(data["shapes"], dict), "M5")
    for shape in data["shapes"].values():
        need(isinstance(shape, list) and all(type(size) is int for size in shape), "M5")
    for row in data.get("measurements", []):
        part("measurement", row, {"candidate"})
        need(version > 1 or "accuracy" not in row, "M4", "accuracy came with version 2")
        if row.get("accuracy") is not None:
            accuracy(row["accuracy"])
        way = row["candidate"]
        part("candidate", way, {"engine"})
        for key, least in (("threads", 1), ("batch", 1), ("streams", 1), ("chunk", 0)):
            whole(way.get(key, 1), least, "P1")
        for key in ("memory_bytes", "runs"):
            whole(row.get(key, 0), 0, "P1")
        for key in ("latency_s", "latency_p99_s"):
            number(row.get(key, 0.0), "P1")
            need(row.get(key, 0.0) >= 0, "P1", key)
        need(row.get("failure") or row.get("latency_s", 0) > 0, "P1", "no latency and no failure")


def accuracy(data):
    """What fewer bits cost."""
    part("accuracy", data, {"metric", "full", "quantised", "items", "origin"})
    need(isinstance(data["metric"], str) and isinstance(data["origin"], str), "M5")
    need(isinstance(data.get("labelled", False), bool), "M5")
    whole(data["items"], 1, "P1")
    for key in ("full", "quantised"):
        number(data[key], "P1")


# ---------------------------------------------------------------- the model


def model(held):
    """The graph with its weights inside, checked."""
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(held["model.onnx"])
    except Exception as error:
        raise RejectedError("G1 no protobuf") from error
    need(proto.ir_version >= 1, "G1")
    need(proto.graph.output, "G5")
    imports = {"" if o.domain == "ai.onnx" else o.domain: o.version for o in proto.opset_import}
    need(imports, "G2")
    need(imports.get("", 1) <= onnx.defs.onnx_opset_version(), "G2", "too new")
    for graph in graphs(proto):
        need(not graph.sparse_initializer, "G7")
        for tensor in graph.initializer:
            fill(tensor, held)
    functions(proto)
    operators(proto, imports)
    scopes(proto.graph, [])
    for value in (*proto.graph.input, *proto.graph.output):
        tensor = value.type.tensor_type if value.type.HasField("tensor_type") else None
        need(tensor is None or tensor.HasField("shape"), "S3", value.name)
    try:
        copy = onnx.ModelProto()
        copy.CopyFrom(proto)
        checker.check_model(copy)
        shape_inference.infer_shapes(copy, check_type=True, strict_mode=True)
    except (checker.ValidationError, shape_inference.InferenceError) as error:
        raise RejectedError(f"G9 {error}") from error
    return proto


def nodes_of(nodes):
    """Nodes and those of the graphs inside them."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from nodes_of(graph.node)


def graphs(proto):
    """The main graph and those inside nodes."""
    yield proto.graph
    for nodes in (proto.graph.node, *(f.node for f in proto.functions)):
        for node in nodes_of(nodes):
            for attribute in node.attribute:
                need(not attribute.HasField("sparse_tensor") and not attribute.sparse_tensors, "G7")
                need(attribute.type != attribute.UNDEFINED, "G7")
                yield from (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs)


def fill(tensor, held):
    """Bring a tensor's bytes inside."""
    need(all(dim >= 0 for dim in tensor.dims), "W3", tensor.name)
    if tensor.data_type == TensorProto.STRING:
        return
    try:
        bits = (
            BITS.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
        )
    except KeyError as error:
        raise RejectedError(f"W2 {tensor.name}: unknown type") from error
    needed = math.ceil(math.prod(tensor.dims) * bits / 8)
    if tensor.data_location != TensorProto.EXTERNAL:
        if tensor.HasField("raw_data"):
            need(len(tensor.raw_data) == needed, "W2", tensor.name)
        return
    entries = {entry.key: entry.value for entry in tensor.external_data}
    need(entries.get("location") == "weights.bin" and "weights.bin" in held, "W1", tensor.name)
    try:
        offset, length = int(entries.get("offset", 0)), int(entries.get("length", needed))
    except ValueError as error:
        raise RejectedError("W2 no number") from error
    need(length == needed and offset >= 0 and offset + needed <= len(held["weights.bin"]), "W2", tensor.name)
    tensor.raw_data = held["weights.bin"][offset : offset + needed]
    tensor.data_location = TensorProto.DEFAULT
    del tensor.external_data[:]


def functions(proto):
    """Functions are there once and do not call themselves."""
    known = {(f.domain, f.name): f for f in proto.functions}
    need(len(known) == len(proto.functions), "O2", "twice")
    calls = {
        key: {(n.domain, n.op_type) for n in nodes_of(f.node)} & known.keys() for key, f in known.items()
    }
    for _ in known:
        calls = {
            key: inner.union(*(calls[k] for k in inner)) if inner else inner for key, inner in calls.items()
        }
    need(not any(key in inner for key, inner in calls.items()), "O2", "a circle")
    for function in proto.functions:
        written = set(function.input)
        for node in function.node:
            need(set(filter(None, node.input)) <= written, "O3", function.name)
            written |= set(node.output)
        need(set(function.output) <= written, "O3", function.name)


def operators(proto, imports):
    """Every operator is defined."""
    known = {(f.domain, f.name) for f in proto.functions}
    bodies = [(proto.graph.node, imports)]
    bodies += [(f.node, imports | {o.domain: o.version for o in f.opset_import}) for f in proto.functions]
    for nodes, versions in bodies:
        for node in nodes_of(nodes):
            domain = "" if node.domain == "ai.onnx" else node.domain
            if (node.domain, node.op_type) in known or domain == CONTRIBUTED:
                continue
            need(domain != FUSED, "O1", node.op_type)
            need(domain in versions, "G3", node.op_type)
            try:
                schema = onnx.defs.get_schema(node.op_type, versions[domain], domain)
            except onnx.defs.SchemaError as error:
                raise RejectedError(f"G3 {node.op_type}") from error
            need(not schema.deprecated, "G3", node.op_type)


def scopes(graph, outer):
    """Every name is written once and before it is read."""
    written = [value.name for value in graph.input]
    weights = [tensor.name for tensor in graph.initializer]
    need(len(set(written)) == len(written) and len(set(weights)) == len(weights), "G4")
    names = set(written) | set(weights)
    for node in graph.node:
        visible = names.union(*outer)
        need(set(filter(None, node.input)) <= visible, "G4", node.name)
        for attribute in node.attribute:
            for inner in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                scopes(inner, [*outer, names])
        for name in filter(None, node.output):
            need(name not in names, "G4", name)
            names.add(name)
    outputs = [value.name for value in graph.output]
    need(set(outputs) <= names.union(*outer), "G5")


def check_signature(data, proto):
    """The signature says what the graph says."""
    weights = {tensor.name for tensor in proto.graph.initializer}
    sides = {
        "inputs": [value for value in proto.graph.input if value.name not in weights],
        "outputs": list(proto.graph.output),
    }
    for side, declared in sides.items():
        need([spec["name"] for spec in data[side]] == [value.name for value in declared], "S1", side)
        for spec, value in zip(data[side], declared, strict=True):
            need(value.type.HasField("tensor_type"), "G6", value.name)
            kind = value.type.tensor_type
            need(kind.elem_type not in WEIGHTS_ONLY, "G6", value.name)
            need(kind.elem_type and spec["dtype"] == dtype_name(kind.elem_type), "S2", value.name)
            dims = [dim.dim_value for dim in kind.shape.dim]
            need(len(dims) == len(spec["shape"]), "S3", value.name)
            for dim, size in zip(dims, spec["shape"], strict=True):
                need(dim <= 0 or dim == size, "S3", value.name)


def dtype_name(element):
    """NumPy's name of an element type."""
    if element == TensorProto.BFLOAT16:
        return np.dtype(ml_dtypes.bfloat16).name
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(element)).name
