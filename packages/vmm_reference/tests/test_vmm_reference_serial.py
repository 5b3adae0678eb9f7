"""The serial port, rule by rule; test_vmm_reference_serial_model.py looks for what these miss."""

from __future__ import annotations

import logging
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.legacy.serial import FIFO_SIZE, Serial

DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR = 0, 1, 2, 2, 3, 4, 5, 6, 7
RDA, THRE, LINE, MODEM = 1, 2, 4, 8
DTR, RTS, OUT2, LOOP = 1, 2, 8, 16
NO_INTERRUPT = 1


class Line:
    """Counts edges."""

    def __init__(self):
        self.edges = 0

    def trigger(self):
        self.edges += 1

    def take(self):
        edges, self.edges = self.edges, 0
        return edges


class Port:
    """A serial port with its surroundings, and one-byte accesses."""

    def __init__(self, **options):
        self.line = Line()
        self.chunks = []
        self.room_calls = 0
        self.serial = Serial(self.line, self.chunks.append, on_room=self._on_room, **options)

    def _on_room(self):
        self.room_calls += 1

    @property
    def output(self):
        return b"".join(self.chunks)

    def read(self, offset):
        data = memoryview(bytearray(1))
        self.serial.read(offset, data)
        return data[0]

    def write(self, offset, value):
        self.serial.write(offset, memoryview(bytes((value,))))

    def send(self, text):
        for byte in text:
            self.write(DATA, byte)

    def read_all(self):
        received = bytearray()
        while self.read(LSR) & 1:
            received.append(self.read(DATA))
        return bytes(received)


@pytest.fixture
def port():
    return Port()


def test_reset_state(port):
    """A port that nobody touched is idle: transmitter empty, nothing received, no interrupt."""
    assert port.read(LSR) == 0x60
    assert port.read(IIR) == NO_INTERRUPT
    assert port.read(IER) == 0
    assert port.read(MSR) == 0xB0
    assert port.read(DATA) == 0


# --- output


def test_each_byte_is_handed_over_at_once(port):
    """Without a batch, every byte that the guest writes reaches `output` by itself."""
    port.send(b"hi\n")
    assert port.chunks == [b"h", b"i", b"\n"]
    assert port.line.edges == 0


def test_batch_is_handed_over_at_line_ends_limits_and_flush():
    """With a batch, `output` gets runs of bytes, and `flush` gives it the rest."""
    port = Port(batch=8)
    port.send(b"one\ntwo three")
    assert port.chunks == [b"one\n", b"two thre"]
    port.serial.flush()
    port.serial.flush()
    assert port.chunks == [b"one\n", b"two thre", b"e"]


def test_interrupt_enables_end_a_burst():
    """Linux writes the enables after each burst; what it wrote before is then handed over."""
    port = Port(batch=100)
    port.send(b"login: ")
    assert port.chunks == []
    port.write(IER, 0)
    assert port.chunks == [b"login: "]


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), OSError(28, "No space"), ValueError("closed")]
)
def test_failing_output_loses_bytes_and_is_logged_once(caplog, error):
    """A reader that went away costs the guest nothing and the log one line."""

    def fail(chunk):
        raise error

    serial = Serial(Line(), fail)
    with caplog.at_level(logging.WARNING):
        for _ in range(1000):
            serial.write(DATA, memoryview(b"x"))
    assert serial.dropped == 1000
    assert len(caplog.records) == 1


def test_blocked_output_does_not_block_input():
    """While one thread is stuck in `output`, the host can give input and the guest can read."""
    entered, leave = threading.Event(), threading.Event()

    def block(chunk):
        entered.set()
        leave.wait(10)

    serial = Serial(Line(), block)
    vcpu = threading.Thread(target=serial.write, args=(DATA, memoryview(b"x")))
    vcpu.start()
    assert entered.wait(10)
    assert serial.receive(b"a") == 1
    data = memoryview(bytearray(1))
    serial.read(DATA, data)
    leave.set()
    vcpu.join()
    assert data[0] == ord("a")


def test_concurrent_writers_lose_nothing():
    """Bytes of several vCPUs mix, but each arrives once and in its writer's order."""
    chunks = []
    serial = Serial(Line(), chunks.append, batch=7)
    runs = [bytes(range(start, start + 64)) * 40 for start in (0, 64, 128)]

    def write_run(run):
        for byte in run:
            serial.write(DATA, memoryview(bytes((byte,))))

    writers = [threading.Thread(target=write_run, args=(run,)) for run in runs]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    serial.flush()
    output = b"".join(chunks)
    assert [bytes(byte for byte in output if byte >> 6 == i) for i in range(3)] == runs


# --- input


def test_input_is_bounded_and_room_is_announced_once():
    """`receive` takes what fits; `on_room` comes once, when half of the FIFO is free."""
    port = Port(capacity=8)
    assert port.serial.receive(b"0123456789") == 8
    assert port.serial.receive(b"89") == 0
    assert [port.read(DATA) for _ in range(3)] == [0x30, 0x31, 0x32]
    assert port.room_calls == 0
    port.read(DATA)
    assert port.room_calls == 1
    assert port.serial.receive(memoryview(b"89")) == 2
    assert port.read_all() == b"456789"
    assert port.room_calls == 1


