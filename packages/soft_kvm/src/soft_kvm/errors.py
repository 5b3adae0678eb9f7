"""What can go wrong beyond what KVM itself answers.

::

    RuntimeError
    └── EngineError          the Unicorn engine is missing or unusable
        └── UnknownLayout    this build of it keeps its CPU state in a way that we do not know

Everything that KVM refuses, soft_kvm refuses with the same `kvm_ioctls.KvmError` and errno.
"""

from __future__ import annotations


class EngineError(RuntimeError):
    """The Unicorn engine is missing or unusable."""


class UnknownLayout(EngineError):  # noqa: N818 - a property of the engine's build
    """The engine's CPU state is laid out in a way that we do not know; see `soft_kvm.layout`."""
