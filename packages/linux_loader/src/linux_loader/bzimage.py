"""Loading a bzImage for the 64-bit boot protocol.

The kernel's decompressor runs in the guest, in the ``init_size`` bytes from the load address on.
Source: Documentation/arch/x86/boot.rst, "Loading The Rest of The Kernel", "64-bit Boot Protocol",
and the fields ``pref_address`` and ``init_size``.
"""

from __future__ import annotations

from linux_loader._guest import align_up, ram_spans
from linux_loader.errors import KernelTooLarge
from linux_loader.image import Image
from linux_loader.kernel import BootProtocol, LoadedKernel
from linux_loader.setup_header import SetupHeader, XLoadFlags

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.seams import GuestMemory, Source

_ENTRY_64 = 0x200
_FOUR_GIB = 1 << 32
_VERSION_MAX = 256


def load(memory: GuestMemory, source: Source, *, high_ram_start: int = 0x10_0000) -> LoadedKernel:
    """Load the protected-mode part of a bzImage where the kernel prefers it.

    Args:
        memory: guest memory.
        source: the file.
        high_ram_start: the lowest address that the kernel may occupy.

    Raises:
        ImageError: the file is unreadable, truncated or malformed, or has no 64-bit entry.
        KernelTooLarge: no RAM is large enough, or where the kernel needs it.
    """
    with Image(source, "kernel") as image:
        return load_image(memory, image, high_ram_start=high_ram_start)


def load_image(memory: GuestMemory, image: Image, *, high_ram_start: int) -> LoadedKernel:
    """Do what `load` does, for a file that is open already."""
    header = SetupHeader.read(image)
    offset = header.setup_size
    image.require(offset + max(header.protected_mode_size, 1), "the protected-mode code")
    # Whatever follows `syssize` (a signature) is copied as well, as other boot loaders do.
    size = image.size - offset
    needed = max(header.init_size, size)
    start = choose_address(header, ram_spans(memory), needed, high_ram_start)
    if start is None:
        raise KernelTooLarge(image.name, needed, max(header.pref_address, high_ram_start))
    image.copy_to(memory, start, offset, size, "the protected-mode code")
    return LoadedKernel(
        protocol=BootProtocol.LINUX64,
        entry=start + _ENTRY_64,
        start=start,
        end=start + needed,
        setup_header=header.raw,
    )


def choose_address(
    header: SetupHeader, ram: list[tuple[int, int]], needed: int, high_ram_start: int
) -> int | None:
    """Return where to load the kernel, or None if it fits nowhere.

    That is its preferred address if there is RAM for it. Otherwise a relocatable kernel takes the
    lowest aligned address above that fits: below it would not do, since the 64-bit decompressor
    moves up to ``pref_address`` anyway (arch/x86/boot/compressed/head_64.S, startup_64).
    """
    alignment = header.kernel_alignment if header.relocatable else 1
    lowest = align_up(max(header.pref_address, high_ram_start), alignment)
    if not header.relocatable and lowest != header.pref_address:
        return None
    above_4g = header.xloadflags & XLoadFlags.XLF_CAN_BE_LOADED_ABOVE_4G
    for span_start, span_end in ram:
        end = span_end if above_4g else min(span_end, _FOUR_GIB)
        address = max(lowest, align_up(span_start, alignment))
        if address + needed <= end:
            return address if header.relocatable or address == lowest else None
    return None


def kernel_version(source: Source) -> str | None:
    """Return the version string of a bzImage, such as ``6.1.0-9-amd64 (builder) #1 SMP …``.

    Returns:
        The string, or None if the kernel does not tell.

    Raises:
        ImageError: the file is no bzImage that `load` could load.
    """
    with Image(source, "kernel") as image:
        header = SetupHeader.read(image)
        offset = header.kernel_version_offset
        if offset is None or offset >= header.setup_size:
            return None
        text = image.read(offset, _VERSION_MAX).split(b"\0", 1)[0]
        return text.decode("ascii", "replace") or None
