"""The command line: flags in, one sentence and an exit code out."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from vmm_reference import cli, flags
from vmm_reference.config import SerialMode
from vmm_reference.event_loop import EventLoop
from vmm_reference.host_io import HostIo
from vmm_reference.logs import NOTICE, LogSetup
from vmm_reference.serial_lines import SerialLines

POWER_OFF = bytes.fromhex("ba00060000 b034 ee f4")
RESET = bytes.fromhex("b0fe e664 f4")


def config(*arguments):
    return flags.config_from_args(flags.make_parser().parse_args(arguments))


@pytest.fixture
def soft(capsys, elf_kernel, monkeypatch):
    """A function that runs the command on `soft_kvm` and returns code, stdout and stderr."""

    def run(*arguments, kernel=None):
        if kernel is not None:
            arguments = ("--kernel", str(elf_kernel(kernel)), *arguments)
        code = cli.main(["--hypervisor", "soft", "--memory", "size=32M", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def test_defaults():
    """Without flags it is the default machine."""
    assert config().serial.mode is SerialMode.TTY
    assert config().payload.kernel is None


def test_exec_leaves_the_console_out():
    """With a command stdout is the command's, unless the console is asked for."""
    assert config("--exec", "true").serial.mode is SerialMode.NULL
    assert config("--exec", "true", "--serial", "tty").serial.mode is SerialMode.TTY


def test_one_terminal():
    """A console on the terminal leaves the serial port none, unless that is asked for."""
    assert config("--console", "tty").serial.mode is SerialMode.NULL
    assert config("--console", "pty").serial.mode is SerialMode.TTY
    assert config("--console", "tty", "--serial", "tty").serial.mode is SerialMode.TTY


def test_every_flag_has_an_example():
    """The help of every flag that takes a value shows how it is used."""
    for action in flags.make_parser()._actions:
        takes_value = action.option_strings and action.nargs != 0 and action.dest != "help"
        if takes_value:
            assert f"({action.option_strings[-1]} " in action.help, action.option_strings


def test_poweroff_is_success(soft):
    """A guest that powers off ends the command with 0 and silence."""
    assert soft("--serial", "null", kernel=POWER_OFF) == (0, "", "")


def test_reset_is_told(soft):
    """A guest that resets ends the command with 32 and a sentence."""
    code, _out, err = soft("--serial", "null", kernel=RESET)
    assert code == 32
    assert err == "vmm-reference: the guest reset\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--memory", "size=0"], ["--memory", "size=0", "needs some memory"]),
        (["--memory", "512M"], ["--memory", "512M", "perhaps size=512M?"]),
        (["--memory", ""], ["--memory ''", "size=512M"]),
        (["--cpus", ""], ["--cpus ''", "boot=1"]),
        (["--cpus", "boot=0"], ["--cpus", "at least one"]),
        (["--serial", "telegraph"], ["--serial", "telegraph", "file=PATH"]),
        (["--console", "telegraph"], ["--console", "telegraph", "pty", "file=PATH"]),
        (["--console", "tty", "--serial", "tty"], ["--console 'tty'", "--serial null"]),
        (["--console", "file=/no/such/folder/x"], ["--console", "/no/such/folder/x"]),
        (["--hypervisor", "xen"], ["--hypervisor", "xen", "auto, kvm, soft"]),
        (["--kernel", "/does/not/exist"], ["--kernel", "/does/not/exist"]),
        (["--kernel", "/"], ["--kernel", "/"]),
        (["--serial", "file=/no/such/folder/x"], ["--serial", "/no/such/folder/x"]),
        (["--log-file", "/no/such/folder/x"], ["--log-file", "/no/such/folder/x"]),
        (["--initramfs", "/does/not/exist"], ["--initramfs", "/does/not/exist"]),
        (["--cmdline", "x" * 5000], ["--cmdline", "5000", "too long"]),
        (["--cmdline", "é"], ["--cmdline", "é"]),
    ],
)
def test_bad_input_is_one_sentence(soft, arguments, words):
    """A wrong value ends with 2 and one line that names flag, value and reason."""
    code, out, err = soft(*arguments, kernel=POWER_OFF)
    assert (code, out) == (2, "")
    assert err.startswith("vmm-reference: ")
    assert err.count("\n") == 1
    assert [word for word in words if word not in err] == []


