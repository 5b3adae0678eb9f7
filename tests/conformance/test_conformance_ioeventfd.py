"""ioeventfd: writes that signal an eventfd instead of ending run()."""

from __future__ import annotations

import errno
import os

import guests
import pytest

from kvm_ioctls import Hlt, IoOut, KvmError, Mmio, MmioWrite, Pio

BASE = 0x80000


@pytest.fixture
def eventfd():
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    yield fd
    os.close(fd)


@pytest.fixture
def guest(machine):
    """Stores the words 1 and 2 at `BASE`, then OUTs them to port 0x40."""
    machine.real_mode(guests.IOEVENTS)
    machine.real_mode_segment("ds", BASE)
    return machine


def _exits(machine) -> list[tuple[int, bytes]]:
    """The exits up to HLT as (address or port, data)."""
    seen = []
    while not isinstance(exit_ := machine.run(), Hlt):
        match exit_:
            case MmioWrite(address, data):
                seen.append((address, bytes(data)))
            case IoOut(port, data=data):
                seen.append((port, bytes(data)))
            case other:
                pytest.fail(repr(other))
    return seen


ALL = [(BASE, b"\1\0"), (BASE, b"\2\0"), (0x40, b"\1\0"), (0x40, b"\2\0")]


def test_without_registration_every_write_is_an_exit(guest):
    """The guest of this file makes four exits."""
    assert _exits(guest) == ALL


@pytest.mark.parametrize("length", [0, 2])
def test_writes_to_a_port(guest, eventfd, length):
    """Each write to the port adds one to the eventfd, with any length or just the right one."""
    guest.vm.register_ioevent(eventfd, Pio(0x40), length)
    assert _exits(guest) == ALL[:2]
    assert os.eventfd_read(eventfd) == 2


@pytest.mark.parametrize("length", [0, 2])
def test_writes_to_memory(guest, eventfd, length):
    """The same for a guest physical address."""
    guest.vm.register_ioevent(eventfd, Mmio(BASE), length)
    assert _exits(guest) == ALL[2:]
    assert os.eventfd_read(eventfd) == 2


@pytest.mark.parametrize("address", [Pio(0x40), Mmio(BASE)], ids=["pio", "mmio"])
def test_a_match_takes_one_value(guest, eventfd, address):
    """With datamatch other values are exits as before."""
    guest.vm.register_ioevent(eventfd, address, 2, datamatch=2)
    assert _exits(guest) == [
        e for e in ALL if e[1] == b"\1\0" or (e[0] == BASE) != (address == Mmio(BASE))
    ]
    assert os.eventfd_read(eventfd) == 1


def test_two_values_two_eventfds(guest, eventfd):
    """One address can signal a different eventfd for each value."""
    other = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    guest.vm.register_ioevent(eventfd, Pio(0x40), 2, datamatch=1)
    guest.vm.register_ioevent(other, Pio(0x40), 2, datamatch=2)
    assert _exits(guest) == ALL[:2]
    assert (os.eventfd_read(eventfd), os.eventfd_read(other)) == (1, 1)
    os.close(other)


def test_another_length_is_an_exit(guest, eventfd):
    """A registration for 4 bytes leaves writes of 2 alone."""
    guest.vm.register_ioevent(eventfd, Pio(0x40), 4)
    assert _exits(guest) == ALL


def test_unregistered_writes_are_exits_again(guest, eventfd):
    """KVM_IOEVENTFD_FLAG_DEASSIGN ends it."""
    guest.vm.register_ioevent(eventfd, Pio(0x40), 2)
    guest.vm.unregister_ioevent(eventfd, Pio(0x40), 2)
    assert _exits(guest) == ALL


def test_an_eventfd_that_is_closed_still_swallows_the_write(guest):
    """The kernel holds its own reference."""
    fd = os.eventfd(0, os.EFD_CLOEXEC)
    guest.vm.register_ioevent(fd, Pio(0x40), 2)
    os.close(fd)
    assert _exits(guest) == ALL[:2]


@pytest.mark.parametrize(
    ("length", "datamatch", "code"), [(3, None, errno.EINVAL), (0, 1, errno.EINVAL)]
)
def test_refused_registrations(machine, eventfd, length, datamatch, code):
    """Lengths are 0, 1, 2, 4 and 8; a match needs a length."""
    with pytest.raises(KvmError) as caught:
        machine.vm.register_ioevent(eventfd, Pio(0x40), length, datamatch)
    assert caught.value.errno == code


def test_registering_twice_and_unregistering_nothing(machine, eventfd):
    """EEXIST and ENOENT."""
    machine.vm.register_ioevent(eventfd, Pio(0x40), 2)
    with pytest.raises(KvmError) as caught:
        machine.vm.register_ioevent(eventfd, Pio(0x40), 2)
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(KvmError) as caught:
        machine.vm.unregister_ioevent(eventfd, Pio(0x41), 2)
    assert caught.value.errno == errno.ENOENT


def test_not_an_eventfd(machine):
    """EBADF for no descriptor at all."""
    with pytest.raises(KvmError) as caught:
        machine.vm.register_ioevent(-1, Pio(0x40), 2)
    assert caught.value.errno == errno.EBADF
