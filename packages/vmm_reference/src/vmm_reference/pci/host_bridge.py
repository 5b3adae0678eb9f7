"""The host bridge: the function in slot 0 that says that there is a bus, and does nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from virtio_devices import ConfigurationSpace, PciIdentity

if TYPE_CHECKING:
    from vmm_reference.bus import Device

# The host bridge that cloud-hypervisor and Firecracker show: no driver wants it.
_IDENTITY = PciIdentity(0x8086, 0x0D57, 0x060000)


class HostBridge:
    """A `PciFunction` without memory."""

    def __init__(self) -> None:
        self._space = ConfigurationSpace(_IDENTITY)
        self.read_config = self._space.read
        self.write_config = self._space.write

    def memory_ranges(self) -> dict[int, tuple[int, int]]:
        """None."""
        return {}

    def bar(self, index: int) -> Device:
        """There is none; raises KeyError."""
        raise KeyError(index)

    def placed(self, index: int, base: int | None) -> None:
        """Never called."""
