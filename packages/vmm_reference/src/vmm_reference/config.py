"""What a virtual machine is made of, as frozen records.

A `VmConfig` describes one machine completely. Each part is read from its flag's text with
``parse`` and written back with ``str()``; both use cloud-hypervisor's spelling. Values are checked
here as far as they can be without asking the host; what only the host knows (how much memory, how
many vCPUs) is checked where it is used.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path

from vmm_reference.errors import OptionError
from vmm_reference.options import Options, format_size
from vmm_reference.virtio_config import (
    ConsoleConfig,
    DiskConfig,
    NetConfig,
    RngConfig,
    VirtioTransport,
)

PAGE_SIZE = 4096
_MIN_MEMORY = 2 << 20
"""The boot structures and the ACPI tables fill the first MiB."""
_MAX_MEMORY = 1 << 46
"""64 TiB: what the 46 physical address bits of common x86 processors can name."""
_MAX_CPUS = 255
"""xAPIC ids are eight bits wide, and 255 is the broadcast (SDM vol. 3 §11.6.1)."""


class HypervisorChoice(enum.Enum):
    """The value of ``--hypervisor``."""

    AUTO = "auto"
    KVM = "kvm"
    SOFT = "soft"

    @classmethod
    def parse(cls, text: str, flag: str = "--hypervisor") -> HypervisorChoice:
        """Read the value of ``--hypervisor``."""
        try:
            return cls(text)
        except ValueError:
            raise OptionError(flag, text, "there is: auto, kvm, soft") from None


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    """Guest memory.

    Attributes:
        size: bytes; a multiple of 4 KiB, at least 2 MiB.
    """

    size: int = 512 << 20

    def __post_init__(self) -> None:
        """Refuse what no machine can have."""
        text = str(self)
        if self.size <= 0:
            raise OptionError(
                "--memory", text, "a virtual machine needs some memory, e.g. size=512M"
            )
        if self.size < _MIN_MEMORY:
            raise OptionError("--memory", text, "too little for any kernel; at least size=2M")
        if self.size % PAGE_SIZE:
            raise OptionError("--memory", text, "the size must be a multiple of 4K")
        if self.size > _MAX_MEMORY:
            raise OptionError("--memory", text, "more than x86 processors can address (64T)")

    @classmethod
    def parse(cls, text: str, flag: str = "--memory") -> MemoryConfig:
        """Read the value of ``--memory``, e.g. ``size=512M``."""
        options = Options(flag, text, ("size",))
        size = options.size("size")
        if size is None:
            raise options.bad("a size must be given, e.g. size=512M")
        with options.as_given():
            return cls(size)

    def __str__(self) -> str:
        return f"size={format_size(self.size)}"


@dataclass(frozen=True, slots=True)
class CpusConfig:
    """Virtual processors.

    Attributes:
        boot: how many there are when the guest starts.
    """

    boot: int = 1

    def __post_init__(self) -> None:
        """Refuse what no machine can have."""
        if self.boot < 1:
            raise OptionError("--cpus", str(self), "a virtual machine needs at least one processor")
        if self.boot > _MAX_CPUS:
            raise OptionError("--cpus", str(self), f"at most {_MAX_CPUS} processors")

    @classmethod
    def parse(cls, text: str, flag: str = "--cpus") -> CpusConfig:
        """Read the value of ``--cpus``, e.g. ``boot=1``."""
        options = Options(flag, text, ("boot",))
        boot = options.integer("boot")
        if boot is None:
            raise options.bad("a number must be given, e.g. boot=1")
        with options.as_given():
            return cls(boot)

    def __str__(self) -> str:
        return f"boot={self.boot}"


class SerialMode(enum.Enum):
    """Where the first serial port goes."""

    TTY = "tty"
    """The process's own stdin and stdout."""
    OFF = "off"
    """There is no port."""
    NULL = "null"
    """There is a port; what the guest writes is dropped, nothing comes in."""
    FILE = "file"
    """What the guest writes goes to a file, nothing comes in."""


@dataclass(frozen=True, slots=True)
class SerialConfig:
    """The first serial port, COM1.

    Attributes:
        mode: where it goes.
        file: the file for `SerialMode.FILE`, else None.
    """

    mode: SerialMode = SerialMode.TTY
    file: Path | None = None

    def __post_init__(self) -> None:
        """Require a file exactly where one is used."""
        if (self.mode is SerialMode.FILE) != (self.file is not None):
            raise OptionError(
                "--serial", self.mode.value, "a file goes with mode file and no other"
            )

    @classmethod
    def parse(cls, text: str, flag: str = "--serial") -> SerialConfig:
        """Read the value of ``--serial``: ``tty``, ``off``, ``null`` or ``file=PATH``."""
        if text.startswith("file="):
            path = Options(flag, text, ("file",)).string("file")
            if not path:
                raise OptionError(flag, text, "a path must follow file=")
            return cls(SerialMode.FILE, Path(path))
        if text in {"tty", "off", "null"}:
            return cls(SerialMode(text))
        raise OptionError(flag, text, "there is: tty, off, null, file=PATH")

    @property
    def is_seen(self) -> bool:
        """Whether somebody may see what the guest writes."""
        return self.mode not in {SerialMode.OFF, SerialMode.NULL}

    def __str__(self) -> str:
        return f'file="{self.file}"' if self.file is not None else self.mode.value


@dataclass(frozen=True, slots=True)
class PayloadConfig:
    """What the machine runs.

    Attributes:
        kernel: a bzImage or an ELF vmlinux; None for the default guest.
        initramfs: its initial file system; None for the default guest's, or for none with a
            `kernel` of the caller's.
        cmdline: the kernel command line, in place of the one that the VMM would make; None to let
            it.
        exec_command: a shell command for the default guest's init to run in place of a shell; None
            for the shell.
    """

    kernel: Path | None = None
    initramfs: Path | None = None
    cmdline: str | None = None
    exec_command: str | None = None


@dataclass(frozen=True, slots=True)
class VmConfig:
    """One virtual machine, completely.

    Attributes:
        payload: what it runs.
        memory: its memory.
        cpus: its processors.
        serial: its first serial port.
        console: its virtio console.
        hypervisor: which hypervisor runs it.
        disks: its disks, in the order in which the guest finds them.
        nets: its network cards, in the order in which the guest finds them.
        rng: its source of random numbers; None for none.
        virtio_transport: how the guest reaches its virtio devices.
    """

    payload: PayloadConfig = field(default_factory=PayloadConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    cpus: CpusConfig = field(default_factory=CpusConfig)
    serial: SerialConfig = field(default_factory=SerialConfig)
    console: ConsoleConfig = field(default_factory=ConsoleConfig)
    hypervisor: HypervisorChoice = HypervisorChoice.AUTO
    disks: tuple[DiskConfig, ...] = ()
    nets: tuple[NetConfig, ...] = ()
    rng: RngConfig | None = None
    virtio_transport: VirtioTransport = VirtioTransport.PCI
