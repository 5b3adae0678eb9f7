"""TAP interfaces: a network card of the host whose cable ends in descriptors of this process.

See Documentation/networking/tuntap.rst and include/uapi/linux/if_tun.h of Linux. A driver's
offloads pass through: the kernel takes and gives frames with a `virtio_net_hdr` before them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import warnings

from virtio_devices.errors import TapError, VirtioUsageError, os_reason
from virtio_devices.net.features import GUEST_OFFLOADS, NetFeature
from virtio_devices.net.frame import HEADER_SIZE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType
    from typing import Self

_DEVICE = "/dev/net/tun"

_TUNSETIFF = 0x400454CA
_TUNSETOFFLOAD = 0x400454D0
_TUNGETIFF = 0x800454D2
_TUNSETVNETHDRSZ = 0x400454D8
_TUNSETQUEUE = 0x400454D9
_TUNSETVNETLE = 0x400454DC

_IFF_TAP = 0x0002
_IFF_MULTI_QUEUE = 0x0100
_IFF_ATTACH_QUEUE = 0x0200
_IFF_DETACH_QUEUE = 0x0400
_IFF_NO_PI = 0x1000
_IFF_VNET_HDR = 0x4000
_NEEDED = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR

_ifreq = struct.Struct("16sH22x")
_NAME_SIZE = 15  # IFNAMSIZ without the zero at the end

# TUN_F_* of what the guest can be given. Those of USO the kernel takes together alone.
_USO = int(NetFeature.GUEST_USO4 | NetFeature.GUEST_USO6)
_OFFLOAD_FLAGS = (
    (int(NetFeature.GUEST_CSUM), 0x01),
    (int(NetFeature.GUEST_TSO4), 0x02),
    (int(NetFeature.GUEST_TSO6), 0x04),
    (int(NetFeature.GUEST_ECN), 0x08),
    (int(NetFeature.GUEST_UFO), 0x10),
    (_USO, 0x60),
)

# What the guest may send: the kernel takes these from every tap that has headers, and USO if it
# gives USO.
_HOST_FEATURES = int(
    NetFeature.CSUM
    | NetFeature.HOST_TSO4
    | NetFeature.HOST_TSO6
    | NetFeature.HOST_ECN
    | NetFeature.HOST_UFO
)


class Tap:
    """A TAP interface with one descriptor for each pair of queues; a `NetBackend`.

    Make one with `open` or `from_fds`. It owns its descriptors.

    Attributes:
        name: the interface's name.
        features: the `NetFeature` bits that this kernel can do for it.
    """

    def __init__(self, name: str, fds: Sequence[int]) -> None:
        self._fds = tuple(fds)
        self._active = len(self._fds)
        self.name = name
        try:
            self._prepare()
            self.features = _HOST_FEATURES | self._probe_offloads()
            if self.features & _USO:
                self.features |= int(NetFeature.HOST_USO)
        except TapError:
            self._fds = ()
            raise

    @classmethod
    def open(cls, name: str = "", *, queues: int = 1) -> Self:
        """Attach to an interface, or create one that goes when it is closed.

        Args:
            name: of the interface; empty, or with ``%d`` in it, the kernel finds a free one.
            queues: pairs of queues, each with a descriptor of its own.

        Raises:
            TapError: there is no such interface to be had.
            VirtioUsageError: a name that no interface can have, or no queues.
        """
        if queues < 1:
            raise VirtioUsageError(f"a TAP interface cannot have {queues} queues")
        if not name.isascii() or len(name) > _NAME_SIZE or "\0" in name:
            raise VirtioUsageError(f"{name!r} is no name of 15 ASCII characters at most")
        fds: list[int] = []
        try:
            for _ in range(queues):
                fds.append(_open_device(name))
                name = _attach(fds[-1], name, multi_queue=queues > 1)
            return cls(name, fds)
        except TapError:
            for fd in fds:
                os.close(fd)
            raise

    @classmethod
    def from_fds(cls, fds: Sequence[int]) -> Self:
        """Take over descriptors of one interface that somebody else has attached to.

        Args:
            fds: one for each pair of queues, attached with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR.
                They become non-blocking and belong to the new object, unless this fails.

        Raises:
            TapError: they are nothing of the kind.
            VirtioUsageError: there are none.
        """
        if not fds:
            raise VirtioUsageError("a TAP interface cannot have 0 queues")
        names = {_identify(fd) for fd in fds}
        if len(names) > 1:
            raise TapError("", None, f"descriptors of different interfaces: {sorted(names)}")
        for fd in fds:
            os.set_blocking(fd, False)
        return cls(names.pop(), fds)

    @property
    def queue_fds(self) -> tuple[int, ...]:
        """Non-blocking descriptors, one for each pair of queues; none once it is closed."""
        return self._fds

    def set_offloads(self, features: int) -> None:
        """Let the kernel give such frames from now on, and no others; see `NetBackend`.

        Raises:
            TapError: the kernel does not do it.
        """
        if features & ~(self.features & GUEST_OFFLOADS):
            raise TapError(
                self.name, None, f"TAP interface {self.name} has no offloads {features:#x}"
            )
        flags = sum(flag for feature, flag in _OFFLOAD_FLAGS if features & feature == feature)
        self._ioctl(_TUNSETOFFLOAD, flags, "set its offloads")

    def set_active_queues(self, count: int) -> None:
        """Let the kernel spread frames over the first `count` descriptors; see `NetBackend`.

        Raises:
            TapError: the kernel does not do it.
            VirtioUsageError: there are fewer, or none are wanted.
        """
        if not 1 <= count <= len(self._fds):
            raise VirtioUsageError(f"{count} active queues of {len(self._fds)}")
        while self._active != count:
            attach = self._active < count
            fd = self._fds[self._active if attach else self._active - 1]
            flags = _IFF_ATTACH_QUEUE if attach else _IFF_DETACH_QUEUE
            self._ioctl(_TUNSETQUEUE, _ifreq.pack(b"", flags), "attach or detach a queue", fd)
            self._active += 1 if attach else -1

    def close(self) -> None:
        """Close the descriptors; an interface that `open` created goes. Twice is once."""
        fds, self._fds = self._fds, ()
        for fd in fds:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_fds", ()):
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<Tap {self.name} with {len(self._fds)} queues>"

    def _prepare(self) -> None:
        """The header as VERSION_1 has it: 12 bytes, little-endian (virtio 1.2 §5.1.6)."""
        self._ioctl(_TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE), "set its header's size")
        self._ioctl(_TUNSETVNETLE, struct.pack("i", 1), "set its header's byte order")

    def _probe_offloads(self) -> int:
        """What the kernel accepts, found by asking; afterwards nothing is on."""
        found = 0
        on = 0
        for feature, flag in _OFFLOAD_FLAGS:
            try:
                fcntl.ioctl(self._fds[0], _TUNSETOFFLOAD, on | flag)
            except OSError:
                continue
            found |= feature
            on |= flag
        self._ioctl(_TUNSETOFFLOAD, 0, "set its offloads")
        return found

    def _ioctl(self, request: int, argument: int | bytes, what: str, fd: int | None = None) -> None:
        """By the first descriptor, which is always attached, unless it is about another one."""
        try:
            fcntl.ioctl(self._fds[0] if fd is None else fd, request, argument)
        except OSError as error:
            message = f"TAP interface {self.name} does not {what}: {os_reason(error)}"
            raise TapError(self.name, error.errno, message) from error


def _open_device(name: str) -> int:
    try:
        return os.open(_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        way_out = {
            errno.ENOENT: "; load the kernel's module tun",
            errno.EACCES: "; run as root, or pass on the descriptor of a TAP interface",
        }.get(error.errno or 0, "")
        message = f"cannot open {_DEVICE}: {os_reason(error)}{way_out}"
        raise TapError(name, error.errno, message) from error


def _attach(fd: int, name: str, *, multi_queue: bool) -> str:
    """Make `fd` a queue of an interface; returns the interface's name."""
    flags = _NEEDED | (_IFF_MULTI_QUEUE if multi_queue else 0)
    try:
        answer = fcntl.ioctl(fd, _TUNSETIFF, _ifreq.pack(name.encode(), flags))
    except OSError as error:
        # Only now: it asks through a socket, whose module takes 2 ms to import.
        from virtio_devices.net.tap_refusal import refusal_of  # noqa: PLC0415

        reason = refusal_of(name, error, multi_queue=multi_queue)
        message = f"cannot attach to TAP interface {name or '(a new one)'}: {reason}"
        raise TapError(name, error.errno, message) from error
    return _name_of(answer)


def _identify(fd: int) -> str:
    """The interface of a descriptor that can be used, else TapError."""
    try:
        answer = fcntl.ioctl(fd, _TUNGETIFF, bytes(_ifreq.size))
    except OSError as error:
        message = f"descriptor {fd} is attached to no TAP interface: {os_reason(error)}"
        raise TapError("", error.errno, message) from error
    name = _name_of(answer)
    flags = _ifreq.unpack(answer)[1]
    if flags & _NEEDED != _NEEDED:
        message = (
            f"descriptor {fd} of {name} was attached with flags {flags:#x}, which lack some of"
            f" IFF_TAP, IFF_NO_PI and IFF_VNET_HDR ({_NEEDED:#x})"
        )
        raise TapError(name, None, message)
    return name


def _name_of(ifreq: bytes) -> str:
    return str(_ifreq.unpack(ifreq)[0].rstrip(b"\0").decode())
