"""The instructions at the reset vector: all the firmware that there is.

A stock kernel on hardware-reduced ACPI does not restart through the FADT's reset register. It takes
such a platform for one with EFI (Linux: ``efi_reboot_required``), and if there is no EFI it goes
back to real mode and jumps to F000:FFF0 as a PC's BIOS expects it (``machine_real_restart``). Zeros
there would be a loop without an end; these instructions pull the keyboard controller's reset line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vm_memory import GuestMemory

RESET_VECTOR = 0xFFFF0
"""F000:FFF0, the last 16 bytes of the first MiB."""

RESET_CODE = (
    b"\xb0\xfe"  # mov  $0xfe, %al
    b"\xe6\x64"  # out  %al, $0x64
    b"\xf4"  # 1: hlt
    b"\xeb\xfd"  # jmp  1b
)


def write_reset_code(memory: GuestMemory) -> None:
    """Put the instructions in their place."""
    memory.write(RESET_VECTOR, RESET_CODE)


REBOOT_MODE = 0x472
"""Where a kernel leaves word for the BIOS before it resets: 0x1234 for a warm start (Linux:
``native_machine_emergency_restart``)."""

WARM = 0x1234

PANIC_IS_WARM = "panic_warm"
"""The kernel's ``reboot=`` option that makes a panic, and nothing else, reset warm.

So a panic is known from the kernel's first moments on, long before it can drive pvpanic.
"""


def tells_of_panic(memory: GuestMemory, cmdline: str) -> bool:
    """Return whether the reset that the guest asks for is the end of a panic.

    Only a kernel that was told to says so: others reset warm for reasons of their own.
    """
    return f"reboot={PANIC_IS_WARM}" in cmdline.split() and memory.load(REBOOT_MODE, 2) == WARM
