"""A virtio device in a PCI slot: its registers, and where its queues are kicked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvm_ioctls import KvmError, Mmio
from virtio_devices import PciTransport
from vmm_reference.virtio_work import VirtioWork

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kvm_ioctls.protocols import Vm
    from virtio_devices import Device, InterruptLine, MsiVector, VirtioError
    from vm_memory import GuestMemory
    from vmm_reference.event_loop import EventLoop

logger = logging.getLogger(__name__)


class VirtioFunction:
    """A `PciFunction` that is a virtio device; it works on the event loop.

    Args:
        device: the device.
        memory: the guest's memory.
        vm: where ioeventfds are registered.
        loop: on which the device works.
        vectors: for MSI-X.
        line: the pin INTA#.

    Attributes:
        transport: the function's registers.
    """

    def __init__(
        self,
        device: Device,
        memory: GuestMemory,
        vm: Vm,
        loop: EventLoop,
        *,
        vectors: Sequence[MsiVector],
        line: InterruptLine,
    ) -> None:
        self._vm = vm
        self._work = VirtioWork(loop, len(device.queue_sizes))
        self._listening: dict[int, int] = {}  # address of each ioeventfd
        try:
            self.transport = PciTransport(
                device, memory, vectors=vectors, line=line, kick=self._work.kick, report=_report
            )
            self._work.start(self.transport)
        except BaseException:
            self._work.close()
            raise
        self.read_config = self.transport.read_config
        self.write_config = self.transport.write_config
        self.memory_ranges = self.transport.memory_ranges
        self.read = self.transport.read

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the guest wrote into the registers."""
        before = self.transport.status
        self.transport.write(offset, data)
        if self.transport.status != before:
            self._work.reconsider()

    def bar(self, index: int) -> VirtioFunction:  # noqa: ARG002 - there is one
        """The registers."""
        return self

    def placed(self, index: int, base: int | None) -> None:  # noqa: ARG002 - there is one
        """Let the ioeventfds follow the registers."""
        for fd, address in self._listening.items():
            self._vm.unregister_ioevent(fd, Mmio(address))
        self._listening.clear()
        if base is None:
            return
        for queue, fd in enumerate(self._work.kicks):
            address = base + PciTransport.notify_offset(queue)
            try:
                self._vm.register_ioevent(fd, Mmio(address))
            except KvmError as error:  # there are too many; the write is an exit then
                logger.debug("queue %d has no ioeventfd: %s", queue, error)
            else:
                self._listening[fd] = address

    def close(self) -> None:
        """Reset the device and let go of everything; it is on no bus by now. May come again."""
        self._work.stop()  # before the device may close what the loop waits for
        self.transport.reset()
        self._work.close()


def _report(error: VirtioError) -> None:
    """A guest decides how often, so nothing above debugging hears of it."""
    logger.debug("%s", error)
