"""The records of virtio devices, and their flags' values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference import flags
from vmm_reference.errors import OptionError
from vmm_reference.virtio_config import (
    ConsoleConfig,
    ConsoleMode,
    DiskConfig,
    RngConfig,
    VirtioTransport,
)

words = st.text(
    st.characters(codec="utf-8", exclude_characters='"[]', exclude_categories=["Cc"]), min_size=1
)
disks = st.builds(
    DiskConfig,
    words.map(Path),
    readonly=st.booleans(),
    direct=st.booleans(),
    serial=words.filter(lambda text: len(text.encode()) <= 20) | st.just(""),
    num_queues=st.integers(1, 64),
    queue_size=st.integers(2, 15).map(lambda shift: 1 << shift),
)


def config(*arguments):
    return flags.config_from_args(flags.make_parser().parse_args(arguments))


@given(disks)
def test_disk_round_trip(disk):
    """A disk's text is read back as the same disk."""
    assert DiskConfig.parse(str(disk)) == disk


@given(words)
def test_rng_round_trip(path):
    """A source's text is read back as the same source."""
    assert RngConfig.parse(str(RngConfig(Path(path)))) == RngConfig(Path(path))


@given(words)
def test_console_file_round_trip(path):
    """A file's path survives being written and read."""
    console = ConsoleConfig(ConsoleMode.FILE, Path(path))
    assert ConsoleConfig.parse(str(console)) == console


@pytest.mark.parametrize("text", ["off", "null", "tty", "pty"])
def test_console_mode_round_trip(text):
    """The modes without a file are single words."""
    assert str(ConsoleConfig.parse(text)) == text


def test_a_disk_needs_only_a_path():
    """Everything else has a value that works."""
    disk = DiskConfig.parse("path=disk.img")
    assert disk == DiskConfig(Path("disk.img"))
    assert (disk.readonly, disk.direct, disk.serial) == (False, False, "")
    assert (disk.num_queues, disk.queue_size) == (1, 128)


def test_raw_may_be_said():
    """It is what every image is taken for."""
    assert DiskConfig.parse("path=x,image_type=raw") == DiskConfig(Path("x"))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "path must be given"),
        ("disk.img", "perhaps path=disk.img"),
        ("path=", "path must be given"),
        ("path=x,readonly=maybe", "readonly: 'maybe' is neither on nor off"),
        ("path=x,num_queues=0", "num_queues: 0 is not 1 to 64"),
        ("path=x,num_queues=65", "num_queues: 65 is not 1 to 64"),
        ("path=x,queue_size=2", "queue_size: 2 is no power of 2 from 4 to 32768"),
        ("path=x,queue_size=100", "power of 2"),
        ("path=x,queue_size=65536", "power of 2"),
        ("path=x,serial=" + "é" * 11, "serial: 'ééééééééééé' has more than 20 bytes"),
        ("path=x,image_type=qcow2", "qemu-img convert"),
        ("path=a,b.img", 'a value with a comma goes into double quotes: path="…"'),
        ("path=x,", "there is a comma too many"),
        ("path=[x.img", "goes into double quotes"),
        ("path=x,cache=none", "no option 'cache'"),
    ],
)
def test_impossible_disks(text, words):
    """One sentence with the value in it."""
    with pytest.raises(OptionError, match=words) as caught:
        DiskConfig.parse(text)
    assert (caught.value.flag, caught.value.value) == ("--disk", text)


@pytest.mark.parametrize("text", ["", "src=", "/dev/urandom", "path=x"])
def test_impossible_sources(text):
    """A source must be named as one."""
    with pytest.raises(OptionError, match="--rng"):
        RngConfig.parse(text)


@pytest.mark.parametrize("text", ["", "telegraph", "file", "file=", "TTY", "tty,iommu=on"])
def test_impossible_consoles(text):
    """One sentence with the value in it."""
    with pytest.raises(OptionError, match="--console"):
        ConsoleConfig.parse(text)


def test_a_file_goes_with_mode_file():
    """And with no other."""
    with pytest.raises(OptionError, match="--console"):
        ConsoleConfig(ConsoleMode.FILE)
    with pytest.raises(OptionError, match="--console"):
        ConsoleConfig(ConsoleMode.TTY, Path("x"))


@pytest.mark.parametrize("text", ["", "isa", "MMIO"])
def test_impossible_transports(text):
    """There is only what there is."""
    with pytest.raises(OptionError, match="there is: pci, mmio"):
        VirtioTransport.parse(text)


def test_disks_may_be_given_in_any_form():
    """Several values of one flag and several flags are the same, in order."""
    together = config("--disk", "path=a", "path=b", "--disk", "path=c")
    assert [str(disk.path) for disk in together.disks] == ["a", "b", "c"]
    assert config().disks == ()


def test_devices_from_the_command_line():
    """Flags become records; nothing is there that was not asked for."""
    assert config().rng is None
    assert config("--rng", "src=/dev/random").rng == RngConfig(Path("/dev/random"))
    assert config().virtio_transport is VirtioTransport.PCI
    assert config().console == ConsoleConfig()
    assert config("--console", "null").console == ConsoleConfig(ConsoleMode.NULL)
    assert config("--virtio-transport", "mmio").virtio_transport is VirtioTransport.MMIO
