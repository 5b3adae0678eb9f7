/*
 * Drives the interrupt controllers with random calls and checks what must hold after each; meant to be compiled with
 * -fsanitize=address,undefined.  Usage: fuzz_irqchip SEED CALLS.  Prints one line and exits 1 when an invariant breaks.
 */
#include "irqchip_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CPUS 3

static uint64_t state;

static uint64_t random_word(void) /* xorshift64* */
{
    state ^= state >> 12;
    state ^= state << 25;
    state ^= state >> 27;
    return state * 0x2545f4914f6cdd1dull;
}

static unsigned below(unsigned limit)
{
    return (unsigned)(random_word() >> 33) % limit;
}

/* Mostly small or round numbers: those select things. */
static uint64_t value(void)
{
    switch (below(5)) {
    case 0:
        return below(0x200);
    case 1:
        return 1ull << below(64);
    case 2:
        return (uint64_t)below(256) << 24;
    case 3:
        return (below(0x300) & 0xfff) | (uint64_t)below(4) << 14;
    default:
        return random_word();
    }
}

static uint64_t mmio_address(void)
{
    static const uint64_t bases[] = {0xfee00000, 0xfec00000};
    uint64_t base = bases[below(2)];

    switch (below(6)) {
    case 0:
        return base + below(0x1100) - 0x40;
    case 1:
        return value();
    default:
        return base + (below(0x41) << 4);
    }
}

static uint16_t port(void)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x40, 0x41, 0x42, 0x43, 0x61, 0x4d0, 0x4d1};

    return below(20) ? ports[below(11)] : (uint16_t)random_word();
}

static unsigned size(void)
{
    return below(3) ? 4u : 1u << below(4);
}

static void random_bytes(void *to, size_t length)
{
    uint8_t *bytes = to;

    for (size_t i = 0; i < length; i++)
        bytes[i] = below(3) ? 0 : (uint8_t)random_word();
}

static void restore_something(sk_irqchip *chip, uint64_t now)
{
    struct kvm_lapic_state lapic;
    struct kvm_irqchip irqchip;
    struct kvm_pit_state2 pit;
    bool own = below(4); /* else a record that a hostile VMM made up */

    sk_irqchip_get_lapic(chip, 0, &lapic, now);
    memset(&irqchip, 0, sizeof irqchip);
    irqchip.chip_id = below(5);
    sk_irqchip_get(chip, &irqchip);
    sk_irqchip_get_pit(chip, &pit, now);
    if (!own) {
        random_bytes(&lapic, sizeof lapic);
        random_bytes(&irqchip.chip, sizeof irqchip.chip);
        random_bytes(&pit, sizeof pit);
    }
    switch (below(3)) {
    case 0:
        sk_irqchip_set_lapic(chip, below(CPUS + 1), &lapic, now);
        break;
    case 1:
        sk_irqchip_set(chip, &irqchip);
        break;
    default:
        sk_irqchip_set_pit(chip, &pit, now);
    }
}

static uint64_t step(uint64_t now)
{
    switch (below(8)) {
    case 0:
        return below(50) ? now + below(1u << 30) : now + (random_word() >> below(40));
    case 1:
        return below(50) ? now : now - below(1000); /* a clock that runs back must do no harm either */
    default:
        return now + below(100000);
    }
}

