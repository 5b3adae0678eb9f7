"""Reading Debian packages: every compression, nothing unsafe, no damage unnoticed."""

from __future__ import annotations

import contextlib
import io
import shutil
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm_reference.guest_assets import deb
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

FILES = {"./boot/vmlinuz-1": b"kernel" * 1000, "./usr/bin/busybox": b"\x7fELF"}


def tar(files, mode):
    """A tar archive of `files` as bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=f"w:{mode}") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            info.mode = 0o755
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def package_of(*members):
    """An ar archive of (name, data) pairs."""
    parts = [b"!<arch>\n"]
    for name, data in members:
        parts.append(b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (name, 0, 0, 0, b"100644", len(data)))
        parts.append(data + b"\n" * (len(data) % 2))
    return b"".join(parts)


def debian_package(files=FILES, suffix=b".xz", mode="xz"):
    """The bytes of a package that holds `files`."""
    return package_of(
        (b"debian-binary", b"2.0\n"),
        (b"control.tar.xz", b"odd"),
        (b"data.tar" + suffix, tar(files, mode)),
    )


def read(tmp_path, contents, wanted=lambda _: True):
    path = tmp_path / "some.deb"
    path.write_bytes(contents)
    return deb.read_members(path, wanted)


@pytest.mark.parametrize(
    ("suffix", "mode"), [(b"", ""), (b".xz", "xz"), (b".gz", "gz"), (b".bz2", "bz2")]
)
def test_every_compression_of_the_standard_library(tmp_path, suffix, mode):
    """A package reads the same however its data are compressed."""
    members = read(tmp_path, debian_package(suffix=suffix, mode=mode))
    assert [(member.path, member.data, member.permissions) for member in members] == [
        ("boot/vmlinuz-1", FILES["./boot/vmlinuz-1"], 0o755),
        ("usr/bin/busybox", FILES["./usr/bin/busybox"], 0o755),
    ]


def test_only_what_is_wanted_is_read(tmp_path):
    """The predicate sees paths without a leading dot."""
    members = read(tmp_path, debian_package(), {"usr/bin/busybox"}.__contains__)
    assert [member.path for member in members] == ["usr/bin/busybox"]


def test_zstd_without_a_module_or_dpkg_says_what_to_install(tmp_path, monkeypatch):
    """When nothing can unpack a package, the error names the remedy."""
    monkeypatch.setattr(deb, "find_zstd", lambda: None)
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    with pytest.raises(GuestAssetsError, match=r"compressed as zst.*backports\.zstd"):
        read(tmp_path, package_of((b"data.tar.zst", b"anything")))


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="no dpkg-deb on this machine")
def test_damaged_zstd_is_reported_by_dpkg(tmp_path, monkeypatch):
    """Without a module dpkg-deb unpacks; what it refuses is a bad package."""
    monkeypatch.setattr(deb, "find_zstd", lambda: None)
    with pytest.raises(GuestAssetsError) as caught:
        read(tmp_path, package_of((b"debian-binary", b"2.0\n"), (b"data.tar.zst", b"anything")))
    assert caught.value.cause is Cause.BAD_PACKAGE


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "./a/../../b"])
def test_a_path_that_leaves_the_root_is_refused(tmp_path, name):
    """An absolute path or one with `..` makes the whole package bad."""
    with pytest.raises(GuestAssetsError, match="unsafe path"):
        read(tmp_path, debian_package({name: b""}))


@pytest.mark.parametrize(
    "contents",
    [b"", b"not a package", package_of(), package_of((b"control.tar.xz", b"")), b"!<arch>\nshort"],
)
def test_what_is_no_package_is_refused(tmp_path, contents):
    """Foreign, empty and headless files are bad packages, not tracebacks."""
    with pytest.raises(GuestAssetsError) as caught:
        read(tmp_path, contents)
    assert caught.value.cause is Cause.BAD_PACKAGE


@pytest.mark.parametrize(("suffix", "mode"), [(b".xz", "xz"), (b".gz", "gz"), (b"", "")])
@settings(deadline=None)
@given(data=st.data())
def test_a_cut_package_is_refused(tmp_path_factory, suffix, mode, data):
    """A download that ended early never passes for a smaller package."""
    whole = debian_package(suffix=suffix, mode=mode).rstrip(b"\n")
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(GuestAssetsError) as caught:
        read(tmp_path_factory.getbasetemp(), whole[:end])
    assert caught.value.cause is Cause.BAD_PACKAGE


@settings(deadline=None)
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_damaged_package_never_ends_in_a_traceback(tmp_path_factory, position, value):
    """Any single changed byte gives the files, other files, or one typed error."""
    contents = bytearray(debian_package(suffix=b".gz", mode="gz"))
    contents[position % len(contents)] = value
    with contextlib.suppress(GuestAssetsError):
        read(tmp_path_factory.getbasetemp(), bytes(contents))
