"""The beginning that is the same for every transport (virtio 1.2 §3.1.1)."""

from __future__ import annotations

from virtio_devices.errors import DeviceViolation
from virtio_devices.features import Feature
from virtio_devices.transport.status import ACKNOWLEDGE, DRIVER, FEATURES_OK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class RegisterBlock(Protocol):
    """What stands on a bus."""

    def read(self, offset: int, data: memoryview) -> None:
        """Fill `data` with what a driver reads at `offset`."""

    def write(self, offset: int, data: memoryview) -> None:
        """Take what a driver wrote at `offset`."""


class Negotiator(Protocol):
    """What a transport's driver does with its registers."""

    @property
    def status(self) -> int:
        """The device status field."""

    def write_status(self, value: int) -> None:
        """Write the device status field."""

    def offered_features(self) -> int:
        """Everything that the device offers."""

    def accept_features(self, features: int) -> None:
        """Tell the device which features the driver takes."""


def negotiate(driver: Negotiator, wanted: int) -> int:
    """Reset the device and agree on VERSION_1 and what it offers of `wanted`.

    Returns:
        The features that both accepted.

    Raises:
        DeviceViolation: the device does not reset, or refuses a subset of what it offers.
    """
    driver.write_status(0)
    if driver.status:
        raise DeviceViolation("the device status survives a reset", "2.1.2")
    driver.write_status(ACKNOWLEDGE)
    driver.write_status(ACKNOWLEDGE | DRIVER)
    accepted = driver.offered_features() & (wanted | int(Feature.VERSION_1))
    driver.accept_features(accepted)
    driver.write_status(ACKNOWLEDGE | DRIVER | FEATURES_OK)
    if not driver.status & FEATURES_OK:
        raise DeviceViolation(f"features {accepted:#x} were offered and refused", "2.2.2")
    return accepted
