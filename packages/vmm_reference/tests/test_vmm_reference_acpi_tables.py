"""The ACPI tables: where they are, what they say, and whether iasl agrees."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vmm_reference.acpi import (
    AcpiConfig,
    AcpiTooLarge,
    InterruptOverride,
    PciHost,
    SerialPort,
    VirtioMmio,
    aml,
    build_tables,
    resources,
)
from vmm_reference.acpi.tables import table

SIGNATURES = ("DSDT", "FACP", "APIC", "XSDT")


def u32(data, offset):
    return struct.unpack_from("<I", data, offset)[0]


def u64(data, offset):
    return struct.unpack_from("<Q", data, offset)[0]


def walk(memory, base, rsdp_address):
    """All tables as a kernel finds them: RSDP, XSDT, FADT, DSDT; each checksum is checked."""
    rsdp = memory[rsdp_address - base :][:36]
    assert rsdp[:8] == b"RSD PTR "
    assert (sum(rsdp[:20]) & 0xFF, sum(rsdp) & 0xFF) == (0, 0)
    assert (rsdp[15], u32(rsdp, 20)) == (2, 36)
    found = {}

    def load(address):
        start = address - base
        content = memory[start : start + u32(memory, start + 4)]
        assert sum(content) & 0xFF == 0
        found[content[:4].decode()] = content
        return content

    xsdt = load(u64(rsdp, 24))
    for offset in range(36, len(xsdt), 8):
        load(u64(xsdt, offset))
    load(u64(found["FACP"], 140))
    return found


def madt_entries(madt):
    entries, offset = [], 44
    while offset < len(madt):
        entries.append(madt[offset : offset + madt[offset + 1]])
        offset += madt[offset + 1]
    return entries


PCI = PciHost(
    ecam=0xFEB0_0000,
    memory32=(0xC000_0000, 0x3EB0_0000),
    memory64=(1 << 32, 1 << 36),
    routes=[(slot, pin, 16 + (slot + pin - 1) % 4) for slot in range(32) for pin in (1, 2, 3, 4)],
)


configs = st.builds(
    AcpiConfig,
    base=st.sampled_from([0xE0000, 0xA0000, 0x1_0000_0000]),
    cpu_apic_ids=st.lists(st.integers(0, 1000), min_size=1, max_size=20, unique=True),
    interrupt_overrides=st.lists(st.tuples(st.integers(0, 15), st.integers(0, 23)), max_size=3),
    serial_ports=st.lists(
        st.builds(SerialPort, st.integers(1, 9), st.integers(0, 0xFFF8), st.integers(0, 23)),
        max_size=4,
        unique_by=lambda port: port.uid,
    ),
    pvpanic_port=st.one_of(st.none(), st.just(0x505)),
    rtc_port=st.one_of(st.none(), st.just(0x70)),
    pci=st.one_of(st.none(), st.just(PCI)),
    virtio_mmio=st.lists(
        st.builds(
            VirtioMmio, st.integers(0, 2**40), st.sampled_from([0x200, 0x1000]), st.integers(0, 23)
        ),
        max_size=40,
    ),
)


@given(configs)
def test_every_table_is_reachable_from_the_rsdp(config):
    """Whatever the machine, all tables are found from the RSDP and have right checksums."""
    tables = build_tables(config)
    assert tables.rsdp_address == tables.base == config.base
    found = walk(tables.blob, tables.base, tables.rsdp_address)
    assert sorted(found) == sorted(SIGNATURES + ("MCFG",) * (config.pci is not None))
    assert all(tables.table(signature) == content for signature, content in found.items())
    assert all(address % 16 == 0 for address in tables.addresses.values())


def test_extra_tables_are_listed():
    """A table of the caller's own is found like ours."""
    extra = table(b"SSDT", 1, bytes(8))
    tables = build_tables(AcpiConfig(extra_tables=[extra]))
    assert walk(tables.blob, tables.base, tables.rsdp_address)["SSDT"] == extra


def test_mcfg_has_one_bus():
    """Segment 0, bus 0 to 0, at the address of the ECAM."""
    mcfg = build_tables(AcpiConfig(pci=PCI)).table("MCFG")
    assert len(mcfg) == 60
    assert mcfg[44:] == struct.pack("<QHBBI", 0xFEB0_0000, 0, 0, 0, 0)


