"""Operations that rearrange, choose and loop: each against OpenVINO itself."""

import numpy as np
import openvino as ov
import pytest
from openvino import opset1, opset3, opset5, opset8, opset12, opset13, opset15, opset16
from openvino_oracle import answers, compare, parameters_for, saved

from raceline.convert.readers import openvino as reader
from raceline.core.errors import UnsupportedOperatorError
from raceline.ir import run_reference

RNG = np.random.default_rng(2)
o = opset13
X = RNG.normal(size=(2, 6, 4, 5)).astype(np.float32)


def f(*shape):
    return RNG.normal(size=shape).astype(np.float32)


def c(value, dtype=np.int64):
    return o.constant(np.array(value, dtype))


@pytest.mark.parametrize(
    "build",
    [
        lambda x: o.reshape(x, c([2, -1, 5]), False),
        lambda x: o.reshape(x, c([0, 0, 20]), True),
        lambda x: o.reshape(x, c([0, -1]), True),
        lambda x: o.transpose(x, c([0, 2, 3, 1])),
        lambda x: o.transpose(x, c(np.zeros(0))),
        lambda x: o.unsqueeze(x, c([0, -1])),
        lambda x: o.unsqueeze(x, c(1)),
        lambda x: o.concat([x, x, c(X, np.float32)], 1),
        lambda x: o.concat([x, x], -1),
        lambda x: o.split(x, c(1), 3).outputs(),
        lambda x: o.split(x, c(-2), 1).outputs(),
        lambda x: o.variadic_split(x, c(1), c([1, -1, 2])).outputs(),
        lambda x: o.variadic_split(x, c(3), c([2, 3])).outputs(),
        lambda x: o.tile(x, c([1, 2, 1, 3])),
        lambda x: o.tile(x, c([2, 1])),
        lambda x: o.tile(x, c([2, 1, 1, 2, 1])),
        lambda x: o.broadcast(x, c([3, 2, 6, 4, 5])),
        lambda x: o.broadcast(o.reduce_sum(x, c([1]), True), c([2, 6, 1, 1]), None, "BIDIRECTIONAL"),
        lambda x: o.broadcast(o.reduce_sum(x, c([0, 2, 3]), False), c([3, 6, 2]), c([1]), "EXPLICIT"),
        lambda x: o.shape_of(x, "i32"),
        lambda x: o.shape_of(x, "i64"),
        lambda x: o.depth_to_space(opset1.reshape(x, c([2, 12, 2, 5]), False), "blocks_first", 2),
        lambda x: o.depth_to_space(opset1.reshape(x, c([2, 12, 2, 5]), False), "depth_first", 2),
        lambda x: (
            o.depth_to_space(opset1.reshape(x, c([2, 16, 3, 5, 1]), False), "blocks_first", 2)
            if X.size == 480
            else o.relu(x)
        ),
        lambda x: o.shuffle_channels(x, 1, 3),
        lambda x: o.shuffle_channels(x, -2, 2),
        lambda x: opset1.reverse_sequence(x, c([3, 6]), 0, 1),
        lambda x: opset1.reverse_sequence(
            x, c([1, 2, 3, 4, 5, 2, 1][:4]) if False else c([4, 2, 3, 1, 2, 4]), 1, 2
        ),
        lambda x: o.roll(x, c([2, -1]), c([1, 3])),
        lambda x: o.pad(x, c([0, 1, 2, 0]), c([1, 0, 1, 2]), "constant", c(1.5, np.float32)),
        lambda x: o.pad(x, c([0, 1, 2, 0]), c([1, 0, 1, 2]), "edge"),
        lambda x: o.pad(x, c([0, 1, 2, 0]), c([1, 0, 1, 2]), "reflect"),
        lambda x: o.pad(x, c([0, 1, 2, 0]), c([1, 0, 1, 2]), "symmetric"),
        lambda x: opset12.pad(x, c([0, -1, 2, 0]), c([0, 0, -1, 2]), "constant", c(0, np.float32)),
        lambda x: opset3.space_to_batch(x, c([1, 1, 2, 3]), c([0, 0, 1, 0]), c([0, 0, 1, 1])),
        lambda x: opset3.batch_to_space(
            opset1.reshape(x, c([6, 2, 4, 5]), False), c([1, 1, 2, 3]), c([0, 0, 1, 0]), c([0, 0, 1, 2])
        ),
        lambda x: o.space_to_depth(x, "blocks_first", 1),
        lambda x: o.space_to_depth(o.reshape(x, c([2, 5, 4, 6]), False), "blocks_first", 2),
        lambda x: o.space_to_depth(o.reshape(x, c([2, 5, 4, 6]), False), "depth_first", 2),
        lambda x: [
            o.relu(x),
            o.range(c(1), c(9), c(2), "i64"),
            o.range(c(5), c(-1), c(-1.5, np.float32), "f32"),
        ],
        lambda x: [o.relu(x), o.eye(c(3), c(4), c(1), "f32"), o.eye(c(2), c(2), c(0), "i32", c([2]))],
        lambda x: o.non_zero(o.greater(x, c(0.5, np.float32)), "i32"),
        lambda x: o.bucketize(x, c([-1.0, 0, 0.5], np.float32), "i32", True),
        lambda x: o.topk(x, c(3), 1, "max", "value").outputs(),
        lambda x: o.topk(x, c(2), 2, "min", "value", "i64").outputs(),
        lambda x: o.topk(x, c(3), -1, "max", "index").outputs(),
        lambda x: o.slice(x, c([1, -1]), c([5, -4]), c([2, -1]), c([1, 3])),
        lambda x: o.gather(x, c([[0, -1], [2, 1]]), c(1)),
        lambda x: o.gather(x, c(2), c(-1)),
        lambda x: o.gather(x, c([[0, 1, 3], [2, 1, 0]]), c(1), 1),
        lambda x: o.gather(x, c([[0, 1, 3], [2, 1, 0]]), c(2), 1),
        lambda x: o.gather(x, c([[[0, 1], [3, 0]], [[2, 1], [0, 0]]]), c(3), 1),
        lambda x: o.gather_elements(x, c(np.argsort(X, 1)[:, :3]), 1),
        lambda x: o.gather_nd(x, c([[0, 1], [1, 5]]), 0),
        lambda x: o.gather_nd(x, c([[[0, 1]], [[1, 3]]]), 1),
        lambda x: opset5.gather_nd(x, c(np.zeros((2, 6, 1), int)), 2),
        lambda x: opset8.gather_nd(x, c(np.zeros((2, 6, 1), int)), 2),
        lambda x: o.scatter_update(x, c([3, 1]), c(X[:, :2] * 2, np.float32), c(1)),
        lambda x: o.scatter_update(x, c([[0], [2]]), c(f(2, 6, 2, 1, 5), np.float32), c(2)),
        lambda x: o.scatter_elements_update(
            x, c(np.argsort(X[:, :, :2], 1)), c(f(2, 6, 2, 5), np.float32), c(1)
        ),
        lambda x: opset12.scatter_elements_update(
            x, c(np.argsort(X[:, :, :2], 1)), c(f(2, 6, 2, 5), np.float32), c(1), "sum"
        ),
        lambda x: opset5.scatter_nd_update(x, c([[0, 1], [1, 5]]), c(f(2, 4, 5), np.float32)),
        lambda x: opset15.scatter_nd_update(x, c([[0, 1], [0, 1]]), c(f(2, 4, 5), np.float32), "sum"),
        lambda x: o.squeeze(o.reduce_sum(x, c([0, 2]), True), c([0, 2])),
        lambda x: opset15.squeeze(o.reduce_sum(x, c([0, 2]), True)),
        lambda x: o.convert(x, "f16"),
    ],
)
def test_rearrangements(tmp_path, build):
    compare(tmp_path, build, X)


