"""The real /dev/kvm: accesses that are retired between two entries of the guest."""

from __future__ import annotations

import gc
import threading
import time
import tracemalloc
from mmap import mmap

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_ioctls import (
    Hlt,
    Interrupted,
    IoOut,
    KvmClosedError,
    LogZone,
    Mmio,
    MmioWrite,
    Pio,
    RegisterZone,
    VcpuBusyError,
    Zone,
)
from kvm_ioctls._ffi import ffi, lib

pytestmark = [pytest.mark.kvm, pytest.mark.timeout(60)]

REPORT = 0xFF  # the port through which the guest tells what it read
PORTS = 0x10  # void at 0x40, registers at 0x50, a log at 0x60

steps = st.lists(
    st.one_of(
        st.tuples(st.just("out"), st.integers(0x40, 0x6F), st.integers(0, 255)),
        st.tuples(st.just("in"), st.integers(0x40, 0x6F), st.just(0)),
    ),
    max_size=25,
)


def program(accesses) -> str:
    """`mov al, value; out port, al` or `in al, port; out REPORT, al` for each step, then HLT."""
    code = ""
    for kind, port, value in accesses:
        code += f"b0{value:02x}e6{port:02x}" if kind == "out" else f"e4{port:02x}e6{REPORT:02x}"
    return code + "f4"


@settings(
    deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps)
def test_zones_behave_as_their_models(kvm, accesses):
    """A void reads ones, registers keep what was written, a log has it in order; no other exits."""
    memory, registers, log = mmap(-1, 0x1000), bytearray(PORTS), LogZone(Pio(0x60), PORTS, 64)
    code = bytes.fromhex(program(accesses))
    memory[: len(code)] = code
    model, written, expected, seen = bytearray(PORTS), b"", [], []
    for kind, port, value in accesses:
        if kind == "in":
            expected.append(model[port - 0x50] if 0x50 <= port < 0x60 else 0xFF)
        elif 0x50 <= port < 0x60:
            model[port - 0x50] = value
        elif port >= 0x60:
            written += bytes([value])
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vm.set_user_memory_region(0, 0, memory)
        sregs, regs = vcpu.get_sregs(), vcpu.get_regs()
        sregs.cs.base = sregs.cs.selector = regs.rip = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(regs)
        vcpu.set_zones([Zone(Pio(0x40), PORTS), RegisterZone(Pio(0x50), registers), log])
        while isinstance(exit_ := vcpu.run(), IoOut):
            assert exit_.port == REPORT
            seen.append(exit_.data[0])
        assert isinstance(exit_, Hlt)
    assert seen == expected
    assert registers == model
    assert log.drain() == written
    assert log.drain() == b""


def test_memory_mapped_registers(start):
    """Guest physical addresses work as ports do, in any width that fits."""
    registers = bytearray(b"\x11\x22\x33\x44")
    # mov eax, [bx]; inc eax; mov [bx], eax; mov al, [bx+3]; mov [bx+4], al; hlt
    vcpu = start("668b0766406689078a4703884704f4", rbx=0)
    sregs = vcpu.get_sregs()
    sregs.ds.base = 0xE000_0000
    vcpu.set_sregs(sregs)
    vcpu.set_zones([RegisterZone(Mmio(0xE000_0000), registers)])
    exit_ = vcpu.run()
    assert (exit_.address, bytes(exit_.data)) == (0xE000_0004, b"\x44")
    assert registers == b"\x12\x22\x33\x44"


def test_an_access_across_the_end_is_an_exit(start):
    """A zone retires what lies inside it, not what begins there."""
    vcpu = start("e750f4", rax=0x1234)  # out 0x50, ax
    vcpu.set_zones([Zone(Pio(0x50), 1)])
    assert vcpu.run().port == 0x50


def test_string_output_to_a_log(start, vm):
    """All elements of a repeated OUTS are logged."""
    vm.memory[0x5000:0x5005] = b"hello"
    vcpu = start("f36ef4", rsi=0x5000, rcx=5, rdx=0x60)  # rep outsb; hlt
    log = LogZone(Pio(0x60), 1)
    vcpu.set_zones([log])
    assert isinstance(vcpu.run(), Hlt)
    assert log.drain() == b"hello"


def test_a_full_log_is_an_exit(start):
    """What does not fit comes to us, and nothing is lost or out of order."""
    vcpu = start("b061e660b062e660b063e660f4")
    log = LogZone(Pio(0x60), 1, capacity=2)
    vcpu.set_zones([log])
    exit_ = vcpu.run()
    assert isinstance(exit_, IoOut)
    assert log.drain() + bytes(exit_.data) == b"abc"
    assert isinstance(vcpu.run(), Hlt)
    assert log.drain() == b""


