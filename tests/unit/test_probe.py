"""This machine is measured once and remembered; no trouble with the memory of it stops anyone."""

import json
from dataclasses import replace

import pytest

from raceline.core.errors import MissingDependencyError
from raceline.core.units import MIB
from raceline.ir import PlatformProfile, probe, this_machine
from raceline.ir.platform import Cache, Rate


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache folder, and a process that has probed nothing."""
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(probe, "_known", {})
    return tmp_path / "cache"


@pytest.fixture
def probes(monkeypatch):
    """The machines that were measured; a measurement costs nothing here."""
    done = []

    def measure(described):
        done.append(described)
        rates = (Rate("fp32", "fma", 100.0 + len(done)),)
        return replace(described, rates=rates, measured=True, probe_version=probe.PROBE_VERSION)

    monkeypatch.setattr(probe, "measure", measure)
    return done


def forget(monkeypatch):
    monkeypatch.setattr(probe, "_known", {})


def test_a_real_measurement_is_complete_and_survives_its_file(folder):
    machine = probe.measure(probe.describe())
    assert machine.measured
    assert machine.fp32_flops_per_s_per_core > 0
    assert machine.peak_ops_per_s("fp32") > 0
    assert machine.memory_bytes_per_s > 0
    assert machine.memory_bytes_per_s_per_core > 0
    assert machine.clock_hz > 0
    assert machine.key == probe.describe().key
    assert PlatformProfile.from_json(json.loads(json.dumps(machine.to_json()))) == machine


def test_the_second_call_and_the_second_process_measure_nothing(folder, probes, monkeypatch):
    first = this_machine()
    assert this_machine() is first
    forget(monkeypatch)
    assert this_machine() == first
    assert len(probes) == 1
    assert [p.name for p in folder.rglob("*.json")] == [f"{first.key}.json"]


def test_refresh_measures_again_and_is_remembered(folder, probes, monkeypatch):
    this_machine()
    again = this_machine(refresh=True)
    assert again.fp32_flops_per_s_per_core == 102
    forget(monkeypatch)
    assert this_machine() == again


@pytest.mark.parametrize("damage", ["", "{", '{"name": 1}', "\x00" * 100])
def test_a_damaged_memory_is_measured_again_and_mended(folder, probes, monkeypatch, damage, caplog):
    path = folder / "platforms" / f"{this_machine().key}.json"
    path.write_text(damage)
    forget(monkeypatch)
    assert this_machine().measured
    assert len(probes) == 2
    assert "damaged" in caplog.text
    assert PlatformProfile.load(path).measured


def test_figures_of_another_probe_or_machine_are_not_used(folder, probes, monkeypatch):
    mine = this_machine()
    path = folder / "platforms" / f"{mine.key}.json"
    for stranger in (replace(mine, probe_version=99), replace(mine, model="another")):
        stranger.save(path)
        forget(monkeypatch)
        assert this_machine().model == mine.model
    assert len(probes) == 3


def test_engine_rules_are_of_today_though_figures_are_remembered(folder, probes, monkeypatch):
    mine = this_machine()
    replace(mine, engines=()).save(folder / "platforms" / f"{mine.key}.json")
    forget(monkeypatch)
    assert this_machine().engines == mine.engines
    assert len(probes) == 1


def test_a_cache_that_cannot_be_written_warns_and_works(tmp_path, probes, monkeypatch, caplog):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("RACELINE_CACHE_DIR", str(tmp_path / "file"))
    forget(monkeypatch)
    assert this_machine().measured
    assert "RACELINE_CACHE_DIR" in caplog.text


def test_without_the_native_module_the_message_tells_how_to_get_it(folder, monkeypatch):
    import sys

    import raceline

    monkeypatch.delattr(raceline, "_native", raising=False)
    monkeypatch.setitem(sys.modules, "raceline._native", None)
    with pytest.raises(MissingDependencyError, match="pip install"):
        this_machine()


def test_a_refused_measurement_leaves_the_rest(folder, monkeypatch, caplog):
    class Refusing:
        """A machine whose system refuses AMX and has no memory to spare."""

        @staticmethod
        def kernels():
            return [("fp32", "fma"), ("int8", "amx_int8")]

        @staticmethod
        def measure_ops_per_s(_precision, instruction_set, cpus):
            if instruction_set == "amx_int8":
                raise RuntimeError("refused")
            return 1.0 + len(cpus)

        @staticmethod
        def measure_triad_bytes_per_s(_size, _cpus):
            raise MemoryError("none left")

        @staticmethod
        def measure_clock_hz():
            return 3e9

    described = probe.describe()
    monkeypatch.setattr(probe, "_load_native", Refusing)
    machine = probe.measure(described)
    assert [r.instruction_set for r in machine.rates] == ["fma"]
    assert machine.memory_bytes_per_s is None
    assert "refused" in caplog.text


def machine_with(cache_bytes, shared_by, cores, memory_bytes):
    caches = (Cache(1, "data", 32768), Cache(3, "unified", cache_bytes, shared_by))
    return replace(probe.describe(), caches=caches, cores=cores, memory_bytes=memory_bytes)


@pytest.mark.parametrize(
    ("machine", "one", "several"),
    [
        ((32 * MIB, 16, 8, 64 << 30), 384, 384),  # one Zen 3 complex
        ((32 * MIB, 16, 64, 512 << 30), 384, 1536),  # four complexes on view of 16 threads each
        ((504 * MIB, 2, 2, 24 << 30), 384, 384),  # a virtual machine that claims its host's cache
        ((4 * MIB, 4, 4, 8 << 30), 96, 96),  # a small board
        ((4 * MIB, 4, 4, 256 << 20), 32, 32),  # a container with little memory
    ],
)
def test_triad_arrays_outgrow_the_cache_within_bounds(machine, one, several):
    assert [size // MIB for size in probe.triad_sizes_bytes(machine_with(*machine))] == [one, several]


def test_triad_arrays_without_known_caches():
    machine = replace(probe.describe(), caches=(), memory_bytes=None)
    assert min(probe.triad_sizes_bytes(machine)) >= 96 * MIB
