"""Load Linux kernels, initramfs images and boot parameters into guest memory.

A virtual machine monitor that boots Linux itself does four things before the first instruction:
it loads the kernel (`load_kernel`: an ELF ``vmlinux`` or a ``bzImage``), the initramfs
(`load_initramfs`) and the command line (`Cmdline`, `load_cmdline`), and writes the zero page that
tells the kernel about them (`write_zero_page`). Registers are the monitor's own affair: it enters
long mode at ``kernel.entry`` with RSI on the zero page.

Everything goes straight from the file into guest memory. No file is trusted: whatever is wrong
with one ends in a `LoaderError` whose message is a sentence for the user (`linux_loader.errors`
draws the tree). `extract_vmlinux` unpacks the ELF from a distribution's ``vmlinuz`` on the host,
which is far faster than doing it in an emulated guest.

Guest physical addresses are plain ``int``; sizes are bytes.
"""

from __future__ import annotations

from linux_loader import bzimage, elf
from linux_loader.cmdline import Cmdline, load_cmdline
from linux_loader.errors import (
    BootParamsError,
    CmdlineError,
    CmdlineTooLong,
    CorruptPayload,
    EmptyImage,
    ForeignImage,
    ImageError,
    InitramfsTooLarge,
    InvalidCmdline,
    KernelTooLarge,
    KernelTooLow,
    LoaderError,
    MalformedImage,
    MissingDecompressor,
    OutsideMemory,
    PlacementError,
    TruncatedImage,
    UnpackedTooLarge,
    UnpackError,
    UnreadableImage,
    UnsupportedImage,
)
from linux_loader.formats import ImageFormat, identify
from linux_loader.initramfs import load_initramfs
from linux_loader.kernel import BootProtocol, LoadedKernel
from linux_loader.load import load_kernel
from linux_loader.setup_header import LoadFlags, SetupHeader, XLoadFlags
from linux_loader.vmlinuz import extract_vmlinux
from linux_loader.zero_page import E820Entry, E820Type, write_zero_page

__version__ = "0.1.0"

__all__ = [
    "BootParamsError",
    "BootProtocol",
    "Cmdline",
    "CmdlineError",
    "CmdlineTooLong",
    "CorruptPayload",
    "E820Entry",
    "E820Type",
    "EmptyImage",
    "ForeignImage",
    "ImageError",
    "ImageFormat",
    "InitramfsTooLarge",
    "InvalidCmdline",
    "KernelTooLarge",
    "KernelTooLow",
    "LoadFlags",
    "LoadedKernel",
    "LoaderError",
    "MalformedImage",
    "MissingDecompressor",
    "OutsideMemory",
    "PlacementError",
    "SetupHeader",
    "TruncatedImage",
    "UnpackError",
    "UnpackedTooLarge",
    "UnreadableImage",
    "UnsupportedImage",
    "XLoadFlags",
    "bzimage",
    "elf",
    "extract_vmlinux",
    "identify",
    "load_cmdline",
    "load_initramfs",
    "load_kernel",
    "write_zero_page",
]
