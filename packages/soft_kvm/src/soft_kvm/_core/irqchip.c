/*
 * The interrupt controllers put together: creation, pin routing, the APIC bus, the address map, state records.
 *
 * May assume: the caller holds the interrupt lock and passes pointers to whole records.  Checks: CPU numbers, pins,
 * ports, addresses and sizes, so that the controllers' own files see only what is theirs.
 */
#include "irqchip_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define LAPIC_BASE 0xfee00000ull
#define LAPIC_SIZE 0x1000u
#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_SIZE 0x100u

sk_irqchip *sk_irqchip_new(void)
{
    sk_irqchip *chip = calloc(1, sizeof *chip);

    if (chip) {
        sk_ioapic_reset(&chip->ioapic);
        sk_pic_reset(&chip->pic);
        chip->pit.deadline = SK_NO_DEADLINE;
    }
    return chip;
}

void sk_irqchip_free(sk_irqchip *chip)
{
    free(chip);
}

static bool has_cpu(const sk_irqchip *chip, unsigned cpu)
{
    return cpu < SK_MAX_VCPUS && chip->lapic[cpu].present;
}

/* A CPU that is there stays as it is. */
void sk_irqchip_add_cpu(sk_irqchip *chip, unsigned cpu)
{
    if (cpu < SK_MAX_VCPUS && !chip->lapic[cpu].present)
        sk_lapic_add(&chip->lapic[cpu], cpu);
}

void sk_irqchip_add_pit(sk_irqchip *chip, uint64_t now)
{
    sk_pit_reset(&chip->pit, now);
}

void sk_irqchip_set_apic_enabled(sk_irqchip *chip, unsigned cpu, bool enabled)
{
    struct sk_lapic *lapic;
    unsigned events;

    if (!has_cpu(chip, cpu) || chip->lapic[cpu].enabled == enabled)
        return;
    lapic = &chip->lapic[cpu];
    events = lapic->events;
    sk_lapic_add(lapic, cpu);
    lapic->enabled = enabled;
    lapic->events = events;
}

/* ---------------------------------------------------------------------------------------------- APIC bus */

static unsigned find_targets(const sk_irqchip *chip, const struct sk_message *message, enum sk_shorthand shorthand, unsigned source)
{
    unsigned targets = 0;

    for (unsigned cpu = 0; cpu < SK_MAX_VCPUS; cpu++) {
        const struct sk_lapic *lapic = &chip->lapic[cpu];
        bool meant = shorthand == SK_TO_ALL || (shorthand == SK_TO_SELF && cpu == source) ||
                     (shorthand == SK_TO_OTHERS && cpu != source) ||
                     (shorthand == SK_TO_DESTINATION && sk_lapic_matches(lapic, message->destination, message->logical));

        if (lapic->present && lapic->enabled && meant)
            targets |= 1u << cpu;
    }
    return targets;
}

/* The target with the lowest processor priority (SDM vol. 3 §11.6.2.4); among equals, the next after the last taker. */
static unsigned choose_lowest(sk_irqchip *chip, unsigned targets)
{
    unsigned chosen = SK_MAX_VCPUS, best = 0x100;

    for (unsigned i = 1; i <= SK_MAX_VCPUS; i++) {
        unsigned cpu = (chip->last_lowest + i) % SK_MAX_VCPUS;
        const struct sk_lapic *lapic = &chip->lapic[cpu];

        if (targets >> cpu & 1 && sk_lapic_software_enabled(lapic) && sk_lapic_processor_priority(lapic) < best) {
            best = sk_lapic_processor_priority(lapic);
            chosen = cpu;
        }
    }
    if (chosen == SK_MAX_VCPUS)
        return 0;
    chip->last_lowest = chosen;
    return 1u << chosen;
}

unsigned sk_bus_deliver(sk_irqchip *chip, const struct sk_message *message, enum sk_shorthand shorthand, unsigned source)
{
    unsigned targets = find_targets(chip, message, shorthand, source), reached = 0;

    if (message->mode == SK_MODE_LOWEST_PRIORITY)
        targets = choose_lowest(chip, targets);
    for (unsigned cpu = 0; cpu < SK_MAX_VCPUS; cpu++)
        if (targets >> cpu & 1)
            reached += sk_lapic_accept(&chip->lapic[cpu], message);
    return reached;
}

/* SDM vol. 3 §11.11.  The redirection hint asks for one of the destinations, which is lowest priority by another name. */
int sk_irqchip_send_msi(sk_irqchip *chip, uint64_t address, uint32_t data)
{
    struct sk_message message = {
        .vector = (uint8_t)data,
        .mode = data >> 8 & 7,
        .destination = (uint8_t)(address >> 12),
        .logical = address & 4,
        .level = data & 0x8000,
    };

    if (address >> 20 != 0xfee)
        return 0;
    if (address & 8 && message.mode == SK_MODE_FIXED)
        message.mode = SK_MODE_LOWEST_PRIORITY;
    return (int)sk_bus_deliver(chip, &message, SK_TO_DESTINATION, 0);
}

