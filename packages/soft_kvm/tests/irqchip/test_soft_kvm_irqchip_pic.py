"""The two 8259A interrupt controllers and their way to a vCPU (8259A data sheet)."""

import pytest

MASTER, SLAVE = 0x20, 0xA0
NON_SPECIFIC_EOI = 0x20


@pytest.fixture
def pic(make_chip):
    """A PIC set up as by a PC's firmware (vectors 0x20 and 0x28), seen through LINT0."""
    chip = make_chip()
    chip.start_pic()
    return chip


def isr(chip, port=MASTER):
    chip.outb(port, 0x0B)
    return chip.inb(port)


def irr(chip, port=MASTER):
    chip.outb(port, 0x0A)
    return chip.inb(port)


def test_vector_is_base_plus_line(pic):
    """Each line has its vector from ICW2, the slave's through the master's pin 2."""
    for gsi in (0, 1, 3, 7, 8, 9, 12, 15):
        pic.pulse(gsi)
        assert pic.acknowledge() == 0x20 + gsi
        if gsi >= 8:
            assert isr(pic, SLAVE) == 1 << (gsi - 8)
            assert isr(pic) == 1 << 2
            pic.outb(SLAVE, NON_SPECIFIC_EOI)
        pic.outb(MASTER, NON_SPECIFIC_EOI)
        assert (isr(pic), isr(pic, SLAVE)) == (0, 0)
        assert not pic.pending()


def test_lower_number_comes_first(pic):
    """Priority falls from IRQ 0 to 7, with the slave's eight in the place of IRQ 2."""
    for gsi in (7, 3, 15, 8, 1):
        pic.pulse(gsi)
    order = []
    while pic.pending():
        order.append(pic.acknowledge() - 0x20)
        if order[-1] >= 8:
            pic.outb(SLAVE, NON_SPECIFIC_EOI)
        pic.outb(MASTER, NON_SPECIFIC_EOI)
    assert order == [1, 8, 15, 3, 7]


def test_service_blocks_lower_and_equal(pic):
    """A line in service lets only higher ones through until its EOI."""
    pic.pulse(4)
    assert pic.acknowledge() == 0x24
    pic.pulse(4)
    pic.pulse(5)
    assert not pic.pending()
    pic.pulse(3)
    assert pic.acknowledge() == 0x23
    pic.outb(MASTER, NON_SPECIFIC_EOI, NON_SPECIFIC_EOI)
    assert pic.acknowledge() == 0x24


def test_specific_eoi_ends_the_named_service(pic):
    """A specific EOI ends the service that it names, others stay."""
    pic.pulse(4)
    pic.acknowledge()
    pic.pulse(3)
    pic.acknowledge()
    pic.outb(MASTER, 0x64)
    assert isr(pic) == 1 << 3


def test_mask_hides_a_request(pic):
    """A masked line's edge is remembered and delivered when the mask goes."""
    pic.outb(MASTER + 1, 0x10)
    pic.pulse(4)
    assert irr(pic) == 0x10
    assert not pic.pending()
    pic.outb(MASTER + 1, 0x00)
    assert pic.acknowledge() == 0x24
    assert pic.inb(MASTER + 1) == 0x00


def test_edge_comes_once_per_rise(pic):
    """A line held high interrupts once; it must fall before it can interrupt again."""
    pic.gsi(4, True)
    assert pic.acknowledge() == 0x24
    pic.outb(MASTER, NON_SPECIFIC_EOI)
    pic.gsi(4, True)
    assert not pic.pending()
    pic.gsi(4, False)
    pic.gsi(4, True)
    assert pic.acknowledge() == 0x24


def test_level_comes_while_high(pic):
    """A line that the ELCR makes level-triggered interrupts as long as it is high."""
    pic.outb(0x4D1, 0x02)
    pic.gsi(9, True)
    for still_high in (True, False):
        assert pic.acknowledge() == 0x29
        assert not pic.pending()
        pic.gsi(9, still_high)
        pic.outb(SLAVE, NON_SPECIFIC_EOI)
        pic.outb(MASTER, NON_SPECIFIC_EOI)
        assert pic.pending() == still_high
    assert pic.acknowledge() == -1


def test_elcr_keeps_system_lines_edges(pic):
    """Timer, keyboard, cascade, RTC and FPU lines cannot be made level-triggered."""
    pic.outb(0x4D0, 0xFF, size=1)
    pic.outb(0x4D1, 0xFF, size=1)
    assert (pic.inb(0x4D0), pic.inb(0x4D1)) == (0xF8, 0xDE)


