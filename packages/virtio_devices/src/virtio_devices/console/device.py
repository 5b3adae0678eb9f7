"""The console device as a transport sees it: features, configuration, and the life of its ports."""

from __future__ import annotations

import os
import struct
import warnings
from contextlib import ExitStack, suppress

from virtio_devices.console.control import ControlMessages, Event, is_message, read_message
from virtio_devices.console.features import ConsoleFeature
from virtio_devices.console.ports import (
    CONTROL_RECEIVE,
    CONTROL_TRANSMIT,
    ActivePort,
    port_of,
    transmit_index,
)
from virtio_devices.console.state import ConsoleState
from virtio_devices.errors import DriverViolation, InvalidState, VirtioUsageError
from virtio_devices.features import DeviceId
from virtio_devices.queue.serve import serve
from virtio_devices.records import check_record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from virtio_devices.console.port import ConsolePort
    from virtio_devices.interrupt import DeviceInterrupt
    from virtio_devices.queue.chain import DescriptorChain
    from virtio_devices.queue.interface import Queue
    from vm_memory import GuestMemory

_QUEUE_SIZE = 64
_config = struct.Struct("<HHII")  # cols, rows, max_nr_ports, emerg_wr (virtio 1.2 §5.3.4)
_size = struct.Struct("<HH")  # cols, rows (§5.3.6.2); Linux has had them the other way round
_EMERG_WR_OFFSET = 8
_UINT16_MAX = 0xFFFF


