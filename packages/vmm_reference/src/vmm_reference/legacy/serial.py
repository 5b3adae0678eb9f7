"""A 16550A serial port.

The guest sees the registers of a National Semiconductor PC16550D with 16-byte FIFOs, as its data
sheet describes them. The line itself has no speed: a byte that the guest writes has left at once,
so the transmitter is always empty, and the receiver's FIFO time-out has always passed.

Host side, input: `Serial.receive` puts bytes into a bounded FIFO and says how many it took; the
caller keeps the rest and comes back when `on_room` is called. So a host that floods its side costs
no memory and loses nothing.

Host side, output: the callable `output` gets what the guest wrote, in order and one call at a
time, on the thread of the vCPU that wrote it. With ``batch=1`` it gets every byte at once. With a
larger batch it gets at most that many bytes together: at a line end, when the guest changes its
interrupt enables (Linux does after each burst), when the batch is full, and at `Serial.flush`,
which whoever asks for batches must call when the guest goes idle and at the end. An `output` that
fails (a closed pipe, a full disk) loses those bytes and is logged once; one that blocks holds the
vCPU that writes, which is how a slow terminal slows down its guest.

Interrupts: the line is edge-triggered, and one edge follows each new reason to interrupt: data
arrived or remain after a read, the transmitter emptied, line or modem status changed, or an enable
bit was set while its reason stood. Each edge is caused by one guest access or one call from the
host, so they cannot storm. OUT2 does not gate the line; guests that get this wrong exist, and
those that get it right do not mind.

Thread safety: all methods may be called from any thread.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    from vmm_reference.interrupts import Trigger

logger = logging.getLogger(__name__)

COM_PORTS: Final = ((1, 0x3F8, 4), (2, 0x2F8, 3), (3, 0x3E8, 5), (4, 0x2E8, 7))
"""(number, I/O base, interrupt line) of COM1 to COM4; unlike a PC's, the lines are distinct."""

SIZE: Final = 8
"""Ports that one serial port occupies."""

FIFO_SIZE: Final = 16
"""Depth of the FIFOs that the guest sees; drivers measure it in loopback mode."""

# Registers: offset, and what DLAB, reading or writing makes of it.
_RBR = _THR = _DLL = 0
_IER = _DLM = 1
_IIR = _FCR = 2
_LCR, _MCR, _LSR, _MSR, _SCR = 3, 4, 5, 6, 7

# Interrupt enable register.
_IER_RDA, _IER_THRE, _IER_LINE, _IER_MODEM = 1, 2, 4, 8

# Interrupt identification register, in order of priority.
_IIR_LINE, _IIR_RDA, _IIR_TIMEOUT, _IIR_THRE, _IIR_MODEM, _IIR_NONE = 6, 4, 12, 2, 0, 1
_IIR_FIFO = 0xC0

# FIFO control register.
_FCR_ENABLE, _FCR_CLEAR_RX = 0x01, 0x02
_TRIGGER_LEVELS = (1, 4, 8, 14)

_LCR_DLAB = 0x80

# Modem control register and modem status register.
_MCR_DTR, _MCR_RTS, _MCR_OUT1, _MCR_OUT2, _MCR_LOOP = 0x01, 0x02, 0x04, 0x08, 0x10
_MSR_CTS, _MSR_DSR, _MSR_RI, _MSR_DCD = 0x10, 0x20, 0x40, 0x80
_MSR_PEER_READY = _MSR_CTS | _MSR_DSR | _MSR_DCD

# Line status register.
_LSR_DR, _LSR_OE, _LSR_BI, _LSR_FIFO_ERROR = 0x01, 0x02, 0x10, 0x80
_LSR_TX_EMPTY = 0x60  # THRE and TEMT

_BREAK = 0x100  # an entry of the receive FIFO: the zero byte that a break leaves, not yet reported
_NEWLINE = 0x0A


def _modem_lines(mcr: int) -> int:
    """The status lines (upper half of the MSR): looped back from the MCR, or a ready peer's."""
    if not mcr & _MCR_LOOP:
        return _MSR_PEER_READY
    return (
        (_MSR_CTS if mcr & _MCR_RTS else 0)
        | (_MSR_DSR if mcr & _MCR_DTR else 0)
        | (_MSR_RI if mcr & _MCR_OUT1 else 0)
        | (_MSR_DCD if mcr & _MCR_OUT2 else 0)
    )


