"""From valid examples to hostile cases, by dice: edits of the text, and of what the text says.

Each grammar knows one kind of text well enough to change what it means and leave it well-formed, so that a case gets
beyond the first line of a parser. Every now and then bytes are changed as well. Pure; the dice are an argument.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from typing import Any, Literal

Grammar = Literal["json", "xml", "lines", "headers", "answer", "text", "bytes"]
"""``lines``: of JSON. ``answer``: a status, headers, an empty line, and a body of JSON or XML."""

CASE_BYTES_MAX = 100_000
REPEATS = (2, 3, 10, 30, 100, 1000, 5000)

HOSTILE_TEXTS: tuple[str, ...] = (
    *("", " ", ".", "..", "/", "//", "../x", "a/../../x", "/etc/passwd", "a/", "a//b", "./a", "C:\\x", "C:/x", "c:"),
    *("\\\\host\\share", "..\\x", "a\0b", "a\nb", "a\r\nX-Y: z", "\x1b[2J", "\x07", "\x7f", "a\tb", "\u2028", "\ufeff"),
    *(
        "CON",
        "NUL",
        "aux.txt",
        "com1",
        "a.",
        "a ",
        " a",
        "~",
        "-rf",
        "$HOME",
        "`id`",
        "a'b",
        'a"b',
        "a,b",
        "a=b",
        "a b",
    ),
    *("n" * 256, "n" * 3000, "d/" * 70 + "f", "\u202egpj.exe", "\u200b", "\ud800", "a\udc80b", "caf\u00e9"),
    *("cafe\u0301", "Twin", "tWIN", "ſ", "K", "ﬀ", "\u0345", "\u1fb3", "\u03b1\u0345", "İ", "i\u0307", "\U0001f600"),
    *("%", "%%", "%2e%2e%2f", "%00", "%ED%A0%80", "%FF", "%zz", "+", "&", "?", "#", "@", ":", "*", "[", "[!", "[z-a]"),
    *("**/*", "*" * 50, "a*" * 40, "(a+)+$", "{}", "[]", "null", "true", "NaN", "Infinity", "-0", "1e999", "9" * 5000),
    *("0x1F", "1_000", "²", "٣", "-1", "18446744073709551616", "%%global.variables.a%%", "%%ops.x.results.y%%"),
    *("%%global.variables.%%", "__spread__", "__remove-if-empty__", "__proto__", "file:///etc/passwd", "http://"),
    *("http://169.254.169.254/latest", "http://[::1", "http://[::ffff:7f00:1]/", "http://a:99999/", "http://a:b@c/"),
    *(
        "https://ex\u00e4mple.org/",
        "//evil.example/",
        "javascript:0",
        "hf://a/b@c",
        "s3://b/k",
        "ollama://m",
        "docker://",
    ),
    *(
        "http://example.org\\@evil/",
        "<!DOCTYPE x>",
        "&e;",
        "<a>",
        "]]>",
        '<?xml version="1.0" encoding="utf-7"?>',
        "<!---->",
    ),
    *("sha256:" + "0" * 64, "sha256:../../x", "W/", '"', '""', "Bearer ", "next", 'rel="next"', ";", ",", "=", "\\"),
)
HOSTILE_NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64, 10**15, 10**30, 0.5, -0.5, 1e308, 1e-320, True, False, None),
)


class Pairs(list[tuple[str, Any]]):
    """An object whose names may come twice."""


class Raw(str):
    """Text that stands for itself."""


def mutated(dice: random.Random, examples: Sequence[bytes], grammar: Grammar, words: Sequence[bytes] = ()) -> bytes:
    """One case."""
    case = dice.choice(examples)
    change = _GRAMMARS[grammar]
    for _ in range(dice.choice((1, 1, 1, 2, 2, 3, 5))):
        case = change(dice, case, examples, words)[:CASE_BYTES_MAX]
    if dice.random() < 0.15:
        case = change_bytes(dice, case, examples, words)
    return case[:CASE_BYTES_MAX]


# --- bytes, texts


def change_bytes(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit that knows nothing."""
    at = dice.randint(0, len(case))
    end = min(len(case), at + dice.choice((1, 1, 2, 4, 16, 64)))
    match dice.randrange(9):
        case 0:
            return case[:at] + bytes([dice.randrange(256)]) + case[at + 1 :]
        case 1:
            return case[:at] + case[end:]
        case 2:
            return case[:at] + case[at:end] * dice.choice(REPEATS) + case[end:]
        case 3:
            return case[:at]
        case 4:
            other = dice.choice(examples)
            return case[:at] + other[dice.randint(0, len(other)) :]
        case 5:
            bits = bytearray(case)
            for _ in range(dice.choice((1, 2, 8))):
                if bits:
                    bits[dice.randrange(len(bits))] ^= 1 << dice.randrange(8)
            return bytes(bits)
        case 6:
            return case[:at] + _word(dice, words) * dice.choice(REPEATS) + case[at:]
        case 7:
            return case[:at] + _number_bytes(dice) + case[end:]
        case _:
            return case[:at] + _word(dice, words) + case[dice.choice((at, end)) :]


