"""A whole machine with a disk: a guest of ours drives it through registers, kick and interrupt.

The guest is a table of register writes, a kick, and two loops that wait: for the used ring, and
for the interrupt controller to show the line. It prints what the disk gave it.
"""

from __future__ import annotations

import os
import struct

import pytest

from vmm_reference import HostIo, HypervisorChoice, MemoryConfig, PayloadConfig, Vm, VmConfig
from vmm_reference.virtio_config import DiskConfig, VirtioTransport

ENTRY = 0x100_0000  # where conftest's `elf_kernel` is loaded
TABLE, RINGS, DATA, PAGE_DIRECTORY = (ENTRY + offset for offset in (0x200, 0x400, 0x800, 0x1000))
AVAILABLE, USED, HEADER = RINGS + 0x100, RINGS + 0x200, RINGS + 0x300
REGISTERS = 0xFED0_0000  # the first virtio-mmio device's
LINE = 5  # and its interrupt line
PDPT_ENTRY = 0xA000 + 8 * 3  # arch.x86_64.layout.PDPT_START: the fourth GiB
QUEUE_SIZE = 4

CODE = b"".join(
    [
        bytes.fromhex("48c70425") + struct.pack("<II", PDPT_ENTRY, PAGE_DIRECTORY | 3),
        b"\xbe" + struct.pack("<I", TABLE),  # mov $TABLE, %esi
        bytes.fromhex("ad 85c0 7407"),  # 1: lodsd; test %eax, %eax; jz 2f
        bytes.fromhex("89c7 ad 8907 ebf4"),  # mov %eax, %edi; lodsd; mov %eax, (%rdi); jmp 1b
        bytes.fromhex("66833c25") + struct.pack("<IB", USED + 2, 1),  # 2: cmpw $1, USED + 2
        bytes.fromhex("75f5"),  # jne 2b
        bytes.fromhex("e420 a8") + bytes([1 << LINE]),  # 3: in $0x20, %al; test $LINE, %al
        bytes.fromhex("74fa"),  # jz 3b: the 8259 shows its requests, masked or not
        b"\xbe" + struct.pack("<I", DATA),  # mov $DATA, %esi
        b"\xb9" + struct.pack("<I", 513),  # mov $513, %ecx: a sector and the status
        bytes.fromhex("baf8030000 f36e"),  # mov $0x3f8, %edx; rep outsb
        bytes.fromhex("ba00060000 b034 ee f4"),  # power off
    ]
)


def register_writes():
    """(address, value) of what a driver writes to start a device with one queue (§3.1.1)."""
    writes = [(0x070, 0), (0x070, 1), (0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)]
    writes += [(0x030, 0), (0x038, QUEUE_SIZE)]
    for register, address in ((0x080, RINGS), (0x090, AVAILABLE), (0x0A0, USED)):
        writes += [(register, address), (register + 4, 0)]
    writes += [(0x044, 1), (0x070, 15), (0x050, 0)]
    return [(REGISTERS + register, value) for register, value in writes]


def guest_image(kind, sector, size):
    """The program with its table, and one request in its rings."""
    image = bytearray(0x2000)
    image[: len(CODE)] = CODE
    table = b"".join(struct.pack("<II", *write) for write in register_writes())
    descriptors = b"".join(
        struct.pack("<QIHH", *descriptor)
        for descriptor in ((HEADER, 16, 1, 1), (DATA, size, 3, 2), (DATA + size, 1, 2, 0))
    )
    for address, content in (
        (TABLE, table),
        (RINGS, descriptors),
        (AVAILABLE, struct.pack("<3H", 0, 1, 0)),
        (HEADER, struct.pack("<IIQ", kind, 0, sector)),
        (DATA + size, b"\xff"),  # no status yet
        (PAGE_DIRECTORY + 8 * (REGISTERS >> 21 & 511), struct.pack("<Q", 0xFEC0_0083)),
    ):
        image[address - ENTRY : address - ENTRY + len(content)] = content
    return bytes(image)


@pytest.fixture(params=["soft", "kvm"])
def choice(request):
    """Each hypervisor; this host's KVM must only be able to run a few simple instructions."""
    if request.param == "kvm":
        request.getfixturevalue("kvm_device")
    return HypervisorChoice(request.param)


@pytest.fixture
def run(elf_kernel, choice):
    """A function that runs the guest on a disk and returns what it printed."""

    def run_guest(path, **options):
        output = bytearray()
        config = VmConfig(
            payload=PayloadConfig(kernel=elf_kernel(guest_image(0, 3, 512))),
            memory=MemoryConfig(64 << 20),
            hypervisor=choice,
            disks=(DiskConfig(path, **options),),
            virtio_transport=VirtioTransport.MMIO,
        )
        with Vm(config, io=HostIo(stdin=None, console=output.extend)) as vm:
            vm.boot()
            assert vm.wait(20_000_000_000) is not None
        return bytes(output)

    return run_guest


@pytest.mark.parametrize("direct", [False, True])
def test_a_guest_reads_its_disk(run, tmp_path, direct):
    """Kick in by ioeventfd, data by the device's thread, interrupt out by irqfd."""
    path = tmp_path / "disk"
    path.write_bytes(b"".join(bytes([sector]) * 512 for sector in range(8)))
    if direct:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
        except OSError as error:
            pytest.skip(f"no O_DIRECT here: {error}")
    assert run(path, direct=direct, readonly=True) == b"\3" * 512 + b"\0"


def test_two_machines_share_no_writable_disk(run, tmp_path):
    """After a machine has ended its disk is free for the next."""
    path = tmp_path / "disk"
    path.write_bytes(bytes(4096))
    assert run(path) == bytes(513)
    assert run(path) == bytes(513)
