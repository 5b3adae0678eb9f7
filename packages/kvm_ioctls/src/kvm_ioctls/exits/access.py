"""The guest accesses a port, or memory that is not there: the frequent exits.

They are made in C (`_exits.c`), which fills the members of the classes that these derive from.
"""

from __future__ import annotations

from kvm_ioctls._run import IoExit, MmioExit
from kvm_ioctls.exits._base import ExitBase


class _Io(ExitBase, IoExit):
    __slots__ = ()
    __match_args__ = ("port", "size", "count", "data")


class IoIn(_Io):
    """The guest reads an I/O port: `count` elements of `size` bytes go into `data`."""

    __slots__ = ()


class IoOut(_Io):
    """The guest writes to an I/O port: `data` holds `count` elements of `size` bytes."""

    __slots__ = ()


class _Mmio(ExitBase, MmioExit):
    __slots__ = ()
    __match_args__ = ("address", "data")


class MmioRead(_Mmio):
    """The guest reads guest physical `address` where no memory is: fill `data` (1 to 8 bytes)."""

    __slots__ = ()


class MmioWrite(_Mmio):
    """The guest writes `data` (1 to 8 bytes) to `address`, where no writable memory is."""

    __slots__ = ()
