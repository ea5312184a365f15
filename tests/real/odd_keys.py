"""Thousands of odd keys, the same in every run: what people and programs really call their files, and then some."""

from __future__ import annotations

import random
import unicodedata

_PIECES = (
    *("a", "Model", "weights-00001-of-00002", "v1.0", "x y", " leading", "trailing ", "two  blanks", "a+b", "+", "%2F"),
    *(
        "100%",
        "%",
        "%zz",
        "%252f",
        "'single'",
        '"double"',
        "(x)~'s",
        "a&b=c",
        "?query",
        "#hash",
        "a;b,c",
        "$HOME",
        "`id`",
    ),
    *("*", "[abc]", "{a,b}", "<tag>", "|pipe", "!", "@v2", "=", "^", "~", "..hidden", "...", ".dot", "-rf", "_"),
    *("naïve", "Привет", "模型", "モデル", "🙂", "é", "ß", "Ω", "عربى", "\u00a0nbsp", "zero\u200bwidth", "\ufeffbom"),
    *("a:b", "C", "con", "nul.txt", "file.", "config.json", "tokenizer.model", "s3:", "https:", "u@h"),
)


def odd_keys(count: int, seed: int) -> list[str]:
    """``count`` keys that a directory can hold, some in folders up to 12 deep, some as long as names and keys can be.

    No two of them collide on any file system, and none is a folder of another.
    """
    draw = random.Random(f"odd keys {seed}")
    keys: list[str] = []
    for number in range(count):
        # A number in the last name keeps keys apart; a folder's name never has one in front, so none is also a file.
        folders = ["d" + _word(draw) for _ in range(draw.choice((0, 0, 1, 1, 2, 3, 12)))]
        keys.append("/".join([*folders, f"{number:04}{_word(draw)}"]))
    keys[0] = "0000" + "n" * 251  # the longest name
    keys[1] = "0001" + "ü" * 125  # of fewer characters, nearly as many bytes
    keys[2] = "/".join(
        [*(f"deep{level:02}" + "x" * 73 for level in range(12)), "0002" + "y" * 38]
    )  # with its prefix 1,019 of 1,024
    keys[3] = "/".join(["d"] * 60) + "/0003"  # a deep one
    return keys


def nested(keys: list[str], folder: str) -> list[str]:
    """Those below ``folder``, without it."""
    return [key.removeprefix(f"{folder}/") for key in keys if key.startswith(f"{folder}/")]


def _word(draw: random.Random) -> str:
    word = "".join(draw.choice(_PIECES) for _ in range(draw.choice((1, 1, 2, 3))))
    return unicodedata.normalize("NFC", word).casefold()
