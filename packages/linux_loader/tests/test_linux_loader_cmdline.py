"""The kernel command line, read back the way a kernel reads it."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from linux_loader import (
    Cmdline,
    CmdlineError,
    CmdlineTooLong,
    InvalidCmdline,
    OutsideMemory,
    load_cmdline,
)

PRINTABLE = st.characters(min_codepoint=0x20, max_codepoint=0x7E)
KEYS = st.text(
    st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters='="'), min_size=1
).filter(lambda key: key != "--")
VALUES = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E, exclude_characters='"'))


def next_arg(text: str) -> tuple[str, str | None, str]:
    """A model of lib/cmdline.c next_arg: (parameter, value, rest)."""
    quoted = text.startswith('"')
    text = text[1:] if quoted else text
    in_quote, end = quoted, 0
    while end < len(text) and (text[end] != " " or in_quote):
        in_quote ^= text[end] == '"'
        end += 1
    word, rest = text[:end], text[end + 1 :]
    if quoted:
        word = word.removesuffix('"')
    equals = word.find("=", 1)  # a leading = belongs to the name
    if equals < 0:
        return word, None, rest
    name, value = word[:equals], word[equals + 1 :]
    return name, value[1:].removesuffix('"') if value.startswith('"') else value, rest


def parse_as_the_kernel(text: str) -> tuple[list[tuple[str, str | None]], list[str]]:
    """A model of kernel/params.c parse_args: (parameters, init's arguments)."""
    parameters: list[tuple[str, str | None]] = []
    while text := text.lstrip(" "):
        name, value, text = next_arg(text)
        if name == "--" and value is None:
            return parameters, text.split(" ")
        parameters.append((name, value))
    return parameters, []


def test_arguments_are_joined_by_one_space():
    """Each insert appends; blank text and surrounding blanks add nothing."""
    cmdline = Cmdline()
    cmdline.insert("console", "ttyS0")
    cmdline.insert_str("  quiet   ro ")
    cmdline.insert_str("")
    cmdline.insert_str("   ")
    cmdline.insert_multiple("nfsroot", ["a", "b"])
    assert str(cmdline) == "console=ttyS0 quiet ro nfsroot=a,b"
    assert bytes(cmdline) == str(cmdline).encode()
    assert len(cmdline) == 34


def test_values_with_spaces_are_quoted():
    """A value that the kernel would split is put in quotes, once."""
    cmdline = Cmdline()
    cmdline.insert("a", "x y")
    cmdline.insert("b", '"x y"')
    cmdline.insert("c", '"x"')
    assert str(cmdline) == 'a="x y" b="x y" c="x"'


def test_init_arguments_come_last():
    """What is for init follows the separator, whenever it was inserted."""
    cmdline = Cmdline.from_str("quiet -- single")
    cmdline.insert("console", "ttyS0")
    cmdline.insert_init_args("two -- three")
    assert str(cmdline) == "quiet console=ttyS0 -- single two -- three"


@pytest.mark.parametrize("text", ["a --", "a -- ", 'a "--"'])
def test_a_trailing_separator_vanishes(text):
    """A separator with nothing behind it must not catch what is inserted later."""
    cmdline = Cmdline.from_str(text)
    cmdline.insert_str("b")
    assert str(cmdline) == "a b"


def test_a_quoted_separator_separates():
    """The kernel strips the quotes before it looks, so they do not hide a separator."""
    assert str(Cmdline.from_str('a "--" b')) == "a -- b"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("", "x"), ("a b", "x"), ("a=b", "x"), ('a"', "x"), ("--", "x"), ("ä", "x"), ("a\0", "x"),
        ("a", "x\0"), ("a", "x\n"), ("a", "x\ty"), ("a", "ü"), ("a", '"'), ("a", 'x"y'),
        ("a", '"x'), ("a", '"x" "y"'), ("a", "\x7f"),
    ],
)  # fmt: skip
def test_insert_refuses_what_reads_differently(key, value):
    """A refused argument leaves the command line as it was."""
    cmdline = Cmdline.from_str("quiet")
    with pytest.raises(InvalidCmdline):
        cmdline.insert(key, value)
    assert str(cmdline) == "quiet"


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "a\tb", "ä", 'a="', 'b="xyz', '"', 'a="b c" "'])
def test_insert_str_refuses_what_reads_differently(text):
    """NUL would end the line, an open quote would swallow the rest of it."""
    cmdline = Cmdline.from_str("quiet")
    with pytest.raises(InvalidCmdline):
        cmdline.insert_str(text)
    with pytest.raises(InvalidCmdline):
        cmdline.insert_init_args(text)
    assert str(cmdline) == "quiet"


def test_insert_multiple_needs_a_value():
    """No values are no argument."""
    with pytest.raises(InvalidCmdline, match="at least one"):
        Cmdline().insert_multiple("a", [])


