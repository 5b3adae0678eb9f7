"""Which hypervisors the suite judges, and what it needs to know of them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))  # guests, machine, probes

from machine import Machine
from probes import missing_for_stock_kernels

from kvm_ioctls import Kvm, KvmUnavailable


def open_hypervisor(name: str):
    """The hypervisor called `name`, or a skip that says why not."""
    if name == "kvm":
        try:
            return Kvm()
        except KvmUnavailable as error:
            pytest.skip(str(error))
    try:
        return importlib.import_module("soft_kvm").Kvm()
    except (ImportError, AttributeError) as error:
        pytest.skip(f"soft_kvm cannot be used: {error}")


@pytest.fixture(params=[pytest.param("kvm", marks=pytest.mark.kvm), "soft"])
def hypervisor(request):
    """Each hypervisor in turn, open."""
    with open_hypervisor(request.param) as opened:
        opened.name = request.param
        yield opened


@pytest.fixture
def make_machine(hypervisor):
    """Makes machines that end with the test."""
    made = []

    def make(**options) -> Machine:
        made.append(Machine(hypervisor, **options))
        return made[-1]

    yield make
    for machine in made:
        machine.close()


@pytest.fixture
def machine(make_machine):
    """A machine with 256 KiB, one vCPU and no interrupt controllers."""
    return make_machine()


@pytest.fixture
def irq_machine(make_machine):
    """The same with interrupt controllers."""
    return make_machine(irqchip=True)


@pytest.fixture(scope="session")
def _kvm_lacks():
    """What the host's KVM lacks for stock kernels, or ''."""
    with open_hypervisor("kvm") as kvm:
        return missing_for_stock_kernels(kvm)


@pytest.fixture
def stock(hypervisor, request):
    """Skips where the host's KVM cannot run what every stock kernel needs.

    The host's KVM is taken as it is; an implementation of our own has to pass.
    """
    if hypervisor.name == "kvm":
        lacks = request.getfixturevalue("_kvm_lacks")
        if lacks:
            pytest.skip(f"this KVM cannot run stock kernels: {lacks}")


@pytest.fixture
def needs(hypervisor):
    """`needs(probe)`: skips when the host's KVM fails `probe(hypervisor)`, which says how."""

    def check(probe) -> None:
        if hypervisor.name == "kvm" and (lacks := probe(hypervisor)):
            pytest.skip(f"this KVM differs: {lacks}")

    return check


@pytest.fixture
def soft_kvm_differs(hypervisor, request):
    """`soft_kvm_differs(how)`: the test must fail on soft_kvm, as its README says."""

    def note(how: str) -> None:
        if hypervisor.name == "soft":
            request.applymarker(pytest.mark.xfail(reason=how, strict=True))

    return note
