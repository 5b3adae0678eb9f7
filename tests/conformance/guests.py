"""The guests: tiny programs, kept as the bytes that run.

Each line is one instruction in Intel syntax.  Guests run at 0x1000 unless they say otherwise, use
no SSE and no x87 (but for those that test it), and take well under 100,000 instructions.
"""

from __future__ import annotations


def code(*lines: str) -> bytes:
    """The bytes of a listing."""
    return bytes.fromhex("".join(lines))


# Real mode: OUT of 1, 2 and 4 bytes by DX and by immediate, then IN of each into memory at 0x500.
PIO_WIDTHS = code(
    "ba f8 03",  # mov dx, 0x3f8
    "66 b8 11 22 33 44",  # mov eax, 0x44332211
    "ee",  # out dx, al
    "ef",  # out dx, ax
    "66 ef",  # out dx, eax
    "e6 80",  # out 0x80, al
    "e4 60",  # in al, 0x60
    "a2 00 05",  # mov [0x500], al
    "ed",  # in ax, dx
    "a3 02 05",  # mov [0x502], ax
    "66 ed",  # in eax, dx
    "66 a3 04 05",  # mov [0x504], eax
    "f4",  # hlt
)

# Real mode: IN of fewer bytes than EAX leaves the rest of the register alone.
PIO_IN_PARTIAL = code(
    "66 b8 aa aa aa aa",  # mov eax, 0xaaaaaaaa
    "e4 60",  # in al, 0x60
    "e5 62",  # in ax, 0x62
    "f4",  # hlt
)

# Real mode: REP OUTSB of 5 bytes at 0x600, REP OUTSW of 3 words.
PIO_STRING_OUT = code(
    "fc",  # cld
    "ba f8 03",  # mov dx, 0x3f8
    "be 00 06",  # mov si, 0x600
    "b9 05 00",  # mov cx, 5
    "f3 6e",  # rep outsb
    "b9 03 00",  # mov cx, 3
    "f3 6f",  # rep outsw
    "f4",  # hlt
)

# Real mode: REP INSB of 5 bytes to 0x600, then REP INSW of 2 words downwards from 0x612.
PIO_STRING_IN = code(
    "fc",  # cld
    "ba f8 03",  # mov dx, 0x3f8
    "bf 00 06",  # mov di, 0x600
    "b9 05 00",  # mov cx, 5
    "f3 6c",  # rep insb
    "fd",  # std
    "bf 12 06",  # mov di, 0x612
    "b9 02 00",  # mov cx, 2
    "f3 6d",  # rep insw
    "f4",  # hlt
)

# Real mode, DS at 0x20000 where no memory is: stores and loads of 1, 2 and 4 bytes, then INC (a
# load and a store).
MMIO_WIDTHS = code(
    "66 b8 11 22 33 44",  # mov eax, 0x44332211
    "a2 00 00",  # mov [0], al
    "a3 02 00",  # mov [2], ax
    "66 a3 04 00",  # mov [4], eax
    "8a 1e 10 00",  # mov bl, [0x10]
    "8b 0e 12 00",  # mov cx, [0x12]
    "66 8b 16 14 00",  # mov edx, [0x14]
    "fe 06 20 00",  # inc byte ptr [0x20]
    "f4",  # hlt
)

# Real mode: INT 0x21, whose handler at 0x1100 writes AL to port 0xe0 and returns.
INTERRUPT_SERVICE = code(
    "bc 00 80",  # mov sp, 0x8000
    "b0 11",  # mov al, 0x11
    "cd 21",  # int 0x21
    "b0 22",  # mov al, 0x22
    "e6 e1",  # out 0xe1, al
    "f4",  # hlt
)

# Real mode: a handler that writes AL to port 0xe0.
OUT_AND_IRET = code(
    "e6 e0",  # out 0xe0, al
    "cf",  # iret
)

# Real mode: #DE; the handler at vector 0 finds the address of the DIV on its stack.
DIVIDE_ERROR_REAL = code(
    "bc 00 80",  # mov sp, 0x8000
    "31 db",  # xor bx, bx
    "b8 07 00",  # mov ax, 7
    "f7 f3",  # div bx
    "f4",  # hlt
)

