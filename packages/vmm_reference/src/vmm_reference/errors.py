"""What can go wrong in the application, as one tree.

::

    VmmError                     every failure that the VMM names, with its `exit_code`
    ├── UsageError               the caller asked for something that cannot be (exit code 2)
    │   ├── OptionError          a flag's value: `flag`, `value`, `reason`
    │   └── InputFileError       a file named by the caller: `flag`, `path`, `reason`
    ├── HostError                this host cannot do it (exit code 1)
    │   └── HypervisorUnavailable  no usable hypervisor for the one that was asked for
    └── VmStateError             a method called at the wrong point of a VM's life (exit code 1)

Building blocks below raise their own errors; `vmm_reference.cli` turns each into one sentence.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, ClassVar

from vmm_reference.exit_codes import ExitCode
from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    from typing import Self


class VmmError(Exception):
    """Base of every failure that the VMM names; its text is one sentence."""

    exit_code: ClassVar[ExitCode] = ExitCode.HOST_ERROR


class UsageError(VmmError):
    """The caller asked for something that cannot be."""

    exit_code = ExitCode.USAGE


class OptionError(UsageError):
    """A flag's value is not one that it takes.

    Attributes:
        flag: the flag, e.g. ``--memory``.
        value: what was given.
        reason: what is wrong with it, and what would be right.
    """

    def __init__(self, flag: str, value: str, reason: str) -> None:
        super().__init__(f"{flag} {value!r}: {reason}")
        self.flag = flag
        self.value = value
        self.reason = reason


class InputFileError(UsageError):
    """A file that the caller named cannot be used.

    Attributes:
        flag: the flag that named it, e.g. ``--kernel``.
        path: the file.
        reason: what is wrong with it, the rest of a sentence that begins with it.
    """

    def __init__(self, flag: str, path: str | os.PathLike[str], reason: str) -> None:
        # A path may hold bytes that are no text; they are shown as \\xff.
        shown = os.fsencode(path).decode(errors="backslashreplace")
        super().__init__(f"{flag} {shown} {reason}")
        self.flag = flag
        self.path = path
        self.reason = reason

    @classmethod
    def unusable(cls, flag: str, path: str | os.PathLike[str], error: OSError) -> Self:
        """The error that says of a file what the system said of it."""
        return cls(flag, path, f"cannot be used: {os_reason(error)}")


class HostError(VmmError):
    """This host cannot do what a valid request needs."""


class HypervisorUnavailable(HostError):  # noqa: N818  # a state of the host, named as such
    """The hypervisor that was asked for cannot be used here; the text says why and what to do."""


class VmStateError(VmmError):
    """A method was called at the wrong point of a virtual machine's life."""
