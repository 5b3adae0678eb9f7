"""The first run without a network: a pretended apt serves packages made here."""

from __future__ import annotations

import io
import os
import struct
import tarfile
from pathlib import Path

import pytest

from vmm_reference.guest_assets import __main__ as command_line
from vmm_reference.guest_assets import apt, cpio, default_guest, kernel
from vmm_reference.guest_assets.errors import Cause, GuestAssetsError

RELEASE = "6.1.0-1-cloud-amd64"
KERNEL_DEB = f"linux-image-{RELEASE}_6.1.1-1_amd64.deb"
BUSYBOX_DEB = "busybox-static_1%3a1.35-1_amd64.deb"

SHOWN = {
    "linux-image-cloud-amd64": f"""\
Package: linux-image-cloud-amd64
Version: 6.1.1-1
Depends: linux-image-{RELEASE} (= 6.1.1-1)
Description: kernel
 with a continuation: line
Size: 1500
""",
    f"linux-image-{RELEASE}": f"""\
Package: linux-image-{RELEASE}
Version: 6.1.1-1
Depends: kmod, linux-base (>= 4.3~), initramfs-tools (>= 0.1) | other
Size: 26000000
""",
    "busybox-static": """\
Package: busybox-static
Version: 1:1.35-1
Size: 900000
""",
}

# The pretended apt: a shell script. STATE/known says whether the system's lists are filled,
# STATE/fail holds what a failing download prints.
APT = """\
#!/bin/sh
echo "$(basename "$0") $*" >>STATE/calls
config=$2
shift 3  # -c FILE -q
action=$1
shift
case $action in
    show)
        [ "$1" = --no-all-versions ] && shift
        grep -q Dir::State "$config" || [ -e STATE/known ] || exit 100
        grep -q Dir::State "$config" && [ ! -e STATE/updated ] && exit 100
        for name; do [ -e "STATE/$name" ] && cat "STATE/$name" && echo; done
        ;;
    update)
        [ -e STATE/fail ] && cat STATE/fail >&2 && exit 100
        [ -e STATE/sourceless ] && exit 0
        touch STATE/updated
        folder=$(sed -n 's/^Dir::State::lists "\\(.*\\)";/\\1/p' "$config")
        touch "$folder/some_Packages"
        ;;
    download)
        [ -e STATE/fail ] && cat STATE/fail >&2 && exit 100
        [ -e STATE/hang ] && exec sleep 60
        cp STATE/*.deb .
        ;;
esac
"""


def debian_package(files):
    """A package with uncompressed data."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(f"./{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = buffer.getvalue()
    header = b"%-16s%-12d%-6d%-6d%-8s%-10d`\n" % (b"data.tar", 0, 0, 0, b"100644", len(data))
    return b"!<arch>\n" + header + data


def pvpanic_module():
    """An ELF file with a .modinfo section, named pvpanic-mmio in the package."""
    names = b"\0.modinfo\0"
    info = b"depends=\0alias=acpi*:QEMU0001:*\0"
    header = struct.pack("<2HI3QI6H", 1, 62, 1, 0, 0, 64 + len(names + info), 0, 64, 0, 0, 64, 2, 0)
    sections = struct.pack("<2I4Q2I2Q", 0, 3, 0, 0, 64, len(names), 0, 0, 1, 0) + struct.pack(
        "<2I4Q2I2Q", 1, 1, 0, 0, 64 + len(names), len(info), 0, 0, 1, 0
    )
    return b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + header + names + info + sections


class PretendedApt:
    """What the pretended apt knows and does."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def set(self, name: str, text: str = "") -> None:
        (self.state / name).write_text(text)

    def calls(self) -> list[str]:
        """The programs and actions that ran, such as `apt-get download`."""
        calls = self.state / "calls"
        lines = calls.read_text().splitlines() if calls.exists() else []
        return [" ".join((line.split()[0], line.split()[4])) for line in lines]

    def forget_calls(self) -> None:
        (self.state / "calls").unlink()


