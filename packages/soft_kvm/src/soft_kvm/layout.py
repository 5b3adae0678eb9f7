"""Where the engine keeps what: found out, not assumed.

Exceptions and interrupts must change the privilege level and the hidden parts of segments, for
which the engine has no public call.  They are changed in a saved context instead, whose layout is
private.  So this module writes known values through the public calls, looks where they turn up in
the saved bytes, derives the rest from the order of the structure, and then checks by behaviour
that it was right.  Anything unexpected raises `UnknownLayout`: better no VM than a wrong one.
"""

from __future__ import annotations

import mmap
import struct
from functools import cache
from typing import TYPE_CHECKING

from soft_kvm import engine
from soft_kvm._call import address
from soft_kvm._ffi import ffi, lib
from soft_kvm.errors import UnknownLayout

if TYPE_CHECKING:
    from soft_kvm._ffi import CData

# Register numbers of the engine's public interface (x86.h, uc_x86_reg).
_GPRS = (35, 38, 40, 37, 44, 36, 43, 39, *range(106, 114))  # rax rcx rdx rbx rsp rbp rsi rdi r8-r15
_RIP, _CR2, _DR0, _IDTR, _GDTR, _LDTR, _TR, _MSR, _FS_BASE, _GS_BASE = (
    41, 52, 66, 242, 243, 244, 245, 248, 250, 251,
)  # fmt: skip
_EFER = 0xC0000080
_TSC_AUX = 0xC0000103
_ADDRESS_MSRS = {  # those that we set and read in the image
    "star": 0xC0000081,
    "lstar": 0xC0000082,
    "cstar": 0xC0000083,
    "fmask": 0xC0000084,
    "sysenter_esp": 0x175,
    "sysenter_eip": 0x176,
}
_MEMORY = 0x4000
_HFLAGS_CPL = 3
_HFLAGS_GUEST = 1 << 21


class Scratch:
    """An engine with 16 KiB at address 0, to try things on."""

    def __init__(self) -> None:
        engine.load()
        handle = ffi.new("uc_engine **")
        engine.check(lib.sk_probe_open(engine.HASWELL, handle), "cannot open the engine")
        self.uc = handle[0]
        self.memory = mmap.mmap(-1, _MEMORY)
        place = address(self.memory)  # which outlives the engine, see close()
        engine.check(lib.sk_uc.mem_map_ptr(self.uc, 0, _MEMORY, 7, place), "cannot map memory")
        context = ffi.new("uc_context **")
        engine.check(lib.sk_uc.context_alloc(self.uc, context), "cannot allocate a context")
        self.context = context[0]
        self.size = lib.sk_uc.context_size(self.uc)
        self.bytes = ffi.buffer(ffi.cast("char *", self.context), self.size)

    def close(self) -> None:
        """Frees the engine."""
        lib.sk_uc.context_free(self.context)
        lib.sk_uc.close(self.uc)
        self.memory.close()

    def write(self, register: int, data: bytes) -> None:
        """Sets a register through the public interface."""
        engine.check(
            lib.sk_uc.reg_write(self.uc, register, ffi.from_buffer(data)), "register write"
        )

    def read(self, register: int) -> int:
        """A 64-bit register's low half."""
        value = ffi.new("uint64_t *")
        engine.check(lib.sk_uc.reg_read(self.uc, register, value), "register read")
        return int(value[0]) & 0xFFFFFFFF

    def save(self) -> bytes:
        """The whole saved context."""
        lib.sk_uc.context_save(self.uc, self.context)
        return bytes(self.bytes)

    def until_exception(self) -> int:
        """Runs from `context` to the first exception: its number; the state is in `context`."""
        number = ffi.new("uint32_t *", 0xFFFFFFFF)
        lib.sk_probe_on_interrupt(self.uc, self.context, number)
        return int(number[0])


def _only_place(haystack: bytes, needle: bytes, what: str) -> int:
    place = haystack.find(needle)
    if place < 0 or haystack.find(needle, place + 1) >= 0:
        raise UnknownLayout(f"cannot find {what} in the engine's state")
    return place


