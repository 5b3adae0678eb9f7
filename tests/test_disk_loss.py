"""A stock kernel writes and syncs until its VMM is killed: what it was told to be safe is there."""

from __future__ import annotations

import random
import re
import signal
import subprocess

import pytest

from vmm_reference.guest_assets import default_guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(200)]

BLOCK = 4096
BLOCKS = 512
# Each block is full of its number; the number is printed when fsync(2) has returned.
LOAD = f"""
    number=0
    while [ $number -lt {BLOCKS} ]; do
        number=$((number + 1))
        yes $number | head -c {BLOCK} |
            dd of=/dev/vda bs={BLOCK} seek=$((number - 1)) conv=fsync,notrunc 2>/dev/null || exit 1
        echo $number
    done
"""


def block(number):
    line = b"%d\n" % number
    return (line * (BLOCK // len(line) + 1))[:BLOCK]


@pytest.mark.parametrize("seed", range(2))
def test_a_killed_vmm_loses_no_synced_block(vmm_command, tmp_path, seed):
    """SIGKILL after a random number of blocks: the file holds each block that was synced."""
    default_guest()
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(BLOCK * BLOCKS))
    wanted = random.Random(seed).randint(3, 25)  # noqa: S311
    command = [vmm_command, "--hypervisor", "soft", "--disk", f"path={disk}", "--exec", LOAD]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        said = b"".join(process.stdout.readline() for _ in range(wanted))
        process.send_signal(signal.SIGKILL)
        said += process.stdout.read()
        errors = process.stderr.read()
    assert process.returncode == -signal.SIGKILL, errors
    numbers = [int(line) for line in re.findall(rb"^\d+$(?=\n)", said, re.MULTILINE)]
    assert len(numbers) >= wanted
    data = disk.read_bytes()
    lost = [n for n in numbers if data[BLOCK * (n - 1) : BLOCK * n] != block(n)]
    assert lost == []