class Console:
    """Terminals and streams of bytes.

    Close it when the machine is gone.

    Args:
        ports: the host's side of each. MULTIPORT is offered for more than one, and for one with
            a name.
        size: columns and rows of port 0, if they are known.

    Raises:
        VirtioUsageError: no port, or a size that no terminal has.
        OSError: a descriptor of a port is not open.
    """

    device_id = DeviceId.CONSOLE

    def __init__(self, *ports: ConsolePort, size: tuple[int, int] = (0, 0)) -> None:
        if not ports:
            raise VirtioUsageError("a console device needs a port")
        self._ports = ports
        self._multiport = len(ports) > 1 or bool(ports[0].name)
        self._size = _checked(size)
        self._host_open = [True] * len(ports)
        self._features = 0
        self._active: list[ActivePort] = []
        self._queues: dict[int, Queue] = {}
        self._interrupt: DeviceInterrupt | None = None
        self._messages = ControlMessages()
        with ExitStack() as opened:
            for port in ports:
                port.open()
                opened.callback(port.close)
            self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            self._opened = opened.pop_all()

    # What a driver sees first

    @property
    def features(self) -> int:
        """Size and emergency writes always, MULTIPORT where it is of use."""
        both = ConsoleFeature.SIZE | ConsoleFeature.EMERG_WRITE
        return int(both | ConsoleFeature.MULTIPORT if self._multiport else both)

    @property
    def queue_sizes(self) -> tuple[int, ...]:
        """Entries of two queues for each port, and for control."""
        pairs = len(self._ports) + 1 if self._multiport else 1
        return (_QUEUE_SIZE,) * (2 * pairs)

    @property
    def config(self) -> bytes:
        """The configuration space."""
        return _config.pack(*self._size, len(self._ports), 0)

    def write_config(self, offset: int, data: bytes) -> None:
        """An emergency write: one character, at any time, without a queue (§5.3.5.1)."""
        if offset == _EMERG_WR_OFFSET and data:
            self._ports[0].output.write_now(data[:1])

    def accept_features(self, features: int) -> bool:
        """Any subset will do."""
        self._features = features
        return True

    # Life

    def activate(
        self, memory: GuestMemory, queues: Mapping[int, Queue], interrupt: DeviceInterrupt
    ) -> None:
        """Start to move bytes."""
        ports = self._ports if self._has_control else self._ports[:1]
        self._active = [
            ActivePort(number, port, queues, memory) for number, port in enumerate(ports)
        ]
        if self._has_control:  # a console's reader is there always, others open their ports
            for active, port in zip(self._active, ports, strict=True):
                active.guest_open = port.is_console
        self._messages.clear()
        self._queues, self._interrupt = dict(queues), interrupt
        if not self._has_control and self._size != (0, 0):
            # Linux looks at the size of a console without control queues only when told that it
            # has changed.
            self.resize(*self._size)

    def process_queue(self, index: int) -> bool:
        """Work off one queue; True if more is left.

        After an error every queue rests, and no descriptor is waited for, until the next reset.
        """
        if self._interrupt is None or index not in self._queues:
            return False
        try:
            more = self._process(index)
        except DriverViolation:
            self._stop()
            raise
        touched = (index, CONTROL_RECEIVE) if index == CONTROL_TRANSMIT else (index,)
        for queue in touched:
            if queue in self._queues and self._queues[queue].needs_notification():
                self._interrupt.used_buffer(queue)
        if index == self._wake_queue:
            more = self._give_up_waiting() or more
        return more

    @property
    def readiness(self) -> Mapping[int, int]:
        """Sources that have bytes for the guest, outputs that were full, and calls from outside."""
        waits: dict[int, int] = {}
        if self._wake_queue in self._queues:
            waits[self._wake] = self._wake_queue
        for active, host_open in zip(self._active, self._host_open, strict=False):
            waits |= active.readiness(host_open=host_open)
        return waits

    def reset_queue(self, index: int) -> None:
        """Forget one queue, and what waits there (virtio 1.2 §2.6.1)."""
        self._queues.pop(index, None)
        port = port_of(index)
        if port is not None and port < len(self._active):
            self._active[port].close(index)

    def restart_queue(self, index: int, queue: Queue) -> None:
        """Go on with a new queue in the place of one that was reset."""
        self._queues[index] = queue
        port = port_of(index)
        if port is not None and port < len(self._active):
            self._active[port].open(index, queue)

    def reset(self) -> None:
        """Forget the driver; what the host has for it stays where it is."""
        self._stop()
        self._messages.clear()
        self._interrupt = None
        self._features = 0

    def save(self) -> ConsoleState:
        """The size, which ends are open, and what neither side has been told yet.

        A buffer of output of which a part was written is put back, and the part is counted.
        """
        return ConsoleState(
            size=self._size,
            host_open=tuple(self._host_open),
            guest_open=tuple([active.guest_open for active in self._active]),
            written=tuple([active.put_back() for active in self._active]),
            messages=self._messages.save(),
        )

    def restore(self, state: object) -> None:
        """Go on as the record says.

        Raises:
            InvalidState: it is none of a console, or of one with other ports.
        """
        if not isinstance(state, ConsoleState):
            raise InvalidState("is none of a console")
        check_record(state, ConsoleState)
        sides = (len(state.host_open), len(state.guest_open), len(state.written))
        if sides != (len(self._ports), len(self._active), len(self._active)):
            raise InvalidState(f"has {sides} ends of ports")
        if not all(count >= 0 for count in state.written):
            raise InvalidState(f"has {state.written} bytes of buffers written")
        for port, event, message in state.messages:
            if port >= len(self._ports) or not is_message(port, event, message):
                raise InvalidState(f"has no message of port {port} in {message!r}")
        try:
            self._size = _checked(state.size)
        except VirtioUsageError as error:
            raise InvalidState(f"has a size that cannot be: {error}") from error
        self._host_open[:] = state.host_open
        opened = zip(self._active, state.guest_open, state.written, strict=True)
        for active, is_open, written in opened:
            active.guest_open = is_open
            active.go_on_behind(written)
        self._messages.restore(state.messages)

    # For the VMM, from any thread

    def resize(self, columns: int, rows: int) -> None:
        """Port 0 has another size now: the driver is told.

        Raises:
            VirtioUsageError: no terminal has this size.
        """
        self._size = _checked((columns, rows))
        interrupt = self._interrupt
        if self._has_control:
            if self._ports[0].is_console:
                self._say(0, Event.RESIZE, more=_size.pack(*self._size))
        elif interrupt is not None and self._features & ConsoleFeature.SIZE:
            interrupt.config_change()

    def open_port(self, number: int) -> None:
        """The host's end of a port is there (again); its source is looked at again.

        All ports are open at first.
        """
        self._host_open[number] = True
        if number < len(self._active):
            self._active[number].look_again()
        self._say(number, Event.PORT_OPEN, 1)

    def close_port(self, number: int) -> None:
        """The host's end of a port is gone: what the guest writes to it is lost."""
        self._host_open[number] = False
        self._say(number, Event.PORT_OPEN, 0)

    def is_guest_open(self, number: int) -> bool:
        """Whether somebody in the guest has the port open; always so for a terminal in use."""
        return number < len(self._active) and self._active[number].guest_open

    def close(self) -> None:
        """Close the device's own descriptors; twice is once."""
        wake, self._wake = self._wake, -1
        if wake >= 0:
            self._stop()
            self._opened.close()
            os.close(wake)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if getattr(self, "_wake", -1) >= 0:
            warnings.warn(f"unclosed {self!r}", ResourceWarning, stacklevel=2, source=self)
            self.close()

    def __repr__(self) -> str:
        return f"<Console with {len(self._ports)} ports>"

    # Inside

    @property
    def _has_control(self) -> bool:
        return bool(self._features & ConsoleFeature.MULTIPORT)

    @property
    def _wake_queue(self) -> int:
        """The queue that calls from outside are about; any would do to look at readiness anew."""
        return CONTROL_RECEIVE if self._has_control else 0

    def _process(self, index: int) -> bool:
        if index == self._wake_queue:
            with suppress(BlockingIOError):
                os.eventfd_read(self._wake)
        port = port_of(index)
        if port is not None:
            if port >= len(self._active):
                return False
            return self._active[port].process(index, host_open=self._host_open[port])
        if not self._has_control:
            return False
        more = index == CONTROL_TRANSMIT and serve(self._queues[index], self._take_message)
        if CONTROL_RECEIVE in self._queues:
            more = self._messages.deliver(self._queues[CONTROL_RECEIVE]) or more
        return more

    def _give_up_waiting(self) -> bool:
        """Give back what waits for ends that were closed meanwhile; True if more is left.

        Their drivers may spin until then, as Linux does, and send no kick.
        """
        more = False
        for number, host_open in enumerate(self._host_open[: len(self._active)]):
            if not host_open and self._active[number].has_waiting_output:
                more = self.process_queue(transmit_index(number)) or more
        return more

    def _take_message(self, chain: DescriptorChain) -> int:
        """What the driver says of its ports; nonsense is ignored."""
        message = read_message(chain)
        if message is None:
            return 0
        number, event, value = message
        if event == Event.DEVICE_READY and value == 1:
            for each in range(len(self._ports)):
                self._messages.add(each, Event.DEVICE_ADD)
        elif number >= len(self._ports):
            return 0
        elif event == Event.PORT_READY and value == 1:
            self._introduce(number)
        elif event == Event.PORT_OPEN:
            self._active[number].guest_open = bool(value)
        return 0

    def _introduce(self, number: int) -> None:
        """Tell a driver that knows a port what the port is."""
        port = self._ports[number]
        if port.is_console:
            self._messages.add(number, Event.CONSOLE_PORT, 1)
        if port.name:
            self._messages.add(number, Event.PORT_NAME, more=port.name.encode())
        if self._host_open[number]:
            self._messages.add(number, Event.PORT_OPEN, 1)
        if number == 0 and port.is_console and self._size != (0, 0):
            self._messages.add(number, Event.RESIZE, more=_size.pack(*self._size))

    def _say(self, number: int, event: Event, value: int = 0, more: bytes = b"") -> None:
        if self._has_control and self._active:
            self._messages.add(number, event, value, more)
        if self._wake >= 0:
            os.eventfd_write(self._wake, 1)

    def _stop(self) -> None:
        for active in self._active:
            active.close_all()
        self._active = []
        self._queues = {}


def _checked(size: tuple[int, int]) -> tuple[int, int]:
    if not all(0 <= length <= _UINT16_MAX for length in size):
        raise VirtioUsageError(f"no terminal has {size[0]} columns and {size[1]} rows")
    return size
