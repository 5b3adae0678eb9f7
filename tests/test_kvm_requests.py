"""The documentation's table of KVM's requests is made of the code and of real runs."""

from __future__ import annotations

import json

import pytest

from kvm_ioctls.requests import CAPABILITIES
from tools import kvm_requests

pytestmark = pytest.mark.skipif(
    not kvm_requests.RECORD.exists(), reason="the documentation's sources are not here"
)


@pytest.fixture(scope="module")
def methods():
    """Requests and their methods."""
    return kvm_requests.methods()


def test_methods_are_found_through_private_ones(methods):
    """A request that a public method leaves to a private one counts as its own."""
    assert methods["KVM_CREATE_VCPU"] == ["VmFd.create_vcpu"]
    assert methods["KVM_IOEVENTFD"] == ["VmFd.register_ioevent", "VmFd.unregister_ioevent"]
    assert set(methods["KVM_GET_MSRS"]) == {"Kvm.get_msrs", "VcpuFd.get_msrs"}
    assert methods["KVM_RUN"] == ["VcpuFd.run"]


def test_every_request_with_a_capability_has_a_method(methods):
    """Nothing that the errors explain is missing in the table."""
    assert set(CAPABILITIES) - set(methods) == set()


def test_the_record_names_requests_that_there_are(methods):
    """A request that was renamed or dropped leaves the record too."""
    for names in json.loads(kvm_requests.RECORD.read_text()).values():
        assert set(names) - set(methods) == set()


def test_the_table_has_a_line_for_each_request(methods):
    """Requests that no real KVM has answered are in it, without a yes."""
    lines = kvm_requests.table().splitlines()
    assert len(lines) == 2 + len(methods)
    arm = next(line for line in lines if "KVM_ARM_VCPU_INIT" in line)
    assert "yes" not in arm
    assert "`VcpuFd.vcpu_init()`" in arm


def test_every_request_has_been_shown_right():
    """By a real KVM; or its bytes by a listener, its layout by a header."""
    for line in kvm_requests.table().splitlines()[2:]:
        assert any(cell.strip() for cell in line.split("|")[4:-1]), line


def test_answers_are_read_from_the_results():
    """The properties of all test cases together."""
    results = """<testsuites><testsuite><testcase><properties>
    <property name="ioctls" value="KVM_RUN KVM_NMI"/><property name="heard" value="KVM_SMI"/>
    </properties></testcase><testcase><properties><property name="ioctls" value="KVM_NMI"/>
    </properties></testcase></testsuite></testsuites>"""
    assert kvm_requests.noted(results, "ioctls") == {"KVM_RUN", "KVM_NMI"}
    assert kvm_requests.noted(results, "heard") == {"KVM_SMI"}
