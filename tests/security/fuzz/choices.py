"""Choices made of bytes, so that a fuzzer that mutates the bytes mutates what is chosen; and what
is chosen: changes to bytes and trees.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

T = TypeVar("T")

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 10, 255, 65_535, 65_536, 2**31, -(2**31), 2**63, 10**12, 10**400, 0.5, -0.5, 1e308, 5e-324,
    float("nan"),
    float("inf"), "", " ", "a", "0", "1", "nan", "1e400", "\0", "\n", "é", "\ud800", "\u2028", "a" * 5000, "../..", "/dev/zero", "auto",
    "ce",
    "symmetric(rate=0.4)", "x(" * 40, [], [[]], [1, 2], ["a"] * 300, {}, {"a": 1}, {"a": {"b": [None]}},
)  # fmt: skip
TOKENS = (
    b"", b"\0", b"\n", b"\r\n", b",", b";", b'"', b"'", b"#", b":", b"- ", b"&a ", b"*a", b"<<: *a", b"!!python/object:os.system ",
    b"!!binary ",
    b"!!timestamp ", b"!!set ", b"? ", b"{", b"}", b"[", b"]", b"[" * 200, b"(" * 200, b"NaN", b"Infinity", b"1e400", b"-1", b"9" * 30,
    b"9" * 5000,
    b"0x1", b"1_000", b"2001-01-01", b".inf", b"true", b"null", b"~", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\\ud800",
    b"PK\x05\x06",
    b"a" * 300, b"%", b"%ZZ", b"+", b"*", b"=", b"inf", b"**", b"label", b"index", b"train", b"val", b"0", b"1",
)  # fmt: skip


class Choices:
    """One after the other out of some bytes, then out of a generator that they seed."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0
        self._more = random.Random(zlib.crc32(data))

    def _byte(self) -> int:
        if self._at >= len(self._data):
            return self._more.randrange(256)
        self._at += 1
        return self._data[self._at - 1]

    def below(self, count: int) -> int:
        """A whole number in [0, count)."""
        number = self._byte()
        while count > 256:
            number, count = number << 8 | self._byte(), count >> 8
        return number % count if count < 256 or number < count else number % max(count, 1)

    def of(self, items: Sequence[T]) -> T:
        return items[min(self.below(len(items)), len(items) - 1)]

    def chance(self, one_in: int) -> bool:
        return self.below(one_in) == 0

    def place(self, length: int) -> int:
        """In [0, length]."""
        return min(
            int((self._byte() << 16 | self._byte() << 8 | self._byte()) / (1 << 24) * (length + 1)),
            length,
        )


def mutated(choices: Choices, data: bytes, tokens: Sequence[bytes] = TOKENS) -> bytes:
    """Bytes with some changes: tokens put in, parts deleted, doubled, moved, bits flipped."""
    for _ in range(1 + choices.below(4)):
        start = choices.place(len(data))
        stop = min(
            len(data),
            start + (choices.below(8) if choices.chance(2) else choices.place(len(data) - start)),
        )
        way = choices.below(7)
        if way <= 2:
            data = (
                data[:start] + choices.of(tokens) + data[start if way else min(stop, start + 4) :]
            )
        elif way == 3:
            data = data[:start] + data[stop:]
        elif way == 4:
            data = data[:stop] + data[start:stop][:4096] * (1 + choices.below(3)) + data[stop:]
        elif way == 5 and start < len(data):
            data = data[:start] + bytes([data[start] ^ 1 << choices.below(8)]) + data[start + 1 :]
        else:
            other = choices.place(len(data))
            data = data[:start] + data[other : other + 64] + data[start:]
    return data


def changed(choices: Choices, content: Any, values: Sequence[Any] = VALUES) -> Any:
    """A tree of lists and mappings with some values replaced, left out, doubled or of another type."""
    for _ in range(1 + choices.below(3)):
        content = _changed_once(choices, content, values)
    return content


def _changed_once(choices: Choices, content: Any, values: Sequence[Any]) -> Any:
    if isinstance(content, dict) and content and not choices.chance(12):
        key = choices.of(list(content))
        way = choices.below(12)
        if way == 0:
            return {name: value for name, value in content.items() if name != key}
        if way == 1:
            return {**content, str(choices.of(values)): content[key]}
        return {**content, key: _changed_once(choices, content[key], values)}
    if isinstance(content, list) and content and not choices.chance(8):
        at, way = choices.below(len(content)), choices.below(10)
        if way == 0:
            return content[:at] + content[at + 1 :]
        if way == 1:
            return content[:at] + content[at : at + 1] * 3 + content[at:]
        return [*content[:at], _changed_once(choices, content[at], values), *content[at + 1 :]]
    if isinstance(content, str) and choices.chance(2):
        return mutated(choices, content.encode("utf-8", "surrogatepass")).decode("utf-8", "replace")
    if isinstance(content, int | float) and not isinstance(content, bool) and choices.chance(2):
        return choices.of(
            (
                -content,
                content + 1,
                content * 1000,
                content / 3 if abs(content) < 1e300 else 0.1,
                str(content)[:400],
                [content],
            )
        )
    return [content] if choices.chance(10) else choices.of(values)
