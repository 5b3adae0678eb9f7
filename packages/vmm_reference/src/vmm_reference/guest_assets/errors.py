"""What can go wrong between "no guest yet" and "a kernel and an initramfs on disk".

::

    vmm_reference.errors.HostError
    └── GuestAssetsError     one sentence, the problem and the way out; `cause` says which it was

A caller prints the sentence and stops; nothing in this package raises anything else for a
reason that lies outside the program.
"""

from __future__ import annotations

from enum import Enum

from vmm_reference.errors import HostError


class Cause(Enum):
    """Why there is no guest."""

    NO_APT = "no apt"
    NO_NETWORK = "no network"
    NO_SOURCES = "no package sources"
    UNKNOWN_PACKAGE = "unknown package"
    TIMEOUT = "timeout"
    APT_FAILED = "apt failed"
    DISK_FULL = "disk full"
    CACHE_UNUSABLE = "cache unusable"
    BAD_PACKAGE = "bad package"
    NO_HOST_KERNEL = "no host kernel"
    NO_HOST_BUSYBOX = "no host busybox"
    BAD_COMMAND = "bad command"


WAY_OUT = "pass --kernel and --initramfs to boot files of your own"


class GuestAssetsError(HostError):
    """The default guest cannot be had; `cause` says which way it failed.

    The text is one sentence that names the cause and, after a semicolon, the way out.
    """

    def __init__(self, cause: Cause, problem: str, way_out: str = WAY_OUT) -> None:
        super().__init__(f"{problem}; {way_out}")
        self.cause = cause
        self.problem = problem
