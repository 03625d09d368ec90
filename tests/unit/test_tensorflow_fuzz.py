"""Damaged and hostile SavedModels, checkpoints and graphs: only errors of our own come out."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from fixtures.tensorflow.container import unpack

from raceline.convert.formats.tensorflow import sstable
from raceline.convert.formats.tensorflow.messages import message
from raceline.convert.formats.tensorflow.snappy import decompress
from raceline.convert.readers import graph_def, saved_model
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits

FIXTURES = Path(__file__).parents[1] / "fixtures/tensorflow"
MODELS = unpack(FIXTURES / "models.xz")
OPERATORS = unpack(FIXTURES / "operators.xz")
LIMITS = Limits(max_model_bytes=1 << 26, max_nodes=20_000)


def unpacked(name, folder):
    start = f"{name}|file|"
    for file, content in MODELS.items():
        if file.startswith(start):
            path = folder / file.removeprefix(start)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
    return folder


def damaged(content, rng):
    data = bytearray(content)
    if rng.random() < 0.2:
        return bytes(data[: rng.integers(len(data))])
    for _ in range(rng.integers(1, 4)):
        data[rng.integers(len(data))] = rng.integers(256)
    return bytes(data)


def attempt(read, path):
    try:
        read(path, limits=LIMITS)
    except RacelineError as error:
        assert str(error)


def fuzz_saved_models(folder, turns, seed):
    rng = np.random.default_rng(seed)
    files = ("saved_model.pb", "variables/variables.index", "saved_model.pb")
    for name in ("two_inputs", "tf1_references", "bfloat16", "lstm"):
        clean = unpacked(name, folder / name)
        for turn in range(turns):
            path = clean / files[turn % 3]
            content = path.read_bytes()
            path.write_bytes(damaged(content, rng))
            attempt(saved_model.read, clean)
            path.write_bytes(content)


def fuzz_graphs(folder, turns, seed):
    rng = np.random.default_rng(seed)
    graphs = [name for name in OPERATORS if name.endswith("|graph")]
    path = folder / "graph.pb"
    for _ in range(turns):
        path.write_bytes(damaged(OPERATORS[graphs[rng.integers(len(graphs))]], rng))
        graph_def.recognises(path)
        attempt(graph_def.read, path)


def test_damaged_saved_models_give_errors(tmp_path):
    fuzz_saved_models(tmp_path, turns=25, seed=0)


def test_damaged_graphs_give_errors(tmp_path):
    fuzz_graphs(tmp_path, turns=250, seed=0)


@pytest.mark.slow
def test_many_damaged_models_give_errors(tmp_path):
    fuzz_saved_models(tmp_path, turns=1000, seed=1)
    fuzz_graphs(tmp_path, turns=8000, seed=1)


def graph_of(*nodes):
    """nodes: (name, op, inputs)."""
    graph = message("GraphDef")()
    for name, op, inputs in nodes:
        graph.node.add(name=name, op=op, input=inputs)
    return graph


def read(graph, tmp_path, **options):
    path = tmp_path / "graph.pb"
    path.write_bytes(graph.SerializeToString())
    return graph_def.read(path, limits=LIMITS, **options)


def constant(graph, name, sizes, dtype=1):
    node = graph.node.add(name=name, op="Const")
    node.attr["dtype"].type = dtype
    tensor = node.attr["value"].tensor
    tensor.dtype = dtype
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize("sizes", [[1 << 40], [1 << 20, 1 << 20, 1 << 20], [-1], [1 << 62, 4]])
def test_a_small_file_cannot_claim_a_large_tensor(tmp_path, sizes):
    graph = graph_of()
    constant(graph, "c", sizes).float_val.append(1)
    graph.node.add(name="y", op="Relu", input=["c"])
    with pytest.raises(BadModelError, match="limit|no proper shape"):
        read(graph, tmp_path)


def test_circles_and_loose_ends_are_told(tmp_path):
    with pytest.raises(BadModelError, match="needs its own result"):
        read(graph_of(("a", "Relu", ["b"]), ("b", "Relu", ["a"]), ("c", "Relu", ["b"])), tmp_path)
    with pytest.raises(BadModelError, match="'nothing', which nothing writes"):
        read(graph_of(("a", "Relu", ["nothing"])), tmp_path)
    with pytest.raises(BadModelError, match="share a name"):
        read(graph_of(("a", "Relu", []), ("a", "Relu", [])), tmp_path)
    with pytest.raises(UnsupportedOperatorError, match="a loop of TensorFlow 1"):
        nodes = (("m", "Merge", ["n"]), ("n", "NextIteration", ["m"]), ("e", "Exit", ["m"]))
        read(graph_of(*nodes), tmp_path)


def test_all_that_is_missing_is_told_at_once(tmp_path):
    nodes = [("x", "Placeholder", []), ("a", "Exotic", ["x"]), ("b", "Strange", ["x"]), ("c", "Relu", ["a"])]
    graph = graph_of(*nodes, ("v", "VarHandleOp", []), ("r", "ReadVariableOp", ["v"]))
    graph.node[0].attr["dtype"].type = 1
    graph.node[0].attr["shape"].shape.dim.add(size=2)
    with pytest.raises(UnsupportedOperatorError) as caught:
        read(graph, tmp_path)
    assert {use.split(":")[0] for use in caught.value.uses} == {"Exotic", "Strange", "ReadVariableOp"}


def test_functions_that_call_each_other_or_too_often_end(tmp_path):
    graph = graph_of(("y", "f0", []))
    for number in range(40):  # each calls the next twice: 2 ** 40 nodes
        function = graph.library.function.add()
        function.signature.name = f"f{number}"
        function.signature.output_arg.add(name="o", type=1)
        for side in "ab":
            function.node_def.add(name=side, op=f"f{number + 1}" if number < 39 else "NoSuch")
        function.node_def.add(name="s", op="Add", input=["a:o:0", "b:o:0"])
        function.ret["o"] = "s:z:0"
    with pytest.raises(BadModelError, match="limit of"):
        read(graph, tmp_path)
    graph.library.function[39].node_def[0].op = "f0"
    with pytest.raises(BadModelError, match="calls itself|limit"):
        read(graph, tmp_path)


def test_attributes_that_no_rule_looks_at_are_refused(tmp_path):
    graph = graph_of(("x", "Placeholder", []), ("y", "Relu", ["x"]))
    graph.node[0].attr["dtype"].type = 1
    graph.node[0].attr["shape"].shape.dim.add(size=2)
    assert read(graph, tmp_path).signature.outputs
    graph.node[1].attr["leak"].f = 0.5
    with pytest.raises(UnsupportedOperatorError, match="Relu: attribute leak"):
        read(graph, tmp_path)


def test_nan_weights_are_refused(tmp_path):
    graph = graph_of(("x", "Placeholder", []))
    graph.node[0].attr["dtype"].type = 1
    graph.node[0].attr["shape"].shape.dim.add(size=2)
    constant(graph, "w", [2]).float_val.extend([1.0, float("nan")])
    graph.node.add(name="y", op="Mul", input=["x", "w"])
    with pytest.raises(BadModelError, match="NaN"):
        read(graph, tmp_path)


def test_files_outside_the_folder_are_not_read(tmp_path):
    folder = unpacked("two_inputs", tmp_path / "model")
    index = folder / "variables/variables.index"
    shutil.move(index, tmp_path / "elsewhere")
    index.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadModelError, match="leads outside"):
        saved_model.read(folder)


def test_checksums_and_compression():
    assert sstable.crc32c(b"123456789") == 0xE3069283  # the check value of CRC-32C
    data = np.random.default_rng(0).bytes(70_001)
    whole = sstable.crc32c(data)
    assert whole == 0xFFFFFFFF ^ _slow(data)
    # "abcd" as a literal, then twelve bytes from four back: a copy that overlaps what it makes
    assert decompress(bytes([16, 3 << 2]) + b"abcd" + bytes([(12 - 1) << 2 | 2, 4, 0]), 100) == b"abcd" * 4
    for broken in (
        b"",
        b"\xff\xff\xff\xff\x0f",
        bytes([4, 3 << 2]) + b"ab",
        bytes([4, 1, 9]),
        bytes([200, 1, 0, 65]),
    ):
        with pytest.raises(ValueError):
            decompress(broken, 1000)


def _slow(data):
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc


def test_a_compressed_index_is_read(tmp_path):
    folder = unpacked("two_inputs", tmp_path / "model")
    index = folder / "variables/variables.index"
    index.write_bytes(table(dict(sstable.entries(index.read_bytes())), compress=True))
    assert saved_model.read(folder).signature.outputs


def table(items, *, compress):
    """A table with one block of data, its entries whole; written as the format's description says."""
    out = bytearray()

    def number(value):
        digits = bytearray()
        while value >= 128:
            digits.append(value & 127 | 128)
            value >>= 7
        return bytes([*digits, value])

    def block(entries):
        body = b"".join(number(0) + number(len(k)) + number(len(v)) + k + v for k, v in entries)
        body += (0).to_bytes(4, "little") + (1).to_bytes(4, "little")
        if compress:  # as one literal
            size = len(body) - 1
            body = number(len(body)) + bytes([63 << 2]) + size.to_bytes(4, "little") + body
        place = number(len(out)) + number(len(body))
        body += bytes([compress])
        out.extend(body + sstable.masked(sstable.crc32c(body)).to_bytes(4, "little"))
        return place

    data = block(sorted(items.items()))
    meta = block([])
    index = block([(max(items), data)])
    footer = (meta + index).ljust(40, b"\0")
    return bytes(out) + footer + (0xDB4775248B80FB57).to_bytes(8, "little")


@pytest.mark.parametrize("op", ["ResizeBicubic", "ResizeNearestNeighbor"])
@pytest.mark.parametrize("side", [0, -3, 2_000_000_000])
def test_pictures_of_absurd_sizes_are_told(tmp_path, op, side):
    graph = graph_of(("x", "Placeholder", ()), ("s", "Const", ()), ("y", op, ("x", "s")))
    picture, size, resized = graph.node
    picture.attr["dtype"].type = resized.attr["T"].type = 1
    for extent in (1, 4, 4, 3):
        picture.attr["shape"].shape.dim.add(size=extent)
    size.attr["dtype"].type = size.attr["value"].tensor.dtype = 3
    size.attr["value"].tensor.tensor_shape.dim.add(size=2)
    size.attr["value"].tensor.int_val.extend([side, 7])
    with pytest.raises(BadModelError, match="a picture of"):
        read(graph, tmp_path)
