"""The package as a whole: its public names, its protocols, what importing it costs."""

from __future__ import annotations

import doctest
import inspect
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

import kvm_ioctls
from kvm_ioctls import Cap, Kvm, Mmio, Pio, VcpuFd, VmFd, protocols
from kvm_ioctls._ffi import lib


@pytest.mark.parametrize(
    ("protocol", "cls"),
    [(protocols.Hypervisor, Kvm), (protocols.Vm, VmFd), (protocols.Vcpu, VcpuFd)],
)
def test_the_classes_satisfy_the_protocols(protocol, cls):
    """Each method of a protocol is there with the same parameters (mypy checks their types).

    What it has beyond them may be left out.
    """
    for name, wanted in inspect.getmembers(protocol, inspect.isfunction):
        if name in {"__init__", "__subclasshook__"} or name.startswith("_no_init"):
            continue
        names = list(inspect.signature(wanted).parameters)
        ours = list(inspect.signature(getattr(cls, name)).parameters.values())
        assert [one.name for one in ours[: len(names)]] == names, name
        assert all(one.default is not one.empty for one in ours[len(names) :]), name


def test_every_public_name_is_explained():
    """Docstrings are where documentation comes from."""
    for name in kvm_ioctls.__all__:
        value = getattr(kvm_ioctls, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert inspect.getdoc(value), name


def test_capabilities_have_the_header_s_numbers():
    """Spot checks against api.rst, and no two names for one number."""
    assert (Cap.IRQCHIP, Cap.USER_MEMORY, Cap.IMMEDIATE_EXIT, Cap.XSAVE2) == (0, 3, 136, 208)
    assert len(set(Cap)) == len(Cap.__members__)


def test_request_numbers_are_kvm_s():
    """Type 0xAE, and the numbers of api.rst."""
    assert lib.KVM_RUN == 0xAE80
    assert lib.KVM_SET_USER_MEMORY_REGION & 0xFFFF == 0xAE46
    # KVM's own directions, which differ from what the calls do.
    assert lib.KVM_SET_IRQCHIP >> 30 == 2
    assert lib.KVM_GET_DIRTY_LOG >> 30 == 1


def test_addresses_are_values():
    """Equal to their own kind only, hashable, immutable."""
    assert Pio(0x60) == Pio(0x60) != Pio(0x61)
    assert Pio(0x60) != Mmio(0x60)
    assert len({Pio(1), Pio(1), Mmio(1)}) == 2
    assert (repr(Pio(0x60)), repr(Mmio(4096))) == ("Pio(0x60)", "Mmio(0x1000)")
    with pytest.raises(AttributeError):
        Pio(0x60).port = 5


def test_importing_is_cheap():
    """Less than 30 ms of processor time beyond bare Python, compiled files at hand.

    Measured against bare Python's own start, for processors differ: that takes some 15 ms where the
    limit is 30, and what is asserted is twice the ratio (shared machines are noisy).
    """

    def cost(code: str) -> float:
        environment = os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
        best = 1e9
        for _ in range(5):
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            used = after.ru_utime + after.ru_stime
            best = min(best, used - before.ru_utime - before.ru_stime)
        return best

    bare = cost("pass")
    assert cost("import kvm_ioctls") - bare < 4 * max(bare, 0.015)


def test_the_readme_s_example():
    """It prints what it says, with KVM and without."""
    readme = Path(__file__).parents[1] / "README.md"
    failed, tried = doctest.testfile(str(readme), module_relative=False)
    assert tried > 3
    assert failed == 0
