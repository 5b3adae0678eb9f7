"""Exits: decoding a run page, without any KVM."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvm_ioctls import RunPage, exits
from kvm_ioctls._ffi import ffi, lib
from kvm_ioctls.run_page import SIZE

DATA = 0x1000
HEADER = Path("/usr/include/linux/kvm.h")


class Page(RunPage):
    """With the same as C's structure in `c`."""


@pytest.fixture
def page():
    """A run page of two pages, and the same as C's structure."""
    memory = bytearray(0x2000)
    made = Page(memory)
    made.c = ffi.from_buffer("struct kvm_run *", memory)
    return made


def test_port_output(page):
    """Port, width, count, and a view of the data."""
    page.c.exit_reason = lib.KVM_EXIT_IO
    io = page.c.io
    io.direction, io.size, io.port, io.count, io.data_offset = 1, 2, 0x3F8, 1, DATA
    page.raw[DATA : DATA + 2] = b"hi"
    match page.decode():
        case exits.IoOut(port, size, count, data):
            assert (port, size, count, bytes(data)) == (0x3F8, 2, 1, b"hi")
        case other:
            pytest.fail(repr(other))


def test_the_answer_to_an_input_goes_into_the_page(page):
    """The view of an IoIn is writable and is the page."""
    page.c.exit_reason = lib.KVM_EXIT_IO
    io = page.c.io
    io.direction, io.size, io.port, io.count, io.data_offset = 0, 4, 0x60, 3, DATA
    exit_ = page.decode()
    assert isinstance(exit_, exits.IoIn)
    exit_.data[:] = bytes(range(12))
    assert page.raw[DATA : DATA + 12] == bytes(range(12))


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from([1, 2, 4]),
            st.integers(0, 0xFFFF),
            st.integers(1, 512),
        ),
        max_size=30,
    )
)
def test_any_sequence_of_port_exits(accesses):
    """What was decoded before never shows in the next exit."""
    memory = bytearray(0x2000)
    page = RunPage(memory)
    c = ffi.from_buffer("struct kvm_run *", memory)
    c.exit_reason = lib.KVM_EXIT_IO
    for direction, size, port, count in accesses:
        c.io.direction, c.io.size, c.io.port, c.io.count = direction, size, port, count
        c.io.data_offset = DATA
        exit_ = page.decode()
        assert type(exit_) is (exits.IoIn, exits.IoOut)[direction]
        assert (exit_.port, exit_.size, exit_.count) == (port, size, count)
        assert len(exit_.data) == size * count


def test_many_ports(page):
    """More different accesses than are remembered are decoded as well."""
    page.c.exit_reason = lib.KVM_EXIT_IO
    io = page.c.io
    io.direction, io.size, io.count, io.data_offset = 1, 1, 1, DATA
    for port in range(600):
        io.port = port
        assert page.decode().port == port


@pytest.mark.parametrize("length", [1, 2, 4, 8])
@pytest.mark.parametrize("is_write", [0, 1])
def test_memory_mapped_io(page, length, is_write):
    """Address and a view of as many bytes as were accessed."""
    page.c.exit_reason = lib.KVM_EXIT_MMIO
    mmio = page.c.mmio
    mmio.phys_addr, mmio.len, mmio.is_write = 0xFEE0_0000, length, is_write
    mmio.data = bytes(range(8))
    exit_ = page.decode()
    assert type(exit_) is (exits.MmioRead, exits.MmioWrite)[is_write]
    assert (exit_.address, bytes(exit_.data)) == (0xFEE0_0000, bytes(range(length)))
    exit_.data[0] = 0x77
    assert mmio.data[0] == 0x77


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("HLT", exits.Hlt),
        ("SHUTDOWN", exits.Shutdown),
        ("IRQ_WINDOW_OPEN", exits.IrqWindowOpen),
        ("INTR", exits.Interrupted),
        ("NMI", exits.Nmi),
        ("SET_TPR", exits.SetTpr),
        ("DIRTY_RING_FULL", exits.DirtyRingFull),
        ("AP_RESET_HOLD", exits.ApResetHold),
        ("X86_BUS_LOCK", exits.X86BusLock),
    ],
)
def test_exits_without_data(page, reason, kind):
    """One class each, equal to another of its kind."""
    page.c.exit_reason = getattr(lib, f"KVM_EXIT_{reason}")
    assert page.decode() == kind()
    assert repr(page.decode()) == f"{kind.__name__}()"


