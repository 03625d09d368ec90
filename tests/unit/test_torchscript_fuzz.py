"""Broken archives and nonsense graphs give only errors of ours."""

import json
import random

import pytest

torch = pytest.importorskip("torch")

from unit.test_torchscript_control import Chosen, Counter, Loops, saved  # noqa: E402

from raceline.convert.exporters import torchscript as exporter  # noqa: E402
from raceline.convert.formats.torchscript import program  # noqa: E402
from raceline.convert.formats.torchscript.recorded import recorded  # noqa: E402
from raceline.convert.formats.torchscript.translate import Given, translate  # noqa: E402
from raceline.convert.readers import torchscript  # noqa: E402
from raceline.core.errors import RacelineError  # noqa: E402
from raceline.ir import Limits, Provenance  # noqa: E402


@pytest.fixture
def archive(tmp_path):
    return torchscript.example(tmp_path).read_bytes()


@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95])
def test_half_archives_are_refused(archive, tmp_path, share):
    path = tmp_path / "cut.pt"
    path.write_bytes(archive[: int(len(archive) * share)])
    with pytest.raises(RacelineError, match="cut.pt"):
        torchscript.read(path)


def _flipped(archive, tmp_path, seed):
    chance = random.Random(seed)
    broken = bytearray(archive)
    for _ in range(chance.randint(1, 20)):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    path = tmp_path / "flipped.pt"
    path.write_bytes(broken)
    try:
        torchscript.read(path)
    except RacelineError:
        pass


def test_flipped_bits_do_no_harm(archive, tmp_path):
    for seed in range(3):
        _flipped(archive, tmp_path, seed)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3, 150))
def test_more_flipped_bits_do_no_harm(archive, tmp_path, seed):
    _flipped(archive, tmp_path, seed)


def _record(archive, tmp_path):
    import io
    import zipfile

    with zipfile.ZipFile(io.BytesIO(archive)) as members:
        (name,) = (n for n in members.namelist() if n.endswith("traced_inputs.pkl"))
        return members.read(name)


def test_the_record_of_a_trace_is_read_or_ignored(archive, tmp_path):
    record = _record(archive, tmp_path)
    assert recorded(record, "forward") == (("float32", (2, 3)),)
    assert recorded(record, "other") == ()
    chance = random.Random(0)
    for _ in range(500):
        broken = bytearray(record)
        for _ in range(chance.randint(1, 8)):
            broken[chance.randrange(len(broken))] = chance.randrange(256)
        assert isinstance(recorded(bytes(broken[: chance.randint(0, len(broken))]), "forward"), tuple)


def test_the_record_of_a_trace_runs_nothing(tmp_path):
    mark = tmp_path / "ran"
    assert recorded(f"cbuiltins\nopen\n(V{mark}\nVw\ntR.".encode(), "forward") == ()
    assert not mark.exists()


def _scrambled(graph, chance):
    """A graph with one thing changed."""
    graph = json.loads(json.dumps(graph))
    nodes = _nodes(graph["block"])
    node = chance.choice(nodes)
    other = chance.choice(nodes)
    what = chance.randrange(7)
    if what == 0:
        node["op"] = other["op"]
    elif what == 1 and node["inputs"]:
        node["inputs"][chance.randrange(len(node["inputs"]))] = chance.choice(other["inputs"] or ["absent"])
    elif what == 2 and node["inputs"]:
        node["inputs"].pop()
    elif what == 3 and node["outputs"]:
        node["outputs"].pop()
    elif what == 4:
        node["value"] = chance.choice(
            [None, -1, 10**12, {"float": "nan"}, {"tensor": 0}, "text", {"strange": "it"}]
        )
    elif what == 5:
        node["inputs"] = list(other["inputs"])
    else:
        node["overload"] = "Strange"
    return graph


def _nodes(block):
    return [n for node in block["nodes"] for n in [node, *(i for b in node["blocks"] for i in _nodes(b))]]


def _translated(folder, shape):
    given = Given({"x": shape}, {}, {})
    return translate(
        program.load(folder, "m.pt"),
        given,
        Limits(max_nodes=3000),
        Provenance(source="m.pt", source_format="torchscript"),
    )


@pytest.mark.parametrize("module, shape", [(Loops(), (2, 3, 4)), (Chosen(), (2, 4)), (Counter(), ("n", 4))])
def test_scrambled_graphs_give_errors_of_ours(module, shape, tmp_path):
    path, _ = saved(module, tmp_path)
    exporter.export({"path": str(path), "method": "forward", "folder": str(tmp_path)})
    graph = json.loads((tmp_path / "graph.json").read_text())
    for seed in range(60):
        (tmp_path / "graph.json").write_text(json.dumps(_scrambled(graph, random.Random(seed))))
        try:
            _translated(tmp_path, shape)
        except RacelineError as error:
            assert "m.pt" in str(error)
