"""Fixtures: a KVM to talk to, or a skip that says why there is none."""

from __future__ import annotations

import os
from mmap import mmap
from pathlib import Path

import pytest

from kvm_ioctls import Cap, Kvm, KvmUnavailable, Regs
from kvm_ioctls._descriptor import Descriptor


def pytest_configure(config):
    """The marks of these tests, for a run outside the repository."""
    config.addinivalue_line("markers", "kvm: needs a usable /dev/kvm")


@pytest.fixture(autouse=True)
def exercised(monkeypatch, request):
    """Notes in the JUnit file which of a test's requests a real KVM has answered, or a listener.

    `python3 -m tools.kvm_requests` makes the documentation's table of it.
    """
    answered, heard = set(), set()

    def watch(original):
        def method(self: Descriptor, name: str, *arguments: object) -> int:
            result = original(self, name, *arguments)
            try:
                where = str(Path(f"/proc/self/fd/{self.number}").readlink())
            except FileNotFoundError:  # closed meanwhile
                return result
            if result >= 0 and "kvm" in where:
                answered.add(name)
            elif result >= 0 and where == "/dev/null":
                heard.add(name)
            return result

        return method

    monkeypatch.setattr(Descriptor, "_call", watch(Descriptor._call))
    yield
    for kind, names in ("ioctls", answered), ("heard", heard):
        if names:
            request.node.user_properties.append((kind, " ".join(sorted(names))))


@pytest.fixture
def kvm():
    """An open /dev/kvm."""
    try:
        opened = Kvm()
    except KvmUnavailable as error:
        pytest.skip(str(error))
    with opened:
        yield opened


@pytest.fixture
def vm(kvm):
    """A machine with 64 KiB of memory at 0, in its attribute `memory`."""
    memory = mmap(-1, 0x10000)
    with kvm.create_vm() as made:
        made.set_user_memory_region(0, 0, memory)
        made.memory = memory
        yield made
    memory.close()


@pytest.fixture
def start(vm):
    """`start(hex, **regs)`: a vCPU about to execute the bytes at 0x1000 in real mode."""
    made = []

    def make(code: str, vcpu_id: int = 0, **regs: int):
        data = bytes.fromhex(code)
        vm.memory[0x1000 : 0x1000 + len(data)] = data
        vcpu = vm.create_vcpu(vcpu_id)
        made.append(vcpu)
        sregs = vcpu.get_sregs()
        sregs.cs.base = sregs.cs.selector = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(Regs(**{"rip": 0x1000, "rflags": 2} | regs))
        return vcpu

    yield make
    for vcpu in made:
        vcpu.close()


@pytest.fixture
def needs(kvm):
    """`needs(Cap.X)`: skips where this KVM lacks a capability."""

    def check(cap: Cap) -> None:
        if not kvm.check_extension(cap):
            pytest.skip(f"this KVM has no KVM_CAP_{cap.name}")

    return check


class Listener:
    """In place of ioctl(2): requests are written down and answered with `answers`."""

    def __init__(self) -> None:
        self.asked = []
        self.answers = {}

    def ioctl(self, _descriptor, request: int, argument, *_then) -> int:
        if isinstance(argument, int):
            self.asked.append((request, argument))
            return 0
        memory = memoryview(argument).cast("B")
        self.asked.append((request, bytes(memory)))
        return self.answers.get(request, lambda _: 0)(memory)


@pytest.fixture
def listener(monkeypatch):
    """What hears all requests."""
    made = Listener()
    monkeypatch.setattr("kvm_ioctls._run.ioctl", made.ioctl)
    return made


@pytest.fixture
def silent():
    """`silent(VmFd)`: an object of this class whose descriptor leads nowhere."""
    made = []

    def make(cls):
        it = cls.__new__(cls)
        it._fd = Descriptor(os.open("/dev/null", os.O_RDWR), cls.__name__)
        made.append(it._fd)
        return it

    yield make
    for descriptor in made:
        descriptor.close()