# Any mode: HLT, then OUT 0x41 to port 0xe0, then HLT.
HLT_THEN_OUT = code(
    "f4",  # hlt
    "b0 41",  # mov al, 0x41
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
)

# Any mode: a loop that never leaves the guest.
SPIN = code(
    "eb fe",  # jmp $
)

# Any mode: OUT in a loop.
OUT_FOREVER = code(
    "e6 e0",  # 1: out 0xe0, al
    "eb fc",  # jmp 1b
)

# Any mode: OUT of an immediate that the test patches (offset 1), then HLT and once more.
PATCHED = code(
    "b0 01",  # 1: mov al, 0x01
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
    "eb f9",  # jmp 1b
)

# Real mode at 0x1000: overwrites the immediate of its own MOV at 0x1006 before it executes it.
SELF_MODIFYING = code(
    "2e c6 06 07 10 77",  # mov byte ptr cs:[0x1007], 0x77
    "b0 01",  # mov al, 0x01
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
)

# Real mode: 50,000 turns of DEC/JNZ, then HLT.
LOOP_50K = code(
    "b9 50 c3",  # mov cx, 50000
    "49",  # 1: dec cx
    "75 fd",  # jnz 1b
    "f4",  # hlt
)

# Real mode: programs both PICs for vectors 0x20 and 0x28, unmasks what BL leaves 0 on the master,
# waits.
PIC_REAL_MODE = code(
    "bc 00 80",  # mov sp, 0x8000
    "b0 11",  # mov al, 0x11
    "e6 20",  # out 0x20, al  ; ICW1: edge, cascade, ICW4 follows
    "e6 a0",  # out 0xa0, al
    "b0 20",  # mov al, 0x20
    "e6 21",  # out 0x21, al  ; ICW2: vector base
    "b0 28",  # mov al, 0x28
    "e6 a1",  # out 0xa1, al
    "b0 04",  # mov al, 0x04
    "e6 21",  # out 0x21, al  ; ICW3: slave at IRQ 2
    "b0 02",  # mov al, 0x02
    "e6 a1",  # out 0xa1, al
    "b0 01",  # mov al, 0x01
    "e6 21",  # out 0x21, al  ; ICW4: 8086
    "e6 a1",  # out 0xa1, al
    "88 d8",  # mov al, bl
    "e6 21",  # out 0x21, al  ; OCW1: the mask
    "b0 ff",  # mov al, 0xff
    "e6 a1",  # out 0xa1, al
    "e6 e1",  # out 0xe1, al  ; ready
    "fb",  # 1: sti
    "f4",  # hlt
    "eb fc",  # jmp 1b
)

# Real mode: a handler that ends the interrupt at the master PIC and tells port 0xe0.
PIC_HANDLER = code(
    "b0 20",  # mov al, 0x20
    "e6 20",  # out 0x20, al
    "e6 e0",  # out 0xe0, al
    "cf",  # iret
)

# Real mode, before PIC_REAL_MODE: counter 0 in mode 2, 11932 counts (10 ms).
PIT_REAL_MODE = code(
    "b0 34",  # mov al, 0x34
    "e6 43",  # out 0x43, al
    "b0 9c",  # mov al, 0x9c
    "e6 40",  # out 0x40, al
    "b0 2e",  # mov al, 0x2e
    "e6 40",  # out 0x40, al
)

