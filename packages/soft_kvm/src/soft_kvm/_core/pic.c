/*
 * The PC's two cascaded 8259A interrupt controllers and the edge/level registers (data sheet 231468; ELCR: 82371AB).
 *
 * May assume: the caller holds the interrupt lock; `irq` < 16; `port` is one of 20, 21, a0, a1, 4d0, 4d1.
 * Checks: every byte that the guest or a restored record brings.  State is KVM's own record, `struct kvm_pic_state`,
 * in which `irr` holds the edge latches and the level pins' levels, and `last_irr` the level of every pin.
 *
 * Deviations: an edge stays latched when its pin falls before the acknowledge (as KVM; the chip would report a
 * spurious interrupt), so interrupts sent as short pulses are not lost.  This holds for the cascade too: a slave that
 * withdraws its request leaves the master's, which is then acknowledged as the slave's spurious IRQ 15.  The pair is
 * always cascaded and in 8086 mode (ICW1 SNGL and LTIM, ICW3, ICW4 uPM and buffering have no effect).
 */
#include "irqchip_internal.h"

#include <string.h>

#define CASCADE 2
#define SPURIOUS 7

static const uint8_t elcr_masks[2] = {0xf8, 0xde}; /* timer, keyboard, cascade, RTC and FPU are always edges */

void sk_pic_reset(struct sk_pic *pic)
{
    memset(pic, 0, sizeof *pic);
    for (unsigned unit = 0; unit < 2; unit++)
        pic->unit[unit].elcr_mask = elcr_masks[unit];
}

/*
 * The request that the unit puts to its output, or -1: the first in priority order, unless a service in progress
 * comes no later.  Special mask mode looks past masked services, special fully nested mode past the slave's.
 */
static int requested(const struct sk_pic *pic, unsigned unit)
{
    const struct kvm_pic_state *state = &pic->unit[unit];
    uint8_t wanted = state->irr & (uint8_t)~state->imr;
    uint8_t in_service = state->isr;

    if (state->special_mask)
        in_service &= (uint8_t)~state->imr;
    if (state->special_fully_nested_mode && unit == 0)
        in_service &= (uint8_t)~(1u << CASCADE);
    for (unsigned i = 0; i < 8; i++) {
        unsigned irq = (state->priority_add + i) & 7;

        if (in_service >> irq & 1)
            return -1;
        if (wanted >> irq & 1)
            return (int)irq;
    }
    return -1;
}

/* The slave's output drives the master's pin 2; called after what may have raised it (initialisation does not). */
static void cascade(struct sk_pic *pic)
{
    if (requested(pic, 1) >= 0)
        pic->unit[0].irr |= 1u << CASCADE;
}

bool sk_pic_output(const struct sk_pic *pic)
{
    return requested(pic, 0) >= 0;
}

void sk_pic_set_pin(struct sk_pic *pic, unsigned irq, bool level)
{
    struct kvm_pic_state *state = &pic->unit[irq >> 3];
    uint8_t bit = (uint8_t)(1u << (irq & 7));
    bool rising = level && !(state->last_irr & bit);

    if (irq == CASCADE)
        return;
    if (rising)
        state->irr |= bit;
    if (!level && state->elcr & bit)
        state->irr &= (uint8_t)~bit;
    state->last_irr = (uint8_t)(level ? state->last_irr | bit : state->last_irr & ~bit);
    cascade(pic);
}

static void end_service(struct sk_pic *pic, unsigned unit, unsigned irq)
{
    pic->unit[unit].isr &= (uint8_t)~(1u << irq);
    pic->ended |= 1u << (unit * 8 + irq);
}

/* INTA: the request goes into service, an edge latch is used up. */
static void enter_service(struct sk_pic *pic, unsigned unit, unsigned irq)
{
    struct kvm_pic_state *state = &pic->unit[unit];
    uint8_t bit = (uint8_t)(1u << irq);

    state->irr &= (uint8_t)(state->elcr & bit ? 0xff : ~bit);
    state->isr |= bit;
    if (!state->auto_eoi)
        return;
    end_service(pic, unit, irq);
    if (state->rotate_on_auto_eoi)
        state->priority_add = (irq + 1) & 7;
}

/* One unit's part of INTA: its vector.  A request that has gone away reads as IRQ 7, which is not in service then. */
static uint8_t acknowledge(struct sk_pic *pic, unsigned unit, int irq)
{
    if (irq >= 0)
        enter_service(pic, unit, (unsigned)irq);
    return (uint8_t)(pic->unit[unit].irq_base + (irq < 0 ? SPURIOUS : irq));
}

uint8_t sk_pic_acknowledge(struct sk_pic *pic)
{
    int irq = requested(pic, 0);
    uint8_t vector = acknowledge(pic, 0, irq);

    if (irq == CASCADE)
        vector = acknowledge(pic, 1, requested(pic, 1));
    cascade(pic);
    return vector;
}

/* ------------------------------------------------------------------------------------------- command words */