def test_fadt_describes_a_hardware_reduced_platform():
    """Sleep, reset and boot flags are what lets Linux power off, reboot and skip its probes."""
    fadt = build_tables(AcpiConfig(sleep_port=0x600)).table("FACP")
    assert (len(fadt), fadt[8]) == (276, 6)
    flags = u32(fadt, 112)
    assert flags & 1 << 20  # hardware-reduced
    assert flags & 1 << 10  # reset register supported
    assert flags & (1 << 4 | 1 << 5) == 1 << 4 | 1 << 5  # no fixed-hardware buttons
    byte_port = bytes((1, 8, 0, 1))
    assert fadt[116:128] == byte_port + struct.pack("<Q", 0x602)
    assert fadt[128] == 1
    assert fadt[244:256] == byte_port + struct.pack("<Q", 0x600)
    assert fadt[256:268] == byte_port + struct.pack("<Q", 0x601)
    assert fadt[108] == 0x32
    boot = struct.unpack_from("<H", fadt, 109)[0]
    assert boot == 0b0000101  # legacy devices, no 8042, no VGA, an RTC


def test_fadt_denies_an_absent_clock():
    """Without CMOS the guest is told not to look for one."""
    fadt = build_tables(AcpiConfig(rtc_port=None, serial_ports=())).table("FACP")
    assert struct.unpack_from("<H", fadt, 109)[0] == 0b0100100
    assert fadt[108] == 0


def test_madt_lists_processors_and_ioapic():
    """Ids to 254 are local APICs, larger ones x2APICs; then IOAPIC, overrides, and NMI at LINT1."""
    config = AcpiConfig(
        cpu_apic_ids=(0, 254, 255),
        ioapic=(7, 0xFEC0_0000, 0),
        interrupt_overrides=[InterruptOverride(0, 2)],
    )
    madt = build_tables(config).table("APIC")
    assert u32(madt, 36) == 0xFEE0_0000
    assert u32(madt, 40) == 0
    assert madt_entries(madt) == [
        bytes((0, 8, 0, 0, 1, 0, 0, 0)),
        bytes((0, 8, 1, 254, 1, 0, 0, 0)),
        bytes((9, 16, 0, 0)) + struct.pack("<III", 255, 1, 2),
        bytes((1, 12, 7, 0)) + struct.pack("<II", 0xFEC0_0000, 0),
        bytes((2, 10, 0, 0)) + struct.pack("<IH", 2, 5),
        bytes((4, 6, 255, 0, 0, 1)),
    ]


def test_tables_beyond_their_space_are_refused():
    """More than fits below 1 MiB is an error with the size in it."""
    config = AcpiConfig(virtio_mmio=[VirtioMmio(0xD000_0000, 0x1000, 5)] * 2000)
    with pytest.raises(AcpiTooLarge, match=r"need \d+ bytes") as caught:
        build_tables(config)
    assert caught.value.size > 0x20000


# --- iasl as the judge


@pytest.fixture
def iasl(tmp_path):
    program = shutil.which("iasl")
    if program is None:
        pytest.skip("iasl is not installed (Debian: acpica-tools)")

    def run(*arguments):
        result = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return result.returncode, result.stdout + result.stderr

    return run


