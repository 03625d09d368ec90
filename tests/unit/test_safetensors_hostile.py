"""Damaged and hostile checkpoints: a model or a deliberate error comes out, at little cost."""

import json
import struct

import numpy as np
import pytest
from damage import flipped

from raceline.convert.formats.safetensors import file, model
from raceline.convert.readers import safetensors
from raceline.core.errors import BadModelError, RacelineError
from raceline.ir import Limits

SEED = file.serialised(model.example_arrays())
SMALL = Limits(max_model_bytes=50_000_000)


def survives(data, folder, **options):
    path = folder / "damaged.safetensors"
    path.write_bytes(data)
    try:
        found = safetensors.read(path, limits=SMALL, **options)
    except RacelineError:
        return
    assert found.signature.outputs


def damage(folder, count, seed):
    generator = np.random.default_rng(seed)
    length = 8 + struct.unpack("<Q", SEED[:8])[0]
    for number in range(count):
        half = flipped(SEED[:length], generator) + SEED[length:] if number % 2 else flipped(SEED, generator)
        survives(half, folder)


def test_flipped_bytes_never_escape(tmp_path):
    damage(tmp_path, 150, 0)


@pytest.mark.slow
def test_flipped_bytes_never_escape_at_length(tmp_path):
    damage(tmp_path, 4000, 1)


def test_cut_files_are_refused(tmp_path):
    path = tmp_path / "cut.safetensors"
    for kept in [*range(1, 40), *range(40, len(SEED), 97)]:
        path.write_bytes(SEED[:kept])
        with pytest.raises(BadModelError, match=r"cut\.safetensors"):
            safetensors.read(path)


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


@pytest.mark.parametrize(
    "header, size, message",
    [
        ({"a": entry(), "b": entry(offsets=(4, 12))}, 12, "overlaps"),
        ({"a": entry(), "b": entry(offsets=(0, 8))}, 8, "overlaps"),
        ({"a": entry(), "b": entry(offsets=(12, 20))}, 20, "gap"),
        ({"a": entry(offsets=(8, 16))}, 16, "gap"),
        ({"a": entry()}, 4, "cut off"),
        ({"a": entry()}, 16, "cut off"),
        ({"a": entry(shape=(3,))}, 8, "makes no sense"),
        ({"a": entry(shape=(2**40, 2**40), offsets=(0, 8))}, 8, "makes no sense"),
        ({"a": entry(shape=(-2,))}, 8, "makes no sense"),
        ({"a": entry(shape=(2.0,))}, 8, "makes no sense"),
        ({"a": entry(shape=[1] * 16 + [2])}, 8, "makes no sense"),
        ({"a": entry(offsets=(8, 0))}, 8, "makes no sense"),
        ({"a": entry(offsets=(True, 8))}, 8, "makes no sense"),
        ({"a": {"dtype": "F32"}}, 8, "makes no sense"),
        ({"a": 7}, 8, "makes no sense"),
        ({"a": entry(dtype="F4")}, 8, "'F4'.*Known are"),
    ],
)
def test_headers_that_lie_are_refused(header, size, message, tmp_path):
    text = json.dumps(header).encode()
    path = tmp_path / "lying.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size))
    with pytest.raises(BadModelError, match=rf"lying\.safetensors.*{message}"):
        safetensors.read(path)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {"dtype": "F32", "shape": [0], '
        b'"data_offsets": [0, 0]}}',
        b"{" + b'"a":{' * 5000 + b"}" * 5001,
        b'{"a": [1, 2',
        b'{"a": "\xff\xfe"}',
        b'{"__metadata__": {}}',
    ],
)
def test_headers_that_are_nonsense_are_refused(text, tmp_path):
    path = tmp_path / "odd.safetensors"
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with pytest.raises(BadModelError, match=r"odd\.safetensors"):
        safetensors.read(path)


def test_a_header_of_claimed_size_costs_nothing(tmp_path):
    path = tmp_path / "bomb.safetensors"
    path.write_bytes(struct.pack("<Q", 2**62) + b"{}")
    with pytest.raises(BadModelError, match="header would have"):
        safetensors.read(path)


def test_weights_that_are_no_numbers_are_refused(tmp_path):
    arrays = model.example_arrays()
    arrays["fc.weight"] = arrays["fc.weight"] * np.float32(np.nan)
    path = tmp_path / "nan.safetensors"
    path.write_bytes(file.serialised(arrays))
    with pytest.raises(BadModelError, match="NaN"):
        safetensors.read(path)
    assert safetensors.read(path, limits=Limits(allow_nan=True)).signature.outputs
    arrays["fc.weight"] = np.zeros((3, 2), np.int64)
    path.write_bytes(file.serialised(arrays))
    with pytest.raises(BadModelError, match=r"fc\.weight.*int64"):
        safetensors.read(path)


@pytest.mark.parametrize("text", [b"", b"[]", b"{", b'{"model_type": 7}', b'{"model_type": "bert"}', b"\xff"])
def test_a_config_of_nonsense_is_refused(text, tmp_path):
    (tmp_path / "config.json").write_bytes(text)
    path = tmp_path / "model.safetensors"
    path.write_bytes(SEED)
    with pytest.raises(RacelineError):
        safetensors.read(path)


def test_links_out_of_the_folder_are_refused(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret.safetensors").write_bytes(SEED)
    (folder / "model.safetensors").symlink_to(tmp_path / "secret.safetensors")
    assert not safetensors.recognises(folder)
    with pytest.raises(BadModelError, match="outside"):
        safetensors.read(folder)
