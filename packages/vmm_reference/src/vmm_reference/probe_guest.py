"""The machine code of the probe: six things that every stock x86-64 kernel does.

One guest of 64 KiB starts directly in long mode at privilege level 0, once per step. A step that
works ends with ``out %al, $0xf0`` and its number in ``al``; one whose result is wrong ends in
``hlt``. A hypervisor that runs guest code on the processor passes all of them without an exit; one
that only interprets privileged code fails at the instructions that its interpreter lacks.

The bytes were assembled with GNU ``as`` (AT&T syntax, as in the comments). Memory, all
identity-mapped by one 2 MiB page that ring 3 may use:

==========  ==========================================================
0x0500      GDT
0x1100 …    step n at 0x1000 + n · 0x100; everything between is ``hlt``
0x5000      TSS (only RSP0 is used)
0x6000      FXSAVE area; 0x6200 scratch
0x7000      top of the stack; 0x6f00 top of the ring-3 stack
0x8000      IDT
0x9000      PML4, then PDPT and page directory
==========  ==========================================================
"""

from __future__ import annotations

import struct

MEMORY_SIZE = 0x10000
REPORT_PORT = 0xF0
GDT = 0x500
GDT_LIMIT = 10 * 8 - 1
CODE = 0x1000
TSS = 0x5000
STACK_TOP = 0x7000
IDT = 0x8000
IDT_LIMIT = 32 * 16 - 1
PML4 = 0x9000

CODE_SELECTOR = 0x10
DATA_SELECTOR = 0x18
TSS_SELECTOR = 0x40

_SYSCALL_ENTRY = 0x1700
_BREAKPOINT_HANDLER = 0x1800
_FAULT_HANDLER = CODE
"""Any unexpected exception lands on a ``hlt``."""

_SSE2 = (
    b"\x66\x48\x0f\x6e\xcc"  # movq   %rsp, %xmm1
    b"\x66\x0f\xef\xc0"  # pxor   %xmm0, %xmm0
    b"\x66\x0f\xd4\xc1"  # paddq  %xmm1, %xmm0
    b"\x66\x48\x0f\x7e\xc0"  # movq   %xmm0, %rax
    b"\x48\x39\xe0"  # cmp    %rsp, %rax
    b"\x75\x04"  # jne    1f
    b"\xb0\x01"  # mov    $1, %al
    b"\xe6\xf0"  # out    %al, $0xf0
    b"\xf4"  # 1: hlt
)

_X87 = (
    b"\x0f\xae\x04\x25\x00\x60\x00\x00"  # fxsave 0x6000
    b"\xdb\xe3"  # fninit
    b"\xd9\xe8"  # fld1
    b"\xdb\x1c\x25\x00\x62\x00\x00"  # fistpl 0x6200
    b"\x9b"  # fwait
    b"\x0f\xae\x0c\x25\x00\x60\x00\x00"  # fxrstor 0x6000
    b"\x83\x3c\x25\x00\x62\x00\x00\x01"  # cmpl   $1, 0x6200
    b"\x75\x04"  # jne    1f
    b"\xb0\x02"  # mov    $2, %al
    b"\xe6\xf0"  # out    %al, $0xf0
    b"\xf4"  # 1: hlt
)

_SEGMENT_CHECKS = (
    b"\xb9\x10\x00\x00\x00"  # mov    $0x10, %ecx      the code segment
    b"\x0f\x03\xc1"  # lsl    %ecx, %eax
    b"\x75\x18"  # jnz    1f
    b"\x66\xc7\x04\x25\x00\x62\x00\x00\x18\x00"  # movw   $0x18, 0x6200    the data segment
    b"\x0f\x00\x2c\x25\x00\x62\x00\x00"  # verw   0x6200
    b"\x75\x04"  # jnz    1f
    b"\xb0\x03"  # mov    $3, %al
    b"\xe6\xf0"  # out    %al, $0xf0
    b"\xf4"  # 1: hlt
)