/* -------------------------------------------------------------------------------------------------- pins */

/* After anything that may have moved the PIC's output: LINT0 in a mode other than ExtINT sees its rising edge. */
static void follow_pic(sk_irqchip *chip)
{
    bool output = sk_pic_output(&chip->pic), rising = output && !chip->pic_output;

    chip->pic_output = output;
    for (unsigned cpu = 0; rising && cpu < SK_MAX_VCPUS; cpu++)
        if (chip->lapic[cpu].present)
            sk_lapic_pulse_lint0(&chip->lapic[cpu]);
}

bool sk_irqchip_set_pin(sk_irqchip *chip, unsigned irqchip, unsigned pin, bool level)
{
    if (irqchip == KVM_IRQCHIP_IOAPIC && pin < SK_IOAPIC_PINS) {
        sk_ioapic_set_pin(chip, pin, level);
        return true;
    }
    if (irqchip > KVM_IRQCHIP_PIC_SLAVE || pin >= 8)
        return false;
    sk_pic_set_pin(&chip->pic, irqchip * 8 + pin, level);
    follow_pic(chip);
    return true;
}

/* KVM's default routing: a GSI is the pin of its number, on the PIC and on the IOAPIC. */
void sk_irqchip_set_gsi(sk_irqchip *chip, unsigned gsi, bool level)
{
    if (gsi < 16)
        sk_irqchip_set_pin(chip, gsi / 8, gsi % 8, level);
    sk_irqchip_set_pin(chip, KVM_IRQCHIP_IOAPIC, gsi, level);
}

uint32_t sk_irqchip_take_ended(sk_irqchip *chip, unsigned irqchip)
{
    uint32_t ended = 0;

    if (irqchip == KVM_IRQCHIP_IOAPIC) {
        ended = chip->ended_ioapic_pins;
        chip->ended_ioapic_pins = 0;
    } else if (irqchip <= KVM_IRQCHIP_PIC_SLAVE) {
        ended = chip->pic.ended >> irqchip * 8 & 0xff;
        chip->pic.ended &= ~(0xffu << irqchip * 8);
    }
    return ended;
}

/* ------------------------------------------------------------------------------------- towards one vCPU */

static bool sees_pic(const sk_irqchip *chip, unsigned cpu)
{
    return sk_lapic_accepts_pic(&chip->lapic[cpu]) && sk_pic_output(&chip->pic);
}

bool sk_irqchip_has_interrupt(const sk_irqchip *chip, unsigned cpu)
{
    return has_cpu(chip, cpu) && (sees_pic(chip, cpu) || sk_lapic_pending(&chip->lapic[cpu]) >= 0);
}

/* ExtINT goes before the local APIC's own vectors, as in KVM: it knows no priority to compare. */
int sk_irqchip_acknowledge(sk_irqchip *chip, unsigned cpu)
{
    int vector;

    if (!has_cpu(chip, cpu))
        return -1;
    if (!sees_pic(chip, cpu))
        return sk_lapic_acknowledge(&chip->lapic[cpu]);
    vector = sk_pic_acknowledge(&chip->pic);
    follow_pic(chip);
    return vector;
}

unsigned sk_irqchip_take_events(sk_irqchip *chip, unsigned cpu, uint8_t *sipi_vector)
{
    unsigned events;

    if (!has_cpu(chip, cpu))
        return 0;
    events = chip->lapic[cpu].events;
    chip->lapic[cpu].events = 0;
    if (sipi_vector)
        *sipi_vector = chip->lapic[cpu].sipi_vector;
    return events;
}

/* -------------------------------------------------------------------------------------------------- time */

uint64_t sk_irqchip_deadline(const sk_irqchip *chip)
{
    uint64_t earliest = chip->pit.deadline;

    for (unsigned cpu = 0; cpu < SK_MAX_VCPUS; cpu++)
        if (chip->lapic[cpu].present && sk_lapic_deadline(&chip->lapic[cpu]) < earliest)
            earliest = sk_lapic_deadline(&chip->lapic[cpu]);
    return earliest;
}

static void expire_pit(sk_irqchip *chip, uint64_t now)
{
    if (sk_pit_expire(&chip->pit, now)) {
        sk_irqchip_set_gsi(chip, 0, true);
        sk_irqchip_set_gsi(chip, 0, false);
    }
}

void sk_irqchip_expire(sk_irqchip *chip, uint64_t now)
{
    expire_pit(chip, now);
    for (unsigned cpu = 0; cpu < SK_MAX_VCPUS; cpu++)
        if (chip->lapic[cpu].present)
            sk_lapic_expire(&chip->lapic[cpu], now);
}

/* ----------------------------------------------------------------------------------------- address map */

static uint64_t ones(unsigned size)
{
    return size < 8 ? (1ull << size * 8) - 1 : UINT64_MAX;
}

