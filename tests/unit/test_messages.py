"""What errors say: whole sentences, no stop twice, and no `1 nodes`."""

import ast
from pathlib import Path

import pytest

import raceline
from raceline.convert.readers import onnx as reader
from raceline.core import errors
from raceline.core.errors import BadModelError, RacelineError, UnsupportedOperatorError
from raceline.core.units import counted

SOURCES = sorted(Path(raceline.__file__).parent.rglob("*.py"))
OURS = {
    name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, RacelineError)
} - {
    "UnsupportedOperatorError",
    "UnknownNameError",
    "MissingDependencyError",
}  # which put their own words together
PARTS = ("what", "why", "next_step")


def literal(node):
    """The text of a literal, `{}` where something is filled in; None for all else."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if isinstance(node, ast.JoinedStr):
        return "".join(part.value if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return None


def spoken(path):
    """Line, part and text of every message that a file raises in so many words."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") in OURS:
            given = [*zip(PARTS, node.args, strict=False), *((k.arg, k.value) for k in node.keywords)]
            for part, value in given:
                if text := literal(value):
                    yield node.lineno, part, text


def slip(part, text):
    if "  " in text or text != text.strip():
        return "a space too many"
    if part == "next_step":
        return "" if text.endswith((".", "?", "}")) else "no stop"
    return "a stop too early" if text.endswith(".") and not text.endswith("...") else ""


def test_messages_are_whole_sentences():
    found = [
        f"{path.name}:{line}: {problem}: {text}"
        for path in SOURCES
        for line, part, text in spoken(path)
        if (problem := slip(part, text))
    ]
    assert not found


@pytest.mark.parametrize(
    "parts, said",
    [
        (("a",), "a"),
        (("a", "b"), "a: b"),
        (("a", "", "Do c."), "a. Do c."),
        (("a", "b", "Do c."), "a: b. Do c."),
        (("a", "b: c. Do d.", "Do e."), "a: b: c. Do d. Do e."),
        (("a", "b...", "Do c."), "a: b... Do c."),
    ],
)
def test_parts_are_joined_by_one_stop(parts, said):
    assert str(RacelineError(*parts)) == said


def test_one_is_no_plural():
    assert [counted(n, "open axis side") for n in (0, 1, 2)] == [
        "0 open axis sides",
        "1 open axis side",
        "2 open axis sides",
    ]
    assert "uses 1 unsupported operator:" in str(UnsupportedOperatorError("m", {"Odd": ["n"]}))
    assert "uses 2 unsupported operators:" in str(
        UnsupportedOperatorError("m", {"Odd": ["n"], "Even": ["k"]})
    )


def test_absent_external_data_is_told_with_single_stops(tmp_path):
    import numpy as np
    import onnx

    path = reader.example(tmp_path)
    proto = onnx.load(path)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(np.zeros((3, 2), np.float32), "w"))
    onnx.save_model(proto, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (tmp_path / "w.bin").unlink()
    with pytest.raises(BadModelError, match="w.bin") as caught:
        reader.read(path)
    assert ".." not in str(caught.value)
