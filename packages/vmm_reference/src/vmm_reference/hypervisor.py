"""Choosing who runs the guest: KVM, or the emulator with KVM's face.

``auto`` takes KVM if it is there, may be used, and passes the probe of `vmm_reference.probe`;
otherwise it takes `soft_kvm` and logs one line that says why. ``kvm`` takes KVM whatever the probe
says, so that a small guest can run on a host whose KVM only emulates, and logs one line there.
Neither remembers anything.
"""

from __future__ import annotations

import enum
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vmm_reference.config import HypervisorChoice
from vmm_reference.errors import HypervisorUnavailable, OptionError
from vmm_reference.logs import NOTICE

if TYPE_CHECKING:
    import os

    from kvm_ioctls.protocols import Hypervisor
    from vmm_reference.config import CpusConfig

logger = logging.getLogger(__name__)

DEV_KVM = "/dev/kvm"
_API_VERSION = 12
"""The only one since Linux 2.6.22; any other must be refused (virt/kvm/api.rst §4.1)."""


class KvmState(enum.Enum):
    """What this host's KVM is good for."""

    STOCK = "stock"
    """It runs stock kernels."""
    EMULATING = "emulating"
    """It is there, and interprets kernel mode incompletely."""
    NO_KVM = "no-kvm"
    """It is absent or may not be used."""


@dataclass(frozen=True, slots=True)
class KvmReport:
    """The answer of `examine_kvm`.

    Attributes:
        state: what KVM is good for.
        reason: why it is not `KvmState.STOCK`; empty if it is.
        failed_step: the probe's first failed step, counted from 1; 0 if there is none.
    """

    state: KvmState
    reason: str = ""
    failed_step: int = 0

    def __str__(self) -> str:
        return f"{self.state.value}: {self.reason}" if self.reason else self.state.value


@dataclass(frozen=True, slots=True)
class OpenHypervisor:
    """A hypervisor, opened, and what it is.

    Attributes:
        hypervisor: the system object; the caller closes it.
        soft: whether it is `soft_kvm`.
    """

    hypervisor: Hypervisor
    soft: bool


def examine_kvm(path: str | os.PathLike[str] = DEV_KVM) -> KvmReport:
    """Open `path`, run the probe on it, and close it again."""
    try:
        kvm = _open_kvm(path)
    except OSError as error:
        return KvmReport(KvmState.NO_KVM, str(error))
    try:
        return _examine(kvm)
    finally:
        kvm.close()


def open_hypervisor(
    choice: HypervisorChoice, path: str | os.PathLike[str] = DEV_KVM
) -> OpenHypervisor:
    """Open the hypervisor that `choice` asks for.

    Args:
        choice: auto, kvm or soft.
        path: KVM's device.

    Raises:
        HypervisorUnavailable: it cannot be used here.
    """
    match choice:
        case HypervisorChoice.KVM:
            return _open_as_told(path)
        case HypervisorChoice.SOFT:
            return OpenHypervisor(_open_soft(), soft=True)
        case HypervisorChoice.AUTO:
            return _open_best(path)


def require_extensions(hypervisor: Hypervisor) -> None:
    """Refuse a hypervisor that lacks what a virtual machine is made with.

    Raises:
        HypervisorUnavailable: names what is missing.
    """
    from kvm_ioctls import Cap  # noqa: PLC0415  # whoever calls has loaded it

    required = (
        Cap.IRQCHIP,
        Cap.USER_MEMORY,
        Cap.SET_TSS_ADDR,
        Cap.SET_IDENTITY_MAP_ADDR,
        Cap.EXT_CPUID,
        Cap.PIT2,
        Cap.IRQFD,
        Cap.IOEVENTFD,
    )
    missing = [cap.name for cap in required if not hypervisor.check_extension(cap)]
    if missing:
        raise HypervisorUnavailable(f"this hypervisor lacks {', '.join(missing)}")


def refuse_too_many_cpus(hypervisor: Hypervisor, cpus: CpusConfig) -> None:
    """Refuse more processors than `hypervisor` can run.

    Raises:
        OptionError: says how many it can.
    """
    most = hypervisor.get_max_vcpus()
    if cpus.boot > most:
        reason = f"this hypervisor runs at most {most} processor{'s' if most > 1 else ''}"
        raise OptionError("--cpus", str(cpus), reason)


def _open_as_told(path: str | os.PathLike[str]) -> OpenHypervisor:
    try:
        kvm = _open_kvm(path)
    except OSError as error:
        raise HypervisorUnavailable(f"--hypervisor kvm: {error}") from error
    report = _examine(kvm)
    if report.state is KvmState.EMULATING:
        logger.log(
            NOTICE,
            "this KVM emulates and will probably fail (%s); --hypervisor soft works",
            report.reason,
        )
    return OpenHypervisor(kvm, soft=False)


def _open_best(path: str | os.PathLike[str]) -> OpenHypervisor:
    try:
        kvm = _open_kvm(path)
    except OSError as error:
        report = KvmReport(KvmState.NO_KVM, str(error))
    else:
        report = _examine(kvm)
        if report.state is KvmState.STOCK:
            return OpenHypervisor(kvm, soft=False)
        kvm.close()
    logger.log(NOTICE, "using the software hypervisor, because KVM is not usable here (%s)", report)
    return OpenHypervisor(_open_soft(), soft=True)


def _examine(kvm: Hypervisor) -> KvmReport:
    from vmm_reference.probe import run_probe  # noqa: PLC0415  # soft needs none

    try:
        result = run_probe(kvm)
    except OSError as error:
        return KvmReport(KvmState.NO_KVM, str(error))
    if result.runs_stock_kernels:
        return KvmReport(KvmState.STOCK)
    reason = f"probe step {result.failed_step}, {result.reason}"
    return KvmReport(KvmState.EMULATING, reason, result.failed_step)


def _open_kvm(path: str | os.PathLike[str]) -> Hypervisor:
    from kvm_ioctls import Kvm  # noqa: PLC0415  # soft does not need to load it

    kvm = Kvm(path)
    version = kvm.get_api_version()
    if version != _API_VERSION:
        kvm.close()
        raise OSError(f"{path} speaks version {version} of the KVM API, not {_API_VERSION}")
    return kvm


def _open_soft() -> Hypervisor:
    try:
        import soft_kvm  # noqa: PLC0415  # loads an emulator; only when it is used
    except ImportError as error:
        raise HypervisorUnavailable(f"--hypervisor soft: {error}") from error
    return soft_kvm.Kvm()