@pytest.fixture
def pretended(tmp_path, monkeypatch):
    """An apt whose system lists know the packages."""
    state, programs = tmp_path / "state", tmp_path / "bin"
    state.mkdir()
    programs.mkdir()
    for name in ("apt-get", "apt-cache"):
        (programs / name).write_text(APT.replace("STATE", str(state)))
        (programs / name).chmod(0o755)
    for name, text in SHOWN.items():
        (state / name).write_text(text)
    (state / KERNEL_DEB).write_bytes(
        debian_package(
            {
                f"boot/vmlinuz-{RELEASE}": b"kernel",
                f"lib/modules/{RELEASE}/kernel/misc/pvpanic-mmio.ko": pvpanic_module(),
                f"lib/modules/{RELEASE}/kernel/misc/other.ko": b"of no interest",
            }
        )
    )
    (state / BUSYBOX_DEB).write_bytes(debian_package({"bin/busybox": b"busybox"}))
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    apt_state = PretendedApt(state)
    apt_state.set("known")
    return apt_state


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


def test_the_first_run_fetches_and_builds(pretended, cache):
    """Kernel as shipped, an initramfs with the wanted modules, and a version for people."""
    said = []
    guest = default_guest(cache=cache, log=said.append)
    assert guest.kernel.read_bytes() == b"kernel"
    assert guest.vmlinux is None  # these six bytes cannot be unpacked
    assert guest.version == f"{RELEASE} (Debian 6.1.1-1, busybox 1:1.35-1)"
    contents = {entry.name: entry.data for entry in cpio.read_archive(guest.initramfs.read_bytes())}
    assert contents["bin/busybox"] == b"busybox"
    folder = f"lib/modules/{RELEASE}"
    assert contents[f"{folder}/modules.dep"] == b"kernel/misc/pvpanic-mmio.ko:\n"
    assert contents[f"{folder}/modules.alias"] == b"alias acpi*:QEMU0001:* pvpanic_mmio\n"
    assert f"{folder}/kernel/misc/other.ko" not in contents
    assert pretended.calls() == ["apt-cache show", "apt-cache show", "apt-get download"]
    assert said[0] == f"fetching linux-image-{RELEASE} and busybox-static (27 MB)"


def test_later_runs_ask_nobody(pretended, cache):
    """With a guest in the cache no program runs and nothing is logged."""
    first = default_guest(cache=cache)
    pretended.forget_calls()
    assert default_guest(cache=cache, log=pytest.fail) == first
    assert pretended.calls() == []


def test_a_command_travels_in_the_overlay(pretended, cache):
    """The files stay the same; overlay and kernel command line differ."""
    plain = default_guest(cache=cache)
    guest = default_guest(cache=cache, exec_command="echo hi")
    assert (guest.kernel, guest.initramfs) == (plain.kernel, plain.initramfs)
    assert [entry.data for entry in cpio.read_archive(guest.overlay)] == [b"echo hi"]
    assert (plain.overlay, "quiet" in guest.cmdline) == (b"", True)


def test_the_same_packages_give_the_same_initramfs(pretended, cache, tmp_path):
    """Nothing of the time or the place of the build gets into it."""
    first, second = default_guest(cache=cache), default_guest(cache=tmp_path / "another")
    assert first.initramfs.read_bytes() == second.initramfs.read_bytes()


def test_a_damaged_guest_is_built_again_without_network(pretended, cache):
    """The packages in the cache are enough to repair what was made from them."""
    guest = default_guest(cache=cache)
    good = guest.initramfs.read_bytes()
    guest.initramfs.write_bytes(bytes(len(good)))
    os.utime(guest.initramfs, ns=(1, 1))
    pretended.forget_calls()
    assert default_guest(cache=cache).initramfs.read_bytes() == good
    assert pretended.calls() == []


def test_damaged_packages_are_fetched_again(pretended, cache):
    """A package that no longer has its checksum is not used."""
    guest = default_guest(cache=cache)
    guest.initramfs.unlink()
    (cache / "packages" / KERNEL_DEB).write_bytes(b"damaged")
    pretended.forget_calls()
    assert default_guest(cache=cache).kernel.read_bytes() == b"kernel"
    assert "apt-get download" in pretended.calls()


