"""Memory encryption: AMD SEV and Intel TDX.

Sources: Documentation/virt/kvm/x86/amd-memory-encryption.rst and intel-tdx.rst.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvm_ioctls._arguments import wrong_type
from kvm_ioctls._descriptor import Resource, record

if TYPE_CHECKING:
    from kvm_ioctls.run_page import WritableBuffer

_COMMAND = 24  # bytes of struct kvm_sev_cmd, and of struct kvm_tdx_cmd


class Encryption(Resource):
    """Commands to whatever encrypts the guest's memory; of virtual machines, and vCPUs with TDX."""

    def memory_encrypt_op(self, command: WritableBuffer | None = None) -> int:
        """KVM_MEMORY_ENCRYPT_OP.

        Args:
            command: `struct kvm_sev_cmd` or `struct kvm_tdx_cmd` with whatever they point to kept
                alive by the caller; the kernel writes its answer there.  None asks whether the
                machine can encrypt at all.

        Raises:
            ValueError: it is read-only, or shorter than either structure.
        """
        if command is None:
            return self._fd.ioctl("KVM_MEMORY_ENCRYPT_OP")
        try:
            view = memoryview(command)
        except TypeError:
            raise wrong_type("command", "a writable buffer", command) from None
        # The request's number has the size of a pointer; the kernel takes the structure's.
        if view.readonly or view.nbytes < _COMMAND:
            what = "read-only ones" if view.readonly else f"{view.nbytes}"
            raise ValueError(f"command is at least {_COMMAND} writable bytes, not {what}")
        return self._fd.ioctl_buffer("KVM_MEMORY_ENCRYPT_OP", view)


class EncryptedMemory(Encryption):
    """Regions of the host's memory that encrypted guests use."""

    def register_enc_memory_region(self, address: int, size: int) -> None:
        """KVM_MEMORY_ENCRYPT_REG_REGION: pins `size` bytes at the host's `address`."""
        region = record("struct kvm_enc_region", {"addr": address, "size": size})
        self._fd.ioctl_record("KVM_MEMORY_ENCRYPT_REG_REGION", region)

    def unregister_enc_memory_region(self, address: int, size: int) -> None:
        """KVM_MEMORY_ENCRYPT_UNREG_REGION."""
        region = record("struct kvm_enc_region", {"addr": address, "size": size})
        self._fd.ioctl_record("KVM_MEMORY_ENCRYPT_UNREG_REGION", region)