# Real mode: GDT and CR3 are there; switches to protected, then to long mode by itself.
REAL_TO_LONG = code(
    "fa",  # cli
    "0f 01 16 00 07",  # lgdt [0x700]
    "0f 20 c0",  # mov eax, cr0
    "0c 01",  # or al, 1
    "0f 22 c0",  # mov cr0, eax  ; PE
    "66 ea",  # .byte 0x66, 0xea
    "16 10 00 00",  # .long 0x1016
    "08 00",  # .word 0x08  ; jmp 0x08:0x1016
    "66 b8 18 00",  # mov ax, 0x18
    "8e d8",  # mov ds, ax
    "8e d0",  # mov ss, ax
    "b8 20 00 00 00",  # mov eax, 0x20
    "0f 22 e0",  # mov cr4, eax  ; PAE
    "b8 00 90 00 00",  # mov eax, 0x9000
    "0f 22 d8",  # mov cr3, eax
    "b9 80 00 00 c0",  # mov ecx, 0xc0000080
    "0f 32",  # rdmsr
    "0d 00 01 00 00",  # or eax, 0x100
    "0f 30",  # wrmsr  ; EFER.LME
    "0f 20 c0",  # mov eax, cr0
    "0d 00 00 00 80",  # or eax, 0x80000000
    "0f 22 c0",  # mov cr0, eax  ; PG
    "ea",  # .byte 0xea
    "4e 10 00 00",  # .long 0x104e
    "10 00",  # .word 0x10  ; jmp 0x10:0x104e
    "48 b8 88 77 66 55 44 33 22 11",  # movabs rax, 0x1122334455667788
    "48 c1 e8 20",  # shr rax, 32
    "e7 e0",  # out 0xe0, eax
    "f4",  # hlt
)

# Long mode: 64-bit arithmetic, a push and a pop; the result is in RBX.
LONG_ARITHMETIC = code(
    "48 b8 f0 de bc 9a 78 56 34 12",  # movabs rax, 0x123456789abcdef0
    "50",  # push rax
    "5b",  # pop rbx
    "48 01 db",  # add rbx, rbx
    "49 89 df",  # mov r15, rbx
    "49 c1 c7 04",  # rol r15, 4
    "f4",  # hlt
)

# Long mode: 8-byte store and load at 0x200000, where no memory is, and a 4-byte load that clears
# the upper half.
MMIO_LONG = code(
    "48 b8 11 22 33 44 55 66 77 88",  # movabs rax, 0x8877665544332211
    "bf 00 00 20 00",  # mov edi, 0x200000
    "48 89 07",  # mov [rdi], rax
    "48 8b 5f 08",  # mov rbx, [rdi+8]
    "48 c7 c1 ff ff ff ff",  # mov rcx, -1
    "8b 4f 10",  # mov ecx, [rdi+16]
    "f4",  # hlt
)

# Long mode: #UD; then OUT 0x55.
UD2 = code(
    "0f 0b",  # ud2
    "b0 55",  # mov al, 0x55
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
)

# Long mode: #DE.
DIVIDE_ERROR = code(
    "31 c9",  # xor ecx, ecx
    "31 d2",  # xor edx, edx
    "b8 07 00 00 00",  # mov eax, 7
    "f7 f1",  # div ecx
    "f4",  # hlt
)

# Long mode: a load from [RBX].
LOAD_RBX = code(
    "48 8b 03",  # mov rax, [rbx]
    "f4",  # hlt
)

# Long mode: a store to [RBX].
STORE_RBX = code(
    "48 89 03",  # mov [rbx], rax
    "f4",  # hlt
)

# Long mode: a jump to RBX.
JUMP_RBX = code(
    "ff e3",  # jmp rbx
)

# Long mode: loads DS with BX.
LOAD_DS = code(
    "8e db",  # mov ds, bx
    "f4",  # hlt
)

# Any mode: RDMSR of ECX.
RDMSR = code(
    "0f 32",  # rdmsr
    "f4",  # hlt
)

# Any mode: WRMSR of EDX:EAX to ECX.
WRMSR = code(
    "0f 30",  # wrmsr
    "f4",  # hlt
)

# Any mode: CPUID of EAX, ECX.
CPUID = code(
    "0f a2",  # cpuid
    "f4",  # hlt
)

# Long mode: sets RFLAGS.TF; #DB follows the NOP.
SINGLE_STEP = code(
    "9c",  # pushfq
    "48 81 0c 24 00 01 00 00",  # or qword ptr [rsp], 0x100
    "9d",  # popfq
    "90",  # nop
    "f4",  # hlt
)