def test_refetching_asks_apt_again(pretended, cache):
    """`refetch` looks for a newer version although a guest is there."""
    default_guest(cache=cache)
    pretended.forget_calls()
    default_guest(cache=cache, refetch=True)
    assert "apt-get download" in pretended.calls()


def test_empty_system_lists_are_replaced_by_private_ones(pretended, cache):
    """On a machine without `apt-get update`, our own lists are fetched below the cache."""
    (pretended.state / "known").unlink()
    assert default_guest(cache=cache).kernel.read_bytes() == b"kernel"
    assert pretended.calls() == [
        "apt-cache show", "apt-get update", "apt-cache show", "apt-cache show", "apt-get download",
    ]  # fmt: skip


def test_no_sources_at_all_is_an_error(pretended, cache):
    """An apt without sources is not taken for a network that fails."""
    (pretended.state / "known").unlink()
    pretended.set("sourceless")
    with pytest.raises(GuestAssetsError) as caught:
        default_guest(cache=cache)
    assert caught.value.cause is Cause.NO_SOURCES


@pytest.mark.parametrize(
    ("said", "cause", "text"),
    [
        ("E: Temporary failure resolving 'x'", Cause.NO_NETWORK, "reaches no package server"),
        ("E: Could not connect to x:80, connection timed out", Cause.NO_NETWORK, "connect to"),
        ("Err: Unable to connect to x:http:", Cause.NO_NETWORK, "reaches no package server"),
        ("E: write - write (28: No space left on device)", Cause.DISK_FULL, "free 200 MB"),
        ("E: You don't have enough free space in /x", Cause.DISK_FULL, "is full"),
        ("E: something new", Cause.APT_FAILED, "failed: something new; pass --kernel"),
        ("", Cause.APT_FAILED, "no reason given"),
    ],
)
def test_what_apt_says_becomes_one_sentence(pretended, cache, said, cause, text):
    """Each kind of failure is told apart, with its way out."""
    pretended.set("fail", said)
    with pytest.raises(GuestAssetsError, match=text) as caught:
        default_guest(cache=cache)
    assert caught.value.cause is cause
    assert "\n" not in str(caught.value)


def test_a_hanging_download_ends(pretended, cache, monkeypatch):
    """After its time is over apt is stopped, and the error says how long it had."""
    monkeypatch.setattr(apt, "_DOWNLOAD_SECONDS", 1)
    pretended.set("hang")
    with pytest.raises(GuestAssetsError, match="apt-get download did not finish within 1 s"):
        default_guest(cache=cache)


def test_without_apt_the_hosts_own_kernel_is_taken(cache, monkeypatch, tmp_path):
    """A host that has no apt boots what it runs itself."""
    monkeypatch.setenv("PATH", str(tmp_path))
    parts = kernel.Ingredients("6.9", b"mine", (), b"busybox")
    monkeypatch.setattr(kernel, "from_host", lambda: parts)
    guest = default_guest(cache=cache)
    assert (guest.kernel.read_bytes(), guest.version) == (b"mine", "6.9 (this host's)")


def test_without_apt_and_kernel_the_error_names_both(cache, monkeypatch, tmp_path):
    """One sentence says what was tried and what to pass."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "h", "0.0-none", "", "")))
    with pytest.raises(GuestAssetsError, match=r"no apt-get.*vmlinuz-0\.0-none.*pass --kernel"):
        default_guest(cache=cache)


def test_the_command_line_prints_paths(pretended, cache, capsys):
    """`python -m vmm_reference.guest_assets` tells where the files are."""
    assert command_line.main(["--cache", str(cache)]) == 0
    printed = dict(line.split(": ", 1) for line in capsys.readouterr().out.splitlines())
    assert Path(printed["kernel"]).read_bytes() == b"kernel"


def test_the_command_line_reports_errors_without_a_traceback(pretended, cache, capsys):
    """One line on standard error and the exit code 1."""
    pretended.set("fail", "E: something new")
    assert command_line.main(["--cache", str(cache)]) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: apt-get ")
