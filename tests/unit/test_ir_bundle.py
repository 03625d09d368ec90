"""Bundles: whole or not at all, whatever happens to the disk, the process or the files."""

import errno
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import ir_models as m
import ml_dtypes
import numpy as np
import onnx_ir
import pytest

from raceline.core.errors import BadModelError, ConfigError, UnavailableError
from raceline.ir import (
    Bundle,
    Candidate,
    Measurement,
    Profile,
    run_reference,
    structural_sha256,
    write_onnx,
)
from raceline.ir import store as folder_store

FEEDS = {"x": np.random.default_rng(1).standard_normal((5, 4)).astype(np.float32)}
WIDE = 4096


def wide(folder, value=1.0):
    """y = x w with a weight of 64 KiB, all elements `value`; its provenance says so too."""
    weight = m.tensor("w", np.full((4, WIDE), value))
    node = m.helper.make_node("MatMul", ["x", "w"], ["y"])
    made = m.proto([node], [m.info("x", ["n", 4])], [m.info("y", ["n", WIDE])], [weight])
    return m.read(made, folder).with_step(f"value {value}")


@pytest.fixture
def model(tmp_path):
    return wide(tmp_path)


def profile_of(model):
    rows = (
        Measurement(Candidate("onnxruntime", threads=2), 0.01, 0.02, 10**6, None, None, 30),
        Measurement(Candidate("mnn"), failure="no kernel for Gelu"),
    )
    return Profile("machine", structural_sha256(model), {"x": (1, 4)}, rows)


def test_what_is_written_is_what_is_opened(tmp_path, model):
    report = {"verdict": True, "outputs": [{"name": "y", "max_abs": 1e-7}]}
    profile = profile_of(model)
    written = Bundle.write(
        tmp_path / "b", model, profile=profile, equivalence=report, attachments={"report.html": b"<p>"}
    )
    for bundle in (written, Bundle.open(tmp_path / "b")):
        assert bundle.model.signature == model.signature
        assert bundle.model.provenance == model.provenance
        assert bundle.profile == profile
        assert bundle.equivalence == report
        assert bundle.attachments == {"report.html": b"<p>"}
        assert bundle.model_sha256 == structural_sha256(model) == structural_sha256(bundle.model)
        np.testing.assert_array_equal(
            run_reference(bundle.model, FEEDS)["y"], run_reference(model, FEEDS)["y"]
        )
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == [
        "bundle.json", "model.onnx", "report.html", "weights.bin",
    ]  # fmt: skip
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_runtimes_load_it_where_it_lies(tmp_path, model):
    import openvino

    bundle = Bundle.write(tmp_path / "b", model)
    expected = run_reference(model, FEEDS)["y"]
    np.testing.assert_allclose(m.judged(bundle.model_path, FEEDS)["y"], expected, rtol=1e-6)
    exact = {"INFERENCE_PRECISION_HINT": "f32"}  # on CPUs with bf16 units it would take those by itself
    got = openvino.compile_model(str(bundle.model_path), "CPU", exact)(FEEDS)
    np.testing.assert_allclose(got["y"], expected, rtol=1e-6)


def test_fused_operators_stay_fused(tmp_path):
    model = m.read(m.fused(), tmp_path)
    again = Bundle.write(tmp_path / "b", model).model
    assert list(again.program.functions) == list(model.program.functions)


def test_weights_are_mapped_and_aligned(tmp_path, model):
    bundle = Bundle.write(tmp_path / "b", model)
    array = bundle.model.program.graph.initializers["w"].const_value.numpy()
    assert not array.flags.owndata
    assert not array.flags.writeable
    assert array.ctypes.data % 4096 == 0


def test_small_element_types_survive(tmp_path):
    model = m.read(m.perceptron(), tmp_path)
    arrays = {
        "brain": np.arange(2000).astype(ml_dtypes.bfloat16),
        "nibbles": (np.arange(5001) % 15 - 7).astype(ml_dtypes.int4),
    }
    for name, array in arrays.items():
        value = onnx_ir.val(name, const_value=onnx_ir.Tensor(array, name=name))
        model.program.graph.register_initializer(value)
    again = Bundle.write(tmp_path / "b", model).model.program.graph.initializers
    for name, array in arrays.items():
        got = again[name].const_value.numpy()
        assert got.dtype == array.dtype
        np.testing.assert_array_equal(got.astype(int), array.astype(int))


def test_a_model_without_large_weights_has_no_weights_file(tmp_path):
    bundle = Bundle.write(tmp_path / "b", m.read(m.perceptron(), tmp_path))
    assert sorted(bundle.files) == ["model.onnx"]
    assert Bundle.open(tmp_path / "b").model.signature.inputs


SECRET = "/home/somebody/secret/train.py"


