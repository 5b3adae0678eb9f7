"""The block device, on a file, against a guest that does anything.

The host fails now and then; the disk's file is as long as it was, whatever is written.
"""

from __future__ import annotations

import errno
import os
import struct
from typing import TYPE_CHECKING, Any

from _hostile_guest import play, refuse_fault

from virtio_devices import Block, RawImage

if TYPE_CHECKING:
    from _hostile_guest import Buffers, Guest
    from _script import Choices

SIZE = 1 << 18
SECTORS = SIZE // 512
_KINDS = (0, 1, 4, 8, 11, 13, 0, 1)  # IN, OUT, FLUSH, GET_ID, DISCARD, WRITE_ZEROES (§5.2.6)
_COUNTS = (0, 1, 8, SECTORS, SECTORS + 1)
_PLACES = (0, 1, 7, SECTORS - 1, SECTORS, 2**55 - 1, 2**55, 2**64 - 1)


class Failing:
    """A backend that may refuse everything."""

    def __init__(self, image: RawImage) -> None:
        self._image = image
        self.fails = False

    @property
    def transfer_fd(self) -> int:
        """The file for transfers in C, unless they are to fail."""
        return -1 if self.fails else self._image.transfer_fd

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._image, name)
        if not self.fails:
            return found
        return self._refuse if callable(found) else -1 if name == "transfer_fd" else found

    def _refuse(self, *_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "no room")


class Disk:
    """The device and its file, in memory."""

    def __init__(self) -> None:
        self._file = os.memfd_create("disk")
        os.truncate(self._file, SIZE)
        self._image = RawImage(f"/proc/self/fd/{self._file}")
        self._backend = Failing(self._image)
        self.device = Block(self._backend, serial=b"disk", queues=2, report=refuse_fault)

    def request(self, choices: Choices) -> Buffers:
        """A header, and mostly the right data behind it; the status byte may be missing."""
        kind = choices.near(_KINDS, 4)
        header = struct.pack("<IIQ", kind, 0, choices.near(_PLACES, 8))
        readable = [header[: choices.near((16, 16, 16), 1)]]
        if kind in (11, 13):
            readable += [self._range(choices) for _ in range(choices.below(3))]
        elif kind == 1:
            readable.append(choices.text(choices.near((512, 1024, 0), 1)))
        room = [choices.near((512, 0, 511, 4096), 1)] * (kind in (0, 8))
        return choices.below(2), readable, room + [1] * (choices.below(8) != 0)

    def _range(self, choices: Choices) -> bytes:
        flags = choices.near((0, 0, 1), 4)
        return struct.pack("<QII", choices.near(_PLACES, 8), choices.near(_COUNTS, 4), flags)

    def act(self, choices: Choices) -> None:
        """The host's disk fails from now on, or no more."""
        self._backend.fails = bool(choices.below(2))

    def prove(self, guest: Guest) -> None:
        """A sector is written and read."""
        self._backend.fails = False
        text = b"a sector".ljust(512)
        for kind, data, room in ((1, [text], []), (0, [], [512])):
            guest.queues[0].add([struct.pack("<IIQ", kind, 0, 3), *data], [*room, 1])
            (used,) = guest.fetch(0)
            assert used.data == (text if room else b"") + b"\0"
        assert os.fstat(self._file).st_size == SIZE

    def close(self) -> None:
        """Close the file."""
        self._image.close()
        os.close(self._file)


def one_input(data: bytes) -> None:
    """One script."""
    play(Disk, data)
