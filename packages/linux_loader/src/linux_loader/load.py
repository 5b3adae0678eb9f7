"""Loading a kernel of either kind."""

from __future__ import annotations

from linux_loader import bzimage, elf
from linux_loader.formats import ImageFormat, identify_image
from linux_loader.image import Image

TYPE_CHECKING = False
if TYPE_CHECKING:
    from linux_loader.kernel import LoadedKernel
    from linux_loader.seams import GuestMemory, Source


def load_kernel(
    memory: GuestMemory, file: Source, *, high_ram_start: int = 0x10_0000
) -> LoadedKernel:
    """Recognise a kernel file and load it into guest memory.

    Args:
        memory: guest memory.
        file: path, binary file object, or the file's content.
        high_ram_start: the lowest guest physical address that the kernel may occupy.

    Returns:
        Where it is, and how to enter it.

    Raises:
        ImageError: the file is unreadable, empty, truncated, no kernel for this machine, or
            malformed; see `linux_loader.errors`.
        PlacementError: guest memory has no room where the kernel needs it.
    """
    with Image(file, "kernel") as image:
        if identify_image(image) is ImageFormat.ELF:
            return elf.load_image(memory, image, high_ram_start=high_ram_start)
        return bzimage.load_image(memory, image, high_ram_start=high_ram_start)
