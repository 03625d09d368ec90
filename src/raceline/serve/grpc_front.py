"""The gRPC front: KServe v2 messages to live models and back.

Bodies arrive and leave as bytes and are parsed here, so that a malformed message is INVALID_ARGUMENT and not
gRPC's UNKNOWN.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from raceline.core import errors
from raceline.core.errors import RacelineError, ShapeError
from raceline.ir import Signature
from raceline.observe import get_logger, span
from raceline.serve import describe, metrics
from raceline.serve.live import LiveModel
from raceline.serve.messages import SERVICE, Rpc, message, rpcs
from raceline.serve.repository import Repository
from raceline.serve.tensors import Array, read_inputs, to_raw, wire_of

STATUS_OF: Mapping[type[RacelineError], str] = {
    errors.RacelineError: "UNKNOWN",
    errors.RequestError: "INVALID_ARGUMENT",
    errors.BadModelError: "FAILED_PRECONDITION",
    errors.UnsupportedOperatorError: "FAILED_PRECONDITION",
    errors.ShapeError: "INVALID_ARGUMENT",
    errors.UnknownNameError: "NOT_FOUND",
    errors.ConfigError: "INVALID_ARGUMENT",
    errors.UnavailableError: "UNAVAILABLE",
    errors.QueueFullError: "RESOURCE_EXHAUSTED",
    errors.DeadlineError: "DEADLINE_EXCEEDED",
    errors.NotReadyError: "UNAVAILABLE",
    errors.BackendLostError: "UNAVAILABLE",
    errors.MissingDependencyError: "FAILED_PRECONDITION",
    errors.UntrustedUpdateError: "FAILED_PRECONDITION",
    errors.InvariantError: "INTERNAL",
}
"""The gRPC status of every error class; a test fails if one is missing."""

_LATER = {
    "ModelStreamInfer": "Streaming inference is not offered; send each request with ModelInfer.",
    "SystemSharedMemoryStatus": "Shared memory is not offered; send tensors in the message.",
    "SystemSharedMemoryRegister": "Shared memory is not offered; send tensors in the message.",
    "CudaSharedMemoryStatus": "This server has no CUDA device; send tensors in the message.",
    "CudaSharedMemoryRegister": "This server has no CUDA device; send tensors in the message.",
    "TraceSetting": "Trace settings cannot be changed over the wire; set them when the server starts.",
    "LogSettings": "Log settings cannot be changed over the wire; set them when the server starts.",
}

_LONGEST_DETAIL = 1500  # characters: HTTP/2 headers are small, and gRPC drops a call whose trailer is not

Method = Callable[[Any, Any], Awaitable[Any]]


class Front:
    """The service's procedures.

    Args:
        repository: the models.
        is_ready: whether the server takes new work.
    """

    def __init__(self, repository: Repository, is_ready: Callable[[], bool]) -> None:
        self._repository = repository
        self._is_ready = is_ready
        self._seen: set[str] = set()
        self._open = 0
        self._all_closed = asyncio.Event()
        self._all_closed.set()
        self._log = get_logger("raceline.serve")

    def handler(self) -> Any:
        """The generic gRPC handler of all procedures."""
        import grpc

        methods = self._methods()
        handlers = {}
        for rpc in rpcs().values():
            wrap = (
                grpc.stream_stream_rpc_method_handler if rpc.streams else grpc.unary_unary_rpc_method_handler
            )
            method = methods.get(rpc.name)
            handlers[rpc.name] = wrap(self._unary(rpc, method) if method else _refuse(_LATER[rpc.name]))
        return grpc.method_handlers_generic_handler(SERVICE, handlers)

    async def all_closed(self) -> None:
        """Return once no call is open: every answer has left for its client, or the client went away."""
        await self._all_closed.wait()

    def _opened(self, context: Any) -> None:
        self._open += 1
        self._all_closed.clear()
        context.add_done_callback(self._closed)

    def _closed(self, context: Any) -> None:
        self._open -= 1
        if not self._open:
            self._all_closed.set()

    def _methods(self) -> dict[str, Method]:
        return {
            "ServerLive": self.server_live,
            "ServerReady": self.server_ready,
            "ModelReady": self.model_ready,
            "ServerMetadata": self.server_metadata,
            "ModelMetadata": self.model_metadata,
            "ModelConfig": self.model_config,
            "ModelStatistics": self.model_statistics,
            "ModelInfer": self.model_infer,
            "RepositoryIndex": self.repository_index,
            "RepositoryModelLoad": self.repository_load,
            "RepositoryModelUnload": self.repository_unload,
            "SystemSharedMemoryUnregister": self.nothing_registered("SystemSharedMemoryUnregisterResponse"),
            "CudaSharedMemoryUnregister": self.nothing_registered("CudaSharedMemoryUnregisterResponse"),
        }

    def _unary(self, rpc: Rpc, method: Method) -> Callable[[bytes, Any], Awaitable[bytes]]:
        """Bytes in, bytes out; whatever is raised becomes a status."""
        from google.protobuf.message import DecodeError

        async def answer(body: bytes, context: Any) -> bytes:
            self._opened(context)
            try:
                response = await method(rpc.request.FromString(body), context)
                return bytes(response.SerializeToString())
            except DecodeError as error:
                failure: Exception = ShapeError(
                    f"the body is not a {rpc.request.DESCRIPTOR.name}", str(error)
                )
            except RacelineError as error:
                failure = error
            except Exception as error:  # noqa: BLE001  logged; the caller gets INTERNAL
                self._unexpected(rpc, error)
                failure = error
            return await _abort(context, *status_of(failure))

        return answer

    def _unexpected(self, rpc: Rpc, error: Exception) -> None:
        """Log an engine's failure, or a bug of ours; with its traceback the first time only."""
        kind = type(error).__name__
        trace = None if kind in self._seen else error
        self._seen.add(kind)
        self._log.warning("unexpected failure", rpc=rpc.name, kind=kind, error=str(error), exc_info=trace)

    # ------------------------------------------------ health and metadata

    async def server_live(self, request: Any, context: Any) -> Any:
        """Whether the process answers: if this is read, it does."""
        return message("ServerLiveResponse")(live=True)

    async def server_ready(self, request: Any, context: Any) -> Any:
        """Whether new work is taken."""
        return message("ServerReadyResponse")(ready=self._is_ready())

    async def model_ready(self, request: Any, context: Any) -> Any:
        """Whether this model takes new work; an unknown one does not."""
        try:
            self._repository.live(request.name, request.version)
        except RacelineError:
            return message("ModelReadyResponse")(ready=False)
        return message("ModelReadyResponse")(ready=self._is_ready())

    async def server_metadata(self, request: Any, context: Any) -> Any:
        """Name, version and extensions."""
        return describe.server_metadata()

    async def model_metadata(self, request: Any, context: Any) -> Any:
        """Inputs and outputs of a model."""
        return describe.model_metadata(self._repository.live(request.name, request.version))

    async def model_config(self, request: Any, context: Any) -> Any:
        """How a model is batched and run."""
        return describe.model_config(self._repository.live(request.name, request.version))

    async def model_statistics(self, request: Any, context: Any) -> Any:
        """Counters of one model, or of all."""
        if request.name:
            return describe.model_statistics([self._repository.live(request.name, request.version)])
        return describe.model_statistics(self._repository.live_models())

    # ------------------------------------------------ inference

    async def model_infer(self, request: Any, context: Any) -> Any:
        """Answer one inference request once its batch has run.

        Status: NOT_FOUND unknown model; INVALID_ARGUMENT a name, type, shape or content that does not fit;
            RESOURCE_EXHAUSTED queue full (retry); UNAVAILABLE loading or draining (retry);
            DEADLINE_EXCEEDED; INTERNAL the engine failed.
        Effects: span `serve.infer`, counter `raceline_serve_requests_total`.
        """
        now_s = self._repository.clock.now_s
        began_s = now_s()
        name, status = "", "ok"
        try:
            model = self._repository.live(request.model_name, request.model_version)
            name = model.name  # only now: names that clients make up must not become metric labels
            with span("serve.infer", model=name):
                return await self._infer(model, request, _deadline_s(request, context, began_s))
        except BaseException as error:
            status = type(error).__name__
            raise
        finally:
            metrics.answered(name, status, now_s() - began_s)

    async def _infer(self, model: LiveModel, request: Any, deadline_s: float | None) -> Any:
        wanted = _wanted_outputs(request, model.signature)
        inputs = read_inputs(request, model.inputs)
        outputs = await model.infer(inputs, deadline_s)
        return _response(model, request, {name: outputs[name] for name in wanted})

    # ------------------------------------------------ repository

    async def repository_index(self, request: Any, context: Any) -> Any:
        """All models, or those that are ready."""
        entries = self._repository.index()
        return describe.repository_index(e for e in entries if not request.ready or e.name in self._names())

    def _names(self) -> set[str]:
        return {model.name for model in self._repository.live_models()}

    async def repository_load(self, request: Any, context: Any) -> Any:
        """Load a bundle that lies in the repository, or load it again."""
        if request.parameters:
            raise ShapeError(
                f"load of {request.model_name!r} carries {', '.join(sorted(request.parameters))}",
                "a bundle cannot be overridden over the wire",
                "Put the changed bundle into the repository and load it without parameters.",
            )
        await self._repository.load(request.model_name)
        return message("RepositoryModelLoadResponse")()

    async def repository_unload(self, request: Any, context: Any) -> Any:
        """Take a model away; requests under way finish."""
        await self._repository.unload(request.model_name)
        return message("RepositoryModelUnloadResponse")()

    def nothing_registered(self, response: str) -> Method:
        """Unregistering shared memory succeeds, as there is none: clients do it before they start."""

        async def method(request: Any, context: Any) -> Any:
            return message(response)()

        return method


