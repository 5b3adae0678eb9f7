"""As much of a vhost-user front-end as it takes to give a back-end one queue.

Messages and their order: "Vhost-user Protocol", QEMU's documentation (interop/vhost-user). What the
protocol calls addresses of this process are the guest's here.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

VERSION_1 = 1 << 32

_GET_FEATURES, _SET_FEATURES, _SET_OWNER, _SET_MEM_TABLE = 1, 2, 3, 5
_SET_VRING_NUM, _SET_VRING_ADDR, _SET_VRING_BASE = 8, 9, 10
_SET_VRING_KICK, _SET_VRING_CALL = 12, 13
_VERSION = 1
_header = struct.Struct("<III")  # request, flags, bytes that follow


class FrontEnd:
    """A connection to a back-end that listens at `path`."""

    def __init__(self, path: str) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        deadline = time.monotonic() + 10
        while self._socket.connect_ex(path):
            if time.monotonic() > deadline:
                raise TimeoutError(f"nobody listens at {path}")
            time.sleep(0.05)

    def start(
        self, memory: tuple[int, int], size: int, areas: Sequence[int], kick: int, call: int
    ) -> None:
        """Give the back-end memory (descriptor, bytes) and one queue of `size` entries."""
        fd, length = memory
        descriptors, avail, used = areas
        self._send(_SET_OWNER)
        if not self._features() & VERSION_1:
            raise ValueError("the back-end has no VERSION_1")
        self._send(_SET_FEATURES, struct.pack("<Q", VERSION_1))
        self._send(_SET_MEM_TABLE, struct.pack("<IIQQQQ", 1, 0, 0, length, 0, 0), [fd])
        self._send(_SET_VRING_NUM, struct.pack("<II", 0, size))
        self._send(_SET_VRING_BASE, struct.pack("<II", 0, 0))
        self._send(_SET_VRING_ADDR, struct.pack("<IIQQQQ", 0, 0, descriptors, used, avail, 0))
        self._send(_SET_VRING_CALL, struct.pack("<Q", 0), [call])
        self._send(_SET_VRING_KICK, struct.pack("<Q", 0), [kick])
        self._features()  # an answer: everything before it was taken

    def close(self) -> None:
        """End the connection, and with it the queue."""
        self._socket.close()

    def _features(self) -> int:
        self._send(_GET_FEATURES)
        _request, _flags, size = _header.unpack(self._receive(_header.size))
        (features,) = struct.unpack("<Q", self._receive(size))
        return int(features)

    def _send(self, request: int, payload: bytes = b"", fds: Sequence[int] = ()) -> None:
        message = _header.pack(request, _VERSION, len(payload)) + payload
        socket.send_fds(self._socket, [message], list(fds))

    def _receive(self, size: int) -> bytes:
        data = self._socket.recv(size, socket.MSG_WAITALL)
        if len(data) < size:
            raise ConnectionError("the back-end went away")
        return data
