"""Code that changes is what runs, however it was changed."""

from __future__ import annotations

import struct

from kvm_ioctls import IoOut, Regs

NX, RW = 1 << 63 | 3, 3
ALIAS = 0x100000  # a second mapping of the code page

# Calls the function at RDI, patches its immediate through the mapping at RSI, calls it again.
CALL_PATCH_CALL = bytes.fromhex(
    "ffd7"  # call rdi
    "89c3"  # mov ebx, eax
    "c6460102"  # mov byte [rsi+1], 2
    "ffd7"  # call rdi
    "f4"  # hlt
)
RETURN_1 = bytes.fromhex("b801000000c3")  # mov eax, 1; ret


def test_a_store_through_a_no_execute_alias_changes_the_code(long_mode):
    """A kernel patches its text through such a mapping."""
    long_mode.put(0x10000, CALL_PATCH_CALL)
    long_mode.put(0x20000, RETURN_1)
    long_mode.map_page(ALIAS, 0x20000, NX)
    regs = long_mode.run_to_hlt(0x10000, rdi=0x20000, rsi=ALIAS)
    assert (regs.rbx, regs.rax) == (1, 2)


def test_two_functions_of_one_page_are_both_seen(long_mode):
    """The first store to a page must not hide the second."""
    long_mode.put(
        0x10000,
        bytes.fromhex(
            "ffd7 ffd5"  # call rdi; call rbp
            "0f20d8 0f22d8"  # mov rax, cr3; mov cr3, rax
            "c6460105 c6464106"  # mov byte [rsi+1], 5; mov byte [rsi+0x41], 6
            "ffd7 89c3 ffd5 f4"  # call rdi; mov ebx, eax; call rbp; hlt
        ),
    )
    long_mode.put(0x20000, RETURN_1)
    long_mode.put(0x20040, RETURN_1)
    long_mode.map_page(ALIAS, 0x20000, NX)
    regs = long_mode.run_to_hlt(0x10000, rdi=0x20000, rbp=0x20040, rsi=ALIAS)
    assert (regs.rbx, regs.rax) == (5, 6)


def test_code_across_a_page_border_is_seen_on_both_sides(long_mode):
    """The immediate lies in the next page."""
    long_mode.put(0x10000, CALL_PATCH_CALL)
    long_mode.put(0x20FFF, RETURN_1)
    long_mode.map_page(ALIAS, 0x21000, NX)
    regs = long_mode.run_to_hlt(0x10000, rdi=0x20FFF, rsi=ALIAS - 1)
    assert (regs.rbx, regs.rax) == (1, 2)


def test_more_scattered_pages_than_ranges(long_mode):
    """Sixty functions 128 KiB apart, each patched: watched ranges merge, none is lost."""
    places = [0x20000 * n for n in range(2, 62)]
    long_mode.put(
        0x10000,
        bytes.fromhex(
            "488b3e"  # 1: mov rdi, [rsi]
            "4885ff 7412"  # test rdi, rdi; jz 2f
            "ffd7 4801c3"  # call rdi; add rbx, rax
            "c6470103"  # mov byte [rdi+1], 3
            "ffd7 4801c3"  # call rdi; add rbx, rax
            "4883c608 ebe4"  # add rsi, 8; jmp 1b
            "f4"  # 2: hlt
        ),
    )
    code = bytes(long_mode.memory[0x10000:0x10030])
    end = code.index(b"\xf4")
    long_mode.put(0x10007, bytes([end - 8]))  # jz's distance, as assembled
    long_mode.put(0x10000 + end - 1, struct.pack("b", -end))
    long_mode.put(0x1000, struct.pack(f"<{len(places) + 1}Q", *places, 0))
    for place in places:
        long_mode.put(place, RETURN_1)
    assert long_mode.run_to_hlt(0x10000, rsi=0x1000, rbx=0).rbx == 4 * len(places)


def test_invalidate_tells_of_writes_from_outside(long_mode):
    """A device's write to code while the vCPU is out with an I/O exit."""
    long_mode.put(
        0x10000, bytes.fromhex("ffd7 89c3 e680 ffd7 f4")
    )  # call; mov ebx, eax; out; call; hlt
    long_mode.put(0x20000, RETURN_1)
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2, rdi=0x20000))
    assert isinstance(long_mode.vcpu.run(), IoOut)
    long_mode.put(0x20001, b"\x09")
    long_mode.vm.invalidate(0x20000, 16)
    long_mode.vcpu.run()
    regs = long_mode.vcpu.get_regs()
    assert (regs.rbx, regs.rax) == (1, 9)


def test_invalidating_data_drops_no_code(long_mode):
    """A device's buffers are no code: telling of them costs no translation.

    Shown by what is not told: the change of the code itself goes unseen.
    """
    long_mode.put(0x10000, bytes.fromhex("ffd7 89c3 e680 ffd7 f4"))  # as above
    long_mode.put(0x20000, RETURN_1)
    long_mode.vcpu.set_regs(Regs(rip=0x10000, rsp=0x8000, rflags=2, rdi=0x20000))
    assert isinstance(long_mode.vcpu.run(), IoOut)
    long_mode.put(0x20001, b"\x09")
    long_mode.vm.invalidate(0x21000, 0x4000)
    long_mode.vcpu.run()
    regs = long_mode.vcpu.get_regs()
    assert (regs.rbx, regs.rax) == (1, 1)
