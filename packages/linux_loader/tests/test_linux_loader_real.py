"""One real kernel: the host's own, or the one that PY_VMM_TEST_KERNEL names."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from linux_loader import MissingDecompressor, bzimage, extract_vmlinux, load_kernel
from vm_memory import GuestMemory

MIB = 1 << 20


def find_kernel() -> Path | None:
    """The newest readable kernel of the host, else the one of the environment."""
    installed = [path for path in Path("/boot").glob("vmlinuz-*") if os.access(path, os.R_OK)]
    named = os.environ.get("PY_VMM_TEST_KERNEL")
    candidates = [*sorted(installed, key=lambda path: path.stat().st_mtime)[-1:]]
    candidates += [Path(named)] if named else []
    return candidates[0] if candidates else None


@pytest.fixture(scope="module")
def vmlinuz():
    path = find_kernel()
    if path is None:
        pytest.skip("no readable /boot/vmlinuz-*, and PY_VMM_TEST_KERNEL is not set")
    return path


@pytest.fixture
def memory():
    with GuestMemory.from_ranges([(0, 256 * MIB)]) as memory:
        yield memory


def test_a_stock_bzimage_loads_where_it_prefers(memory, vmlinuz):
    """A distribution's kernel is relocatable, has a 64-bit entry and a version string."""
    kernel = load_kernel(memory, vmlinuz)
    assert kernel.start == 16 * MIB
    assert kernel.entry == 16 * MIB + 0x200
    assert kernel.end - kernel.start > vmlinuz.stat().st_size
    assert kernel.initrd_addr_max == 0x7FFF_FFFF
    assert kernel.cmdline_max == 2047
    assert bzimage.kernel_version(vmlinuz)[0].isdigit()


def test_a_stock_vmlinuz_unpacks_and_its_vmlinux_loads(memory, vmlinuz):
    """The ELF inside loads at the same address, with a PVH entry inside of it."""
    try:
        vmlinux = extract_vmlinux(vmlinuz)
    except MissingDecompressor as error:
        pytest.skip(f"{error.compression} is not installed")
    kernel = load_kernel(memory, vmlinux)
    assert kernel.start == kernel.entry == 16 * MIB
    assert kernel.start <= kernel.pvh_entry < kernel.end
    assert kernel.end <= load_kernel(memory, vmlinuz).end