def test_initramfs_larger_than_memory(soft, tmp_path):
    """An initramfs that does not fit is named, with the way out."""
    path = tmp_path / "big"
    path.write_bytes(b"")
    os.truncate(path, 40 << 20)
    code, _out, err = soft("--initramfs", str(path), kernel=POWER_OFF)
    assert code == 2
    assert str(path) in err
    assert "more memory" in err


def test_empty_initramfs(soft, tmp_path):
    """An empty file is no initramfs."""
    path = tmp_path / "empty"
    path.write_bytes(b"")
    code, _out, err = soft("--initramfs", str(path), kernel=POWER_OFF)
    assert code == 2
    assert str(path) in err


def test_last_resort(soft, monkeypatch):
    """A bug is a sentence too, and -vv shows the traceback."""
    monkeypatch.setattr(cli, "config_from_args", lambda _args: 1 // 0)
    code, _out, err = soft()
    assert code == 1
    assert err.startswith("vmm-reference: this is a bug in vmm-reference: ZeroDivisionError")
    assert "Traceback" not in err
    assert "Traceback" in soft("-vv")[2]


@pytest.mark.parametrize("arguments", [["--no-such-flag"], ["--memory"], ["extra"], ["--mem", "x"]])
def test_usage_is_one_line(capsys, arguments):
    """What the parser refuses is one line, and flags are not guessed from abbreviations."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    err = capsys.readouterr().err
    assert err.startswith("vmm-reference: ")
    assert err.count("\n") == 1


def test_version_lists_the_packages(capsys):
    """--version names this package and those that it is made of."""
    with pytest.raises(SystemExit) as caught:
        cli.main(["--version"])
    assert caught.value.code == 0
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[0] == "vmm-reference"
    assert {"kvm-ioctls", "linux-loader", "vm-memory"} <= set(names)


def test_log_goes_to_the_file(soft, tmp_path):
    """With a log file stderr stays silent."""
    path = tmp_path / "log"
    code, _out, err = soft("-v", "--log-file", str(path), "--serial", "null", kernel=POWER_OFF)
    assert (code, err) == (0, "")
    assert "built in" in path.read_text()


PRINT_AND_POWER_OFF = bytes.fromhex("66baf803 b058 ee") + POWER_OFF


def command(*arguments):
    return [sys.executable, "-m", "vmm_reference", "--hypervisor", "soft", *map(str, arguments)]


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_closed_descriptors_are_not_reused(elf_kernel, tmp_path, closed):
    """With closed standard descriptors the guest writes into no file that was opened later."""
    kernel, log = elf_kernel(PRINT_AND_POWER_OFF), tmp_path / "log"
    arguments = command("--kernel", kernel, "--memory", "size=32M", "-vv", "--log-file", log)
    script = ["sh", "-c", f'"$@" {closed}', "sh", *arguments]
    ended = subprocess.run(script, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == (b"" if " >&-" in f" {closed}" else b"X")
    assert "\nX" not in log.read_text()
    assert log.read_text().startswith("20")


@pytest.mark.parametrize(
    ("arguments", "stdout"), [(["--exec", "true"], -1), (["--serial", "tty"], 1)]
)
def test_a_closed_stdout(arguments, stdout):
    """A console may print into nothing, a command may not."""
    assert cli._stdout(config(*arguments), frozenset({0, 1})) == stdout
    assert cli._stdout(config(*arguments), frozenset({0, 2})) == 1


def test_a_command_that_prints_without_a_stdout():
    """Its first byte ends the machine, which says why."""
    ends = []
    with EventLoop(pytest.fail) as loop:
        lines = SerialLines(config("--exec", "true"), HostIo(stdout=-1), loop, ends.append)
        assert ends == []
        lines.session.stdout(b"x")
        lines.close()
    assert ends[0].code == 1
    assert "cannot write to stdout" in str(ends[0])


def test_a_full_disk_below_the_serial_port_is_named(caplog):
    """Its file and the system's reason, once."""
    with EventLoop(pytest.fail) as loop:
        lines = SerialLines(config("--serial", "file=/dev/full"), HostIo(), loop, pytest.fail)
        for _ in range(3):
            lines.lines[0].output(b"x")
        lines.close()
    reason = "no space left on device"
    assert caplog.messages == [f"serial output to /dev/full is lost from here on: {reason}"]


def test_notices_are_not_called_warnings(capsys):
    """What is not wrong is told without a word of alarm; what is wrong, with it."""
    setup = LogSetup(0, None)
    logger = logging.getLogger("vmm_reference.test")
    logger.log(NOTICE, "the guest is %s", "ready")
    logger.warning("careful")
    logger.info("unheard")
    setup.close()
    assert capsys.readouterr().err == "the guest is ready\nwarning: careful\n"


@pytest.mark.parametrize("log", [["--log-file", "/dev/full"], ["--log-file=/dev/full", "-vv"]])
def test_log_on_a_full_disk(elf_kernel, log):
    """A log that cannot be written is told once and changes no exit code."""
    arguments = command("--kernel", elf_kernel(RESET), "--memory", "size=32M", "-v", *log)
    ended = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert ended.returncode == 32
    assert ended.stderr.splitlines() == [
        "vmm-reference: the log cannot be written: no space left on device",
        "vmm-reference: the guest reset",
    ]


def test_full_stderr(elf_kernel):
    """Where messages cannot be written the exit code is still the guest's."""
    arguments = command("--kernel", elf_kernel(RESET), "--memory", "size=32M", "-vv")
    with Path("/dev/full").open("w") as full:
        assert subprocess.run(arguments, stderr=full, check=False).returncode == 32
        assert subprocess.run(command("--no-such"), stderr=full, check=False).returncode == 2


@pytest.mark.parametrize("flag", ["--help", "--version"])
@pytest.mark.parametrize(
    ("where", "reason"),
    [(">/dev/full", "no space left on device"), (">&-", "bad file descriptor")],
)
def test_answer_that_cannot_be_written(flag, where, reason):
    """Help and versions that reach nobody are one sentence and a failure."""
    script = ["sh", "-c", f'"$@" {where}', "sh", *command(flag)]
    ended = subprocess.run(script, capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr == f"vmm-reference: cannot write to standard output: {reason}\n"


SLOW_APT = """#!/bin/sh
sleep 60 & echo $! > "$PIDS.new"; mv "$PIDS.new" "$PIDS"
wait
"""


def runs(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_during_the_first_fetch(tmp_path, number):
    """A signal ends the fetching of a guest at once, and what fetches it."""
    for name in ("apt-get", "apt-cache"):
        (tmp_path / name).write_text(SLOW_APT)
        (tmp_path / name).chmod(0o755)
    pids = tmp_path / "pids"
    path = f"{tmp_path}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PIDS": str(pids), "XDG_CACHE_HOME": str(tmp_path)}
    # whoever runs the tests in the background may have SIGINT ignored
    default = ["env", f"--default-signal={signal.Signals(number).name[3:]}"]
    with subprocess.Popen([*default, *command("--exec", "true")], env=env) as process:
        deadline = time.monotonic() + 30
        while not pids.exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(20) == 128 + number
    deadline = time.monotonic() + 5
    while runs(pids.read_text().strip()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not runs(pids.read_text().strip())


LISTED = """
import sys
import {module}
print("\\n".join(sys.modules))
"""


def loaded_by(module):
    command = [sys.executable, "-c", LISTED.format(module=module)]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_package_alone_loads_nothing():
    """Importing the package does not import what runs machines."""
    assert not {"kvm_ioctls", "soft_kvm", "argparse"} & loaded_by("vmm_reference")


def test_command_line_loads_no_hypervisor():
    """Help, and a misspelt flag, are answered without what runs machines."""
    modules = loaded_by("vmm_reference.cli")
    assert not {"kvm_ioctls", "soft_kvm", "vm_memory", "linux_loader", "logging"} & modules


def test_machine_loads_no_more_than_it_uses():
    """The emulator, the guest's fetching and the probe are loaded only when they are used."""
    modules = loaded_by("vmm_reference.vm")
    unused = {"soft_kvm", "unicorn", "vmm_reference.guest_assets", "vmm_reference.probe"}
    assert not (unused | {"asyncio", "subprocess", "urllib.request", "ssl"}) & modules
