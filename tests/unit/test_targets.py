"""Plans for machines that are not here: what they choose, what they refuse, and that their figures add up."""

import dataclasses
import json
import sys

import numpy as np
import onnx
import pytest

from raceline import cli
from raceline.convert import plan_for
from raceline.convert.example import model_from_text
from raceline.convert.targets.support import table
from raceline.core.errors import ConfigError, ShapeError, UnknownNameError
from raceline.ir import with_batch_axis, write_onnx
from raceline.ir.platform import EngineChoice, stated_platform, stated_platforms

TABLES = ("cann", "cuda", "openvino_npu", "qnn", "tensorrt")
ACCELERATORS = [name for name in stated_platforms() if stated_platform(name).kind != "cpu"]
TENSORRT, CUDA, CPU = "TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"


def picture_net(middle="m = Relu(c)", opset=18, **weights):
    """Convolution, something, convolution; 8 channels of 6 x 6 between."""
    kinds = {"float32": "float", "int8": "int8", "int64": "int64"}
    more = "".join(f", {kinds[a.dtype.name]}{list(a.shape) or ''} {name}" for name, a in weights.items())
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : {opset}]>
        net (float[batch, 4, 6, 6] x, float[8, 4, 1, 1] w, float[8, 8, 1, 1] v{more})
          => (float[batch, 8, 6, 6] y) {{
          c = Conv(x, w) {middle} y = Conv(m, v) }}""",
        w=(8, 4, 1, 1),
        v=(8, 8, 1, 1),
        **weights,
    )
    return with_batch_axis(model, "batch")


def product(rows=64, wide=4096):
    """x @ w, (batch, rows) by (rows, wide)."""
    model = model_from_text(
        f"""<ir_version: 8, opset_import: ["" : 18]>
        net (float[batch, {rows}] x, float[{rows}, {wide}] w) => (float[batch, {wide}] y) {{ y = MatMul(x, w) }}""",
        w=(rows, wide),
    )
    return with_batch_axis(model, "batch")


def plan(model, platform="nvidia-a40", **options):
    machine = stated_platform(platform) if isinstance(platform, str) else platform
    return plan_for(model, machine, {"batch": 1}, **options)


def decided(found, topic):
    (decision,) = (d for d in found.decisions if d.topic == topic)
    return decision


def options_of(found, provider):
    (entry,) = (p for p in found.providers if p.name == provider)
    return entry.options


def without_tensorrt():
    gpu = stated_platform("nvidia-a40")
    return dataclasses.replace(gpu, engines=tuple(c for c in gpu.engines if c.provider == CUDA))


@pytest.mark.parametrize("goal", ["latency", "throughput"])
@pytest.mark.parametrize("name", ACCELERATORS)
def test_every_recorded_accelerator_gets_a_whole_plan(name, goal):
    found = plan(picture_net(), name, goal=goal)
    assert found.measured is False and json.loads(json.dumps(found.to_json()))["measured"] is False
    assert sum(p.nodes for p in found.providers) == 3
    assert found.engine == stated_platform(name).engines[0].engine
    assert found.providers[0].name == stated_platform(name).engines[0].provider
    assert all(d.choice and d.reason for d in found.decisions)
    assert {"providers", "precision", "batch", "shapes", "layout", "fallback"} <= {
        d.topic for d in found.decisions
    }
    assert found.shapes == {"x": (found.batch, 4, 6, 6)}
    assert found.precision == "fp16" and found.next_steps
    told = "\n".join(found.lines())
    assert "NOT measured" in told and found.platform in told


def test_rooflines_and_transfers_are_those_of_the_stated_rates():
    found = plan(product())
    gpu = stated_platform("nvidia-a40")
    weights, ends = 2 * 64 * 4096, 2 * (64 + 4096)
    assert found.estimate.fused_s == pytest.approx((weights + ends) / gpu.memory_bytes_per_s)
    assert found.estimate.stepwise_s == pytest.approx(found.estimate.fused_s)  # one node
    assert found.memory.weight_bytes == weights and found.memory.live_bytes == ends
    assert found.transfers.io_bytes == 4 * (64 + 4096) and found.transfers.count == 0
    assert found.transfers.time_s == pytest.approx(found.transfers.io_bytes / gpu.host_link_bytes_per_s)
    assert {e.precision for e in found.alternatives} == {"fp32", "int8"}
    busy = plan(product(4096, 4096), goal="throughput").estimate
    assert busy.fused_s >= 64 * 2 * 4096 * 4096 / gpu.peak_ops_per_s("fp16")


def test_a_batch_for_throughput_is_the_smallest_that_is_near_the_least_time():
    model, gpu = product(64, 4096), stated_platform("nvidia-a40")
    batch = plan(model, goal="throughput").batch

    def item_s(batch):
        moved = 2 * (64 * 4096 / batch + 64 + 4096)
        return max(2 * 64 * 4096 / gpu.peak_ops_per_s("fp16"), moved / gpu.memory_bytes_per_s)

    assert batch == 64 or item_s(batch) <= 1.05 * item_s(1 << 20)
    assert batch > 1 and item_s(batch // 2) > 1.05 * item_s(1 << 20)
    small = dataclasses.replace(gpu, memory_bytes=600_000)
    found = plan(model, small, goal="throughput")
    assert found.batch < batch and found.memory.fits


def test_a_model_that_does_not_fit_is_told():
    tiny = dataclasses.replace(stated_platform("nvidia-a40"), memory_bytes=100_000)
    found = plan(product(), tiny)
    assert found.memory.fits is False and "DOES NOT FIT" in "\n".join(found.lines())
    unknown = plan(product(), dataclasses.replace(tiny, memory_bytes=None))
    assert unknown.memory.fits is None and unknown.memory.workspace_bytes == 1 << 30


def test_what_both_of_nvidia_s_providers_refuse_crosses_to_the_cpu_and_back():
    axes = np.array([2, 3])
    found = plan(picture_net("d = Det(c) e = Unsqueeze(d, axes) m = Mul(c, e)", axes=axes))
    (doubt,) = found.fallbacks
    assert (doubt.operator, doubt.where) == ("Det", CPU) and "TensorRT" in doubt.why and doubt.source
    assert {p.name: p.nodes for p in found.providers} == {TENSORRT: 4, CUDA: 0, CPU: 1}
    # 8 planes of 6 x 6 go to the host, 8 determinants come back, in half precision.
    assert found.transfers.count == 2 and found.transfers.moved_bytes == 2 * (8 * 36 + 8)
    assert decided(found, "graph").choice == "not captured"
    assert options_of(found, TENSORRT)["trt_min_subgraph_size"] == "5"
    assert "falls back to CPUExecutionProvider: Det" in "\n".join(found.lines())


def test_what_tensorrt_refuses_and_cuda_has_stays_on_the_card():
    cubic = 'r = Resize<mode = "cubic">(c, , twice) m = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)'
    twice = np.array([1, 1, 2, 2], np.float32)
    found = plan(picture_net(cubic, twice=twice), "nvidia-jetson-agx-orin-64gb")
    (doubt,) = found.fallbacks
    assert (doubt.operator, doubt.where) == ("Resize", CUDA) and "mode cubic" in doubt.why
    assert found.transfers.count == 0 and decided(found, "graph").choice == "not captured"


@pytest.mark.parametrize(
    ("middle", "why"),
    [
        ("m = AveragePool<kernel_shape = [3, 3], pads = [2, 2, 2, 2], dilations = [2, 2]>(c)", "dilated"),
        (
            "m, i = MaxPool<kernel_shape = [1, 1]>(c) j = Cast<to = 1>(i) k = ReduceSum(j)",
            "where the maxima lie",
        ),
        ("m = MaxPool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(c)", ""),
    ],
)
def test_restrictions_that_a_table_states_are_kept(middle, why):
    model = picture_net(middle, opset=19)
    if "k =" in middle:
        graph = model.program.graph
        graph.outputs.append(next(v for node in graph for v in node.outputs if v.name == "k"))
    reasons = "".join(doubt.why for doubt in plan(model).fallbacks)
    assert why in reasons and bool(why) == bool(reasons)


def quantised(zero_point):
    return picture_net(
        "q = QuantizeLinear(c, s, z) m = DequantizeLinear(q, s, z)",
        s=np.array(0.1, np.float32),
        z=np.asarray(zero_point, np.int8),
    )


def test_int8_is_planned_only_for_a_model_that_is_quantised():
    assert plan(picture_net(), allow=["int8", "fp32"]).precision == "fp32"
    found = plan(quantised(0))
    assert found.precision == "int8" and options_of(found, TENSORRT)["trt_int8_enable"] == "True"
    assert not found.fallbacks and found.memory.weight_bytes < 4 * (32 + 64)
    assert plan(quantised(0), allow=["fp16"]).precision == "fp16"
    assert any("qdq_onnx" in step for step in plan(picture_net()).next_steps)


def test_tensorrt_refuses_quantisation_that_is_not_symmetric():
    found = plan(quantised(3))
    assert {d.operator for d in found.fallbacks} == {"QuantizeLinear", "DequantizeLinear"}
    assert all("zero point" in d.why and d.where == CUDA for d in found.fallbacks)


def test_fp32_alone_turns_tf32_off_and_tf32_turns_it_on():
    found = plan(picture_net(), without_tensorrt(), allow=["fp32"])
    assert found.precision == "fp32" and options_of(found, CUDA)["use_tf32"] == "0"
    assert found.session["environment NVIDIA_TF32_OVERRIDE"] == "0"
    found = plan(picture_net(), without_tensorrt(), allow=["fp32", "tf32"])
    assert found.precision == "tf32" and options_of(found, CUDA)["use_tf32"] == "1"
    assert found.layout == "NCHW"
    # It computes in the graph's own type: only TensorRT converts to half precision.
    assert plan(picture_net(), without_tensorrt()).precision == "tf32"


def test_a_cuda_graph_is_captured_where_all_is_on_one_provider_and_shapes_are_fixed():
    found = plan(picture_net())
    assert options_of(found, TENSORRT)["trt_cuda_graph_enable"] == "True"
    assert found.session["free_dimension_override batch"] == "1"
    served = plan(picture_net(), goal="throughput")
    assert options_of(served, TENSORRT)["trt_cuda_graph_enable"] == "False"
    assert options_of(served, TENSORRT)["trt_profile_max_shapes"] == f"x:{served.batch}x4x6x6"
    assert options_of(plan(picture_net(), without_tensorrt()), CUDA)["enable_cuda_graph"] == "1"


def test_operators_that_onnx_defines_by_others_are_taken_as_these():
    found = plan(picture_net("m = HardSwish(c)"), without_tensorrt())
    assert not found.fallbacks and not found.unknown
    found = plan(picture_net("m = Mish(c)"), without_tensorrt())  # Softplus, Tanh, Mul
    assert not found.fallbacks
    found = plan(picture_net("m = Tan(c)"), without_tensorrt())
    assert found.fallbacks[0].where == CPU and "no kernel" in found.fallbacks[0].why


def test_what_no_source_settles_is_unknown_and_not_a_refusal():
    found = plan(picture_net("m = Tan(c)"), "qualcomm-snapdragon-x-elite")
    assert not found.fallbacks and [d.operator for d in found.unknown] == ["Tan"]
    assert found.unknown[0].where == "" and "no published list" in found.unknown[0].why
    npu = plan(picture_net(), "intel-npu4")
    assert {d.operator for d in npu.unknown} == {"Conv", "Relu"}
    assert any("query_model" in step for step in npu.next_steps)


def test_npus_take_static_shapes_and_one_item():
    for name in ("intel-npu4", "qualcomm-snapdragon-x-elite"):
        found = plan(picture_net(), name, goal="throughput")
        assert found.batch == 1 and decided(found, "shapes").choice == "fixed: batch = 1"
    assert options_of(plan(picture_net(), "intel-npu4", goal="throughput"), "NPU")[
        "PERFORMANCE_HINT_NUM_REQUESTS"
    ] == "4"  # fmt: skip
    refused = plan(
        picture_net(
            "i = Constant<value_ints = [-1, -1, -1, -1, -1, -1, -1, -1]>() m = Gather<axis = 1>(c, i)"
        ),
        "qualcomm-snapdragon-x-elite",
    )
    assert refused.fallbacks[0].operator == "Gather" and "negative" in refused.fallbacks[0].why
    assert refused.session["session.disable_cpu_ep_fallback"] == "0"


def test_a_card_of_two_chips_is_planned_one_by_one():
    found, card = plan(product(), "huawei-atlas-300i-duo"), stated_platform("huawei-atlas-300i-duo")
    assert found.memory.available_bytes == card.memory_bytes // 2
    (int8,) = (e for e in found.alternatives if e.precision == "int8")
    assert int8.fused_s == pytest.approx((64 * 4096 + 64 + 4096) / (card.memory_bytes_per_s / 2))
    assert any("device_id 0 to 1" in step for step in found.next_steps)
    assert found.transfers.time_s is None  # the link's rate is not stated


def test_a_rate_that_is_not_stated_is_not_made_up():
    found = plan(picture_net(), "intel-npu4")
    assert found.estimate.fused_s is None and "states no rate of its fp16" in found.estimate.how
    silent = dataclasses.replace(stated_platform("nvidia-a40"), memory_bytes_per_s=None)
    found = plan(product(), silent, goal="throughput")
    assert found.batch == 1 and "does not state the rates" in decided(found, "batch").reason


def test_constants_and_batchnorm_are_folded_as_the_runtimes_do():
    ones = np.ones(8, np.float32)
    found = plan(picture_net("m = BatchNormalization(c, g, b, u, r)", g=ones, b=ones, u=ones, r=ones))
    assert sum(p.nodes for p in found.providers) == 2


def test_what_cannot_be_planned_is_told():
    with pytest.raises(ConfigError, match=r"is a CPU.*raceline deploy"):
        plan(picture_net(), "amd-zen3")
    gpu = stated_platform("nvidia-a40")
    odd = dataclasses.replace(
        gpu, engines=(EngineChoice("onnxruntime", "ROCMExecutionProvider", ("fp16",), "r"),)
    )
    with pytest.raises(ConfigError, match=r"lists ROCMExecutionProvider; plans are made for Tensorrt"):
        plan(picture_net(), odd)
    with pytest.raises(ConfigError, match=r"NPU cannot run net in fp32.*computes in fp16, int8"):
        plan(picture_net(), "intel-npu4", allow=["fp32"])
    with pytest.raises(UnknownNameError, match="latency, throughput"):
        plan(picture_net(), goal="cheap")
    with pytest.raises(UnknownNameError, match="fp64"):
        plan(picture_net(), allow=["fp64"])
    with pytest.raises(ShapeError):
        plan_for(picture_net(), gpu, {})


@pytest.mark.parametrize("name", TABLES)
def test_operator_tables_name_operators_and_their_source(name):
    found = table(name)
    assert found.source and found.version and len(found.date) == 10
    assert not set(found.takes) & set(found.refuses)
    known = {schema.name for schema in onnx.defs.get_all_schemas_with_history()}
    # Of ONNX's experimental days, or of a runtime's own that parse them in ONNX's domain.
    old = {"Affine", "Crop", "DynamicSlice", "ImageScaler", "Inverse", "ParametricSoftplus", "ScaledTanh"}
    assert {*found.takes, *found.refuses} - known <= old


# ---------------------------------------------------------------- the command line


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run `raceline convert plan` on a small network; returns exit code, standard output and standard error."""
    write_onnx(picture_net(), tmp_path / "net.onnx")

    def run(*arguments):
        line = ["raceline", "convert", "plan", str(tmp_path / "net.onnx"), *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", line)
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return end.value.code or 0, out, err

    return run


def test_a_plan_is_for_people_and_machines(run):
    code, text, _ = run("--platform", "nvidia-a40", "--goal", "throughput")
    assert code == 0 and "NOT measured" in text and "because the goal is throughput" in text
    code, text, _ = run("--platform", "nvidia-a40", "--allow", "fp32", "--json")
    told = json.loads(text)
    assert code == 0 and told["measured"] is False and told["precision"] == "fp32"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--platform", "nowhere"), "nvidia-a40"),
        (("--platform", "damaged.json"), "not JSON"),
        (("--platform", "amd-zen3"), "is a CPU"),
        (("--platform", "nvidia-a40", "--goal", "cheap"), "latency, throughput"),
        (("--platform", "nvidia-a40", "--allow", "fp64"), "fp64"),
    ],
)
def test_bad_input_ends_with_2(run, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "damaged.json").write_text("{")
    code, _, err = run(*arguments)
    assert code == 2 and told in err
