/*
 * Exceptions, interrupts and SYSCALL, which the engine hands to us instead of delivering them.
 *
 * Written from the Intel SDM vol. 3 ch. 6 (6.12 delivery, 6.14 in 64-bit mode, 6.15 double faults,
 * 20.1.4 real mode).  Assumes a loaded image and leaves the result in it; the caller stores it.
 * Task gates and virtual-8086 mode are not delivered: they end as a triple fault would.
 */
#include "machine.h"

enum { DE = 0, DB = 1, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13, PF = 14, AC = 17, CP = 21 };
enum outcome { DELIVERED, FAULTED, IMPOSSIBLE };

struct delivery {
    struct sk_vcpu *v;
    struct sk_event event;
    uint8_t fault_vector; /* when FAULTED */
    uint32_t fault_error;
};

struct gate {
    uint64_t offset;
    uint16_t selector;
    uint8_t type, dpl, ist;
    bool present;
};

struct stack {
    struct sk_segment ss;
    uint64_t rsp;
    unsigned word; /* bytes a push */
    bool wide;     /* 32-bit stack pointer outside long mode */
};

bool sk_vector_has_error(unsigned vector)
{
    return vector == DF || (vector >= TS && vector <= PF) || vector == AC || vector == CP;
}

static bool is_contributory(unsigned vector) { return vector == DE || (vector >= TS && vector <= GP); }

static enum outcome fault(struct delivery *d, uint8_t vector, uint32_t error)
{
    d->fault_vector = vector;
    d->fault_error = error;
    return FAULTED;
}

/* Error codes about a selector or gate say whether the event came from outside the program. */
static uint32_t selector_error(const struct delivery *d, uint32_t selector)
{
    return (selector & 0xfffc) | (d->event.kind == SK_SOFTWARE_INTERRUPT ? 0 : 1);
}

static enum outcome page_fault(struct delivery *d, const struct sk_fault *f)
{
    image_set_u64(&d->v->image, d->v->image.at->cr + 16, f->address);
    return fault(d, PF, f->error);
}

static enum outcome read_gate(struct delivery *d, bool long_mode, struct gate *gate)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment idt = image_segment_at(m, m->at->idt);
    unsigned size = long_mode ? 16 : 8;
    uint32_t words[4] = {0}, gate_error = d->event.vector * 8u + 2 + (d->event.kind == SK_SOFTWARE_INTERRUPT ? 0 : 1);
    struct sk_fault f;

    if (d->event.vector * size + size - 1 > idt.limit)
        return fault(d, GP, gate_error);
    if (!sk_read_linear(d->v, idt.base + d->event.vector * size, words, size, &f))
        return page_fault(d, &f);
    gate->offset = (words[0] & 0xffff) | (words[1] & 0xffff0000) | (uint64_t)words[2] << 32;
    gate->selector = words[0] >> 16;
    gate->type = words[1] >> 8 & 0x1f;
    gate->dpl = words[1] >> 13 & 3;
    gate->present = words[1] >> 15 & 1;
    gate->ist = long_mode ? words[1] & 7 : 0;
    if (gate->type == 5 && !long_mode)
        return IMPOSSIBLE; /* task gate */
    if (!(gate->type == 14 || gate->type == 15 || (!long_mode && (gate->type == 6 || gate->type == 7))))
        return fault(d, GP, gate_error);
    if (d->event.kind == SK_SOFTWARE_INTERRUPT && gate->dpl < image_cpl(m))
        return fault(d, GP, gate_error);
    return gate->present ? DELIVERED : fault(d, NP, gate_error);
}

static enum outcome read_descriptor(struct delivery *d, uint16_t selector, uint8_t vector, struct sk_segment *segment)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment table = image_segment_at(m, selector & 4 ? m->at->ldt : m->at->gdt);
    uint32_t words[2];
    struct sk_fault f;

    if (!(selector & 0xfffc))
        return fault(d, vector, selector_error(d, 0));
    if ((selector | 7u) > table.limit)
        return fault(d, vector, selector_error(d, selector));
    if (!sk_read_linear(d->v, table.base + (selector & 0xfff8), words, sizeof words, &f))
        return page_fault(d, &f);
    segment->selector = selector;
    segment->pad = 0;
    segment->base = words[0] >> 16 | (words[1] & 0xff) << 16 | (words[1] & 0xff000000);
    segment->limit = (words[0] & 0xffff) | (words[1] & 0xf0000);
    if (words[1] & SK_DESC_G)
        segment->limit = segment->limit << 12 | 0xfff;
    segment->flags = words[1] & 0x00f0ff00;
    return DELIVERED;
}

