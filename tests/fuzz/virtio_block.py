"""The block device, on a file, against a guest that does anything.

The host fails now and then; the disk's file is as long as it was, whatever is written.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from _hostile_guest import LONG, play, refuse_fault

from virtio_devices import Block, RawImage

if TYPE_CHECKING:
    from _hostile_guest import Buffers, Guest
    from _script import Choices

SIZE = 1 << 18
SECTORS = SIZE // 512
PIECE = 16 * 512
LARGE = 80 * 512  # in ten pages, and more than one region of the guest's memory
_KINDS = (0, 1, 4, 8, 11, 13, 0, 1)  # IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES (§5.2.6)
_COUNTS = (0, 1, 8, SECTORS, SECTORS + 1)
_PLACES = (0, 1, 7, 16, 40, 90, 180, 300, SECTORS - 1, SECTORS, 2**55 - 1, 2**55, 2**64 - 1)


def _can_be_direct() -> bool:
    """Whether a file in memory may be opened past a page cache (since Linux 6.6)."""
    file = os.memfd_create("disk")
    try:
        os.close(os.open(f"/proc/self/fd/{file}", os.O_RDONLY | os.O_DIRECT))
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(file)


CAN_BE_DIRECT = _can_be_direct()


class Failing:
    """A backend that may refuse everything, or only transfers in C.

    Attributes:
        fails: whether everything does.
        transfer_fd: the file for transfers in C; one open for reading or for writing alone
            fails half of them. A device takes it when it is activated, while it is not -1.
    """

    def __init__(self, image: RawImage) -> None:
        self._image = image
        self.fails = False
        self.transfer_fd = image.transfer_fd

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._image, name)
        if not self.fails:
            return found
        return self._refuse if callable(found) else found

    def _refuse(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")


class Disk:
    """The device and its file, in memory."""

    def __init__(self, *, direct: bool = False) -> None:
        self._file = os.memfd_create("disk")
        os.truncate(self._file, SIZE)
        path = f"/proc/self/fd/{self._file}"
        self._image = RawImage(path, direct=direct and CAN_BE_DIRECT)
        self._halves = [os.open(path, flags) for flags in (os.O_RDONLY, os.O_WRONLY)]
        self._backend = Failing(self._image)
        self.device = Block(
            self._backend, serial=b"disk", queues=2, queue_size=LONG, report=refuse_fault
        )

    def request(self, choices: Choices) -> Buffers:
        """A header, and mostly the right data behind it; the status byte may be missing."""
        kind = choices.near(_KINDS, 4)
        header = struct.pack("<IIQ", kind, 0, choices.near(_PLACES, 8))
        readable = [header[: choices.near((16,) * 7, 1)]]
        if kind in (11, 13):
            readable += [self._range(choices) for _ in range(choices.below(3))]
        elif kind == 1:
            readable.append(choices.text(choices.near((512, 1024, 0, 8192, LARGE), 1)))
        room = [choices.near((512, 0, 511, 4096, LARGE), 1)] * (kind in (0, 8))
        return choices.below(8) // 7, readable, room + [1] * (choices.below(8) != 0)

    def _range(self, choices: Choices) -> bytes:
        flags = choices.near((0, 0, 1), 4)
        return struct.pack("<QII", choices.near(_PLACES, 8), choices.near(_COUNTS, 4), flags)

    def act(self, choices: Choices) -> None:
        """The host's disk fails from now on, or half of it, or no more; or its file is cut."""
        what = choices.below(5)
        self._backend.fails = what == 1
        self._backend.transfer_fd = {1: -1, 2: self._halves[0], 3: self._halves[1]}.get(
            what, self._image.transfer_fd
        )
        if what == 4:
            os.truncate(self._file, choices.near((0, 1000, SIZE // 2, SIZE), 2))

    def prove(self, guest: Guest) -> None:
        """What is written is in the file, and what is in the file is read, over many regions."""
        self._backend.fails = False
        self._backend.transfer_fd = self._image.transfer_fd
        os.truncate(self._file, SIZE)
        before = os.pread(self._file, SIZE, 0)
        text = bytes(range(251)) * (LARGE // 251) + bytes(LARGE % 251)
        start = 3 * 512
        guest.queues[0].add([struct.pack("<IIQ", 1, 0, 3), text], [1])
        assert [used.data for used in guest.fetch(0)] == [b"\0"]
        after = before[:start] + text + before[start + LARGE :]
        assert os.pread(self._file, SIZE + 1, 0) == after
        for first in range(0, SIZE, 4 * PIECE):  # four at a time, which may wait together
            for start in range(first, first + 4 * PIECE, PIECE):
                guest.queues[0].add([struct.pack("<IIQ", 0, 0, start // 512)], [PIECE, 1])
            data = [used.data for used in guest.fetch(0)]
            pieces = [after[start : start + PIECE] for start in range(first, SIZE, PIECE)]
            assert data == [piece + b"\0" for piece in pieces[:4]]

    def close(self) -> None:
        """Close the file."""
        self._image.close()
        for half in self._halves:
            os.close(half)
        os.close(self._file)


def one_input(data: bytes) -> None:
    """One script; its first byte says whether the file is used past the page cache."""
    play(lambda: Disk(direct=bool(data[:1]) and bool(data[0] & 1)), data)