def test_emulation_failure(page):
    """The instruction's bytes are there when KVM says so, and the message has them."""
    page.c.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    page.c.internal.suberror, page.c.internal.ndata = 1, 4
    failure = page.c.emulation_failure
    failure.flags, failure.insn_size, failure.insn_bytes = 1, 3, b"\x0f\x01\xd0" + bytes(12)
    exit_ = page.decode()
    assert (exit_.suberror, len(exit_.data), exit_.insn_bytes) == (1, 4, b"\x0f\x01\xd0")
    assert str(exit_) == "KVM cannot emulate the instruction: 0f 01 d0"
    failure.flags = 0
    assert page.decode().insn_bytes == b""


def test_other_internal_errors(page):
    """Their words are in data; unknown ones have their number."""
    page.c.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    page.c.internal.suberror, page.c.internal.ndata = 3, 2
    page.c.internal.data = [5, 6] + [0] * 14
    assert page.decode() == exits.InternalError(3, (5, 6), b"")
    page.c.internal.suberror = 99
    assert str(page.decode()) == "suberror 99"


def test_exits_with_numbers(page):
    """FailEntry, Debug, IoapicEoi, TprAccess, Notify, SystemEvent."""
    c = page.c
    c.exit_reason = lib.KVM_EXIT_FAIL_ENTRY
    c.fail_entry.hardware_entry_failure_reason, c.fail_entry.cpu = 0x80000021, 3
    assert page.decode() == exits.FailEntry(0x80000021, 3)
    c.exit_reason = lib.KVM_EXIT_DEBUG
    arch = c.debug.arch
    arch.exception, arch.pc, arch.dr6, arch.dr7 = 1, 0x1000, 0xFFFF4FF0, 0x400
    assert page.decode() == exits.Debug(1, 0x1000, 0xFFFF4FF0, 0x400)
    c.exit_reason = lib.KVM_EXIT_IOAPIC_EOI
    c.eoi.vector = 0x51
    assert page.decode() == exits.IoapicEoi(0x51)
    c.exit_reason = lib.KVM_EXIT_TPR_ACCESS
    c.tpr_access.rip, c.tpr_access.is_write = 0x1234, 1
    assert page.decode() == exits.TprAccess(0x1234, True)
    c.exit_reason = lib.KVM_EXIT_NOTIFY
    c.notify.flags = 1
    assert page.decode() == exits.Notify(1)
    c.exit_reason = lib.KVM_EXIT_SYSTEM_EVENT
    c.system_event.type, c.system_event.ndata = 2, 1
    c.system_event.data = [7] + [0] * 15
    assert page.decode() == exits.SystemEvent(2, (7,))


def test_memory_faults(page):
    """Three words where every exit's record begins."""
    page.c.exit_reason = lib.KVM_EXIT_MEMORY_FAULT
    page.raw[32:56] = b"".join(n.to_bytes(8, "little") for n in (8, 0x1000, 0x2000))
    assert page.decode() == exits.MemoryFault(8, 0x1000, 0x2000)


def test_msr_exits_are_answered_in_the_page(page):
    """Value and error go where the kernel reads them."""
    page.c.exit_reason = lib.KVM_EXIT_X86_RDMSR
    msr = page.c.msr
    msr.reason, msr.index, msr.error = 2, 0xC0000080, 0
    read = page.decode()
    assert (read.reason, read.index) == (2, 0xC0000080)
    read.data = 0x500
    read.error = True
    assert (msr.data, msr.error) == (0x500, 1)
    page.c.exit_reason = lib.KVM_EXIT_X86_WRMSR
    match page.decode():
        case exits.X86Wrmsr(_, 0xC0000080, data):
            assert data == 0x500
        case other:
            pytest.fail(repr(other))