def test_input_that_fits_asks_for_no_callback(port):
    """`on_room` answers a refusal; nobody is told what he does not wait for."""
    assert port.serial.receive(b"ok") == 2
    assert port.read_all() == b"ok"
    assert port.room_calls == 0


def test_flow_control_waits_for_rts():
    """With flow control nothing is taken, and so nothing lost, before the guest is ready."""
    port = Port(flow_control=True)
    assert port.serial.receive(b"early") == 0
    port.write(FCR, 0x07)  # Linux empties the FIFOs when it opens the port, then raises RTS
    port.write(MCR, DTR | RTS)
    assert port.room_calls == 1
    assert port.serial.receive(b"early") == 5
    assert port.read_all() == b"early"


def test_receiver_reset_discards_input(port):
    """The FIFO control register's receiver reset drops what was not read."""
    port.write(FCR, 0x01)
    port.serial.receive(b"stale")
    port.write(FCR, 0x03)
    assert port.read(LSR) == 0x60


def test_receiver_reset_announces_room():
    """Who was refused is told also when the guest throws its input away."""
    port = Port(capacity=4)
    port.serial.receive(b"12345")
    port.write(FCR, 0x01)
    assert port.room_calls == 1


def test_break_is_reported_with_its_zero_byte(port):
    """A break sets BI when its zero byte is next to be read, until the status is read."""
    port.write(FCR, 0x01)
    port.write(IER, LINE)
    port.serial.receive(b"a")
    assert port.serial.receive_break()
    assert port.read(LSR) == 0xE1  # an error somewhere in the FIFO, but not at its top
    assert port.read(IIR) == 0xC1
    assert port.read(DATA) == ord("a")
    assert port.read(IIR) == 0xC6
    assert port.read(LSR) == 0xF1
    assert port.read(LSR) == 0x61
    assert port.read(IIR) == 0xC1
    assert port.read(DATA) == 0
    assert port.read(LSR) == 0x60


def test_a_second_break_interrupts_when_it_comes_up(port):
    """Reading the first one's byte raises the line status interrupt again."""
    port.write(IER, LINE)
    assert port.serial.receive_break()
    assert port.serial.receive_break()
    port.read(LSR)
    port.line.take()
    port.read(DATA)
    assert port.line.take() == 1


def test_break_needs_room():
    """A full FIFO takes no break."""
    port = Port(capacity=1)
    port.serial.receive(b"x")
    assert not port.serial.receive_break()


# --- interrupts


def test_each_write_after_an_acknowledgement_interrupts(port):
    """The transmitter is empty again after each byte: one edge, until the guest has read IIR."""
    port.write(IER, THRE)
    assert port.line.take() == 1
    assert port.read(IIR) == 0x02
    assert port.read(IIR) == NO_INTERRUPT
    port.send(b"sixteen bytes...")
    assert port.line.take() == 1
    assert port.read(IIR) == 0x02


def test_enabling_thre_interrupts_again():
    """Linux tests that enabling the interrupt on an idle transmitter raises it each time."""
    port = Port()
    for _ in range(2):
        port.write(IER, THRE)
        assert port.line.take() == 1
        assert port.read(IIR) == 0x02
        port.write(IER, 0)
        assert port.read(IIR) == NO_INTERRUPT


def test_polled_output_never_interrupts(port):
    """A console that polls does so with all interrupts off, and gets none."""
    port.send(b"Linux version 6.1\n" * 100)
    assert port.line.edges == 0


def test_input_interrupts_when_enabled(port):
    """Data that arrive, and data that waited when the interrupt is enabled, raise an edge."""
    port.serial.receive(b"a")
    assert port.line.take() == 0
    port.write(IER, RDA)
    assert port.line.take() == 1
    assert port.read(IIR) == 0x04
    port.serial.receive(b"b")
    assert port.line.take() == 1
    assert port.read(DATA) == ord("a")
    assert port.line.take() == 1  # one byte is left
    assert port.read(DATA) == ord("b")
    assert port.line.take() == 0
    assert port.read(IIR) == NO_INTERRUPT


def test_trigger_level_tells_available_from_timeout(port):
    """Below the trigger level the FIFO interrupts by time-out, from it on by data available."""
    port.write(FCR, 0x01 | 1 << 6)  # 4 bytes
    port.write(IER, RDA)
    port.serial.receive(b"123")
    assert port.read(IIR) == 0xCC
    port.serial.receive(b"4")
    assert port.read(IIR) == 0xC4


def test_interrupts_are_identified_by_priority(port):
    """Line status before data before transmitter before modem status."""
    port.write(MCR, LOOP | OUT2 | RTS)
    port.write(MCR, 0)
    port.serial.receive_break()
    port.write(IER, RDA | THRE | LINE | MODEM)
    assert port.read(IIR) == 0x06
    port.read(LSR)
    assert port.read(IIR) == 0x04
    port.read(DATA)
    assert port.read(IIR) == 0x02
    assert port.read(IIR) == 0x00
    port.read(MSR)
    assert port.read(IIR) == NO_INTERRUPT


