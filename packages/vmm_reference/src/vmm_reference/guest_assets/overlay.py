"""The one file that turns an interactive guest into one that runs a command."""

from __future__ import annotations

import os

from vmm_reference.guest_assets import cpio
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

# Linux: MAX_ARG_STRLEN (include/uapi/linux/binfmts.h) is 32 pages, with the closing NUL.
MAX_COMMAND = 32 * 4096 - 1


def exec_overlay(command: str) -> bytes:
    """A small archive that makes the guest run `command` instead of an interactive shell.

    It goes behind the initramfs in memory (the kernel unpacks concatenated archives), so the
    command may hold any bytes but NUL; bytes that were no UTF-8 on the host's command line arrive
    as they were (PEP 383).

    Raises:
        GuestAssetsError: the command holds a NUL or is longer than one argument may be.
    """
    text = os.fsencode(command)
    if b"\0" in text:
        raise GuestAssetsError(
            Cause.BAD_COMMAND, "the command holds a NUL byte", "no shell can run that"
        )
    if len(text) > MAX_COMMAND:
        raise GuestAssetsError(
            Cause.BAD_COMMAND,
            f"the command is {len(text)} bytes long and Linux takes at most {MAX_COMMAND}",
            "put the script on a disk",
        )
    return cpio.write_archive([cpio.regular_file("etc/py-vmm/exec", text)])