def test_hypercalls_are_answered_in_the_page(page):
    """The result goes where the kernel reads it."""
    page.c.exit_reason = lib.KVM_EXIT_HYPERCALL
    call = page.c.hypercall
    call.nr, call.args, call.longmode = 12, [1, 2, 3, 4, 5, 6], 1
    exit_ = page.decode()
    assert (exit_.nr, exit_.args, exit_.longmode) == (12, (1, 2, 3, 4, 5, 6), True)
    exit_.ret = 2**64 - 1
    assert call.ret == 2**64 - 1


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.binary(min_size=256, max_size=256))
def test_any_page_decodes(reason, payload):
    """Whatever the page says, decoding gives an exit that can be printed."""
    memory = bytearray(SIZE)
    memory[8:12] = reason.to_bytes(4, "little")
    memory[32:288] = payload
    if reason == lib.KVM_EXIT_MMIO:
        memory[48:52] = bytes(4)
    assert repr(RunPage(memory).decode())


def test_an_unknown_reason_is_an_exit(page):
    """A newer kernel's exits keep their number and their record."""
    page.c.exit_reason = 4711
    exit_ = page.decode()
    assert exit_ == exits.Unknown(4711, page.raw[32:288])
    assert len(exit_.payload) == 256
    assert repr(exit_) == "Unknown(reason=0x1267)"


def test_flags_of_the_page(page):
    """The fields that the VMM sets and reads beside the exits."""
    page.immediate_exit = True
    page.request_interrupt_window = True
    page.cr8 = 5
    assert (page.c.immediate_exit, page.c.request_interrupt_window, page.c.cr8) == (1, 1, 5)
    page.c.if_flag = page.c.ready_for_interrupt_injection = 1
    page.c.apic_base = 0xFEE00900
    assert page.if_flag
    assert page.ready_for_interrupt_injection
    assert (page.cr8, page.apic_base) == (5, 0xFEE00900)
    page.immediate_exit = page.request_interrupt_window = False
    assert not page.immediate_exit
    assert not page.request_interrupt_window


def test_a_page_has_to_be_writable_and_long_enough():
    """Anything else is refused at once."""
    for buffer in memoryview(bytes(0x2000)), bytearray(SIZE - 1):
        with pytest.raises(ValueError, match="run page"):
            RunPage(buffer)


def test_a_released_page_lets_go_of_its_buffer():
    """After release() the buffer can be resized, and decoding is an error."""
    memory = bytearray(0x2000)
    page = RunPage(memory)
    page.decode()
    page.release()
    memory.clear()
    with pytest.raises(ValueError, match="released"):
        page.decode()


def test_exits_compare_by_value():
    """Different kinds differ, and exits are not hashable: they are used again."""
    assert exits.IoOut(1, 1, 1, memoryview(b"a")) != exits.IoIn(1, 1, 1, memoryview(b"a"))
    assert exits.IoapicEoi(1) == exits.IoapicEoi(1) != exits.IoapicEoi(2)
    with pytest.raises(TypeError):
        hash(exits.Hlt())


def reasons_of_the_header() -> dict[str, int]:
    """KVM_EXIT_* of <linux/kvm.h>, without the kinds that an exit divides into."""
    text = HEADER.read_text()
    found = re.findall(r"^#define KVM_EXIT_(\w+)\s+(\d+)", text, re.MULTILINE)
    kinds = ("IO_IN", "IO_OUT", "HYPERV_", "XEN_")
    return {name: int(number) for name, number in found if not name.startswith(kinds)}


