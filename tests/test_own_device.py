"""The guide's device is run as it is printed, and holds what the guide says of any device."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtio_devices import Device, DriverViolation, Feature, MmioTransport, PciTransport
from virtio_devices.testing import (
    InterruptCounter,
    InterruptPin,
    Loop,
    MmioDriver,
    PackedDriver,
    PciDriver,
    bring_up,
)
from vm_memory import GuestMemory

GUIDE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "own-device.md"
PROGRAM, *SESSIONS = re.findall(
    r"^```python\n(.*?)^```", GUIDE.read_text(), re.DOTALL | re.MULTILINE
)
FORMATS = {"split": 0, "packed": int(Feature.RING_PACKED)}
LOUD = 1


def names():
    """What the program defines."""
    defined = {"__name__": "own_device"}
    exec(compile(PROGRAM, GUIDE.name, "exec"), defined)  # noqa: S102 - it is the subject
    return defined


@pytest.fixture
def memory():
    with GuestMemory.from_ranges([(0, 0x40000)]) as memory:
        yield memory


class Slot:
    """The device behind one transport, and its driver."""

    def __init__(self, bus, memory):
        self.memory = memory
        self.loop = Loop()
        self.interrupt = InterruptCounter()
        self.device: Device = names()["Greeter"](b"Hello")
        if bus == "mmio":
            self.transport = MmioTransport(self.device, memory, self.interrupt, kick=self.loop.kick)
            self.driver = MmioDriver(self.transport)
        else:
            self.transport = PciTransport(
                self.device, memory, vectors=[], line=InterruptPin(), kick=self.loop.kick
            )
            self.driver = PciDriver(self.transport)

    def start(self, wanted):
        [self.queue] = bring_up(self.driver, self.memory, wanted=int(wanted))

    def ask(self, *readable, room=64, indirect=False):
        """The answer to one request, None if the device has failed."""
        self.queue.add(readable, [room], indirect=indirect)
        if self.queue.needs_kick():
            self.driver.notify(0)
        self.loop.run(self.transport)
        used = self.queue.collect()
        return used[0].data if used else None


@pytest.fixture(params=["mmio", "pci"])
def slot(request, memory):
    return Slot(request.param, memory)


def test_the_guide_is_what_happens():
    """Every session, one after another, with what the program defines."""
    test = doctest.DocTestParser().get_doctest(
        "\n".join(SESSIONS), names(), GUIDE.stem, str(GUIDE), 0
    )
    outcome = doctest.DocTestRunner().run(test)
    assert outcome.failed == 0
    assert outcome.attempted > 30


def test_the_device_is_as_small_as_promised():
    """Under sixty lines, imports and all."""
    assert len([line for line in PROGRAM.splitlines() if line.strip()]) < 60


@pytest.mark.parametrize("rings", FORMATS)
@pytest.mark.parametrize("event_idx", [0, int(Feature.EVENT_IDX)], ids=["flags", "event idx"])
def test_requests_of_any_form_are_answered(slot, rings, event_idx):
    """In one buffer or many, through a table or not, for several laps of the ring."""
    slot.start(FORMATS[rings] | event_idx | int(Feature.INDIRECT_DESC))
    for number in range(100):
        pieces = [b"%d" % digit for digit in range(number % 5)]
        expected = b"Hello, " + b"".join(pieces) + b"!"
        assert slot.ask(*pieces, indirect=bool(number & 1)) == expected


def test_the_index_of_a_split_ring_wraps(slot):
    """It has 16 bits, and the 65537th request is like the first."""
    slot.start(0)
    for _ in range(0x10000 // 8 + 1):
        for _ in range(8):
            slot.queue.add([b""], [8])
        slot.driver.notify(0)
        slot.loop.run(slot.transport)
        assert [used.data for used in slot.queue.collect()] == [b"Hello, !"] * 8


def test_features_and_configuration_end_with_a_reset(slot):
    """What one driver chose is not the next one's."""
    slot.start(LOUD)
    slot.driver.write_config(1, b".")
    slot.driver.write_config(0, b"xx")  # no field
    assert slot.ask(b"Ada") == b"HELLO, ADA."
    slot.start(0)
    assert slot.driver.read_config(0, 2) == b"\x05!"
    assert slot.ask(b"Ada") == b"Hello, Ada!"


@pytest.mark.parametrize("rings", FORMATS)
@settings(max_examples=100, deadline=None)
@given(
    where=st.lists(st.tuples(st.integers(0, 0x180), st.binary(max_size=16)), max_size=8),
    asked=st.integers(0, 3),
)
def test_a_guest_that_writes_anything_does_no_harm(rings, where, asked):
    """Declared errors alone, and the device works after the next reset."""
    with GuestMemory.from_ranges([(0, 0x40000)]) as memory:
        slot = Slot("mmio", memory)
        slot.start(FORMATS[rings] | int(Feature.INDIRECT_DESC))
        for _ in range(asked):
            slot.queue.add([b"Ada"], [64])
        for offset, data in where:
            memory.write(slot.queue.layout.areas[0] + offset, data)
        slot.driver.notify(0)
        slot.loop.run(slot.transport)
        assert isinstance(slot.transport.failure, DriverViolation | None)
        slot.start(FORMATS[rings])
        assert isinstance(slot.queue, PackedDriver) == (rings == "packed")
        assert slot.ask(b"Ada") == b"Hello, Ada!"