def noted(message):
    """The message with a note wherever onnx has room for one, in everything inside it."""
    for name in {"doc_string", "metadata_props"}.intersection(message.DESCRIPTOR.fields_by_name):
        if name == "doc_string":
            message.doc_string = SECRET
        else:
            message.metadata_props.add(key="pkg.torch.onnx.stack_trace", value=SECRET)
    for field, value in message.ListFields():
        if field.message_type is not None and field.name != "metadata_props":
            for part in [value] if hasattr(value, "DESCRIPTOR") else value:
                noted(part)
    return message


def test_what_exporters_note_of_their_machine_is_not_written(tmp_path):
    branch = m.helper.make_graph(
        [m.helper.make_node("Constant", [], ["c"], value=m.tensor("", np.full(4, 2.0)))],
        "branch", [], [m.info("c", [4])],
    )  # fmt: skip
    nodes = [
        m.helper.make_node("Constant", [], ["yes"], value=m.helper.make_tensor("", 9, [], [True])),
        m.helper.make_node("If", ["yes"], ["c"], then_branch=branch, else_branch=branch),
        m.helper.make_node("Mul", ["x", "c"], ["z"]),
        m.helper.make_node("MatMul", ["z", "w"], ["y"]),
    ]
    weight = m.tensor("w", np.ones((4, WIDE)))
    made = m.proto(nodes, [m.info("x", ["n", 4])], [m.info("y", ["n", WIDE])], [weight])
    made.graph.value_info.append(m.info("z", ["n", 4]))
    noted(made.graph)
    made.doc_string = "reads digits"
    made.metadata_props.add(key="imgsz", value="[8, 8]")
    made.metadata_props.add(key="pkg.torch.export.signature", value=SECRET)
    model = m.read(made, tmp_path)
    assert SECRET.encode() in onnx_ir.to_proto(model.program).SerializeToString()
    written = Bundle.write(tmp_path / "b", model)
    for file in (tmp_path / "b").iterdir():
        assert b"secret" not in file.read_bytes()
    program = written.model.program
    assert program.doc_string == "reads digits" and dict(program.metadata_props) == {"imgsz": "[8, 8]"}
    assert written.model_sha256 == structural_sha256(model)
    np.testing.assert_array_equal(run_reference(written.model, FEEDS)["y"], run_reference(model, FEEDS)["y"])


def test_numbers_that_json_lacks_become_null(tmp_path, model):
    bundle = Bundle.write(
        tmp_path / "b", model, equivalence={"max": float("nan"), "rows": [float("inf"), 1.5]}
    )
    assert bundle.equivalence == {"max": None, "rows": [None, 1.5]}


def test_an_unsound_model_is_not_written(tmp_path, model):
    broken = replace(model, signature=replace(model.signature, outputs=()))
    with pytest.raises(BadModelError, match="outputs"):
        Bundle.write(tmp_path / "b", broken)
    assert not (tmp_path / "b").exists()


# Replacing --------------------------------------------------------------------------------------------------


def test_a_bundle_takes_the_place_of_another_and_readers_of_the_old_go_on(tmp_path, model):
    old = Bundle.write(tmp_path / "b", model, attachments={"notes.txt": b"old"})
    new = Bundle.write(tmp_path / "b", wide(tmp_path, 2.0))
    assert old.attachments == {"notes.txt": b"old"}
    np.testing.assert_array_equal(
        run_reference(old.model, FEEDS)["y"] * 2, run_reference(new.model, FEEDS)["y"]
    )
    assert sorted(p.name for p in (tmp_path / "b").iterdir()) == ["bundle.json", "model.onnx", "weights.bin"]


def test_a_bundle_can_be_written_over_its_own_source(tmp_path, model):
    opened = Bundle.write(tmp_path / "b", model)
    again = Bundle.write(tmp_path / "b", opened.model, profile=profile_of(model))
    assert again.profile is not None
    assert again.model_sha256 == opened.model_sha256


def test_an_empty_folder_is_filled_and_a_missing_parent_made(tmp_path, model):
    (tmp_path / "empty").mkdir()
    assert Bundle.write(tmp_path / "empty", model)
    assert Bundle.write(tmp_path / "deep" / "er" / "b", model)


def test_a_link_to_a_bundle_stays_a_link(tmp_path, model):
    Bundle.write(tmp_path / "real", model)
    (tmp_path / "link").symlink_to("real")
    Bundle.write(tmp_path / "link", wide(tmp_path, 2.0))
    assert (tmp_path / "link").is_symlink()
    assert Bundle.open(tmp_path / "real").model.provenance.steps == ("value 2.0",)


