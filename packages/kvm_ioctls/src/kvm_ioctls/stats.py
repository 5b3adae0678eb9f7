"""What KVM counts about a machine or a vCPU.

Source: Documentation/virt/kvm/api.rst, section 4.133, KVM_GET_STATS_FD.
"""

from __future__ import annotations

import os
import struct
from typing import NamedTuple

from kvm_ioctls._descriptor import Descriptor, Resource
from kvm_ioctls._ffi import ffi, lib

_HEADER = struct.Struct("=6I")
_DESCRIPTOR = struct.Struct("=IhHII")
_UNITS = ("", "bytes", "seconds", "cycles", "boolean")
_KINDS = ("cumulative", "instant", "peak", "linear histogram", "logarithmic histogram")


class Statistic(NamedTuple):
    """One counter, or a histogram.

    Attributes:
        name: the kernel's.
        values: one number, or one for each bucket of a histogram.
        kind: "cumulative", "instant", "peak", "linear histogram" or "logarithmic histogram".
        unit: "bytes", "seconds", "cycles", "boolean", or empty for plain counts.
        scale: what to multiply a value with to have it in `unit`, 1e-9 for nanoseconds.
        bucket_size: how wide the buckets of a linear histogram are.
    """

    name: str
    values: tuple[int, ...]
    kind: str
    unit: str
    scale: float
    bucket_size: int

    @property
    def value(self) -> int:
        """The number of a counter, the sum of a histogram."""
        return sum(self.values)


class StatsFd(Resource):
    """The statistics of one machine or vCPU, made by their `get_stats_fd()`; a context manager.

    Attributes:
        id: whose they are: "kvm-" and the process's number, "/vcpu-" and the vCPU's id.
    """

    def __init__(self, fd: Descriptor) -> None:
        self._fd = fd
        _, name_size, count, id_offset, at, self._data = _HEADER.unpack(
            os.pread(fd.fileno(), _HEADER.size, 0)
        )
        self.id = _text(os.pread(fd.fileno(), name_size, id_offset))
        size = ffi.sizeof("struct kvm_stats_desc") + name_size
        packed = os.pread(fd.fileno(), size * count, at)
        self._descriptors = [
            (*_DESCRIPTOR.unpack_from(packed, place), _text(packed[place + _DESCRIPTOR.size :]))
            for place in range(0, len(packed), size)
        ]

    def read(self) -> dict[str, Statistic]:
        """The present values by name."""
        end = max((d[3] + d[2] * 8 for d in self._descriptors), default=0)
        data = os.pread(self.fileno(), end, self._data)
        made = {}
        for flags, exponent, size, offset, bucket_size, name in self._descriptors:
            values = struct.unpack_from(f"={size}Q", data, offset)
            kind = _KINDS[flags & lib.KVM_STATS_TYPE_MASK]
            unit = _UNITS[(flags & lib.KVM_STATS_UNIT_MASK) >> lib.KVM_STATS_UNIT_SHIFT]
            base = 2 if flags & lib.KVM_STATS_BASE_MASK == lib.KVM_STATS_BASE_POW2 else 10
            scale = float(base) ** exponent
            made[name] = Statistic(name, values, kind, unit, scale, bucket_size)
        return made


class Statistics(Resource):
    """What has statistics."""

    def get_stats_fd(self) -> StatsFd:
        """KVM_GET_STATS_FD: counters of this object."""
        return StatsFd(self._fd.make("KVM_GET_STATS_FD", "StatsFd"))


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("ascii")
