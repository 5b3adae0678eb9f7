"""Building a kernel command line that the kernel reads as it was meant.

The kernel splits its command line at spaces outside double quotes (lib/cmdline.c, next_arg), stops
at the first NUL, and hands what follows `` -- `` to init (Documentation/admin-guide/
kernel-parameters.rst). A `Cmdline` refuses whatever would be read otherwise than written.
"""

from __future__ import annotations

from linux_loader.errors import CmdlineTooLong, InvalidCmdline, OutsideMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

    from linux_loader.seams import GuestMemory

DEFAULT_CAPACITY = 2048  # COMMAND_LINE_SIZE of x86, arm64: 2048, its NUL included
_SEPARATORS = ("--", '"--"')  # next_arg strips the quotes before the kernel compares


class Cmdline:
    """A command line under construction; what does not fit or parse leaves it as it was.

    Args:
        capacity: bytes that it may take in guest memory, its terminating NUL included.

    Raises:
        CmdlineTooLong: not even the NUL fits.

    >>> cmdline = Cmdline()
    >>> cmdline.insert("console", "ttyS0")
    >>> cmdline.insert_str("panic=-1 quiet")
    >>> str(cmdline)
    'console=ttyS0 panic=-1 quiet'
    """

    def __init__(self, capacity: int = DEFAULT_CAPACITY) -> None:
        if capacity < 1:
            raise CmdlineTooLong(0, capacity - 1)
        self._capacity = capacity
        self._boot_args: list[str] = []
        self._init_args: list[str] = []

    @classmethod
    def from_str(cls, text: str, capacity: int = DEFAULT_CAPACITY) -> Self:
        """Make a command line of a whole one, such as the user's.

        Raises:
            CmdlineError: as `insert_str`.
        """
        cmdline = cls(capacity)
        cmdline.insert_str(text)
        return cmdline

    @property
    def capacity(self) -> int:
        """Bytes that it may take in guest memory, the terminating NUL included."""
        return self._capacity

    def insert(self, key: str, value: str) -> None:
        """Append ``key=value``; a value with spaces is put in double quotes unless it is in them.

        Raises:
            InvalidCmdline: an empty key; a space, ``=`` or quote in the key; a quote inside the
                value; anything but printable ASCII.
            CmdlineTooLong: it does not fit.
        """
        self._extend([f"{_checked_key(key)}={_quoted(value)}"], [])

    def insert_multiple(self, key: str, values: Iterable[str]) -> None:
        """Append ``key=value1,value2,…``.

        Raises:
            InvalidCmdline: as `insert`, or there are no values.
            CmdlineTooLong: it does not fit.
        """
        listed = list(values)
        if not listed:
            raise InvalidCmdline(key, "needs at least one value")
        self.insert(key, ",".join(listed))

    def insert_str(self, text: str) -> None:
        """Append arguments as they are; those after `` -- `` go to init. Blank text adds nothing.

        Raises:
            InvalidCmdline: an unbalanced quote, or anything but printable ASCII.
            CmdlineTooLong: it does not fit.
        """
        words = _words(text)
        middle = next((i for i, word in enumerate(words) if word in _SEPARATORS), len(words))
        self._extend(words[:middle], words[middle + 1 :])

    def insert_init_args(self, text: str) -> None:
        """Append arguments for init, which come after `` -- `` at the end.

        Raises:
            CmdlineError: as `insert_str`.
        """
        self._extend([], _words(text))

    def add_virtio_mmio_device(
        self, size: int, base: int, irq: int, device_id: int | None = None
    ) -> None:
        """Append a ``virtio_mmio.device=`` argument.

        Args:
            size: bytes of the device's registers.
            base: their guest physical address.
            irq: the interrupt's number (GSI).
            device_id: the platform device's number; the kernel counts by itself if None.

        Raises:
            InvalidCmdline: size 0, or a negative number.
            CmdlineTooLong: it does not fit.
        """
        if size <= 0 or base < 0 or irq < 0 or (device_id is not None and device_id < 0):
            raise InvalidCmdline(
                f"virtio_mmio.device={size:#x}@{base:#x}:{irq}", "is not a device's registers"
            )
        suffix = "" if device_id is None else f":{device_id}"
        self.insert("virtio_mmio.device", f"{_with_unit(size)}@{base:#x}:{irq}{suffix}")

    def __str__(self) -> str:
        return _join(self._boot_args, self._init_args)

    def __bytes__(self) -> bytes:
        """The text as ASCII, without the terminating NUL that `load_cmdline` adds."""
        return str(self).encode("ascii")

    def __len__(self) -> int:
        """Characters, the terminating NUL not counted."""
        return len(str(self))

    def __bool__(self) -> bool:
        """A command line is an object worth having even when it is empty."""
        return True

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Cmdline):
            return NotImplemented
        return (self._capacity, str(self)) == (other._capacity, str(other))

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Cmdline.from_str({str(self)!r}, capacity={self._capacity})"

    def _extend(self, boot_args: list[str], init_args: list[str]) -> None:
        boot_args = self._boot_args + boot_args
        init_args = self._init_args + init_args
        length = len(_join(boot_args, init_args))
        if length > self._capacity - 1:
            raise CmdlineTooLong(length, self._capacity - 1)
        self._boot_args, self._init_args = boot_args, init_args


