"""What the protocol tells about a server and its models: metadata, configuration, statistics, index."""

from collections.abc import Iterable
from typing import Any

from raceline import __version__
from raceline.ir import TensorSpec
from raceline.serve.live import LiveModel
from raceline.serve.messages import message
from raceline.serve.repository import Entry
from raceline.serve.statistics import Computed, Duration
from raceline.serve.tensors import wire_name

EXTENSIONS = ("model_configuration", "model_repository", "statistics", "binary_tensor_data")
"""The protocol's extensions that this server has."""

_CONFIG_TYPE_OF = {"BYTES": "TYPE_STRING"}  # all others are TYPE_ and the wire's name


def server_metadata() -> Any:
    """ServerMetadataResponse."""
    return message("ServerMetadataResponse")(name="raceline", version=__version__, extensions=EXTENSIONS)


def model_metadata(model: LiveModel) -> Any:
    """ModelMetadataResponse: full shapes, -1 for a dynamic axis."""
    signature = model.signature
    return message("ModelMetadataResponse")(
        name=model.name,
        versions=[model.version],
        platform=_platform(model),
        inputs=[_tensor_metadata(spec) for spec in signature.inputs],
        outputs=[_tensor_metadata(spec) for spec in signature.outputs],
    )


def model_config(model: LiveModel) -> Any:
    """ModelConfigResponse: with a batch axis, `dims` leave it out, as the protocol wants."""
    choice, signature = model.loaded.choice, model.signature
    batched = signature.batch_axis is not None
    response = message("ModelConfigResponse")()
    config = response.config
    config.name = model.name
    config.platform = _platform(model)
    config.backend = choice.engine
    config.max_batch_size = choice.max_batch if batched else 0
    config.version_policy.latest.num_versions = 1
    for spec in signature.inputs:
        config.input.add(name=spec.name, **_config_tensor(spec, batched))
    for spec in signature.outputs:
        config.output.add(name=spec.name, **_config_tensor(spec, batched))
    kind = message("ModelInstanceGroup").Kind.Value("KIND_CPU")
    config.instance_group.add(name=model.name, kind=kind, count=choice.workers)
    config.default_model_filename = "model.onnx"
    if batched:
        config.dynamic_batching.preserve_ordering = False
    for key, value in (("precision", choice.precision), ("threads", choice.threads), ("why", choice.why)):
        config.parameters[key].string_value = str(value)
    return response


def model_statistics(models: Iterable[LiveModel]) -> Any:
    """ModelStatisticsResponse; durations in nanoseconds."""
    response = message("ModelStatisticsResponse")()
    for model in models:
        _fill_statistics(response.model_stats.add(name=model.name, version=model.version), model)
    return response


def repository_index(entries: Iterable[Entry]) -> Any:
    """RepositoryIndexResponse."""
    response = message("RepositoryIndexResponse")()
    for entry in entries:
        response.models.add(
            name=entry.name, version=entry.version, state=entry.state.value, reason=entry.reason
        )
    return response


def _platform(model: LiveModel) -> str:
    return f"raceline_{model.loaded.choice.engine}"


def _dims(spec: TensorSpec) -> list[int]:
    return [dim if isinstance(dim, int) else -1 for dim in spec.shape]


def _tensor_metadata(spec: TensorSpec) -> Any:
    return message("ModelMetadataResponse.TensorMetadata")(
        name=spec.name, datatype=wire_name(spec.dtype), shape=_dims(spec)
    )


def _config_tensor(spec: TensorSpec, batched: bool) -> dict[str, Any]:
    wire = wire_name(spec.dtype)
    return {
        "data_type": _CONFIG_TYPE_OF.get(wire, f"TYPE_{wire}"),
        "dims": _dims(spec)[1:] if batched else _dims(spec),
    }


def _fill_statistics(into: Any, model: LiveModel) -> None:
    totals = model.statistics
    into.last_inference = totals.last_unix_ms
    into.inference_count = totals.items
    into.execution_count = totals.executions
    _fill_duration(into.inference_stats.success, totals.success)
    _fill_duration(into.inference_stats.fail, totals.fail)
    _fill_duration(into.inference_stats.queue, totals.queue)
    _fill_computed(into.inference_stats, totals.requests)
    for items, computed in sorted(totals.batches.items()):
        _fill_computed(into.batch_stats.add(batch_size=items), computed)
    into.memory_usage.add(type="CPU", id=0, byte_size=model.loaded.memory_bytes)


def _fill_computed(into: Any, computed: Computed) -> None:
    _fill_duration(into.compute_input, Duration(computed.count, computed.gather_s))
    _fill_duration(into.compute_infer, Duration(computed.count, computed.run_s))
    _fill_duration(into.compute_output, Duration(computed.count, computed.scatter_s))


def _fill_duration(into: Any, duration: Duration) -> None:
    into.count = duration.count
    into.ns = round(duration.total_s * 1e9)
