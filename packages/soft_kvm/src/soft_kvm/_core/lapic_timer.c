/*
 * The local APIC's timer (Intel SDM vol. 3 §11.5.4): one-shot and periodic, at 1 GHz as in KVM, so that a count is a
 * nanosecond times the divider.
 *
 * May assume: the caller holds the interrupt lock; lapic.c has reduced the registers to their defined bits.  State is
 * one deadline; counts are computed when read.  `now` may jump either way: nothing here waits, loops or overflows.
 *
 * Not here: TSC-deadline mode (timer mode bit 18 is reserved, as without its CPUID bit).  As in KVM, periods below
 * 200 us last 200 us and the periods missed in a pause are one interrupt.
 */
#include "lapic_registers.h"

#define MINIMUM_PERIOD 200000u /* ns */

static uint64_t divider(const struct sk_lapic *lapic)
{
    uint32_t code = (lapic->slot[DIVIDE] & 3) | (lapic->slot[DIVIDE] & 8) >> 1; /* SDM vol. 3 fig. 11-10 */

    return code == 7 ? 1 : 2ull << code;
}

static uint64_t period(const struct sk_lapic *lapic)
{
    uint64_t wanted = lapic->slot[INITIAL_COUNT] * divider(lapic);

    return wanted < MINIMUM_PERIOD && lapic->slot[LVT_TIMER] & LVT_PERIODIC ? MINIMUM_PERIOD : wanted;
}

uint32_t sk_lapic_current_count(const struct sk_lapic *lapic, uint64_t now)
{
    uint64_t deadline = lapic->timer_deadline, left;

    if (deadline == SK_NO_DEADLINE)
        return 0;
    if (deadline > now)
        left = deadline - now;
    else if (lapic->slot[LVT_TIMER] & LVT_PERIODIC && period(lapic))
        left = period(lapic) - (now - deadline) % period(lapic);
    else
        return 0;
    left = left / divider(lapic) + (left % divider(lapic) != 0); /* 0 is read only of an expired timer */
    return left < lapic->slot[INITIAL_COUNT] ? (uint32_t)left : lapic->slot[INITIAL_COUNT];
}

/* A masked timer interrupts nobody, so nobody need wake up for it. */
uint64_t sk_lapic_deadline(const struct sk_lapic *lapic)
{
    return lapic->slot[LVT_TIMER] & LVT_MASKED ? SK_NO_DEADLINE : lapic->timer_deadline;
}

void sk_lapic_expire(struct sk_lapic *lapic, uint64_t now)
{
    uint64_t deadline = lapic->timer_deadline;

    if (deadline == SK_NO_DEADLINE || deadline > now)
        return;
    if (lapic->slot[LVT_TIMER] & LVT_PERIODIC && period(lapic))
        lapic->timer_deadline = sk_after(now - (now - deadline) % period(lapic), period(lapic));
    else
        lapic->timer_deadline = SK_NO_DEADLINE;
    sk_lapic_deliver_local(lapic, lapic->slot[LVT_TIMER]);
}

void sk_lapic_write_initial_count(struct sk_lapic *lapic, uint32_t count, uint64_t now)
{
    lapic->slot[INITIAL_COUNT] = count;
    lapic->timer_deadline = count ? sk_after(now, period(lapic)) : SK_NO_DEADLINE;
}

/* The count goes on from where it is, at the new rate. */
void sk_lapic_write_divide(struct sk_lapic *lapic, uint32_t value, uint64_t now)
{
    uint64_t count = sk_lapic_current_count(lapic, now);

    lapic->slot[DIVIDE] = value & 0xb;
    if (lapic->timer_deadline != SK_NO_DEADLINE)
        lapic->timer_deadline = sk_after(now, count * divider(lapic));
}

void sk_lapic_resume_timer(struct sk_lapic *lapic, uint32_t left, uint64_t now)
{
    if (left > lapic->slot[INITIAL_COUNT])
        left = lapic->slot[INITIAL_COUNT];
    if (left)
        lapic->timer_deadline = sk_after(now, left * divider(lapic));
    else if (lapic->slot[INITIAL_COUNT] && lapic->slot[LVT_TIMER] & LVT_PERIODIC)
        lapic->timer_deadline = sk_after(now, period(lapic));
}