@pytest.mark.skipif(not HEADER.exists(), reason="no kernel headers")
def test_every_reason_of_the_header_is_decoded(page):
    """None of them is Unknown but KVM_EXIT_UNKNOWN, and each has its number's name."""
    for name, number in reasons_of_the_header().items():
        assert getattr(lib, f"KVM_EXIT_{name}") == number
        page.c.exit_reason = number
        exit_ = page.decode()
        assert isinstance(exit_, exits.Unknown) == (name == "UNKNOWN"), name
        if isinstance(exit_, exits.Raw):
            assert (exit_.name, exit_.reason, len(exit_.payload)) == (name, number, 256)


def test_what_the_processor_said(page):
    """KVM_EXIT_UNKNOWN carries the hardware's reason."""
    page.c.exit_reason = lib.KVM_EXIT_UNKNOWN
    page.c.hw.hardware_exit_reason = 0x8000_0003
    assert page.decode().hardware_exit_reason == 0x8000_0003


def test_requests_to_hyper_v(page):
    """The record is a view: the hypercall's answer goes where the kernel reads it."""
    page.c.exit_reason = lib.KVM_EXIT_HYPERV
    record = page.c.hyperv
    record.type, record.u.hcall.input = 2, 0x5C
    record.u.hcall.params = [7, 8]
    match page.decode():
        case exits.Hyperv(record=seen):
            assert (seen.type, seen.u.hcall.input, list(seen.u.hcall.params)) == (2, 0x5C, [7, 8])
            seen.u.hcall.result = 5
        case other:
            pytest.fail(repr(other))
    assert page.c.hyperv.u.hcall.result == 5


def test_requests_to_xen(page):
    """As Hyper-V's."""
    page.c.exit_reason = lib.KVM_EXIT_XEN
    record = page.c.xen
    record.type, record.u.hcall.longmode, record.u.hcall.input = 1, 1, 17
    exit_ = page.decode()
    assert (exit_.record.type, exit_.record.u.hcall.input) == (1, 17)
    exit_.record.u.hcall.result = 2**64 - 38
    assert page.c.xen.u.hcall.result == 2**64 - 38


def test_other_architectures_exits(page):
    """They decode wherever the header has them."""
    c = page.c
    c.exit_reason = lib.KVM_EXIT_ARM_NISV
    c.arm_nisv.esr_iss, c.arm_nisv.fault_ipa = 5, 0x9000_0000
    assert page.decode() == exits.ArmNisv(5, 0x9000_0000)
    c.exit_reason = lib.KVM_EXIT_RISCV_SBI
    c.riscv_sbi.extension_id, c.riscv_sbi.function_id = 0x10, 3
    c.riscv_sbi.args = [1, 2, 3, 4, 5, 6]
    call = page.decode()
    assert (call.extension_id, call.function_id, call.args) == (0x10, 3, (1, 2, 3, 4, 5, 6))
    call.ret = (-3, 9)
    assert list(c.riscv_sbi.ret) == [2**64 - 3, 9] == list(call.ret)
    c.exit_reason = lib.KVM_EXIT_RISCV_CSR
    c.riscv_csr.csr_num, c.riscv_csr.new_value, c.riscv_csr.write_mask = 0x15, 7, 0xFF
    access = page.decode()
    assert (access.csr_num, access.new_value, access.write_mask) == (0x15, 7, 0xFF)
    access.ret_value = 4
    assert c.riscv_csr.ret_value == 4 == access.ret_value


def test_failed_entries_are_explained():
    """VMX and SVM say in their own ways that the guest's state is impossible."""
    assert str(exits.FailEntry(0x8000_0021, 1)).startswith("the guest's state is not a processor's")
    assert str(exits.FailEntry(2**64 - 1, 1)).startswith("the guest's state is not a processor's")
    assert (
        str(exits.FailEntry(7, 1)) == "the processor refused the guest: reason 0x7 on processor 1"
    )


def test_whose_memory_was_missing():
    """A flag of the fault."""
    assert exits.MemoryFault(8, 0x1000, 0x1000).is_private
    assert not exits.MemoryFault(0, 0x1000, 0x1000).is_private


