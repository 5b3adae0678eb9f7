"""Disks and random numbers under a stock kernel's own drivers, on what boots one."""

from __future__ import annotations

import hashlib
import os
import random
import re
import shutil
import struct
import subprocess

import pytest

from vmm_reference.guest_assets import default_guest
from vmm_reference.hypervisor import KvmState, examine_kvm

pytestmark = [pytest.mark.boot, pytest.mark.timeout(300)]

MIB = 1 << 20
TIMEOUT = 250
# Debian has them outside of a user's PATH.
PATH = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


@pytest.fixture(params=["soft", pytest.param("kvm", marks=pytest.mark.stock_kvm)])
def boot(request, vmm):
    """A function that boots the default guest on one hypervisor."""
    if request.param == "kvm" and (kvm := examine_kvm()).state is not KvmState.STOCK:
        pytest.skip(f"this KVM cannot run stock kernels: {kvm}")

    default_guest()  # the first use says so on standard error

    def run(*arguments):
        return vmm("--hypervisor", request.param, *arguments, timeout=TIMEOUT)

    return run


def tool(*command):
    """Runs a program of e2fsprogs; skips where it is missing."""
    program = shutil.which(command[0], path=PATH)
    if program is None:
        pytest.skip(f"needs {command[0]} (Debian: e2fsprogs)")
    done = subprocess.run([program, *map(str, command[1:])], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def filesystem(path, tree, size=48 * MIB):
    """Makes an ext4 file system with a copy of the folder `tree`."""
    path.touch()
    os.truncate(path, size)
    tool("mkfs.ext4", "-q", "-F", "-d", tree, path)


def check_clean(path):
    """Fails unless fsck finds nothing, not even a journal to replay."""
    tool("e2fsck", "-f", "-n", path)
    assert b"needs_recovery" not in tool("dumpe2fs", "-h", path)


def require_direct(path):
    """Skips where a file cannot be opened past the page cache (tmpfs before Linux 6.6)."""
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_DIRECT))
    except OSError as error:
        pytest.skip(f"no O_DIRECT here: {error}")


def noise(size, seed):
    return random.Random(seed).randbytes(size)  # noqa: S311 - the same in each run


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_data_disks_are_the_same_on_both_sides(boot, tmp_path, transport):
    """What the host wrote the guest reads, and the other way round, by their hashes."""
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(noise(8 * MIB, 1))
    target.write_bytes(bytes(4 * MIB))
    script = """
        sha256sum </dev/vda
        dd if=/dev/urandom of=/dev/vdb bs=1M 2>/dev/null
        sync
        echo 3 >/proc/sys/vm/drop_caches
        sha256sum </dev/vdb
        cat /sys/block/vda/serial /sys/block/vda/ro /sys/block/vdb/ro
        echo x 2>/dev/null >/dev/vda || echo refused
    """
    ended = boot(
        *("--disk", f"path={source},readonly=on,serial=source-1"),
        *("--disk", f"path={target},num_queues=2,queue_size=64"),
        *("--virtio-transport", transport),
        *("--exec", script),
    )
    read, written, *rest = ended.stdout.decode().splitlines()
    assert read.split()[0] == hashlib.sha256(source.read_bytes()).hexdigest()
    assert written.split()[0] == hashlib.sha256(target.read_bytes()).hexdigest()
    assert target.read_bytes() != bytes(4 * MIB)
    assert rest == ["source-11", "0", "refused"]
    assert (ended.code, ended.stderr) == (0, "")


def test_direct_disk(boot, tmp_path):
    """The same past the host's page cache."""
    disk = tmp_path / "disk"
    disk.write_bytes(noise(2 * MIB, 2))
    require_direct(disk)
    before = hashlib.sha256(disk.read_bytes()).hexdigest()
    script = "sha256sum </dev/vda; dd if=/bin/busybox of=/dev/vda bs=4k count=64 2>/dev/null; sync"
    ended = boot("--disk", f"path={disk},direct=on", "--exec", script)
    assert ended.stdout.decode().split()[0] == before
    assert disk.read_bytes()[:4] == b"\x7fELF"
    assert (ended.code, ended.stderr) == (0, "")


def test_file_system_on_a_disk(boot, tmp_path):
    """A host's ext4: mounted, read, written, trimmed, synced, and clean afterwards."""
    tree, disk = tmp_path / "tree", tmp_path / "disk"
    tree.mkdir()
    (tree / "from-host").write_bytes(noise(3 * MIB, 3))
    filesystem(disk, tree)
    script = """
        mount /dev/vda /mnt && cd /mnt || exit 1
        sha256sum <from-host
        cp from-host copy
        for n in $(seq 50); do echo $n >file$n; done
        rm from-host file7
        sync
        fstrim /mnt || echo no-trim
        cd / && umount /mnt
    """
    ended = boot("--disk", f"path={disk}", "--exec", script)
    assert ended.stdout.decode().split()[0] == hashlib.sha256(noise(3 * MIB, 3)).hexdigest()
    assert (ended.code, ended.stderr) == (0, "")
    check_clean(disk)
    assert tool("debugfs", "-R", "cat /copy", disk) == noise(3 * MIB, 3)
    assert tool("debugfs", "-R", "cat /file50", disk) == b"50\n"
    names = re.findall(rb"(\S+) *$", tool("debugfs", "-R", "ls -l /", disk), re.MULTILINE)
    assert b"file50" in names
    assert b"file7" not in names
    assert b"from-host" not in names


