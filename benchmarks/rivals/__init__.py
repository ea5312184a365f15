"""Everyone, one file each: a new one is a file here and its module in this list."""

from __future__ import annotations

from benchmarks.rivals import (
    aiohttp,
    aria2c,
    aws,
    curl,
    fetcher,
    hf_transfer,
    huggingface_hub,
    obstore,
    rclone,
    reference,
    s5cmd,
    wget2,
)
from benchmarks.running.work import Rival

_MODULES = (
    *(fetcher, reference, obstore, hf_transfer, curl, aria2c, wget2),
    *(rclone, s5cmd, aws, aiohttp, huggingface_hub),
)
RIVALS: dict[str, Rival] = {rival.name: rival for module in _MODULES for rival in module.RIVALS}
