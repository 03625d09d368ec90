"""Small files that claim to be large: refused in a child process whose memory is measured."""

import io
import subprocess
import sys
import zipfile
import zlib

import h5py
import pytest

from raceline.convert.files import Archive
from raceline.convert.readers import keras
from raceline.core.errors import BadModelError
from raceline.ir import Limits

MOST_GROWTH_MB = 300  # over what importing the reader takes; the bombs are of gigabytes
MEASURE = """
import resource, sys
from pathlib import Path
from raceline.convert import IRTranslator
from raceline.core import plugins
import raceline.convert.readers as folder
from raceline.core.errors import BadModelError

def peak_mb():
    kinds = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(kind).ru_maxrss for kind in kinds) // 1024

import h5py, onnx, onnx_ir
translator = IRTranslator(sys.argv[2])
plugins.load(folder, sys.argv[2], kind="input format").recognises(Path(sys.argv[1]))
before = peak_mb()
try:
    translator.parse(sys.argv[1])
except BadModelError as error:
    print(peak_mb() - before, error)
"""


def refusal(path, reader, most_mb=MOST_GROWTH_MB):
    """The message, once the memory that it took is known to be small."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), reader], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0 and done.stdout, done.stderr[-2000:]
    grown_mb, _, message = done.stdout.partition(" ")
    assert int(grown_mb) < most_mb, message
    return message


def packed(path, size_bytes, name, **others):
    """An archive whose member `name` is a JSON text of that size, in a few kilobytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for other, content in others.items():
            file.writestr(other, content)
        info = zipfile.ZipInfo(name)
        info.compress_type = zipfile.ZIP_DEFLATED
        with file.open(info, "w") as member:
            member.write(b"[")
            for _ in range(size_bytes // 6 >> 20):
                member.write(b"[],[]," * (1 << 20))
            member.write(b"0]")
    return path


CASES = {
    "keras": ("model.keras", "config.json", {"metadata.json": "{}", "model.weights.h5": b""}),
    "torch_export": ("model.pt2", "m/models/model.json", {"m/archive_format": "pt2"}),
    "torchscript": ("model.pt", "m/code/m.py", {"m/constants.pkl": b"", "m/data.pkl": b""}),
    "sklearn": ("model.skops", "schema.json", {}),
}


@pytest.mark.parametrize("reader", CASES)
def test_texts_in_archives_are_refused_unread(tmp_path, reader):
    name, member, others = CASES[reader]
    path = packed(tmp_path / name, 100 << 20, member, **others)
    assert path.stat().st_size < 4 << 20
    assert f"member '{member}' expands to" in refusal(path, reader)


def test_a_json_that_would_swell_once_parsed_is_refused(tmp_path):
    path = packed(tmp_path / "model.keras", 12 << 20, "config.json", **{"model.weights.h5": b""})
    with pytest.raises(BadModelError, match=r"model\.keras is too large"):
        keras.read(path, limits=Limits(max_model_bytes=100 << 20))


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_packings_that_cannot_be_stopped_half_way_are_refused(tmp_path, method):
    """zipfile expands all it has read of these, however few bytes it is asked for."""
    path = tmp_path / "model.pt2"
    with zipfile.ZipFile(path, "w", method) as file:
        file.writestr("x", bytes(100))
    with pytest.raises(BadModelError, match="'x' is packed by method"):
        Archive(path, Limits())


def far_too_many(group):
    group.create_dataset("0", (1 << 15, 1 << 15), "f4", chunks=(1 << 12, 1 << 12), compression="gzip")


def one_chunk(group):
    """A chunk that unpacks to 3 GiB where 24 bytes have room."""
    size = {"chunks": (3, 2), "maxshape": (None, None)}
    dataset = group.create_dataset("0", (3, 2), "f4", compression="gzip", **size)
    packer = zlib.compressobj()
    head = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    again = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    dataset.id.write_direct_chunk((0, 0), head + again * 3071)


@pytest.mark.parametrize("fill", [far_too_many, one_chunk])
def test_arrays_of_hdf5_are_bounded_while_they_are_unpacked(tmp_path, fill):
    weights = io.BytesIO()
    with h5py.File(weights, "w") as file:
        fill(file.create_group("layers/dense/vars"))
    path = keras.example(tmp_path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in (members | {"model.weights.h5": weights.getvalue()}).items():
            archive.writestr(name, content)
    assert path.stat().st_size < 1 << 16
    message = refusal(path, "keras", most_mb=1100)
    assert "layers/dense/vars/0" in message


def test_xml_of_one_long_text_is_read_in_proportion(tmp_path):
    """Joining piece after piece would copy gigabytes for these 40 MB."""
    path = tmp_path / "model.xml"
    path.write_text('<net name="x" version="11"><layers>' + "a " * 20_000_000 + "</layers></net>")
    assert "it has no layers" in refusal(path, "openvino")
