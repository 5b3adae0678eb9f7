"""The engine's private layout is found and proved, or refused."""

from __future__ import annotations

import subprocess
import sys

import pytest

from soft_kvm import UnknownLayout, engine, layout
from soft_kvm.errors import EngineError


def test_the_layout_is_found():
    """Registers lie in encoding order with RIP behind them, segments are 24 bytes apart."""
    found = layout.find()
    assert found.eip == found.regs + 128
    assert found.seg_stride == 24
    assert found.size > found.old_exception


@pytest.mark.parametrize("name", ["hflags", "efer", "error_code", "old_exception", "intercept"])
def test_a_wrong_offset_is_noticed(name):
    """The small guests behave otherwise when an offset is off by one word."""
    scratch = layout.Scratch()
    try:
        at = layout._locate(scratch)
        at[name] += 8
        with pytest.raises(UnknownLayout):
            layout._check(scratch, at)
    finally:
        scratch.close()


def test_a_value_that_turns_up_twice_is_refused():
    """Two places that look alike mean that we do not know."""
    with pytest.raises(UnknownLayout, match="cannot find x"):
        layout._only_place(b"abcabc", b"abc", "x")


def test_without_the_engine_the_error_says_what_to_install(monkeypatch):
    """One sentence with the pip command."""
    monkeypatch.setattr(engine.importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(EngineError, match="pip install 'unicorn"):
        engine.library_path()


def test_importing_is_cheap_and_loads_no_engine():
    """The engine is loaded when a Kvm is made, not before."""
    code = "import soft_kvm; print('libunicorn' in open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