@pytest.mark.parametrize("make", ["file", "foreign", "mixed"])
def test_what_is_no_bundle_is_not_replaced(tmp_path, model, make):
    place = tmp_path / "b"
    if make == "file":
        place.write_text("precious")
    else:
        if make == "mixed":
            Bundle.write(place, model)
        place.mkdir(exist_ok=True)
        (place / "precious.txt").write_text("precious")
    with pytest.raises(ConfigError, match=r"no folder|precious\.txt"):
        Bundle.write(place, model)
    assert (place if make == "file" else place / "precious.txt").read_text() == "precious"


def test_attachments_have_plain_names_of_their_own(tmp_path, model):
    for name in ("../out", "/abs", "a/b", "", ".hidden", "x" * 300):
        with pytest.raises(BadModelError):
            Bundle.write(tmp_path / "b", model, attachments={name: b""})
    with pytest.raises(ConfigError, match="bundle itself"):
        Bundle.write(tmp_path / "b", model, attachments={"weights.bin": b""})
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EINVAL])
def test_without_the_exchange_call_two_renames_do(tmp_path, model, monkeypatch, number):
    def absent(one, other):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(folder_store, "exchange", absent)
    Bundle.write(tmp_path / "b", model)
    Bundle.write(tmp_path / "b", wide(tmp_path, 2.0))
    assert Bundle.open(tmp_path / "b").model.provenance.steps == ("value 2.0",)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_between_the_two_renames_readers_find_the_old_and_writers_restore_it(tmp_path, model, monkeypatch):
    Bundle.write(tmp_path / "b", model)
    (tmp_path / "b").rename(tmp_path / ".b.old-0123456789ab")  # where a kill would have left it
    assert Bundle.open(tmp_path / "b").model.provenance.steps == ("value 1.0",)
    monkeypatch.setattr(
        folder_store, "check_room", lambda *_: (_ for _ in ()).throw(OSError(errno.EIO, "broken"))
    )
    with pytest.raises(ConfigError):
        Bundle.write(tmp_path / "b", wide(tmp_path, 2.0))
    assert (tmp_path / "b").is_dir()
    assert Bundle.open(tmp_path / "b").model.provenance.steps == ("value 1.0",)


def test_what_a_killed_writer_left_is_removed_and_a_living_ones_is_not(tmp_path, model):
    dead, alive = tmp_path / ".b.new-dead", tmp_path / ".b.new-alive"
    for place in (dead, alive):
        place.mkdir()
        (place / "weights.bin").write_bytes(b"half")
    holder = folder_store.lock(alive)  # as its writer would
    Bundle.write(tmp_path / "b", model)
    os.close(holder)
    assert not dead.exists()
    assert alive.exists()


def test_a_reader_between_two_versions_gets_the_new_one(tmp_path, model, monkeypatch):
    from raceline.ir import bundle as module

    Bundle.write(tmp_path / "b", model)
    second = wide(tmp_path, 2.0)
    first_open, calls = module._file, []

    def replaced_meanwhile(directory, name, folder):
        if name == "weights.bin" and not calls:
            calls.append(name)
            Bundle.write(tmp_path / "b", second)
        return first_open(directory, name, folder)

    monkeypatch.setattr(module, "_file", replaced_meanwhile)
    assert Bundle.open(tmp_path / "b").model.provenance.steps == ("value 2.0",)
    assert calls


KILLER = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np
sys.path.insert(0, sys.argv[3])
import test_ir_bundle as t
from raceline.ir import Bundle

folder, rounds = Path(sys.argv[1]), int(sys.argv[2])
random.seed(5)
models = [t.wide(folder, v) for v in (1.0, 2.0)]
place = folder / "b"
Bundle.write(place, models[0])

def opened():
    bundle = Bundle.open(place)
    weight = bundle.model.program.graph.initializers["w"].const_value.numpy()
    assert bundle.model.provenance.steps == (f"value {weight[0, 0]}",), bundle.model.provenance
    assert (weight == weight[0, 0]).all()
    return float(weight[0, 0])

def child(work):
    pid = os.fork()
    if pid == 0:
        try:
            while True:
                work()
        except BaseException as error:
            print("FAILED", type(error), error, flush=True)
            os._exit(1)
    return pid

def write_all():
    for model in models:
        Bundle.write(place, model)

start = time.monotonic()
write_all()
pair_s = time.monotonic() - start
reader = child(opened)
seen = []
while len(seen) < rounds or (len(set(seen)) < 2 and len(seen) < 10 * rounds):
    writer = child(write_all)
    time.sleep(random.random() * 4 * pair_s * (1 + len(seen) / rounds))  # for machines that grow slower
    os.kill(writer, signal.SIGKILL)
    assert os.waitpid(writer, 0)[1] == signal.SIGKILL, "the writer failed by itself"
    seen.append(opened())
