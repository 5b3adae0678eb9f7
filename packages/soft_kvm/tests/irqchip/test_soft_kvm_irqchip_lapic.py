"""The local APIC's registers, priorities and interprocessor interrupts (SDM vol. 3 ch. 11)."""

import pytest

INIT, SIPI, NMI = 1, 2, 4


def test_reset_state_is_kvms(make_chip):
    """A new APIC is disabled by software, flat, with every LVT entry masked but the BSP's LINT0."""
    chip = make_chip(2)
    for cpu, lint0 in ((0, 0x700), (1, 0x10000)):
        assert chip.lapic(0x20, cpu=cpu) == cpu << 24
        assert chip.lapic(0x30, cpu=cpu) == 0x50014
        assert chip.lapic(0xE0, cpu=cpu) == 0xFFFFFFFF
        assert chip.lapic(0xF0, cpu=cpu) == 0xFF
        assert chip.lapic(0x350, cpu=cpu) == lint0
        for lvt in (0x320, 0x330, 0x340, 0x360, 0x370):
            assert chip.lapic(lvt, cpu=cpu) == 0x10000


@pytest.mark.parametrize(
    ("offset", "kept"),
    [
        (0x20, 0xFF000000),
        (0x30, None),
        (0x80, 0xFF),
        (0xD0, 0xFF000000),
        (0xE0, 0xFFFFFFFF),
        (0xF0, 0x3FF),
        (0x100, None),
        (0x200, None),
        (0x310, 0xFF000000),
        (0x320, 0x300FF),
        (0x330, 0x107FF),
        (0x350, 0x1A7FF),
        (0x370, 0x100FF),
        (0x390, None),
        (0x3E0, 0xB),
    ],
)
def test_registers_keep_their_defined_bits(chip, offset, kept):
    """A register keeps the bits that the SDM defines and nothing else; read-only ones keep all."""
    before = chip.lapic(offset)
    chip.set_lapic(offset, 0xFFFFFFFF)
    assert chip.lapic(offset) == (before if kept is None else kept)


def test_only_aligned_words_write(chip):
    """A write that is not four bytes at the start of a register does nothing."""
    for offset, size in ((0x80, 1), (0x80, 2), (0x80, 8), (0x81, 4), (0x84, 4), (0x7E, 4)):
        chip.set_lapic(offset, 0x20202020, size=size)
    assert chip.lapic(0x80) == 0


def test_reads_inside_a_register_give_its_bytes(chip):
    """A narrow read gives the bytes it covers; one that leaves the four bytes reads 0."""
    assert chip.lapic(0x32, size=2) == 0x0005
    assert chip.lapic(0x30, size=1) == 0x14
    assert chip.lapic(0x33, size=2) == 0
    assert chip.lapic(0x34) == 0
    assert chip.lapic(0x30, size=8) == 0


def test_highest_vector_comes_first(chip):
    """Pending vectors are dispatched from the highest down."""
    for vector in (0x31, 0x80, 0x41):
        assert chip.msi(vector) == 1
    assert chip.drain() == [0x80, 0x41, 0x31]


def test_service_blocks_its_class_and_below(chip):
    """While a vector is in service only a higher class interrupts it."""
    chip.msi(0x45)
    assert chip.acknowledge() == 0x45
    chip.msi(0x4F)
    chip.msi(0x3F)
    assert not chip.pending()
    assert chip.acknowledge() == -1
    chip.msi(0x50)
    assert chip.acknowledge() == 0x50
    chip.set_lapic(0xB0, 0)
    assert not chip.pending()
    chip.set_lapic(0xB0, 0)
    assert chip.drain() == [0x4F, 0x3F]


def test_task_priority_masks_its_class(chip):
    """A vector is dispatched only when its class is above that of the TPR."""
    chip.set_lapic(0x80, 0x40)
    chip.msi(0x4F)
    assert not chip.pending()
    chip.set_lapic(0x80, 0x3F)
    assert chip.pending()


