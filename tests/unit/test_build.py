import numpy as np
import pytest

from raceline.convert.build import Builder
from raceline.core.errors import BadModelError
from raceline.ir import Limits, Provenance, run_reference


def finished(b):
    return b.model(Provenance(source="here", source_format="test"))


def test_types_and_shapes_are_known_at_once():
    b = Builder("m")
    x = b.input("x", "float32", ["n", 3, 8])
    y = b.op("MatMul", x, np.ones((8, 4), np.float32))
    assert b.shape(y) == ("n", 3, 4)
    assert b.dtype(y) == np.float32
    flat = b.reshape(y, [-1, 12])
    assert b.shape(flat)[1] == 12
    back = b.op("Reshape", flat, b.op("Concat", b.op("Shape", x, start=0, end=1), [3, 4], axis=0))
    assert b.shape(back) == ("n", 3, 4)


def test_scalars_are_scalars_to_inference():
    b = Builder("m")
    x = b.input("x", "float32", ["n", 8, 1])
    y = b.op("DFT", x, np.array(8), np.array(1), onesided=1)
    assert b.shape(y) == ("n", 5, 2)


def test_constants_are_computed_and_shared():
    b = Builder("m")
    b.input("x", "float32", [2])
    assert b.constant(np.float32(2)) is b.constant(np.float32(2))
    total = b.op("Add", [1, 2], [3, 4])
    np.testing.assert_array_equal(b.array(total), [4, 6])
    weight = np.arange(300_000, dtype=np.float32).reshape(300, 1000)
    turned = b.array(b.transpose(b.constant(weight), [1, 0]))
    assert np.shares_memory(turned, weight) and turned.shape == (1000, 300)
    assert not list(b.graph), "nothing of this needs a node"


def test_numbers_that_no_integer_holds_are_cast_without_a_warning():
    b = Builder("m")
    assert b.array(b.cast(b.constant(np.full(40, np.inf, np.float32)), np.int64)).shape == (40,)


def test_what_would_grow_stays_a_node():
    b = Builder("m")
    big = b.op("Expand", np.float32(1), [1000, 1000])
    assert b.array(big) is None
    assert b.shape(big) == (1000, 1000)


def test_scalars_stay_scalars_for_inference():
    b = Builder("m")
    x = b.input("x", "float32", ["n", 8, 1])
    spectrum = b.op("DFT", x, None, b.constant(np.array(1)), onesided=1)  # refuses an axis that has an axis
    assert b.shape(spectrum) == ("n", 5, 2)


def test_names_of_the_source_are_kept_and_never_shared():
    b = Builder("m")
    x = b.input("x", "float32", [2])
    with b.at("layer"):
        one, two = b.op("Relu", x), b.op("Relu", x)
        named = b.op("Neg", x, name="layer")
        again = b.op("Neg", x, name="x")
    names = [v.name for v in (x, one, two, named, again)]
    assert len(set(names)) == 5
    assert names[0] == "x" and names[3] == "layer"


def test_outputs_are_computed_by_a_node_and_have_their_names():
    b = Builder("m")
    x = b.input("x", "float32", [2])
    y = b.op("Relu", x)
    for value, name in ((y, "y"), (y, "same"), (x, "through"), (b.constant(np.float32([1, 2])), "fixed")):
        b.output(value, name)
    feeds = {"x": np.float32([-1, 5])}
    found = run_reference(finished(b), feeds)
    assert {name: list(a) for name, a in found.items()} == {
        "y": [0, 5],
        "same": [0, 5],
        "through": [-1, 5],
        "fixed": [1, 2],
    }


def test_an_output_keeps_its_name_where_something_inside_has_it():
    b = Builder("m")
    x = b.input("x", "float32", [2])
    hidden = b.op("Relu", x, name="y")
    b.output(b.op("Add", hidden, b.constant(np.float32([1, 2]))), "const")  # as constants are called inside
    b.output(b.op("Neg", hidden), "y")
    b.output(b.op("Abs", x), "x")
    model = finished(b)
    assert [spec.name for spec in model.signature.outputs] == ["const", "y", "x_2"]
    assert model.provenance.steps == ("Output 'x' became 'x_2': another input or output has its name.",)
    found = run_reference(model, {"x": np.float32([-1, 5])})
    assert {name: list(a) for name, a in found.items()} == {"const": [1, 7], "y": [0, -5], "x_2": [1, 5]}


def test_inputs_left_out_at_the_end_are_not_spelt_out():
    b = Builder("m")
    x = b.input("x", "float32", [2, 4])
    b.output(b.op("LayerNormalization", x, np.ones(4, np.float32), None), "y")
    assert len(next(iter(b.graph)).inputs) == 2


def test_what_cannot_be_is_told_with_the_sources_node():
    b = Builder("m")
    x = b.input("x", "float32", [2, 3])
    with b.at("dense"), pytest.raises(BadModelError, match=r"'dense' becomes MatMul.*\[2, 3\]"):
        b.op("MatMul", x, np.ones((4, 5), np.float32))


def test_an_operand_that_is_left_out_or_of_another_type_is_told_likewise():
    b = Builder("m")
    x = b.input("x", "float32", [2])
    for operands in ((x, None), (x, b.constant(np.int32([1, 2])))):
        with pytest.raises(BadModelError, match="becomes Sub"):
            b.op("Sub", *operands)