# Long mode: an empty IDT, then #UD.
TRIPLE_FAULT = code(
    "0f 01 1c 25 00 07 00 00",  # lidt [0x700]
    "0f 0b",  # ud2
    "f4",  # hlt
)

# Long mode, every exception: below the frame are the vector and the error code; leaves RSP at
# 0x6000, halts, returns.
REPORT_AND_RETURN = code(
    "48 89 24 25 00 60 00 00",  # mov [0x6000], rsp
    "f4",  # hlt
    "48 83 c4 10",  # add rsp, 16
    "48 cf",  # iretq
)

# Long mode: enables the local APIC, writes EBX to IOREGSEL and ECX to IOWIN, and waits for
# interrupts.
IOAPIC_LOOP = code(
    "be 00 00 e0 fe",  # mov esi, 0xfee00000
    "c7 86 f0 00 00 00 ff 01 00 00",  # mov dword ptr [rsi+0xf0], 0x1ff  ; SVR: on, spurious 0xff
    "c7 86 80 00 00 00 00 00 00 00",  # mov dword ptr [rsi+0x80], 0  ; TPR
    "c7 86 50 03 00 00 00 00 01 00",  # mov dword ptr [rsi+0x350], 0x10000  ; LINT0 off: no PIC
    "bf 00 00 c0 fe",  # mov edi, 0xfec00000
    "89 1f",  # mov [rdi], ebx  ; IOREGSEL
    "89 4f 10",  # mov [rdi+0x10], ecx  ; IOWIN
    "e6 e1",  # out 0xe1, al  ; ready
    "fb",  # 1: sti
    "f4",  # hlt
    "eb fc",  # jmp 1b
)

# Long mode: writes the word 0 to [RDI] and waits for an interrupt, again and again.
KICK_AND_WAIT = code(
    "be 00 00 e0 fe",  # mov esi, 0xfee00000
    "c7 86 f0 00 00 00 ff 01 00 00",  # mov dword ptr [rsi+0xf0], 0x1ff  ; SVR: on, spurious 0xff
    "c7 86 80 00 00 00 00 00 00 00",  # mov dword ptr [rsi+0x80], 0  ; TPR
    "c7 86 50 03 00 00 00 00 01 00",  # mov dword ptr [rsi+0x350], 0x10000  ; LINT0 off: no PIC
    "e6 e1",  # out 0xe1, al  ; ready
    "66 c7 07 00 00",  # 1: mov word ptr [rdi], 0
    "fb",  # sti
    "f4",  # hlt
    "fa",  # cli
    "eb f6",  # jmp 1b
)

# Long mode: counts in RBP, tells port 0xe0, ends the interrupt at the local APIC.
EOI_HANDLER = code(
    "50",  # push rax
    "48 ff c5",  # inc rbp
    "89 e8",  # mov eax, ebp
    "e6 e0",  # out 0xe0, al
    "b8 b0 00 e0 fe",  # mov eax, 0xfee000b0
    "c7 00 00 00 00 00",  # mov dword ptr [rax], 0  ; EOI
    "58",  # pop rax
    "48 cf",  # iretq
)

# Long mode: local APIC timer, divide by 1, LVT in EBX, initial count in ECX; waits for
# interrupts.
LAPIC_TIMER = code(
    "be 00 00 e0 fe",  # mov esi, 0xfee00000
    "c7 86 f0 00 00 00 ff 01 00 00",  # mov dword ptr [rsi+0xf0], 0x1ff
    "c7 86 80 00 00 00 00 00 00 00",  # mov dword ptr [rsi+0x80], 0
    "c7 86 e0 03 00 00 0b 00 00 00",  # mov dword ptr [rsi+0x3e0], 0xb
    "89 9e 20 03 00 00",  # mov [rsi+0x320], ebx
    "89 8e 80 03 00 00",  # mov [rsi+0x380], ecx
    "fb",  # 1: sti
    "f4",  # hlt
    "eb fc",  # jmp 1b
)