@pytest.mark.parametrize(
    "build",
    [
        lambda x: o.reshape(x, c([0, -1, 5]), True),
        lambda x: o.reshape(x, o.concat([o.gather(o.shape_of(x), c([0]), c(0)), c([-1])], 0), False),
        lambda x: o.split(x, c(1), 3).outputs(),
        lambda x: o.variadic_split(x, c(1), c([1, -1, 2])).outputs(),
        lambda x: o.broadcast(o.reduce_sum(x, c([1]), True), o.shape_of(x)),
        lambda x: o.strided_slice(x, c([0, 1, 0]), c([0, 3, 0]), c([1, 1, 1]), [1, 0, 1], [1, 0, 1]),
        lambda x: o.pad(x, c([0, 1, 2, 0]), c([1, 0, 1, 2]), "reflect"),
        lambda x: o.topk(x, c(2), 1, "max", "value").outputs(),
        lambda x: o.softmax(x, 1),
        lambda x: o.tile(x, c([1, 2, 1, 3])),
    ],
)
def test_rearrangements_of_open_sizes(tmp_path, build):
    compare(tmp_path, build, X, opened=True)


@pytest.mark.parametrize(
    "begin, end, step, masks",
    [
        ([0, 1, 0, 0], [2, 5, 4, 5], [1, 2, 1, 1], {}),
        ([0, 1], [0, 5], [1, 2], {"begin": [1, 0], "end": [1, 0]}),
        ([0, 1, 2], [0, 2, 3], [1, 1, 1], {"begin": [1, 0, 0], "end": [1, 0, 0], "shrink_axis": [0, 1, 1]}),
        ([0, -1], [0, 0], [1, 1], {"begin": [1, 0], "end": [1, 0], "shrink_axis": [0, 1]}),
        ([0, 0, 1], [0, 0, 2], [1, 1, 1], {"ellipsis": [1, 0, 0], "new_axis": [0, 1, 0]}),
        ([0, 0, 0], [0, 0, 0], [1, -1, 1], {"begin": [1, 1, 1], "end": [1, 1, 1]}),
        ([0, 4, 3], [0, 0, 0], [1, -2, -1], {"begin": [1, 0, 0], "end": [1, 0, 1]}),
        ([1, 0, 0, 2], [0, 0, 0, 4], [1, 1, 1, 1],
         {"new_axis": [0, 1, 0, 0], "ellipsis": [0, 0, 1, 0], "shrink_axis": [1, 0, 0, 0]}),
    ],
)  # fmt: skip
def test_slices_with_masks(tmp_path, begin, end, step, masks):
    count = len(begin)
    full = [masks.get(key, [0] * count) for key in ("begin", "end", "new_axis", "shrink_axis", "ellipsis")]
    compare(tmp_path, lambda x: o.strided_slice(x, c(begin), c(end), c(step), *full), X)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_one_hot(tmp_path, axis):
    indices = np.array([[0, 2, 7], [-1, 3, 1]], np.int64)
    compare(tmp_path, lambda i: o.one_hot(i, c(5), c(2.0, np.float32), c(-1.0, np.float32), axis), indices)