static enum outcome read_code_segment(struct delivery *d, uint16_t selector, bool long_mode, struct sk_segment *cs, unsigned *cpl)
{
    enum outcome o = read_descriptor(d, selector, GP, cs);
    unsigned dpl = cs->flags >> SK_DESC_DPL_SHIFT & 3, old_cpl = image_cpl(&d->v->image);

    if (o != DELIVERED)
        return o;
    if (!(cs->flags & SK_DESC_S) || !(cs->flags & SK_DESC_CODE) || dpl > old_cpl)
        return fault(d, GP, selector_error(d, selector));
    if (long_mode && (!(cs->flags & SK_DESC_L) || (cs->flags & SK_DESC_B)))
        return fault(d, GP, selector_error(d, selector));
    if (!(cs->flags & SK_DESC_P))
        return fault(d, NP, selector_error(d, selector));
    *cpl = cs->flags & SK_DESC_CONFORMING ? old_cpl : dpl;
    cs->selector = (selector & 0xfffc) | *cpl;
    return DELIVERED;
}

/* RSP and SS of the handler in long mode: an IST slot, the TSS entry of the new privilege, or the old stack. */
static enum outcome long_mode_stack(struct delivery *d, const struct gate *gate, unsigned cpl, struct stack *stack)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment tr = image_segment_at(m, m->at->tr);
    bool inward = cpl < image_cpl(m);
    unsigned slot = gate->ist ? 36 + (gate->ist - 1u) * 8 : 4 + cpl * 8;
    struct sk_fault f;

    stack->word = 8;
    stack->wide = true;
    stack->ss = image_segment(m, SK_SS);
    stack->rsp = image_gpr(m, SK_RSP);
    if (gate->ist || inward) {
        if (slot + 7 > tr.limit)
            return fault(d, TS, selector_error(d, tr.selector));
        if (!sk_read_linear(d->v, tr.base + slot, &stack->rsp, 8, &f))
            return page_fault(d, &f);
    }
    if (inward)
        stack->ss = (struct sk_segment){.selector = cpl, .flags = SK_DESC_P | SK_DESC_S | SK_DESC_RW | SK_DESC_A | cpl << SK_DESC_DPL_SHIFT};
    stack->rsp &= ~15ull;
    return DELIVERED;
}

static enum outcome protected_mode_stack(struct delivery *d, const struct gate *gate, unsigned cpl, struct stack *stack)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment tr = image_segment_at(m, m->at->tr);
    bool tss32 = tr.flags & SK_DESC_CODE; /* type 9 or 11, not 1 or 3 */
    unsigned slot = tss32 ? 4 + cpl * 8 : 2 + cpl * 4, half = tss32 ? 4 : 2;
    uint32_t words[2] = {0};
    enum outcome o;
    struct sk_fault f;

    stack->word = gate->type & 8 ? 4 : 2;
    stack->ss = image_segment(m, SK_SS);
    stack->rsp = image_gpr(m, SK_RSP);
    if (cpl < image_cpl(m)) {
        if (slot + 2 * half - 1 > tr.limit)
            return fault(d, TS, selector_error(d, tr.selector));
        if (!sk_read_linear(d->v, tr.base + slot, &words[0], half, &f) || !sk_read_linear(d->v, tr.base + slot + half, &words[1], 2, &f))
            return page_fault(d, &f);
        o = read_descriptor(d, (uint16_t)words[1], TS, &stack->ss);
        if (o != DELIVERED)
            return o;
        if ((words[1] & 3) != cpl || (stack->ss.flags >> SK_DESC_DPL_SHIFT & 3) != cpl || !(stack->ss.flags & SK_DESC_S) ||
            (stack->ss.flags & SK_DESC_CODE) || !(stack->ss.flags & SK_DESC_RW))
            return fault(d, TS, selector_error(d, words[1]));
        if (!(stack->ss.flags & SK_DESC_P))
            return fault(d, SS, selector_error(d, words[1]));
        stack->rsp = words[0];
    }
    stack->wide = stack->ss.flags & SK_DESC_B;
    return DELIVERED;
}