@pytest.mark.parametrize(
    ("tpr", "in_service", "ppr"),
    [(0, None, 0), (0x37, None, 0x37), (0x37, 0x45, 0x40), (0x47, 0x51, 0x50), (0x5A, 0x51, 0x5A)],
)
def test_processor_priority(chip, tpr, in_service, ppr):
    """PPR is the TPR when its class is at least that in service, else the serviced class alone."""
    if in_service:
        chip.msi(in_service)
        chip.acknowledge()
    chip.set_lapic(0x80, tpr)
    assert chip.lapic(0xA0) == ppr


def test_vector_registers_show_the_vector(chip):
    """A vector stands in IRR until acknowledged, then in ISR until EOI."""
    chip.msi(0x63)
    assert (chip.lapic(0x230), chip.lapic(0x130)) == (1 << 3, 0)
    chip.acknowledge()
    assert (chip.lapic(0x230), chip.lapic(0x130)) == (0, 1 << 3)
    chip.set_lapic(0xB0, 0)
    assert (chip.lapic(0x230), chip.lapic(0x130)) == (0, 0)


def test_eoi_without_service_does_nothing(chip):
    """An EOI with nothing in service leaves what is pending."""
    chip.msi(0x63)
    chip.set_lapic(0xB0, 0)
    assert chip.drain() == [0x63]


def test_software_disabled_apic_refuses_vectors(make_chip):
    """While SVR bit 8 is clear a vector is refused, and INIT, SIPI and NMI still arrive."""
    chip = make_chip(2)
    assert chip.msi(0x63, destination=1) == 0
    assert chip.msi(4 << 8, destination=1) == 1
    assert chip.msi(6 << 8 | 0x9A, destination=1) == 1
    assert chip.events(1) == (NMI | SIPI, 0x9A)
    assert chip.msi(5 << 8, destination=1) == 1
    assert chip.events(1)[0] == INIT
    chip.enable_lapic(1)
    assert not chip.pending(1)


def test_software_disabling_masks_the_lvt(chip):
    """Clearing SVR bit 8 masks every LVT entry, and none can be unmasked until it is set again."""
    chip.set_lapic(0x360, 0x400)
    chip.set_lapic(0xF0, 0xFF)
    assert chip.lapic(0x360) == 0x10400
    chip.set_lapic(0x360, 0x400)
    assert chip.lapic(0x360) == 0x10400


def test_software_disabling_holds_what_is_pending(chip):
    """An interrupt accepted before the APIC was disabled stays for the CPU to handle."""
    chip.msi(0x63)
    chip.set_lapic(0xF0, 0xFF)
    assert chip.acknowledge() == 0x63


def test_hardware_disabled_apic_is_not_there(chip):
    """With IA32_APIC_BASE bit 11 clear the page reads ones, takes nothing, and comes back reset."""
    chip.set_lapic(0x80, 0x20)
    chip.lib.sk_irqchip_set_apic_enabled(chip.pointer, 0, False)
    assert chip.lapic(0x80) == 0xFFFFFFFF
    assert chip.msi(4 << 8) == 0
    chip.lib.sk_irqchip_set_apic_enabled(chip.pointer, 0, True)
    assert chip.lapic(0x80) == 0


def send(chip, low, destination=0, cpu=0):
    chip.set_lapic(0x310, destination << 24, cpu=cpu)
    chip.set_lapic(0x300, low, cpu=cpu)


@pytest.mark.parametrize(
    ("low", "destination", "reached"),
    [
        (0x00040, 2, {2}),
        (0x00040, 0xFF, {0, 1, 2}),
        (0x00040, 7, set()),
        (0x40040, 2, {0}),
        (0x80040, 2, {0, 1, 2}),
        (0xC0040, 2, {1, 2}),
    ],
)
def test_fixed_ipi_reaches_whom_it_names(make_chip, low, destination, reached):
    """A fixed IPI goes to the id, or to self, all or others when a shorthand says so."""
    chip = make_chip(3)
    for cpu in range(3):
        chip.enable_lapic(cpu)
    send(chip, low, destination)
    assert {cpu for cpu in range(3) if chip.pending(cpu)} == reached


