"""String instructions in bulk do exactly what one iteration after the other would."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvm_ioctls import Hlt, MmioWrite, Regs

STOS = {1: "f3aa", 4: "f3ab", 8: "f348ab"}
MOVS = {1: "f3a4", 4: "f3a5", 8: "f348a5"}
ARENA, SIZE = 0x200000, 0x6000
widths = st.sampled_from([1, 4, 8])
counts = st.one_of(st.integers(0, 40), st.integers(0, 0x2000))
places = st.one_of(st.integers(0, SIZE // 2), st.sampled_from([0xFF9, 0xFFC, 0x1000, 0x1FFF]))


def _fresh(machine) -> bytearray:
    pattern = bytes((n * 7 + n // 256) & 0xFF for n in range(SIZE))
    machine.put(ARENA, pattern)
    return bytearray(pattern)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(width=widths, count=counts, at=places, value=st.integers(0, 2**64 - 1))
def test_stos(long_mode, width, count, at, value):
    """Fills `count` elements, ends with RCX 0 and RDI behind them."""
    count = min(count, (SIZE - at) // width)
    model = _fresh(long_mode)
    model[at : at + count * width] = (value % 256**width).to_bytes(width, "little") * count
    long_mode.put(0x10000, bytes.fromhex(STOS[width]) + b"\xf4")
    regs = long_mode.run_to_hlt(0x10000, rdi=ARENA + at, rcx=count, rax=value)
    assert long_mode.memory[ARENA : ARENA + SIZE] == model
    assert (regs.rcx, regs.rdi, regs.rax) == (0, ARENA + at + count * width, value)


@settings(max_examples=80, deadline=None, suppress_health_check=list(HealthCheck))
@given(width=widths, count=counts, to=places, source=places, down=st.booleans())
def test_movs(long_mode, width, count, to, source, down):
    """Copies upwards or downwards, overlaps included, element by element."""
    room = min(to, source) if down else SIZE - max(to, source)
    count = min(count, room // width)
    model = _fresh(long_mode)
    step = -width if down else width
    for n in range(count):
        element = model[source + n * step : source + n * step + width]
        model[to + n * step : to + n * step + width] = element
    prefix = "fd" if down else "fc"
    long_mode.put(0x10000, bytes.fromhex(prefix + MOVS[width]) + b"\xf4")
    regs = long_mode.run_to_hlt(0x10000, rdi=ARENA + to, rsi=ARENA + source, rcx=count)
    assert long_mode.memory[ARENA : ARENA + SIZE] == model[:SIZE]
    assert (regs.rcx, regs.rdi, regs.rsi) == (
        0,
        ARENA + to + count * step,
        ARENA + source + count * step,
    )


def test_a_fill_that_runs_into_a_hole_exits_there(long_mode):
    """Memory ends at 8 MiB: what lies behind is MMIO, an element at a time."""
    end = len(long_mode.memory)
    long_mode.put(0x10000, bytes.fromhex("f3aa f4"))
    long_mode.vcpu.set_regs(
        Regs(rip=0x10000, rsp=0x8000, rflags=2, rdi=end - 100, rcx=103, rax=0x5A)
    )
    for n in range(3):
        match long_mode.vcpu.run():
            case MmioWrite(address, data):
                assert (address, bytes(data)) == (end + n, b"\x5a")
            case other:
                raise AssertionError(other)
    assert isinstance(long_mode.vcpu.run(), Hlt)
    assert long_mode.memory[end - 100 :] == b"\x5a" * 100


def test_a_fill_over_code_changes_the_code(long_mode):
    """Translated code in the target is not passed over."""
    long_mode.put(0x20000, bytes.fromhex("b801000000c3"))  # mov eax, 1; ret
    long_mode.put(
        0x10000,
        bytes.fromhex(
            "4989fc ffd7 89c3"  # mov r12, rdi; call rdi; mov ebx, eax
            "488d7f01 b903000000 b002 f3aa"  # lea rdi, [rdi+1]; mov ecx, 3; mov al, 2; rep stosb
            "41ffd4 f4"  # call r12; hlt
        ),
    )
    regs = long_mode.run_to_hlt(0x10000, rdi=0x20000)
    assert (regs.rbx, regs.rax) == (1, 0x020202)