def _write_patterns(scratch: Scratch) -> dict[str, bytes]:
    """Puts recognisable values everywhere that the public interface reaches."""
    patterns = {
        name: struct.pack("<Q", 0x0000_1A2B_0000_0000 | index << 20 | 0x5A5A5)
        for index, name in enumerate(
            ("rip", "fs", "gs", "cr2", "dr0", "ldt", "tr", "gdt", "idt", *_ADDRESS_MSRS)
        )
    }
    gprs = [struct.pack("<Q", 0x7E57_0000_0000_0000 | n * 0x0101_0101) for n in range(1, 17)]
    for register, value in zip(_GPRS, gprs, strict=True):
        scratch.write(register, value)
    for register, name in ((_RIP, "rip"), (_FS_BASE, "fs"), (_GS_BASE, "gs"), (_CR2, "cr2")):
        scratch.write(register, patterns[name])
    scratch.write(_DR0, patterns["dr0"])
    for register, name in ((_LDTR, "ldt"), (_TR, "tr"), (_GDTR, "gdt"), (_IDTR, "idt")):
        # struct uc_x86_mmr: selector, base, limit, flags
        scratch.write(register, struct.pack("<H6x", 0) + patterns[name] + struct.pack("<II", 0, 0))
    scratch.write(_MSR, struct.pack("<IxxxxQ", _TSC_AUX, 0x7A5C_0A7C))
    for name, index in _ADDRESS_MSRS.items():
        scratch.write(_MSR, struct.pack("<Ixxxx", index) + patterns[name])  # uc_x86_msr
    return patterns | {"gprs": b"".join(gprs), "tsc_aux": struct.pack("<I", 0x7A5C_0A7C)}


def _find_efer(scratch: Scratch) -> int:
    """The one place that changes with EFER.SCE."""
    images = []
    for value in (0x500, 0x501):
        scratch.write(_MSR, struct.pack("<IxxxxQ", _EFER, value))
        images.append(scratch.save()[64:])  # the first bytes are the context's own header
    changed = [i for i, (a, b) in enumerate(zip(*images, strict=True)) if a != b]
    if len(changed) != 1:
        raise UnknownLayout("cannot find EFER in the engine's state")
    return changed[0] + 64


def _locate(scratch: Scratch) -> dict[str, int]:
    if scratch.size > lib.SK_MAX_IMAGE:
        raise UnknownLayout(f"the engine's state has {scratch.size} bytes")
    patterns = _write_patterns(scratch)
    image = scratch.save()
    at = {name: _only_place(image, pattern, name) for name, pattern in patterns.items()}
    stride = at["gs"] - at["fs"]
    segs = at["fs"] - 8 - 4 * stride  # a segment is selector, padding, base, limit, flags
    if stride != 24 or at["rip"] != at["gprs"] + 128 or segs != at["gprs"] + 184:
        raise UnknownLayout("the engine's general registers and segments are not where they were")
    return {
        "size": scratch.size,
        "regs": at["gprs"],
        "eip": at["rip"],
        "eflags": at["rip"] + 8,
        "cc_src": at["rip"] + 24,
        "cc_op": at["rip"] + 40,
        "df": at["rip"] + 44,
        "hflags": at["rip"] + 48,
        "segs": segs,
        "seg_stride": stride,
        "ldt": at["ldt"] - 8,
        "tr": at["tr"] - 8,
        "gdt": at["gdt"] - 8,
        "idt": at["idt"] - 8,
        "cr": at["cr2"] - 16,
        "efer": _find_efer(scratch),
        "error_code": at["dr0"] - 16,
        "is_int": at["dr0"] - 12,
        "next_eip": at["dr0"] - 8,
        "old_exception": at["dr0"] + 96,
        "vm_vmcb": at["dr0"] + 104,
        "intercept": at["dr0"] + 120,
        "intercept_cr_read": at["dr0"] + 128,
        **{name: at[name] for name in (*_ADDRESS_MSRS, "tsc_aux")},
    }


# ------------------------------------------------------------------------------ checks by behaviour


def _set(scratch: Scratch, offset: int, code: str, value: int) -> None:
    struct.pack_into(code, scratch.bytes, offset, value)


def _get(scratch: Scratch, offset: int, code: str) -> int:
    return int(struct.unpack_from(code, scratch.bytes, offset)[0])