def test_kinds_of_system_events(page):
    """They are numbers with names; a newer kernel's stay numbers."""
    page.c.exit_reason = lib.KVM_EXIT_SYSTEM_EVENT
    page.c.system_event.type, page.c.system_event.ndata = 2, 0
    match page.decode():
        case exits.SystemEvent(type=exits.SystemEventType.RESET):
            pass
        case other:
            pytest.fail(repr(other))


def prepare(page, port):
    """The page tells of an output to `port`."""
    page.c.exit_reason = lib.KVM_EXIT_IO
    io = page.c.io
    io.direction, io.size, io.port, io.count, io.data_offset = 1, 1, port, 1, DATA


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.sampled_from("iom")), max_size=30))
def test_what_was_kept_expires_whatever_came_in_between(steps):
    """Model: only the last exit has data. Kept exits say so, kept views are released.

    The fast path uses exits and views again when nobody has them: that must never show.
    """
    memory = bytearray(0x2000)
    page = Page(memory)
    page.c = ffi.from_buffer("struct kvm_run *", memory)
    kept_exits, kept_views = [], []
    for number, (keep_exit, keep_view, kind) in enumerate(steps):
        prepare(page, number)
        page.c.io.direction = kind == "o"
        if kind == "m":
            page.c.exit_reason = lib.KVM_EXIT_MMIO
            page.c.mmio.phys_addr, page.c.mmio.len = number, 4
        exit_ = page.decode()
        for old in kept_exits:
            with pytest.raises(ValueError, match="valid until the next run"):
                bytes(old.data)
        for old in kept_views:
            with pytest.raises(ValueError, match="released"):
                bytes(old)
        assert getattr(exit_, "address" if kind == "m" else "port") == number
        assert len(exit_.data) == (4 if kind == "m" else 1)
        if keep_view:
            kept_views.append(exit_.data)
        if keep_exit:
            kept_exits.append(exit_)
        del exit_


def test_infrequent_exits_expire_too(page):
    """What the guest waits for can be answered until the next exit, not later."""
    page.c.exit_reason = lib.KVM_EXIT_X86_RDMSR
    read = page.decode()
    read.data = 5
    page.c.exit_reason = lib.KVM_EXIT_HLT
    page.decode()
    with pytest.raises(ValueError, match="released"):
        read.data = 6
    page.c.exit_reason = 4711
    unknown = page.decode()
    page.interrupted()
    with pytest.raises(ValueError, match="released"):
        bytes(unknown.payload)


def test_a_view_that_is_being_read_stays(page):
    """Somebody reads from it in C at this moment: he may go on."""
    prepare(page, 1)
    data = page.decode().data
    reader = ffi.from_buffer("char[]", data)
    prepare(page, 2)
    page.decode()
    assert ffi.sizeof(reader) == 1
    ffi.release(reader)


def test_data_outside_of_the_page_are_none(page):
    """Whatever a page says, nothing outside of it is shown."""
    prepare(page, 1)
    for offset, count in (0x2000, 1), (2**64 - 1, 1), (DATA, 2**32 - 1):
        page.c.io.data_offset, page.c.io.count = offset, count
        assert bytes(page.decode().data) == b""
    page.c.exit_reason = lib.KVM_EXIT_MMIO
    page.c.mmio.len = 9
    assert bytes(page.decode().data) == b""


def test_records_of_other_hypervisors_expire_with_all_their_parts(page):
    """Neither record nor part nor exit shows the page after the next exit, nor writes to it.

    The wrong behaviour was that a part of a record stayed a view of whatever came next.
    """
    for reason, part in (lib.KVM_EXIT_HYPERV, "hyperv"), (lib.KVM_EXIT_XEN, "xen"):
        page.c.exit_reason = reason
        getattr(page.c, part).u.hcall.params[0] = 7
        exit_ = page.decode()
        record, union, call = exit_.record, exit_.record.u, exit_.record.u.hcall
        params = call.params
        page.c.exit_reason = lib.KVM_EXIT_HLT
        page.decode()
        for use in (
            lambda exit_=exit_: exit_.record,
            lambda record=record: record.type,
            lambda union=union: union.hcall.input,
            lambda call=call: call.result,
            lambda call=call: call.params,
            lambda call=call: setattr(call, "result", 1),
            lambda record=record: bytes(record),
        ):
            with pytest.raises(ValueError, match="released"):
                use()
        assert params[0] == 7
        assert repr(exit_) == f"{type(exit_).__name__}(record=expired)"
        assert getattr(page.c, part).u.hcall.result != 1


