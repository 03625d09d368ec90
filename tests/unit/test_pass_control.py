"""Control flow that is settled beforehand: what is folded, what stays, and that nothing changes."""

import numpy as np
import pytest

from raceline.convert import Refusal, Rewrite, optimise
from raceline.convert.example import model_from_text
from raceline.ir import check, run_reference


def fired(report):
    return {item.pass_name for item in report if isinstance(item, Rewrite)}


def refused(report, name):
    return [item.reason for item in report if isinstance(item, Refusal) and item.pass_name == name]


def ops(model):
    return [node.op_type for node in model.program.graph]


def same(model, result, **feeds):
    before, after = run_reference(model, feeds), run_reference(result, feeds)
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value)
    check(result)


CHOICE = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N] x, int64 rate, int64 want{more}) => (float[N] y, float[N] z) {{
        slow = Equal(rate, want)
        y, z = If (slow) <
            then_branch = yes () => (float[N] a, float[N] b) {{ t = Neg(x) a = Add(t, x) b = Identity(x) }},
            else_branch = no () => (float[N] a, float[N] b) {{
                t = Abs(x)
                a = If (slow) <
                    then_branch = in_yes () => (float[N] c) {{ c = Identity(t) }},
                    else_branch = in_no () => (float[N] c) {{ c = Mul(t, t) }}
                >
                b = Identity(a)
            }}
        >
    }}"""


@pytest.mark.parametrize("rate", [8000, 16000])
def test_the_branch_that_is_taken_stays(rate):
    model = model_from_text(CHOICE.format(more=""), rate=np.array(rate), want=np.array(8000))
    result, report = optimise(model)
    assert "fold_if" in fired(report) and "If" not in ops(result)
    same(model, result, x=np.float32([1, -2, 3]))
    assert not fired(optimise(result)[1])


def test_a_branch_by_an_input_stays():
    model = model_from_text(CHOICE.format(more=""), want=np.array(8000))
    result, report = optimise(model)
    assert "fold_if" not in fired(report) and "If" in ops(result)
    for rate in (8000, 16000):
        same(model, result, x=np.float32([1, -2, 3]), rate=np.array(rate))


LOOP = """<ir_version: 8, opset_import: ["": 17]>
    main (float[N] x, int64 turns, bool yes{more}) => (float[N] y, float[M, N] all) {{
        y, all = Loop (turns, yes, x) <
            body = turn (int64 i, bool go, float[N] h) => (bool on, float[N] k, float[N] z) {{
                on = {on}
                step = Cast<to = 1>(i)
                t = Add(h, step)
                z = Identity(h)
                k = Mul(t, x)
            }}
        >
    }}"""


@pytest.mark.parametrize("turns", [1, 4])
def test_known_turns_are_written_out(turns):
    model = model_from_text(
        LOOP.format(more="", on="Identity(go)"), turns=np.array(turns), yes=np.array(True)
    )
    result, report = optimise(model)
    assert "unroll_loop" in fired(report) and "Loop" not in ops(result)
    same(model, result, x=np.float32([1, -2, 3]))
    assert not fired(optimise(result)[1])


@pytest.mark.parametrize(
    "on, constants, reason",
    [
        ("Not(go)", {"turns": np.array(3), "yes": np.array(True)}, ""),
        ("Identity(go)", {"yes": np.array(True)}, ""),
        ("Identity(go)", {"turns": np.array(3)}, ""),
        ("Identity(go)", {"turns": np.array(0), "yes": np.array(True)}, "never turns"),
        ("Identity(go)", {"turns": np.array(10**9), "yes": np.array(True)}, "more than"),
    ],
)
def test_loops_that_may_end_otherwise_stay(on, constants, reason):
    model = model_from_text(LOOP.format(more="", on=on), **constants)
    result, report = optimise(model)
    assert "Loop" in ops(result)
    assert bool(refused(report, "unroll_loop")) == bool(reason)
    if reason:
        assert reason in refused(report, "unroll_loop")[0]


def test_a_loop_in_a_branch_and_a_branch_in_a_loop():
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N] x, int64 turns, bool yes, bool pick, int64 one) => (float[N] y) {
            y = If (pick) <
                then_branch = yes_branch () => (float[N] a) {
                    a = Loop (turns, yes, x) <
                        body = turn (int64 i, bool go, float[N] h) => (bool on, float[N] k) {
                            on = Identity(go)
                            first = Less(i, one)
                            k = If (first) <
                                then_branch = early () => (float[N] e) { e = Add(h, x) },
                                else_branch = late () => (float[N] e) { e = Mul(h, x) }
                            >
                        }
                    >
                },
                else_branch = no_branch () => (float[N] a) { a = Neg(x) }
            >
        }""",
        turns=np.array(3),
        yes=np.array(True),
        pick=np.array(True),
        one=np.array(1),
    )
    result, _ = optimise(model)
    assert set(ops(result)) <= {"Add", "Mul"} or not {"If", "Loop"} & set(ops(result))
    same(model, result, x=np.float32([1, -2, 3]))


def test_a_body_that_gives_back_what_it_was_given_is_written_out():
    """Its output is a value that it reads, of its own or from around it, and no node's."""
    model = model_from_text(
        """<ir_version: 8, opset_import: ["": 17]>
        main (float[N] x, int64 turns, bool yes) => (float[N] y, float[N] z, float[M, N] all) {
            y, z, all = Loop (turns, yes, x, x) <
                body = turn (int64 i, bool go, float[N] g, float[N] h)
                    => (bool go, float[N] h, float[N] k, float[N] g) { k = Neg(g) }
            >
        }""",
        turns=np.array(3),
        yes=np.array(True),
    )
    result, report = optimise(model)
    assert "unroll_loop" in fired(report) and "Loop" not in ops(result)
    same(model, result, x=np.float32([1, -2, 3]))
