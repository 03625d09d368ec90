"""What every file in convert/readers must do."""

import numpy as np
import pytest

import raceline.convert.readers as folder
from raceline.core import plugins
from raceline.core.errors import BadModelError, MissingDependencyError
from raceline.ir import Limits, Model, check, make_inputs, run_reference, suggest_sizes

NAMES = plugins.names(folder)


@pytest.fixture(params=NAMES)
def reader(request):
    return plugins.load(folder, request.param, kind="reader")


def example(reader, place):
    """The reader's example; a test that needs a framework which is not installed is skipped by its name."""
    try:
        return reader.example(place)
    except MissingDependencyError as error:
        pytest.skip(str(error))


def test_there_are_readers():
    assert "onnx" in NAMES


def test_it_says_what_it_reads(reader):
    assert reader.description
    assert "\n" not in reader.description
    assert all(extension.startswith(".") for extension in reader.extensions)
    assert isinstance(reader.extra, str)


def test_its_example_reads_checks_and_matches_its_source(reader, tmp_path):
    path = example(reader, tmp_path)
    assert reader.recognises(path)
    model = reader.read(path, limits=Limits())
    assert isinstance(model, Model)
    check(model)
    assert model.provenance.source == path.name
    assert model.provenance.source_format == reader.__name__.rpartition(".")[2]
    assert len(model.provenance.source_sha256) == 64
    for sizes in suggest_sizes(model, want=2):
        feeds = make_inputs(model.signature, model.signature.concrete(sizes), seed=0)
        expected = reader.answer(feeds)
        for name, array in run_reference(model, feeds).items():
            np.testing.assert_allclose(array, expected[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("content", [b"", b"no model at all" * 50, bytes(4096), b"\xff" * 4096])
def test_garbage_is_refused(reader, tmp_path, content):
    path = tmp_path / f"garbage{(*reader.extensions, '')[0]}"
    path.write_bytes(content)
    assert not reader.recognises(path)
    with pytest.raises(BadModelError, match="garbage"):
        reader.read(path, limits=Limits())


def test_half_a_model_is_refused(reader, tmp_path):
    path = example(reader, tmp_path)
    for part in parts(path):
        content = part.read_bytes()
        part.write_bytes(content[: len(content) // 2])
        with pytest.raises(BadModelError):
            reader.read(path, limits=Limits())
        part.write_bytes(content)


def parts(path):
    """The files of an example, which may be a file, a folder, or file.py:function."""
    if path.is_dir():
        return [file for file in sorted(path.rglob("*")) if file.is_file() and file.stat().st_size]
    return [path.with_name(path.name.partition(":")[0])]


def test_what_is_absent_is_refused(reader, tmp_path):
    path = tmp_path / f"absent{(*reader.extensions, '')[0]}"
    assert not reader.recognises(path)
    with pytest.raises(BadModelError):
        reader.read(path, limits=Limits())


def test_limits_are_kept(reader, tmp_path):
    path = example(reader, tmp_path)
    with pytest.raises(BadModelError, match="limit"):
        reader.read(path, limits=Limits(max_nodes=0))


def test_no_reader_takes_the_example_of_another(tmp_path):
    readers = {name: plugins.load(folder, name) for name in NAMES}
    for name, owner in readers.items():
        place = tmp_path / name
        place.mkdir()
        try:
            path = owner.example(place)
        except MissingDependencyError:
            continue  # the tests of that reader alone are skipped by its name
        assert [n for n, other in readers.items() if other.recognises(path)] == [name]
