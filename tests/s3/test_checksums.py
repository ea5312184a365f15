"""Checksums against published vectors, against awscrt, and the tables against both."""

from __future__ import annotations

import hashlib
import random
from base64 import b64encode

import pytest

from fetcher.testing import Synthetic
from fetcher.testing.s3 import checksums

# Check values of the catalogue of parametrised CRC algorithms, for "123456789".
CHECK_VALUES = {"crc32": 0xCBF43926, "crc32c": 0xE3069283, "crc64nvme": 0xAE8B14860A799888}


@pytest.mark.parametrize(("algorithm", "value"), CHECK_VALUES.items())
def test_published_check_values(algorithm: str, value: int) -> None:
    assert int.from_bytes(checksums.digest(algorithm, [b"123456789"])) == value
    assert checksums.table_step(algorithm)(b"123456789", 0) == value


@pytest.mark.parametrize("algorithm", CHECK_VALUES)
def test_the_tables_agree_with_the_fast_ones_however_the_data_is_cut(algorithm: str, rng: random.Random) -> None:
    fast, slow = checksums._step(algorithm), checksums.table_step(algorithm)
    for size in (0, 1, 2, 3, 8, 255, 256, 257, 65_537):
        data = rng.randbytes(size)
        cuts = sorted(rng.randrange(size + 1) for _ in range(3))
        pieces = [data[start:stop] for start, stop in zip([0, *cuts], [*cuts, size], strict=True)]
        value = 0
        for piece in pieces:
            value = slow(memoryview(piece), value)
        assert value == fast(data, 0)
        assert int.from_bytes(checksums.digest(algorithm, pieces)) == value


@pytest.mark.needs("python:awscrt")
@pytest.mark.parametrize("algorithm", CHECK_VALUES)
def test_awscrt_agrees_about_much_data(algorithm: str) -> None:
    import awscrt.checksums

    content = Synthetic((64 << 20) + 3, 5)
    value = 0
    for view in content.views():
        value = getattr(awscrt.checksums, algorithm)(bytes(view), value)
    assert int.from_bytes(checksums.digest(algorithm, content.views())) == value


def test_a_composite_checksum_is_that_of_the_parts_checksums() -> None:
    parts = [b"one", b"two", b""]
    joined = b"".join(hashlib.sha256(part).digest() for part in parts)
    right = b64encode(hashlib.sha256(joined).digest()).decode() + "-3"
    assert checksums.stated("sha256", [[part] for part in parts], composite=True) == right
    full = b64encode(hashlib.sha1(b"onetwo").digest()).decode()
    assert checksums.stated("sha1", [[part] for part in parts], composite=False) == full
