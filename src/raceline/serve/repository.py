"""The models a server offers: loaded, swapped and taken away while others keep answering."""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path

from raceline.core.clock import Clock, SystemClock
from raceline.core.errors import (
    BadModelError,
    ConfigError,
    NotReadyError,
    RacelineError,
    UnknownNameError,
)
from raceline.ir import Bundle
from raceline.ir.probe import describe
from raceline.observe import get_logger
from raceline.serve import loading
from raceline.serve.batching import Batcher, Eager, Limits, Policy
from raceline.serve.live import LiveModel
from raceline.serve.loading import Loaded, Settings

MARK = "bundle.json"
"""A folder that holds this file is a bundle."""


class State(Enum):
    """Where a model stands; the values are the protocol's words."""

    READY = "READY"
    LOADING = "LOADING"
    UNAVAILABLE = "UNAVAILABLE"


@dataclass(frozen=True)
class Entry:
    """One line of the index: a model, and why it is not ready where it is not."""

    name: str
    version: str
    state: State
    reason: str = ""


Load = Callable[[Path, Settings, Clock], Loaded]


class Repository:
    """Bundles by name, and the live model of each that is loaded.

    Everything but the constructor belongs on the server's event loop.

    Args:
        paths: bundles, and folders of bundles; a bundle's name is its folder's. Folders are looked through
            again whenever a name is asked for, so that a bundle can be added while serving.
        settings: how to serve every model.
        load: opens a bundle and starts its workers; replaced in tests.
        policy: makes the batching policy of one model.

    Raises:
        ConfigError: a path is neither a bundle nor a folder, or two bundles have one name.
    """

    def __init__(
        self,
        paths: Iterable[Path | str],
        settings: Settings | None = None,
        *,
        load: Load | None = None,
        policy: Callable[[], Policy] = Eager,
        clock: Clock | None = None,
    ) -> None:
        self.clock = clock or SystemClock()
        self._settings = settings or Settings()
        self._load = load or load_bundle
        self._policy = policy
        self._bundles, self._folders = _sort(Path(path) for path in paths)
        self._live: dict[str, LiveModel] = {}
        self._loading: set[str] = set()
        self._failures: dict[str, str] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        self._background: set[asyncio.Task[LiveModel]] = set()
        self._stopping = False
        self._one_at_a_time = asyncio.Lock()
        self._log = get_logger("raceline.serve")

    # ------------------------------------------------ asking

    def names(self) -> list[str]:
        """All bundles there are, loaded or not."""
        return sorted(self._catalogue())

    def live(self, name: str, version: str = "") -> LiveModel:
        """The model that answers to this name.

        Args:
            name: of a bundle.
            version: "1" or empty: a bundle has one version.

        Raises:
            UnknownNameError: there is no such model or version.
            NotReadyError: there is, but it is not loaded.
        """
        model = self._live.get(name)
        if model is None:
            if name not in self._catalogue():
                raise UnknownNameError("model", name, self.names())
            raise NotReadyError(f"model {name!r} is not ready", self._reason(name))
        if version not in ("", model.version):
            raise UnknownNameError(f"version of model {name!r}", version, [model.version])
        return model

    def live_models(self) -> list[LiveModel]:
        """The models that answer."""
        return list(self._live.values())

    def index(self) -> list[Entry]:
        """Every model, by name."""
        entries = []
        for name in sorted({*self._catalogue(), *self._live}):
            state = State.READY if name in self._live else State.UNAVAILABLE
            if name in self._loading and name not in self._live:
                state = State.LOADING
            reason = "" if name in self._live else self._reason(name)
            entries.append(Entry(name, LiveModel.version, state, reason))
        return entries

    def _reason(self, name: str) -> str:
        if name in self._loading:
            return "it is loading"
        return self._failures.get(name, "it is not loaded")

    def _catalogue(self) -> Mapping[str, Path]:
        """Name -> folder of every bundle there is now."""
        found = {path.name: path for folder in self._folders for path in _bundles_in(folder)}
        return {**found, **self._bundles}

    # ------------------------------------------------ changing

    async def load(self, name: str) -> LiveModel:
        """Load a model, or load it again from disk; one that is being served serves until the new one can.

        Requests under way finish on the model that admitted them. Once begun it goes on, also where the
        caller goes away.

        Raises:
            UnknownNameError: there is no such bundle.
            NotReadyError: the server is stopping.
            RacelineError: it could not be loaded; what was served before still is.
        """
        task = asyncio.create_task(self._load_next(name))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        return await asyncio.shield(task)

    async def _load_next(self, name: str) -> LiveModel:
        async with self._one_at_a_time:
            folder = self._catalogue().get(name)
            if folder is None:
                raise UnknownNameError("model", name, self.names())
            self._loading.add(name)
            try:
                loaded = await self._loaded(name, folder)
            except RacelineError as error:
                self._failures[name] = str(error)
                self._log.warning("model not loaded", model=name, reason=str(error))
                raise
            finally:
                self._loading.discard(name)
            self._failures.pop(name, None)
            old, self._live[name] = self._live.get(name), self._start(name, loaded)
        self._retire(old)
        self._log.info("model loaded", model=name, engine=loaded.choice.engine, why=loaded.choice.why)
        return self._live[name]

    async def _loaded(self, name: str, folder: Path) -> Loaded:
        """Load in a thread; whatever goes wrong is told as an error of ours."""
        try:
            loaded = await asyncio.to_thread(self._load, folder, self._settings, self.clock)
        except RacelineError:
            raise
        except Exception as error:
            raise BadModelError(
                f"model {name!r} cannot be loaded", f"{type(error).__name__}: {error}"
            ) from error
        if self._stopping:
            await asyncio.to_thread(loaded.close)
            raise NotReadyError(f"model {name!r} is not loaded", "the server is stopping")
        return loaded

    async def load_all(self) -> dict[str, RacelineError]:
        """Load every bundle; return the errors of those that could not be, by name."""
        errors = {}
        for name in self.names():
            try:
                await self.load(name)
            except RacelineError as error:
                errors[name] = error
        return errors

    async def unload(self, name: str) -> None:
        """Take a model away; requests under way finish first.

        Raises:
            UnknownNameError: there is no such model.
        """
        async with self._one_at_a_time:
            if name not in self._live and name not in self._catalogue():
                raise UnknownNameError("model", name, self.names())
            self._failures[name] = "it was unloaded"
            self._retire(self._live.pop(name, None))

    async def drain(self) -> None:
        """Admit nothing more; return once every admitted request is answered."""
        self._stopping = True
        await asyncio.gather(*(model.drain() for model in self._live.values()), *self._retiring)

    async def close(self, timeout_s: float = 10.0) -> None:
        """Free every model, also where requests still wait; an engine call may take `timeout_s` to end."""
        self._stopping = True
        for task in self._retiring:
            task.cancel()
        await asyncio.gather(*self._retiring, *self._background, return_exceptions=True)
        await asyncio.gather(*(model.close(timeout_s) for model in self._live.values()))
        self._live.clear()

    def _start(self, name: str, loaded: Loaded) -> LiveModel:
        limits = Limits(loaded.choice.max_batch, max(self._settings.max_queue, loaded.choice.max_batch))
        batcher = Batcher(self._policy(), limits, loaded.costs, len(loaded.workers))
        return LiveModel(name, loaded, batcher, self.clock)

    def _retire(self, model: LiveModel | None) -> None:
        """Let a model that was replaced finish, in the background."""
        if model is None:
            return
        task = asyncio.create_task(_finish(model))
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _finish(model: LiveModel) -> None:
    try:
        await model.drain()
    finally:
        await model.close()