static enum outcome push(struct delivery *d, struct stack *stack, uint64_t value)
{
    struct sk_fault f;
    uint64_t mask = stack->word == 8 ? UINT64_MAX : stack->wide ? 0xffffffff : 0xffff;
    uint64_t rsp = (stack->rsp - stack->word) & mask;

    if (!sk_write_linear(d->v, (stack->word == 8 ? 0 : stack->ss.base) + rsp, &value, stack->word, &f))
        return page_fault(d, &f);
    stack->rsp = (stack->rsp & ~mask) | rsp;
    return DELIVERED;
}

static uint64_t saved_rflags(struct delivery *d, uint64_t rflags)
{
    bool is_fault = d->event.kind == SK_EXCEPTION && d->event.vector != DB && d->event.vector != 3 && d->event.vector != 4;

    return is_fault ? rflags | SK_FL_RF : rflags;
}

static enum outcome deliver_protected(struct delivery *d, uint64_t rflags, bool long_mode)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment cs, old_cs = image_segment(m, SK_CS), old_ss = image_segment(m, SK_SS);
    unsigned old_cpl = image_cpl(m), cpl = 0, count = 0;
    uint64_t values[6];
    struct stack stack = {0};
    struct gate gate;
    enum outcome o = read_gate(d, long_mode, &gate);

    if (o == DELIVERED && (rflags & SK_FL_VM))
        return IMPOSSIBLE;
    if (o == DELIVERED)
        o = read_code_segment(d, gate.selector, long_mode, &cs, &cpl);
    if (o == DELIVERED)
        o = long_mode ? long_mode_stack(d, &gate, cpl, &stack) : protected_mode_stack(d, &gate, cpl, &stack);
    if (o != DELIVERED)
        return o;
    if (long_mode || cpl < old_cpl) {
        values[count++] = old_ss.selector;
        values[count++] = image_gpr(m, SK_RSP);
    }
    values[count++] = saved_rflags(d, rflags);
    values[count++] = old_cs.selector;
    values[count++] = d->event.return_rip;
    if (d->event.has_error)
        values[count++] = d->event.error;
    for (unsigned i = 0; i < count; i++)
        if ((o = push(d, &stack, values[i])) != DELIVERED)
            return o;
    image_set_gpr(m, SK_RSP, stack.rsp);
    image_set_segment(m, SK_SS, stack.ss);
    image_set_segment(m, SK_CS, cs);
    image_set_u64(m, m->at->eip, gate.type & 8 ? gate.offset : gate.offset & 0xffff);
    image_set_rflags(m, rflags & ~(uint64_t)(SK_FL_TF | SK_FL_NT | SK_FL_RF | SK_FL_VM | (gate.type & 1 ? 0 : SK_FL_IF)));
    image_update_hflags(m);
    image_set_u32(m, m->at->hflags, (image_hflags(m) & ~(uint32_t)SK_HF_CPL) | cpl);
    return DELIVERED;
}

static enum outcome deliver_real(struct delivery *d, uint64_t rflags)
{
    struct sk_image *m = &d->v->image;
    struct sk_segment idt = image_segment_at(m, m->at->idt), cs = image_segment(m, SK_CS);
    struct stack stack = {.ss = image_segment(m, SK_SS), .rsp = image_gpr(m, SK_RSP), .word = 2};
    uint16_t vector[2];
    uint64_t values[3] = {rflags, cs.selector, d->event.return_rip};
    struct sk_fault f;

