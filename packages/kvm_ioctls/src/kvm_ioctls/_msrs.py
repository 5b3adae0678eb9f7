"""Model-specific registers: of a vCPU, and the host's features from the system."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING

from kvm_ioctls import _lists
from kvm_ioctls._arguments import elements, wrong_type
from kvm_ioctls._descriptor import Resource
from kvm_ioctls.errors import MsrError
from kvm_ioctls.structs import MsrEntry

if TYPE_CHECKING:
    from collections.abc import Iterable

_MSRS_PER_CALL = 128  # KVM takes fewer than 256 (MAX_IO_MSRS in arch/x86/kvm/x86.c)


class ReadableMsrs(Resource):
    """What has model-specific registers to read."""

    def get_msrs(self, indices: Iterable[int]) -> dict[int, int]:
        """KVM_GET_MSRS: the values of model-specific registers by index.

        Raises:
            MsrError: KVM refuses one of them, and says which.
        """
        entries = self._msrs(
            "KVM_GET_MSRS", (MsrEntry(index=i) for i in elements("indices", indices))
        )
        return {entry.index: entry.data for entry in entries}

    def _msrs(self, request: str, entries: Iterable[MsrEntry]) -> list[MsrEntry]:
        done: list[MsrEntry] = []
        rest = iter(entries)
        while batch := list(islice(rest, _MSRS_PER_CALL)):
            packed = _lists.pack("struct kvm_msrs", MsrEntry, batch)
            processed = self._fd.ioctl_buffer(request, packed)
            if processed < len(batch):
                raise MsrError(batch[processed].index, request)
            done += _lists.unpack("struct kvm_msrs", MsrEntry, packed)
        return done


class Msrs(ReadableMsrs):
    """What has model-specific registers to read and write."""

    def set_msrs(self, values: Mapping[int, int]) -> None:
        """KVM_SET_MSRS, in the order of `values`.

        Raises:
            MsrError: KVM refuses one of them, and says which; the ones before it are set.
        """
        if not isinstance(values, Mapping):
            raise wrong_type("values", "a mapping", values)
        self._msrs("KVM_SET_MSRS", (MsrEntry(index=i, data=v) for i, v in values.items()))
