"""Inputs of a fuzzer as scripts: the bytes are decisions, one after another."""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType


class Choices:
    """The bytes of an input as decisions; behind their end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._next = 0

    @property
    def left(self) -> int:
        """Bytes that are not used up."""
        return max(len(self._data) - self._next, 0)

    def bytes(self, size: int) -> bytes:
        """The next `size` bytes."""
        start, self._next = self._next, self._next + size
        return self._data[start : start + size].ljust(size, b"\0")

    def text(self, size: int) -> bytes:
        """So many bytes, of which the script has but four: it has more to say than data."""
        return (self.bytes(4) * (size // 4 + 1))[:size]

    def integer(self, size: int) -> int:
        """A number of `size` bytes."""
        return int.from_bytes(self.bytes(size), "little")

    def below(self, limit: int) -> int:
        """A number from 0 on."""
        return self.integer(1) % limit

    def near(self, values: Sequence[int], size: int) -> int:
        """Mostly one of these, else any number of `size` bytes."""
        choice = self.below(len(values) + 1)
        return values[choice] if choice < len(values) else self.integer(size)


def first_inputs(target: ModuleType, count: int) -> Iterator[bytes]:
    """What to begin with: a target's own seeds, and some noise, the same each time."""
    if hasattr(target, "seeds"):
        yield from target.seeds()
    source = Random(target.__name__)  # noqa: S311 - the same each time
    for _ in range(count):
        yield source.randbytes(source.choice((60, 200, 500, 1000)))
