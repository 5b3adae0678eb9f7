"""What the machine runs: choosing kernel, initramfs and command line, and loading them.

Three sources: files that the caller names, the default guest of `vmm_reference.guest_assets`, or
the default guest with one command to run. A kernel is loaded as shipped, a bzImage at its 64-bit
entry; only for the default guest under `soft_kvm` is the unpacked vmlinux taken, because its own
decompressor would be emulated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from linux_loader import (
    Cmdline,
    ImageError,
    LoadedKernel,
    LoaderError,
    PlacementError,
    load_cmdline,
    load_initramfs,
    load_kernel,
    write_zero_page,
)
from vmm_reference.arch.x86_64 import e820, layout, registers, reset_vector
from vmm_reference.config import MemoryConfig, SerialMode
from vmm_reference.errors import HostError, InputFileError, OptionError, UsageError
from vmm_reference.virtio_config import ConsoleConfig

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from vm_memory import GuestMemory
    from vmm_reference.acpi import AcpiTables
    from vmm_reference.config import PayloadConfig, SerialConfig, VmConfig
    from vmm_reference.terminal import Size

_CPIO_ALIGNMENT = 4


@dataclass(frozen=True, slots=True)
class Payload:
    """What to load.

    Attributes:
        kernel: the kernel's file.
        initramfs: the initial file system: a file, the bytes themselves, or None for none.
        cmdline: the kernel command line.
        is_default: whether the kernel is the default guest's, so that the caller named no file.
    """

    kernel: Path
    initramfs: Path | bytes | None
    cmdline: str
    is_default: bool = False


def make_cmdline(
    serial: SerialConfig,
    console: ConsoleConfig | None = None,
    *,
    size: Size | None = None,
) -> str:
    """Return the command line for a kernel when the caller gives none.

    The kernel's messages go to the serial port and to the virtio console, where these are, and are
    few if nobody would see them. The console named last is the one for programs; the serial port is
    there before it, from the first message on. A panic ends the machine at once: ``panic=-1`` makes
    the kernel reset, and an exit code tells.

    Args:
        serial: the first serial port.
        console: the virtio console; none if None.
        size: of the serial port's terminal, for the default guest's init to set; a virtio console
            tells its guest itself.
    """
    console = ConsoleConfig() if console is None else console
    cmdline = Cmdline()
    if serial.mode is not SerialMode.OFF:
        cmdline.insert("console", "ttyS0")
    if console.is_seen:
        cmdline.insert("console", "hvc0")
    if not serial.is_seen and not console.is_seen:
        cmdline.insert_str("quiet")
    cmdline.insert("panic", "-1")
    cmdline.insert("reboot", reset_vector.PANIC_IS_WARM)
    if size is not None and not console.is_seen:
        cmdline.insert("py_vmm.rows", str(size.rows))
        cmdline.insert("py_vmm.cols", str(size.columns))
    return str(cmdline)


def choose_payload(
    config: VmConfig,
    *,
    soft: bool,
    size: Size | None = None,
    log: Callable[[str], None] = lambda _message: None,
) -> Payload:
    """Decide what the machine runs, fetching the default guest if it is needed and not there.

    Args:
        config: the machine.
        soft: whether it runs on `soft_kvm`.
        size: the terminal's size, if there is one.
        log: told what a fetch is doing.

    Raises:
        UsageError: the caller's choices contradict each other.
        HostError: the default guest cannot be had.
    """
    payload = config.payload
    if payload.kernel is None:
        return _default_guest(config, soft=soft, size=size, log=log)
    refuse_contradictions(payload)
    cmdline = (
        make_cmdline(config.serial, config.console) if payload.cmdline is None else payload.cmdline
    )
    return Payload(payload.kernel, payload.initramfs, cmdline)


def refuse_contradictions(payload: PayloadConfig) -> None:
    """Refuse a command for a guest that would not hear of it.

    Raises:
        OptionError: ``--exec`` together with ``--kernel`` or ``--initramfs``.
    """
    if payload.exec_command is None:
        return
    for flag, given in (("--kernel", payload.kernel), ("--initramfs", payload.initramfs)):
        if given is not None:
            reason = f"only the default guest can run it; leave out {flag}"
            raise OptionError("--exec", payload.exec_command, reason)


def _default_guest(
    config: VmConfig, *, soft: bool, size: Size | None, log: Callable[[str], None]
) -> Payload:
    from vmm_reference import guest_assets  # noqa: PLC0415  # not needed with a kernel of the caller's

    payload = config.payload
    refuse_contradictions(payload)
    try:
        image = guest_assets.default_guest(exec_command=payload.exec_command, log=log)
    except guest_assets.GuestAssetsError as error:
        raise HostError(str(error)) from error
    kernel = image.vmlinux if soft and image.vmlinux is not None else image.kernel
    cmdline = payload.cmdline
    if cmdline is None:
        ours = make_cmdline(config.serial, config.console, size=size)
        cmdline = f"{ours} {guest_assets.KERNEL_WORDS}"
    initramfs = payload.initramfs or image.initramfs
    if image.overlay:
        return Payload(kernel, _joined(initramfs, image.overlay), cmdline, is_default=True)
    return Payload(kernel, initramfs, cmdline, is_default=True)


def _joined(initramfs: Path, overlay: bytes) -> bytes:
    """Append an archive; the kernel unpacks them in turn, each at a multiple of four bytes."""
    archive = initramfs.read_bytes()
    return archive + bytes(-len(archive) % _CPIO_ALIGNMENT) + overlay


def load(
    payload: Payload, memory: GuestMemory, memory_size: int, tables: AcpiTables
) -> LoadedKernel:
    """Put everything that the kernel needs at its entry into guest memory.

    Returns:
        The kernel; the boot processor starts at its ``entry``.

    Raises:
        UsageError: a file or the command line cannot be used.
    """
    if len(tables.blob) > layout.ACPI_MAX_SIZE:
        raise HostError("the ACPI tables of this machine do not fit below 1 MiB")
    memory.write(tables.base, tables.blob)
    reset_vector.write_reset_code(memory)
    registers.write_boot_tables(memory)
    try:
        kernel = _load_kernel(payload, memory)
        initramfs = _load_initramfs(payload, memory, kernel)
    except UsageError as error:
        if payload.is_default and isinstance(error.__cause__, PlacementError):
            reason = "too little for this guest; the default one needs about 128M"
            raise OptionError("--memory", str(MemoryConfig(memory_size)), reason) from error
        raise
    try:
        cmdline = Cmdline.from_str(payload.cmdline, kernel.cmdline_max + 1)
        cmdline_size = load_cmdline(memory, layout.CMDLINE_START, cmdline)
    except LoaderError as error:
        raise UsageError(f"--cmdline: {error}") from error
    write_zero_page(
        memory,
        layout.ZERO_PAGE_START,
        kernel=kernel,
        cmdline_addr=layout.CMDLINE_START,
        cmdline_size=cmdline_size,
        initramfs=initramfs,
        e820=e820.e820_map(memory_size),
        acpi_rsdp_addr=tables.rsdp_address,
    )
    return kernel


def _load_kernel(payload: Payload, memory: GuestMemory) -> LoadedKernel:
    try:
        return load_kernel(memory, payload.kernel, high_ram_start=layout.HIGH_RAM_START)
    except ImageError as error:
        raise InputFileError("--kernel", payload.kernel, error.problem) from error
    except LoaderError as error:
        raise UsageError(f"--kernel: {error}") from error


def _load_initramfs(
    payload: Payload, memory: GuestMemory, kernel: LoadedKernel
) -> tuple[int, int] | None:
    if payload.initramfs is None:
        return None
    try:
        return load_initramfs(
            memory,
            payload.initramfs,
            highest=kernel.initrd_addr_max,
            lowest=layout.HIGH_RAM_START,
            avoid=[(kernel.start, kernel.end)],
        )
    except ImageError as error:
        if isinstance(payload.initramfs, bytes):
            raise
        raise InputFileError("--initramfs", payload.initramfs, error.problem) from error
    except LoaderError as error:
        raise UsageError(f"--initramfs: {error}") from error
