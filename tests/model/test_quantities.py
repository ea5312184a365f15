"""Sizes, rates and durations as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fetcher.model.quantities import (
    SIZE_BYTES_MAX,
    format_duration,
    format_size,
    parse_duration_s,
    parse_rate,
    parse_size,
)


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [
        ("0", 0),
        ("1", 1),
        ("50M", 50_000_000),
        ("50m", 50_000_000),
        ("50MB", 50_000_000),
        ("1GiB", 1 << 30),
        ("1gib", 1 << 30),
        ("1.5GiB", 3 << 29),
        ("0.1K", 100),
        ("1.0005k", 1000),
        (" 16 MiB ", 16 << 20),
        ("2T", 2 * 10**12),
        ("7EiB", 7 << 60),
        ("100b", 100),
    ],
)
def test_sizes(text: str, size_bytes: int) -> None:
    assert parse_size(text) == size_bytes


@pytest.mark.parametrize(
    "text",
    ["", "M", "-1", "+1", "1e3", "0x10", "1 000", "1,5M", "1.M", ".5M", "1Mi B", "1Q", "1MBit", "٣M", "9EiB", "1" * 30],
)
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="size"):
        parse_size(text)


@pytest.mark.parametrize(
    ("text", "rate"), [("50M", 50_000_000), ("50MB/s", 50_000_000), ("1MiB/S", 1 << 20), ("100", 100)]
)
def test_rates_are_bytes_per_second(text: str, rate: int) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize(
    ("text", "word"),
    [("50Mbit", "divide bits by 8"), ("50Mbps", "divide bits by 8"), ("0", "no limit"), ("fast", "write it as")],
)
def test_what_is_no_rate_is_told_how_to_write_it(text: str, word: str) -> None:
    with pytest.raises(ValueError, match=word):
        parse_rate(text)


@pytest.mark.parametrize(
    ("text", "duration_s"),
    [
        ("90", 90),
        ("90s", 90),
        ("1.5", 1.5),
        ("250ms", 0.25),
        ("24h", 86_400),
        ("1d", 86_400),
        ("2w", 1_209_600),
        ("1h30m", 5_400),
        ("1h 30m", None),
        ("0", 0),
        ("1D", 86_400),
    ],
)
def test_durations(text: str, duration_s: float | None) -> None:
    if duration_s is None:
        with pytest.raises(ValueError):
            parse_duration_s(text)
    else:
        assert parse_duration_s(text) == duration_s


@pytest.mark.parametrize("text", ["", "h", "-1s", "1y", "1 month", "inf", "nan", "1h30", "1e3s", "101000w"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration_s(text)


@given(st.integers(0, SIZE_BYTES_MAX))
def test_a_number_of_bytes_is_itself(size_bytes: int) -> None:
    assert parse_size(str(size_bytes)) == size_bytes


@given(st.integers(0, 10**18))
def test_printed_sizes_are_short_and_near(size_bytes: int) -> None:
    text = format_size(size_bytes)
    assert len(text) <= 9
    assert abs(parse_size(text.replace(" ", "")) - size_bytes) <= size_bytes * 0.051


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (14_300_000_000, "14.3 GB"),
    ],
)
def test_printed_sizes(size_bytes: int, text: str) -> None:
    assert format_size(size_bytes) == text


@pytest.mark.parametrize(
    ("duration_s", "text"),
    [
        (-1, "0s"),
        (0.4, "0s"),
        (59.6, "1m 00s"),
        (61, "1m 01s"),
        (3_599.6, "1h 00m"),
        (86_400, "1d 00h"),
        (180_000, "2d 02h"),
    ],
)
def test_printed_durations(duration_s: float, text: str) -> None:
    assert format_duration(duration_s) == text
