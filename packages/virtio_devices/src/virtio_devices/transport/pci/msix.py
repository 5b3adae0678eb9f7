"""MSI-X: a table of messages in a function's memory (PCI Local Bus 3.0 §6.8.2).

What is raised while a vector or the whole function is masked stays pending, is shown in the pending
bit array, and is sent once when the mask goes.
"""

from __future__ import annotations

from threading import Lock

from virtio_devices.transport.state import require

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Protocol
else:
    Protocol = object

ENTRY_SIZE = 16
CONTROL_ENABLE = 1 << 15
CONTROL_FUNCTION_MASK = 1 << 14

_VECTOR_CONTROL = 12
_MASKED = 1


class MsiVector(Protocol):
    """One interrupt message of the machine's; neither method blocks, and any thread may call."""

    def set_message(self, address: int, data: int) -> None:
        """From now on `trigger` means: write the 32-bit `data` to the 64-bit `address`."""

    def trigger(self) -> None:
        """Send the message."""


class MsixTable:
    """The table and the pending bits of one function.

    Args:
        vectors: how the machine sends each vector's message; as many as the table has entries.
    """

    def __init__(self, vectors: Sequence[MsiVector]) -> None:
        self._vectors = tuple(vectors)
        entry = bytes(_VECTOR_CONTROL) + _MASKED.to_bytes(4, "little")
        self._table = bytearray(entry * len(self._vectors))
        self._pending = bytearray(-(-len(self._vectors) // 64) * 8)
        self._messages: list[tuple[int, int] | None] = [None] * len(self._vectors)
        self._lock = Lock()
        self._function_mask = False
        self.enabled = False

    def __len__(self) -> int:
        return len(self._vectors)

    def control(self, value: int) -> None:
        """Message Control was written (§6.8.2.3)."""
        enabled, masked = bool(value & CONTROL_ENABLE), bool(value & CONTROL_FUNCTION_MASK)
        with self._lock:
            if (enabled, masked) != (self.enabled, self._function_mask):
                self.enabled, self._function_mask = enabled, masked
                for vector in range(len(self._vectors)):
                    self._settle(vector)

    def signal(self, vector: int) -> None:
        """Raise a vector; one that is not in the table stands for no interrupt."""
        with self._lock:
            if vector < len(self._vectors) and self.enabled:
                self._pending[vector // 8] |= 1 << vector % 8
                self._settle(vector)

    def forget_pending(self) -> None:
        """The function's device was reset: what was not sent is not sent any more."""
        with self._lock:
            self._pending[:] = bytes(len(self._pending))

    def save(self) -> tuple[bytes, bytes]:
        """The table and the pending bits."""
        with self._lock:
            return bytes(self._table), bytes(self._pending)

    def restore(self, table: bytes, pending: bytes, control: int) -> None:
        """Take what `save` returned, and let the vectors have their messages.

        Args:
            table: the table.
            pending: the pending bits.
            control: Message Control.

        Raises:
            InvalidState: they are of another table, or a message waits for nothing.
        """
        enabled, masked = bool(control & CONTROL_ENABLE), bool(control & CONTROL_FUNCTION_MASK)
        sizes = (len(table), len(pending))
        require(sizes == (len(self._table), len(self._pending)), f"has an MSI-X table of {sizes}")
        waiting = int.from_bytes(pending, "little")
        require(waiting < 1 << len(self._vectors), "has pending bits of no vector")
        for vector in range(len(self._vectors)):
            start = ENTRY_SIZE * vector + _VECTOR_CONTROL
            own_mask = int.from_bytes(table[start : start + 4], "little")
            require(own_mask <= _MASKED, f"has reserved bits of vector {vector} set")
            held_back = not enabled or masked or own_mask
            due = waiting >> vector & 1 and not held_back
            require(not due, f"has vector {vector} due and not sent")
        with self._lock:
            self._table[:], self._pending[:] = table, pending
            self.enabled, self._function_mask = enabled, masked
            for vector in range(len(self._vectors)):
                self._settle(vector)

    # Registers; any access within the table or beyond its end

    def read_table(self, offset: int, data: memoryview) -> None:
        """Fill `data` from the table; zeros behind it."""
        with self._lock:
            data[:] = self._table[offset : offset + len(data)].ljust(len(data), b"\0")

    def write_table(self, offset: int, data: memoryview) -> None:
        """Write into the table what lies in it."""
        with self._lock:
            accepted = data[: max(len(self._table) - offset, 0)]
            if not accepted:
                return
            self._table[offset : offset + len(accepted)] = accepted
            first, end = offset // ENTRY_SIZE, -(-(offset + len(accepted)) // ENTRY_SIZE)
            for vector in range(first, end):
                start = ENTRY_SIZE * vector + _VECTOR_CONTROL
                masked = self._table[start] & _MASKED  # the other bits are reserved
                self._table[start : start + 4] = masked.to_bytes(4, "little")
                self._settle(vector)

    def read_pending(self, offset: int, data: memoryview) -> None:
        """Fill `data` from the pending bits, which software cannot write; zeros behind them."""
        with self._lock:
            data[:] = self._pending[offset : offset + len(data)].ljust(len(data), b"\0")

    def _settle(self, vector: int) -> None:
        """Let a vector that may be sent have its message, and send it if it is pending."""
        start = ENTRY_SIZE * vector
        control = self._table[start + _VECTOR_CONTROL]
        if not self.enabled or self._function_mask or control & _MASKED:
            return
        message = (
            int.from_bytes(self._table[start : start + 8], "little"),
            int.from_bytes(self._table[start + 8 : start + 12], "little"),
        )
        if message != self._messages[vector]:
            self._messages[vector] = message
            self._vectors[vector].set_message(*message)
        bit = 1 << vector % 8
        if self._pending[vector // 8] & bit:
            self._pending[vector // 8] &= ~bit
            self._vectors[vector].trigger()
