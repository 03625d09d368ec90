"""Platform profiles: strict files, stable keys, honest rates, and the machines that ship with Raceline."""

from dataclasses import replace

import pytest

from raceline.core.errors import ConfigError, UnknownNameError
from raceline.ir import PlatformProfile
from raceline.ir.engine_rules import suitable_engines
from raceline.ir.platform import Cache, EngineChoice, Rate, stated_platform, stated_platforms

CAR = PlatformProfile(
    name="a car",
    kind="cpu",
    model="Some CPU (R) @ 3 GHz",
    architecture="x86_64",
    cores=4,
    engines=suitable_engines("x86_64", ["avx2", "fma"]),
    measured=True,
    source="a test",
    date="2026-11-22",
    instruction_sets=("avx2", "fma"),
    rates=(Rate("fp32", "sse2", 10.0, None), Rate("fp32", "fma", 40.0, 130.0), Rate("int8", "avx2", 80.0)),
    caches=(Cache(1, "data", 32768), Cache(3, "unified", 1 << 25, 8)),
    memory_bytes=1 << 34,
    memory_bytes_per_s_per_core=9e9,
    memory_bytes_per_s=2e10,
    clock_hz=3e9,
    probe_version=1,
)


def test_a_saved_profile_comes_back_the_same(tmp_path):
    CAR.save(tmp_path / "car.json")
    assert PlatformProfile.load(tmp_path / "car.json") == CAR
    assert [p.name for p in tmp_path.iterdir()] == ["car.json"]


