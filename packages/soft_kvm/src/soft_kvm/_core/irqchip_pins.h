/*
 * What a whole KVM API needs of the interrupt controllers beyond irqchip.h: single pins (KVM_SET_GSI_ROUTING),
 * ends of interrupt (resampling irqfds) and the enable bit of IA32_APIC_BASE.  Same rules as irqchip.h.
 */
#ifndef SOFT_KVM_IRQCHIP_PINS_H
#define SOFT_KVM_IRQCHIP_PINS_H

#include "irqchip.h"

/* Drives one pin, as a KVM_IRQ_ROUTING_IRQCHIP route names it: `irqchip` is KVM_IRQCHIP_PIC_MASTER, _PIC_SLAVE or _IOAPIC.  False: no such pin. */
bool sk_irqchip_set_pin(sk_irqchip *chip, unsigned irqchip, unsigned pin, bool level);

/* Pins of `irqchip` whose interrupt the guest has ended (EOI) since the last call, one bit each, cleared. */
uint32_t sk_irqchip_take_ended(sk_irqchip *chip, unsigned irqchip);

/* IA32_APIC_BASE bit 11.  Disabling resets the local APIC (SDM vol. 3 §11.4.7.1); the bootstrap CPU then takes the PIC's output directly. */
void sk_irqchip_set_apic_enabled(sk_irqchip *chip, unsigned cpu, bool enabled);

#endif
