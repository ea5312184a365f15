"""What an engine's stream says about a pull, added up. Values in, values out; knows no socket.

Engines differ: totals come one by one as layers are begun, phases may be missing (a small layer is complete before it
was ever downloading), Docker with the containerd store counts extraction in seconds, Podman does not tell of
extraction, and its own endpoint tells no bytes at all. So totals may grow, and nothing is taken for final but the end.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from fetcher.model.image import EngineKind

LAYERS_MAX: Final = 1_000
"""Engines refuse images with more than 127 layers; what comes beyond this is not counted."""

_ARRIVED: Final = frozenset({"Verifying Checksum", "Download complete", "Extracting"})
_STORED: Final = frozenset({"Pull complete", "Already exists"})
_NOT_BEGUN: Final = frozenset({"Pulling fs layer", "Waiting"})
_COPYING: Final = "Copying blob "


@dataclass(frozen=True, slots=True)
class PullProgress:
    """How far a pull is, as far as the engine tells."""

    name: str
    """The image, as it was asked for."""
    bytes_done: int
    """Downloaded, compressed; layers that were there already count nothing."""
    bytes_total: int | None
    """Of the layers whose size is known so far: may grow. None while none is."""
    layers_done: int
    """Stored or already there."""
    layers_total: int
    """Known so far: may grow."""


OnProgress = Callable[[PullProgress], None]


@dataclass(slots=True)
class _Layer:
    status: str = ""
    bytes_done: int = 0
    bytes_total: int | None = None
    seconds: int = 0
    arrived: bool = False
    stored: bool = False


class PullTracker:
    """Adds up the lines of one pull."""

    def __init__(self, name: str, engine: EngineKind) -> None:
        self._name = name
        self._engine = engine
        self._layers: dict[str, _Layer] = {}
        self._said = ""
        self.image_id: str | None = None
        """Id of what was pulled, where the engine says so (Podman's own endpoint does)."""

    def feed(self, line: Mapping[str, Any]) -> bool:
        """Take in one line. True if it tells of something new; a line that repeats the last one is no progress."""
        if isinstance(line.get("id"), str) and isinstance(line.get("images"), list):
            self.image_id = line["id"]
            return True
        status, name = line.get("status"), line.get("id")
        said = line.get("stream")
        if isinstance(said, str) and said.startswith(_COPYING):
            status, name = "Pulling fs layer", said.removeprefix(_COPYING).split()[0] if said.split()[2:] else None
        if not isinstance(status, str) or not isinstance(name, str) or status.startswith("Pulling from"):
            text = f"{status}{said}"
            moved, self._said = text != self._said, text
            return moved
        if name not in self._layers and len(self._layers) >= LAYERS_MAX:
            return False
        layer = self._layers.setdefault(name, _Layer())
        before = (layer.status, layer.bytes_done, layer.seconds)
        layer.status = status
        self._take(layer, status, line.get("progressDetail"))
        return before != (layer.status, layer.bytes_done, layer.seconds)

    def _take(self, layer: _Layer, status: str, detail: object) -> None:
        current, total = _count(detail, "current"), _count(detail, "total")
        if status == "Downloading":
            if total:
                layer.bytes_total = total
            if current is not None and not layer.arrived:
                layer.bytes_done = min(current, layer.bytes_total or current)
        elif status in _ARRIVED or status in _STORED:
            if status == "Extracting":
                layer.seconds = current or 0  # bytes or seconds: only that it changes is of use
            layer.arrived = True
            layer.bytes_done = layer.bytes_total or layer.bytes_done
            # Podman says "Download complete" when the layer is stored, and nothing after that.
            layer.stored = layer.stored or status in _STORED or (self._engine == "podman" and status != "Extracting")

    @property
    def silence_is_work(self) -> bool:
        """Whether the engine may be busy storing without a word: everything has arrived, or it is Podman, which is
        silent while it stores a layer and may not have told that layer's last bytes."""
        if not self._layers:
            return False
        return self._engine == "podman" or all(layer.arrived for layer in self._layers.values())

    @property
    def is_queued(self) -> bool:
        """Whether all that is missing may be waiting for its turn. Docker fetches three layers at a time, for all its
        pulls together; of one that waits it says so once, or nothing."""
        layers = self._layers.values()
        missing = [layer for layer in layers if not layer.arrived]
        if self._engine != "docker" or (layers and not missing):
            return False
        return all(layer.status in _NOT_BEGUN for layer in missing)

    def now(self) -> PullProgress:
        """The numbers so far."""
        layers = self._layers.values()
        totals = [layer.bytes_total for layer in layers if layer.bytes_total is not None]
        return PullProgress(
            name=self._name,
            bytes_done=sum(layer.bytes_done for layer in layers if layer.bytes_total is not None),
            bytes_total=sum(totals) if totals else None,
            layers_done=sum(layer.stored for layer in layers),
            layers_total=len(layers),
        )


def _count(detail: object, name: str) -> int | None:
    """A number of an engine's ``progressDetail``, or None where it is absent or odd."""
    value = detail.get(name) if isinstance(detail, dict) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
