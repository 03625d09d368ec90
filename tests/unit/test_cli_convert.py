"""`raceline convert`: what each command prints, its JSON, its exit codes, and what it says of bad input."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
import typer

from raceline import cli
from raceline.convert import IRTranslator, formats_table, known_formats, rewrite, writing
from raceline.convert.example import model_from_text
from raceline.convert.formats.tflite.write import GraphSpec, OperatorSpec, TensorSpec, written
from raceline.ir import Bundle, write_onnx

ROOT = Path(__file__).parents[2]
COMMANDS = ["compare", "explain", "formats", "inspect", "plan", "quantise", "tune", "write"]


@pytest.fixture
def run(capsys, monkeypatch):
    """Run the command line; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["raceline", "convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


@pytest.fixture
def net(tmp_path):
    path = tmp_path / "net.onnx"
    write_onnx(rewrite.load("fuse_conv_activation").example(), path)
    return path


def linear(scale=1.0):
    return model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        linear (float[n, 3] x, float[3, 2] w) => (float[n, 2] y) { h = MatMul(x, w) y = Sigmoid(h) }""",
        w=np.arange(6, dtype=np.float32).reshape(3, 2) * np.float32(scale),
    )


def test_every_command_is_there_and_shows_an_example():
    group = typer.main.get_command(cli.app).commands["convert"]
    assert sorted(group.commands) == COMMANDS
    assert all("Example: raceline convert " in command.help for command in group.commands.values())


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_well(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0 and "Example:" in out


# ---------------------------------------------------------------- write


@pytest.mark.parametrize("to", writing.names())
def test_a_model_is_written_and_proven(run, tmp_path, to):
    source = tmp_path / "source.onnx"
    write_onnx(writing.writer(to).example(), source)
    out = tmp_path / ("made" if to == "openvino" else f"made{writing.writer(to).extension}")
    code, text, _ = run(source, "--to", to, "-o", out)
    assert code == 0 and "proven" in text and str(out) in text
    code, text, _ = run("write", source, "--to", to, "-o", out, "--json")
    told = json.loads(text)
    assert code == 0 and told["proof"]["ok"] and all(Path(path).is_file() for path in told["files"])


def test_a_bundle_is_written_and_can_be_read_again(run, net, tmp_path):
    code, _, _ = run(net, "--to", "bundle", "-o", tmp_path / "b", "--optimise")
    assert code == 0
    assert Bundle.open(tmp_path / "b").model.provenance.source == "net.onnx"
    code, text, _ = run("inspect", tmp_path / "b")
    assert code == 0 and "raceline.ConvAddRelu" in text


def test_what_computes_something_else_ends_with_1(run, net, tmp_path, monkeypatch):
    right = writing.writer("onnx").write
    monkeypatch.setattr(
        writing.writer("onnx"),
        "write",
        lambda model, path, *, consumer="onnxruntime": right(linear(2.0), path),
    )
    source = tmp_path / "linear.onnx"
    write_onnx(linear(), source)
    code, text, _ = run(source, "--to", "onnx", "-o", tmp_path / "wrong.onnx")
    assert code == 1 and "NOT EQUAL" in text and "DIFFERS" in text


def test_options_are_given_by_name(run, net, tmp_path):
    code, _, _ = run(net, "--to", "openvino", "-o", tmp_path / "ir", "--set", "fp16=true", "--no-prove")
    assert code == 0 and (tmp_path / "ir/model.xml").is_file()
    code, _, _ = run(net, "--to", "onnx", "-o", tmp_path / "old.onnx", "--set", "consumer=tensorrt-8")
    assert code == 0
    assert IRTranslator().parse(tmp_path / "old.onnx").program.opset_imports[""] == 13


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("colour=red", "no option 'colour'"),
        ("fp16=perhaps", "true or false"),
        ("fp16", "--set NAME=VALUE"),
    ],
)
def test_options_that_are_none_are_told(run, net, tmp_path, setting, told):
    code, _, err = run(net, "--to", "openvino", "-o", tmp_path / "ir", "--set", setting)
    assert code == 2 and told in err
    assert not (tmp_path / "ir").exists()


def test_formats_that_are_none_are_told(run, net, tmp_path):
    code, _, err = run(net, "--to", "onyx", "-o", tmp_path / "x")
    assert code == 2 and "openvino" in err


def test_consumers_that_are_none_are_told(run, net, tmp_path):
    code, _, err = run(net, "--to", "onnx", "-o", tmp_path / "x.onnx", "--set", "consumer=abacus")
    assert code == 2 and "tensorrt-10" in err


def test_a_model_that_a_format_cannot_hold_is_told(run, net, tmp_path):
    code, _, err = run(net, "--to", "qdq_onnx", "-o", tmp_path / "x.onnx")
    assert code == 2 and "not quantised" in err and not (tmp_path / "x.onnx").exists()


# ---------------------------------------------------------------- inspect, compare, explain, formats


def test_inspect_counts(run, net):
    code, out, _ = run("inspect", net, "--platform", "agx_orin", "--json")
    if code:  # the platforms that ship may have other names
        from raceline.ir.platform import stated_platforms

        code, out, _ = run("inspect", net, "--platform", stated_platforms()[0], "--json")
    found = json.loads(out)
    assert code == 0
    assert {row["operator"]: row["count"] for row in found["operators"]} == {"Conv": 1, "Add": 1, "Relu": 1}
    assert found["flops"] > 0 and found["weight_bytes"] == 4 * (4 * 4 * 9 + 4)
    assert found["inputs"] == ["x: float32[N, 4, 6, 6]"] and found["sizes"] == {"N": 1}


def test_inspect_shows_the_least_time_on_this_machine(run, net):
    code, out, _ = run("inspect", net)
    assert code == 0
    assert "Conv" in out and "least time on" in out and "batch axis: N" in out


def test_compare_agrees_and_differs(run, tmp_path):
    for name, scale in (("one", 1.0), ("other", 1.5)):
        write_onnx(linear(scale), tmp_path / f"{name}.onnx")
    code, out, _ = run("compare", tmp_path / "one.onnx", tmp_path / "one.onnx")
    assert code == 0 and "agree" in out
    code, out, _ = run("compare", tmp_path / "one.onnx", tmp_path / "other.onnx")
    assert code == 1 and "first parting" in out and "MatMul" in out
    code, out, _ = run("compare", tmp_path / "one.onnx", tmp_path / "other.onnx", "--json")
    assert code == 1 and json.loads(out)["divergence"]["operator"] == "MatMul"


def test_explain_tells_what_was_done_and_why(run, net):
    code, out, _ = run("explain", net)
    assert code == 0 and "fuse_conv_activation" in out and "rewrote 1" in out and "saw nothing to do" in out
    code, out, _ = run("explain", net, "--pass", "fuse_conv_activation", "--json")
    told = json.loads(out)
    assert [story["pass_name"] for story in told["stories"]] == ["fuse_conv_activation"]
    assert told["nodes_before"] == 3 and told["nodes_after"] == 1


def test_a_conversion_tells_why(run, net, tmp_path):
    target = tmp_path / "fused.onnx"
    code, out, _ = run(net, "--to", "onnx", "-o", target, "--optimise", "--why")
    assert code == 0 and "fuse_conv_activation" in out and "rewrote 1" in out and "proven" in out
    code, out, _ = run(net, "--to", "onnx", "-o", target, "--optimise", "--why", "--json")
    assert code == 0 and json.loads(out)["why"]["nodes_after"] == 1
    code, _, err = run(net, "--to", "onnx", "-o", target, "--why")
    assert code == 2 and "--optimise" in err


def test_explain_tells_what_was_left_and_why(run, tmp_path):
    model = model_from_text(
        """<ir_version: 8, opset_import: ["" : 17]>
        net (float[n, 2, 6] x, float[2, 2, 3] w) => (float[n, 2, 4] c, float[n, 2, 4] y) {
        c = Conv(x, w) y = Relu(c) }""",
        w=(2, 2, 3),
    )
    write_onnx(model, tmp_path / "left.onnx")
    code, out, _ = run("explain", tmp_path / "left.onnx", "--pass", "fuse_conv_activation")
    assert code == 0 and "left 1" in out and "an output of the graph" in out


def test_a_pass_that_is_none_is_told(run, net):
    code, _, err = run("explain", net, "--pass", "fuse_everything")
    assert code == 2 and "fuse_attention" in err


def test_formats_lists_every_plug_in(run):
    code, out, _ = run("formats", "--json")
    told = json.loads(out)["formats"]
    assert code == 0
    assert {row["name"] for row in told if row["direction"] == "write"} == {"bundle", *writing.names()}
    assert {row["name"] for row in told if row["direction"] == "read"} >= {"onnx"}
    code, out, _ = run("formats", "onnx")
    assert code == 0 and "LayerNormalization" in out and "--set consumer" in out
    code, _, err = run("formats", "onyx")
    assert code == 2 and "openvino" in err


def test_the_document_lists_the_formats_there_are(run):
    text = (ROOT / "docs/formats.md").read_text()
    assert formats_table() in text, (
        "run: raceline convert formats --markdown, and put it into docs/formats.md"
    )
    code, out, _ = run("formats", "--markdown")
    assert code == 0 and out.strip() == formats_table()


def test_operators_are_in_order_and_once():
    for row in known_formats():
        assert list(row.operators) == sorted(set(row.operators))


@pytest.mark.parametrize("command", ["inspect", "explain"])
@pytest.mark.parametrize("content", [None, b"", b"garbage" * 99])
def test_what_is_no_model_is_told(run, tmp_path, command, content):
    path = tmp_path / "bad.onnx"
    if content is not None:
        path.write_bytes(content)
    code, out, err = run(command, path)
    assert code == 2 and "bad.onnx" in err and not out
    assert "Traceback" not in err


def test_a_limit_is_kept(run, net):
    code, _, err = run("inspect", net, "--memory-limit", "1")
    assert code == 2 and "too large" in err


# ---------------------------------------------------------------- what a reader must be told


def test_a_reader_takes_options_by_name(run, tmp_path):
    kind = TensorSpec("float32", (2, 3))
    graphs = [
        GraphSpec({"x": kind, "y": kind}, [OperatorSpec(op, ["x"], ["y"])], ["x"], ["y"])
        for op in ("RELU", "TANH")
    ]
    signatures = [(name, {"in": "x"}, {"out": "y"}) for name in ("first", "second")]
    path = tmp_path / "two.tflite"
    path.write_bytes(written(*graphs, signatures=signatures))
    code, out, _ = run("inspect", path, "--read", "signature=first", "--json")
    assert code == 0 and json.loads(out)["inputs"] == ["in: float32[2, 3]"]
    code, _, err = run("inspect", path, "--read", "signature=third")
    assert code == 2 and "first, second" in err
    code, _, err = run("inspect", path, "--read", "colour=red")
    assert code == 2 and "has no option 'colour'" in err and "signature" in err


def test_element_types_are_told_before_a_model_is_read(run, tmp_path):
    torch = pytest.importorskip("torch")

    class Doubled(torch.nn.Module):
        def forward(self, x):
            return x + x

    path = tmp_path / "net.pt"
    torch.jit.save(torch.jit.script(Doubled()), str(path))
    told = ("--shape", "x=batch,3", "--read", "dtypes=x:int64", "--json")
    code, out, _ = run("inspect", path, *told)
    assert code == 0 and json.loads(out)["inputs"] == ["x: int64[batch, 3]"]


def test_what_a_format_does_not_know_is_told_before_it_is_read(run, tmp_path):
    torch = pytest.importorskip("torch")
    scripted = torch.jit.script(torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.ReLU()).eval())
    path = tmp_path / "net.pt"
    torch.jit.save(scripted, str(path))
    code, _, err = run("inspect", path)
    assert code == 2 and "--shape" in err
    target = tmp_path / "net.onnx"
    code, out, _ = run(path, "--to", "onnx", "-o", target, "--shape", "input=batch,3")
    assert code == 0 and "proven" in out
    code, _, err = run("inspect", path, "--shape", "input=batch,3", "--read", "dtypes=float64")
    assert code == 2 and "NAME:VALUE" in err
    code, out, _ = run("explain", path, "--shape", "input=batch,3")
    assert code == 0


def test_an_axis_cannot_be_named_where_the_format_names_it(run, net):
    code, _, err = run("inspect", net, "--shape", "x=batch,4,6,6")
    assert code == 2 and "Give numbers" in err


def test_pipes_are_not_waited_for(run, tmp_path):
    for name in ("model.onnx", "model.keras", "model.tflite"):
        os.mkfifo(tmp_path / name)
        code, _, err = run("inspect", tmp_path / name)
        assert code == 2 and "neither a file nor a folder" in err
