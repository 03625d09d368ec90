"""The cache folder: what can be made again, so nothing breaks where it cannot be written or was damaged."""

import contextlib
import logging
import os
import tempfile
from pathlib import Path


def cache_dir() -> Path:
    """The folder for what can be made again: `RACELINE_CACHE_DIR`, else the user's cache folder.

    It need not exist; `store` makes it.
    """
    chosen = os.environ.get("RACELINE_CACHE_DIR")
    if chosen:
        return Path(chosen).expanduser()
    import platformdirs

    return platformdirs.user_cache_path("raceline")


def recall(name: str) -> str | None:
    """The text stored under `name` (a relative path); None where there is none or it cannot be read.

    What is damaged is told in the log.
    """
    path = cache_dir() / name
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        logging.getLogger(__name__).warning(
            "%s in the cache is damaged: it is no text; doing the work again", path
        )
        return None
    except OSError:
        return None


def store(name: str, text: str) -> bool:
    """Keep `text` under `name` in the cache folder.

    Where that is impossible (read-only, full), warn in the log and return False: a cache is never needed.
    """
    path = cache_dir() / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text.encode())
    except OSError as error:
        logging.getLogger(__name__).warning(
            "cannot keep %s in the cache: %s. Raceline works without it, but does the work again next time; "
            "set RACELINE_CACHE_DIR to a folder that can be written.",
            path,
            error.strerror or error,
        )
        return False
    return True


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that a kill at any moment leaves the old content or the new, never half.

    Raises:
        OSError: it cannot be written; the old content is intact.
    """
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            Path(temporary).unlink()
        raise
