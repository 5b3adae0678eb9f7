"""The initramfs archive: what is written is what is read, by us and by the format's rules."""

from __future__ import annotations

import stat

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm_reference.guest_assets import cpio
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.overlay import MAX_COMMAND, exec_overlay

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40
).filter(lambda name: name != cpio.TRAILER)
words = st.integers(0, 0xFFFF_FFFF)
entries = st.lists(
    st.builds(
        cpio.Entry,
        name=names,
        mode=words,
        data=st.binary(max_size=100),
        device=st.tuples(words, words),
        uid=words,
        gid=words,
        mtime=words,
    ),
    max_size=8,
)


@settings(deadline=None)
@given(entries)
def test_what_is_written_is_read_back(wanted):
    """Every entry survives with all its fields."""
    assert cpio.read_archive(cpio.write_archive(wanted)) == wanted


@settings(deadline=None)
@given(entries, entries, st.integers(0, 4))
def test_archives_may_be_concatenated(first, second, gap):
    """Two archives with any zero padding between them read as one, as the kernel does it."""
    joined = cpio.write_archive(first) + bytes(4 * gap) + cpio.write_archive(second)
    assert cpio.read_archive(joined) == first + second


@settings(deadline=None)
@given(entries)
def test_an_archive_keeps_the_alignment(wanted):
    """The length is a multiple of four, so another archive can follow at once."""
    assert len(cpio.write_archive(wanted)) % 4 == 0


@settings(deadline=None)
@given(entries, st.data())
def test_a_cut_archive_is_refused(wanted, data):
    """Whatever is missing at the end, the reader says so instead of returning less."""
    archive = cpio.write_archive(wanted)
    end = data.draw(st.integers(0, len(archive) - 4))
    with pytest.raises(cpio.CpioError):
        cpio.read_archive(archive[:end])


def test_the_bytes_of_one_small_file():
    """The layout is the one of the kernel's buffer-format.rst, field by field."""
    archive = cpio.write_archive([cpio.regular_file("ab", b"xyz", 0o640)])
    assert archive[:120] == (
        b"070701"
        b"00000001" b"000081A0" b"00000000" b"00000000" b"00000001" b"00000000" b"00000003"
        b"00000000" b"00000000" b"00000000" b"00000000" b"00000003" b"00000000"
        b"ab\0" b"\0\0\0" b"xyz\0"
    )  # fmt: skip


def test_kinds_of_entries():
    """Each constructor sets the type bits, and what belongs to the type."""
    folder, link, node = (
        cpio.directory("d", 0o1777),
        cpio.symlink("l", "target"),
        cpio.character_device("c", 5, 1),
    )
    assert (stat.S_ISDIR(folder.mode), stat.S_IMODE(folder.mode)) == (True, 0o1777)
    assert (stat.S_ISLNK(link.mode), link.data) == (True, b"target")
    assert (stat.S_ISCHR(node.mode), node.device) == (True, (5, 1))


@pytest.mark.parametrize("name", ["", "a\0b"])
def test_a_name_that_the_format_cannot_hold_is_refused(name):
    """A name must not be empty and must not hold a NUL."""
    with pytest.raises(cpio.CpioError, match="no file name"):
        cpio.write_archive([cpio.regular_file(name, b"")])


def test_a_number_beyond_32_bits_is_refused():
    """A field has eight hexadecimal digits."""
    with pytest.raises(cpio.CpioError, match="32 bits"):
        cpio.write_archive([cpio.Entry("a", stat.S_IFREG, mtime=1 << 32)])


@settings(deadline=None)
@given(st.binary(max_size=200).filter(lambda text: b"\0" not in text))
def test_the_exec_overlay_holds_any_bytes(command):
    """A command arrives as it was on the command line, also bytes that are no UTF-8."""
    (entry,) = cpio.read_archive(exec_overlay(command.decode("utf-8", "surrogateescape")))
    assert (entry.name, entry.data) == ("etc/py-vmm/exec", command)


@pytest.mark.parametrize("command", ["a\0b", "x" * (MAX_COMMAND + 1)])
def test_a_command_that_cannot_be_an_argument_is_refused(command):
    """A NUL, or more than Linux takes as one argument, is an error on the host."""
    with pytest.raises(GuestAssetsError) as caught:
        exec_overlay(command)
    assert caught.value.cause is Cause.BAD_COMMAND
