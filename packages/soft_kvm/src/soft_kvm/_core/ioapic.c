/*
 * The 82093AA I/O APIC, version 0x11: 24 pins, two 32-bit windows (data sheet 290566).
 *
 * May assume: the caller holds the interrupt lock; `pin` < 24, `offset` < 0x100.  Checks: register index and every
 * written bit.  Work per call is bounded by the 24 pins: one level interrupt is offered once, not until accepted.
 *
 * Deviations: polarity is stored and ignored, as in KVM (lines are logical levels); a message never stays "send
 * pending" (delivery status reads 0), instead a level interrupt that no local APIC took is offered again when one
 * changes its addresses or enable bit; ExtINT and SMI entries deliver nothing.
 */
#include "irqchip_internal.h"

#include <string.h>

#define VERSION_VALUE (((SK_IOAPIC_PINS - 1) << 16) | 0x11)
#define REMOTE_IRR (1ull << 14)
#define LEVEL (1ull << 15)
#define MASKED (1ull << 16)
#define WRITABLE 0xff0000000001afffull /* all defined bits but delivery status and remote IRR */

void sk_ioapic_reset(struct sk_ioapic *ioapic)
{
    memset(ioapic, 0, sizeof *ioapic);
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++)
        ioapic->entry[pin] = MASKED;
}

static unsigned mode(uint64_t entry)
{
    return entry >> 8 & 7;
}

/* SMI, NMI and INIT are edges whatever the trigger bit says (data sheet, delivery mode field). */
static bool is_level(uint64_t entry)
{
    return entry & LEVEL && mode(entry) <= SK_MODE_LOWEST_PRIORITY;
}

/* Offers the pin's interrupt to the local APICs. */
static void service(sk_irqchip *chip, unsigned pin)
{
    uint64_t *entry = &chip->ioapic.entry[pin];
    struct sk_message message = {
        .vector = (uint8_t)*entry,
        .mode = (uint8_t)mode(*entry),
        .destination = (uint8_t)(*entry >> 56),
        .logical = *entry & 0x800,
        .level = is_level(*entry),
    };

    if (*entry & MASKED || (message.level && *entry & REMOTE_IRR) || message.mode == SK_MODE_SIPI)
        return;
    if (!message.level)
        chip->ioapic.delivered |= 1u << pin;
    if (sk_bus_deliver(chip, &message, SK_TO_DESTINATION, 0) && message.level)
        *entry |= REMOTE_IRR;
}

static void service_if_asserted(sk_irqchip *chip, unsigned pin)
{
    if (is_level(chip->ioapic.entry[pin]) && chip->ioapic.lines >> pin & 1)
        service(chip, pin);
}

/* An edge on a masked pin is lost (data sheet, interrupt mask bit). */
void sk_ioapic_set_pin(sk_irqchip *chip, unsigned pin, bool level)
{
    struct sk_ioapic *ioapic = &chip->ioapic;
    uint32_t bit = 1u << pin, before = ioapic->lines;

    if (!level) {
        ioapic->lines &= ~bit;
        ioapic->delivered &= ~bit;
        return;
    }
    ioapic->lines |= bit;
    if (!(before & bit))
        service(chip, pin);
}

void sk_ioapic_eoi(sk_irqchip *chip, uint8_t vector)
{
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++) {
        uint64_t *entry = &chip->ioapic.entry[pin];

        if ((uint8_t)*entry != vector || !is_level(*entry) || !(*entry & REMOTE_IRR))
            continue;
        *entry &= ~REMOTE_IRR;
        chip->ended_ioapic_pins |= 1u << pin;
        service_if_asserted(chip, pin);
    }
}

void sk_ioapic_retry(sk_irqchip *chip)
{
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++)
        service_if_asserted(chip, pin);
}

static uint32_t read_register(const struct sk_ioapic *ioapic)
{
    unsigned half = ioapic->select - 0x10u;

    if (ioapic->select == 0 || ioapic->select == 2) /* id, arbitration id */
        return (uint32_t)ioapic->id << 24;
    if (ioapic->select == 1)
        return VERSION_VALUE;
    if (half >= 2 * SK_IOAPIC_PINS)
        return 0;
    return (uint32_t)(ioapic->entry[half / 2] >> half % 2 * 32);
}

/* An entry that becomes an edge forgets its remote IRR: that is how old kernels end a stuck level interrupt. */
static void write_entry(sk_irqchip *chip, unsigned pin, uint64_t value)
{
    uint64_t *entry = &chip->ioapic.entry[pin];

    *entry = (value & WRITABLE) | (*entry & REMOTE_IRR);
    if (!is_level(*entry))
        *entry &= ~REMOTE_IRR;
    service_if_asserted(chip, pin);
}

static void write_register(sk_irqchip *chip, uint32_t value)
{
    struct sk_ioapic *ioapic = &chip->ioapic;
    unsigned half = ioapic->select - 0x10u, shift = half % 2 * 32;

    if (ioapic->select == 0)
        ioapic->id = value >> 24 & 0xf;
    else if (half < 2 * SK_IOAPIC_PINS)
        write_entry(chip, half / 2, (ioapic->entry[half / 2] & ~(0xffffffffull << shift)) | (uint64_t)value << shift);
}

/* Only IOREGSEL (0x00) and IOWIN (0x10) exist; the EOI register (0x40) came with version 0x20. */
uint64_t sk_ioapic_read(const struct sk_ioapic *ioapic, unsigned offset)
{
    if (offset == 0x00)
        return ioapic->select;
    return offset == 0x10 ? read_register(ioapic) : 0;
}

void sk_ioapic_write(sk_irqchip *chip, unsigned offset, uint64_t value)
{
    if (offset == 0x00)
        chip->ioapic.select = (uint8_t)value;
    else if (offset == 0x10)
        write_register(chip, (uint32_t)value);
}

/* `irr` carries the asserted pins but for the edges already delivered: these must not come again after a restore. */
void sk_ioapic_save(const struct sk_ioapic *ioapic, struct kvm_ioapic_state *state)
{
    memset(state, 0, sizeof *state);
    state->base_address = 0xfec00000;
    state->ioregsel = ioapic->select;
    state->id = ioapic->id;
    state->irr = ioapic->lines & ~ioapic->delivered;
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++)
        state->redirtbl[pin].bits = ioapic->entry[pin];
}

void sk_ioapic_restore(sk_irqchip *chip, const struct kvm_ioapic_state *state)
{
    struct sk_ioapic *ioapic = &chip->ioapic;

    ioapic->select = (uint8_t)state->ioregsel;
    ioapic->id = state->id & 0xf;
    ioapic->lines = ioapic->delivered = 0;
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++) {
        ioapic->entry[pin] = state->redirtbl[pin].bits & (WRITABLE | REMOTE_IRR);
        if (!is_level(ioapic->entry[pin]))
            ioapic->entry[pin] &= ~REMOTE_IRR;
    }
    for (unsigned pin = 0; pin < SK_IOAPIC_PINS; pin++)
        if (state->irr >> pin & 1)
            sk_ioapic_set_pin(chip, pin, true);
}