def test_changed_id_is_the_new_address(make_chip):
    """A physical destination is compared with the ID register as the guest last wrote it."""
    chip = make_chip(2)
    chip.enable_lapic(1)
    chip.set_lapic(0x20, 0x7 << 24, cpu=1)
    assert chip.msi(0x40, destination=1) == 0
    assert chip.msi(0x40, destination=7) == 1


@pytest.mark.parametrize(
    ("dfr", "ldrs", "destination", "reached"),
    [
        (0xFFFFFFFF, (1, 2, 4), 0x06, {1, 2}),
        (0xFFFFFFFF, (1, 2, 4), 0x08, set()),
        (0xFFFFFFFF, (1, 2, 4), 0xFF, {0, 1, 2}),
        (0x0FFFFFFF, (0x11, 0x12, 0x21), 0x13, {0, 1}),
        (0x0FFFFFFF, (0x11, 0x12, 0x21), 0x21, {2}),
        (0x0FFFFFFF, (0x11, 0x12, 0x21), 0x24, set()),
        (0x0FFFFFFF, (0x11, 0x12, 0x21), 0xFF, {0, 1, 2}),
        (0x5FFFFFFF, (1, 2, 4), 0x07, set()),
    ],
)
def test_logical_destinations(make_chip, dfr, ldrs, destination, reached):
    """Flat matches any common bit, cluster a common bit within one cluster, all ones everybody."""
    chip = make_chip(3)
    for cpu, ldr in enumerate(ldrs):
        chip.enable_lapic(cpu)
        chip.set_lapic(0xE0, dfr, cpu=cpu)
        chip.set_lapic(0xD0, ldr << 24, cpu=cpu)
    send(chip, 0x840, destination)
    assert {cpu for cpu in range(3) if chip.pending(cpu)} == reached


def test_lowest_priority_takes_the_idlest(make_chip):
    """A lowest-priority message goes to the one target whose processor priority is lowest."""
    chip = make_chip(3)
    for cpu, tpr in enumerate((0x30, 0x10, 0x20)):
        chip.enable_lapic(cpu)
        chip.set_lapic(0x80, tpr, cpu=cpu)
    send(chip, 0x140, 0xFF)
    assert [chip.pending(cpu) for cpu in range(3)] == [False, True, False]


def test_lowest_priority_rotates_among_equals(make_chip):
    """Equal targets take lowest-priority messages in turn, and disabled ones none."""
    chip = make_chip(4)
    for cpu in (0, 1, 3):
        chip.enable_lapic(cpu)
    takers = []
    for _ in range(6):
        assert chip.msi(1 << 8 | 0x40, destination=0xFF) == 1
        takers += [cpu for cpu in range(4) if chip.drain(cpu)]
    assert sorted(takers) == [0, 0, 1, 1, 3, 3]
    assert takers[:3] == takers[3:]


def test_init_resets_the_apic_but_for_its_id(make_chip):
    """INIT clears everything in the APIC except the id, and voids a waiting SIPI."""
    chip = make_chip(2)
    chip.enable_lapic(1)
    chip.set_lapic(0x20, 9 << 24, cpu=1)
    chip.msi(0x63, destination=9)
    send(chip, 0x0069A, 9)
    send(chip, 0x0C500, 9)
    assert chip.events(1)[0] == INIT
    assert not chip.pending(1)
    assert chip.lapic(0x20, cpu=1) == 9 << 24
    assert chip.lapic(0xF0, cpu=1) == 0xFF


def test_init_deassert_is_ignored(make_chip):
    """INIT level de-assert reaches nobody."""
    chip = make_chip(2)
    send(chip, 0x08500, 1)
    send(chip, 0x88500)
    assert chip.events(1) == (0, 0)


