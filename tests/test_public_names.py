"""The names that programs may rely on. Adding one is a decision, removing one breaks somebody: both show here."""

import fetcher
from fetcher import errors

FACE = [
    *("Fetcher", "Lease", "Mount", "MountSet", "PrefetchItem", "PrefetchReport", "Snapshot", "Settings", "get"),
    *("Damage", "VerifyReport"),
]
VALUES = [
    *("HF", "S3", "Ollama", "Asker", "Event", "Notice", "Progress"),
    *("parse_job", "parse_market", "parse_uri", "__version__"),
]
ERRORS = ["FetcherError", *(error.__name__ for error in errors.ERROR_CLASSES)]


def test_public_names() -> None:
    assert sorted(fetcher.__all__) == sorted(FACE + VALUES + ERRORS)
    assert all(getattr(fetcher, name) is not None for name in fetcher.__all__)
    assert set(fetcher.__all__) <= set(dir(fetcher))