    if (d->event.vector * 4u + 3 > idt.limit)
        return fault(d, GP, 0);
    if (!sk_read_linear(d->v, idt.base + d->event.vector * 4u, vector, sizeof vector, &f))
        return page_fault(d, &f);
    for (unsigned i = 0; i < 3; i++)
        push(d, &stack, values[i]); /* no paging: cannot fault */
    image_set_gpr(m, SK_RSP, stack.rsp);
    cs.selector = vector[1];
    cs.base = (uint64_t)vector[1] << 4;
    image_set_segment(m, SK_CS, cs);
    image_set_u64(m, m->at->eip, vector[0]);
    image_set_rflags(m, rflags & ~(uint64_t)(SK_FL_TF | SK_FL_IF | SK_FL_RF | SK_FL_AC));
    image_update_hflags(m);
    return DELIVERED;
}

static enum outcome deliver_once(struct delivery *d, uint64_t rflags)
{
    struct sk_image *m = &d->v->image;

    if (!(image_cr(m, 0) & SK_CR0_PE)) {
        d->event.has_error = false;
        return deliver_real(d, rflags);
    }
    return deliver_protected(d, rflags, image_u64(m, m->at->efer) & SK_EFER_LMA);
}

uint64_t sk_rflags(const struct sk_vcpu *v)
{
    const struct sk_image *m = &v->image;
    uint64_t rflags = 0;

    if (image_u32(m, m->at->cc_op) == 1)
        return image_u64(m, m->at->eflags) | (image_u64(m, m->at->cc_src) & SK_FL_CC) | (image_u32(m, m->at->df) == 1 ? 0 : SK_FL_DF);
    sk_uc.reg_read(v->vm->uc, UC_X86_REG_EFLAGS, &rflags);
    return rflags;
}

bool sk_deliver(struct sk_vcpu *v, struct sk_event event)
{
    struct delivery d = {.v = v, .event = event};
    uint64_t rflags = sk_rflags(v), faulting_rip = event.faulting_rip;

    image_set_u32(&v->image, v->image.at->is_int, 0); /* the engine would move RIP at the next exception */
    image_set_u32(&v->image, v->image.at->old_exception, -1u);
    for (;;) {
        enum outcome o = deliver_once(&d, rflags);
        bool exception = d.event.kind == SK_EXCEPTION;

        if (o == DELIVERED)
            return true;
        if (o == IMPOSSIBLE || (exception && d.event.vector == DF))
            return false;
        /* SDM table 6-5: which second fault is a double fault. */
        if (exception && ((is_contributory(d.event.vector) && is_contributory(d.fault_vector)) ||
                          (d.event.vector == PF && (d.fault_vector == PF || is_contributory(d.fault_vector)))))
            d.event = (struct sk_event){DF, SK_EXCEPTION, true, 0, faulting_rip, faulting_rip};
        else
            d.event = (struct sk_event){d.fault_vector, SK_EXCEPTION, true, d.fault_error, faulting_rip, faulting_rip};
    }
}

/* SYSCALL (SDM vol. 2B) from 64-bit code; the engine adds the instruction's two bytes after the hook. */
void sk_enter_syscall(struct sk_vcpu *v)
{
    struct sk_image *m = &v->image;
    uint64_t rflags = sk_rflags(v);
    uint16_t selector = (uint16_t)(image_u64(m, m->at->star) >> 32) & 0xfffc;
    uint32_t common = SK_DESC_P | SK_DESC_S | SK_DESC_RW | SK_DESC_A | SK_DESC_G;

    image_set_gpr(m, SK_RCX, image_u64(m, m->at->eip) + 2);
    image_set_gpr(m, SK_R11, rflags & ~(uint64_t)SK_FL_RF);
    image_set_segment(m, SK_CS, (struct sk_segment){.selector = selector, .limit = 0xffffffff, .flags = common | SK_DESC_CODE | SK_DESC_L});
    image_set_segment(m, SK_SS, (struct sk_segment){.selector = selector + 8, .limit = 0xffffffff, .flags = common | SK_DESC_B});
    image_set_u64(m, m->at->eip, image_u64(m, m->at->lstar) - 2);
    image_set_rflags(m, rflags & ~(image_u64(m, m->at->fmask) | SK_FL_RF));
    image_update_hflags(m);
}
