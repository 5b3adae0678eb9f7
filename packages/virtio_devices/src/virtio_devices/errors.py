# ruff: noqa: N818 - the names say what happened, as vm_memory's do
"""What can go wrong between a driver, a device and its transport.

::

    VirtioError
    ├── DriverViolation                the guest's driver broke a rule; `clause` says which
    │   ├── QueueError                 a virtqueue that is unusable until the next reset
    │   │   ├── InvalidQueueLayout     size, alignment or place of the rings
    │   │   ├── InvalidAvailableIndex  the available index runs ahead of the ring
    │   │   ├── InvalidHead            a head outside the table, or one that is in flight
    │   │   ├── InvalidChain           a chain that loops, grows too long or is out of order
    │   │   ├── InvalidIndirectTable   a table of indirect descriptors where or as it must not be
    │   │   └── BufferOutsideMemory    a descriptor names something that is no guest memory
    │   ├── RequestTooShort            the buffers of a request hold less than its type needs
    │   ├── StatusViolation            a device status that must not follow the present one
    │   ├── FeatureViolation           features that were not offered, or not at this time
    │   └── QueueSetupViolation        a queue's registers were written at the wrong time
    ├── DeviceFailed                   the device cannot go on, for a reason on the host's side
    ├── TapError (OSError)             a TAP interface cannot be had, or refuses what is asked of it
    ├── DeviceViolation                found by `virtio_devices.testing`: the device broke a rule
    └── VirtioUsageError (ValueError)  the caller, a device or a VMM, made a mistake
        ├── DiskImageError             a file that cannot be a disk
        └── InvalidState               a saved state that cannot be, or is of another device

A transport turns `DriverViolation` and `DeviceFailed` of a running device into
DEVICE_NEEDS_RESET; a VMM sees them only where it asked for a report. Clauses are sections of
"Virtual I/O Device (VIRTIO) Version 1.2", OASIS, 2022.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os


def os_reason(error: OSError) -> str:
    """What the system says of an error, as the rest of a sentence: no number, no capital."""
    reason = error.strerror or str(error)
    # "No such file" begins a sentence, "TAP interface" does not.
    return reason[:1].lower() + reason[1:] if reason[1:2].islower() else reason


class VirtioError(Exception):
    """Base of every error that this package raises on purpose."""


class DriverViolation(VirtioError):
    """The guest's driver broke a rule of the specification.

    Attributes:
        clause: the section of VIRTIO 1.2 that holds the rule, such as ``"2.7.5.2"``.
    """

    def __init__(self, message: str, clause: str) -> None:
        super().__init__(message, clause)
        self.message = message
        self.clause = clause

    def __str__(self) -> str:
        return f"{self.message} (virtio 1.2 §{self.clause})"


class QueueError(DriverViolation):
    """A virtqueue's contents make no sense; nothing more can be taken from it."""


class InvalidQueueLayout(QueueError):
    """A queue's size, or the address of one of its parts, cannot be.

    Attributes:
        part: ``"queue size"``, or the name of a part: ``"descriptor table"``, ``"used ring"``, …
        value: the size in entries, or the guest physical address.
    """

    def __init__(self, part: str, value: int, reason: str, clause: str) -> None:
        super().__init__(f"{part} {value:#x} {reason}", clause)
        self.part = part
        self.value = value


class InvalidAvailableIndex(QueueError):
    """The available index is further ahead than the ring is long.

    Attributes:
        index: the driver's index.
        next_avail: the index up to which the device has taken chains.
        size: entries of the ring.
    """

    def __init__(self, index: int, next_avail: int, size: int) -> None:
        super().__init__(
            f"available index {index} is {(index - next_avail) & 0xFFFF} ahead of {next_avail} "
            f"in a ring of {size}",
            "2.7.6.1",
        )
        self.index = index
        self.next_avail = next_avail
        self.size = size


class InvalidHead(QueueError):
    """The available ring offers a head that is no descriptor, or that the device still holds.

    Attributes:
        head: the index that the ring holds.
        size: descriptors in the table.
    """

    def __init__(self, head: int, size: int, reason: str, clause: str) -> None:
        super().__init__(f"head {head} of a table of {size} {reason}", clause)
        self.head = head
        self.size = size


