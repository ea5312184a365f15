"""A container engine as the floors above know it: is an image present, pull it, and is it present now?

The *engine* contacts the registry that an image's name gives, with its own network, proxies and certificates. No
address that a market list or a job names is ever connected to from this process, so there is nothing for the guard of
``net/`` to judge; who wants to keep an engine from a network does it where the engine runs.

Present means: listed under the exact name that is required, as that engine spells it (``ImageReference.delivered``).
That is what a node's own check looks at, and it is stricter than what an engine finds: Podman takes
``localhost/org/app`` for ``org/app``.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from fetcher.config import Settings
from fetcher.errors import ImageError
from fetcher.images.client import EngineClient, Refused, quoted
from fetcher.images.progress import OnProgress, PullTracker
from fetcher.images.reading import read_file
from fetcher.images.refusals import pull_refused, quotable
from fetcher.model.image import EngineKind, Image, ImageReference

HUB_LOGIN_SERVER: Final = "https://index.docker.io/v1/"
"""How the Hub is named in credentials since its first index. Docker with the containerd store uses a login only where
this names the host it contacts; this one it takes for ``registry-1.docker.io``."""

SILENCE_FACTOR: Final = 5
"""How much longer than usual an engine may be silent while it stores what has arrived: a layer of 10 GB takes three
minutes at 60 MB/s, and Podman says nothing meanwhile. Or while a pull waits for its turn behind what others pull."""


@dataclass(frozen=True, slots=True)
class ImageState:
    """An image that is present."""

    name: str
    """As it was asked for."""
    id: str
    """Of the engine, ``sha256:…``: digest of its configuration, or of its manifest with Docker's containerd store."""
    bytes: int
    """Unpacked, as the engine counts; layers shared with others are counted too."""


@dataclass(frozen=True, slots=True)
class PulledImage(ImageState):
    """An image that was asked for and is present now."""

    already_present: bool
    """Nothing was pulled."""


@dataclass(eq=False, slots=True)
class _UnderWay:
    """A pull that runs, and what ends it for lack of progress."""

    tracker: PullTracker
    watch: asyncio.Timeout
    patience_s: float
    """From the latest progress that counts for it."""

    def put_off(self) -> None:
        if not self.watch.expired():
            self.watch.reschedule(asyncio.get_running_loop().time() + self.patience_s)