# Long mode: CR8 15 while port 0xe1 tells that a message may come, CR8 0 after port 0xe2.
TASK_PRIORITY = code(
    "be 00 00 e0 fe",  # mov esi, 0xfee00000
    "c7 86 f0 00 00 00 ff 01 00 00",  # mov dword ptr [rsi+0xf0], 0x1ff
    "b8 0f 00 00 00",  # mov eax, 15
    "44 0f 22 c0",  # mov cr8, rax
    "fb",  # sti
    "e6 e1",  # out 0xe1, al
    "b9 d0 07 00 00",  # mov ecx, 2000
    "ff c9",  # 1: dec ecx
    "75 fc",  # jnz 1b
    "e6 e2",  # out 0xe2, al
    "31 c0",  # xor eax, eax
    "44 0f 22 c0",  # mov cr8, rax
    "f4",  # 2: hlt
    "eb fd",  # jmp 2b
)

# Long mode: enables the local APIC with interrupts off, tells port 0xe1, then STI; HLT.
PENDING_THEN_STI_HLT = code(
    "be 00 00 e0 fe",  # mov esi, 0xfee00000
    "c7 86 f0 00 00 00 ff 01 00 00",  # mov dword ptr [rsi+0xf0], 0x1ff
    "c7 86 80 00 00 00 00 00 00 00",  # mov dword ptr [rsi+0x80], 0
    "e6 e1",  # out 0xe1, al
    "b9 d0 07 00 00",  # mov ecx, 2000
    "ff c9",  # 1: dec ecx
    "75 fc",  # jnz 1b
    "e6 e2",  # out 0xe2, al
    "fb",  # sti
    "f4",  # hlt
    "e6 e3",  # out 0xe3, al
    "f4",  # 2: hlt
    "eb fd",  # jmp 2b
)

# Long mode: tells port 0xe0 and returns.
NMI_HANDLER = code(
    "e6 e0",  # out 0xe0, al
    "48 cf",  # iretq
)

# Real mode, DS at 0x20000 where no memory is: stores 1 then 2 at 0, and OUTs of 1 then 2 to port
# 0x40.
IOEVENTS = code(
    "b8 01 00",  # mov ax, 1
    "a3 00 00",  # mov [0], ax
    "b8 02 00",  # mov ax, 2
    "a3 00 00",  # mov [0], ax
    "b8 01 00",  # mov ax, 1
    "e7 40",  # out 0x40, ax
    "b8 02 00",  # mov ax, 2
    "e7 40",  # out 0x40, ax
    "f4",  # hlt
)

# Long mode: IRETQ to CPL 3 at RBX with the stack at 0x5f00.
TO_RING3 = code(
    "6a 2b",  # push 0x2b  ; SS: user data
    "68 00 5f 00 00",  # push 0x5f00
    "6a 02",  # push 0x2  ; RFLAGS
    "6a 33",  # push 0x33  ; CS: user code
    "53",  # push rbx
    "48 cf",  # iretq
)

# Ring 3: #UD.
USER_UD2 = code(
    "b8 33 00 00 00",  # mov eax, 0x33
    "0f 0b",  # ud2
)

# Ring 3: HLT, which is #GP there.
USER_HLT = code(
    "f4",  # hlt
)

# Ring 3: INT3 through a gate with DPL 3.
USER_INT3 = code(
    "cc",  # int3
)

# Ring 3: a load from 0x40000000, a supervisor page.
USER_LOAD = code(
    "bb 00 00 00 40",  # mov ebx, 0x40000000
    "48 8b 03",  # mov rax, [rbx]
)

# Ring 3: two SYSCALLs; RAX counts.
USER_SYSCALL = code(
    "b8 00 01 00 00",  # mov eax, 0x100
    "0f 05",  # syscall
    "b8 00 02 00 00",  # mov eax, 0x200
    "0f 05",  # syscall
    "0f 0b",  # ud2
)

# Long mode: SYSCALL's target; halts with the state in registers, then SYSRETQ.
SYSCALL_ENTRY = code(
    "66 8c cb",  # mov bx, cs
    "66 8c d2",  # mov dx, ss
    "f4",  # hlt
    "48 0f 07",  # sysretq
)

