"""The bus: who answers at an address, and what happens where nobody does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.bus import Bus, BusOverlap, BusRangeError


class Recorder:
    """A device that notes its accesses and reads as the offset."""

    def __init__(self):
        self.accesses = []

    def read(self, offset, data):
        self.accesses.append(("read", offset, len(data)))
        data[:] = bytes((offset + i) & 0xFF for i in range(len(data)))

    def write(self, offset, data):
        self.accesses.append(("write", offset, bytes(data)))


def read(bus, address, size):
    data = memoryview(bytearray(size))
    claimed = bus.read(address, data)
    return claimed, bytes(data)


def test_device_sees_offsets_from_its_base():
    """An access reaches the device with an address relative to its base."""
    bus, device = Bus("test"), Recorder()
    bus.insert(0x3F8, 8, device)
    assert read(bus, 0x3FD, 2) == (True, b"\x05\x06")
    assert bus.write(0x3F8, memoryview(b"ab"))
    assert device.accesses == [("read", 5, 2), ("write", 0, b"ab")]


@pytest.mark.parametrize("size", [0, 1, 2, 4, 8, 64])
def test_unclaimed_read_gives_ones(size):
    """Where nobody answers, every bit of a read is set, whatever its size."""
    assert read(Bus("test"), 0x1234, size) == (False, b"\xff" * size)


def test_unclaimed_write_vanishes():
    """Where nobody answers, a write reports that nobody took it."""
    assert not Bus("test").write(0, memoryview(b"x"))


@pytest.mark.parametrize(
    ("address", "size"), [(0x0E, 4), (0x17, 2), (0x0F, 10), (0x18, 1), (0x0F, 1)]
)
def test_access_across_an_edge_is_unclaimed(address, size):
    """An access that does not lie wholly in one device reaches none."""
    bus, device = Bus("test"), Recorder()
    bus.insert(0x10, 8, device)
    assert read(bus, address, size) == (False, b"\xff" * size)
    assert not bus.write(address, memoryview(bytes(size)))
    assert device.accesses == []


def test_access_across_two_devices_is_unclaimed():
    """Two neighbours do not share an access that crosses from one to the other."""
    bus = Bus("test")
    bus.insert(0, 4, Recorder())
    bus.insert(4, 4, Recorder())
    assert read(bus, 2, 4) == (False, b"\xff" * 4)


@pytest.mark.parametrize(("base", "size"), [(0x10, 8), (0x0C, 5), (0x17, 1), (0, 0x100), (0x12, 2)])
def test_overlap_is_refused(base, size):
    """A range that shares an address with another is refused, and the error names both."""
    bus, first = Bus("ports"), Recorder()
    bus.insert(0x10, 8, first)
    with pytest.raises(BusOverlap, match=r"ports: .* overlaps 0x10\.\.0x17") as caught:
        bus.insert(base, size, Recorder())
    assert (caught.value.base, caught.value.size) == (base, size)
    assert caught.value.existing == (0x10, 8, first)
    assert [entry.device for entry in bus] == [first]


@pytest.mark.parametrize(("base", "size"), [(0, 0), (0, -1), (-1, 1), (0xFFFF, 2), (0x10000, 1)])
def test_range_outside_the_bus_is_refused(base, size):
    """A range must be non-empty and lie inside the bus."""
    with pytest.raises(BusRangeError):
        Bus("ports", 0x10000).insert(base, size, Recorder())


def test_last_address_can_be_claimed():
    """A bus can be used to its last address."""
    bus, device = Bus("ports", 0x10000), Recorder()
    bus.insert(0xFFFF, 1, device)
    assert read(bus, 0xFFFF, 1)[0]
    assert not read(bus, 0xFFFF, 2)[0]


def test_removed_device_no_longer_answers():
    """After `remove` the range is free, and the device is handed back."""
    bus, device = Bus("test"), Recorder()
    bus.insert(0, 4, device)
    assert bus.remove(0) is device
    assert read(bus, 0, 1) == (False, b"\xff")
    bus.insert(0, 4, Recorder())


@pytest.mark.parametrize("base", [0, 1, 5, 100])
def test_remove_needs_the_base(base):
    """Only a device's base names it."""
    bus = Bus("test")
    bus.insert(4, 4, Recorder())
    with pytest.raises(BusRangeError):
        bus.remove(base)


ranges = st.tuples(st.integers(0, 60), st.integers(1, 12))


@given(st.lists(ranges, max_size=12), st.data())
def test_bus_agrees_with_a_table_of_addresses(wanted, data):
    """Inserting, removing and looking up agree with a plain table of who owns which address."""
    bus = Bus("test", 128)
    owner: dict[int, Recorder] = {}
    bases = {}
    for base, size in wanted:
        device = Recorder()
        if any(address in owner for address in range(base, base + size)):
            with pytest.raises(BusOverlap):
                bus.insert(base, size, device)
        else:
            bus.insert(base, size, device)
            bases[base] = size
            owner.update(dict.fromkeys(range(base, base + size), device))
    for base in data.draw(st.lists(st.sampled_from(sorted(bases)), unique=True)) if bases else []:
        bus.remove(base)
        for address in range(base, base + bases.pop(base)):
            del owner[address]
    assert [entry.base for entry in bus] == sorted(bases)
    for address in range(80):
        for size in (1, 2, 4):
            owners = {owner.get(a) for a in range(address, address + size)}
            assert read(bus, address, size)[0] == (len(owners) == 1 and owners != {None})
