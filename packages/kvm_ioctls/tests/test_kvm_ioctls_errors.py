"""Errors: one sentence with the value in it and the way out."""

from __future__ import annotations

import copy
import errno
import os

import pytest

from kvm_ioctls import (
    Cap,
    Kvm,
    KvmClosedError,
    KvmError,
    KvmUnavailable,
    MsrError,
    NotInHeaderError,
    VcpuBusyError,
    errors,
)
from kvm_ioctls._ffi import lib
from kvm_ioctls.requests import CAPABILITIES

KNOWN = {*CAPABILITIES, *(name for name in dir(lib) if name.startswith("KVM_"))}


def test_the_tree():
    """System failures are OSErrors, mistakes of the caller are not."""
    assert issubclass(KvmError, OSError)
    assert issubclass(KvmUnavailable, KvmError)
    assert issubclass(MsrError, KvmError)
    assert issubclass(KvmClosedError, ValueError)
    assert issubclass(VcpuBusyError, RuntimeError)


def test_a_failed_ioctl_names_itself_and_the_way_out():
    """The ioctl, the errno in words and by name, the hint."""
    error = KvmError(errno.EEXIST, "KVM_CREATE_IRQCHIP")
    assert (error.errno, error.ioctl) == (errno.EEXIST, "KVM_CREATE_IRQCHIP")
    assert str(error) == (
        "KVM_CREATE_IRQCHIP failed: File exists (EEXIST); the virtual machine has an irqchip"
    )
    assert str(KvmError(errno.EBADF, "KVM_X")) == "KVM_X failed: Bad file descriptor (EBADF)"


@pytest.mark.parametrize(
    ("request_name", "code", "way_out"),
    [
        ("KVM_SET_CPUID2", errno.E2BIG, "too many entries"),
        ("KVM_SET_PMU_EVENT_FILTER", errno.E2BIG, "a filter has at most 300 events"),
        ("KVM_GET_DEVICE_ATTR", errno.ENOENT, "there is no such attribute"),
        ("KVM_SET_DEVICE_ATTR", errno.ENXIO, "there is no such attribute"),
        ("KVM_CREATE_DEVICE", errno.ENODEV, "this KVM has no device of this type"),
        ("KVM_RUN", errno.EIO, "KVM objects belong to the process that made them"),
        ("KVM_RUN", errno.EPERM, "the sandbox or a security module forbids it"),
        ("KVM_CREATE_VM", errno.ENOMEM, "the host's memory"),
    ],
)
def test_the_way_out(request_name, code, way_out):
    """The common cases have one."""
    assert f"({errno.errorcode[code]}); {way_out}" in str(KvmError(code, request_name))


def test_hints_are_of_requests_that_there_are():
    """A misspelt request would never find its hint."""
    assert [name for name, _ in errors._HINTS if name not in KNOWN] == []


def test_an_older_kernel_is_named_as_the_cause():
    """ENOTTY says which capability the kernel lacks, as far as one is known."""
    missing = "Inappropriate ioctl for device (ENOTTY); this KVM has no such request"
    assert str(KvmError(errno.ENOTTY, "KVM_X")) == f"KVM_X failed: {missing}"
    assert str(KvmError(errno.ENOTTY, "KVM_SMI")).endswith(
        f"{missing}: it comes with KVM_CAP_X86_SMM"
    )


def test_what_was_asked_is_in_the_message():
    """The arguments, in short."""
    error = KvmError(errno.EEXIST, "KVM_CREATE_VCPU", arguments="0x3")
    assert str(error).startswith("KVM_CREATE_VCPU(0x3) failed: File exists (EEXIST); ")


def test_the_capabilities_exist():
    """Each capability is one that KVM can be asked for, each request one that there is."""
    for request, name in CAPABILITIES.items():
        assert name in Cap.__members__, request
        assert request.startswith("KVM_ARM_") or isinstance(getattr(lib, request), int)


def test_a_refused_msr_names_itself():
    """The register's index is in the message and in an attribute."""
    error = MsrError(0xC0000080, "KVM_SET_MSRS")
    assert error.index == 0xC0000080
    assert "0xc0000080" in str(error)


@pytest.mark.parametrize(
    "error",
    [
        KvmError(errno.EINVAL, "KVM_SET_SREGS"),
        KvmUnavailable(errno.EACCES, "/dev/kvm"),
        MsrError(5, "KVM_GET_MSRS"),
        KvmClosedError("VmFd"),
        NotInHeaderError("struct kvm_vcpu_init"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_can_be_copied(error):
    """Across processes, for instance."""
    copied = copy.copy(error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)


def test_a_missing_device(tmp_path):
    """One sentence says what is missing and what to do."""
    with pytest.raises(KvmUnavailable) as caught:
        Kvm(tmp_path / "kvm")
    assert caught.value.errno == errno.ENOENT
    assert str(caught.value).startswith(f"cannot open {tmp_path}/kvm: no such file or directory; ")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EACCES, "permission denied; add yourself to the group kvm, or run as root"),
        (errno.EPERM, "operation not permitted; the sandbox or container forbids the device"),
        (errno.ENODEV, "no such device; the processor or the firmware offers no virtualization"),
        (errno.EMFILE, "too many open files"),
    ],
)
def test_a_device_that_cannot_be_opened(monkeypatch, code, message):
    """The hint is what can be done about it, where that is known."""

    def refuse(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(KvmUnavailable) as caught:
        Kvm()
    assert str(caught.value) == f"cannot open /dev/kvm: {message}"


def test_another_device():
    """Something that is not KVM is closed again and named."""
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
    with pytest.raises(KvmUnavailable) as caught:
        Kvm("/dev/null")
    assert caught.value.errno == errno.ENOTTY
    assert str(caught.value).endswith("it is not a KVM device")
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - names are enough


def test_another_version(monkeypatch):
    """A KVM of another API version is not used."""
    monkeypatch.setattr(Kvm, "get_api_version", lambda _: 11)
    with pytest.raises(KvmUnavailable, match="version 11"):
        Kvm("/dev/null")
