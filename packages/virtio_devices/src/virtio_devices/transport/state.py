"""What the transports' `save` returns and `restore` takes: plain records, and what they must hold.

`virtio_devices.records` has looked at the types of all values before.

Guest memory, the interrupt controller and the host's side of a device are saved by whoever owns
them. A kick that is on its way is in no record: process every queue once after a restore.
"""

from __future__ import annotations

from typing import NamedTuple

from virtio_devices.errors import InvalidState, StatusViolation
from virtio_devices.features import Feature
from virtio_devices.queue.state import QueueState  # noqa: TC001 - `check_record` looks for it
from virtio_devices.transport.status import DRIVER, DRIVER_OK, FEATURES_OK, steps_between

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_UINT32 = (1 << 32) - 1
_UINT64 = (1 << 64) - 1


class QueueRegisters(NamedTuple):
    """What a driver wrote of one queue.

    Attributes:
        size: entries, 0 until the driver chose.
        ready: whether it is enabled.
        was_reset: whether the driver reset this queue alone and did not enable it again.
        areas: guest physical addresses of the descriptor, driver and device areas.
    """

    size: int
    ready: bool
    was_reset: bool
    areas: tuple[int, int, int]


class LifecycleState(NamedTuple):
    """How far a driver got with a device, on whatever transport.

    Attributes:
        status: the device status, without DEVICE_NEEDS_RESET.
        features: the features that the driver accepted so far.
        unknown_features: whether it accepted some that no device can offer.
        failure: why DEVICE_NEEDS_RESET is set; None if it is not.
        config: the configuration space as it was last seen, for the generation.
        generation: its generation.
        registers: what was written of each queue.
        rings: each queue in operation; None for the others.
        device: what the device's own `save` returned; None for a device without it.
    """

    status: int
    features: int
    unknown_features: bool
    failure: str | None
    config: bytes
    generation: int
    registers: tuple[QueueRegisters, ...]
    rings: tuple[QueueState | None, ...]
    device: object


class MmioState(NamedTuple):
    """An `MmioTransport`.

    Attributes:
        life: what is the same on every transport.
        interrupt_status: the register.
        selectors: DeviceFeaturesSel, DriverFeaturesSel, QueueSel.
    """

    life: LifecycleState
    interrupt_status: int
    selectors: tuple[int, int, int]


class PciState(NamedTuple):
    """A `PciTransport`.

    Attributes:
        life: what is the same on every transport.
        space: the configuration space, 256 bytes: BAR, command, Message Control and the rest.
        table: the MSI-X table.
        pending: the MSI-X pending bits.
        isr: the ISR status.
        config_vector, queue_vectors: the vectors of the events, 0xFFFF for none.
        selectors: device_feature_select, driver_feature_select, queue_select.
    """

    life: LifecycleState
    space: bytes
    table: bytes
    pending: bytes
    isr: int
    config_vector: int
    queue_vectors: tuple[int, ...]
    selectors: tuple[int, int, int]


def check_life(state: LifecycleState, queues: int) -> None:
    """Check that the values of a record agree with each other, for a device with so many queues.

    Raises:
        InvalidState: it is not.
    """
    require(len(state.registers) == len(state.rings) == queues, f"has not {queues} queues")
    check_numbers([state.features], _UINT64, "features")
    check_numbers([state.generation], _UINT32, "a generation")
    try:
        steps_between(0, state.status)
    except StatusViolation as error:
        raise InvalidState(f"has an impossible status: {error}") from error
    started = bool(state.status & DRIVER_OK)
    require(started or state.failure is None, "has failed before it was started")
    operating = any(ring is not None for ring in state.rings)
    require(started or not operating, "has queues in operation before it was started")
    accepted = state.features or state.unknown_features
    require(not accepted or bool(state.status & DRIVER), "has features accepted by no driver")
    require(state.failure is None or not operating, "has failed and queues in operation")
    for index, (registers, ring) in enumerate(zip(state.registers, state.rings, strict=True)):
        _check_registers(index, registers, state)
        if ring is not None:
            _check_ring(index, registers, ring, state.features)
        elif registers.ready and started and state.failure is None:
            raise InvalidState(f"has queue {index} enabled and not in operation")


def _check_registers(index: int, registers: QueueRegisters, state: LifecycleState) -> None:
    what = f"registers of queue {index}"
    check_numbers([registers.size], _UINT32, what)
    check_numbers(registers.areas, _UINT64, what)
    written = registers != QueueRegisters(0, ready=False, was_reset=False, areas=(0, 0, 0))
    require(not written or bool(state.status & FEATURES_OK), f"has queue {index} set up too early")
    could_reset = state.status & DRIVER_OK and state.features & Feature.RING_RESET
    contrary = registers.was_reset and (registers.ready or not could_reset)
    require(not contrary, f"has queue {index} reset alone, which it cannot have been")


def _check_ring(index: int, registers: QueueRegisters, ring: QueueState, features: int) -> None:
    negotiated = tuple(
        bool(features & bit)
        for bit in (Feature.RING_PACKED, Feature.EVENT_IDX, Feature.INDIRECT_DESC)
    )
    kind = (ring.packed, ring.event_idx, ring.indirect)
    require(kind == negotiated, f"has a ring of queue {index} that was not negotiated")
    place = (registers.size, registers.areas)
    require((ring.size, ring.areas) == place, f"has queue {index} where its registers do not")
    require(not registers.was_reset, f"has queue {index} reset and in operation")


def check_numbers(values: Iterable[int], most: int, what: str) -> None:
    """Check that these are numbers from 0 to `most`; raises InvalidState."""
    for value in values:
        require(0 <= value <= most, f"has {value:#x} for {what}")


def require(holds: bool, problem: str) -> None:
    """Raise InvalidState unless something holds."""
    if not holds:
        raise InvalidState(problem)
