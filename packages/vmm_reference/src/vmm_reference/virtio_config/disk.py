"""The value of ``--disk``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from vmm_reference.errors import OptionError
from vmm_reference.options import Options, or_default

_QUEUES = 1
_QUEUE_SIZE = 128
_MAX_QUEUES = 64
_QUEUE_SIZES = (4, 32768)
_MAX_SERIAL = 20
"""Bytes that a driver can be told (virtio 1.2 §5.2.6)."""
_DISK_KEYS = (
    "path",
    "readonly",
    "direct",
    "serial",
    "num_queues",
    "queue_size",
    "image_type",
)


@dataclass(frozen=True, slots=True)
class DiskConfig:
    """A disk.

    Attributes:
        path: a raw image file or a block device of the host.
        readonly: whether the guest may not write.
        direct: past the host's page cache (O_DIRECT).
        serial: what the guest sees as its serial number, up to 20 bytes; empty for none.
        num_queues: request queues, 1 to 64.
        queue_size: entries of each, a power of 2 from 4 to 32768.
    """

    path: Path
    readonly: bool = False
    direct: bool = False
    serial: str = ""
    num_queues: int = _QUEUES
    queue_size: int = _QUEUE_SIZE

    def __post_init__(self) -> None:
        """Refuse what no disk can have."""
        smallest, largest = _QUEUE_SIZES
        size = self.queue_size
        if not 1 <= self.num_queues <= _MAX_QUEUES:
            raise OptionError(
                "--disk", str(self), f"num_queues: {self.num_queues} is not 1 to {_MAX_QUEUES}"
            )
        if not smallest <= size <= largest or size & (size - 1):
            reason = f"queue_size: {size} is no power of 2 from {smallest} to {largest}"
            raise OptionError("--disk", str(self), reason)
        if len(self.serial.encode()) > _MAX_SERIAL:
            reason = f"serial: {self.serial!r} has more than {_MAX_SERIAL} bytes"
            raise OptionError("--disk", str(self), reason)

    @classmethod
    def parse(cls, text: str, flag: str = "--disk") -> DiskConfig:
        """Read the value of ``--disk``, e.g. ``path=disk.img,readonly=on``."""
        options = Options(flag, text, _DISK_KEYS)
        path = options.string("path")
        if not path:
            raise options.bad("a path must be given, e.g. path=disk.img")
        if options.string("image_type") not in {None, "raw"}:
            reason = "the only image_type is raw (qemu-img convert -O raw makes one of others)"
            raise options.bad(reason)
        with options.as_given():
            return cls(
                Path(path),
                readonly=options.toggle("readonly") or False,
                direct=options.toggle("direct") or False,
                serial=options.string("serial") or "",
                num_queues=or_default(options.integer("num_queues"), _QUEUES),
                queue_size=or_default(options.integer("queue_size"), _QUEUE_SIZE),
            )

    def __str__(self) -> str:
        words = [f'path="{self.path}"']
        words += [f"{key}=on" for key in ("readonly", "direct") if getattr(self, key)]
        if self.serial:
            words.append(f'serial="{self.serial}"')
        return ",".join([*words, f"num_queues={self.num_queues}", f"queue_size={self.queue_size}"])