_BREAKPOINT = (
    b"\xc6\x04\x25\x00\x62\x00\x00\x00"  # movb   $0, 0x6200
    b"\xcc"  # int3
    b"\x80\x3c\x25\x00\x62\x00\x00\x01"  # cmpb   $1, 0x6200
    b"\x75\x04"  # jne    1f
    b"\xb0\x04"  # mov    $4, %al
    b"\xe6\xf0"  # out    %al, $0xf0
    b"\xf4"  # 1: hlt
)

_SYSCALL = (
    b"\xb9\x81\x00\x00\xc0"  # mov    $0xc0000081, %ecx        STAR
    b"\x31\xc0"  # xor    %eax, %eax
    b"\xba\x10\x00\x20\x00"  # mov    $0x00200010, %edx
    b"\x0f\x30"  # wrmsr
    b"\xff\xc1"  # inc    %ecx                      LSTAR
    b"\xb8\x00\x17\x00\x00"  # mov    $0x1700, %eax
    b"\x31\xd2"  # xor    %edx, %edx
    b"\x0f\x30"  # wrmsr
    b"\xb9\x84\x00\x00\xc0"  # mov    $0xc0000084, %ecx        SFMASK
    b"\xb8\x00\x02\x00\x00"  # mov    $0x200, %eax
    b"\x0f\x30"  # wrmsr
    b"\xb9\x80\x00\x00\xc0"  # mov    $0xc0000080, %ecx        EFER.SCE
    b"\x0f\x32"  # rdmsr
    b"\x0c\x01"  # or     $1, %al
    b"\x0f\x30"  # wrmsr
    b"\x6a\x2b"  # push   $0x2b                     ss
    b"\x68\x00\x6f\x00\x00"  # push   $0x6f00                   rsp
    b"\x6a\x02"  # push   $2                        rflags
    b"\x6a\x33"  # push   $0x33                     cs
    b"\x68\x80\x15\x00\x00"  # push   $0x1580                   rip
    b"\x48\xcf"  # iretq
    + b"\xf4"
    * 62
    # 0x1580, ring 3:
    + b"\x31\xc0"  # xor    %eax, %eax
    b"\x0f\x05"  # syscall
    b"\xb0\x05"  # mov    $5, %al
    b"\x0f\x05"  # syscall
    b"\xf4"  # hlt    (#GP at CPL 3)
)

_PRIVILEGED = (
    b"\x0f\x20\xd8"  # mov    %cr3, %rax
    b"\x0f\x22\xd8"  # mov    %rax, %cr3
    b"\x0f\x01\x3c\x25\x00\x60\x00\x00"  # invlpg 0x6000
    b"\x48\xc7\x04\x25\x00\x62\x00\x00\x07\x00\x00\x00"  # movq   $7, 0x6200
    b"\xb8\x07\x00\x00\x00"  # mov    $7, %eax
    b"\x31\xd2"  # xor    %edx, %edx
    b"\xbb\x09\x00\x00\x00"  # mov    $9, %ebx
    b"\x31\xc9"  # xor    %ecx, %ecx
    b"\xf0\x0f\xc7\x0c\x25\x00\x62\x00\x00"  # lock cmpxchg8b 0x6200
    b"\x75\x0a"  # jnz    1f
    b"\x0f\x01\xf8"  # swapgs
    b"\x0f\x01\xf8"  # swapgs
    b"\xb0\x06"  # mov    $6, %al
    b"\xe6\xf0"  # out    %al, $0xf0
    b"\xf4"  # 1: hlt
)

