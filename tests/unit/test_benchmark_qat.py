"""The figures of benchmarks._qat, on answers whose truth is known."""

import numpy as np
import pytest
from benchmarks import _qat
from benchmarks._qat import CONTROL, FULL, OURS, Proof, drop_points, figures, table


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr(_qat, "DRAWS", 200)  # an interval is asked for where its width is tested


def answers(wrong, items=1000):
    """For each item whether it is right: the first `wrong` are not."""
    return [place >= wrong for place in range(items)]


def proof(net="resnet18_small", seed=0, *, full=20, ours=20, size=24, **peers):
    right = {FULL: answers(full), OURS: answers(ours), CONTROL: answers(full)}
    made = Proof(net, seed, right | {name: answers(wrong) for name, wrong in peers.items()})
    made.size_bytes = {FULL: 100, OURS: size, **dict.fromkeys(peers, 30)}
    made.ways = dict.fromkeys(peers, "minmax")
    return made


def test_a_drop_is_in_points_and_its_interval_is_that_of_a_proportion():
    full, other = np.array([answers(0)]), np.array([answers(50)])
    found = drop_points(full, other, draws=4000)
    spread = 100 * 1.96 * np.sqrt(0.05 * 0.95 / 1000)
    assert found["mean"] == pytest.approx(5.0)
    assert found["high"] - found["mean"] == pytest.approx(spread, rel=0.1)
    assert found["mean"] - found["low"] == pytest.approx(spread, rel=0.1)


def test_pairing_takes_away_what_both_get_wrong():
    same = drop_points(np.array([answers(300)] * 5), np.array([answers(300)] * 5))
    assert same == {"mean": 0.0, "low": 0.0, "high": 0.0}


def test_seeds_that_disagree_widen_the_interval():
    full = np.array([answers(30)] * 4)
    agree = drop_points(full, np.array([answers(30 + 20)] * 4), draws=1000)
    disagree = drop_points(full, np.array([answers(30 + 20 + d) for d in (-19, 20, -20, 19)]), draws=1000)
    assert agree["mean"] == pytest.approx(disagree["mean"]) == 2.0
    assert disagree["high"] - disagree["low"] > 1.5 * (agree["high"] - agree["low"])


def test_the_worse_network_counts():
    rows = [
        proof(seed=0, ours=10, size=20, onnxruntime=40),
        proof(seed=1, ours=20, size=25, onnxruntime=20),
        proof("mobilenet_v2_small", ours=30, size=23, onnxruntime=20, nncf=25),
    ]
    found = figures(rows)
    assert found["qat_size_reduction"] == 0.75
    drops = found["qat_accuracy_drop"]
    assert drops["worst"] == drops["mobilenet_v2_small"]["mean"] == pytest.approx(1.0)
    assert drops["resnet18_small"]["mean"] == pytest.approx(-0.5)
    assert found["ptq_accuracy_drop"]["onnxruntime"]["worst"] == pytest.approx(1.0)
    assert found["ptq_accuracy_drop"]["nncf"] == {
        "worst": pytest.approx(0.5),
        "mobilenet_v2_small": found["ptq_accuracy_drop"]["nncf"]["mobilenet_v2_small"],
    }
    assert found["ptq_size_reduction"]["onnxruntime"]["worst"] == pytest.approx(0.7)


def test_the_table_holds_every_seed_and_leaves_out_what_failed():
    shown = table("resnet18_small", [proof(seed=3, onnxruntime=40), proof(seed=1, onnxruntime=20)])
    cells = [list(column.cells) for column in shown.columns]
    assert cells[0] == ["1", "3", "mean", "drop, points", "bytes"]
    assert cells[1][:3] == ["98.00", "98.00", "98.00"] and cells[4] == ["", "", "", "", ""]
    assert cells[3][1] == "96.00 minmax" and cells[3][3].startswith("+1.00 [")


def test_what_is_finished_is_not_made_again(tmp_path, monkeypatch):
    calls = []

    def made(net, seed, data, folder):
        calls.append((net, seed))
        return proof(net, seed)

    monkeypatch.setattr(_qat, "_in_child", made)
    first = _qat.measured(["resnet18_small"], [0, 1], "digits", 2, tmp_path)
    again = _qat.measured(["resnet18_small"], [0, 1, 2], "digits", 2, tmp_path)
    assert sorted(calls) == [("resnet18_small", seed) for seed in (0, 1, 2)]
    assert again[:2] == first and [one.seed for one in again] == [0, 1, 2]
