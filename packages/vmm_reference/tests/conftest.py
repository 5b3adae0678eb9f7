"""Tiny guests, and a hypervisor that writes down what it is told."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

import pytest

from kvm_ioctls import CpuidEntry, LapicState, Sregs
from kvm_ioctls.exits import Hlt

if TYPE_CHECKING:
    from pathlib import Path

ENTRY = 0x100_0000


@pytest.fixture
def elf_kernel(tmp_path):
    """A function that writes machine code as the smallest 64-bit ELF kernel, loaded at 16 MiB."""

    def write(code: bytes) -> Path:
        ident = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
        header = struct.pack(
            "<16sHHIQQQIHHHHHH", ident, 2, 62, 1, ENTRY, 64, 0, 0, 64, 56, 1, 64, 0, 0
        )
        size = len(code)
        segment = struct.pack("<IIQQQQQQ", 1, 5, 120, ENTRY, ENTRY, size, max(size, 0x1000), 0x1000)
        path = tmp_path / "kernel.elf"
        path.write_bytes(header + segment + code)
        return path

    return write


class Recorder:
    """Calls of a set of objects, in order; every method that is not defined is recorded."""

    def __init__(self, calls):
        self.calls = calls

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((name, *arguments))


class FakeVcpu(Recorder):
    """A vCPU in reset state whose `run` gives what a test has put into `exits`."""

    def __init__(self, calls, index):
        super().__init__(calls)
        self.index = index
        self.exits = []

    def __getattr__(self, name):
        if name.startswith("_"):
            raise AttributeError(name)
        return lambda *arguments: self.calls.append((f"vcpu{self.index}.{name}", *arguments))

    def get_sregs(self):
        # CR0 after reset: CD, NW, ET (SDM vol. 3 table 9-1)
        return Sregs(cr0=0x6000_0010, apic_base=0xFEE0_0900)

    def get_lapic(self):
        lapic = LapicState()
        lapic.set(0x350, 0x10000)  # masked, as after reset
        lapic.set(0x360, 0x10000)
        return lapic

    def run(self):
        return self.exits.pop(0) if self.exits else Hlt()


class FakeVm(Recorder):
    """A virtual machine."""

    def __init__(self, calls):
        super().__init__(calls)
        self.vcpus = []

    def set_user_memory_region(self, slot, address, memory):
        size = None if memory is None else len(memory)
        self.calls.append(("set_user_memory_region", slot, address, size))

    def create_vcpu(self, index):
        self.calls.append(("create_vcpu", index))
        vcpu = FakeVcpu(self.calls, index)
        self.vcpus.append(vcpu)
        return vcpu


class FakeHypervisor(Recorder):
    """A hypervisor that has every capability except those in `lacks`, and two vCPUs."""

    def __init__(self, calls, lacks=()):
        super().__init__(calls)
        self.lacks = lacks
        self.vms = []

    def check_extension(self, cap):
        self.calls.append(("check_extension", int(cap)))
        return 0 if cap in self.lacks else 1

    def get_max_vcpus(self):
        return 2

    def get_supported_cpuid(self):
        self.calls.append(("get_supported_cpuid",))
        return [CpuidEntry(function=0, eax=0x1F), CpuidEntry(function=1)]

    def create_vm(self):
        self.calls.append(("create_vm",))
        self.vms.append(FakeVm(self.calls))
        return self.vms[-1]


@pytest.fixture
def calls():
    """What the fake hypervisor and its parts were told, in order."""
    return []


@pytest.fixture
def fake_hypervisor(calls):
    """A hypervisor that records."""
    return FakeHypervisor(calls)


@pytest.fixture
def make_fake_hypervisor(calls):
    """A function that makes a recording hypervisor without some capabilities."""
    return lambda *lacks: FakeHypervisor(calls, lacks)


@pytest.fixture
def fake_vcpu(calls):
    """A vCPU that records."""
    return FakeVcpu(calls, 0)


@pytest.fixture
def pipe():
    """A pipe: (reading end, writing end), closed in the end."""
    ends = os.pipe()
    yield ends
    for fd in ends:
        try:
            os.close(fd)
        except OSError:
            continue


@pytest.fixture
def kvm_device():
    """The path of /dev/kvm; skips where it cannot be used."""
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        pytest.skip("needs a usable /dev/kvm")
    return "/dev/kvm"