def test_answers_to_a_riscv_guest_expire(page):
    """As all others: too late is a ValueError."""
    page.c.exit_reason = lib.KVM_EXIT_RISCV_SBI
    call = page.decode()
    page.c.exit_reason = lib.KVM_EXIT_RISCV_CSR
    access = page.decode()
    page.decode()
    for late in (lambda: setattr(call, "ret", (0, 0)), lambda: setattr(access, "ret_value", 1)):
        with pytest.raises(ValueError, match="released"):
            late()


def test_records_of_other_hypervisors_by_themselves():
    """They are structures like all others when nobody lends them."""
    call = exits.foreign.HypervHcall(input=5, params=[1, 2])
    assert (call.input, call.params, call.SIZE) == (5, (1, 2), len(bytes(call)))
    again = exits.foreign.HypervRecord(type=2)
    again.u.hcall = call
    assert again.u.hcall == call
    assert exits.foreign.HypervRecord.from_bytes(bytes(again)) == again


def test_how_much_of_an_internal_error_counts(page):
    """As many words as KVM says, and never more of an instruction than the 15 bytes there are."""
    page.c.exit_reason = lib.KVM_EXIT_INTERNAL_ERROR
    internal = page.c.internal
    internal.suberror, internal.ndata = 3, 2
    internal.data = list(range(1, 17))
    assert page.decode().data == (1, 2)
    emulation = page.c.emulation_failure
    internal.suberror, internal.ndata = lib.KVM_INTERNAL_ERROR_EMULATION, 4
    emulation.flags = 1
    emulation.insn_size, emulation.insn_bytes = 200, list(range(1, 16))
    assert page.decode().insn_bytes == bytes(range(1, 16))
    emulation.insn_size = 3
    assert page.decode().insn_bytes == b"\1\2\3"
    internal.ndata = 0
    assert page.decode().insn_bytes == b""


def test_how_much_of_a_system_event_counts(page):
    """As many words as KVM says."""
    page.c.exit_reason = lib.KVM_EXIT_SYSTEM_EVENT
    page.c.system_event.type, page.c.system_event.ndata = 2, 1
    page.c.system_event.data = list(range(5, 21))
    assert page.decode() == exits.SystemEvent(2, (5,))


def test_what_the_processor_said_is_64_bits(page):
    """VMX's reasons have bit 31, SVM's are all ones."""
    page.c.exit_reason = lib.KVM_EXIT_UNKNOWN
    page.c.hw.hardware_exit_reason = 2**64 - 1
    assert page.decode().hardware_exit_reason == 2**64 - 1


@pytest.mark.parametrize("kept", ["exit", "view", "nothing"])
def test_a_view_is_of_this_exit_s_place(page, kept):
    """Offset and length are this exit's, whatever was lent before and whoever still holds it.

    The wrong behaviour: a view that nobody holds is used again, although it is of another place.
    """
    page.raw[DATA : DATA + 16] = bytes(range(16))
    page.c.exit_reason, io = lib.KVM_EXIT_IO, page.c.io
    io.direction, io.size = 1, 1
    held = []
    for offset, count in (0, 4), (4, 4), (4, 2), (0, 2), (0, 4), (8, 4), (8, 8), (0, 8), (0, 4):
        io.data_offset, io.count = DATA + offset, count
        exit_ = page.decode()
        assert bytes(exit_.data) == bytes(range(offset, offset + count))
        if kept != "nothing":
            held.append(exit_ if kept == "exit" else exit_.data)
        del exit_