def test_elcr_change_drops_the_latch(pic):
    """A line turned to level shows its level, one turned back to edge nothing until it rises."""
    pic.gsi(9, True)
    pic.gsi(10, True)
    pic.gsi(10, False)
    pic.outb(0x4D1, 0x06)
    assert irr(pic, SLAVE) == 0x02
    pic.outb(0x4D1, 0x00)
    assert irr(pic, SLAVE) == 0x00


def test_automatic_eoi(make_chip):
    """With ICW4's AEOI no service is recorded."""
    chip = make_chip()
    chip.start_pic(icw4=0x03)
    for _ in range(2):
        chip.pulse(9)
        assert chip.acknowledge() == 0x29
        assert (isr(chip), isr(chip, SLAVE)) == (0, 0)


def test_rotation_in_automatic_eoi(make_chip):
    """Rotating AEOI makes the acknowledged line the lowest until the mode is cleared."""
    chip = make_chip()
    chip.start_pic(icw4=0x03)
    chip.outb(MASTER, 0x80)
    chip.pulse(3)
    assert chip.acknowledge() == 0x23
    chip.pulse(3)
    chip.pulse(4)
    assert [chip.acknowledge(), chip.acknowledge()] == [0x24, 0x23]
    chip.outb(MASTER, 0x00)
    chip.pulse(5)
    chip.pulse(4)
    assert [chip.acknowledge(), chip.acknowledge()] == [0x24, 0x25]


@pytest.mark.parametrize("command", [0xA0, 0xE3])
def test_rotation_on_eoi(pic, command):
    """Rotate on (non-)specific EOI ends the service and makes its line the lowest."""
    pic.pulse(3)
    pic.acknowledge()
    pic.outb(MASTER, command)
    assert isr(pic) == 0
    pic.pulse(3)
    pic.pulse(4)
    assert pic.acknowledge() == 0x24


def test_set_priority(pic):
    """Set priority names the lowest line without ending anything; no-operation does nothing."""
    pic.outb(MASTER, 0xC4)
    pic.outb(MASTER, 0x40)
    pic.pulse(0)
    pic.pulse(5)
    assert pic.acknowledge() == 0x25


def test_special_mask_mode(pic):
    """In special mask mode a masked service blocks nobody and non-specific EOI passes it by."""
    pic.pulse(4)
    pic.acknowledge()
    pic.outb(MASTER + 1, 0x10)
    pic.pulse(6)
    assert not pic.pending()
    pic.outb(MASTER, 0x68)
    assert pic.acknowledge() == 0x26
    pic.outb(MASTER, NON_SPECIFIC_EOI)
    assert isr(pic) == 0x10
    pic.outb(MASTER, NON_SPECIFIC_EOI)
    assert isr(pic) == 0x10
    pic.outb(MASTER, 0x48)
    pic.outb(MASTER, NON_SPECIFIC_EOI)
    assert isr(pic) == 0


@pytest.mark.parametrize(("icw4", "nested"), [(0x01, False), (0x11, True)])
def test_special_fully_nested_mode(make_chip, icw4, nested):
    """In special fully nested mode a higher slave line interrupts the service of a lower one."""
    chip = make_chip()
    chip.start_pic(icw4=icw4)
    chip.pulse(12)
    chip.acknowledge()
    chip.pulse(9)
    assert chip.pending() == nested


def test_poll_acknowledges(pic):
    """After a poll command the next read says whether and which line asked, and serves it."""
    pic.outb(MASTER, 0x0C)
    assert pic.inb(MASTER) == 0
    pic.pulse(4)
    pic.outb(MASTER, 0x0C)
    assert pic.inb(MASTER) == 0x84
    assert isr(pic) == 0x10
    assert not pic.pending()


def test_poll_of_a_cascaded_line(pic):
    """Polling the master shows the cascade, polling the slave the line."""
    pic.pulse(9)
    pic.outb(MASTER, 0x0C)
    assert pic.inb(MASTER) == 0x82
    pic.outb(SLAVE, 0x0C)
    assert pic.inb(SLAVE) == 0x81


def test_initialisation_resets_edge_sense(pic):
    """ICW1 clears masks and latched edges; a pin raised anew, even without a fall, is an edge."""
    pic.outb(MASTER + 1, 0xFF)
    pic.gsi(4, True)
    pic.start_pic(base=0x50)
    assert pic.inb(MASTER + 1) == 0
    assert not pic.pending()
    pic.gsi(4, True)
    assert pic.acknowledge() == 0x54