def load_cmdline(memory: GuestMemory, addr: int, cmdline: Cmdline | str) -> int:
    """Write a command line and its terminating NUL into guest memory.

    Args:
        memory: guest memory.
        addr: guest physical address.
        cmdline: the command line; plain text is taken as `Cmdline.from_str` does.

    Returns:
        Its characters, the NUL not counted.

    Raises:
        CmdlineError: the text is no valid command line, or longer than 2047 characters.
        OutsideMemory: the range is not all RAM.
    """
    if isinstance(cmdline, str):
        cmdline = Cmdline.from_str(cmdline)
    data = bytes(cmdline) + b"\0"
    if not memory.check_range(addr, len(data)):
        raise OutsideMemory("the kernel command line", addr, len(data))
    memory.write(addr, data)
    return len(data) - 1


def _join(boot_args: list[str], init_args: list[str]) -> str:
    return " ".join([*boot_args, "--", *init_args] if init_args else boot_args)


def _words(text: str) -> list[str]:
    """Split text at its spaces outside quotes."""
    text = text.strip()
    _require_printable(text)
    words: list[str] = []
    pending = ""
    for piece in text.split(" "):
        pending = f"{pending} {piece}" if pending else piece
        if pending.count('"') % 2 == 0:
            if pending:
                words.append(pending)
            pending = ""
    if pending:
        raise InvalidCmdline(text, "has an unbalanced quote")
    return words


def _checked_key(key: str) -> str:
    _require_printable(key)
    if not key or key in _SEPARATORS:
        raise InvalidCmdline(key, "is no parameter name")
    for character in ' ="':
        if character in key:
            raise InvalidCmdline(key, f"has {character!r} in a parameter name")
    return key


def _quoted(value: str) -> str:
    _require_printable(value)
    inner = value
    if len(value) >= 2 and value.startswith('"') and value.endswith('"'):
        inner = value[1:-1]
    if '"' in inner:
        raise InvalidCmdline(value, "has a quote inside a value")
    return f'"{inner}"' if " " in inner else value


def _require_printable(text: str) -> None:
    for character in text:
        if not " " <= character <= "~":
            raise InvalidCmdline(text, f"has {character!r}, which is not printable ASCII")


def _with_unit(size: int) -> str:
    for unit, shift in (("G", 30), ("M", 20), ("K", 10)):
        if size % (1 << shift) == 0:
            return f"{size >> shift}{unit}"
    return str(size)