def test_zones_that_cannot_be():
    """Without addresses, beyond the last one, without room."""
    with pytest.raises(ValueError, match="size is 0x1 to 0x10000, not 0x0"):
        Zone(Pio(0x60), 0)
    with pytest.raises(ValueError, match="no 2 addresses at 0xffffffffffffffff"):
        Zone(Mmio(2**64 - 1), 2)
    with pytest.raises(ValueError, match=r"size is 0x1 to .*, not 0x0"):
        RegisterZone(Mmio(0), bytearray())
    for capacity in 0, 2**32:
        with pytest.raises(ValueError, match=f"not {capacity:#x}"):
            LogZone(Pio(0x60), 1, capacity)
    with pytest.raises(TypeError, match="memory is writable, not"):
        RegisterZone(Mmio(0), memoryview(b"read-only"))


def test_a_zone_s_size_is_its_memory_s(start):
    """It cannot be changed: the guest would have written behind the memory."""
    zone = RegisterZone(Mmio(0x20000), bytearray(16))
    with pytest.raises(AttributeError):
        zone.size = 0x10000
    assert zone.size == 16
    vcpu = start("b800208ed8c606100041f4")  # mov ax, 0x2000; mov ds, ax; mov byte [0x10], 0x41
    vcpu.set_zones([zone])
    assert isinstance(vcpu.run(), MmioWrite)


def test_a_zone_of_everything(start):
    """All addresses that there are, the last one too; it was none at all once, 2**64 being 0."""
    vcpu = start("b800208ed8c606100041f4")
    vcpu.set_zones([Zone(Mmio(0), 2**64)])
    assert isinstance(vcpu.run(), Hlt)


def string_input(start, vm, zone) -> bytes:
    """What `rep insb` of four bytes from port 0x50 reads."""
    vcpu = start("f36cf4", rcx=4, rdx=0x50, rdi=0x5000)
    vm.memory[0x5000:0x5004] = b"----"
    vcpu.set_zones([zone])
    assert isinstance(vcpu.run(), Hlt)
    return vm.memory[0x5000:0x5004]


def test_string_input_from_a_void(start, vm):
    """Every element reads as ones."""
    assert string_input(start, vm, Zone(Pio(0x50), 1)) == b"\xff" * 4


def test_string_input_from_a_register(start, vm):
    """Every element reads the register."""
    assert string_input(start, vm, RegisterZone(Pio(0x50), bytearray(b"\x5a"))) == b"\x5a" * 4


def test_string_output_to_a_register(start, vm):
    """The last element stays in it."""
    vm.memory[0x5000:0x5004] = b"1234"
    memory = bytearray(1)
    vcpu = start("f36ef4", rsi=0x5000, rcx=4, rdx=0x50)
    vcpu.set_zones([RegisterZone(Pio(0x50), memory)])
    assert isinstance(vcpu.run(), Hlt)
    assert memory == b"4"


def test_a_log_s_end_is_followed_by_its_beginning(start):
    """A write of four bytes across it, in a log whose room is no power of two."""
    log = LogZone(Pio(0x60), 4, capacity=7)
    # mov eax, "abcd"; 1: out 0x60, eax; inc al; out 0x70, al; jmp 1b
    vcpu = start("66b86162636466e760fec0e670ebf7")
    vcpu.set_zones([log])
    for number in range(20):
        assert vcpu.run().port == 0x70
        assert log.drain() == bytes([0x61 + number]) + b"bcd"