STEPS = (
    ("SSE2 arithmetic at CPL 0", _SSE2),
    ("x87 arithmetic, FXSAVE and FXRSTOR at CPL 0", _X87),
    ("LSL and VERW (per-CPU data, buffer clearing)", _SEGMENT_CHECKS),
    ("INT3 through the IDT at CPL 0 (code patching)", _BREAKPOINT),
    ("SYSCALL from ring 3 entering CPL 0, and SYSRET", _SYSCALL),
    ("CR3 reload, INVLPG, CMPXCHG8B and SWAPGS", _PRIVILEGED),
)
"""What each step shows, and its code; step n (from 1) is ``STEPS[n - 1]``."""

_SYSCALL_CODE = (
    b"\x8c\xca"  # mov    %cs, %edx
    b"\xf6\xc2\x03"  # test   $3, %dl          still ring 3?
    b"\x75\x09"  # jnz    1f
    b"\x3c\x05"  # cmp    $5, %al          the second time?
    b"\x74\x03"  # je     2f
    b"\x48\x0f\x07"  # sysretq
    b"\xe6\xf0"  # 2: out %al, $0xf0
    b"\xf4"  # 1: hlt
)

_BREAKPOINT_CODE = (
    b"\xfe\x04\x25\x00\x62\x00\x00"  # incb   0x6200
    b"\x48\xcf"  # iretq
)

_GDT_ENTRIES = (
    0,
    0x00CF_9B00_0000_FFFF,  # 0x08 ring-0 code, 32 bits
    0x00AF_9B00_0000_FFFF,  # 0x10 ring-0 code, 64 bits
    0x00CF_9300_0000_FFFF,  # 0x18 ring-0 data; SYSCALL takes its SS from STAR + 8
    0x00CF_FB00_0000_FFFF,  # 0x20 ring-3 code, 32 bits: the base that SYSRET counts from
    0x00CF_F300_0000_FFFF,  # 0x28 ring-3 data
    0x00AF_FB00_0000_FFFF,  # 0x30 ring-3 code, 64 bits
    0,
    0x0000_8B00_5000_0067,  # 0x40 TSS at 0x5000, busy
    0,
)

_BREAKPOINT_VECTOR = 3
_PRESENT_WRITE_USER = 0x07
_LARGE_PAGE = 0x80


def step_address(step: int) -> int:
    """Return where step number `step` (from 1) starts."""
    return CODE + 0x100 * step


def build() -> bytes:
    """Return the contents of the probe guest's memory."""
    image = bytearray(MEMORY_SIZE)
    image[CODE:0x2000] = b"\xf4" * 0x1000
    for number, (_what, code) in enumerate(STEPS, 1):
        image[step_address(number) : step_address(number) + len(code)] = code
    image[_SYSCALL_ENTRY : _SYSCALL_ENTRY + len(_SYSCALL_CODE)] = _SYSCALL_CODE
    image[_BREAKPOINT_HANDLER : _BREAKPOINT_HANDLER + len(_BREAKPOINT_CODE)] = _BREAKPOINT_CODE
    struct.pack_into(f"<{len(_GDT_ENTRIES)}Q", image, GDT, *_GDT_ENTRIES)
    struct.pack_into("<Q", image, TSS + 4, STACK_TOP - 0x800)
    for vector in range(32):
        struct.pack_into("<QQ", image, IDT + 16 * vector, _gate(vector), 0)
    struct.pack_into("<Q", image, PML4, (PML4 + 0x1000) | _PRESENT_WRITE_USER)
    struct.pack_into("<Q", image, PML4 + 0x1000, (PML4 + 0x2000) | _PRESENT_WRITE_USER)
    struct.pack_into("<Q", image, PML4 + 0x2000, _LARGE_PAGE | _PRESENT_WRITE_USER)
    return bytes(image)


def _gate(vector: int) -> int:
    """Return the low half of a 64-bit interrupt gate (SDM vol. 3 §6.14.1), handlers being low."""
    handler = _BREAKPOINT_HANDLER if vector == _BREAKPOINT_VECTOR else _FAULT_HANDLER
    return handler | CODE_SELECTOR << 16 | 0x8E << 40
