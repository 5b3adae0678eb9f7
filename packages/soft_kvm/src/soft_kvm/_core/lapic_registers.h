/*
 * The local APIC's register numbers and LVT bits, for lapic.c and lapic_timer.c, and what these two owe each other.
 */
#ifndef SOFT_KVM_LAPIC_REGISTERS_H
#define SOFT_KVM_LAPIC_REGISTERS_H

#include "irqchip_internal.h"

enum register_slot { /* offset >> 4, SDM vol. 3 table 11-1 */
    ID = 0x02,
    VERSION = 0x03,
    TPR = 0x08,
    PPR = 0x0a,
    EOI = 0x0b,
    LDR = 0x0d,
    DFR = 0x0e,
    SVR = 0x0f,
    ISR = 0x10,
    TMR = 0x18,
    IRR = 0x20,
    ESR = 0x28,
    ICR_LOW = 0x30,
    ICR_HIGH = 0x31,
    LVT_TIMER = 0x32,
    LVT_THERMAL = 0x33,
    LVT_PERFORMANCE = 0x34,
    LVT_LINT0 = 0x35,
    LVT_LINT1 = 0x36,
    LVT_ERROR = 0x37,
    INITIAL_COUNT = 0x38,
    CURRENT_COUNT = 0x39,
    DIVIDE = 0x3e,
};

#define LVT_MASKED 0x10000u
#define LVT_PERIODIC 0x20000u

/* Sends what an LVT entry asks for to its own CPU, unless the entry is masked. */
void sk_lapic_deliver_local(struct sk_lapic *lapic, uint32_t lvt);

uint32_t sk_lapic_current_count(const struct sk_lapic *lapic, uint64_t now);
void sk_lapic_write_initial_count(struct sk_lapic *lapic, uint32_t count, uint64_t now);
void sk_lapic_write_divide(struct sk_lapic *lapic, uint32_t value, uint64_t now);

/* After a restore of the timer's registers: goes on with `left` counts to run. */
void sk_lapic_resume_timer(struct sk_lapic *lapic, uint32_t left, uint64_t now);

#endif