def test_initialisation_keeps_services(pic):
    """ICW1 does not end what is in service (as KVM; the data sheet does not list it)."""
    pic.pulse(4)
    pic.acknowledge()
    pic.start_pic()
    assert isr(pic) == 0x10


def test_initialisation_without_icw4(make_chip):
    """Without ICW4 the word after ICW3 is already a mask."""
    chip = make_chip()
    chip.outb(MASTER, 0x10)
    chip.outb(MASTER + 1, 0x37, 0x04, 0xA5)
    assert chip.inb(MASTER + 1) == 0xA5
    chip.pulse(1)
    assert chip.acknowledge() == 0x31


def test_withdrawn_slave_request_is_spurious(pic):
    """When a slave's level falls before the acknowledge, the master's edge yields IRQ 15."""
    pic.outb(0x4D1, 0x02)
    pic.gsi(9, True)
    assert irr(pic) == 0x04
    pic.gsi(9, False)
    assert pic.acknowledge() == 0x2F
    assert (isr(pic), isr(pic, SLAVE)) == (0x04, 0x00)


def test_withdrawn_master_request_is_none(pic):
    """When a master's level falls before the acknowledge there is nothing to acknowledge."""
    pic.outb(0x4D0, 0x20)
    pic.gsi(5, True)
    assert pic.pending()
    pic.gsi(5, False)
    assert pic.acknowledge() == -1


def test_wide_accesses_are_bytes_at_consecutive_ports(pic):
    """A 16-bit access to port 20 touches 20 and 21; bytes that are not ours read ff."""
    pic.outb(MASTER, 0x5A0A, size=2)
    assert pic.inb(MASTER + 1) == 0x5A
    assert pic.inb(MASTER, size=4) == 0xFFFF5A00
    assert pic.inb(0x1F, size=2) is None


def test_lint0_decides_who_sees_the_pic(make_chip):
    """The PIC reaches the vCPUs whose LINT0 is unmasked ExtINT, and no others."""
    chip = make_chip(2)
    chip.start_pic()
    chip.pulse(4)
    assert [chip.pending(0), chip.pending(1)] == [True, False]
    chip.enable_lapic(0)
    chip.enable_lapic(1)
    chip.set_lapic(0x350, 0x10700, cpu=0)
    chip.set_lapic(0x350, 0x00700, cpu=1)
    assert [chip.pending(0), chip.pending(1)] == [False, True]
    assert chip.acknowledge(1) == 0x24


def test_disabled_apic_lets_the_pic_through(make_chip):
    """With its APIC disabled by IA32_APIC_BASE the BSP alone sees the PIC directly."""
    chip = make_chip(2)
    chip.start_pic()
    chip.enable_lapic()
    chip.set_lapic(0x350, 0x10000)
    chip.pulse(4)
    assert not chip.pending()
    for cpu in (0, 1):
        chip.lib.sk_irqchip_set_apic_enabled(chip.pointer, cpu, False)
    assert [chip.pending(0), chip.pending(1)] == [True, False]
    assert chip.acknowledge() == 0x24


def test_lint0_as_a_vector(make_chip):
    """With LINT0 in fixed mode each rise of the PIC's output is that vector; with NMI, an NMI."""
    chip = make_chip()
    chip.start_pic(icw4=0x03)
    chip.enable_lapic()
    chip.set_lapic(0x350, 0x00051)
    chip.pulse(0)
    assert chip.drain() == [0x51]
    chip.outb(MASTER, 0x0C)
    assert chip.inb(MASTER) == 0x80
    chip.set_lapic(0x350, 0x00400)
    chip.pulse(0)
    assert chip.events()[0] == 4


def test_extint_goes_first(make_chip):
    """With both waiting, the PIC's vector is acknowledged before the local APIC's."""
    chip = make_chip()
    chip.start_pic()
    chip.enable_lapic()
    chip.set_lapic(0x350, 0x00700)
    chip.msi(0xF0)
    chip.pulse(4)
    assert [chip.acknowledge(), chip.acknowledge()] == [0x24, 0xF0]


def test_ended_lines_are_reported(pic):
    """The lines whose service ended are reported once, for resampling."""
    pic.pulse(9)
    pic.acknowledge()
    assert (pic.ended(0), pic.ended(1)) == (0, 0)
    pic.outb(SLAVE, NON_SPECIFIC_EOI)
    pic.outb(MASTER, NON_SPECIFIC_EOI)
    assert (pic.ended(0), pic.ended(1)) == (1 << 2, 1 << 1)
    assert (pic.ended(0), pic.ended(1)) == (0, 0)