def _start(scratch: Scratch, at: dict[str, int], code: bytes) -> None:
    """Long mode, 16 KiB at 0 with tables from 0x1000 on and `code` at 0x800."""
    memory = scratch.memory
    memory[0x800 : 0x800 + len(code)] = code
    struct.pack_into("<Q", memory, 0x1000, 0x2007)
    struct.pack_into("<Q", memory, 0x2000, 0x3007)
    memory[0x3000:0x3008] = bytes(8)
    struct.pack_into("<Q", memory, 0x3000, 0x0087)  # one 2 MiB page
    scratch.save()
    for offset, value in ((0, 0x80050033), (24, 0x1000), (32, 0x620)):
        _set(scratch, at["cr"] + offset, "<Q", value)
    _set(scratch, at["efer"], "<Q", 0x500)
    flags = 0x00AF9B00  # present 64-bit code; long mode ignores the rest
    for n in range(6):
        struct.pack_into(
            "<I4xQII", scratch.bytes, at["segs"] + 24 * n, 8, 0, 0xFFFFFFFF,
            flags if n == 1 else 0x00CF9300,
        )  # fmt: skip
    hflags = _get(scratch, at["hflags"], "<I") & ~(_HFLAGS_CPL | _HFLAGS_GUEST | 0xEFF0)
    # CS32 SS32 PE MP LMA CS64 OSFXSR, privilege level 0
    _set(scratch, at["hflags"], "<I", hflags | 0x30 | 0x80 | 0x200 | 0x4000 | 0x8000 | 1 << 22)
    _set(scratch, at["eip"], "<Q", 0x800)
    _set(scratch, at["eflags"], "<Q", 2)
    _set(scratch, at["old_exception"], "<i", -1)
    _set(scratch, at["is_int"], "<I", 0)
    _set(scratch, at["intercept"], "<Q", 0)
    _set(scratch, at["intercept_cr_read"], "<I", 0)


def _expect(found: tuple[int, ...], wanted: tuple[int, ...], what: str) -> None:
    if found != wanted:
        raise UnknownLayout(f"{what}: expected {wanted}, the engine says {found}")


def _check(scratch: Scratch, at: dict[str, int]) -> None:
    """Runs guests whose outcome proves the offsets that patterns could not reach."""
    _start(scratch, at, bytes.fromhex("89042500004000"))  # mov [0x400000], eax: not mapped
    number = scratch.until_exception()
    found: tuple[int, ...] = (
        number,
        _get(scratch, at["error_code"], "<I"),
        _get(scratch, at["old_exception"], "<i"),
        _get(scratch, at["eip"], "<Q"),
        _get(scratch, at["cr"] + 16, "<Q"),
        _get(scratch, at["is_int"], "<I"),
    )
    _expect(found, (14, 2, 14, 0x800, 0x400000, 0), "a write to an unmapped page")

    _start(scratch, at, bytes.fromhex("cd55"))  # int 0x55
    number = scratch.until_exception()
    found = (number, _get(scratch, at["is_int"], "<I"), _get(scratch, at["next_eip"], "<Q"))
    _expect(found, (0x55, 1, 0x802), "a software interrupt")

    _start(scratch, at, bytes.fromhex("b9800000c00f32cd55"))  # mov ecx, EFER; rdmsr; int 0x55
    scratch.until_exception()
    _expect((_get(scratch, at["regs"], "<Q"),), (0x500,), "EFER")

    _start(scratch, at, bytes.fromhex("b9785634120f32"))  # mov ecx, 0x12345678; rdmsr
    _set(scratch, at["hflags"], "<I", _get(scratch, at["hflags"], "<I") | _HFLAGS_GUEST)
    _set(scratch, at["vm_vmcb"], "<Q", 0x3800)
    _set(scratch, at["intercept"], "<Q", 1 << 28)
    number = scratch.until_exception()
    found = (number, _get(scratch, at["error_code"], "<I"), _get(scratch, at["eip"], "<Q"))
    _expect(found, (0x17C, 0, 0x805), "an intercepted RDMSR")

    _start(scratch, at, bytes.fromhex("440f20c0"))  # mov rax, cr8
    _set(scratch, at["hflags"], "<I", _get(scratch, at["hflags"], "<I") | _HFLAGS_GUEST)
    _set(scratch, at["intercept_cr_read"], "<H", 1 << 8)
    _expect((scratch.until_exception(),), (0x108,), "an intercepted read of CR8")

    _start(scratch, at, b"\xf4")  # hlt, refused at privilege level 3
    _set(scratch, at["hflags"], "<I", _get(scratch, at["hflags"], "<I") | 3)
    _expect((scratch.until_exception(),), (13,), "hlt at privilege level 3")


@cache
def find() -> CData:
    """The `struct sk_layout` of the loaded engine.

    Raises:
        EngineError: there is no usable engine.
        UnknownLayout: its state is not laid out as any that we know.
    """
    scratch = Scratch()
    try:
        at = _locate(scratch)
        _check(scratch, at)
    finally:
        scratch.close()
    return ffi.new("struct sk_layout *", at)
