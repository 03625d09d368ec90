"""Passes for decoders and encoders: what must be fused, and what only looks like it."""

import numpy as np
import pytest

from raceline.convert import Refusal, Rewrite, optimise
from raceline.convert.example import model_from_text
from raceline.ir import run_reference

RMS = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N, 3, 8] x, float two, float epsilon, float one, float[8] scale) => (float[N, 3, {out}] y) {{
        square = {square}
        mean = ReduceMean<axes = [-1]{keep}>(square)
        safe = Add(mean, epsilon)
        root = Sqrt(safe)
        {end}
    }}"""
ENDS = {
    "divided": "normal = Div(x, root) y = Mul(normal, scale)",
    "reciprocal": "r = Reciprocal(root) normal = Mul(x, r) y = Mul(scale, normal)",
    "one over": "r = Div(one, root) normal = Mul(r, x) y = Mul(scale, normal)",
    "no scale": "y = Div(x, root)",
}


def fired(report):
    return {item.pass_name for item in report if isinstance(item, Rewrite)}


def reasons(report, name):
    return " ".join(item.reason for item in report if isinstance(item, Refusal) and item.pass_name == name)


def rms(end, square="Pow(x, two)", keep="", one=1.0, two=2.0, epsilon=1e-6):
    numbers = {"one": one, "two": two, "epsilon": epsilon}
    return model_from_text(
        RMS.format(end=end, square=square, keep=keep, out=8),
        scale=(8,),
        **{name: np.array(number, np.float32) for name, number in numbers.items()},
    )


def same(model, result, seed=0):
    rng = np.random.default_rng(seed)
    feeds = {s.name: rng.standard_normal([d if isinstance(d, int) else 2 for d in s.shape]).astype(s.dtype)
             for s in model.signature.inputs}  # fmt: skip
    before, after = run_reference(model, feeds), run_reference(result, feeds)
    for name, value in before.items():
        np.testing.assert_allclose(after[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS.keys())
@pytest.mark.parametrize("square", ["Pow(x, two)", "Mul(x, x)"])
def test_every_spelling_of_rms_norm(end, square):
    model = rms(end, square)
    result, report = optimise(model)
    assert "fuse_rms_norm" in fired(report)
    assert {node.op_type.split("_")[0] for node in result.program.graph} == {"RmsNorm"}
    same(model, result)


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"two": 3.0}, "does not square"),
        ({"one": 2.0, "end": ENDS["one over"]}, "not the reciprocal"),
        ({"epsilon": 0.5}, "not a small constant"),
    ],
)
def test_what_is_no_rms_norm_stays(change, reason):
    model = rms(**{"end": ENDS["divided"], **change})
    result, report = optimise(model, passes=["fuse_rms_norm"])
    assert "fuse_rms_norm" not in fired(report) and reason in reasons(report, "fuse_rms_norm")
    same(model, result)


ROTARY = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N, 2, 3, 8] x, float[3, 8] cos, float[3, 8] sin, int64[1] zero, int64[1] half, int64[1] end,
        int64[1] last, int64[2] halves) => (float[N, 2, 3, 8] y) {{
        {parts}
        back = Neg({negated})
        turned = Concat<axis = -1>(back, {kept})
        straight = Mul(x, cos)
        across = Mul(turned, sin)
        y = Add(straight, across)
    }}"""
SLICES = "low = Slice(x, zero, half, last) high = Slice(x, half, end, last)"


def rotary(parts=SLICES, negated="high", kept="low", half=4):
    return model_from_text(
        ROTARY.format(parts=parts, negated=negated, kept=kept),
        cos=(3, 8), sin=(3, 8), zero=np.array([0]), half=np.array([half]), end=np.array([2**31 - 1]),
        last=np.array([-1]), halves=np.array([4, 4]),
    )  # fmt: skip


@pytest.mark.parametrize("parts", [SLICES, "low, high = Split<axis = -1>(x, halves)"])
def test_rotary_is_recognised(parts):
    model = rotary(parts)
    result, report = optimise(model)
    assert "fuse_rotary" in fired(report)
    same(model, result)


