/*
 * What the interrupt controllers share among themselves and nobody else sees.
 *
 * Each controller is one C file over its own struct.  They meet in two ways only: a controller that wants a vCPU's
 * attention sends a `struct sk_message` through sk_bus_deliver() (the APIC bus), and the PIT and the outside drive
 * pins through sk_irqchip_set_gsi().  Nothing here allocates, sleeps or calls out of this directory.
 *
 * Assumed everywhere: the caller holds the VM's interrupt lock, `chip` is valid, `cpu` < SK_MAX_VCPUS (checked by
 * irqchip.c at the seam).  Never assumed: any value that a guest wrote.
 */
#ifndef SOFT_KVM_IRQCHIP_INTERNAL_H
#define SOFT_KVM_IRQCHIP_INTERNAL_H

#include "irqchip.h"
#include "irqchip_pins.h"

/* Delivery modes, the same code in the ICR, the LVT, redirection entries and MSI data (SDM vol. 3 fig. 11-8, 11-12, 11-14). */
enum sk_delivery_mode {
    SK_MODE_FIXED = 0,
    SK_MODE_LOWEST_PRIORITY = 1,
    SK_MODE_SMI = 2,
    SK_MODE_NMI = 4,
    SK_MODE_INIT = 5,
    SK_MODE_SIPI = 6,
    SK_MODE_EXTINT = 7,
};

/* Destination shorthands of the ICR (SDM vol. 3 §11.6.1). */
enum sk_shorthand { SK_TO_DESTINATION = 0, SK_TO_SELF = 1, SK_TO_ALL = 2, SK_TO_OTHERS = 3 };

/* One interrupt message on the APIC bus. */
struct sk_message {
    uint8_t vector;
    uint8_t mode;        /* enum sk_delivery_mode, any 3-bit value */
    uint8_t destination; /* APIC id or logical destination */
    bool logical;
    bool level; /* level-triggered: its EOI is broadcast to the IOAPIC */
};

/* ------------------------------------------------------------------------------------------------ local APIC */

#define SK_LAPIC_SLOTS 64 /* registers stand 16 bytes apart in the first KiB of the page */

struct sk_lapic {
    bool present;
    bool enabled; /* IA32_APIC_BASE bit 11 */
    bool bootstrap;
    bool error_armed;        /* the next error raises the LVT error interrupt */
    uint8_t sipi_vector;
    unsigned events;         /* enum sk_cpu_event bits not yet taken */
    uint32_t errors;         /* detected since the guest's last ESR write */
    uint64_t timer_deadline; /* ns, SK_NO_DEADLINE when stopped */
    uint32_t slot[SK_LAPIC_SLOTS];
};

void sk_lapic_add(struct sk_lapic *lapic, unsigned cpu);
bool sk_lapic_software_enabled(const struct sk_lapic *lapic);
uint8_t sk_lapic_processor_priority(const struct sk_lapic *lapic);
bool sk_lapic_matches(const struct sk_lapic *lapic, uint8_t destination, bool logical);
bool sk_lapic_accept(struct sk_lapic *lapic, const struct sk_message *message); /* false: nothing was taken */
bool sk_lapic_accepts_pic(const struct sk_lapic *lapic);
void sk_lapic_pulse_lint0(struct sk_lapic *lapic);
int sk_lapic_pending(const struct sk_lapic *lapic); /* the vector that would be dispatched now, or -1 */
int sk_lapic_acknowledge(struct sk_lapic *lapic);   /* the same, moved from IRR to ISR */
uint64_t sk_lapic_deadline(const struct sk_lapic *lapic);
void sk_lapic_expire(struct sk_lapic *lapic, uint64_t now);
uint64_t sk_lapic_read(struct sk_lapic *lapic, unsigned offset, unsigned size, uint64_t now);
void sk_lapic_write(sk_irqchip *chip, unsigned cpu, unsigned offset, unsigned size, uint64_t value, uint64_t now);
void sk_lapic_save(const struct sk_lapic *lapic, struct kvm_lapic_state *state, uint64_t now);
void sk_lapic_restore(struct sk_lapic *lapic, const struct kvm_lapic_state *state, uint64_t now);

/* ---------------------------------------------------------------------------------------------------- IOAPIC */

