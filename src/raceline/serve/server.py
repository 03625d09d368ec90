"""The server: binds, serves, and stops without losing what it admitted."""

import asyncio
import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from raceline.core.errors import ConfigError, RacelineError
from raceline.core.units import MIB
from raceline.observe import get_logger
from raceline.serve import metrics
from raceline.serve.grpc_front import Front
from raceline.serve.loading import Settings
from raceline.serve.repository import Repository

DEFAULT_MAX_MESSAGE_BYTES = 256 * MIB

_LINGER_S = 0.1
_CLOSE_S = 2.0  # for closing connections and sessions once nothing is under way


class Server:
    """Serves a repository over gRPC.

    Args:
        repository: the models; loaded when the server starts.
        host: address to bind; the loopback unless told otherwise, as there is no authentication.
        port: 0 takes a free one.
        max_message_bytes: a larger request is refused before it is read.
        drain_s: how long admitted work may take to finish once stopping.
    """

    def __init__(
        self,
        repository: Repository,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
        drain_s: float = 30.0,
    ) -> None:
        self.repository = repository
        self.host = host
        self.port = port
        self._max_message_bytes = max_message_bytes
        self._drain_s = drain_s
        self._ready = False
        self._grpc: Any = None
        self._front = Front(repository, lambda: self._ready)
        self._log = get_logger("raceline.serve")

    @property
    def address(self) -> str:
        """`host:port` as a client writes it; the port is known once started."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def ready(self) -> bool:
        """Whether new work is taken."""
        return self._ready

    async def start(self) -> dict[str, RacelineError]:
        """Load the models, then bind and serve. Returns why each model that failed is not served.

        Raises:
            ConfigError: the address cannot be bound.
            RacelineError: there are models, and none of them could be loaded; the first one's error.
        """
        failures = await self.repository.load_all()
        if failures and not self.repository.live_models():
            raise next(iter(failures.values()))
        try:
            await self._bind()
        except BaseException:
            await self.repository.close()
            raise
        self._ready = True
        self._log.info("serving", address=self.address, models=self.repository.names())
        return failures

    async def _bind(self) -> None:
        import grpc

        self._grpc = grpc.aio.server(options=self._options())
        self._grpc.add_generic_rpc_handlers((self._front.handler(),))
        try:
            self.port = self._grpc.add_insecure_port(self.address)
        except RuntimeError as error:
            raise ConfigError(
                f"cannot listen on {self.address}", str(error), "Choose another port."
            ) from error
        await self._grpc.start()

    def _options(self) -> list[tuple[str, int]]:
        return [
            ("grpc.max_receive_message_length", self._max_message_bytes),
            ("grpc.max_send_message_length", -1),
            ("grpc.so_reuseport", 0),  # a second server on the same port must fail, not steal half the calls
            ("grpc.server_handshake_timeout_ms", 10_000),  # a peer that connects and says nothing
            # A peer that vanished without a word is noticed, and its calls are cancelled.
            ("grpc.keepalive_time_ms", 60_000),
            ("grpc.keepalive_timeout_ms", 20_000),
            ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ]

    async def stop(self, drain_s: float | None = None, abandon: asyncio.Event | None = None) -> bool:
        """Stop: readiness goes first, admitted work finishes, then the connections and models go.

        Args:
            drain_s: bound on the wait; None: as the server was made.
            abandon: ends the wait at once when set.

        Returns:
            Whether all admitted work was answered in that time.
        """
        self._ready = False
        finished = await _first(self._finish(), abandon, self._drain_s if drain_s is None else drain_s)
        # Nothing that matters is open any more: what keeps gRPC are peers that never said who they are.
        await _first(self._grpc.stop(None), abandon, _CLOSE_S)
        await self.repository.close(_CLOSE_S)
        self._log.info("stopped", answered_all=finished)
        return finished

    async def _finish(self) -> None:
        """Until every admitted request is answered and the answers have left."""
        await self.repository.drain()
        await self._front.all_closed()
        # Clients that were just answered may send their next request now. It is better refused by us, with a
        # reason, than dropped by gRPC as the connection closes.
        await asyncio.sleep(_LINGER_S)
        await self._front.all_closed()

    async def serve(self, on_ready: Callable[["Server"], None] | None = None) -> bool:
        """Start, serve until SIGTERM or SIGINT, and stop; a second signal cuts the drain short.

        Call it on the main thread's event loop: only there can signals be heard.

        Returns:
            Whether all admitted work was answered.
        """
        asked, again = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lambda: (again if asked.is_set() else asked).set())
        try:
            await self.start()
            if on_ready is not None:
                on_ready(self)
            await asked.wait()
            return await self.stop(abandon=again)
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def run(self, on_ready: Callable[["Server"], None] | None = None) -> bool:
        """Serve in this thread until a signal stops it; see `serve`."""
        return asyncio.run(self.serve(on_ready))

    @contextlib.contextmanager
    def background(self) -> Iterator["Server"]:
        """Serve from a thread of this process while the block runs; it drains when the block ends.

        Raises:
            RacelineError: as `start`.
        """
        started: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
        thread = threading.Thread(target=asyncio.run, args=(self._hold(started),), name="raceline-server")
        thread.start()
        loop, ended = started.result()
        try:
            yield self
        finally:
            loop.call_soon_threadsafe(ended.set)
            thread.join()

    async def _hold(self, started: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]") -> None:
        try:
            await self.start()
        except BaseException as error:  # noqa: BLE001  raised again in the thread that waits
            started.set_exception(error)
            return
        ended = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), ended))
        await ended.wait()
        await self.stop()


async def _first(work: Coroutine[Any, Any, None], abandon: asyncio.Event | None, timeout_s: float) -> bool:
    """Whether `work` ended before `abandon` was set and in time; what has not ended is cancelled."""
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(work)]
    if abandon is not None:
        tasks.append(asyncio.ensure_future(abandon.wait()))
    await asyncio.wait(tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finished = tasks[0].done()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return finished


def serve_bundle(
    paths: Iterable[Path | str],
    *,
    host: str = "127.0.0.1",
    port: int = 8001,
    metrics_port: int | None = None,
    settings: Settings | None = None,
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES,
    drain_s: float = 30.0,
    on_ready: Callable[[Server], None] | None = None,
) -> bool:
    """Serve bundles from this process until SIGTERM or SIGINT.

    Args:
        paths: bundles, and folders of bundles.
        host: address to bind.
        port: 0 takes a free one; 8001 is where Triton clients look.
        metrics_port: serve Prometheus metrics there; None: not at all.
        settings: overrides of what the bundles' profiles choose.
        max_message_bytes: a larger request is refused.
        drain_s: how long admitted work may take to finish once stopping.
        on_ready: told once requests are answered; by default the address is written to stdout.

    Returns:
        Whether all admitted work was answered when it stopped.

    Raises:
        ConfigError: a path, address or setting is impossible.
        RacelineError: none of the bundles could be loaded.
    """
    repository = Repository(paths, settings)
    server = Server(repository, host=host, port=port, max_message_bytes=max_message_bytes, drain_s=drain_s)
    with metrics.exposed(metrics_port, host):
        return server.run(on_ready or _announce)


def _announce(server: Server) -> None:
    names = ", ".join(model.name for model in server.repository.live_models())
    sys.stdout.write(f"serving {names} at grpc://{server.address}\n")
    sys.stdout.flush()
