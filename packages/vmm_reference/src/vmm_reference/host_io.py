"""What a virtual machine uses of the process around it: its descriptors, perhaps a terminal.

The defaults are the process's own. A script that runs machines gives others, or a callable that
takes what the guest prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.terminal import Size


@dataclass(frozen=True, slots=True)
class HostIo:
    """Where a virtual machine's input comes from and where its output goes.

    All descriptors stay the caller's.

    Attributes:
        stdin: what is typed into the first serial port or, with ``--console tty``, into the virtio
            console; None for nothing.
        stdout: the same one's output, or with an exec command the command's; -1 if there is none,
            and the first byte for it ends the machine.
        stderr: with an exec command, its standard error, and that output.
        console: gets the first serial port's output in place of a descriptor, on a vCPU's thread.
        virtio_console: gets a ``tty`` virtio console's output in place of a descriptor, on a thread
            of the console's; what is typed there comes from `ConsoleLine.type_in` alone.
        interactive: whether stdin is a terminal in raw mode, so that Ctrl-A is ours.
        size: the terminal's size, if it has one.
    """

    stdin: int | None = 0
    stdout: int = 1
    stderr: int = 2
    console: Callable[[bytes], object] | None = None
    virtio_console: Callable[[bytes], object] | None = None
    interactive: bool = False
    size: Size | None = None
