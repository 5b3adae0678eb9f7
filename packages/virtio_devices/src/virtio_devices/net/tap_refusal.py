"""Why the kernel does not let us attach to a TAP interface, and the way out.

Its answer is a number that stands for several reasons; which one, the interface itself tells.
"""

from __future__ import annotations

import array
import errno
import fcntl
import socket
import struct

from virtio_devices.errors import os_reason

_SIOCETHTOOL = 0x8946
_ETHTOOL_GDRVINFO = 3
_drvinfo = struct.Struct("=I32s32s32s32s64x")  # cmd, driver, version, fw_version, bus_info, ...


def refusal_of(name: str, error: OSError, *, multi_queue: bool) -> str:
    """The rest of a sentence that says why.

    Args:
        name: the interface's; empty for a new one.
        error: what the kernel said.
        multi_queue: whether several queues were asked for.
    """
    if error.errno == errno.EPERM:
        return _not_permitted(name)
    if error.errno == errno.EBUSY:
        return "it is in use already"
    if error.errno == errno.EINVAL:
        return _wrong_kind(name, multi_queue=multi_queue)
    return os_reason(error)


def _not_permitted(name: str) -> str:
    command = f"ip tuntap add dev {name or 'NAME'} mode tap user USER"
    if _kind(name) is None:
        return f"not permitted; run as root, or let root create it for you with `{command}`"
    return f"it is another user's; run as root, or let root delete it and do `{command}`"


def _wrong_kind(name: str, *, multi_queue: bool) -> str:
    kind = _kind(name)
    if kind is None:
        return "the kernel makes no interface of this name"
    if kind != "tap":
        return "it is no TAP interface"
    if multi_queue:
        return "it was made for one pair of queues, without multi_queue"
    return "it was made for several pairs of queues, with multi_queue"


def _kind(name: str) -> str | None:
    """``tap`` or ``tun``, anything else for other interfaces, None if there is none (ethtool)."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return None
    info = array.array("B", _drvinfo.pack(_ETHTOOL_GDRVINFO, b"", b"", b"", b""))
    # The kernel writes into `info`, which lives until it has.
    request = struct.pack("16sP16x", name.encode(), info.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
        try:
            fcntl.ioctl(end, _SIOCETHTOOL, request)
        except OSError:  # a driver that tells nothing
            return ""
    _command, driver, _version, _firmware, bus = _drvinfo.unpack(info)
    return bus.rstrip(b"\0").decode() if driver.rstrip(b"\0") == b"tun" else ""
