"""A 200-byte program for the guest: make serial ports raw and wait until they are empty.

busybox has `stty` for one port at a time, and every start of it costs 10 to 20 ms on an emulated
processor, six times per command. This program does ioctl(fd, TCSETSW, raw) for the descriptors 3,
4 and 5 and exits with 0. TCSETSW first waits, without limit, until all output has been sent
(ioctl_tty(2)), so running it again drains the ports; closing a port waits 30 s at most.

The settings are those of cfmakeraw(3): 8 bits, receiver on, no modem control, no processing.
"""

from __future__ import annotations

import struct

_BASE = 0x400000

_SYS_IOCTL = 16  # arch/x86/entry/syscalls/syscall_64.tbl
_SYS_EXIT = 60
_TCSETSW = 0x5403  # include/uapi/asm-generic/ioctls.h

# struct termios of include/uapi/asm-generic/termbits.h: the four flag words, the line discipline
# and 19 control characters, of which VMIN = 1 matters to whoever reads.
_B115200 = 0o010002
_CS8, _CREAD, _CLOCAL = 0o060, 0o200, 0o4000
_VMIN = 6
_TERMIOS = struct.pack("<4IB", 0, 0, _B115200 | _CS8 | _CREAD | _CLOCAL, 0, 0) + bytes(
    1 if index == _VMIN else 0 for index in range(19)
)


def _code(termios_address: int) -> bytes:
    """x86-64 machine code; Linux' system calls keep rdi, rsi, rdx and rbx."""
    return b"".join(
        (
            b"\xbf\x03\x00\x00\x00",  # mov edi, 3
            b"\xbe" + struct.pack("<I", _TCSETSW),  # mov esi, TCSETSW
            b"\xba" + struct.pack("<I", termios_address),  # mov edx, termios
            b"\xb8" + struct.pack("<I", _SYS_IOCTL),  # again: mov eax, SYS_ioctl
            b"\x0f\x05",  # syscall
            b"\xff\xc7",  # inc edi
            b"\x83\xff\x06",  # cmp edi, 6
            b"\x75\xf2",  # jne again
            b"\xb8" + struct.pack("<I", _SYS_EXIT),  # mov eax, SYS_exit
            b"\x31\xff",  # xor edi, edi
            b"\x0f\x05",  # syscall
        )
    )


def program() -> bytes:
    """The ELF file: one loadable segment with headers, code and data (ELF spec §4, §5)."""
    headers = 64 + 56
    code_size = len(_code(0))
    code = _code(_BASE + headers + code_size)
    size = headers + len(code) + len(_TERMIOS)
    entry = _BASE + headers
    header = b"\x7fELF\x02\x01\x01".ljust(16, b"\0") + struct.pack(
        "<2HI3QI6H", 2, 62, 1, entry, 64, 0, 0, 64, 56, 1, 0, 0, 0
    )
    segment = struct.pack("<2I6Q", 1, 5, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + code + _TERMIOS
