r"""Encoding ACPI Machine Language (ACPI 6.3 §20.2).

Each function encodes one construct of ASL and is named after it; together they read like the ASL
they stand for. A `Term` is a piece of AML that may stand in a term list, a package or an argument.

>>> serial_port = device("COM1", name("_HID", eisa_id("PNP0501")), name("_UID", integer(1)))
>>> scope(r"\_SB", serial_port).hex(" ")
'10 1d 5c 5f 53 42 5f 5b 82 15 43 4f 4d 31 08 5f 48 49 44 0c 41 d0 05 01 08 5f 55 49 44 01'
"""

from __future__ import annotations

import re
from typing import Final, NewType

Term = NewType("Term", bytes)
"""Encoded AML."""

_SEGMENT = re.compile(r"[A-Z_][A-Z0-9_]{0,3}")
_EISA_ID = re.compile(r"[A-Z]{3}[0-9A-F]{4}")

# Opcodes (ACPI 6.3 §20.3, table 20-2).
_ZERO, _ONE, _ONES = b"\x00", b"\x01", b"\xff"
_NAME, _BYTE, _WORD, _DWORD, _STRING, _QWORD = b"\x08", b"\x0a", b"\x0b", b"\x0c", b"\x0d", b"\x0e"
_SCOPE, _BUFFER, _PACKAGE, _METHOD = b"\x10", b"\x11", b"\x12", b"\x14"
_DUAL_NAME, _MULTI_NAME = b"\x2e", b"\x2f"
_OP_REGION, _FIELD, _DEVICE = b"\x5b\x80", b"\x5b\x81", b"\x5b\x82"
_LOCAL0, _ARG0 = 0x60, 0x68
_STORE, _NOTIFY, _AND, _EQUAL, _IF, _ELSE = b"\x70", b"\x86", b"\x7b", b"\x93", b"\xa0", b"\xa1"
_RETURN = b"\xa4"

SYSTEM_MEMORY: Final = 0
"""Region space of `operation_region`: guest physical memory."""
SYSTEM_IO: Final = 1
"""Region space of `operation_region`: I/O ports."""


class AmlError(ValueError):
    """A value has no encoding in AML."""


def pkg_length(content: int) -> bytes:
    """A PkgLength for `content` bytes that follow it (§20.2.4).

    The length counts itself, so its own size (1 to 4 bytes) depends on it.

    Raises:
        AmlError: more than 28 bits.
    """
    if content + 1 < 1 << 6:
        return bytes((content + 1,))
    for extra in (1, 2, 3):
        length = content + 1 + extra
        if length < 1 << (4 + 8 * extra):
            low = extra << 6 | length & 0x0F
            return bytes((low,)) + (length >> 4).to_bytes(extra, "little")
    raise AmlError(f"AML packages end at 2**28 bytes, this one has {content}")


def name_string(path: str) -> bytes:
    r"""A NameString (§20.2.2): segments joined by dots, after a root ``\`` or parents ``^``.

    Segments are padded with ``_`` to four characters. The bare root and the empty name are names.

    Raises:
        AmlError: a segment is not a name, or there are more than 255.
    """
    relative = path.lstrip("\\^")
    prefix = path[: len(path) - len(relative)]
    if prefix not in ("", "\\") and set(prefix) != {"^"}:
        raise AmlError(f"{path!r} mixes root and parents")
    names = relative.split(".") if relative else []
    for segment in names:
        if not _SEGMENT.fullmatch(segment):
            raise AmlError(f"{path!r} is not an AML name")
    if len(names) > 0xFF:
        raise AmlError("an AML name has at most 255 segments")
    body = b"".join(segment.ljust(4, "_").encode() for segment in names)
    lead = {0: _ZERO, 1: b"", 2: _DUAL_NAME}.get(len(names), _MULTI_NAME + bytes((len(names),)))
    return prefix.encode() + lead + body


def reference(path: str) -> Term:
    """The object named `path`."""
    return Term(name_string(path))


def integer(value: int) -> Term:
    """The shortest ComputationalData for a 64-bit integer (§20.2.3).

    Raises:
        AmlError: negative, or more than 64 bits.
    """
    if not 0 <= value < 1 << 64:
        raise AmlError(f"{value} is not an AML integer")
    if value < 2:
        return Term(_ONE if value else _ZERO)
    if value == (1 << 64) - 1:
        return Term(_ONES)
    for prefix, size in ((_BYTE, 1), (_WORD, 2), (_DWORD, 4)):
        if value < 1 << (8 * size):
            return Term(prefix + value.to_bytes(size, "little"))
    return Term(_QWORD + value.to_bytes(8, "little"))


