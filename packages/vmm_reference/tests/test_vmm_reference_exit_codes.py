"""How an end becomes an exit code."""

from __future__ import annotations

import errno

import pytest

from vmm_reference import errors
from vmm_reference.exec_session import ExecSession
from vmm_reference.exit_codes import EndKind, VmExit


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (EndKind.POWERED_OFF, 0),
        (EndKind.STOPPED, 0),
        (EndKind.ERROR, 1),
        (EndKind.RESET, 32),
        (EndKind.TRIPLE_FAULT, 33),
        (EndKind.PANIC, 34),
        (EndKind.HYPERVISOR_FAILED, 35),
    ],
)
def test_table(kind, code):
    """Each end has the documented code."""
    assert VmExit(kind).code == code


def test_signal():
    """A signal's code is 128 and its number."""
    assert VmExit.by_signal(15).code == 143


@pytest.mark.parametrize(("number", "code"), [("EPIPE", 141), ("EIO", 129), ("ENOSPC", 1)])
def test_lost_stdout(number, code):
    """As a program ends by SIGPIPE or SIGHUP; anything else is the host's failure."""
    error = OSError(getattr(errno, number), "told so")
    assert VmExit.by_lost_stdout(error).code == code


def test_a_full_disk_below_stdout_is_one_sentence():
    """The system's reason, without its number."""
    end = VmExit.by_lost_stdout(OSError(errno.ENOSPC, "No space left on device"))
    assert str(end) == "the VMM failed: cannot write to stdout: no space left on device"


def test_every_end_has_a_code():
    """No end is without a code."""
    assert all(VmExit(kind).code >= 0 for kind in EndKind)


def test_text_says_kind_and_detail():
    """The text is a sentence's worth."""
    assert str(VmExit(EndKind.RESET)) == "the guest reset"
    assert str(VmExit(EndKind.ERROR, "disk full")) == "the VMM failed: disk full"


def test_errors_know_their_code():
    """What the caller did wrong is 2, what the host cannot do is 1."""
    assert errors.OptionError("--x", "1", "no").exit_code == 2
    assert errors.InputFileError("--kernel", "/x", "no").exit_code == 2
    assert errors.HypervisorUnavailable("no").exit_code == 1
    assert errors.VmStateError("no").exit_code == 1


@pytest.fixture
def session():
    """A session whose output goes into lists."""
    return ExecSession(lambda _data: None, lambda _data: None)


@pytest.mark.parametrize(
    ("chunks", "status"),
    [
        ([b"7\n"], 7),
        ([b"1", b"2", b"7", b"\n"], 127),
        ([b"0\n"], 0),
        ([b"3\n4\n"], 3),
        ([b" 5\r\n"], 5),
        ([b"12"], None),
        ([b"x\n"], None),
        ([b"\n"], None),
        ([b"1000\n"], None),
        ([b"x\n", b"9\n"], 9),
        ([b"1" * 100000], None),
    ],
)
def test_status_line(session, chunks, status):
    """The status is one decimal line in any number of pieces; anything else is not a status."""
    for chunk in chunks:
        session.take_status(chunk)
    assert session.status == status


def test_command_decides_when_it_ended(session):
    """The exit code is the command's once it is known, however the machine ended."""
    session.take_status(b"7\n")
    assert session.exit_code(VmExit(EndKind.POWERED_OFF)) == 7
    assert session.exit_code(VmExit(EndKind.RESET)) == 7
    assert session.complaint(VmExit(EndKind.RESET)) == ""


def test_machine_decides_when_the_command_did_not_end(session):
    """Without a status the machine's end counts, and the user is told."""
    end = VmExit(EndKind.PANIC)
    assert session.exit_code(end) == 34
    assert session.complaint(end) == "the guest's kernel panicked before the command had ended"


@pytest.mark.parametrize("kind", [EndKind.POWERED_OFF, EndKind.STOPPED])
def test_a_command_that_never_ended_is_no_success(session, kind):
    """What is 0 for a machine is a failure for the command that it was started for."""
    assert session.exit_code(VmExit(kind)) == 1
    assert session.complaint(VmExit(kind)).endswith("before the command had ended")


def test_signal_decides_always(session):
    """Whoever killed the process hears of it, and nothing else is said."""
    session.take_status(b"7\n")
    assert session.exit_code(VmExit.by_signal(2)) == 130
    assert session.complaint(VmExit.by_signal(2)) == ""


def test_status_is_announced_once():
    """The arrival of the status is told once."""
    announced = []
    session = ExecSession(print, print, lambda: announced.append(True))
    session.take_status(b"1\n")
    session.take_status(b"2\n")
    assert announced == [True]
    assert session.status == 1


def test_reset_before_any_output_may_be_a_panic(session):
    """A panic before the guest can tell of it looks like a reset; the sentence helps on."""
    reset = VmExit(EndKind.RESET)
    assert session.complaint(reset) == (
        "the guest reset while booting (a kernel panic? try --serial tty or more memory)"
    )
    session.stderr(b"rebooting")
    assert session.complaint(reset) == "the guest reset before the command had ended"