def status_of(error: Exception) -> tuple[str, str]:
    """The status name and the sentence for a client."""
    text = str(error) or type(error).__name__
    if len(text) > _LONGEST_DETAIL:
        text = text[:_LONGEST_DETAIL] + " ..."
    if isinstance(error, RacelineError):
        return next(STATUS_OF[cls] for cls in type(error).__mro__ if cls in STATUS_OF), text
    return "INTERNAL", f"{type(error).__name__}: {text}"


async def _abort(context: Any, status: str, detail: str) -> bytes:
    import grpc

    await context.abort(grpc.StatusCode[status], detail)
    raise AssertionError("abort returned")


def _refuse(sentence: str) -> Method:
    """A handler, of one message or of a stream, that only says no."""

    async def handler(body: Any, context: Any) -> None:
        await _abort(context, "UNIMPLEMENTED", sentence)

    return handler


def _deadline_s(request: Any, context: Any, now_s: float) -> float | None:
    """The earlier of the call's deadline and the protocol's `timeout` parameter (microseconds)."""
    left_s = context.time_remaining()
    limits_s = [] if left_s is None else [left_s]
    if "timeout" in request.parameters:
        timeout = request.parameters["timeout"]
        timeout_us = timeout.int64_param or timeout.uint64_param
        if timeout_us < 0:
            raise ShapeError(f"parameter 'timeout' is {timeout_us}", "it is in microseconds, above 0")
        if timeout_us:
            limits_s.append(timeout_us * 1e-6)
    return now_s + min(limits_s) if limits_s else None


def _wanted_outputs(request: Any, signature: Signature) -> list[str]:
    """Names of the outputs to send: those asked for, in that order; all where none is named."""
    known = [spec.name for spec in signature.outputs]
    if not request.outputs:
        return known
    wanted = [output.name for output in request.outputs]
    for output in request.outputs:
        if output.name not in known:
            raise ShapeError(f"there is no output {output.name!r}", f"the outputs are {', '.join(known)}")
        for parameter in ("classification", "shared_memory_region"):
            if parameter in output.parameters:
                raise ShapeError(
                    f"output {output.name!r} asks for {parameter}", "this server does not do that"
                )
    if len(set(wanted)) != len(wanted):
        raise ShapeError("an output is asked for twice", f"asked for: {', '.join(wanted)}")
    return wanted


def _response(model: LiveModel, request: Any, outputs: Mapping[str, Array]) -> Any:
    response = message("ModelInferResponse")(
        model_name=model.name, model_version=model.version, id=request.id
    )
    for name, array in outputs.items():
        response.outputs.add(name=name, datatype=wire_of(array.dtype), shape=array.shape)
        response.raw_output_contents.append(to_raw(array))
    return response