def change_text(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit between the pieces that a text is made of."""
    pieces = re.findall(rb"[A-Za-z0-9_]+|[^A-Za-z0-9_]", case)
    if len(pieces) < 2 or dice.random() < 0.4:
        return change_bytes(dice, case, examples, words)
    return b"".join(_rearranged(dice, pieces, words))


def _rearranged(dice: random.Random, pieces: list[bytes], words: Sequence[bytes]) -> list[bytes]:
    at = dice.randrange(len(pieces))
    match dice.randrange(6):
        case 0:
            del pieces[at]
        case 1:
            pieces[at] = _word(dice, words)
        case 2:
            pieces.insert(at, _word(dice, words))
        case 3:
            other = dice.randrange(len(pieces))
            pieces[at], pieces[other] = pieces[other], pieces[at]
        case 4:
            end = min(len(pieces), at + dice.randint(1, 8))
            pieces[at:end] = pieces[at:end] * dice.choice(REPEATS[:-1])
        case _:
            pieces.insert(at, dice.choice(pieces))
    return pieces


def _word(dice: random.Random, words: Sequence[bytes]) -> bytes:
    if words and dice.random() < 0.5:
        return dice.choice(words)
    return hostile_text(dice).encode("utf-8", "surrogatepass")


def hostile_text(dice: random.Random) -> str:
    """A text that no honest party writes."""
    return dice.choice(HOSTILE_TEXTS)


def _number_bytes(dice: random.Random) -> bytes:
    return str(dice.choice(HOSTILE_NUMBERS)).encode()


# --- JSON


def change_json(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit of what a JSON text says; of a text that is none, of its bytes."""
    try:
        value = json.loads(case, object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return change_bytes(dice, case, examples, words)
    changed = _changed(dice, value, examples, words)
    if _weight(changed, CASE_BYTES_MAX) <= 0:
        return case
    try:
        return written(changed).encode("utf-8", "surrogatepass")
    except RecursionError:
        return case


def _weight(value: Any, left: int) -> int:
    """What is left of ``left`` characters after writing ``value``; counted, as copies of copies have no bound."""
    waiting = [value]
    while waiting and left > 0:
        item = waiting.pop()
        left -= len(item) if isinstance(item, str) else 4
        if isinstance(item, list):
            waiting += [part for pair in item for part in pair] if isinstance(item, Pairs) else item
    return left


def _changed(dice: random.Random, value: Any, examples: Sequence[bytes], words: Sequence[bytes]) -> Any:
    """``value`` with one place in it changed, found by walking down."""
    if isinstance(value, Pairs) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        name, inner = value[at]
        match dice.randrange(16):
            case 0:
                del value[at]
            case 1:
                value.insert(dice.randrange(len(value) + 1), (name, _hostile(dice, inner, words)))
            case 2:
                value[at] = (_other_name(dice, name), inner)
            case 3:
                value.append((_other_name(dice, name), inner))
            case _:
                value[at] = (name, _changed(dice, inner, examples, words))
        return value
    if isinstance(value, list) and not isinstance(value, Pairs) and value and dice.random() < 0.85:
        at = dice.randrange(len(value))
        match dice.randrange(10):
            case 0:
                del value[at]
            case 1:
                value[at : at + 1] = [value[at]] * dice.choice(REPEATS[:-1])
            case 2:
                value.insert(at, _hostile(dice, value[at], words))
            case 3:
                value.insert(at, dice.choice(value))
            case _:
                value[at] = _changed(dice, value[at], examples, words)
        return value
    if dice.random() < 0.1:
        return _part_of(dice, examples)
    return _hostile(dice, value, words)


def _hostile(dice: random.Random, value: Any, words: Sequence[bytes]) -> Any:
    if words and dice.random() < 0.3:
        return dice.choice(words).decode("utf-8", "surrogatepass")
    match dice.randrange(10):
        case 0:
            return dice.choice(HOSTILE_NUMBERS)
        case 1:
            return [value] * dice.choice((0, 1, 2, 50))
        case 2:
            return Pairs([(hostile_text(dice), value)])
        case 3:
            depth = dice.choice((3, 60, 70, 500, 30_000))
            return Raw("[" * depth + "]" * depth if dice.random() < 0.5 else '{"a":' * depth + "0" + "}" * depth)
        case 4:
            return Raw(
                dice.choice(("1e999", "NaN", "-Infinity", "9" * 5000, "0." + "1" * 400, "-0", '"\\ud800"', "01"))
            )
        case 5 if isinstance(value, str):
            at = dice.randint(0, len(value))
            return value[:at] + hostile_text(dice) + value[at:]
        case 6 if isinstance(value, str) and value:
            return value * dice.choice(REPEATS[:-1])
        case 7 if isinstance(value, str):
            return value.swapcase() if dice.random() < 0.5 else json.dumps([value])
        case _:
            return hostile_text(dice)


def _other_name(dice: random.Random, name: str) -> str:
    return dice.choice((hostile_text(dice), name.upper(), name.lower(), name + "s", name[:-1], " " + name))


def _part_of(dice: random.Random, examples: Sequence[bytes]) -> Any:
    try:
        value = json.loads(dice.choice(examples), object_pairs_hook=Pairs)
    except (ValueError, RecursionError):
        return None
    while isinstance(value, list) and value and dice.random() < 0.7:
        inner = dice.choice(value)
        value = inner[1] if isinstance(value, Pairs) else inner
    return value


def written(value: Any) -> str:
    """JSON text of ``value``, doubled names and raw pieces included."""
    if isinstance(value, Raw):
        return str(value)
    if isinstance(value, Pairs):
        return "{" + ",".join(f"{json.dumps(name)}:{written(inner)}" for name, inner in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return json.dumps(value)


def change_lines(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit of one line of JSON, or between lines."""
    lines = case.split(b"\n")
    if dice.random() < 0.3:
        return b"\n".join(_rearranged(dice, lines, words))
    at = dice.randrange(len(lines))
    lines[at] = change_json(dice, lines[at], [line for example in examples for line in example.split(b"\n")], words)
    return b"\n".join(lines)


# --- XML

_PROLOGS = (
    *(b"<!DOCTYPE a>", b'<!DOCTYPE a [<!ENTITY e "x">]>', b'<!DOCTYPE a SYSTEM "file:///etc/passwd">', b"<!---->"),
    *(b'<?xml version="1.0" encoding="%s"?>' % name for name in (b"UTF-16", b"utf-7", b"nope", b"hex", b"idna")),
    *(b'<?xml version="1.0" encoding="%s"?>' % name for name in (b"unicode_escape", b"big5", b"cp1252", b"undefined")),
    *(b"<?pi x?>", b"<![CDATA[x]]>", b'<?xml version="1.1"?>', b"\xef\xbb\xbf", b"\xff\xfe", b"<!-- -- -->"),
)


def change_xml(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit between tags and texts."""
    pieces = re.findall(rb"<[^>]*>|[^<]+", case)
    if not pieces or dice.random() < 0.1:
        return change_bytes(dice, case, examples, words)
    at = dice.randrange(len(pieces))
    match dice.randrange(8):
        case 0:
            pieces.insert(dice.choice((0, 0, 1, at)), dice.choice(_PROLOGS) * dice.choice((1, 1, 1, 20, 100)))
        case 1:
            texts = [index for index, piece in enumerate(pieces) if not piece.startswith(b"<")]
            if texts:
                pieces[dice.choice(texts)] = _escaped(dice, _word(dice, words))
        case 2:
            tags = [index for index, piece in enumerate(pieces) if piece.startswith(b"<")]
            chosen = dice.choice(tags or [at])
            attribute = b' a="%s"' % (b"x" * dice.choice((1, 10, 9000)))
            pieces[chosen] = pieces[chosen].replace(b">", dice.choice((b"/>", attribute + b">", b"x>", b"\n>")), 1)
        case 3:
            end = min(len(pieces), at + dice.randint(1, 12))
            pieces[at:end] = pieces[at:end] * dice.choice(REPEATS[:-1])
        case _:
            pieces = _rearranged(dice, pieces, words)
    return b"".join(pieces)


def _escaped(dice: random.Random, text: bytes) -> bytes:
    if dice.random() < 0.3:
        return text
    return text.replace(b"&", b"&amp;").replace(b"<", b"&lt;").replace(b"\0", b"&#0;")


# --- headers, answers


def change_headers(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit of header lines."""
    lines = case.split(b"\n")
    at = dice.randrange(len(lines))
    name, colon, value = lines[at].partition(b":")
    match dice.randrange(7):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, dice.choice(dice.choice(examples).split(b"\n")))
        case 2:
            lines[at] = name + colon + b" " + _word(dice, words)
        case 3:
            lines.insert(at, name + colon + value + b", " + _word(dice, words))
        case 4:
            lines[at] = name + colon + b" " + _number_bytes(dice)
        case _:
            lines[at] = name + colon + change_text(dice, value, examples, words)
    return b"\n".join(lines)


def change_answer(dice: random.Random, case: bytes, examples: Sequence[bytes], words: Sequence[bytes]) -> bytes:
    """One edit of a status, of headers, or of a body."""
    head, gap, body = case.partition(b"\n\n")
    status, newline, headers = head.partition(b"\n")
    choice = dice.random()
    if choice < 0.08:
        status = dice.choice((b"200", b"201", b"204", b"206", b"301", b"302", b"307", b"400", b"401", b"403", b"404"))
    elif choice < 0.12:
        status = dice.choice((b"405", b"409", b"410", b"412", b"416", b"429", b"500", b"503", b"599", b"999", b"304"))
    elif choice < 0.5:
        heads = [example.partition(b"\n\n")[0].partition(b"\n")[2] for example in examples]
        headers = change_headers(dice, headers, heads, words)
    else:
        bodies = [example.partition(b"\n\n")[2] for example in examples]
        body = (change_xml if body[:1] == b"<" else change_json)(dice, body, bodies, words)
    return status + (newline or b"\n") + headers + (gap or b"\n\n") + body


Change = Callable[[random.Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]
_GRAMMARS: dict[Grammar, Change] = {
    "json": change_json,
    "xml": change_xml,
    "lines": change_lines,
    "headers": change_headers,
    "answer": change_answer,
    "text": change_text,
    "bytes": change_bytes,
}
