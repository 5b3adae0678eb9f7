"""A network interface of the host: its addresses, its MTU, and whether it is up (netdevice(7)).

Nothing is set that is so already: what root has prepared can be asked for without rights.
"""

from __future__ import annotations

import errno
import fcntl
import socket
import struct
from typing import TYPE_CHECKING

from vmm_reference.errors import HostError
from vmm_reference.os_reason import os_reason

if TYPE_CHECKING:
    from ipaddress import IPv4Interface
    from types import TracebackType
    from typing import Self

_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914  # SIOC*IF*, include/uapi/linux/sockios.h
_GET_ADDRESS, _SET_ADDRESS = 0x8915, 0x8916
_GET_MASK, _SET_MASK = 0x891B, 0x891C
_GET_MTU, _SET_MTU = 0x8921, 0x8922
_SET_MAC, _GET_MAC = 0x8924, 0x8927
_UP = 1
_ETHERNET = 1  # ARPHRD_ETHER

_ifreq = struct.Struct("16s24s")
_sockaddr_in = struct.Struct("=H2x4s8x")


class HostInterface:
    """One interface, by its name; a context manager.

    Args:
        name: the interface's, in this process's network namespace.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)

    def set_mtu(self, mtu: int) -> None:
        """Let packets have `mtu` bytes.

        Raises:
            HostError: the kernel does not do it.
        """
        if self._get(_GET_MTU)[:4] != struct.pack("i", mtu):
            self._set(
                _SET_MTU, struct.pack("i", mtu), f"mtu {mtu}", f"link set {self.name} mtu {mtu}"
            )

    def set_mac(self, mac: bytes) -> None:
        """Give it a hardware address of 6 bytes.

        Raises:
            HostError: the kernel does not do it.
        """
        if self._get(_GET_MAC)[2:8] != mac:
            text = mac.hex(":")
            address = struct.pack("=H", _ETHERNET) + mac
            self._set(_SET_MAC, address, f"address {text}", f"link set {self.name} address {text}")

    def set_address(self, address: IPv4Interface) -> None:
        """Give it an address and a mask.

        Raises:
            HostError: the kernel does not do it.
        """
        command = f"address add {address} dev {self.name}"
        for get, change, wanted in (
            (_GET_ADDRESS, _SET_ADDRESS, address.ip),
            (_GET_MASK, _SET_MASK, address.netmask),
        ):
            if self._address(get) != wanted.packed:
                packed = _sockaddr_in.pack(socket.AF_INET, wanted.packed)
                self._set(change, packed, f"address {address}", command)

    def bring_up(self) -> None:
        """Let it carry packets.

        Raises:
            HostError: the kernel does not do it.
        """
        (flags,) = struct.unpack_from("H", self._get(_GET_FLAGS))
        if not flags & _UP:
            self._set(_SET_FLAGS, struct.pack("H", flags | _UP), "up", f"link set {self.name} up")

    def close(self) -> None:
        """Close the socket by which the interface is reached."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _address(self, request: int) -> bytes | None:
        try:
            return bytes(_sockaddr_in.unpack_from(self._get(request))[1])
        except OSError as error:
            if error.errno != errno.EADDRNOTAVAIL:  # it has none
                raise
            return None

    def _get(self, request: int) -> bytes:
        answer = fcntl.ioctl(self._socket, request, _ifreq.pack(self.name.encode(), b""))
        return bytes(_ifreq.unpack(answer)[1])

    def _set(self, request: int, value: bytes, what: str, command: str) -> None:
        try:
            fcntl.ioctl(self._socket, request, _ifreq.pack(self.name.encode(), value))
        except OSError as error:
            reason = os_reason(error)
            if error.errno == errno.EPERM:
                reason = f"not permitted; let root do it with `ip {command}`"
            raise HostError(f"--net: cannot set {self.name} {what}: {reason}") from error
