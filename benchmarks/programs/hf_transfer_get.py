"""``hf_transfer.download`` as a program: OPEN_FILES URL OUTPUT [URL OUTPUT ...], one after another."""

from __future__ import annotations

import sys

import hf_transfer

CHUNK_BYTES = 10 << 20
"""What huggingface_hub gave it."""


def main() -> None:
    open_files = int(sys.argv[1])
    pairs = sys.argv[2:]
    for url, output in zip(pairs[::2], pairs[1::2], strict=True):
        hf_transfer.download(url, output, open_files, CHUNK_BYTES, parallel_failures=3, max_retries=5)


if __name__ == "__main__":
    main()