def test_capacity_counts_the_nul():
    """Four bytes hold three characters; one more is refused and changes nothing."""
    cmdline = Cmdline(capacity=4)
    cmdline.insert_str("abc")
    with pytest.raises(CmdlineTooLong, match="5 characters") as raised:
        cmdline.insert_str("d")
    assert (raised.value.length, raised.value.maximum) == (5, 3)
    assert str(cmdline) == "abc"
    assert str(Cmdline(capacity=1)) == ""
    with pytest.raises(CmdlineTooLong):
        Cmdline(capacity=0)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((0x1000, 0xD000_0000, 5), "4K@0xd0000000:5"),
        ((0x1000, 0xD000_0000, 5, 0), "4K@0xd0000000:5:0"),
        ((0x200, 0xFEB0_0000, 16, 3), "512@0xfeb00000:16:3"),
        ((1 << 30, 0, 0), "1G@0x0:0"),
        ((3 << 20, 1, 1), "3M@0x1:1"),
    ],
)
def test_virtio_mmio_device(arguments, expected):
    """The size gets the largest unit that divides it."""
    cmdline = Cmdline()
    cmdline.add_virtio_mmio_device(*arguments)
    assert str(cmdline) == f"virtio_mmio.device={expected}"


@pytest.mark.parametrize(
    "arguments", [(0, 0, 0), (-1, 0, 0), (1, -1, 0), (1, 0, -1), (1, 0, 0, -1)]
)
def test_virtio_mmio_device_refuses_nonsense(arguments):
    """No size, no device."""
    with pytest.raises(InvalidCmdline):
        Cmdline().add_virtio_mmio_device(*arguments)


def test_equality_and_repr():
    """Equal text and capacity are equal command lines; the repr makes one."""
    cmdline = Cmdline.from_str("a b", capacity=10)
    assert cmdline == eval(repr(cmdline))  # noqa: S307
    assert cmdline != Cmdline.from_str("a b")
    assert cmdline != "a b"


@settings(deadline=None)
@given(st.lists(st.tuples(KEYS, VALUES), max_size=8))
def test_a_kernel_reads_what_was_inserted(arguments):
    """Every key and value comes back from the kernel's own parser as it went in."""
    cmdline = Cmdline(capacity=1 << 20)
    for key, value in arguments:
        cmdline.insert(key, value)
    assert parse_as_the_kernel(str(cmdline)) == (arguments, [])


@settings(deadline=None)
@given(st.text(PRINTABLE), st.text(PRINTABLE))
def test_raw_text_keeps_its_meaning(text, later):
    """What the kernel reads of two texts is what it reads of each, boot's before init's."""
    cmdline = Cmdline(capacity=1 << 20)
    try:
        cmdline.insert_str(text)
        cmdline.insert_str(later)
    except CmdlineError:
        assert text.count('"') % 2 or later.count('"') % 2
        return
    first, first_init = parse_as_the_kernel(text.strip())
    second, second_init = parse_as_the_kernel(later.strip())
    parameters, init = parse_as_the_kernel(str(cmdline))
    assert parameters == first + second
    assert [word for word in init if word] == [word for word in first_init + second_init if word]


@settings(deadline=None)
@given(st.text(PRINTABLE))
def test_from_str_is_idempotent(text):
    """A command line made of a command line's text is the same."""
    try:
        cmdline = Cmdline.from_str(text)
    except CmdlineError:
        return
    assert Cmdline.from_str(str(cmdline)) == cmdline


@settings(deadline=None)
@given(st.text())
def test_any_text_is_taken_or_refused_with_a_cmdline_error(text):
    """Nothing that a user types raises anything else."""
    with suppress(CmdlineError):
        assert str(Cmdline.from_str(text)).isascii()


def test_loading_writes_text_and_nul(memory):
    """The text is in guest memory, with the NUL behind it; the length is without."""
    memory.write(0x2_0000, b"\xaa" * 16)
    assert load_cmdline(memory, 0x2_0000, Cmdline.from_str("quiet")) == 5
    assert memory.read(0x2_0000, 7) == b"quiet\0\xaa"
    assert load_cmdline(memory, 0x2_0000, "ro") == 2
    assert memory.read(0x2_0000, 3) == b"ro\0"


def test_loading_checks_the_range(memory):
    """The last byte of RAM takes the NUL; one further is refused."""
    end = 64 << 20
    load_cmdline(memory, end - 6, "quiet")
    with pytest.raises(OutsideMemory, match="command line"):
        load_cmdline(memory, end - 5, "quiet")


def test_loading_plain_text_checks_it(memory):
    """Plain text has the rules of a Cmdline."""
    with pytest.raises(InvalidCmdline):
        load_cmdline(memory, 0, "a\0b")
    with pytest.raises(CmdlineTooLong):
        load_cmdline(memory, 0, "a" * 2048)
