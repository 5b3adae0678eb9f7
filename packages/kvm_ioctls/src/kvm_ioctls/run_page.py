"""The page through which the kernel and a VMM talk about a running vCPU.

`RunPage` decodes a `struct kvm_run` in any writable buffer: the mapping of a vCPU's file
descriptor, or the buffer of a hypervisor in user space that speaks the same language.

Source: Documentation/virt/kvm/api.rst, section 5, "The kvm_run structure".
"""

from __future__ import annotations

import struct
from mmap import mmap
from typing import TYPE_CHECKING, TypeAlias

from kvm_ioctls import exits
from kvm_ioctls._arguments import unsigned
from kvm_ioctls._decoders import DECODERS
from kvm_ioctls._ffi import ffi
from kvm_ioctls._run import Page

if TYPE_CHECKING:
    from kvm_ioctls.exits import Exit

WritableBuffer: TypeAlias = bytearray | memoryview | mmap
"""Anything writable and C-contiguous that speaks the buffer protocol."""

SIZE = ffi.sizeof("struct kvm_run")
_RUN = dict(ffi.typeof("struct kvm_run").fields)
_REASON = slice(_RUN["exit_reason"].offset, _RUN["exit_reason"].offset + 4)
_RECORD = _RUN["hw"].offset
_RECORD_END = _RUN["kvm_valid_regs"].offset  # what follows the union of all records
_IMMEDIATE_EXIT = _RUN["immediate_exit"].offset
_CR8 = struct.Struct(f"={_RUN['cr8'].offset}xQ")
_APIC_BASE = struct.Struct(f"={_RUN['apic_base'].offset}xQ")


class RunPage(Page):
    """Decodes the `struct kvm_run` at the beginning of `buffer`.

    What an exit shows of the page is taken back by the next `decode()`.

    Args:
        buffer: writable, at least as long as `struct kvm_run`, and long enough to hold the data of
            port I/O at `io.data_offset`.
    """

    __slots__ = ()  # the page that C holds refers to nothing that may refer to the vCPU

    def __init__(self, buffer: WritableBuffer) -> None:
        raw = memoryview(buffer).cast("B")
        if raw.readonly or len(raw) < SIZE:
            raise ValueError(f"a run page is writable and at least {SIZE} bytes")
        super().__init__(raw, exits.IoIn, exits.IoOut, exits.MmioRead, exits.MmioWrite)

    def release(self) -> None:
        """Lets go of the buffer; the page and its exits are of no use afterwards."""
        self._free()
        self.raw.release()

    def _rare(self) -> Exit:
        """What `decode()` makes of exits that are neither port nor memory accesses."""
        decoder, record = DECODERS.get(self.exit_reason), self._lend(_RECORD, _RECORD_END)
        return decoder(record) if decoder else exits.Unknown(self.exit_reason, record)

    def interrupted(self) -> Exit:
        """The exit for a run that a signal ended, which leaves no reason in the page."""
        self._expire()
        return exits.Interrupted()

    @property
    def exit_reason(self) -> int:
        """The number of the exit: KVM_EXIT_*."""
        return int.from_bytes(self.raw[_REASON], "little")

    @property
    def immediate_exit(self) -> bool:
        """Makes the next run() return `Interrupted` before it enters the guest."""
        return self.raw[_IMMEDIATE_EXIT] != 0

    @immediate_exit.setter
    def immediate_exit(self, value: bool) -> None:
        self.raw[_IMMEDIATE_EXIT] = bool(value)

    @property
    def request_interrupt_window(self) -> bool:
        """Makes run() return `IrqWindowOpen` as soon as the guest can take an interrupt."""
        return self.raw[0] != 0

    @request_interrupt_window.setter
    def request_interrupt_window(self, value: bool) -> None:
        self.raw[0] = bool(value)

    @property
    def ready_for_interrupt_injection(self) -> bool:
        """Whether `interrupt()` would reach the guest now."""
        return self.raw[_RUN["ready_for_interrupt_injection"].offset] != 0

    @property
    def if_flag(self) -> bool:
        """The guest's RFLAGS.IF."""
        return self.raw[_RUN["if_flag"].offset] != 0

    @property
    def cr8(self) -> int:
        """The guest's task priority; written back at the next run without an irqchip."""
        value: int = _CR8.unpack_from(self.raw)[0]
        return value

    @cr8.setter
    def cr8(self, value: int) -> None:
        self.raw[_RUN["cr8"].offset : _RUN["cr8"].offset + 8] = unsigned("cr8", value, 64).to_bytes(
            8, "little"
        )

    @property
    def apic_base(self) -> int:
        """The guest's APIC base register."""
        value: int = _APIC_BASE.unpack_from(self.raw)[0]
        return value
