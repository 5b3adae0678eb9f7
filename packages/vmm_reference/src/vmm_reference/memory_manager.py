"""Guest memory and the slots through which the hypervisor sees it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from vm_memory import GuestMemory, MappingFailed
from vmm_reference.arch.x86_64 import layout
from vmm_reference.errors import HostError, OptionError
from vmm_reference.options import format_size

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Vm
    from vmm_reference.config import MemoryConfig


class MemoryManager:
    """The memory of one virtual machine: the regions around the gap, one slot for each.

    Attributes:
        memory: the regions, at their guest physical addresses.
        below_gap: bytes below 4 GiB.
        above_gap: bytes from 4 GiB on.

    Raises:
        OptionError: more memory than this host has.
        HostError: the host would not map it.
    """

    def __init__(self, config: MemoryConfig) -> None:
        refuse_beyond_host(config)
        ranges = layout.memory_ranges(config.size)
        try:
            self.memory = GuestMemory.from_ranges(ranges, huge_pages_advice=True)
        except MappingFailed as error:
            raise HostError(f"--memory {config}: {error}") from error
        self.below_gap = ranges[0][1]
        self.above_gap = config.size - self.below_gap

    def register(self, vm: Vm) -> None:
        """Give every region to the hypervisor; slots are numbered from 0."""
        for slot, region in enumerate(self.memory.regions):
            vm.set_user_memory_region(slot, region.start_addr, region.slot_memory)

    def close(self) -> None:
        """Unmap the memory; the virtual machine must be closed by now."""
        self.memory.close()


def refuse_beyond_host(config: MemoryConfig) -> None:
    """Refuse more memory than the host has: the guest would be killed when it uses it.

    Raises:
        OptionError: `config` asks for more than the host's physical memory.
    """
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if config.size > host:
        rounded = format_size(host >> 20 << 20)
        raise OptionError("--memory", str(config), f"this host has no more than {rounded}")
