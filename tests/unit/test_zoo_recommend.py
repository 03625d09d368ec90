"""What the zoo recommends: the order and its reasons, what is kept of measurements, and what bad input is told."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
import typer

from raceline import cli, loop, zoo
from raceline.core.errors import ConfigError, UnknownNameError
from raceline.core.paths import cache_dir
from raceline.ir.platform import stated_platform

recommending = sys.modules["raceline.loop.recommend"]


def network(name, accuracy=None, data="pictures", task="classify"):
    published = accuracy and zoo.Published("accuracy", data, accuracy, "a paper")
    return zoo.Entry(name, task, (), ("out",), 1, 1.0, "a paper", build=object, published=published)


def costs(latency_ms, memory_mb=1.0, measured=True):
    latency_s = None if latency_ms is None else latency_ms / 1e3
    memory = None if memory_mb is None else int(memory_mb * 1e6)
    return zoo.Figures(latency_s, memory, measured, "as the test says")


NETWORKS = (network("small", 0.6), network("middle", 0.7), network("large", 0.8), network("odd", 0.65))
FIGURES = {"small": costs(1, 4), "middle": costs(5, 10), "large": costs(20, 80), "odd": costs(9, 12)}


def ranked(networks=NETWORKS, figures=FIGURES, **limits):
    return zoo.recommend(networks, figures, "a machine", zoo.Limits(**limits))


def names(verdicts):
    return [verdict.name for verdict in verdicts]


def test_without_a_limit_the_fastest_comes_first():
    found = ranked()
    assert names(found.picks) == ["small", "middle", "odd", "large"] and not found.refused
    assert "the fastest first" in found.rule
    assert "middle is both faster and more accurate" in found.picks[2].why


def test_with_a_limit_the_most_accurate_that_keeps_it_comes_first():
    found = ranked(latency_s=0.010)
    assert names(found.picks) == ["middle", "odd", "small"]
    assert "measured 5 ms, 50% of the limit; the most accurate on pictures" in found.picks[0].why
    assert "10.0 points below middle" in found.picks[2].why
    (refused,) = found.refused
    assert refused.name == "large" and not refused.fits and "20 ms is over the limit of 10 ms" in refused.why


def test_both_limits_hold_and_each_breach_is_told():
    found = ranked(latency_s=0.010, memory_bytes=5e6)
    assert names(found.picks) == ["small"]
    assert names(found.refused) == ["middle", "odd", "large"]  # the nearest first
    assert found.refused[2].why.startswith("latency: ") and "; memory: " in found.refused[2].why


def test_accuracies_on_other_data_are_not_compared():
    networks = (*NETWORKS, network("alien", 0.99, data="sounds"), network("unknown"))
    found = ranked(networks, {**FIGURES, "alien": costs(2), "unknown": costs(2)}, latency_s=0.030)
    assert names(found.picks) == ["large", "middle", "odd", "small", "alien", "unknown"]
    assert "most accurate on sounds" in found.picks[4].why
    assert "no published figure compares" in found.picks[5].why


def test_an_estimate_is_marked_and_stands_after_what_was_measured():
    figures = {**FIGURES, "large": costs(8, measured=False)}
    found = ranked(figures=figures, latency_s=0.010)
    assert names(found.picks) == ["middle", "odd", "small", "large"]
    assert "ESTIMATE: 8 ms if an engine reached the machine's peak; measure it" in found.picks[3].why
    assert not any("ESTIMATE" in pick.why for pick in found.picks[:3])
    assert names(ranked(figures=figures).picks)[-1] == "large"


def test_an_estimate_that_is_too_much_is_refused_as_an_estimate():
    found = ranked(figures={**FIGURES, "large": costs(11, measured=False)}, latency_s=0.010)
    assert "latency: an ESTIMATE of 11 ms is over" in found.refused[0].why


def test_what_nobody_knows_keeps_no_limit():
    figures = {**FIGURES, "small": costs(None, None, measured=False)}
    assert (
        "its latency is unknown: as the test says" in ranked(figures=figures, latency_s=0.01).refused[-1].why
    )
    assert names(ranked(figures=figures).picks)[-1] == "small"


def test_where_nothing_fits_the_nearest_is_told():
    with pytest.raises(
        ConfigError, match=r"no network to classify on a machine .*500 µs.* nearest is small with 1 ms"
    ):
        ranked(latency_s=0.0005)
    unknown = dict.fromkeys(FIGURES, costs(None, None, measured=False))
    with pytest.raises(ConfigError, match="as the test says"):
        ranked(figures=unknown, latency_s=1.0)


@pytest.mark.parametrize("limit", [0.0, -1.0, float("nan"), float("inf")])
def test_limits_that_are_none_are_refused(limit):
    for name in ("latency_s", "memory_bytes"):
        with pytest.raises(ConfigError, match="above zero"):
            zoo.Limits(**{name: limit})


def test_tasks_have_the_field_s_words():
    assert [zoo.task_named(word) for word in ("segmentation", "depth", "drive")] == [
        "segment",
        "estimate-depth",
        "drive",
    ]
    with pytest.raises(UnknownNameError, match=r"'flying'.*classify.*drive"):
        zoo.task_named("flying")


# ---------------------------------------------------------------- the journey


@pytest.fixture
def steering(monkeypatch):
    """A zoo of PilotNet alone, of which nothing was measured; gives this machine."""
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    from raceline.ir import this_machine

    here = this_machine()
    entries = tuple(entry for entry in zoo.list("drive") if entry.name == "pilotnet")
    monkeypatch.setattr(zoo, "list", lambda task=None: entries)
    kept_file(here).unlink(missing_ok=True)
    yield here
    kept_file(here).unlink(missing_ok=True)


def kept_file(machine):
    return cache_dir() / "zoo/measured" / machine.key / "pilotnet.json"


def test_what_was_measured_is_kept_and_what_is_outdated_is_told(steering, monkeypatch, caplog):
    (pick,) = loop.recommend("drive", measure=True, budget_s=0.2).picks
    assert pick.figures.measured and pick.figures.latency_s > 0 and pick.figures.memory_bytes > 0
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "export_onnx", None)  # whoever measures or counts again fails
        (again,) = loop.recommend("drive", measure=True).picks
    assert again == pick
    path = kept_file(steering)
    kept = json.loads(path.read_text())
    for change, told in (
        ({"raceline": "0.0.1"}, "it was Raceline 0.0.1"),
        ({"fingerprint": "0" * 16}, "code has changed"),
        ({"engine_version": "0.1"}, "was 0.1"),
        ({"profile": {**kept["profile"], "platform": "cpu-of-another"}}, "another machine"),
        ({"profile": {}}, "damaged"),
    ):
        path.write_text(json.dumps({**kept, **change}))
        caplog.clear()
        (other,) = loop.recommend("drive").picks
        assert not other.figures.measured and told in caplog.text
    path.write_text("{")
    assert not loop.recommend("drive").picks[0].figures.measured


def test_an_estimate_is_the_roofline_of_the_optimised_graph(steering, tmp_path):
    from raceline.convert import IRTranslator, inspect_model

    machine = stated_platform("nvidia-a40")
    (pick,) = loop.recommend("drive", platform="nvidia-a40").picks
    path = zoo.export_onnx("pilotnet", tmp_path / "net.onnx")
    translator = IRTranslator()
    model = translator.optimize(translator.parse(path))
    rates = [rate for rate in machine.rates if rate.precision == "fp32"]
    found = inspect_model(model, {"batch": 1}, dataclasses.replace(machine, rates=tuple(rates)))
    assert not pick.figures.measured and "fp32" in pick.figures.how
    assert pick.figures.latency_s == pytest.approx(found.time_s, rel=1e-3)
    assert pick.figures.memory_bytes > 4 * 252_219
    # A machine that only states int8 moves a quarter of the bytes.
    (other,) = loop.recommend("drive", platform="intel-npu4").picks
    assert other.figures.memory_bytes == pytest.approx(pick.figures.memory_bytes / 4, rel=0.01)


def test_estimates_of_a_task_export_nothing(monkeypatch):
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    monkeypatch.setattr(zoo, "export_onnx", None)  # whoever exports fails
    found = loop.recommend("classify", platform="nvidia-a40")
    assert len(found.picks) == len(zoo.list("classify"))
    assert all(pick.figures.latency_s for pick in found.picks)


def test_a_network_that_is_not_in_the_table_is_counted_once(steering, monkeypatch, caplog):
    monkeypatch.setattr(recommending, "shipped", lambda entry: None)
    (entry,) = zoo.list("drive")
    kept = cache_dir() / "zoo/needs"
    for path in kept.glob("pilotnet-*"):
        path.unlink()
    (pick,) = loop.recommend("drive", platform="nvidia-a40").picks
    (path,) = kept.glob("pilotnet-*")
    with monkeypatch.context() as patch:
        patch.setattr(zoo, "export_onnx", None)
        assert loop.recommend("drive", platform="nvidia-a40").picks == (pick,)
    path.write_text("{}")
    assert loop.recommend("drive", platform="nvidia-a40").picks == (pick,)
    assert "damaged and counted again" in caplog.text
    path.unlink()


def test_a_machine_that_states_no_rates_gives_no_figures(steering, tmp_path):
    silent = dataclasses.replace(stated_platform("intel-npu4"), rates=())
    (pick,) = loop.recommend("drive", platform=silent).picks
    assert pick.figures.latency_s is None and "states no rate" in pick.why


def test_another_machine_cannot_be_measured_from_here(steering):
    with pytest.raises(ConfigError, match="NVIDIA A40.* cannot be measured here"):
        loop.recommend("drive", platform="nvidia-a40", measure=True)


def test_a_network_that_no_engine_runs_is_told_and_the_others_go_on(steering, monkeypatch):
    from raceline.core.errors import BadModelError

    def refuse(*_, **__):
        raise BadModelError("no engine could run this model", "all crashed")

    monkeypatch.setattr(recommending, "tune", refuse)
    (pick,) = loop.recommend("drive", measure=True).picks
    assert pick.figures.latency_s is None and "all crashed" in pick.why
    assert not kept_file(steering).exists()


# ---------------------------------------------------------------- the command line


@pytest.fixture
def run(capsys, monkeypatch):
    """Run `raceline zoo`; returns exit code, standard output and standard error."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["raceline", "zoo", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_every_command_shows_an_example():
    group = typer.main.get_command(cli.app).commands["zoo"]
    assert sorted(group.commands) == ["get", "list", "recommend", "train"]
    assert all("Example: raceline zoo " in command.help for command in group.commands.values())