def test_columns_and_order(tmp_path):
    compare(
        tmp_path,
        lambda x: opset15.col2im(x, c([6, 7]), c([2, 3]), [1, 2], [1, 1], [0, 1], [1, 0]),
        f(2, 18, 18),
    )
    for right in (True, False):
        edges = np.sort(RNG.integers(0, 9, (2, 7)), -1).astype(np.float32)
        values = RNG.integers(0, 9, (2, 4)).astype(np.float32)
        compare(tmp_path, lambda a, v, r=right: opset15.search_sorted(a, v, r), edges, values)
    repeated = RNG.integers(0, 5, 20).astype(np.int32)
    compare(tmp_path, lambda x: opset16.unique(x, None, True).outputs(), repeated)
    compare(tmp_path, lambda x: opset16.unique(x, None, False).outputs(), repeated)


@pytest.mark.parametrize("module", [opset1, opset3, opset5, opset13])
@pytest.mark.parametrize("encoding", ["corner", "center"])
@pytest.mark.parametrize("ordered", [True, False])
def test_non_maximum_suppression(tmp_path, module, encoding, ordered):
    corners = RNG.uniform(0, 8, (2, 20, 2)).astype(np.float32)
    sizes = RNG.uniform(1, 5, (2, 20, 2)).astype(np.float32)
    boxes = np.concatenate([corners, corners + sizes if encoding == "corner" else sizes], -1)
    scores = RNG.uniform(0, 1, (2, 3, 20)).astype(np.float32)

    def build(b, s):
        more = [c(6), c(0.3, np.float32), c(0.2, np.float32)]
        node = module.non_max_suppression(b, s, *more, box_encoding=encoding, sort_result_descending=ordered)
        return node.outputs()

    parameters = parameters_for([boxes, scores])
    path = saved(tmp_path, build(*parameters), parameters)
    expected = answers(path, [boxes, scores])
    found = list(run_reference(reader.read(path), {"in0": boxes, "in1": scores}).values())
    count = len(found[0])
    assert (expected[0][count:] == -1).all()  # OpenVINO fills up what it cannot make smaller
    if ordered:
        np.testing.assert_array_equal(found[0], expected[0][:count])
    else:
        assert sorted(map(tuple, found[0])) == sorted(map(tuple, expected[0][:count]))


def iterator(x, h, reverse=False, part=1):
    """A recurrent sum over slices of axis 1."""
    stride, start, end = (-part, -1, 0) if reverse else (part, 0, -1)
    piece, state = o.parameter([2, part, 4], np.float32), o.parameter([2, 1, 4], np.float32)
    new = o.tanh(o.add(o.reduce_sum(piece, c([1]), True), state))
    last, each = o.result(new), o.result(o.multiply(piece, new))
    node = o.tensor_iterator()
    node.set_body(ov.Model([last, each], [piece, state], "body"))
    node.set_sliced_input(piece, x.output(0), start, stride, part, end, 1)
    node.set_merged_input(state, h.output(0), last.output(0))
    return [
        node.get_iter_value(last.output(0), -1),
        node.get_concatenated_slices(each.output(0), start, stride, part, end, 1),
    ]