PAIRS = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N, 2, 3, 8] x, float[3, {width}] cos, float[3, {width}] sin, int64[1] zero, int64[1] one,
        int64[1] two, int64[1] end, int64[1] last, int64[4] whole) => (float[N, 2, 3, 8] y) {{
        even = Slice(x, zero, end, last, two)
        odd = Slice(x, one, end, last, two)
        {ends}
    }}"""
STACKED = """back = Neg({negated}) a = Unsqueeze(back, {axis}) b = Unsqueeze({kept}, {axis})
    pair = Concat<axis = {join}>(a, b) turned = Reshape(pair, whole) straight = Mul(x, cos)
    across = Mul(turned, sin) y = Add(straight, across)"""
COMPLEX = """ec = Mul(even, cos) os = Mul({odd}, sin) es = Mul(even, sin) oc = Mul(odd, cos) re = Sub(ec, os)
    im = Add(es, oc) a = Unsqueeze(re, last) b = Unsqueeze(im, last) pair = Concat<axis = -1>(a, b)
    y = Reshape(pair, whole)"""


def side_by_side(ends, width=8, **words):
    words = {"negated": "odd", "kept": "even", "axis": "last", "join": -1, "odd": "odd", **words}
    return model_from_text(
        PAIRS.format(width=width, ends=ends.format(**words)),
        cos=(3, width), sin=(3, width), zero=np.array([0]), one=np.array([1]), two=np.array([2]),
        end=np.array([2**31 - 1]), last=np.array([-1]), whole=np.array([0, 0, 0, 8]),
    )  # fmt: skip


@pytest.mark.parametrize("form", [(STACKED, 8), (COMPLEX, 4)], ids=["stacked", "complex"])
def test_rotary_of_neighbouring_channels_is_recognised(form):
    model = side_by_side(*form)
    result, report = optimise(model)
    assert "fuse_rotary" in fired(report)
    assert {node.op_type.split("_")[0] for node in result.program.graph} == {"Rotary"}
    same(model, result)


@pytest.mark.parametrize(
    ("ends", "width", "change", "reason"),
    [
        (STACKED, 8, {"negated": "even", "kept": "odd"}, "channels of each pair"),
        (STACKED, 8, {"join": 3}, "another axis"),
        (COMPLEX, 4, {"odd": "even"}, ""),
    ],
)
def test_what_only_looks_like_neighbours_stays(ends, width, change, reason):
    model = side_by_side(ends, width, **change)
    result, report = optimise(model, passes=["fuse_rotary"])
    assert "fuse_rotary" not in fired(report) and reason in reasons(report, "fuse_rotary")
    same(model, result)


@pytest.mark.parametrize("change", [{"negated": "low", "kept": "high"}])
def test_what_turns_the_other_way_stays(change):
    model = rotary(**change)
    result, report = optimise(model, passes=["fuse_rotary"])
    assert "fuse_rotary" not in fired(report) and "halves" in reasons(report, "fuse_rotary")
    same(model, result)


def test_a_sum_that_others_need_is_not_taken_into_the_norm():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 3, 8] x, float[N, 3, 8] skip, float[8] scale) => (float[N, 3, 8] y, float[N, 3, 8] rest) {
            sum = Add(x, skip)
            y = LayerNormalization(sum, scale)
            rest = Mul(sum, x)
        }""",
        scale=(8,),
    )
    result, report = optimise(model)
    assert "fuse_skip_layer_norm" not in fired(report)
    assert "also used" in reasons(report, "fuse_skip_layer_norm")
    same(model, result)


def test_embeddings_are_added_and_normalised_at_once():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (int64[N, 3] ids, int64[N, 3] kinds, float[11, 8] words, float[2, 8] types, float[1, 3, 8] places,
            float[8] scale, float[8] bias) => (float[N, 3, 8] y) {
            a = Gather(words, ids)
            b = Gather(types, kinds)
            c = Add(a, b)
            d = Add(c, places)
            y = LayerNormalization(d, scale, bias)
        }""",
        words=(11, 8), types=(2, 8), places=(1, 3, 8), scale=(8,), bias=(8,),
    )  # fmt: skip
    result, report = optimise(model)
    assert {node.op_type for node in result.program.graph} == {"EmbedLayerNorm"}
    feeds = {"ids": np.array([[1, 5, 10]]), "kinds": np.array([[0, 1, 0]])}
    np.testing.assert_allclose(run_reference(result, feeds)["y"], run_reference(model, feeds)["y"], rtol=1e-6)


@pytest.mark.parametrize("masked", [True, False])
def test_grouped_queries_are_attention(masked):
    """Four heads of queries share two of keys and values, which torch repeats by Expand; any batch."""
    mask = "s = Add(scaled, mask)" if masked else "s = Identity(scaled)"
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["": 17]>
        main (float[N, 4, 5, 8] q, float[N, 2, 5, 8] k, float[N, 2, 5, 8] v, float[5, 5] mask, float scale,
            int64[1] two, int64[1] first, int64[1] zero, int64[4] tail, int64[3] rest)
            => (float[N, 4, 5, 8] y) {{
            whole = Shape(q)
            batch = Slice(whole, zero, first)
            apart = Concat<axis = 0>(batch, tail)
            flat = Concat<axis = 0>(batch, rest)
            k1 = Unsqueeze(k, two)
            k2 = Expand(k1, apart)
            k3 = Reshape(k2, flat)
            v1 = Unsqueeze(v, two)
            v2 = Expand(v1, apart)
            v3 = Reshape(v2, flat)
            kt = Transpose<perm = [0, 1, 3, 2]>(k3)
            scores = MatMul(q, kt)
            scaled = Mul(scores, scale)
            {mask}
            weights = Softmax<axis = -1>(s)
            y = MatMul(weights, v3)
        }}""",
        scale=np.array(0.35, np.float32), two=np.array([2]), first=np.array([1]), zero=np.array([0]),
        tail=np.array([2, 2, 5, 8]), rest=np.array([4, 5, 8]),
    )  # fmt: skip
    result, report = optimise(model)
    assert "fuse_attention" in fired(report)
    kinds = [node.op_type.split("_")[0] for node in result.program.graph]
    assert "Expand" not in kinds and kinds.count("Attention") == 1
    same(model, result)
