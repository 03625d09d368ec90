"""Damaged, hostile and untranslatable Paddle models: a model or a deliberate error comes out."""

import io
import lzma
import struct
from pathlib import Path

import numpy as np
import pytest
from damage import flipped

from raceline.convert.formats.paddle import model, params, program
from raceline.convert.readers import paddle
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.ir import Limits, run_reference

FIXTURE = Path(__file__).parent.parent / "fixtures/paddle/operators.npz.xz"
ARRAYS = np.load(io.BytesIO(lzma.decompress(FIXTURE.read_bytes())))
SEEDS = {
    name: (ARRAYS[f"{name}/pdmodel"].tobytes(), ARRAYS[f"{name}/pdiparams"].tobytes())
    for name in ("LSTM_bidirect", "transformer")
} | {
    name: (ARRAYS[f"{name}/pdmodel"].tobytes(), b"")
    for name in ("conv_3", "set_value", "nms_0", "resize_like", "index_open", "yolo_box", "split")
}
NEW = np.load(io.BytesIO(lzma.decompress((FIXTURE.parent / "operators_json.npz.xz").read_bytes())))
NEW_SEEDS = [
    NEW[f"{name}/json"].tobytes() for name in ("conv_3", "resize_like", "split", "index_open", "set_value")
]
SMALL = Limits(max_model_bytes=50_000_000)


def write(folder, data, weights):
    path = folder / "damaged.pdmodel"
    path.write_bytes(data)
    if weights:
        path.with_suffix(".pdiparams").write_bytes(weights)
    else:
        path.with_suffix(".pdiparams").unlink(missing_ok=True)
    return path


def survives(path):
    try:
        found = paddle.read(path, limits=SMALL)
    except RacelineError:
        return
    assert found.signature.outputs


def damage(folder, count, seed):
    generator = np.random.default_rng(seed)
    seeds = list(SEEDS.values())
    for number in range(count):
        data, weights = seeds[number % len(seeds)]
        if weights and generator.random() < 0.3:
            weights = flipped(weights, generator)
        else:
            data = flipped(data, generator)
        survives(write(folder, data, weights))


def test_flipped_bytes_never_escape(tmp_path):
    damage(tmp_path, 250, 0)


@pytest.mark.slow
def test_flipped_bytes_never_escape_at_length(tmp_path):
    damage(tmp_path, 5000, 1)


def damage_json(folder, count, seed):
    generator = np.random.default_rng(seed)
    path = folder / "damaged.json"
    for number in range(count):
        data = NEW_SEEDS[number % len(NEW_SEEDS)]
        if number % 2:
            data = flipped(data, generator)
        else:  # another number, which leaves it JSON
            places = [at for at, byte in enumerate(data) if 48 <= byte < 58]
            at = places[int(generator.integers(0, len(places)))]
            data = (
                data[:at]
                + generator.choice([b"7", b"99999999999999999999", b"-1", b"null", b'"x"'])
                + data[at + 1 :]
            )
        path.write_bytes(data)
        survives(path)


def test_damaged_json_never_escapes(tmp_path):
    damage_json(tmp_path, 150, 0)


@pytest.mark.slow
def test_damaged_json_never_escapes_at_length(tmp_path):
    damage_json(tmp_path, 4000, 1)


@pytest.mark.parametrize(
    "ops",
    [
        "7", "[7]", "{}", '[{"#": "p"}]', '[{"#": "1.relu", "A": [], "I": [{"%": 5}], "O": [{"%": 6}]}]',
        '[{"#": "0.split", "A": [], "I": [{"%": 5}], "O": []}]', "[" * 30_000 + "]" * 30_000,
        '[{"#": "1.fetch", "A": [], "I": [], "O": []}]',
    ],
)  # fmt: skip
def test_json_that_is_no_program_is_refused(ops, tmp_path):
    path = tmp_path / "odd.json"
    head = '{"base_code": {"magic": "pir", "version": 1}, "program": {"regions": [{"blocks": [{"ops": '
    path.write_text(head + ops + "}]}]}}")
    assert paddle.recognises(path)
    with pytest.raises(BadModelError, match=r"odd\.json"):
        paddle.read(path)