/* A local APIC that is off answers as empty space does. */
bool sk_irqchip_mmio_read(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t *value, uint64_t now)
{
    if (address - LAPIC_BASE < LAPIC_SIZE && has_cpu(chip, cpu)) {
        *value = ones(size);
        if (chip->lapic[cpu].enabled && size <= 8)
            *value = sk_lapic_read(&chip->lapic[cpu], (unsigned)(address - LAPIC_BASE), size, now);
        return true;
    }
    if (address - IOAPIC_BASE < IOAPIC_SIZE) {
        *value = sk_ioapic_read(&chip->ioapic, (unsigned)(address - IOAPIC_BASE)) & ones(size);
        return true;
    }
    return false;
}

bool sk_irqchip_mmio_write(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t value, uint64_t now)
{
    if (address - LAPIC_BASE < LAPIC_SIZE && has_cpu(chip, cpu)) {
        if (chip->lapic[cpu].enabled)
            sk_lapic_write(chip, cpu, (unsigned)(address - LAPIC_BASE), size, value, now);
        return true;
    }
    if (address - IOAPIC_BASE < IOAPIC_SIZE) {
        sk_ioapic_write(chip, (unsigned)(address - IOAPIC_BASE), value & ones(size));
        return true;
    }
    return false;
}

static bool is_pic_port(unsigned port)
{
    return (port & ~0x81u) == 0x20 || (port & ~1u) == 0x4d0;
}

static bool is_pit_port(const sk_irqchip *chip, unsigned port)
{
    return chip->pit.present && ((port & ~3u) == 0x40 || port == 0x61);
}

/* The bus splits wider accesses into bytes at consecutive ports; a byte that is not ours reads ff. */
bool sk_irqchip_pio_read(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t *value, uint64_t now)
{
    if (!is_pic_port(port) && !is_pit_port(chip, port))
        return false;
    expire_pit(chip, now);
    *value = 0;
    for (unsigned i = 0; i < size && i < 4; i++) {
        unsigned at = port + i;
        uint32_t byte = 0xff;

        if (is_pic_port(at))
            byte = sk_pic_read(&chip->pic, (uint16_t)at);
        else if (is_pit_port(chip, at))
            byte = sk_pit_read(&chip->pit, (uint16_t)at, now);
        *value |= byte << i * 8;
    }
    follow_pic(chip); /* a poll may have acknowledged */
    return true;
}

bool sk_irqchip_pio_write(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t value, uint64_t now)
{
    if (!is_pic_port(port) && !is_pit_port(chip, port))
        return false;
    expire_pit(chip, now);
    for (unsigned i = 0; i < size && i < 4; i++) {
        unsigned at = port + i;

        if (is_pic_port(at))
            sk_pic_write(&chip->pic, (uint16_t)at, (uint8_t)(value >> i * 8));
        else if (is_pit_port(chip, at))
            sk_pit_write(&chip->pit, (uint16_t)at, (uint8_t)(value >> i * 8), now);
        follow_pic(chip); /* byte by byte: the output may fall and rise again */
    }
    return true;
}

/* ------------------------------------------------------------------------------------------------- state */

int sk_irqchip_get_lapic(const sk_irqchip *chip, unsigned cpu, struct kvm_lapic_state *state, uint64_t now)
{
    if (!has_cpu(chip, cpu))
        return -EINVAL;
    sk_lapic_save(&chip->lapic[cpu], state, now);
    return 0;
}

int sk_irqchip_set_lapic(sk_irqchip *chip, unsigned cpu, const struct kvm_lapic_state *state, uint64_t now)
{
    if (!has_cpu(chip, cpu))
        return -EINVAL;
    sk_lapic_restore(&chip->lapic[cpu], state, now);
    sk_ioapic_retry(chip);
    return 0;
}

int sk_irqchip_get(const sk_irqchip *chip, struct kvm_irqchip *state)
{
    unsigned id = state->chip_id;

    if (id > KVM_IRQCHIP_IOAPIC)
        return -EINVAL;
    memset(&state->chip, 0, sizeof state->chip);
    if (id == KVM_IRQCHIP_IOAPIC)
        sk_ioapic_save(&chip->ioapic, &state->chip.ioapic);
    else
        sk_pic_save(&chip->pic, id, &state->chip.pic);
    return 0;
}

int sk_irqchip_set(sk_irqchip *chip, const struct kvm_irqchip *state)
{
    if (state->chip_id > KVM_IRQCHIP_IOAPIC)
        return -EINVAL;
    if (state->chip_id == KVM_IRQCHIP_IOAPIC)
        sk_ioapic_restore(chip, &state->chip.ioapic);
    else
        sk_pic_restore(&chip->pic, state->chip_id, &state->chip.pic);
    follow_pic(chip);
    return 0;
}

/* KVM answers ENXIO for a PIT that was never created. */
int sk_irqchip_get_pit(const sk_irqchip *chip, struct kvm_pit_state2 *state, uint64_t now)
{
    if (!chip->pit.present)
        return -ENXIO;
    sk_pit_save(&chip->pit, state, now);
    return 0;
}

int sk_irqchip_set_pit(sk_irqchip *chip, const struct kvm_pit_state2 *state, uint64_t now)
{
    if (!chip->pit.present)
        return -ENXIO;
    sk_pit_restore(&chip->pit, state, now);
    return 0;
}