class InvalidChain(QueueError):
    """A descriptor chain has a form that a driver must not give it.

    Attributes:
        head: index of the chain's first descriptor, in the table or in the packed ring.
    """

    def __init__(self, head: int, reason: str, clause: str) -> None:
        super().__init__(f"the chain at head {head} {reason}", clause)
        self.head = head


class InvalidIndirectTable(QueueError):
    """An indirect descriptor table stands where it must not, or has an impossible length.

    Attributes:
        head: index of the chain's first descriptor, in the table or in the packed ring.
        address: guest physical address of the table.
        size: bytes of the table.
    """

    def __init__(self, head: int, address: int, size: int, reason: str, clause: str) -> None:
        super().__init__(
            f"the indirect table of {size:#x} bytes at {address:#x} (head {head}) {reason}", clause
        )
        self.head = head
        self.address = address
        self.size = size


class BufferOutsideMemory(QueueError):
    """A descriptor's buffer, or its indirect table, is not wholly in guest memory.

    Attributes:
        head: index of the chain's first descriptor, in the table or in the packed ring.
        address: guest physical address of the buffer.
        size: bytes of the buffer.
    """

    def __init__(self, head: int, address: int, size: int, clause: str) -> None:
        super().__init__(
            f"no guest memory for {size:#x} bytes at {address:#x} (head {head})", clause
        )
        self.head = head
        self.address = address
        self.size = size


class RequestTooShort(DriverViolation):
    """A device wanted more bytes of a request than its buffers have left.

    Attributes:
        needed: bytes that the device wanted.
        remaining: bytes that were left.
    """

    def __init__(self, needed: int, remaining: int) -> None:
        super().__init__(
            f"a request has {remaining:#x} bytes left where {needed:#x} are needed", "2.7.4"
        )
        self.needed = needed
        self.remaining = remaining


class StatusViolation(DriverViolation):
    """The driver wrote a device status that must not follow the present one.

    Attributes:
        status: the device status before the write.
        value: what the driver wrote.
    """

    def __init__(self, status: int, value: int, reason: str, clause: str) -> None:
        super().__init__(f"device status {value:#x} must not follow {status:#x}: {reason}", clause)
        self.status = status
        self.value = value


class FeatureViolation(DriverViolation):
    """The driver accepted features that it must not accept, or not at this time.

    Attributes:
        features: the bits in question, in their places.
    """

    def __init__(self, features: int, reason: str, clause: str) -> None:
        super().__init__(f"features {features:#x} {reason}", clause)
        self.features = features


class QueueSetupViolation(DriverViolation):
    """A queue's registers were written while that is forbidden.

    Attributes:
        queue: index of the queue.
    """

    def __init__(self, queue: int, reason: str, clause: str) -> None:
        super().__init__(f"queue {queue} {reason}", clause)
        self.queue = queue


class DeviceFailed(VirtioError):
    """A device cannot go on, for a reason on the host's side; raise it from that reason."""


class TapError(VirtioError, OSError):
    """The host does not give a TAP interface, or the interface does not do what is asked of it.

    Attributes:
        name: the interface, as far as it is known.
        errno: the system's error number; None where it never came to a system call.
    """

    def __init__(self, name: str, errno: int | None, message: str) -> None:
        super().__init__(errno, message)
        self.name = name

    def __str__(self) -> str:
        return str(self.strerror)


class DeviceViolation(VirtioError):
    """A device broke a rule of the specification, as seen by the driver side under test.

    Attributes:
        clause: the section of VIRTIO 1.2 that holds the rule.
    """

    def __init__(self, message: str, clause: str) -> None:
        super().__init__(message, clause)
        self.message = message
        self.clause = clause

    def __str__(self) -> str:
        return f"{self.message} (virtio 1.2 §{self.clause})"


class VirtioUsageError(VirtioError, ValueError):
    """A device or a VMM used this package in a way that cannot be right."""


class DiskImageError(VirtioUsageError):
    """A file that cannot be a disk.

    Attributes:
        path: the file.
        problem: what is wrong with it, the rest of a sentence that begins with it.
    """

    def __init__(self, path: str | os.PathLike[str], problem: str) -> None:
        super().__init__(f"{path} {problem}")
        self.path = path
        self.problem = problem


class InvalidState(VirtioUsageError):
    """A saved state contradicts itself, or what it is restored into.

    Attributes:
        problem: what is wrong with it, the rest of a sentence that begins with it.
    """

    def __init__(self, problem: str) -> None:
        super().__init__(f"the saved state {problem}")
        self.problem = problem
