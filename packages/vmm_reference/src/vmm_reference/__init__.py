"""A virtual machine monitor in Python: the application on top of the py-vmm building blocks.

The command is ``vmm-reference``; the same virtual machine is an object for scripts. This one runs
a command in the default guest and takes its output:

    >>> from vmm_reference import HostIo, PayloadConfig, Vm, VmConfig
    >>> config = VmConfig(payload=PayloadConfig(exec_command="uname -sm"))
    >>> with Vm(config) as vm:  # doctest: +SKIP
    ...     end = vm.run()
    Linux x86_64
    >>> vm.exit_code  # doctest: +SKIP
    0

How it is made, from the outside in: `cli` turns flags into a `VmConfig`; `Vm` builds the machine,
starts its threads and knows how it ended; `hypervisor` chooses between KVM and `soft_kvm`;
`payload` loads what the guest runs; `device_manager` puts devices on the buses, `virtio` makes
and runs the virtio ones; `vcpu` runs the
guest and hands its accesses to them. `arch` holds what is particular to x86-64, `legacy` and
`acpi` the platform, `guest_assets` the default guest.

Names are imported when they are first used: a program that only reads a configuration loads no
hypervisor.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vmm_reference.config import (
        CpusConfig,
        HypervisorChoice,
        MemoryConfig,
        PayloadConfig,
        SerialConfig,
        SerialMode,
        VmConfig,
    )
    from vmm_reference.console_line import ConsoleLine
    from vmm_reference.errors import (
        HostError,
        HypervisorUnavailable,
        InputFileError,
        OptionError,
        UsageError,
        VmmError,
        VmStateError,
    )
    from vmm_reference.exit_codes import EndKind, ExitCode, VmExit
    from vmm_reference.host_io import HostIo
    from vmm_reference.hypervisor import (
        KvmReport,
        KvmState,
        OpenHypervisor,
        examine_kvm,
        open_hypervisor,
    )
    from vmm_reference.virtio_config import (
        ConsoleConfig,
        ConsoleMode,
        DiskConfig,
        NetConfig,
        RngConfig,
        VirtioTransport,
    )
    from vmm_reference.vm import Vm

__all__ = [
    "ConsoleConfig",
    "ConsoleLine",
    "ConsoleMode",
    "CpusConfig",
    "DiskConfig",
    "EndKind",
    "ExitCode",
    "HostError",
    "HostIo",
    "HypervisorChoice",
    "HypervisorUnavailable",
    "InputFileError",
    "KvmReport",
    "KvmState",
    "MemoryConfig",
    "NetConfig",
    "OpenHypervisor",
    "OptionError",
    "PayloadConfig",
    "RngConfig",
    "SerialConfig",
    "SerialMode",
    "UsageError",
    "VirtioTransport",
    "Vm",
    "VmConfig",
    "VmExit",
    "VmStateError",
    "VmmError",
    "examine_kvm",
    "open_hypervisor",
]

_HOMES = {
    "config": (
        "CpusConfig",
        "HypervisorChoice",
        "MemoryConfig",
        "PayloadConfig",
        "SerialConfig",
        "SerialMode",
        "VmConfig",
    ),
    "console_line": ("ConsoleLine",),
    "errors": (
        "HostError",
        "HypervisorUnavailable",
        "InputFileError",
        "OptionError",
        "UsageError",
        "VmStateError",
        "VmmError",
    ),
    "exit_codes": ("EndKind", "ExitCode", "VmExit"),
    "host_io": ("HostIo",),
    "hypervisor": (
        "KvmReport",
        "KvmState",
        "OpenHypervisor",
        "examine_kvm",
        "open_hypervisor",
    ),
    "virtio_config": (
        "ConsoleConfig",
        "ConsoleMode",
        "DiskConfig",
        "NetConfig",
        "RngConfig",
        "VirtioTransport",
    ),
    "vm": ("Vm",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a public name from its module (PEP 562)."""
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