class Serial:
    """A 16550A with the host as its peer; see the module for the rules.

    Args:
        interrupt: the port's line.
        output: gets what the guest writes. An `OSError` or `ValueError` of it (a file object that
            is closed) is contained; anything else is a bug and goes to the vCPU's thread.
        on_room: called, on any thread, when `receive` would again take bytes after it took fewer
            than it was given. Must not block.
        batch: how many bytes `output` may get at once; above 1, `flush` must be called.
        capacity: bytes of the host's input that may wait for the guest.
        flow_control: take input only while the guest asserts RTS. Linux does so while the port is
            open, and empties the FIFO when it opens it: what came earlier would be lost. Firmware
            and small kernels that poll often never assert it.

    Attributes:
        dropped: bytes that `output` failed to take.
    """

    def __init__(
        self,
        interrupt: Trigger,
        output: Callable[[bytes], object],
        *,
        on_room: Callable[[], object] | None = None,
        batch: int = 1,
        capacity: int = 64,
        flow_control: bool = False,
    ) -> None:
        if batch < 1 or capacity < 1:
            raise ValueError("a serial port needs a batch and a capacity of at least 1")
        self.dropped = 0
        self._interrupt = interrupt
        self._output = output
        self._on_room = on_room
        self._batch = batch
        self._capacity = capacity
        self._flow_control = flow_control

        # `_lock` guards every register and the receiver; `_output_lock` orders the calls of
        # `output`. Neither is held while calling out through the other's side: a blocked `output`
        # does not block `receive`. `_outgoing` needs no lock to grow: append is atomic.
        self._lock = threading.Lock()
        self._output_lock = threading.Lock()
        self._outgoing = bytearray()
        self._received: deque[int] = deque()
        self._refused = False

        self._ier = 0
        self._lcr = 0x03  # 8N1, as firmware leaves it
        self._mcr = 0
        self._msr_delta = 0
        self._scratch = 0
        self._divisor = 12  # 9600 baud
        self._fifo_enabled = False
        self._trigger_level = 1
        self._transmitted = False  # the THRE interrupt is pending
        self._overrun = False
        self._transmits_directly = True  # neither DLAB nor loopback: offset 0 is the line

    # --- the guest's side

    def read(self, offset: int, data: memoryview) -> None:
        """Read a register; what lies beyond one byte reads as ones."""
        if len(data) != 1:
            data[:] = b"\xff" * len(data)
            if not data:
                return
        if offset == _LSR and not self._received and not self._overrun:
            data[0] = _LSR_TX_EMPTY  # what a console waits for before every byte
            return
        data[0] = self._read_register(offset)

    def write(self, offset: int, data: memoryview) -> None:
        """Write a register; what lies beyond one byte is ignored."""
        if not data:
            return
        if offset or not self._transmits_directly:
            self._write_register(offset, data[0])
            return
        outgoing = self._outgoing
        outgoing.append(byte := data[0])
        if byte == _NEWLINE or len(outgoing) >= self._batch:
            self.flush()
        if self._ier & _IER_THRE:
            self._raise_transmitted()

    def _read_register(self, offset: int) -> int:
        if offset <= _DLM and self._lcr & _LCR_DLAB:
            return self._divisor >> 8 if offset else self._divisor & 0xFF
        return self._READERS[offset](self) if offset < SIZE else 0xFF

    def _write_register(self, offset: int, value: int) -> None:
        dlab = self._lcr & _LCR_DLAB
        if offset == _THR and not dlab:
            self._transmit_to_self(value)
        elif offset == _DLL:
            self._divisor = self._divisor & 0xFF00 | value
        elif offset == _DLM and dlab:
            self._divisor = self._divisor & 0xFF | value << 8
        elif offset == _IER:
            self._write_ier(value)
        elif offset == _FCR:
            self._write_fcr(value)
        elif offset == _LCR:
            self._lcr = value
            self._update_path()
        elif offset == _MCR:
            self._write_mcr(value)
        elif offset == _SCR:
            self._scratch = value

    def _read_rbr(self) -> int:
        with self._lock:
            if not self._received:
                return 0
            byte = self._received.popleft() & 0xFF
            # What comes up behind the byte may be a reason of its own: more data, or a break.
            edge = bool(self._reasons() & self._ier & (_IER_RDA | _IER_LINE))
            room = self._take_room()
        self._call_out(edge=edge, room=room)
        return byte

    def _transmit_to_self(self, value: int) -> None:
        """Loopback (MCR bit 4): what is transmitted is received, and nothing else is."""
        with self._lock:
            if len(self._received) < (FIFO_SIZE if self._fifo_enabled else 1):
                self._received.append(value)
                edge = bool(self._ier & _IER_RDA)
            else:
                self._overrun = True
                edge = bool(self._ier & _IER_LINE)
        self._call_out(edge=edge)
        if self._ier & _IER_THRE:
            self._raise_transmitted()

    def _raise_transmitted(self) -> None:
        with self._lock:
            edge = not self._transmitted
            self._transmitted = True
        self._call_out(edge=edge)

    def _write_ier(self, value: int) -> None:
        value &= 0x0F
        with self._lock:
            rising = value & ~self._ier
            self._ier = value
            if rising & _IER_THRE:
                self._transmitted = True  # the transmitter is empty; enabling says so again
            edge = bool(rising) and bool(rising & self._reasons())
        self.flush()
        self._call_out(edge=edge)

    def _reasons(self) -> int:
        """The reasons to interrupt that stand now, as the IER bits that would let them through."""
        received = self._received
        reasons = _IER_THRE if self._transmitted else 0
        if received:
            reasons |= _IER_RDA
        if self._overrun or (received and received[0] == _BREAK):
            reasons |= _IER_LINE
        if self._msr_delta:
            reasons |= _IER_MODEM
        return reasons

    def _read_iir(self) -> int:
        with self._lock:
            pending = self._reasons() & self._ier
            if pending & _IER_LINE:
                source = _IIR_LINE
            elif pending & _IER_RDA:
                full = not self._fifo_enabled or len(self._received) >= self._trigger_level
                source = _IIR_RDA if full else _IIR_TIMEOUT
            elif pending & _IER_THRE:
                source = _IIR_THRE
                self._transmitted = False
            else:
                source = _IIR_MODEM if pending & _IER_MODEM else _IIR_NONE
            return source | (_IIR_FIFO if self._fifo_enabled else 0)

    def _write_fcr(self, value: int) -> None:
        with self._lock:
            enabled = bool(value & _FCR_ENABLE)
            if enabled != self._fifo_enabled or value & _FCR_CLEAR_RX:
                self._received.clear()
            self._fifo_enabled = enabled
            if enabled:  # the other bits count only together with this one
                self._trigger_level = _TRIGGER_LEVELS[value >> 6]
            room = self._take_room()
        self._call_out(room=room)

    def _read_lsr(self) -> int:
        with self._lock:
            value = _LSR_TX_EMPTY
            received = self._received
            if self._overrun:
                value |= _LSR_OE
                self._overrun = False
            if received:
                value |= _LSR_DR
                if self._fifo_enabled and _BREAK in received:
                    value |= _LSR_FIFO_ERROR
                if received[0] == _BREAK:
                    value |= _LSR_BI
                    received[0] = 0  # reported; the byte stays to be read
            return value

    def _write_mcr(self, value: int) -> None:
        with self._lock:
            before = _modem_lines(self._mcr)
            self._mcr = value & 0x1F
            after = _modem_lines(self._mcr)
            delta = (before ^ after) & ~_MSR_RI | (before & ~after & _MSR_RI)  # RI: trailing edge
            self._msr_delta |= delta >> 4
            edge = bool(delta) and bool(self._ier & _IER_MODEM)
            self._update_path()
            room = self._take_room()
        self._call_out(edge=edge, room=room)

    def _read_msr(self) -> int:
        with self._lock:
            value = _modem_lines(self._mcr) | self._msr_delta
            self._msr_delta = 0
            return value

    _READERS: Final[tuple[Callable[[Serial], int], ...]] = (
        _read_rbr,
        attrgetter("_ier"),
        _read_iir,
        attrgetter("_lcr"),
        attrgetter("_mcr"),
        _read_lsr,
        _read_msr,
        attrgetter("_scratch"),
    )

    def _update_path(self) -> None:
        self._transmits_directly = not (self._lcr & _LCR_DLAB or self._mcr & _MCR_LOOP)

    # --- the host's side

    @property
    def room(self) -> int:
        """How many bytes `receive` would take now."""
        if self._mcr & _MCR_LOOP or (self._flow_control and not self._mcr & _MCR_RTS):
            return 0
        return max(0, self._capacity - len(self._received))

    def receive(self, data: bytes | bytearray | memoryview) -> int:
        """Give the guest input; return how many of the bytes were taken, the first ones.

        If that is not all, `on_room` will be called when it is worth offering the rest.
        """
        offered = bytes(data)
        with self._lock:
            taken = min(self.room, len(offered))
            self._received.extend(offered[:taken])
            if taken < len(offered):
                self._refused = True
            edge = bool(taken) and bool(self._ier & _IER_RDA)
        self._call_out(edge=edge)
        return taken

    def receive_break(self) -> bool:
        """Send the guest a break (Linux: the SysRq key); False if there is no room for it now."""
        with self._lock:
            taken = self.room > 0
            if taken:
                self._received.append(_BREAK)
            edge = taken and bool(self._ier & (_IER_RDA | _IER_LINE))
        self._call_out(edge=edge)
        return taken

    def flush(self) -> None:
        """Hand over to `output` what it has not yet got."""
        if not self._outgoing:
            return
        with self._output_lock:
            outgoing = self._outgoing
            # Bytes that another vCPU appends meanwhile stay behind those taken here.
            chunk = bytes(outgoing)
            del outgoing[: len(chunk)]
            if chunk:
                self._emit(chunk)

    def _emit(self, chunk: bytes) -> None:
        try:
            self._output(chunk)
        except (OSError, ValueError) as error:
            if not self.dropped:
                logger.warning("serial output is lost from here on: %s", error)
            self.dropped += len(chunk)

    def _take_room(self) -> bool:
        """Whether to call `on_room`: input was refused and half of the FIFO is free again."""
        if self._refused and self.room * 2 >= self._capacity:
            self._refused = False
            return True
        return False

    def _call_out(self, *, edge: bool = False, room: bool = False) -> None:
        if edge:
            self._interrupt.trigger()
        if room and self._on_room:
            self._on_room()