def test_start_up_ipi_brings_its_vector(make_chip):
    """INIT and SIPI sent to the others wait together with the SIPI's vector."""
    chip = make_chip(3)
    send(chip, 0xC4500)
    send(chip, 0xC4699)
    assert chip.events(0) == (0, 0)
    assert chip.events(1) == (INIT | SIPI, 0x99)
    assert chip.events(2) == (INIT | SIPI, 0x99)
    assert chip.events(2)[0] == 0


def test_smi_and_reserved_modes_reach_nobody(chip):
    """Delivery modes without a meaning here are dropped."""
    for mode in (2, 3, 7):
        assert chip.msi(mode << 8 | 0x40) == 0
    assert chip.events() == (0, 0)
    assert not chip.pending()


def test_delivery_status_is_always_idle(chip):
    """The ICR keeps the command and reads as sent at once."""
    chip.set_lapic(0x300, 0x41041)
    assert chip.lapic(0x300) == 0x40041


def test_esr_shows_errors_after_a_write(chip):
    """Errors are latched into the ESR by writing it and forgotten by the next write."""
    chip.set_lapic(0x300, 0x4000F)
    assert chip.lapic(0x280) == 0
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0x20
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0


def test_illegal_received_vector_is_an_error(chip):
    """A fixed message with a vector below 16 is not taken and sets ESR bit 6."""
    assert chip.msi(0x0F) == 0
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0x40
    assert not chip.pending()


def test_reserved_register_is_an_error(chip):
    """Reading or writing where no register is sets ESR bit 7."""
    assert chip.lapic(0x3F0) == 0
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0x80
    chip.set_lapic(0x400, 1)
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0x80


def test_error_interrupt_comes_once_until_rearmed(chip):
    """The first error raises the LVT error vector, the next only after an ESR write."""
    chip.set_lapic(0x370, 0xE1)
    chip.msi(1)
    assert chip.drain() == [0xE1]
    chip.msi(2)
    assert chip.drain() == []
    chip.set_lapic(0x280, 0)
    chip.msi(3)
    assert chip.drain() == [0xE1]


def test_illegal_error_vector_does_not_recurse(chip):
    """An LVT error entry with an illegal vector adds that error and raises nothing."""
    chip.set_lapic(0x370, 0x03)
    chip.set_lapic(0x300, 0x40001)
    chip.set_lapic(0x280, 0)
    assert chip.lapic(0x280) == 0x60
    assert not chip.pending()


@pytest.mark.parametrize(
    ("address", "data"), [(0xFEC00000, 0x40), (0x1FEE00000, 0x40), (0xFEE00000, 0x240)]
)
def test_msi_must_name_the_apic_range(chip, address, data):
    """A message outside 0xfeexxxxx, or of a mode that nothing takes, reaches no vCPU."""
    assert chip.lib.sk_irqchip_send_msi(chip.pointer, address, data) == 0


def test_msi_redirection_hint_picks_one(make_chip):
    """With the redirection hint a fixed MSI to several CPUs goes to one of them."""
    chip = make_chip(3)
    for cpu in range(3):
        chip.enable_lapic(cpu)
        chip.set_lapic(0xD0, 1 << (24 + cpu), cpu=cpu)
    assert chip.msi(0x40, destination=0x7, flags=0xC) == 1
    assert chip.msi(0x41, destination=0x7, flags=0x4) == 3


def test_absent_cpu_claims_nothing(chip):
    """A CPU that was never added has no page, no interrupt and no events."""
    for cpu in (1, 16, 2**32 - 1):
        assert chip.read(0xFEE00020, cpu=cpu) is None
        assert not chip.write(0xFEE00020, 0, cpu=cpu)
        assert chip.acknowledge(cpu) == -1
        assert chip.events(cpu)[0] == 0
        assert chip.get_state("lapic", cpu=cpu) < 0