def test_what_json_programs_cannot_is_told_at_once(tmp_path):
    text = NEW["conv_3/json"].tobytes().decode()
    path = tmp_path / "odd.json"
    path.write_text(text.replace('"1.conv2d"', '"1.exotic"'))
    with pytest.raises(UnsupportedOperatorError, match=r"pd_op\.exotic"):
        paddle.read(path)


def test_cut_files_are_refused(tmp_path):
    data, weights = SEEDS["LSTM_bidirect"]
    for kept in range(1, len(data), 211):
        with pytest.raises(BadModelError, match=r"damaged"):
            paddle.read(write(tmp_path, data[:kept], weights))
    for kept in range(1, len(weights), 137):
        with pytest.raises(BadModelError, match=r"damaged\.pdiparams"):
            paddle.read(write(tmp_path, data, weights[:kept]))
    with pytest.raises(BadModelError, match="3 bytes are left"):
        paddle.read(write(tmp_path, data, weights + b"abc"))


def example():
    data, weights = model.example_files()
    return program.message("Program").FromString(data), weights


def attribute(op, name, kind, **value):
    return op.attrs.add(name=name, type=kind, **value)


def test_weights_that_lie_about_their_size_cost_nothing(tmp_path):
    whole, weights = example()
    description = program.message("TensorDesc")(data_type=5, dims=[2**31, 2**31]).SerializeToString()
    bomb = struct.pack("<IQIi", 0, 0, 0, len(description)) + description
    with pytest.raises(BadModelError, match="ends beyond the file"):
        paddle.read(write(tmp_path, whole.SerializeToString(), bomb))
    levels = struct.pack("<IQQ", 0, 2**40, 2**60) + weights
    with pytest.raises(BadModelError, match="levels of detail"):
        paddle.read(write(tmp_path, whole.SerializeToString(), levels))


def test_weights_of_another_program_are_refused(tmp_path):
    whole, weights = example()
    whole.blocks[0].vars[1].type.lod_tensor.tensor.dims[0] = 4
    with pytest.raises(BadModelError, match=r"'w' is float32\[3, 2\] in the file.*\[4, 2\]"):
        paddle.read(write(tmp_path, whole.SerializeToString(), weights))


def test_absent_weights_are_named(tmp_path):
    whole, _ = example()
    with pytest.raises(BadModelError, match=r"damaged\.pdiparams"):
        paddle.read(write(tmp_path, whole.SerializeToString(), b""))


def test_what_cannot_be_translated_is_told_at_once(tmp_path):
    whole, weights = example()
    ops = whole.blocks[0].ops
    ops[1].type = "exotic"
    strange = ops.add(type="relu")
    strange.inputs.add(parameter="X", arguments=["x"])
    strange.outputs.add(parameter="Out", arguments=["z"])
    attribute(strange, "fuse_with_something", 6, b=True)
    norm = ops.add(type="dropout")
    norm.inputs.add(parameter="X", arguments=["x"])
    norm.outputs.add(parameter="Out", arguments=["q"])
    with pytest.raises(UnsupportedOperatorError) as caught:
        paddle.read(write(tmp_path, whole.SerializeToString(), weights))
    assert set(caught.value.uses) == {
        "exotic",
        "relu: attribute fuse_with_something=True",
        "dropout: in training mode",
    }


def test_settings_that_change_nothing_are_no_obstacle(tmp_path):
    whole, weights = example()
    attribute(whole.blocks[0].ops[3], "use_cudnn", 6, b=True)
    attribute(whole.blocks[0].ops[3], "fuse_with_something", 6, b=False)
    assert paddle.read(write(tmp_path, whole.SerializeToString(), weights)).signature.outputs


def test_cycles_and_unknown_names_are_refused(tmp_path):
    whole, weights = example()
    ops = whole.blocks[0].ops
    ops[1].inputs[0].arguments[0] = "y"
    with pytest.raises(BadModelError, match=r"'h' \(matmul_v2\) reads 'y', which nothing writes"):
        paddle.read(write(tmp_path, whole.SerializeToString(), weights))