def test_an_empty_log_costs_nothing():
    """Draining takes what is there, not the room that there would be."""
    log = LogZone(Pio(0x60), 1, capacity=1 << 24)
    tracemalloc.start()
    try:
        assert log.drain() == b""
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_threads_that_drain_a_log_share_it():
    """Each byte goes to one of them."""
    size = 1 << 22
    for _ in range(5):
        log, got, barrier = LogZone(Pio(0x60), 1, size), [], threading.Barrier(2)
        log._memory[:8] = size.to_bytes(8, "little")  # as C writes it: that many are in it

        def drain(log=log, got=got, barrier=barrier) -> None:
            barrier.wait()
            got.append(len(log.drain()))

        threads = [threading.Thread(target=drain) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(got) == [0, size]


def test_replacing_zones_leaves_nothing_behind(start):
    """Neither what was in use nor what was refused."""
    vcpu = start("f4")
    zones, odd = [Zone(Pio(0x50), 1)] * 500, RegisterZone(Pio(0x50), bytearray(1))
    odd._size = 2

    def both() -> None:
        vcpu.set_zones(zones)
        with pytest.raises(ValueError, match="size"):
            vcpu.set_zones([*zones, odd])

    both()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(20):
            both()
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 200_000  # one of them is in use
    finally:
        tracemalloc.stop()


def test_zones_are_replaced(start):
    """The last call counts; the memory of zones that are gone is given back."""
    memory = mmap(-1, 0x1000)
    zone = RegisterZone(Pio(0x50), memory)
    vcpu = start("e650e650f4", rax=7)
    vcpu.set_zones([zone])
    del zone
    vcpu.set_zones([])
    memory.close()
    assert vcpu.run().port == 0x50


def test_a_kick_reaches_a_guest_that_only_meets_zones(start):
    """It never leaves run() by itself; while it is inside, zones cannot change."""
    vcpu = start("e650ebfc")  # out 0x50, al; jmp back
    vcpu.set_zones([Zone(Pio(0x50), 1)])
    seen = []
    runner = threading.Thread(target=lambda: seen.append(type(vcpu.run())))
    runner.start()
    time.sleep(0.1)
    with pytest.raises(VcpuBusyError):
        vcpu.set_zones([])
    vcpu.kick()
    runner.join(10)
    assert seen == [Interrupted]


@settings(
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(st.integers(0, 300), min_size=1, max_size=20))
def test_no_kick_is_lost_whenever_it_comes(kvm, delays):
    """Each run of a guest that never leaves by itself ends, with one kick at any moment of it.

    Before the guest is entered, inside it, and while C retires its access: a lost kick would hang.
    """
    memory = mmap(-1, 0x1000)
    memory[:4] = bytes.fromhex("e650ebfc")
    with kvm.create_vm() as vm, vm.create_vcpu(0) as vcpu:
        vm.set_user_memory_region(0, 0, memory)
        sregs, regs = vcpu.get_sregs(), vcpu.get_regs()
        sregs.cs.base = sregs.cs.selector = regs.rip = 0
        vcpu.set_sregs(sregs)
        vcpu.set_regs(regs)
        vcpu.set_zones([Zone(Pio(0x50), 1)])
        for delay in delays:
            kicker = threading.Timer(delay / 1e6, vcpu.kick)
            kicker.start()
            assert isinstance(vcpu.run(), Interrupted)
            kicker.join()


def test_zones_of_a_closed_vcpu(start):
    """They are refused, like everything else."""
    vcpu = start("f4")
    vcpu.close()
    with pytest.raises(KvmClosedError):
        vcpu.set_zones([])


@settings(deadline=None)
@given(
    kind=st.integers(0, 2),
    out=st.booleans(),
    size=st.sampled_from([0, 1, 2, 4]),
    count=st.integers(0, 6),
    offset=st.sampled_from([0, 4096, 8180, 8192, 2**63]),
    port=st.integers(0x0F, 0x12),
)
def test_what_a_page_says_is_looked_at(kind, out, size, count, offset, port):
    """Model of one port access of any shape: retired if it lies in the zone and in the page.

    Some KVMs give repeated accesses as one exit, others element by element: this is for both.
    """
    page, data = bytearray(8192), bytes(range(1, 25))[: size * count]
    fits = offset + len(data) <= len(page)
    if fits:
        page[offset : offset + len(data)] = data
    run = ffi.from_buffer("struct kvm_run *", page, require_writable=True)
    run.exit_reason = lib.KVM_EXIT_IO
    run.io.direction, run.io.size, run.io.count = int(out), size, count
    run.io.port, run.io.data_offset = port, offset
    memory = bytearray(32)
    memory[16:20] = b"wxyz"
    held = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
    base = held + 16 if kind == 1 else held
    zone = {"first": 0x10, "last": 0x13, "memory": base, "capacity": 16, "kind": kind, "pio": 1}
    before = bytes(page)
    retired = lib.kvm_zones_retire(ffi.new("struct kvm_zone *", zone), 1, run, len(page))
    inside = size > 0 and port >= 0x10 and port + size <= 0x14
    full = kind == 2 and out and len(data) > 16
    assert retired == (inside and fits and not full)
    place = port - 0x10
    expected = bytearray(b"wxyz")
    if retired and out and kind == 1 and count:
        expected[place : place + size] = data[-size:]
    if kind == 2:
        written = data if retired and out else b""
        assert memory[:8] == len(written).to_bytes(8, "little")
        assert memory[16 : 16 + len(written)] == written
    else:
        assert memory[16:20] == expected
    if retired and not out:
        answer = b"wxyz"[place : place + size] if kind == 1 else b"\xff" * size
        assert page[offset : offset + len(data)] == answer * count
    else:
        assert page == before
