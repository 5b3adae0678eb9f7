"""GuestMemoryAtomic: readers keep a consistent map while writers take turns."""

from __future__ import annotations

import threading

import pytest

from vm_memory import GuestMemory, GuestMemoryAtomic, GuestRegion


@pytest.fixture
def place():
    """One region at 0, whose map is to be replaced."""
    return GuestMemoryAtomic(GuestMemory.from_ranges([(0, 0x1000)]))


def test_readers_keep_their_map(place):
    """A snapshot does not change when the map is replaced; a later one is the new map."""
    before = place.memory()
    with place.lock() as guard:
        assert guard.memory is before
        guard.replace(guard.memory.insert(GuestRegion.anonymous(0x1000, 0x1000)))
        assert guard.memory is place.memory()
    assert not before.check_range(0x1000, 1)
    assert place.memory().check_range(0x1000, 1)


def test_a_removed_region_lives_as_long_as_a_reader(place):
    """The memory is there until the last map with it is gone, and then it is unmapped."""
    reader = place.memory()
    with place.lock() as guard:
        smaller, _removed = guard.memory.remove(0, 0x1000)
        guard.replace(smaller)
    del _removed
    reader.write(0, b"still here")
    assert reader.read(0, 10) == b"still here"
    address = reader.regions[0].host_address
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a path of ours
        assert f"{address:x}-" in maps.read()
    del reader, guard
    with open("/proc/self/maps") as maps:  # noqa: PTH123 - not a path of ours
        assert f"{address:x}-" not in maps.read()


def test_closing_a_removed_region_makes_a_readers_access_an_error(place):
    """Never a crash."""
    reader = place.memory()
    with place.lock() as guard:
        smaller, removed = guard.memory.remove(0, 0x1000)
        guard.replace(smaller)
    removed.close()
    with pytest.raises(ValueError, match="<GuestRegion 0x0-0xfff> is closed"):
        reader.read(0, 1)


def test_a_guard_ends_with_its_block(place):
    """Also by an exception, after which the next writer gets its turn."""
    guard = place.lock()
    with pytest.raises(RuntimeError, match="inside the guard's with block only"):
        guard.replace(GuestMemory())
    with pytest.raises(ZeroDivisionError), guard:
        raise ZeroDivisionError
    with pytest.raises(RuntimeError):
        guard.replace(GuestMemory())
    with place.lock() as other:
        other.replace(GuestMemory())
    assert place.memory().regions == ()


def test_writers_take_turns_under_readers(place):
    """Four writers insert 50 regions each; none is lost, and no reader meets half a map."""
    torn = []
    running = True

    def write(number):
        for step in range(50):
            start = 0x1000 * (1 + 50 * number + step)
            with place.lock() as guard:
                guard.replace(guard.memory.insert(GuestRegion.anonymous(start, 0x1000)))

    def read():
        while running:
            memory = place.memory()
            if len(memory.regions) * 0x1000 != sum(region.size for region in memory.regions):
                torn.append(memory)

    reader = threading.Thread(target=read)
    reader.start()
    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    running = False
    reader.join()
    assert torn == []
    assert len(place.memory().regions) == 201
    assert place.memory().check_range(0, 201 * 0x1000)
