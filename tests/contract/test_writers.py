"""What every file in convert/writers must do."""

import inspect
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import raceline.convert.writers as folder
from raceline.convert import IRTranslator, writing
from raceline.core import plugins
from raceline.core.errors import BadModelError, ConfigError, UnknownNameError
from raceline.engines import Tolerance
from raceline.ir import Model, check, structural_sha256

NAMES = plugins.names(folder)


@pytest.fixture(params=NAMES)
def name(request):
    return request.param


def target(name, place):
    """Where a writer writes to: a file, or a folder for a format that is one."""
    return place / f"net{writing.writer(name).extension if name != 'openvino' else ''}"


def other(model):
    """The same model with its weights changed."""
    copy = model.clone()
    for value in copy.program.graph.initializers.values():
        array = value.const_value.numpy()
        if array.ndim == 2:
            value.const_value = type(value.const_value)(np.ascontiguousarray(array[::-1]), name=value.name)
    return copy


def test_there_are_writers():
    assert {"onnx", "openvino", "mnn", "qdq_onnx"} <= set(NAMES)


def test_it_says_what_it_writes(name):
    writer = writing.writer(name)
    assert writer.description and "\n" not in writer.description
    assert writer.extension == "" or writer.extension.startswith(".")
    assert isinstance(writer.extra, str) and isinstance(writer.exact_types, bool)
    assert isinstance(writer.tolerance(), Tolerance)


def test_its_options_have_names_and_defaults(name):
    parameters = list(inspect.signature(writing.writer(name).write).parameters.values())[2:]
    assert all(p.kind is p.KEYWORD_ONLY and p.default is not p.empty for p in parameters)


def test_its_example_is_written_whole_and_proven(name, tmp_path):
    model = writing.writer(name).example()
    assert isinstance(model, Model)
    check(model)
    before = structural_sha256(model)
    path = target(name, tmp_path)
    files = IRTranslator().export(model, path, output_format=name)
    assert files and all(file.is_file() for file in files)
    assert files[0] == path or files[0].parent == path
    assert structural_sha256(model) == before
    assert [entry for entry in tmp_path.iterdir() if entry != path and entry not in files] == []
    proof = writing.prove(model, name, path)
    assert proof.ok, proof
    assert len(proof.cases) >= 2
    assert {output.name for output in proof.outputs} == {spec.name for spec in model.signature.outputs}


def test_the_proof_fails_for_another_model(name, tmp_path):
    model = writing.writer(name).example()
    path = target(name, tmp_path)
    writing.write(other(model), path, name)
    assert not writing.prove(model, name, path).ok


def test_it_replaces_what_it_wrote_before(name, tmp_path):
    model = writing.writer(name).example()
    path = target(name, tmp_path)
    writing.write(other(model), path, name)
    writing.write(model, path, name)
    assert writing.prove(model, name, path, sizes=[{"n": 2}], seeds=(0,)).ok


def test_it_makes_the_folders_above(name, tmp_path):
    path = target(name, tmp_path / "a/b")
    assert writing.write(writing.writer(name).example(), path, name)


def test_it_does_not_write_into_a_file_as_if_it_were_a_folder(name, tmp_path):
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(ConfigError, match="taken"):
        writing.write(writing.writer(name).example(), target(name, tmp_path / "taken"), name)
    assert (tmp_path / "taken").read_text() == "mine"


def test_it_does_not_replace_a_folder_of_other_things(name, tmp_path):
    path = target(name, tmp_path)
    path.mkdir()
    (path / "photo.jpg").write_text("mine")
    with pytest.raises(ConfigError, match="net"):
        writing.write(writing.writer(name).example(), path, name)
    assert (path / "photo.jpg").read_text() == "mine"
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_an_option_it_does_not_have_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="no option 'colour'"):
        writing.write(writing.writer(name).example(), target(name, tmp_path), name, colour="red")


def test_garbage_does_not_run(name, tmp_path):
    path = tmp_path / f"garbage{writing.writer(name).extension}"
    path.write_bytes(b"no model at all" * 50)
    model = writing.writer(name).example()
    with pytest.raises((BadModelError, Exception), match="garbage"):
        writing.prove(model, name, path, sizes=[{"n": 1}], seeds=(0,))


def test_unknown_formats_are_told():
    with pytest.raises(UnknownNameError, match="openvino"):
        writing.writer("onyx")


LOOP = """
import sys
from pathlib import Path
sys.path[:0] = {path!r}
from test_writers import other, target, writing
name, place = sys.argv[1], Path(sys.argv[2])
models = [writing.writer(name).example(), other(writing.writer(name).example())]
options = {options!r}
for turn in range(1000):
    writing.write(models[turn % 2], target(name, place), name, **options)
    print(turn, flush=True)
"""


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("onnx", {"external_bytes": 0}),
        pytest.param("qdq_onnx", {}, marks=pytest.mark.slow),
        pytest.param("openvino", {}, marks=pytest.mark.slow),
        pytest.param("mnn", {}, marks=pytest.mark.slow),
    ],
)
def test_a_kill_leaves_the_old_or_the_new(name, options, tmp_path):
    first = writing.writer(name).example()
    for wait_s in (0.004, 0.017):
        code = LOOP.format(path=sys.path, options=options)
        with subprocess.Popen(
            [sys.executable, "-c", code, name, str(tmp_path)], stdout=subprocess.PIPE
        ) as loop:
            loop.stdout.readline()
            time.sleep(wait_s)
            loop.send_signal(signal.SIGKILL)
        cases = [{"n": 2}]
        proofs = [
            writing.prove(model, name, target(name, tmp_path), sizes=cases, seeds=(0,))
            for model in (first, other(first))
        ]
        assert [proof.ok for proof in proofs] in ([True, False], [False, True])