def test_variables_that_share_a_name_are_refused(tmp_path):
    whole, weights = example()
    whole.blocks[0].vars.add(name="x")
    with pytest.raises(BadModelError, match="two variables are named 'x'"):
        paddle.read(write(tmp_path, whole.SerializeToString(), weights))


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    whole, _ = example()
    bad = params.serialised(np.float32([np.nan, 1])) + params.serialised(model.example_weight())
    path = write(tmp_path, whole.SerializeToString(), bad)
    with pytest.raises(BadModelError, match="NaN"):
        paddle.read(path)
    assert paddle.read(path, limits=Limits(allow_nan=True)).signature.outputs


@pytest.mark.parametrize("scale", [0.0, -1.0, np.nan])
def test_scales_that_make_no_sense_are_refused(scale, tmp_path):
    whole, _ = example()
    block = whole.blocks[0]
    op = block.ops[3]
    op.type = "quantize_linear"
    op.outputs[0].parameter = "Y"
    op.inputs.add(parameter="Scale", arguments=["b"])
    weights = params.serialised(np.float32([scale, 1])) + params.serialised(model.example_weight())
    path = write(tmp_path, whole.SerializeToString(), weights)
    with pytest.raises(BadModelError, match=r"scale is zero, negative or not finite|NaN"):
        paddle.read(path, limits=Limits(allow_nan=True))


@pytest.mark.parametrize(
    "names",
    [
        ("__model__", "__params__"),
        ("__model__", None),
        ("model.pdmodel", "model.pdiparams"),
        ("net.pdmodel", None),
    ],
)
def test_every_layout_of_files_is_read(names, tmp_path):
    whole, weights = example()
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / names[0]).write_bytes(whole.SerializeToString())
    if names[1]:
        (folder / names[1]).write_bytes(weights)
    else:
        (folder / "b").write_bytes(params.serialised(model.example_bias()))
        (folder / "w").write_bytes(params.serialised(model.example_weight()))
    feeds = {"x": np.float32([[1, 2, 3]])}
    for path in (folder, folder / names[0]):
        assert paddle.recognises(path)
        found = run_reference(paddle.read(path), feeds)
        np.testing.assert_allclose(found["y"], paddle.answer(feeds)["y"], rtol=1e-6)


def test_the_file_of_weights_may_be_named(tmp_path):
    whole, weights = example()
    path = write(tmp_path, whole.SerializeToString(), b"")
    (tmp_path / "other").write_bytes(weights)
    assert paddle.read(path, weights=tmp_path / "other").signature.outputs


@pytest.mark.parametrize("kind", ["while", "conditional_block", "write_to_array"])
def test_what_a_run_decides_is_refused(kind, tmp_path):
    whole, weights = example()
    whole.blocks[0].ops[3].type = kind
    with pytest.raises(UnsupportedOperatorError, match=f"{kind}: branches and loops"):
        paddle.read(write(tmp_path, whole.SerializeToString(), weights))


def test_a_reduction_without_axes_is_over_the_first(tmp_path):
    whole, weights = example()
    whole.blocks[0].ops[3].type = "reduce_sum"
    found = paddle.read(write(tmp_path, whole.SerializeToString(), weights))
    feeds = {"x": np.float32([[1, 2, 3], [4, 5, 6]])}
    expected = (feeds["x"] @ model.example_weight() + model.example_bias()).sum(0)
    np.testing.assert_allclose(run_reference(found, feeds)["y"], expected, rtol=1e-6)


@pytest.mark.parametrize("kind, name", [("group_norm", "groups"), ("instance_norm", "")])
def test_sizes_that_no_model_has_cost_nothing(kind, name, tmp_path):
    whole, _ = example()
    block = whole.blocks[0]
    del block.vars[1:3]
    del block.ops[1:3]
    block.vars[0].type.lod_tensor.tensor.dims[:] = [-1, 2**40, 2]
    op = block.ops[1]
    op.type, op.inputs[0].arguments[0], op.outputs[0].parameter = kind, "x", "Y"
    if name:
        attribute(op, name, 0, i=2**31 - 1)
    with pytest.raises(UnsupportedOperatorError, match=name or "channels"):
        paddle.read(write(tmp_path, whole.SerializeToString(), b""))


def test_folders_without_one_program_are_refused(tmp_path):
    with pytest.raises(BadModelError, match="no program files"):
        paddle.read(tmp_path)
    for name in ("a.pdmodel", "b.pdmodel"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(BadModelError, match="2 program files"):
        paddle.read(tmp_path)
    assert not paddle.recognises(tmp_path)
