"""Everything that can go wrong while a kernel is loaded.

::

    LoaderError
    ├── ImageError                 the file is at fault
    │   ├── UnreadableImage        it cannot be opened or read (also an OSError)
    │   ├── EmptyImage             it holds no bytes
    │   ├── TruncatedImage         it ends before its own header says that it does
    │   ├── ForeignImage           it is something else than a Linux kernel for this machine
    │   ├── MalformedImage         its header contradicts itself
    │   ├── UnsupportedImage       a kernel, but not one that has a 64-bit entry we can use
    │   └── UnpackError            its payload does not unpack
    │       ├── CorruptPayload     the compressed data are damaged
    │       ├── UnpackedTooLarge   it would unpack to more bytes than the caller allows
    │       └── MissingDecompressor  the module for its compression is not installed
    ├── PlacementError             guest memory is at fault
    │   ├── OutsideMemory          a range is not wholly guest RAM
    │   ├── KernelTooLow           a kernel that insists on the space of the boot structures
    │   ├── KernelTooLarge         no RAM is large enough, or where the kernel needs it
    │   └── InitramfsTooLarge      no free RAM below the limit is large enough
    ├── CmdlineError               the command line is at fault
    │   ├── InvalidCmdline         it holds something that a kernel cannot be given
    │   └── CmdlineTooLong         it does not fit its capacity
    └── BootParamsError            the boot parameters do not fit the zero page
"""

# ruff: noqa: N818 - a name says what is wrong; that it is an error is told by its base class.

from __future__ import annotations


class LoaderError(Exception):
    """Base class of all errors that this package raises."""


class ImageError(LoaderError):
    """A file cannot be used.

    Attributes:
        image: what was being read, such as ``kernel /boot/vmlinuz``.
        problem: what is wrong with it, the rest of the sentence.
    """

    def __init__(self, image: str, problem: str) -> None:
        super().__init__(f"{image} {problem}")
        self.image = image
        self.problem = problem


class UnreadableImage(ImageError, OSError):
    """The file cannot be opened or read; ``errno`` tells why when the system did."""

    def __init__(self, image: str, problem: str, errno: int | None = None) -> None:
        super().__init__(image, problem)
        self.errno = errno


class EmptyImage(ImageError):
    """The file holds no bytes at all."""

    def __init__(self, image: str) -> None:
        super().__init__(image, "is empty")


class TruncatedImage(ImageError):
    """The file ends too early.

    Attributes:
        needed: bytes that its header calls for.
        available: bytes that there are.
    """

    def __init__(self, image: str, part: str, needed: int, available: int) -> None:
        super().__init__(
            image, f"is truncated: {part} ends at byte {needed}, the file has {available}"
        )
        self.needed = needed
        self.available = available


class ForeignImage(ImageError):
    """The file is no Linux kernel for x86-64.

    Attributes:
        looks_like: what it seems to be instead.
    """

    def __init__(self, image: str, looks_like: str) -> None:
        super().__init__(
            image, f"is neither a bzImage nor an ELF kernel; it looks like {looks_like}"
        )
        self.looks_like = looks_like


class MalformedImage(ImageError):
    """A header field contradicts the format or another field."""


class UnsupportedImage(ImageError):
    """A kernel that cannot be entered through the 64-bit boot protocol."""


class UnpackError(ImageError):
    """The payload of a bzImage does not unpack."""


class CorruptPayload(UnpackError):
    """The compressed payload is damaged."""


class UnpackedTooLarge(UnpackError):
    """The payload would unpack to more than the caller allows.

    Attributes:
        size: bytes that it would take.
        limit: bytes that are allowed.
    """

    def __init__(self, image: str, size: int, limit: int) -> None:
        super().__init__(image, f"unpacks to {size} bytes, more than the {limit} that are allowed")
        self.size = size
        self.limit = limit


class MissingDecompressor(UnpackError):
    """No module that can read the payload's compression is installed.

    Attributes:
        compression: its name.
        extra: the extra of this package that brings the module, or None if none does.
    """

    def __init__(self, image: str, compression: str, extra: str | None) -> None:
        way_out = (
            f"install it with: pip install 'linux-loader[{extra}]'"
            if extra
            else "no module for it is supported"
        )
        super().__init__(image, f"is compressed with {compression}; {way_out}")
        self.compression = compression
        self.extra = extra


class PlacementError(LoaderError):
    """Something does not fit guest memory."""


class OutsideMemory(PlacementError):
    """A range is not wholly guest RAM.

    Attributes:
        what: what was to be put there.
        address: guest physical address.
        size: bytes.
    """

    def __init__(self, what: str, address: int, size: int) -> None:
        super().__init__(
            f"{what} does not fit guest memory: {size:#x} bytes at {address:#x} are not all RAM"
        )
        self.what = what
        self.address = address
        self.size = size


class KernelTooLow(PlacementError):
    """An ELF kernel is linked to run where the boot structures and the legacy hole are.

    Attributes:
        address: guest physical address of its lowest segment.
        lowest: the lowest address that it may occupy.
    """

    def __init__(self, image: str, address: int, lowest: int) -> None:
        super().__init__(f"{image} has a segment at {address:#x}; kernels load from {lowest:#x} up")
        self.address = address
        self.lowest = lowest


class KernelTooLarge(PlacementError):
    """No guest RAM is large enough, or where this kernel needs it.

    Attributes:
        size: bytes that the kernel needs in one piece.
        address: where it would like them.
    """

    def __init__(self, image: str, size: int, address: int) -> None:
        super().__init__(
            f"{image} needs {size:#x} bytes of guest RAM in one piece from {address:#x} up; "
            "give the guest more memory"
        )
        self.size = size
        self.address = address


class InitramfsTooLarge(PlacementError):
    """No free guest RAM is large enough for the initramfs.

    Attributes:
        size: bytes of the initramfs.
        highest: the highest address that it may occupy.
    """

    def __init__(self, image: str, size: int, highest: int) -> None:
        super().__init__(
            f"{image} does not fit guest memory: {size} bytes are not free in one piece "
            f"at or below {highest:#x}; give the guest more memory"
        )
        self.size = size
        self.highest = highest


class CmdlineError(LoaderError):
    """A kernel command line cannot be used."""


class InvalidCmdline(CmdlineError):
    """Text that a kernel command line cannot hold.

    Attributes:
        text: the offending text.
        reason: what is wrong with it.
    """

    def __init__(self, text: str, reason: str) -> None:
        super().__init__(f"kernel command line: {text!r} {reason}")
        self.text = text
        self.reason = reason


class CmdlineTooLong(CmdlineError):
    """The command line does not fit.

    Attributes:
        length: characters that it would have.
        maximum: characters that it may have, its terminating NUL not counted.
    """

    def __init__(self, length: int, maximum: int) -> None:
        super().__init__(f"kernel command line of {length} characters is too long; {maximum} fit")
        self.length = length
        self.maximum = maximum


class BootParamsError(LoaderError):
    """Boot parameters that the zero page cannot express."""