INIT = """#!/bin/busybox sh
alias b=/bin/busybox
exec >/dev/console 2>&1
b grep ' / ' /proc/mounts
echo "$(b uname -s) from the disk" >/result
for n in 1 2 3 4 5 6 7 8; do
    b cp /bin/busybox /bin/busybox$n
    echo 3 >/proc/sys/vm/drop_caches
    /bin/busybox$n echo "copy $n runs"
done
b sync
b mount -o remount,ro /
b poweroff -f
"""


def test_root_on_a_disk(boot, tmp_path):
    """The guest's own root file system: programs run from it, again and again out of new memory."""
    tree, disk, console = tmp_path / "tree", tmp_path / "disk", tmp_path / "console"
    for name in ("bin", "sbin", "dev", "proc", "sys"):
        (tree / name).mkdir(parents=True)
    (tree / "bin" / "busybox").write_bytes(busybox())
    (tree / "sbin" / "init").write_text(INIT)
    for path in (tree / "bin" / "busybox", tree / "sbin" / "init"):
        path.chmod(0o755)
    filesystem(disk, tree)
    ended = boot(
        *("--disk", f"path={disk}", "--serial", f"file={console}"),
        *("--cmdline", "console=ttyS0 panic=-1 root=/dev/vda rw"),
    )
    said = console.read_text(errors="replace")
    assert (ended.code, ended.stderr) == (0, ""), said
    assert re.search(r"^/dev/(vda|root) / ext4 rw", said, re.MULTILINE), said
    assert re.findall(r"copy (\d) runs", said) == list("12345678")
    check_clean(disk)
    assert tool("debugfs", "-R", "cat /result", disk) == b"Linux from the disk\n"


BUFFER, PROGRAM = 0x60_0000, 0x40_0000
# Three times: read a page of /dev/vda, past the page cache, into the same place and call it there.
# The exit status is made of what the calls return, a decimal digit each.
READ_AND_CALL = b"".join(
    [
        bytes.fromhex("b802000000 bf") + struct.pack("<I", PROGRAM + 0x200),  # open(path,
        bytes.fromhex("be00400000 31d2 0f05 4189c4 31db 4531ed"),  # O_DIRECT)
        bytes.fromhex("b811000000 4489e7 be") + struct.pack("<I", BUFFER),  # 1: pread64(fd, buffer,
        bytes.fromhex("ba00100000 4d89ea 0f05"),  # 4096, offset)
        bytes.fromhex("b8") + struct.pack("<I", BUFFER) + bytes.fromhex("ffd0"),  # call buffer
        bytes.fromhex("6bdb0a 01c3 4981c500100000 4981fd00300000 75cd"),  # 10 a + b; next page; 1b
        bytes.fromhex("89df b8e7000000 0f05"),  # exit_group(2)
    ]
)


def read_and_call():
    """The program as an ELF file with a page that may be written and executed."""
    entry = PROGRAM + 0x100
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 62, 1, entry, 64, 0, 0, 64, 56, 2, 64, 0, 0)
    code = struct.pack("<IIQQQQQQ", 1, 5, 0, PROGRAM, PROGRAM, 0x210, 0x210, 0x1000)
    page = struct.pack("<IIQQQQQQ", 1, 7, 0, BUFFER, BUFFER, 0, 0x1000, 0x1000)
    file = (header + code + page).ljust(0x100, b"\0") + READ_AND_CALL
    return file.ljust(0x200, b"\0") + b"/dev/vda".ljust(16, b"\0")


def test_code_that_a_disk_replaces(boot, tmp_path):
    """What a disk puts where code ran a moment ago is what runs next."""
    disk = tmp_path / "disk"
    pages = [b"\xb8" + struct.pack("<I", number) + b"\xc3" for number in (1, 2, 1)]  # mov; ret
    pages.append(read_and_call())
    disk.write_bytes(b"".join(page.ljust(4096, b"\0") for page in pages))
    script = """
        dd if=/dev/vda of=/tmp/program bs=4k skip=3 2>/dev/null
        chmod +x /tmp/program
        /tmp/program
    """
    ended = boot("--disk", f"path={disk},readonly=on", "--exec", script)
    assert (ended.code, ended.stderr) == (121, "")


def busybox():
    """The default guest's program, out of its archive."""
    archive = default_guest().initramfs.read_bytes()
    start = archive.index(b"bin/busybox\0")
    header = archive.rindex(b"070701", 0, start)
    size = int(archive[header + 54 : header + 62], 16)
    data = start + len(b"bin/busybox\0")
    data += -(data - header) % 4
    return archive[data : data + size]


@pytest.mark.parametrize("transport", ["pci", "mmio"])
def test_random_numbers(boot, transport):
    """/dev/hwrng is the host's source, through the kernel's driver; no two pieces are alike."""
    script = """
        cat /sys/class/misc/hw_random/rng_current
        head -c 4096 /dev/hwrng | od -An -tx8 -v
    """
    flags = ("--rng", "src=/dev/urandom", "--virtio-transport", transport)
    ended = boot(*flags, "--exec", script)
    name, *lines = ended.stdout.decode().splitlines()
    assert name.startswith("virtio_rng")
    numbers = [number for line in lines for number in line.split()]
    assert len(numbers) == 4096 // 8
    assert len(set(numbers)) == len(numbers)


def test_a_source_of_random_numbers_that_ends(boot, tmp_path):
    """The host is told, and the guest waits for numbers in vain; its machine goes on."""
    source = tmp_path / "numbers"
    source.write_bytes(noise(1024, 4))
    ended = boot("--rng", f"src={source}", "--exec", "timeout 1 head -c 2048 /dev/hwrng | wc -c")
    assert int(ended.stdout) < 1024  # Linux takes of it for itself, too
    assert f"{source} has no more random bytes" in ended.stderr
    assert ended.code == 0
