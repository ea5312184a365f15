"""Which fetcher this is. Only ``pyproject.toml`` and the changelog say it too; a test compares the three."""

from typing import Final

VERSION: Final = "0.1.0"