assert os.waitpid(reader, os.WNOHANG) == (0, 0), "the reader failed"
os.kill(reader, signal.SIGKILL)
os.waitpid(reader, 0)
Bundle.write(place, models[0])
left = [p.name for p in folder.iterdir() if p.name.startswith(".b.")]
print("left", left, "seen", sorted(set(seen)))
"""


def killed(tmp_path, rounds):
    """Kill a writer again and again while a reader opens and verifies; returns what the script said."""
    script = tmp_path / "killer.py"
    script.write_text(KILLER)
    place = tmp_path / "place"
    place.mkdir()
    command = [sys.executable, str(script), str(place), str(rounds), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert "FAILED" not in done.stdout
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def test_a_kill_at_any_moment_leaves_the_old_or_the_new(tmp_path):
    assert killed(tmp_path, 40) == "left [] seen [1.0, 2.0]"


@pytest.mark.slow
def test_two_hundred_kills(tmp_path):
    assert killed(tmp_path, 200) == "left [] seen [1.0, 2.0]"


# Trouble with the disk --------------------------------------------------------------------------------------


def in_subprocess(tmp_path, prepare):
    """Try to replace the bundle at `b` after running `prepare`; returns the error's type and text."""
    code = f"""
import os, resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_ir_bundle as t
from raceline.core.errors import RacelineError
from raceline.ir import Bundle
folder = Path({str(tmp_path)!r})
model = t.wide(folder, 2.0)
{prepare}
try:
    Bundle.write(folder / "place" / "b", model)
    print("WRITTEN")
except RacelineError as error:
    print(type(error).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_full_disk_is_told_and_the_old_bundle_stays(tmp_path, model):
    place = tmp_path / "place"
    Bundle.write(place / "b", model)
    said = in_subprocess(tmp_path, "resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))")
    assert said.startswith("UnavailableError")
    assert "full" in said
    assert Bundle.open(place / "b").model.provenance.steps == ("value 1.0",)
    assert [p.name for p in place.iterdir()] == ["b"]


def test_a_small_file_system_is_told_before_anything_is_written(tmp_path, model):
    place = tmp_path / "place"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", str(place)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        with pytest.raises(UnavailableError, match="the disk has"):
            Bundle.write(place / "b", model)
        assert list(place.iterdir()) == []
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_folder_that_may_not_be_written_is_told(tmp_path, model):
    place = tmp_path / "place"
    Bundle.write(place / "b", model)
    place.chmod(0o555)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_uid == os.geteuid() and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    # The superuser may write anywhere; step down where that is who runs the tests.
    said = in_subprocess(tmp_path, "os.geteuid() == 0 and os.setuid(65534)")
    place.chmod(0o755)
    assert said.startswith("ConfigError")
    assert "ermission" in said
    assert Bundle.open(place / "b").model.provenance.steps == ("value 1.0",)


# Size -------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_bundle_over_two_gigabytes_makes_the_round_trip(tmp_path):
    if shutil.disk_usage(tmp_path).free < 6 * 10**9:
        pytest.skip("needs 6 GB of disk")
    rows = 2**16 + 7
    generator = np.random.default_rng(0)
    tables = [generator.standard_normal((rows, 4096), np.float32) for _ in range(2)]
    nodes = [
        m.helper.make_node("Gather", ["first", "x"], ["a"]),
        m.helper.make_node("Gather", ["second", "x"], ["b"]),
        m.helper.make_node("Add", ["a", "b"], ["y"]),
    ]
    ends = [m.info("x", ["n"], m.TensorProto.INT64)], [m.info("y", ["n", 4096])]
    stubs = [m.tensor(name, np.zeros((rows, 1))) for name in ("first", "second")]
    made = m.proto(nodes, *ends, stubs)
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    model = m.read(made, tmp_path)
    for name, table in zip(("first", "second"), tables, strict=True):
        value = model.program.graph.initializers[name]
        value.const_value, value.shape = onnx_ir.Tensor(table, name=name), onnx_ir.Shape(table.shape)
    model.program.graph.outputs[0].shape = onnx_ir.Shape(["n", 4096])
    model.signature = replace(
        model.signature, outputs=(replace(model.signature.outputs[0], shape=("n", 4096)),)
    )

    Bundle.write(tmp_path / "b", model)
    assert (tmp_path / "b" / "weights.bin").stat().st_size > 2**31
    bundle = Bundle.open(tmp_path / "b")
    feeds = {"x": np.array([0, 5, rows - 1])}
    expected = tables[0][feeds["x"]] + tables[1][feeds["x"]]
    np.testing.assert_array_equal(run_reference(bundle.model, feeds)["y"], expected)
    np.testing.assert_array_equal(m.judged(bundle.model_path, feeds)["y"], expected)
    files = write_onnx(bundle.model, tmp_path / "again.onnx")
    assert len(files) == 2
    np.testing.assert_array_equal(m.judged(files[0], feeds)["y"], expected)