def places(value, path=()):
    """Every place in a JSON value below the top."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def spelt(path):
    """A place as messages spell it: engines[0].provider."""
    return "".join(f"[{k}]" if isinstance(k, int) else f".{k}" for k in path).lstrip(".")


def put(data, path, value):
    *way, last = path
    for key in way:
        data = data[key]
    data[last] = value


@pytest.mark.parametrize("path", list(places(CAR.to_json())), ids=spelt)
def test_a_wrong_value_anywhere_is_refused_by_its_name(path):
    for wrong in ({"x": [1]}, float("nan"), 10**400, False):
        data = CAR.to_json()
        if path == ("measured",) and wrong is False:
            continue
        put(data, path, wrong)
        with pytest.raises(ConfigError) as caught:
            PlatformProfile.from_json(data)
        assert spelt(path) in str(caught.value)


@pytest.mark.parametrize("field", ["name", "kind", "cores", "engines", "measured", "source", "date"])
def test_a_missing_field_is_named(field):
    data = CAR.to_json()
    del data[field]
    with pytest.raises(ConfigError, match=f"field {field} is missing"):
        PlatformProfile.from_json(data)


def test_an_unknown_field_is_named():
    data = CAR.to_json()
    data["rates"][1]["colour"] = "red"
    with pytest.raises(ConfigError, match=r"no field rates\[1\].colour.*precision"):
        PlatformProfile.from_json(data)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "toaster"}, "kind is 'toaster'"),
        ({"cores": 0}, "cores is 0"),
        ({"name": " "}, "name is empty"),
        ({"date": "yesterday"}, "date is 'yesterday'"),
        ({"clock_hz": -1.0}, "clock_hz is -1.0"),
        ({"rates": (Rate("fp31", "fma", 1.0),)}, r"rates\[0\].precision is 'fp31'"),
        ({"rates": (Rate("fp32", "fma", 1.0, -2.0),)}, r"rates\[0\].all_cores is -2"),
        ({"caches": (Cache(1, "data", 0),)}, r"caches\[0\].size_bytes is 0"),
        ({"engines": (EngineChoice("e", "CPU", ("int3",), "why"),)}, r"precisions\[0\] is 'int3'"),
    ],
)
def test_impossible_values_are_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(CAR, **change)


@pytest.mark.parametrize("text", ["", "[1, 2", "[]", "null", "[" * 100_000], ids=repr)
def test_a_file_that_is_no_profile_is_refused_by_its_path(tmp_path, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.json"):
        PlatformProfile.load(path)


def test_files_that_cannot_be_read_or_written(tmp_path):
    with pytest.raises(ConfigError, match="cannot read"):
        PlatformProfile.load(tmp_path / "absent.json")
    (tmp_path / "latin").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="cannot read"):
        PlatformProfile.load(tmp_path / "latin")
    with pytest.raises(ConfigError, match="cannot write"):
        CAR.save(tmp_path / "absent" / "car.json")


def test_the_key_names_the_machine_and_nothing_measured():
    measured_again = replace(
        CAR, rates=(), clock_hz=1.0, memory_bytes_per_s=None, date="2027-01-01", name="b"
    )
    assert measured_again.key == CAR.key
    assert replace(CAR, instruction_sets=("fma", "avx2")).key == CAR.key
    others = [{"cores": 5}, {"model": "Other"}, {"instruction_sets": ("avx2",)}, {"architecture": "aarch64"}]
    keys = {replace(CAR, **change).key for change in [*others, {}]}
    assert len(keys) == 5
    assert all(set(key) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for key in keys)


def test_peak_rates():
    assert CAR.fp32_flops_per_s_per_core == 40
    assert CAR.int8_ops_per_s_per_core == 80
    assert CAR.bf16_flops_per_s_per_core is None
    assert CAR.peak_ops_per_s("fp32") == CAR.peak_ops_per_s("fp32", 99) == 130  # measured, not 4 x 40
    assert CAR.peak_ops_per_s("fp32", 2) == 80
    assert CAR.peak_ops_per_s("int8") == 320  # never measured together: the sum
    assert CAR.peak_ops_per_s("tf32") is None
    assert stated_platform("nvidia-a40").peak_ops_per_s("fp32", 42) == pytest.approx(18.7e12)


def test_the_shipped_machines_are_statements_with_sources():
    names = stated_platforms()
    assert {"amd-zen3", "nvidia-a40", "intel-npu4", "qualcomm-snapdragon-x-elite"} <= set(names)
    profiles = [stated_platform(name) for name in names]
    assert len({p.key for p in profiles}) == len(names)
    for profile in profiles:
        assert not profile.measured
        assert "measured" in profile.source
        assert profile.engines
        assert profile.peak_ops_per_s("int8")
    assert stated_platform("amd-zen3").fp32_flops_per_s_per_core == 101.7e9
    assert stated_platform("amd-zen3").engines == suitable_engines("x86_64", ("avx2", "fma"))


def test_an_unknown_shipped_machine_lists_the_known():
    with pytest.raises(UnknownNameError, match="amd-zen3"):
        stated_platform("../amd-zen3")


def test_what_can_be_measured_here():
    gpu = stated_platform("nvidia-a40")
    for choice in gpu.engines:
        assert gpu.measurable_here(choice, CAR, exists=lambda _: False) == (
            False,
            "there is no /dev/nvidiactl here",
        )
        assert gpu.measurable_here(choice, CAR, exists={"/dev/nvidiactl"}.__contains__).yes
    cpu = stated_platform("amd-zen3")
    assert cpu.measurable_here(cpu.engines[0], cpu).yes
    verdict = cpu.measurable_here(cpu.engines[0], CAR)
    assert not verdict.yes
    assert "a car" in verdict.why


def test_every_accelerator_provider_has_a_device_to_look_for():
    for name in stated_platforms():
        profile = stated_platform(name)
        for choice in profile.engines:
            verdict = profile.measurable_here(choice, CAR, exists=lambda _: False)
            assert profile.kind == "cpu" or verdict.why.startswith("there is no /dev/")


def choices(architecture, *sets):
    return {c.engine: c for c in suitable_engines(architecture, sets)}


def test_engines_follow_the_instruction_sets():
    avx2 = choices("x86_64", "avx2", "fma")
    assert list(avx2) == ["native", "mnn", "openvino", "onnxruntime", "reference"]
    assert "7 bits" in avx2["onnxruntime"].reason
    assert "bf16" not in avx2["openvino"].precisions
    amx = choices("x86_64", "avx2", "fma", "avx512f", "avx512_vnni", "amx_tile", "amx_int8", "amx_bf16")
    assert list(amx)[:2] == ["native", "openvino"]
    assert "AVX-512" in amx["native"].reason and amx["native"].precisions == ("fp32", "int8")
    assert "bf16" in amx["openvino"].precisions
    assert "AMX" in amx["openvino"].reason
    assert "7 bits" not in amx["onnxruntime"].reason
    arm = choices("aarch64", "neon", "dotprod")
    assert list(arm)[0] == "mnn" and "native" not in arm
    assert "native" not in choices("x86_64", "sse2")
    assert arm["mnn"].precisions == ("fp32",)  # it takes no QDQ
    for engines in (avx2, amx, arm):
        assert engines["reference"].precisions == ("fp32",)
        assert all(c.reason and c.precisions[0] == "fp32" for c in engines.values())
