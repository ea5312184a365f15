"""One file by way of ``huggingface_hub.file_download.http_get``: URL OUTPUT."""

from __future__ import annotations

import os
import sys

if not os.environ.get("HF_ENDPOINT"):  # an empty one is none
    os.environ.pop("HF_ENDPOINT", None)

from huggingface_hub.file_download import http_get


def main() -> None:
    url, output = sys.argv[1:]
    with open(output, "wb") as file:
        http_get(url, file)


if __name__ == "__main__":
    main()