static void initialise(struct kvm_pic_state *state, uint8_t icw1)
{
    state->last_irr = 0; /* the edge sense is reset: as in KVM, a pin that is raised again is an edge */
    state->irr &= state->elcr;
    state->imr = 0; /* services go on: the data sheet does not list them */
    state->priority_add = 0;
    state->special_mask = state->read_reg_select = state->poll = 0;
    state->init4 = icw1 & 1;
    if (!state->init4)
        state->auto_eoi = state->special_fully_nested_mode = 0;
    state->init_state = 1;
}

/* The service that a non-specific EOI ends: the highest, which in special mask mode is not a masked one.  -1: none. */
static int highest_service(const struct kvm_pic_state *state)
{
    uint8_t in_service = state->isr & (uint8_t)(state->special_mask ? ~state->imr : 0xff);

    for (unsigned i = 0; i < 8; i++)
        if (in_service >> ((state->priority_add + i) & 7) & 1)
            return (state->priority_add + i) & 7;
    return -1;
}

/* OCW2: bits 7-5 are rotate, specific, EOI. */
static void write_ocw2(struct sk_pic *pic, unsigned unit, uint8_t value)
{
    struct kvm_pic_state *state = &pic->unit[unit];
    bool rotate = value & 0x80, specific = value & 0x40, end = value & 0x20;
    int irq = specific ? value & 7 : highest_service(state);

    if (!specific && !end) {
        state->rotate_on_auto_eoi = rotate;
        return;
    }
    if (irq < 0 || !(end || rotate))
        return;
    if (end && state->isr >> irq & 1)
        end_service(pic, unit, (unsigned)irq);
    if (rotate)
        state->priority_add = (irq + 1) & 7;
    cascade(pic);
}

static void write_ocw3(struct kvm_pic_state *state, uint8_t value)
{
    state->poll = value >> 2 & 1;
    if (value & 0x02)
        state->read_reg_select = value & 1;
    if (value & 0x40)
        state->special_mask = value >> 5 & 1;
}

static void write_command(struct sk_pic *pic, unsigned unit, uint8_t value)
{
    if (value & 0x10)
        initialise(&pic->unit[unit], value);
    else if (value & 0x08)
        write_ocw3(&pic->unit[unit], value);
    else
        write_ocw2(pic, unit, value);
}

static void write_data(struct sk_pic *pic, unsigned unit, uint8_t value)
{
    struct kvm_pic_state *state = &pic->unit[unit];

    switch (state->init_state) {
    case 1:
        state->irq_base = value & 0xf8;
        state->init_state = 2;
        return;
    case 2: /* ICW3: the wiring is what it is */
        state->init_state = state->init4 ? 3 : 0;
        return;
    case 3:
        state->special_fully_nested_mode = value >> 4 & 1;
        state->auto_eoi = value >> 1 & 1;
        state->init_state = 0;
        return;
    default:
        state->imr = value;
        cascade(pic);
    }
}

/* A pin's latch does not outlive a change of its kind. */
static void write_elcr(struct sk_pic *pic, unsigned unit, uint8_t value)
{
    struct kvm_pic_state *state = &pic->unit[unit];
    uint8_t old = state->elcr;

    state->elcr = value & state->elcr_mask;
    state->irr = (uint8_t)((state->irr & ~(old | state->elcr)) | (state->last_irr & state->elcr));
    cascade(pic);
}

/* Polling is an acknowledge by register read. */
static uint8_t poll(struct sk_pic *pic, unsigned unit)
{
    int irq = requested(pic, unit);

    pic->unit[unit].poll = 0;
    if (irq < 0)
        return 0;
    enter_service(pic, unit, (unsigned)irq);
    cascade(pic);
    return (uint8_t)(0x80 | irq);
}

uint8_t sk_pic_read(struct sk_pic *pic, uint16_t port)
{
    unsigned unit = port >= 0x4d0 ? port & 1 : port >> 7 & 1;
    const struct kvm_pic_state *state = &pic->unit[unit];

    if (port >= 0x4d0)
        return state->elcr;
    if (state->poll)
        return poll(pic, unit);
    if (port & 1)
        return state->imr;
    return state->read_reg_select ? state->isr : state->irr;
}

void sk_pic_write(struct sk_pic *pic, uint16_t port, uint8_t value)
{
    unsigned unit = port >= 0x4d0 ? port & 1 : port >> 7 & 1;

    if (port >= 0x4d0)
        write_elcr(pic, unit, value);
    else if (port & 1)
        write_data(pic, unit, value);
    else
        write_command(pic, unit, value);
}

void sk_pic_save(const struct sk_pic *pic, unsigned unit, struct kvm_pic_state *state)
{
    *state = pic->unit[unit];
}

void sk_pic_restore(struct sk_pic *pic, unsigned unit, const struct kvm_pic_state *state)
{
    struct kvm_pic_state *own = &pic->unit[unit];

    *own = *state;
    own->priority_add &= 7;
    own->irq_base &= 0xf8;
    own->init_state &= 3;
    own->elcr_mask = elcr_masks[unit];
    own->elcr &= own->elcr_mask;
    cascade(pic);
}
