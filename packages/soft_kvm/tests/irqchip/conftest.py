"""A handle on the interrupt controllers' C code for the tests in this folder.

The package's extension is used when it is built and exports the functions; otherwise the C files
are compiled into a temporary directory.
"""

import importlib
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "src" / "soft_kvm" / "_core"
PARTS = ("lapic", "lapic_timer", "ioapic", "pic", "pit", "irqchip")
SOURCES = [str(CORE / f"{name}.c") for name in PARTS]

LAPIC = 0xFEE00000
IOAPIC = 0xFEC00000


def from_extension():
    """The (ffi, lib) of the built package, or None when there is none or its sources are newer."""
    try:
        extension = importlib.import_module("soft_kvm._ffi")
    except ImportError:
        return None
    built = Path(extension.__file__).stat().st_mtime
    if any(path.stat().st_mtime > built for path in CORE.glob("*")):
        return None
    return extension.ffi, extension.lib


def from_sources(directory):
    """The (ffi, lib) of a fresh build in `directory`."""
    cffi = pytest.importorskip("cffi")
    builder = cffi.FFI()
    builder.cdef((CORE / "irqchip.cdef.h").read_text())
    builder.set_source(
        "irqchip_under_test",
        '#include "irqchip_pins.h"',
        sources=SOURCES,
        include_dirs=[str(CORE)],
        extra_compile_args=["-std=c11", "-Wall", "-Wextra", "-Werror", "-O2"],
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        builder.compile(tmpdir=str(directory))
    sys.path.insert(0, str(directory))
    try:
        module = importlib.import_module("irqchip_under_test")
    finally:
        sys.path.remove(str(directory))
    return module.ffi, module.lib


@pytest.fixture(scope="session")
def binding(tmp_path_factory):
    """Cffi's (ffi, lib) with the functions of irqchip.h and irqchip_pins.h."""
    found = from_extension()
    if found is None and not shutil.which("cc"):
        pytest.skip("neither the built extension nor a C compiler is there")
    return found or from_sources(tmp_path_factory.mktemp("irqchip"))


@pytest.fixture(scope="session")
def fuzzer(tmp_path_factory):
    """The path of fuzz_irqchip.c compiled with the address and undefined behaviour sanitizers."""
    program = tmp_path_factory.mktemp("fuzz") / "fuzz_irqchip"
    source = Path(__file__).with_name("fuzz_irqchip.c")
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-g", "-O1", f"-I{CORE}"]
    sanitizers = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if not shutil.which("cc"):
        pytest.skip("no C compiler")
    probe = ["cc", *sanitizers, "-x", "c", "-", "-o", str(program)]
    main = b"int main(void) { return 0; }"
    if subprocess.run(probe, input=main, capture_output=True, check=False).returncode:
        pytest.skip("the C compiler has no sanitizers")
    subprocess.run(
        ["cc", *flags, *sanitizers, str(source), *SOURCES, "-o", str(program)], check=True
    )
    return program


class Chip:
    """One VM's interrupt controllers, with a clock of its own (`now`, ns)."""

    def __init__(self, binding, cpus=1, *, pit=False):
        self.ffi, self.lib = binding
        self.pointer = self.ffi.gc(self.lib.sk_irqchip_new(), self.lib.sk_irqchip_free)
        self.now = 1_000_000_000
        for cpu in range(cpus):
            self.lib.sk_irqchip_add_cpu(self.pointer, cpu)
        if pit:
            self.lib.sk_irqchip_add_pit(self.pointer, self.now)

    # Address space.
    def read(self, address, *, cpu=0, size=4):
        value = self.ffi.new("uint64_t *")
        lib, chip = self.lib, self.pointer
        claimed = lib.sk_irqchip_mmio_read(chip, cpu, address, size, value, self.now)
        return value[0] if claimed else None

    def write(self, address, value, *, cpu=0, size=4):
        chip = self.pointer
        return self.lib.sk_irqchip_mmio_write(chip, cpu, address, size, value, self.now)

    def lapic(self, offset, *, cpu=0, size=4):
        return self.read(LAPIC + offset, cpu=cpu, size=size)

    def set_lapic(self, offset, value, *, cpu=0, size=4):
        assert self.write(LAPIC + offset, value, cpu=cpu, size=size)

    def ioapic(self, index):
        self.write(IOAPIC, index)
        return self.read(IOAPIC + 0x10)

    def set_ioapic(self, index, value):
        self.write(IOAPIC, index)
        self.write(IOAPIC + 0x10, value)

    def entry(self, pin):
        """The 64-bit redirection entry of an IOAPIC pin."""
        return self.ioapic(0x10 + 2 * pin) | self.ioapic(0x11 + 2 * pin) << 32

    def set_entry(self, pin, low, destination=0):
        self.set_ioapic(0x11 + 2 * pin, destination << 24)
        self.set_ioapic(0x10 + 2 * pin, low)

    def inb(self, port, size=1):
        value = self.ffi.new("uint32_t *")
        chip = self.pointer
        claimed = self.lib.sk_irqchip_pio_read(chip, port, size, value, self.now)
        return value[0] if claimed else None

    def outb(self, port, *values, size=1):
        for value in values:
            chip = self.pointer
            assert self.lib.sk_irqchip_pio_write(chip, port, size, value, self.now)

    # Inputs.
    def gsi(self, number, level):
        self.lib.sk_irqchip_set_gsi(self.pointer, number, level)

    def pulse(self, number):
        self.gsi(number, True)
        self.gsi(number, False)

    def msi(self, data, destination=0, flags=0):
        address = 0xFEE00000 | destination << 12 | flags
        return self.lib.sk_irqchip_send_msi(self.pointer, address, data)

    # Outputs.
    def pending(self, cpu=0):
        return self.lib.sk_irqchip_has_interrupt(self.pointer, cpu)

    def acknowledge(self, cpu=0):
        return self.lib.sk_irqchip_acknowledge(self.pointer, cpu)

    def drain(self, cpu=0):
        """Every vector in the order of delivery, each ended in the local APIC before the next."""
        vectors = []
        while self.pending(cpu):
            vectors.append(self.acknowledge(cpu))
            self.set_lapic(0xB0, 0, cpu=cpu)
        return vectors

    def events(self, cpu=0):
        vector = self.ffi.new("uint8_t *")
        return self.lib.sk_irqchip_take_events(self.pointer, cpu, vector), vector[0]

    def ended(self, irqchip):
        return self.lib.sk_irqchip_take_ended(self.pointer, irqchip)

    # Time.
    @property
    def deadline(self):
        """Nanoseconds from now to the next expiry, or None."""
        deadline = self.lib.sk_irqchip_deadline(self.pointer)
        return None if deadline == 2**64 - 1 else deadline - self.now

    def advance(self, ns):
        self.now += ns
        self.lib.sk_irqchip_expire(self.pointer, self.now)

    # Set-up that many tests share.
    def enable_lapic(self, cpu=0):
        self.set_lapic(0xF0, 0x1FF, cpu=cpu)

    def start_pic(self, *, base=0x20, mask=0x00, icw4=0x01):
        """Programs both 8259s as a PC's firmware does; the slave's base follows the master's."""
        for port, vector, wiring in ((0x20, base, 0x04), (0xA0, base + 8, 0x02)):
            self.outb(port, 0x11)
            self.outb(port + 1, vector, wiring, icw4, mask)

    # State records.
    def get_state(self, kind, *, cpu=0, chip_id=0):
        """A KVM record as bytes; `kind` is lapic, irqchip or pit."""
        size = {"lapic": 1024, "irqchip": 520, "pit": 112}[kind]
        raw = bytearray(size)
        if kind == "irqchip":
            raw[0:4] = chip_id.to_bytes(4, "little")
        result = self._transfer("get", kind, cpu, raw)
        return bytes(raw) if result == 0 else result

    def set_state(self, kind, raw, *, cpu=0):
        return self._transfer("set", kind, cpu, bytearray(raw))

    def _transfer(self, direction, kind, cpu, raw):
        buffer = self.ffi.from_buffer(raw)
        lib, chip, cast = self.lib, self.pointer, self.ffi.cast
        if kind == "lapic":
            call = getattr(lib, f"sk_irqchip_{direction}_lapic")
            return call(chip, cpu, cast("struct kvm_lapic_state *", buffer), self.now)
        if kind == "pit":
            call = getattr(lib, f"sk_irqchip_{direction}_pit")
            return call(chip, cast("struct kvm_pit_state2 *", buffer), self.now)
        call = getattr(lib, f"sk_irqchip_{direction}")
        return call(chip, cast("struct kvm_irqchip *", buffer))


@pytest.fixture
def make_chip(binding):
    """The builder of Chips; a test says how many CPUs it wants and whether a PIT."""

    def make(cpus=1, *, pit=False):
        return Chip(binding, cpus, pit=pit)

    return make


@pytest.fixture
def chip(make_chip):
    """One CPU with its APIC enabled by software, LINT0 and the PIC masked, and a PIT."""
    chip = make_chip(pit=True)
    chip.start_pic(mask=0xFF)
    chip.enable_lapic()
    chip.set_lapic(0x350, 0x10000)
    return chip
