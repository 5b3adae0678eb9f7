"""A virtio device in a PCI slot: its registers, and where its queues are kicked."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from kvm_ioctls import KvmError, Mmio
from virtio_devices import PciTransport

if TYPE_CHECKING:
    from kvm_ioctls.protocols import Vm
    from vmm_reference.virtio.worker import VirtioWorker

logger = logging.getLogger(__name__)


class VirtioFunction:
    """A `PciFunction` that is a virtio device.

    Args:
        transport: the function's registers.
        worker: runs the device from now on.
        vm: where ioeventfds are registered.

    Attributes:
        transport: the function's registers.
    """

    def __init__(self, transport: PciTransport, worker: VirtioWorker, vm: Vm) -> None:
        self.transport = transport
        self._worker = worker
        self._vm = vm
        self._listening: dict[int, int] = {}  # address of each ioeventfd
        worker.start(transport.process_queue)
        self.read_config = self.transport.read_config
        self.write_config = self.transport.write_config
        self.memory_ranges = self.transport.memory_ranges
        self.read = self.transport.read

    def write(self, offset: int, data: memoryview) -> None:
        """Take what the guest wrote into the registers."""
        self.transport.write(offset, data)
        self._worker.look_again()

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
        for queue, fd in enumerate(self._worker.kicks):
            address = base + PciTransport.notify_offset(queue)
            try:
                self._vm.register_ioevent(fd, Mmio(address))
            except KvmError as error:  # there are too many; the write is an exit then
                logger.debug("queue %d has no ioeventfd: %s", queue, error)
            else:
                self._listening[fd] = address

    def close(self) -> None:
        """Reset the device and let go of everything; it is on no bus by now. May come again."""
        self._worker.close()  # before the device may close what the loop waits for
        self.transport.reset()