static void call(sk_irqchip *chip, uint64_t now)
{
    uint64_t wide;
    uint32_t narrow;
    uint8_t sipi;

    switch (below(16)) {
    case 0:
    case 1:
    case 2:
        sk_irqchip_set_gsi(chip, below(26), below(2));
        break;
    case 3:
        sk_irqchip_send_msi(chip, 0xfee00000 | (value() & 0xff00c), (uint32_t)value());
        break;
    case 4:
    case 5:
    case 6:
        sk_irqchip_mmio_write(chip, below(CPUS + 1), mmio_address(), size(), value(), now);
        break;
    case 7:
        sk_irqchip_mmio_read(chip, below(CPUS), mmio_address(), size(), &wide, now);
        break;
    case 8:
    case 9:
    case 10:
        sk_irqchip_pio_write(chip, port(), size(), (uint32_t)value(), now);
        break;
    case 11:
        sk_irqchip_pio_read(chip, port(), size(), &narrow, now);
        break;
    case 12:
        sk_irqchip_take_events(chip, below(20), &sipi);
        sk_irqchip_take_ended(chip, below(4));
        break;
    case 13:
        sk_irqchip_set_pin(chip, below(4), below(30), below(2));
        break;
    case 14:
        if (!below(100))
            restore_something(chip, now);
        if (!below(100))
            sk_irqchip_set_apic_enabled(chip, below(CPUS + 1), below(4));
        break;
    default: /* software-enable an APIC or open an IOAPIC entry, so that interrupts flow */
        if (below(2))
            sk_irqchip_mmio_write(chip, below(CPUS), 0xfee000f0, 4, 0x1ff, now);
        sk_irqchip_mmio_write(chip, 0, 0xfec00000, 4, 0x10 + 2 * below(24), now);
        sk_irqchip_mmio_write(chip, 0, 0xfec00010, 4, (0x10 + below(0xf0)) | (uint64_t)below(2) << 15, now);
    }
}

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            printf("broken: %s\n", #condition); \
            return false; \
        } \
    } while (0)

static bool holds(sk_irqchip *chip, unsigned cpu)
{
    struct sk_lapic *lapic = &chip->lapic[cpu];
    bool has = sk_irqchip_has_interrupt(chip, cpu);
    uint8_t before = sk_lapic_processor_priority(lapic);
    bool extint = sk_lapic_accepts_pic(lapic) && sk_pic_output(&chip->pic);
    int vector;

    if (below(3))
        return true;
    vector = sk_irqchip_acknowledge(chip, cpu);
    CHECK(has == (vector >= 0));
    CHECK(vector < 256);
    if (has && !extint) {
        CHECK(vector >= 16 && (vector & 0xf0) > (before & 0xf0));
        CHECK((vector & 0xf0) == (sk_lapic_processor_priority(lapic) & 0xf0));
    }
    return true;
}

static bool run(sk_irqchip *chip, unsigned long calls)
{
    uint64_t now = 1000000;

    for (unsigned long i = 0; i < calls; i++) {
        now = step(now);
        if (!below(100000))
            now = below(1000000); /* a new life: hostile records and clocks must not be sticky */
        call(chip, now);
        if (below(2)) {
            sk_irqchip_expire(chip, now);
            CHECK(sk_irqchip_deadline(chip) > now || now >= SK_NO_DEADLINE - 1);
        }
        for (unsigned cpu = 0; cpu < CPUS; cpu++)
            if (!holds(chip, cpu))
                return false;
    }
    return true;
}

/* What irqchip.c never lets happen, because it acknowledges only what is pending: an INTA too late. */
static bool spurious_is_irq7_out_of_service(void)
{
    struct sk_pic pic;

    sk_pic_reset(&pic);
    pic.unit[0].irq_base = 0x20;
    CHECK(sk_pic_acknowledge(&pic) == 0x27);
    CHECK(pic.unit[0].isr == 0);
    return true;
}

int main(int argc, char **argv)
{
    sk_irqchip *chip = sk_irqchip_new();
    bool good;

    if (!chip || argc != 3)
        return 2;
    state = strtoull(argv[1], NULL, 0) * 2 + 1;
    for (unsigned cpu = 0; cpu < CPUS; cpu++)
        sk_irqchip_add_cpu(chip, cpu);
    sk_irqchip_add_pit(chip, 0);
    good = spurious_is_irq7_out_of_service() && run(chip, strtoul(argv[2], NULL, 0));
    sk_irqchip_free(chip);
    return good ? 0 : 1;
}
