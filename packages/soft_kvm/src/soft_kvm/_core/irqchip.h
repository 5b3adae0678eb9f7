/*
 * The PC's interrupt controllers and interval timer, as KVM's in-kernel irqchip models them:
 * two 8259A PICs, one IOAPIC with 24 pins, a local APIC per vCPU, an 8254 PIT.
 *
 * This part knows nothing of the engine.  It keeps state, is told the time (`now`, nanoseconds of
 * CLOCK_MONOTONIC) and answers questions; it never sleeps, allocates after creation, or calls back.
 * The caller serialises all calls on one chip (the VM's interrupt lock).
 */
#ifndef SOFT_KVM_IRQCHIP_H
#define SOFT_KVM_IRQCHIP_H

#include <linux/kvm.h>
#include <stdbool.h>
#include <stdint.h>

#define SK_MAX_VCPUS 16
#define SK_IOAPIC_PINS 24
#define SK_NO_DEADLINE UINT64_MAX

typedef struct sk_irqchip sk_irqchip;

/* What a local APIC has been told besides ordinary vectors. */
enum sk_cpu_event { SK_EVENT_INIT = 1, SK_EVENT_SIPI = 2, SK_EVENT_NMI = 4 };

sk_irqchip *sk_irqchip_new(void); /* NULL when memory is short */
void sk_irqchip_free(sk_irqchip *chip);
void sk_irqchip_add_cpu(sk_irqchip *chip, unsigned cpu); /* cpu < SK_MAX_VCPUS; its APIC id is `cpu` */
void sk_irqchip_add_pit(sk_irqchip *chip, uint64_t now);

/* Inputs.  KVM's default routing: GSIs 0-15 drive the PIC pin and the IOAPIC pin of that number, 16-23 the IOAPIC. */
void sk_irqchip_set_gsi(sk_irqchip *chip, unsigned gsi, bool level);
int sk_irqchip_send_msi(sk_irqchip *chip, uint64_t address, uint32_t data); /* number of vCPUs reached */

/* Outputs towards one vCPU. */
bool sk_irqchip_has_interrupt(const sk_irqchip *chip, unsigned cpu);
int sk_irqchip_acknowledge(sk_irqchip *chip, unsigned cpu); /* the vector, now in service; -1 when there is none after all */
unsigned sk_irqchip_take_events(sk_irqchip *chip, unsigned cpu, uint8_t *sipi_vector); /* sk_cpu_event bits, cleared */

/* Time: LAPIC timers (1 GHz bus clock, as KVM) and the PIT (1,193,182 Hz). */
uint64_t sk_irqchip_deadline(const sk_irqchip *chip); /* next expiry, SK_NO_DEADLINE when none is armed */
void sk_irqchip_expire(sk_irqchip *chip, uint64_t now);

/* Register accesses.  They return false when the address is not theirs.  Any size 1, 2, 4 or 8 at any offset is answered. */
bool sk_irqchip_mmio_read(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t *value, uint64_t now);
bool sk_irqchip_mmio_write(sk_irqchip *chip, unsigned cpu, uint64_t address, unsigned size, uint64_t value, uint64_t now);
bool sk_irqchip_pio_read(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t *value, uint64_t now);
bool sk_irqchip_pio_write(sk_irqchip *chip, uint16_t port, unsigned size, uint32_t value, uint64_t now);

/* State in the KVM API's own records; 0 or a negative errno. */
int sk_irqchip_get_lapic(const sk_irqchip *chip, unsigned cpu, struct kvm_lapic_state *state, uint64_t now);
int sk_irqchip_set_lapic(sk_irqchip *chip, unsigned cpu, const struct kvm_lapic_state *state, uint64_t now);
int sk_irqchip_get(const sk_irqchip *chip, struct kvm_irqchip *state);
int sk_irqchip_set(sk_irqchip *chip, const struct kvm_irqchip *state);
int sk_irqchip_get_pit(const sk_irqchip *chip, struct kvm_pit_state2 *state, uint64_t now);
int sk_irqchip_set_pit(sk_irqchip *chip, const struct kvm_pit_state2 *state, uint64_t now);

#endif