# Long mode: INT 0x80 at CPL 0.
INT_N = code(
    "cd 80",  # int 0x80
    "b0 66",  # mov al, 0x66
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
)

# Long mode: INT3 at CPL 0.
INT3 = code(
    "cc",  # int3
    "b0 66",  # mov al, 0x66
    "e6 e0",  # out 0xe0, al
    "f4",  # hlt
)

# Long mode: SSE2 at CPL 0; RAX becomes RSP.
SSE2 = code(
    "66 0f ef c0",  # pxor xmm0, xmm0
    "66 48 0f 6e cc",  # movq xmm1, rsp
    "66 0f d4 c8",  # paddq xmm1, xmm0
    "66 48 0f 7e c8",  # movq rax, xmm1
    "f4",  # hlt
)

# Long mode: FXSAVE, x87 instructions, FXRSTOR.
X87 = code(
    "0f ae 04 25 00 60 00 00",  # fxsave [0x6000]
    "d9 e8",  # fld1
    "9b",  # fwait
    "0f ae 0c 25 00 60 00 00",  # fxrstor [0x6000]
    "f4",  # hlt
)

# Long mode: LSL of the code segment into EAX, VERW of the data segment into CL.
SEGMENT_CHECKS = code(
    "b8 10 00 00 00",  # mov eax, 0x10
    "0f 03 c0",  # lsl eax, eax
    "66 c7 04 25 00 60 00 00 18 00",  # mov word ptr [0x6000], 0x18
    "0f 00 2c 25 00 60 00 00",  # verw word ptr [0x6000]
    "0f 94 c1",  # setz cl
    "f4",  # hlt
)

# Long mode: CR3 reload, INVLPG, CMPXCHG8B, SWAPGS twice.
SYSTEM_STATE = code(
    "0f 20 d8",  # mov rax, cr3
    "0f 22 d8",  # mov cr3, rax
    "0f 01 3c 25 00 60 00 00",  # invlpg [0x6000]
    "b8 08 00 00 00",  # mov eax, 0x8
    "31 d2",  # xor edx, edx
    "bb 09 00 00 00",  # mov ebx, 0x9
    "31 c9",  # xor ecx, ecx
    "48 c7 04 25 00 62 00 00 08 00 00 00",  # mov qword ptr [0x6200], 0x8
    "f0 0f c7 0c 25 00 62 00 00",  # lock cmpxchg8b [0x6200]
    "0f 94 c1",  # setz cl
    "0f 01 f8",  # swapgs
    "0f 01 f8",  # swapgs
    "f4",  # hlt
)

# Long mode: stores RAX at RBX and loads it back into RCX.
STORE_HIGH = code(
    "48 89 03",  # mov [rbx], rax
    "48 8b 0b",  # mov rcx, [rbx]
    "f4",  # hlt
)

# Protected mode: turns on 32-bit paging (PSE, CR3 set), then halts.
PROT32_PAGING = code(
    "0f 20 e0",  # mov eax, cr4
    "83 c8 10",  # or eax, 0x10
    "0f 22 e0",  # mov cr4, eax
    "0f 20 c0",  # mov eax, cr0
    "0d 00 00 00 80",  # or eax, 0x80000000
    "0f 22 c0",  # mov cr0, eax
    "8b 1d 00 06 40 00",  # mov ebx, [0x400600]
    "f4",  # hlt
)

# Protected mode without paging: 32-bit arithmetic and OUT.
PROT32 = code(
    "b8 78 56 34 12",  # mov eax, 0x12345678
    "01 c0",  # add eax, eax
    "e7 e0",  # out 0xe0, eax
    "f4",  # hlt
)

# Real mode: writes one byte each to 0x3000 and 0x5000.
TOUCH_PAGES = code(
    "c6 06 00 30 01",  # mov byte ptr [0x3000], 1
    "c6 06 00 50 02",  # mov byte ptr [0x5000], 2
    "f4",  # hlt
)

# Real mode: stores AL at BX, loads it into CL.
STORE_LOAD_REAL = code(
    "88 07",  # mov [bx], al
    "8a 0f",  # mov cl, [bx]
    "f4",  # hlt
)
