import numpy as np
import pytest

from raceline.convert.build import Builder
from raceline.convert.lower import Rules, SourceNode, UnsupportedError, lower, merged
from raceline.core.errors import BadModelError, UnsupportedOperatorError

rules = Rules()


@rules("Twice")
def twice(b, node, x):
    return b.op("Add", x, x)


@rules("Both")
def both(b, node, x):
    return b.op("Neg", x), x


@rules("Picky")
def picky(b, node, x):
    raise UnsupportedError(f"mode {node.attributes['mode']}")


@rules("Nested")
def nested(b, node, x):
    inner = [SourceNode("Exotic", "inside", ("x",), ("y",)), SourceNode("Twice", "fine", ("x",), ("z",))]
    lower(b, inner, rules.table, {"x": x}, source="file", way_out="")


@rules("Careless")
def careless(b, node, x):
    return b.op("Neg", [x][int(node.attributes["which"])])


def run(*nodes):
    b = Builder("m")
    values = {"x": b.input("x", "float32", [2])}
    lower(b, nodes, rules.table, values, source="file", way_out="Use other operators.")
    return b, values


def test_nodes_follow_each_other():
    b, values = run(SourceNode("Twice", "a", ("x",), ("h",)), SourceNode("Both", "b", ("h",), ("", "y")))
    assert [node.op_type for node in b.graph] == ["Add", "Neg"]
    assert values["y"] is values["h"] and "" not in values


def test_everything_that_is_missing_is_told_at_once():
    nodes = [
        SourceNode("Exotic", "e1", ("x",), ("a",)),
        SourceNode("Twice", "skipped", ("a",), ("b",)),
        SourceNode("Strange", "s1", ("b",), ("c",)),
        SourceNode("Picky", "p1", ("x",), ("d",), {"mode": "odd"}),
        SourceNode("Exotic", "e2", ("x",), ("e",)),
    ]
    with pytest.raises(UnsupportedOperatorError) as caught:
        run(*nodes)
    assert caught.value.uses == {"Exotic": ["e1", "e2"], "Strange": ["s1"], "Picky: mode odd": ["p1"]}
    assert "Use other operators." in str(caught.value) and "file" in str(caught.value)


def test_what_is_missing_in_a_graph_inside_is_told_with_the_rest():
    nodes = [SourceNode("Nested", "n", ("x",), ("a",)), SourceNode("Exotic", "e", ("x",), ("b",))]
    with pytest.raises(UnsupportedOperatorError) as caught:
        run(*nodes, SourceNode("Twice", "skipped", ("a",), ("c",)))
    assert caught.value.uses == {"Exotic": ["inside", "e"]}


@pytest.mark.parametrize(
    "node, message",
    [
        (SourceNode("Twice", "n", ("absent",), ("y",)), "'n'.*'absent'"),
        (SourceNode("Careless", "n", ("x",), ("y",), {"which": 7}), "'n'.*IndexError"),
        (SourceNode("Careless", "n", ("x",), ("y",)), "'n'.*KeyError"),
        (SourceNode("Twice", "n", ("x", "x"), ("y",)), "'n'.*TypeError"),
        (SourceNode("Twice", "n", ("x",), ("y", "z")), "'n'.*2 outputs"),
    ],
)
def test_nonsense_is_a_broken_model(node, message):
    with pytest.raises(BadModelError, match=f"file.*{message}"):
        run(node)


@pytest.mark.parametrize("attributes", [{}, {"which": 7}, {"which": [0]}])
def test_what_a_rule_does_not_expect_may_be_our_fault_and_says_so(attributes):
    with pytest.raises(BadModelError, match=r"file: node 'n' \(Careless\) cannot.*fault of Raceline.*report"):
        run(SourceNode("Careless", "n", ("x",), ("y",), attributes))
    with pytest.raises(BadModelError, match="'n'.*makes no sense: ValueError") as caught:
        run(SourceNode("Careless", "n", ("x",), ("y",), {"which": "no number"}))
    assert "fault" not in str(caught.value)


def test_no_operator_has_two_rules():
    other = Rules()
    other("Twice")(twice)
    with pytest.raises(AssertionError):
        merged(rules, other)
    assert np.isin(["Twice", "Both"], list(merged(rules))).all()