def test_the_list_is_for_people_and_machines(run):
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    code, text, _ = run("list", "--task", "segmentation")
    assert code == 0 and "fast_scnn" in text and "resnet18" not in text and "BMVC 2019" in text
    code, text, _ = run("list", "--json")
    told = json.loads(text)["models"]
    assert code == 0 and [row["name"] for row in told] == [entry.name for entry in zoo.list()]
    pilot = next(row for row in told if row["name"] == "pilotnet")
    assert pilot["parameters"] == 252_219 and pilot["inputs"] == ["planes: float32[batch, 3, 66, 200]"]


def test_a_network_is_written_and_its_weights_are_said_to_be_random(run, tmp_path):
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    import onnx

    path = tmp_path / "net.onnx"
    code, text, _ = run("get", "pilotnet", "-o", path, "--batch", "2", "--seed", "4")
    assert code == 0 and str(path) in text and "random (seed 4)" in text
    (value,) = onnx.load(path).graph.input
    assert [d.dim_value for d in value.type.tensor_type.shape.dim] == [2, 3, 66, 200]


def test_a_recommendation_is_printed_with_its_reasons(run, steering):
    code, text, _ = run("recommend", "--task", "driving", "--platform", "nvidia-a40")
    assert code == 0 and "pilotnet  ~" in text and "(estimate: roofline in fp32" in text
    code, text, _ = run(
        "recommend", "--task", "drive", "--platform", "nvidia-a40", "--memory-mb", 50, "--json"
    )
    told = json.loads(text)
    assert code == 0 and told["picks"][0]["name"] == "pilotnet"
    assert told["picks"][0]["figures"]["measured"] is False


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("recommend", "--task", "drive", "--latency-ms", "0"), "above zero"),
        (
            ("recommend", "--task", "drive", "--platform", "nvidia-a40", "--latency-ms", "1e-6"),
            "the nearest is pilotnet",
        ),
        (("recommend", "--task", "drive", "--platform", "damaged.json"), "not JSON"),
        (("recommend", "--task", "drive", "--platform", "nowhere"), "nowhere"),
        (("get", "pilotnet", "-o", "x.onnx", "--batch", "several"), "positive number or dynamic"),
    ],
)
def test_bad_input_ends_with_2_and_a_way_out(run, steering, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path("damaged.json").write_text('{"name": ')
    code, _, err = run(*arguments)
    assert code == 2 and told in err and not Path("x.onnx").exists()


@pytest.mark.parametrize("arguments", [("list", "--task", "flying"), ("recommend", "--task", "flying")])
def test_tasks_that_are_none_are_told(run, arguments):
    pytest.importorskip("torch", reason="needs torch: pip install 'raceline[train]'")
    code, _, err = run(*arguments)
    assert code == 2 and "classify" in err and "drive" in err