FULL = AcpiConfig(
    cpu_apic_ids=(0, 1, 2, 300),
    interrupt_overrides=[InterruptOverride(0, 2)],
    virtio_mmio=[VirtioMmio(0xD000_0000, 0x1000, 5), VirtioMmio(0x1_0000_0000, 0x1000, 6)],
    extra_devices=[
        aml.device(
            "BUS0",
            aml.name("_HID", aml.eisa_id("PNP0A08")),
            aml.name("_CID", aml.eisa_id("PNP0A03")),
            aml.name("_UID", aml.integer(0x1_0000_0000)),
            aml.name(
                "_CRS",
                resources.resource_template(
                    resources.word_bus_number(0, 256),
                    resources.io(0xCF8, 8),
                    resources.word_io(0x1000, 0xF000),
                    resources.dword_memory(0xC000_0000, 0x1000_0000, producer=True),
                    resources.qword_memory(1 << 40, 1 << 39, producer=True),
                ),
            ),
        ),
        aml.device(
            "GED0",
            aml.name("_HID", aml.string("ACPI0013")),
            aml.name("_UID", aml.integer(7)),
            aml.name("_CRS", resources.resource_template(resources.interrupt(9))),
            aml.operation_region("REGS", aml.SYSTEM_IO, 0x640, 2),
            aml.byte_fields("REGS", "STAT", "ACKN"),
            aml.method(
                "_EVT",
                1,
                aml.store(aml.reference("STAT"), aml.local(0)),
                aml.if_(
                    aml.and_(aml.local(0), aml.integer(2)),
                    aml.notify(aml.reference("\\_SB.PWRB"), aml.integer(0x80)),
                ),
                aml.else_(aml.store(aml.argument(0), aml.reference("ACKN"))),
                serialized=True,
            ),
        ),
        aml.device(
            "PWRB",
            aml.name("_HID", aml.eisa_id("PNP0C0C")),
            aml.method("_STA", 0, aml.return_(aml.integer(0x0F))),
            aml.name("BUF0", aml.buffer(bytes(range(80)))),
            aml.method("TEST", 0, aml.return_(aml.equal(aml.integer(1), aml.integer(1)))),
        ),
    ],
)


@pytest.mark.parametrize(
    "config",
    [
        AcpiConfig(),
        FULL,
        AcpiConfig(serial_ports=(), rtc_port=None, pvpanic_port=None),
        AcpiConfig(pci=PCI),
    ],
)
@pytest.mark.parametrize("signature", SIGNATURES)
def test_iasl_reads_and_recompiles_every_table(iasl, tmp_path, config, signature):
    """Iasl finds nothing to complain about in what we encode, and its own encoding is the same."""
    ours = build_tables(config).table(signature)
    (tmp_path / "table.aml").write_bytes(ours)
    code, output = iasl("-d", "table.aml")
    assert code == 0, output
    assert not [word for word in ("Error", "Warning", "Invalid") if word in output], output
    # -oa: without optimising names to shorter ones, so that the bytes can be compared.
    code, output = iasl("-oa", "-p", "again", "table.dsl")
    assert code == 0, output
    assert "0 Errors, 0 Warnings" in output
    again = (tmp_path / "again.aml").read_bytes()
    assert len(again) == len(ours)
    assert again[36:] == ours[36:]


def test_iasl_sees_the_devices(iasl, tmp_path):
    """The serial ports and the panic device carry the ids, ports and lines that they have."""
    (tmp_path / "dsdt.aml").write_bytes(build_tables(AcpiConfig()).table("DSDT"))
    iasl("-d", "dsdt.aml")
    source = (tmp_path / "dsdt.dsl").read_text()
    assert source.count('EisaId ("PNP0501")') == 4
    assert 'Name (_HID, "QEMU0001")' in source
    for port in ("0x03F8", "0x02F8", "0x03E8", "0x02E8", "0x0505", "0x0600", "0x0070"):
        assert f"{port},             // Range Minimum" in source
    assert source.count("Interrupt (ResourceConsumer, Edge, ActiveHigh, Exclusive, ,, )") == 4
    assert "Name (\\_S5, Package (0x04)" in source


def test_iasl_sees_the_pci_host_bridge(iasl, tmp_path):
    """Ids, one bus, both windows as a producer's, all pins, and the ECAM as taken."""
    (tmp_path / "dsdt.aml").write_bytes(build_tables(AcpiConfig(pci=PCI)).table("DSDT"))
    iasl("-d", "dsdt.aml")
    source = (tmp_path / "dsdt.dsl").read_text()
    assert 'EisaId ("PNP0A08")' in source
    assert 'EisaId ("PNP0A03")' in source
    assert "WordBusNumber (ResourceProducer" in source
    assert "DWordMemory (ResourceProducer" in source
    assert "QWordMemory (ResourceProducer" in source
    for end in ("0xFEAFFFFF", "0x00000010FFFFFFFF"):
        assert re.search(rf"{end}, +// Range Maximum", source)
    slots = re.findall(r"0x(?:00..)?FFFF, *\n", source)
    assert len(slots) == 128  # a route for each pin of each slot
    assert re.search(r"0xFEB00000, +// Address Base", source)
