"""A stock Linux kernel and a small root file system for whoever brings none.

`default_guest` finds them in the user's cache, or fetches Debian's cloud kernel and busybox with
`apt-get download` and builds the initramfs itself; on a host without apt it takes the host's own
kernel. Run `python -m vmm_reference.guest_assets` to do so ahead of time and see the paths.

The contract with the guest. COM1 (ttyS0) is the console. Without a command, an interactive shell
runs there, as large as `py_vmm.rows=` and `py_vmm.cols=` on the kernel's command line say, and the
guest powers off when the shell ends. With `exec_overlay(command)` appended to the initramfs,
`sh -c command` runs with /dev/null as its input, its output goes to COM2 (ttyS1), its errors to
COM3 (ttyS2), both as they are; when both have been sent, its exit status follows on COM4 (ttyS3) as
one decimal line and the guest powers off. A command that a signal ended has the status 128 plus
the signal's number.
"""

from __future__ import annotations

from vmm_reference.guest_assets.errors import Cause, GuestAssetsError
from vmm_reference.guest_assets.guest import KERNEL_WORDS, GuestImage, default_guest
from vmm_reference.guest_assets.overlay import exec_overlay

__all__ = [
    "KERNEL_WORDS",
    "Cause",
    "GuestAssetsError",
    "GuestImage",
    "default_guest",
    "exec_overlay",
]
