"""Whether the container engine sees the cache where ``fetcher job`` says that it is: for ``fetcher doctor --engine``.

A random word is written below the cache, and read back through the engine at the path that a mount's ``source`` would
have. No network is asked, and nothing stays: neither the word nor the container.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fetcher.config import Settings
from fetcher.errors import ImageError
from fetcher.images.engines import NoEngine, find_engine
from fetcher.images.pull import ContainerEngine
from fetcher.images.reading import NoImage, Unseen

MARKER = "marker"
PREFIX = ".doctor-"
"""Of the directory that holds it; what a kill left is removed by a later look."""
LEFT_BEHIND_AFTER_S = 3_600.0


@dataclass(frozen=True, slots=True)
class Sight:
    """What the engine was found to see, in words."""

    status: Literal["ok", "warn", "fail"]
    message: str
    hint: str | None = None


async def engine_sight(settings: Settings, environ: Mapping[str, str]) -> Sight:
    """Look now. The cache directory must be there, and ours to write to."""
    try:
        engine = await find_engine(environ, settings)
    except ImageError as error:
        return Sight("fail", error.message, error.hint)
    if isinstance(engine, NoEngine):
        return Sight("fail", engine.reason, "start Docker or Podman, or say with DOCKER_HOST where its socket is")
    try:
        return await _look(engine, settings)
    finally:
        await engine.close()


async def _look(engine: ContainerEngine, settings: Settings) -> Sight:
    seen_at = settings.engine_cache_dir or settings.cache_dir
    cure = f"set FETCHER_ENGINE_CACHE_DIR to the path at which the engine sees {settings.cache_dir}"
    word = os.urandom(16).hex().encode()
    try:
        with _marked(settings.cache_dir, word) as name:
            found = await engine.read_file(str(seen_at / name), MARKER)
    except Unseen as error:
        return Sight("fail", f"{engine.title} does not see the cache at {seen_at} ({error})", cure)
    except NoImage:
        return Sight(
            "warn", f"{engine.title} has no image to make a container of", "pull an image, any will do, and look again"
        )
    except ImageError as error:
        return Sight("warn", error.message, error.hint)
    except OSError as error:
        return Sight("fail", f"the cache can't be written: {error.strerror}", "mend that, or use another")
    if found != word:
        return Sight("fail", f"{engine.title} sees something else at {seen_at}", cure)
    return Sight("ok", f"{engine.title} sees the cache at {seen_at}")


@contextmanager
def _marked(cache_dir: Path, word: bytes) -> Iterator[str]:
    """A directory with the word in it, as open as a Snapshot is; its name."""
    _clean_up(cache_dir)
    with tempfile.TemporaryDirectory(prefix=PREFIX, dir=cache_dir, ignore_cleanup_errors=True) as directory:
        marker = Path(directory, MARKER)
        marker.write_bytes(word)
        marker.chmod(0o444)
        Path(directory).chmod(0o755)
        yield Path(directory).name


def _clean_up(cache_dir: Path) -> None:
    for left in cache_dir.glob(f"{PREFIX}*"):
        ours = re.fullmatch(rf"{re.escape(PREFIX)}[a-z0-9_]{{8}}", left.name) and {*os.listdir(left)} <= {MARKER}
        if ours and time.time() - left.lstat().st_mtime > LEFT_BEHIND_AFTER_S:
            shutil.rmtree(left, ignore_errors=True)