def test_modem_status_changes_interrupt(port):
    """A line that changes raises an edge if the interrupt is enabled, until the status is read."""
    port.write(IER, MODEM)
    port.write(MCR, LOOP | RTS)
    assert port.line.take() == 1
    assert port.read(IIR) == 0x00
    assert port.read(MSR) == 0x10 | 0x0A  # DSR and DCD fell
    assert port.read(IIR) == NO_INTERRUPT


# --- loopback, as drivers probe it


def test_loopback_reflects_modem_control(port):
    """Linux knows a UART by this: with RTS and OUT2 looped back, CTS and DCD and no others."""
    port.write(MCR, LOOP | OUT2 | RTS)
    assert port.read(MSR) & 0xF0 == 0x90


def test_loopback_fifo_is_sixteen_deep(port):
    """Linux counts what a full loopback FIFO holds; 64 would make it another chip."""
    port.write(FCR, 0x07)
    port.write(MCR, LOOP)
    port.send(bytes(range(256)))
    assert port.read(LSR) & 2  # overrun
    assert port.read_all() == bytes(range(FIFO_SIZE))
    assert port.output == b""


def test_loopback_disconnects_the_line():
    """In loopback nothing reaches or leaves the port; afterwards input is asked for again."""
    port = Port()
    port.write(MCR, LOOP)
    assert port.serial.receive(b"x") == 0
    assert not port.serial.receive_break()
    port.write(MCR, 0)
    assert port.room_calls == 1
    assert port.serial.receive(b"x") == 1


def test_loopback_interrupts(port):
    """Interrupts work in loopback: transmitter, data and overrun."""
    port.write(MCR, LOOP)
    port.write(IER, RDA | THRE | LINE)
    port.read(IIR)
    port.line.take()
    port.write(DATA, 1)
    assert port.line.take() == 2
    assert port.read(IIR) == 0x04
    port.write(DATA, 2)
    assert port.line.take() == 1
    assert port.read(IIR) == 0x06


def test_ring_is_reported_at_its_end(port):
    """The ring indicator's delta is set on the trailing edge only, the others' on both."""
    port.write(MCR, LOOP)
    port.read(MSR)
    port.write(MCR, LOOP | 4)
    assert port.read(MSR) == 0x40
    port.write(MCR, LOOP)
    assert port.read(MSR) == 0x04


# --- registers


def test_divisor_latch_hides_data_and_enables(port):
    """With DLAB set, the first two registers are the divisor's, and nothing is sent."""
    port.write(IER, 0x05)
    port.write(LCR, 0x83)
    port.write(0, 0x34)
    port.write(1, 0x12)
    assert (port.read(0), port.read(1)) == (0x34, 0x12)
    port.write(LCR, 0x03)
    assert port.read(IER) == 0x05
    assert port.output == b""


def test_unimplemented_bits_read_as_zero(port):
    """Bits that only later chips have stay clear, or Linux would take this for one of them."""
    for offset, kept in ((IER, 0x0F), (MCR, 0x1F)):
        port.write(offset, 0xFF)
        assert port.read(offset) == kept
    port.write(MCR, 0)
    port.write(FCR, 0xFF)
    port.write(LCR, 0x80)
    port.write(FCR, 0x21)  # a 16750 would go to 64 bytes and set bit 5 of IIR
    assert port.read(IIR) & 0xF0 == 0xC0
    port.write(LCR, 0)


def test_scratch_register_keeps_its_value(port):
    """The scratch register is memory."""
    port.write(SCR, 0x5A)
    assert port.read(SCR) == 0x5A


@pytest.mark.parametrize("size", [2, 4, 8])
def test_wide_access_reaches_one_register(port, size):
    """An access wider than a register reads ones beyond it, and its other bytes are ignored."""
    data = memoryview(bytearray(size))
    port.serial.read(LSR, data)
    assert bytes(data) == b"\x60" + b"\xff" * (size - 1)
    port.serial.write(DATA, memoryview(b"x" * size))
    assert port.output == b"x"


@pytest.mark.parametrize("options", [{"batch": 0}, {"capacity": 0}])
def test_nonsense_sizes_are_refused(options):
    """A port that can hold nothing is a mistake of the caller."""
    with pytest.raises(ValueError, match="at least 1"):
        Port(**options)


accesses = st.tuples(st.booleans(), st.integers(0, 12), st.binary(max_size=9))


@given(st.lists(accesses, max_size=60))
def test_no_access_raises_and_edges_are_bounded(operations):
    """Whatever a guest does, the port survives, and raises at most two edges per access."""
    port = Port(capacity=3, batch=4)
    for writes, offset, content in operations:
        port.line.take()
        if writes:
            port.serial.write(offset, memoryview(content))
        else:
            port.serial.read(offset, memoryview(bytearray(content)))
        assert port.line.take() <= 2
        port.serial.receive(content)