class ContainerEngine:
    """A Docker or Podman that answers. ``find_engine`` makes it; who gets it closes it. Safe for concurrent calls."""

    def __init__(self, client: EngineClient, settings: Settings) -> None:
        self._client = client
        self._no_progress_timeout_s = settings.no_progress_timeout_s
        self._under_way: set[_UnderWay] = set()

    def __repr__(self) -> str:
        return f"<ContainerEngine {self.name} {self.version} at {self.socket}>"

    @property
    def name(self) -> EngineKind:
        """``docker`` or ``podman``."""
        return self._client.kind

    @property
    def version(self) -> str:
        """As the engine tells it."""
        return self._client.version

    @property
    def socket(self) -> str:
        """Path of its socket."""
        return self._client.socket

    async def close(self) -> None:
        """End all connections; pulls that still run are cancelled by that."""
        await self._client.close()

    @property
    def title(self) -> str:
        """For messages: ``Docker at /var/run/docker.sock``."""
        return self._client.title

    async def read_file(self, directory: str, name: str) -> bytes:
        """A small file of a directory as the engine's containers see it; see ``reading.py``. Raises Unseen, NoImage,
        ImageError."""
        return await read_file(self._client, directory, name)

    async def present(self, name: str) -> ImageState | None:
        """The image of this exact name, or None. Asks the engine only, never a registry. Raises ImageError, and
        ``ValueError`` for what is no name of an image."""
        reference = ImageReference.parse(name)
        found = await self._inspect(name, reference.delivered(self.name))
        return _state(name, found) if found and self._is_listed(reference, found) else None

    async def pull(self, image: Image, on_progress: OnProgress | None = None) -> PulledImage:
        """Make ``image`` present: if it is, nothing is done, else the engine pulls it with the image's login.

        Ends on lack of progress, not on total time. Cancelling hangs up, and the engine stops. Raises ImageError.
        """
        present = await self.present(image.name)
        if present is not None:
            return PulledImage(present.name, present.id, present.bytes, already_present=True)
        tracker = PullTracker(image.name, self.name)
        try:
            await self._stream(image, tracker, on_progress)
        except Refused as refusal:
            raise pull_refused(image, self.name, refusal.said) from None
        except ImageError as error:
            raise error.about(resource=image.uri()) from None
        state = await self._confirm(image, tracker.image_id)
        return PulledImage(state.name, state.id, state.bytes, already_present=False)

    async def _stream(self, image: Image, tracker: PullTracker, on_progress: OnProgress | None) -> None:
        path, query = self._order(image.reference)
        headers = {"X-Registry-Auth": _login_header(image)} if image.login else {}
        mine = _UnderWay(tracker, asyncio.timeout(self._no_progress_timeout_s), self._no_progress_timeout_s)
        told = None
        try:
            async with mine.watch:
                with self._counted(mine):
                    async with self._client.stream(path, query, headers) as lines:
                        async for line in lines:
                            if not tracker.feed(line):
                                continue
                            self._moved(mine)
                            progress = tracker.now()
                            if on_progress is not None and progress != told:
                                on_progress(progress)
                                told = progress
        except TimeoutError:
            raise ImageError(
                f"{self._client.title}: the pull of {image.name} made no progress for {mine.patience_s:g} s",
                hint="the registry may be cut off or limit pulls, or the engine be busy with other pulls; engines keep "
                "no partial layers for the next try",
                resource=image.uri(),
            ) from None

    @contextmanager
    def _counted(self, mine: _UnderWay) -> Iterator[None]:
        self._under_way.add(mine)
        try:
            yield
        finally:
            self._under_way.discard(mine)

    def _moved(self, mine: _UnderWay) -> None:
        """``mine`` has told something new, which is progress for all whose turn has not come, too."""
        factor = SILENCE_FACTOR if mine.tracker.silence_is_work or mine.tracker.is_queued else 1
        mine.patience_s = self._no_progress_timeout_s * factor
        for pull in self._under_way:
            if pull is mine or pull.tracker.is_queued:
                pull.put_off()

    def _order(self, reference: ImageReference) -> tuple[str, Mapping[str, str]]:
        """Path and query of the pull. Docker allows plain http on the loopback; Podman only if told so, which its own
        endpoint can be (it still tries TLS first). That endpoint tells no bytes, so it is used for nothing else."""
        if self._client.libpod_version and is_loopback(reference.host):
            query = {"reference": reference.delivered(self.name), "tlsVerify": "false"}
            return f"/v{self._client.libpod_version}/libpod/images/pull", query
        query = {"fromImage": reference.delivered_name(self.name), "tag": reference.reference}
        return f"/v{self._client.api_version}/images/create", query

    async def _confirm(self, image: Image, image_id: str | None) -> ImageState:
        """The image by its required name, whatever the stream said. Stored under another spelling, it gets a tag."""
        state = await self.present(image.name)
        if state is not None:
            return state
        reference = image.reference
        if reference.digest is None:
            if image_id is None:
                found = await self._inspect(image.name, reference.delivered(self.name))
                image_id = str(found["Id"]) if found else None
            if image_id is not None:
                await self._tag(image, image_id)
                state = await self.present(image.name)
        if state is None:
            raise ImageError(
                f"{self._client.title} pulled {image.name}, but has no image of that name now",
                hint="something else on this host may remove or rename images; pull it again",
                resource=image.uri(),
            )
        return state

    async def _tag(self, image: Image, image_id: str) -> None:
        reference = image.reference
        query = {"repo": reference.delivered_name(self.name), "tag": reference.reference}
        try:
            await self._client.post(f"/images/{quoted(image_id)}/tag", query)
        except Refused as refusal:
            raise pull_refused(image, self.name, refusal.said) from None

    async def _inspect(self, name: str, delivered: str) -> dict[str, Any] | None:
        """What the engine finds by a name; it may be listed under another."""
        try:
            return await self._client.get(f"/images/{quoted(delivered)}/json")
        except Refused as refusal:
            raise ImageError(
                f"{self._client.title} can't say whether {name} is present: {quotable(refusal.said, None)}"
            ) from None

    def _is_listed(self, reference: ImageReference, found: Mapping[str, Any]) -> bool:
        listed = found.get("RepoDigests" if reference.digest else "RepoTags")
        return isinstance(listed, list) and reference.delivered(self.name) in listed


def is_loopback(host: str | None) -> bool:
    """Whether a registry host (with or without port) is this machine: ``localhost``, 127.0.0.0/8 or ``::1``."""
    if host is None:
        return False
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def login_server(reference: ImageReference) -> str:
    """How the registry is named beside a login: the engines' rules, which differ from those for fetching."""
    return HUB_LOGIN_SERVER if reference.is_folded_by_engines else reference.host or ""


def _login_header(image: Image) -> str:
    """``X-Registry-Auth``: JSON in URL-safe base64."""
    assert image.login is not None
    fields = {
        "username": image.login.username,
        "password": image.login.password.reveal(),
        "serveraddress": login_server(image.reference),
    }
    return base64.urlsafe_b64encode(json.dumps(fields).encode()).decode()


def _state(name: str, found: Mapping[str, Any]) -> ImageState:
    size = found.get("Size")
    return ImageState(name, str(found.get("Id", "")), size if isinstance(size, int) else 0)