@pytest.mark.parametrize("reverse", [True, False])
@pytest.mark.parametrize("part", [1, 2])
def test_iterators(tmp_path, reverse, part):
    compare(tmp_path, lambda x, h: iterator(x, h, reverse, part), f(2, 6, 4), f(2, 1, 4))


@pytest.mark.parametrize("rounds", [0, 4])
def test_loops(tmp_path, rounds):
    def build(x):
        state, number = o.parameter([2, 3], np.float32), o.parameter([], np.int64)
        grown = o.add(o.multiply(state, c(1.5, np.float32)), o.convert(number, "f32"))
        go_on = o.less(o.reduce_max(grown, c([0, 1]), False), c(20.0, np.float32))
        body = ov.Model([go_on, grown, o.unsqueeze(grown, c(0))], [number, state], "body")
        node = o.loop(c(rounds or 100), c(True, bool))
        node.set_function(body)
        node.set_special_body_ports([0, 0])
        results = body.get_results()
        node.set_merged_input(state, x.output(0), results[1].output(0))
        last = node.get_iter_value(results[1].output(0), -1)
        return [last, node.get_concatenated_slices(results[2].output(0), 0, 1, 1, -1, 0)]

    compare(tmp_path, build, np.abs(f(2, 3)))


def test_branches(tmp_path):
    def build(x, flag):
        a, b = o.parameter([2, 3], np.float32), o.parameter([2, 3], np.float32)
        yes, no = ov.Model([o.relu(a)], [a], "yes"), ov.Model([o.exp(b)], [b], "no")
        node = o.if_op(flag)
        node.set_then_body(yes)
        node.set_else_body(no)
        node.set_input(x.output(0), a, b)
        return node.set_output(yes.get_results()[0], no.get_results()[0])

    for taken in (True, False):
        compare(tmp_path, build, f(2, 3), np.array(taken))


def test_variables_become_inputs_and_outputs(tmp_path):
    parameters = parameters_for([X[:, :3, 0, 0]])
    info = ov.op.util.VariableInfo()
    info.data_shape, info.data_type, info.variable_id = ov.PartialShape([2, 3]), ov.Type.f32, "memory"
    variable = ov.op.util.Variable(info)
    before = opset13.read_value(c(np.zeros((2, 3)), np.float32), variable)
    total = o.add(before, parameters[0])
    after = o.assign(total, variable)
    model = ov.Model([o.result(o.relu(total))], [after], parameters, "m")
    path = tmp_path / "m.xml"
    ov.save_model(model, path, compress_to_fp16=False)
    read = reader.read(path)
    assert [spec.name for spec in read.signature.inputs] == ["in0", "memory"]
    assert any("memory" in step for step in read.provenance.steps)
    request = ov.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"}).create_infer_request()
    state = np.zeros((2, 3), np.float32)
    for seed in range(3):
        x = np.random.default_rng(seed).normal(size=(2, 3)).astype(np.float32)
        expected = next(iter(request.infer([x]).values()))
        found = run_reference(read, {"in0": x, "memory": state})
        state = found["memory_next"]
        np.testing.assert_allclose(next(iter(found.values())), expected, rtol=1e-5)


def test_names_are_those_of_the_tensors(tmp_path):
    parameters = parameters_for([X])
    parameters[0].output(0).set_names({"picture", "b,c"})
    model = ov.Model([o.relu(parameters[0]), o.exp(parameters[0])], parameters, "m")
    model.outputs[0].set_names({"first"})
    ov.save_model(model, tmp_path / "m.xml")
    read = reader.read(tmp_path / "m.xml")
    assert [spec.name for spec in read.signature.inputs] == ["b,c"]
    assert read.signature.outputs[0].name == "first"
    assert read.provenance.producer.startswith("OpenVINO 20")


def test_all_that_is_not_supported_is_told_at_once(tmp_path):
    def build(x):
        one = o.random_uniform(c([2, 3]), c(0.0, np.float32), c(1.0, np.float32), "f32")
        two = o.interpolate(x, c([8, 10]), "linear", "sizes", [0, 0], [0, 0], antialias=True, axes=c([2, 3]))
        return [
            one,
            two,
            o.ctc_greedy_decoder(
                o.transpose(x, c([2, 0, 1, 3]))[0:1] if False else f(3, 2, 5), c(np.ones((3, 2)), np.float32)
            ),
        ]

    parameters = parameters_for([X])
    path = saved(tmp_path, build(*parameters), parameters)
    with pytest.raises(UnsupportedOperatorError) as caught:
        reader.read(path)
    told = " ".join(caught.value.uses)
    assert "RandomUniform" in told and "antialias" in told and "CTCGreedyDecoder" in told
