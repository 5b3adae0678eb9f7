"""The cache: whole files or none, damage noticed, one worker at a time, clear errors."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vmm_reference.guest_assets.cache import Cache, default_root
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError


@pytest.fixture
def cache(tmp_path):
    """A cache with one manifest `m` of two files."""
    cache = Cache(tmp_path / "cache")
    files = {"a": cache.write("x/a", b"first"), "b": cache.write("b", b"second")}
    cache.save("m", {"version": "1"}, files)
    return cache


def test_a_manifest_is_read_back(cache):
    """Facts and files come back as they were saved."""
    manifest = cache.load("m")
    assert manifest is not None
    assert manifest.facts == {"version": "1"}
    assert manifest.files == {"a": cache.stamp("x/a"), "b": cache.stamp("b")}


def test_writing_replaces_in_one_step(cache):
    """A reader with the old file open keeps it, and nothing unfinished stays behind."""
    with (cache.root / "b").open("rb") as old:
        cache.write("b", b"third")
        assert old.read() == b"second"
    assert (cache.root / "b").read_bytes() == b"third"
    assert list(cache.root.glob(".new*")) == []


def test_a_missing_file_makes_the_manifest_void(cache):
    """All files of a manifest are there, or it does not count."""
    (cache.root / "b").unlink()
    assert cache.load("m") is None


@pytest.mark.parametrize("damage", [b"", b"secon", b"second!", b"sEcond"])
def test_damage_is_detected(cache, damage):
    """Another size or other bytes make the manifest void."""
    (cache.root / "b").write_bytes(damage)
    os.utime(cache.root / "b", ns=(1, 1))
    assert cache.load("m") is None


def test_damage_that_hides_its_time_is_found_by_thorough_loading(cache):
    """Size and time stand for the contents unless all is to be read."""
    target = cache.root / "b"
    times = target.stat()
    target.write_bytes(b"sEcond")
    os.utime(target, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert cache.load("m") is not None
    assert cache.load("m", thorough=True) is None


def test_a_copied_cache_is_read_once(cache, monkeypatch):
    """New times with the old contents are accepted after a look, and then remembered."""
    os.utime(cache.root / "b", ns=(5, 5))
    assert cache.load("m") is not None
    monkeypatch.setattr(Cache, "stamp", lambda *_: pytest.fail("read again"))
    assert cache.load("m") is not None


@settings(deadline=None)
@given(st.binary(max_size=80))
def test_a_manifest_of_any_bytes_is_void_or_empty(tmp_path_factory, contents):
    """A damaged manifest counts as none."""
    cache = Cache(tmp_path_factory.getbasetemp())
    (cache.root / "damaged").write_bytes(contents)
    manifest = cache.load("damaged")
    assert manifest is None or not manifest.files


def test_the_lock_admits_one_at_a_time(tmp_path):
    """The second run is told that it waits, and goes on when the first has left."""
    cache = Cache(tmp_path / "cache")
    order = []
    waits = threading.Event()

    def second():
        with cache.lock(waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with cache.lock():
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


@pytest.mark.parametrize(
    ("number", "cause", "text"),
    [
        (errno.ENOSPC, Cause.DISK_FULL, "is full; free 200 MB"),
        (errno.EDQUOT, Cause.DISK_FULL, "is full"),
        (errno.EACCES, Cause.CACHE_UNUSABLE, "Permission denied.*set XDG_CACHE_HOME"),
        (errno.EROFS, Cause.CACHE_UNUSABLE, "Read-only file system"),
    ],
)
def test_failures_of_the_file_system_are_one_sentence(tmp_path, monkeypatch, number, cause, text):
    """The cause and the way out, and no half-written file."""

    def fail(_path, _data):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(GuestAssetsError, match=text) as caught:
        Cache(tmp_path).write("file", b"data")
    assert caught.value.cause is cause
    assert list(tmp_path.iterdir()) == []


def test_sweeping_keeps_what_is_named(cache):
    """Other files and folders left empty go; the named ones stay."""
    cache.write("x/old/kernel", b"")
    cache.write("x/.new-1-kernel", b"")
    cache.sweep("x", ["x/a"])
    assert [path.name for path in (cache.root / "x").iterdir()] == ["a"]


def test_the_default_place_follows_the_xdg_specification(monkeypatch):
    """An absolute XDG_CACHE_HOME counts, a relative one is ignored."""
    monkeypatch.setenv("XDG_CACHE_HOME", "/some/where")
    assert default_root() == Path("/some/where/py-vmm")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", "/home/me")
    assert default_root() == Path("/home/me/.cache/py-vmm")