def string(text: str) -> Term:
    """A string.

    Raises:
        AmlError: a character outside ASCII, or NUL.
    """
    if not text.isascii() or "\0" in text:
        raise AmlError(f"{text!r} is not an AML string")
    return Term(_STRING + text.encode() + b"\0")


def eisa_id(text: str) -> Term:
    """A compressed EISA id such as ``PNP0501`` (§19.3.4, EISAID macro).

    Always a DWord, by which readers know it for an id.

    Raises:
        AmlError: not three capital letters and four upper-case hexadecimal digits.
    """
    if not _EISA_ID.fullmatch(text):
        raise AmlError(f"{text!r} is not an EISA id")
    first, second, third = (ord(letter) - 0x40 for letter in text[:3])
    letters = first << 10 | second << 5 | third
    return Term(_DWORD + letters.to_bytes(2, "big") + bytes.fromhex(text[3:]))


def buffer(content: bytes) -> Term:
    """A buffer that holds `content`."""
    body = integer(len(content)) + content
    return Term(_BUFFER + pkg_length(len(body)) + body)


def package(*elements: Term) -> Term:
    """A package of up to 255 elements.

    Raises:
        AmlError: more elements.
    """
    if len(elements) > 0xFF:
        raise AmlError(f"an AML package has at most 255 elements, not {len(elements)}")
    return _block(_PACKAGE, bytes((len(elements),)), elements)


def name(path: str, value: Term) -> Term:
    """Give `value` a name."""
    return Term(_NAME + name_string(path) + value)


def scope(path: str, *terms: Term) -> Term:
    """Add `terms` to the scope of an existing object."""
    return _block(_SCOPE, name_string(path), terms)


def device(path: str, *terms: Term) -> Term:
    """A device and what belongs to it."""
    return _block(_DEVICE, name_string(path), terms)


def method(path: str, arguments: int, *terms: Term, serialized: bool = False) -> Term:
    """A control method.

    Raises:
        AmlError: more than seven arguments.
    """
    if not 0 <= arguments <= 7:
        raise AmlError(f"an AML method has at most 7 arguments, not {arguments}")
    flags = arguments | (0x08 if serialized else 0)
    return _block(_METHOD, name_string(path) + bytes((flags,)), terms)


def argument(index: int) -> Term:
    """``Arg0`` to ``Arg6``.

    Raises:
        AmlError: there is no such argument.
    """
    if not 0 <= index <= 6:
        raise AmlError(f"there is no Arg{index}")
    return Term(bytes((_ARG0 + index,)))


def local(index: int) -> Term:
    """``Local0`` to ``Local7``.

    Raises:
        AmlError: there is no such variable.
    """
    if not 0 <= index <= 7:
        raise AmlError(f"there is no Local{index}")
    return Term(bytes((_LOCAL0 + index,)))


def return_(value: Term) -> Term:
    """End the method with `value`."""
    return Term(_RETURN + value)


def store(value: Term, target: Term) -> Term:
    """Write `value` to `target`."""
    return Term(_STORE + value + target)


def notify(target: Term, value: Term) -> Term:
    """Tell the driver of device `target` that `value` happened."""
    return Term(_NOTIFY + target + value)


def and_(left: Term, right: Term) -> Term:
    """Bitwise and, with no target."""
    return Term(_AND + left + right + _ZERO)


def equal(left: Term, right: Term) -> Term:
    """Whether both are equal."""
    return Term(_EQUAL + left + right)


def if_(condition: Term, *terms: Term) -> Term:
    """Run `terms` if `condition` is not zero."""
    return _block(_IF, condition, terms)


def else_(*terms: Term) -> Term:
    """Run `terms` if the `if_` before it did not run its own."""
    return _block(_ELSE, b"", terms)


def operation_region(path: str, space: int, offset: int, length: int) -> Term:
    """A range of an address space (`SYSTEM_IO`, `SYSTEM_MEMORY`) under a name."""
    head = _OP_REGION + name_string(path) + bytes((space,))
    return Term(head + integer(offset) + integer(length))


def byte_fields(region: str, *units: str) -> Term:
    """Name the bytes of a region in order: byte access, no lock, unwritten bits preserved."""
    body = b"".join(name_string(unit) + bytes((8,)) for unit in units)
    return _block(_FIELD, name_string(region) + b"\x01", (Term(body),))


def _block(opcode: bytes, head: bytes, terms: tuple[Term, ...]) -> Term:
    """An opcode, the length of what follows, and that."""
    body = head + b"".join(terms)
    return Term(opcode + pkg_length(len(body)) + body)
