"""The C machine's lifetime: it goes with the last of the VM and its vCPUs, in any order."""

from __future__ import annotations

from kvm_ioctls import KvmError
from soft_kvm import engine, layout
from soft_kvm._ffi import ffi, lib


class Machine:
    """A counted reference to a `struct sk_vm` and the memory that its slots borrow."""

    def __init__(self) -> None:
        self._layout = layout.find()  # C keeps a pointer to it
        self.vm = lib.sk_vm_new(self._layout, engine.HASWELL)
        if self.vm == ffi.NULL:
            raise KvmError(12, "KVM_CREATE_VM", "the Unicorn engine could not be opened")
        self.borrowed: dict[int, memoryview] = {}
        self.retired: list[memoryview] = []
        self._users = 1

    def retire(self, memory: memoryview, *, in_use: bool) -> None:
        """Gives a deleted slot's memory back: at once, or after the instruction under way."""
        self.retired.append(memory)
        if not in_use:
            self.let_go()

    def let_go(self) -> None:
        """Gives back what has been retired; no vCPU is in the middle of an instruction."""
        while self.retired:
            self.retired.pop().release()

    def hold(self) -> None:
        """One more user."""
        self._users += 1

    def drop(self) -> None:
        """One user less; the last one frees the machine, then lets go of the memory."""
        self._users -= 1
        if self._users:
            return
        lib.sk_vm_free(self.vm)
        for held in self.borrowed.values():
            held.release()
        self.borrowed.clear()
        self.let_go()