def _sort(paths: Iterable[Path]) -> tuple[dict[str, Path], list[Path]]:
    """Bundles by name, and the folders that may hold bundles."""
    bundles: dict[str, Path] = {}
    folders: list[Path] = []
    for path in paths:
        if not path.is_dir():
            raise ConfigError(f"{path} is not a folder", next_step="Give a bundle, or a folder of bundles.")
        path = path.resolve()
        if not (path / MARK).is_file():
            folders.append(path)
        elif bundles.setdefault(path.name, path) != path:
            raise ConfigError(
                f"two bundles are named {path.name!r}",
                f"{bundles[path.name]} and {path}",
                "Rename one folder.",
            )
    return bundles, folders


def _bundles_in(folder: Path) -> list[Path]:
    """The bundles there now. Hidden ones are being written, or are leftovers of a writer that died."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:  # removed since: what was loaded is served on
        return []
    return [path for path in entries if not path.name.startswith(".") and (path / MARK).is_file()]


def load_bundle(folder: Path, settings: Settings, clock: Clock) -> Loaded:
    """Open a bundle of ours and start its workers."""
    return loading.load(folder, settings, clock, open_bundle=_measured_here)


def _measured_here(folder: Path) -> Bundle:
    """The bundle, without its profile where that was measured on another kind of machine."""
    bundle = Bundle.open(folder)
    here = describe().key
    if bundle.profile is None or bundle.profile.platform == here:
        return bundle
    get_logger("raceline.serve").warning(
        "profile of another machine not used", bundle=folder.name, measured=bundle.profile.platform, here=here
    )
    return replace(bundle, profile=None)
