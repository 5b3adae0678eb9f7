"""The spelling of option values: ``key=value,key=value`` as cloud-hypervisor has it.

A comma inside square brackets or double quotes does not separate, so a later option can hold a list
(``affinity=[0@[0,1]]``) or a path with a comma. This module knows the grammar and the scalar
types; it does not know which options exist.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, TypeVar

from vmm_reference.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_T = TypeVar("_T")

_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}
_SIZE = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)([KMGTkmgt]?)")
_TOGGLES = {"on": True, "true": True, "yes": True, "off": False, "false": False, "no": False}
_MAX_U64 = (1 << 64) - 1


def split_options(text: str) -> list[str]:
    """Split `text` at the commas that are outside of brackets and double quotes.

    Returns:
        The pieces as written, quotes included; an empty text gives no pieces.

    Raises:
        ValueError: a bracket or a quote is not closed.
    """
    pieces: list[str] = []
    depth = 0
    quoted = False
    current: list[str] = []
    for char in text:
        if char == '"':
            quoted = not quoted
        elif not quoted:
            depth += (char == "[") - (char == "]")
        if depth < 0:
            raise ValueError("a ']' closes nothing; a value with brackets goes into double quotes")
        if char == "," and not quoted and not depth:
            pieces.append("".join(current))
            current = []
        else:
            current.append(char)
    if quoted:
        raise ValueError("a double quote is not closed (there is no way to write a single one)")
    if depth:
        raise ValueError("a '[' is not closed; a value with brackets goes into double quotes")
    pieces.append("".join(current))
    return [] if pieces == [""] else pieces


def parse_size(text: str) -> int:
    """Read a size in bytes: a number with an optional suffix K, M, G or T (powers of 1024).

    Raises:
        ValueError: `text` is not a size, or needs more than 64 bits.
    """
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a size; write a number with an optional K, M, G or T")
    size = int(match[1], 0 if match[1][:2] in {"0x", "0X"} else 10) << _SHIFTS[match[2].upper()]
    if size > _MAX_U64:
        raise ValueError(f"{text!r} needs more than 64 bits")
    return size


def format_size(size: int) -> str:
    """Write `size` with the largest suffix that keeps it exact; `parse_size` reads it back."""
    for suffix in ("T", "G", "M", "K"):
        shift = _SHIFTS[suffix]
        if size and size % (1 << shift) == 0:
            return f"{size >> shift}{suffix}"
    return str(size)


def or_default(given: _T | None, default: _T) -> _T:
    """Return what was given, `default` if nothing was."""
    return default if given is None else given


class Options:
    """The parsed value of one flag, asked key by key.

    Attributes:
        flag: the flag, for messages.
        text: the value as given.

    Raises:
        OptionError: the text is no option list, a key is unknown or given twice.
    """

    __slots__ = ("_values", "flag", "text")

    def __init__(self, flag: str, text: str, keys: Sequence[str]) -> None:
        self.flag = flag
        self.text = text
        self._values: dict[str, str] = {}
        try:
            pieces = split_options(text)
        except ValueError as error:
            raise self.bad(str(error)) from None
        for piece in pieces:
            key, equals, value = piece.partition("=")
            if key not in keys:
                raise self.bad(_unknown_key(piece, keys, self._values))
            if not equals:
                raise self.bad(f"{key} needs a value, as in {key}=…")
            if key in self._values:
                raise self.bad(f"{key} is given twice")
            self._values[key] = _unquote(value)

    def bad(self, reason: str) -> OptionError:
        """Return the error that says `reason` about this flag's value."""
        return OptionError(self.flag, self.text, reason)

    @contextlib.contextmanager
    def as_given(self) -> Iterator[None]:
        """Let a record that refuses its values quote what was given, not what it would be."""
        try:
            yield
        except OptionError as error:
            raise self.bad(error.reason) from None

    def string(self, key: str) -> str | None:
        """Return the value of `key` as written, without enclosing quotes; None if absent."""
        return self._values.get(key)

    def size(self, key: str) -> int | None:
        """Return the value of `key` in bytes; None if it is not given."""
        text = self._values.get(key)
        if text is None:
            return None
        try:
            return parse_size(text)
        except ValueError as error:
            raise self.bad(f"{key}: {error}") from None

    def integer(self, key: str) -> int | None:
        """Return the value of `key` as a decimal whole number; None if it is not given."""
        text = self._values.get(key)
        if text is None:
            return None
        if not (text.isascii() and text.isdigit()) or len(text) > 19:
            raise self.bad(f"{key}: {text!r} is not a whole number")
        return int(text)

    def toggle(self, key: str) -> bool | None:
        """Return whether `key` is on; None if it is not given."""
        text = self._values.get(key)
        if text is None:
            return None
        value = _TOGGLES.get(text.lower())
        if value is None:
            raise self.bad(f"{key}: {text!r} is neither on nor off")
        return value


def _unknown_key(piece: str, keys: Sequence[str], before: dict[str, str]) -> str:
    """What is wrong with a piece, where the keys `before` have been given in front of it."""
    if not piece:
        return "there is a comma too many"
    if "=" in piece:
        return f"no option {piece.partition('=')[0]!r} (there is: {', '.join(keys)})"
    last = next(reversed(before), None)
    hint = f"perhaps {keys[0]}={piece}?"
    if last is not None:
        hint = f'a value with a comma goes into double quotes: {last}="…"'
    return f"expected key=value, found {piece!r} ({hint})"


def _unquote(value: str) -> str:
    if len(value) > 1 and value[0] == value[-1] == '"':
        return value[1:-1]
    return value
