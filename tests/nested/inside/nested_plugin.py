"""A pytest plugin for both sides: the host asks it which tests to run, the machine runs them.

A test belongs into the machine if it uses the real KVM: it is marked `kvm` or `stock_kvm`, has
`kvm` among its parameters, takes the fixture `kvm_device`, or lies in the package `kvm_ioctls`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_PACKAGE = Path("packages", "kvm_ioctls")
_MARKERS = ("kvm", "stock_kvm")


def pytest_configure(config: pytest.Config) -> None:
    """Give generated examples the time that they need on an emulated processor."""
    try:
        from hypothesis import HealthCheck, settings  # noqa: PLC0415 - not installed everywhere
    except ImportError:
        return
    settings.register_profile(
        "nested", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=20
    )
    settings.load_profile("nested")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that use the real KVM."""
    chosen = [item for item in items if uses_kvm(item, config.rootpath)]
    dropped = [item for item in items if item not in set(chosen)]
    config.hook.pytest_deselected(items=dropped)
    items[:] = chosen


def uses_kvm(item: pytest.Item, root: Path) -> bool:
    """Whether `item` belongs into the machine."""
    parameters = item.callspec.params.values() if hasattr(item, "callspec") else ()
    names = {value for value in parameters if isinstance(value, str)}
    if "soft" in names:
        return False
    if "kvm" in names or "kvm_device" in getattr(item, "fixturenames", ()):
        return True
    if any(item.get_closest_marker(name) for name in _MARKERS):
        return True
    return item.path.is_relative_to(root / _PACKAGE)