struct sk_ioapic {
    uint8_t select; /* IOREGSEL */
    uint8_t id;
    uint32_t lines;     /* level of each pin */
    uint32_t delivered; /* asserted edge pins whose interrupt was sent */
    uint64_t entry[SK_IOAPIC_PINS];
};

void sk_ioapic_reset(struct sk_ioapic *ioapic);
void sk_ioapic_set_pin(sk_irqchip *chip, unsigned pin, bool level);
void sk_ioapic_eoi(sk_irqchip *chip, uint8_t vector);
void sk_ioapic_retry(sk_irqchip *chip); /* offer again what no local APIC had accepted */
uint64_t sk_ioapic_read(const struct sk_ioapic *ioapic, unsigned offset);
void sk_ioapic_write(sk_irqchip *chip, unsigned offset, uint64_t value);
void sk_ioapic_save(const struct sk_ioapic *ioapic, struct kvm_ioapic_state *state);
void sk_ioapic_restore(sk_irqchip *chip, const struct kvm_ioapic_state *state);

/* ------------------------------------------------------------------------------------------------------- PIC */

struct sk_pic {
    struct kvm_pic_state unit[2]; /* master, slave; irr of an edge pin is the latch, last_irr the level of each pin */
    uint32_t ended;               /* IRQs whose service ended since the last sk_pic_take_ended() */
};

void sk_pic_reset(struct sk_pic *pic);
void sk_pic_set_pin(struct sk_pic *pic, unsigned irq, bool level); /* irq < 16 */
bool sk_pic_output(const struct sk_pic *pic);
uint8_t sk_pic_acknowledge(struct sk_pic *pic); /* total: a spurious IRQ 7 when nothing is pending */
uint8_t sk_pic_read(struct sk_pic *pic, uint16_t port);
void sk_pic_write(struct sk_pic *pic, uint16_t port, uint8_t value);
void sk_pic_restore(struct sk_pic *pic, unsigned unit, const struct kvm_pic_state *state);
void sk_pic_save(const struct sk_pic *pic, unsigned unit, struct kvm_pic_state *state);

/* ------------------------------------------------------------------------------------------------------- PIT */

struct sk_pit_channel {
    struct kvm_pit_channel_state state;
    bool loaded;      /* a count was written since the control word */
    bool running;     /* the count advances: not held by the gate, and triggered if the mode wants that */
    uint64_t elapsed; /* ticks counted up to `since` */
    uint64_t since;   /* ns; meaningful while running */
};

struct sk_pit {
    bool present;
    bool speaker;
    uint64_t deadline; /* of channel 0's next rising OUT edge, ns */
    struct sk_pit_channel channel[3];
};

void sk_pit_reset(struct sk_pit *pit, uint64_t now);
bool sk_pit_expire(struct sk_pit *pit, uint64_t now); /* true: channel 0 ticked at least once since the last call */
uint8_t sk_pit_read(struct sk_pit *pit, uint16_t port, uint64_t now);
void sk_pit_write(struct sk_pit *pit, uint16_t port, uint8_t value, uint64_t now);
void sk_pit_save(const struct sk_pit *pit, struct kvm_pit_state2 *state, uint64_t now);
void sk_pit_restore(struct sk_pit *pit, const struct kvm_pit_state2 *state, uint64_t now);

/* ----------------------------------------------------------------------------------------------- composition */

struct sk_irqchip {
    struct sk_lapic lapic[SK_MAX_VCPUS];
    struct sk_ioapic ioapic;
    struct sk_pic pic;
    struct sk_pit pit;
    unsigned last_lowest; /* the vCPU that took the last lowest-priority message: ties rotate from here */
    bool pic_output;      /* as last seen, to notice the rising edge that LINT0 sees */
    uint32_t ended_ioapic_pins;
};

/* Sends one message; `source` matters to shorthands only.  Returns how many local APICs took it. */
unsigned sk_bus_deliver(sk_irqchip *chip, const struct sk_message *message, enum sk_shorthand shorthand, unsigned source);

/* A deadline that would lie beyond the end of time stays just before it. */
static inline uint64_t sk_after(uint64_t now, uint64_t delay)
{
    return delay < SK_NO_DEADLINE - now ? now + delay : SK_NO_DEADLINE - 1;
}

#endif
