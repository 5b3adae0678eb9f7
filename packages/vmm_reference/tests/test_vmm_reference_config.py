"""The records that describe a machine, and their flags' values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.config import (
    CpusConfig,
    HypervisorChoice,
    MemoryConfig,
    SerialConfig,
    SerialMode,
    VmConfig,
)
from vmm_reference.errors import OptionError

paths = st.text(
    st.characters(codec="utf-8", exclude_characters='"[]', exclude_categories=["Cc"]), min_size=1
)


def test_defaults():
    """A machine that nobody describes has 512 MiB, one processor and a console."""
    config = VmConfig()
    assert config.memory.size == 512 << 20
    assert config.cpus.boot == 1
    assert config.serial.mode is SerialMode.TTY
    assert config.hypervisor is HypervisorChoice.AUTO
    assert config.payload.kernel is None


@given(st.integers(512, 1 << 34).map(lambda pages: pages * 4096))
def test_memory_round_trip(size):
    """A memory configuration's text is read back as the same configuration."""
    assert MemoryConfig.parse(str(MemoryConfig(size))) == MemoryConfig(size)


@given(st.integers(1, 255))
def test_cpus_round_trip(boot):
    """A processor configuration's text is read back as the same configuration."""
    assert CpusConfig.parse(str(CpusConfig(boot))) == CpusConfig(boot)


@given(paths)
def test_serial_file_round_trip(path):
    """A path with any characters but quotes and brackets survives being written and read."""
    config = SerialConfig(SerialMode.FILE, Path(path))
    assert SerialConfig.parse(str(config)) == config


@pytest.mark.parametrize("text", ["tty", "off", "null"])
def test_serial_mode_round_trip(text):
    """The modes without a file are single words."""
    assert str(SerialConfig.parse(text)) == text


@pytest.mark.parametrize(
    "text", ["size=0", "size=4K", "size=2047K", "size=4095", "size=65T", "size=1"]
)
def test_impossible_memory(text):
    """No memory, a part of a page, and more than processors address are refused."""
    with pytest.raises(OptionError, match="--memory"):
        MemoryConfig.parse(text)


@pytest.mark.parametrize("text", ["boot=0", "boot=256", "boot=x", "max=2"])
def test_impossible_cpus(text):
    """No processor, and more than xAPIC ids can name, are refused."""
    with pytest.raises(OptionError, match="--cpus"):
        CpusConfig.parse(text)


@pytest.mark.parametrize("text", ["", "telegraph", "file", "file=", "TTY", "null,off"])
def test_impossible_serial(text):
    """Only the four modes exist, and a file needs a path."""
    with pytest.raises(OptionError, match="--serial"):
        SerialConfig.parse(text)


@pytest.mark.parametrize("text", ["", "xen", "KVM"])
def test_impossible_hypervisor(text):
    """Only the three choices exist."""
    with pytest.raises(OptionError, match="--hypervisor"):
        HypervisorChoice.parse(text)
