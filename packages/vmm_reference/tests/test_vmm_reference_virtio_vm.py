"""A whole machine with a device: a guest of ours drives it through registers, kick and interrupt.

The guest is a table of register writes, a kick, and two loops that wait: for the used ring, and
for the interrupt controller to show the line. It prints what the device gave it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Interface
from pathlib import Path

import pytest

from vmm_reference import HostIo, HypervisorChoice, MemoryConfig, PayloadConfig, Vm, VmConfig
from vmm_reference.virtio_config import DiskConfig, NetConfig, VirtioTransport

ENTRY = 0x100_0000  # where conftest's `elf_kernel` is loaded
TABLE, RINGS, DATA, PAGE_DIRECTORY = (ENTRY + offset for offset in (0x200, 0x400, 0x800, 0x1000))
USED, HEADER, OTHER_RINGS = RINGS + 0x200, RINGS + 0x300, RINGS + 0x800
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


def register_writes(rings, kick):
    """(address, value) of what a driver writes to start a device with these queues (§3.1.1)."""
    writes = [(0x070, 0), (0x070, 1), (0x070, 3), (0x024, 1), (0x020, 1), (0x070, 11)]
    for index, base in enumerate(rings):
        writes += [(0x030, index), (0x038, QUEUE_SIZE)]
        for register, offset in ((0x080, 0), (0x090, 0x100), (0x0A0, 0x200)):
            writes += [(register, base + offset), (register + 4, 0)]
        writes.append((0x044, 1))
    writes += [(0x070, 15), (0x050, kick)]
    return [(REGISTERS + register, value) for register, value in writes]


def guest_image(kick, chains, contents):
    """The program with its table, and one chain in each of its queues.

    Args:
        kick: the queue that is kicked.
        chains: by the place of a queue's rings, its descriptors (address, size, flags, next), and
            the flags of its available ring.
        contents: what else is in memory, by its address.
    """
    image = bytearray(0x2000)
    image[: len(CODE)] = CODE
    table = b"".join(struct.pack("<II", *write) for write in register_writes(chains, kick))
    parts = {TABLE: table, **contents}
    for base, (descriptors, flags) in chains.items():
        parts[base] = b"".join(struct.pack("<QIHH", *each) for each in descriptors)
        parts[base + 0x100] = struct.pack("<3H", flags, 1, 0)
    parts[PAGE_DIRECTORY + 8 * (REGISTERS >> 21 & 511)] = struct.pack("<Q", 0xFEC0_0083)
    for address, content in parts.items():
        image[address - ENTRY : address - ENTRY + len(content)] = content
    return bytes(image)


def disk_reader(kind, sector, size):
    """A guest that makes one request of a disk."""
    status = DATA + size
    chain = [(HEADER, 16, 1, 1), (DATA, size, 3, 2), (status, 1, 2, 0)]
    header = struct.pack("<IIQ", kind, 0, sector)
    return guest_image(0, {RINGS: (chain, 0)}, {HEADER: header, status: b"\xff"})


def frame_sender(frame):
    """A guest that sends a frame, without wanting to hear of it, and waits for another one."""
    sent = bytes(12) + frame
    chains = {
        RINGS: ([(DATA, 0x200, 2, 0)], 0),
        OTHER_RINGS: ([(HEADER, len(sent), 0, 0)], 1),
    }
    return guest_image(1, chains, {HEADER: sent})


@pytest.fixture(params=["soft", "kvm"])
def choice(request):
    """Each hypervisor; this host's KVM must only be able to run a few simple instructions."""
    if request.param == "kvm":
        request.getfixturevalue("kvm_device")
    return HypervisorChoice(request.param)


@pytest.fixture
def run_image(elf_kernel, choice):
    """A function that runs a guest with devices and returns what it printed."""

    def run(image, **devices):
        output = bytearray()
        config = VmConfig(
            payload=PayloadConfig(kernel=elf_kernel(image)),
            memory=MemoryConfig(64 << 20),
            hypervisor=choice,
            virtio_transport=VirtioTransport.MMIO,
            **devices,
        )
        with Vm(config, io=HostIo(stdin=None, console=output.extend)) as vm:
            vm.boot()
            assert vm.wait(20_000_000_000) is not None
        return bytes(output)

    return run


@pytest.fixture
def run(run_image):
    """A function that runs the guest on a disk and returns what it printed."""
    image = disk_reader(0, 3, 512)
    return lambda path, **options: run_image(image, disks=(DiskConfig(path, **options),))


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


GUEST_MAC, HOST_MAC = bytes.fromhex("020000000001"), bytes.fromhex("020000000002")
ARP = bytes.fromhex("0001 0800 06 04")  # Ethernet, IPv4, the sizes of their addresses (RFC 826)
HOST, GUEST = bytes([10, 1, 2, 3]), bytes([10, 1, 2, 4])


def enter_namespace():
    """Leave this machine's network for one without IPv6, whose kernel says nothing unasked."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(0x40000000):
        raise OSError(ctypes.get_errno(), "unshare")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a network namespace")
def test_a_guest_and_its_host_exchange_frames(run_image):
    """A question by ioeventfd, the answer by the TAP interface's own readiness and an irqfd."""
    question = ARP + b"\0\1" + GUEST_MAC + GUEST + bytes(6) + HOST
    image = frame_sender(b"\xff" * 6 + GUEST_MAC + b"\x08\x06" + question)
    card = NetConfig(tap="arp", mac=GUEST_MAC, host_mac=HOST_MAC, ip=IPv4Interface("10.1.2.3/24"))
    with ThreadPoolExecutor(1, initializer=enter_namespace) as inside:
        printed = inside.submit(run_image, image, nets=(card,)).result()
    answer = ARP + b"\0\2" + HOST_MAC + HOST + GUEST_MAC + GUEST
    header, frame = printed[:12], printed[12:54]
    assert header == bytes(10) + b"\1\0"
    assert frame == GUEST_MAC + HOST_MAC + b"\x08\x06" + answer
