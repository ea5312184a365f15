"""What a container would find at a path: reads a file through a bind mount, as the engine makes it for a job.

The container is made and never started. Engines give out files of a container that was only made, with its mounts in
place, so any image that is there will do, also one without a shell, or for another kind of CPU. Docker's API makes a
missing directory up where it is Podman that speaks it; Podman's own does not, so that one is used there.
"""

from __future__ import annotations

import asyncio
import io
import os
import re
import tarfile
from collections.abc import Mapping
from typing import Any, Final

from fetcher.errors import ImageError
from fetcher.images.client import EngineClient, Refused, quoted
from fetcher.images.refusals import quotable

TARGET: Final = "/fetcher-doctor"
IMAGES_TRIED_MAX: Final = 3
"""An image may be damaged, or be for another platform; three in a row are not."""
_NO_SUCH_PLACE: Final = re.compile(
    r"does not exist|no such file|not a directory|not shared|permission denied", re.IGNORECASE
)
"""How engines call the source of a mount that they can't use."""


class Unseen(Exception):
    """The engine has no such file there; the text is its own reason."""


class NoImage(Exception):
    """The engine has no image of which a container could be made."""


async def read_file(client: EngineClient, directory: str, name: str) -> bytes:
    """The file ``name`` of ``directory``, a path as the engine sees it. Leaves no container behind. Raises Unseen,
    NoImage, and ImageError for an engine that can't do this at all."""
    try:
        images = await client.get_list("/images/json")
    except Refused as refusal:
        raise ImageError(f"{client.title} does not list its images: {quotable(refusal.said, None)}") from None
    found = sorted((_size(image), str(image["Id"])) for image in images if image.get("Id"))
    if not found:
        raise NoImage
    refused = ""
    for _, image in found[:IMAGES_TRIED_MAX]:
        container = f"fetcher-doctor-{os.urandom(8).hex()}"
        try:
            try:
                await _create(client, container, image, directory)
            except Refused as refusal:
                refused = quotable(refusal.said, None)
                if _NO_SUCH_PLACE.search(refusal.said) and directory in refusal.said:
                    raise Unseen(refused) from None
                continue
            return await _read(client, container, f"{TARGET}/{name}")
        finally:
            await _remove(client, container)
    raise ImageError(f"{client.title} could not make a container: {refused}")


async def _create(client: EngineClient, container: str, image: str, directory: str) -> None:
    if client.libpod_version:
        document: Mapping[str, Any] = {
            "name": container,
            "image": image,
            "command": ["true"],
            "image_volume_mode": "ignore",
            "netns": {"nsmode": "none"},
            "mounts": [{"type": "bind", "source": directory, "destination": TARGET, "options": ["rbind", "ro"]}],
        }
        await client.create(f"/v{client.libpod_version}/libpod/containers/create", {}, document)
        return
    mount = {"Type": "bind", "Source": directory, "Target": TARGET, "ReadOnly": True}
    document = {
        "Image": image,
        "Cmd": ["true"],
        "HostConfig": {"NetworkMode": "none", "Mounts": [mount]},
    }
    await client.create(f"/v{client.api_version}/containers/create", {"name": container}, document)


async def _read(client: EngineClient, container: str, path: str) -> bytes:
    try:
        archive = await client.get_bytes(f"/containers/{quoted(container)}/archive", {"path": path})
    except Refused as refusal:
        reason = "there is no such file" if refusal.status == 404 else quotable(refusal.said, None)
        raise Unseen(reason) from None
    try:
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as files:
            for member in files:
                content = files.extractfile(member) if _is_plain(member) else None
                if content is not None:
                    return content.read()
    except (tarfile.TarError, ValueError, OverflowError):
        pass
    raise ImageError(f"{client.title}: what it gives out of a container is no archive of a file")


def _is_plain(member: tarfile.TarInfo) -> bool:
    """Whether it has its bytes in the archive, all of them: links lead elsewhere, holes are of any size."""
    return member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()


async def _remove(client: EngineClient, container: str) -> None:
    """Also if we are cancelled, and if nobody knows whether it was made. Volumes of the image go with it."""
    removal = asyncio.ensure_future(client.delete(f"/containers/{quoted(container)}", {"force": "true", "v": "true"}))
    cancelled = False
    while not removal.done():
        try:
            await asyncio.wait({removal})  # ends with the engine's answer, or for want of one
        except asyncio.CancelledError:
            cancelled = True
    error = removal.exception()
    if cancelled:
        raise asyncio.CancelledError
    if error is not None:
        said = quotable(error.said, None) if isinstance(error, Refused) else str(error)
        raise ImageError(
            f"{client.title} does not remove the container {container}: {said}",
            hint="it was never started; remove it by hand",
        )


def _size(image: Mapping[str, Any]) -> int:
    size = image.get("Size")
    return size if isinstance(size, int) else 0