def test_an_input_that_is_needed_and_left_out_is_told():
    b = Builder("m")
    x = b.input("x", "float32", [2, 3])
    with b.at("dense"), pytest.raises(BadModelError, match="'dense' becomes MatMul"):
        b.op("MatMul", None, x)


def test_sizes_after_expand_and_pad_are_known_with_open_axes():
    b = Builder("m")
    x = b.input("x", "float32", ["n", 3])
    sizes = b.op("Concat", b.op("Shape", x, start=0, end=1), [4], axis=0)
    assert b.shape(b.op("Expand", np.float32(0), sizes)) == ("n", 4)
    assert b.shape(b.op("Pad", x, [0, 1, 0, 2])) == ("n", 6)
    assert b.shape(b.op("Pad", x, [1, 2], None, [0])) == (None, 3)


def test_types_that_do_not_fit_are_told_too():
    b = Builder("m")
    x = b.input("x", "float32", [2, 3])
    with pytest.raises(BadModelError, match="becomes MatMul"):
        b.op("MatMul", x, np.ones((3, 5), np.int32))


def test_the_limit_of_nodes_is_kept():
    b = Builder("m", limits=Limits(max_nodes=2))
    x = b.input("x", "float32", [2])
    with pytest.raises(BadModelError, match="limit"):
        b.op("Relu", b.op("Relu", b.op("Relu", x)))


def test_bodies_read_what_is_around_them():
    b = Builder("m")
    x, more = b.input("x", "float32", [2]), b.input("more", "bool", [])
    yes, no = b.body("yes"), b.body("no")
    then_branch = yes.close([yes.op("Mul", x, b.scalar(2, x))])
    else_branch = no.close([no.constant(np.float32([1, 2]))])
    (y,) = b.control("If", [more], [(np.float32, (2,))], then_branch=then_branch, else_branch=else_branch)
    b.output(y, "y")
    model = finished(b)
    for more_now, expected in ((True, [2, 4]), (False, [1, 2])):
        feeds = {"x": np.float32([1, 2]), "more": np.array(more_now)}
        assert list(run_reference(model, feeds)["y"]) == expected


def test_lists_of_constants_stay_lists():
    b = Builder("m")
    x = b.input("x", "int64", [])
    one = b.op("SequenceConstruct", np.ones(2, np.float32), np.zeros(2, np.float32))
    assert b.array(one) is None
    b.output(b.op("SequenceAt", one, x), "y")
    assert list(run_reference(finished(b), {"x": np.array(1)})["y"]) == [0, 0]


def test_a_branch_may_give_a_constant():
    b = Builder("m")
    x, more = b.input("x", "float32", [2]), b.input("more", "bool", [])
    yes, no = b.body("yes"), b.body("no")
    graphs = {
        "then_branch": yes.close([yes.constant(np.float32([7, 8]))]),
        "else_branch": no.close([no.op("Neg", x)]),
    }
    (y,) = b.control("If", [more], [(np.float32, (2,))], **graphs)
    b.output(y, "y")
    for more_now, expected in ((True, [7, 8]), (False, [-1, -2])):
        feeds = {"x": np.float32([1, 2]), "more": np.array(more_now)}
        assert list(run_reference(finished(b), feeds)["y"]) == expected


def test_ranges_of_scalars_are_inferred():
    b = Builder("m")
    b.input("x", "float32", [2])
    assert b.shape(b.op("Range", np.int32(0), np.int32(9), np.int32(2))) == (5,)


def test_an_expand_keeps_the_axes_that_are_sure():
    b = Builder("m")
    x = b.input("x", "float32", ["n", 3])
    rows = b.op("Shape", x, start=0, end=1)
    assert b.shape(b.op("Expand", np.float32(0), b.op("Concat", rows, [8], axis=0))) == ("n", 8)
    assert b.shape(b.op("Expand", x, b.op("Concat", [2], rows, [1], axis=0)))[2] == 3


def test_arithmetic_on_sizes_without_a_name_stays_unknown():
    from raceline.convert.dims import dims_in

    b = Builder("m")
    x = b.input("x", "float32", [None, 3])
    twice = b.op("Mul", b.op("Shape", x), [2])
    assert dims_in(twice) is None
    assert dims_in(b.op("Mul", b.op("Shape", x, start=1), [2])) == [6]


def test_types_that_do_not_fit_are_told():
    b = Builder("m")
    x = b.input("x", "float32", [2])
    with pytest.raises(BadModelError, match="becomes"):
        b.op("Add", x, np.array([1, 2], np.int64))
        finished(b)


@pytest.mark.parametrize("equation", ["...i2,...jk->...ik", "ij,jk->i1", "i.j,jk", "ij->k->l"])
def test_equations_that_are_none_are_told(equation):
    """onnx's shape inference never ends on the first."""
    b = Builder("m")
    x = b.input("x", "float32", [2, 2])
    with pytest.raises(BadModelError, match="none of letters"):
        b.op("Einsum", x, x, equation=equation)


@pytest.mark.parametrize("equation", ["ij,jk->ik", "...i, ...i", " ij , jk -> ki ", "ii,jj"])
def test_equations_are_taken(equation):
    b = Builder("m")
    x = b.input("x", "float32", [2, 2])
    b.output(b.op("Einsum", x, x, equation=equation), "y")
    assert finished(b).signature.outputs
