/*
 * Registers in the KVM API's records, in and out of the image or the engine.
 *
 * A vCPU between runs has its state in the image; one that is parked in an I/O exit has it in the
 * engine.  begin() and end() hide the difference.
 */
#include "api.h"

#include <errno.h>

enum { XMM0 = 122, ST0 = 114, FPSW = 31, FPCW = 246, FPTAG = 247, MXCSR = 249, DR0 = 66 };

static void begin(struct sk_vcpu *v)
{
    pthread_mutex_lock(&v->mutex);
    sk_acquire(v, false);
    if (!v->replaced)
        sk_image_load(v);
}

static int end(struct sk_vcpu *v, bool changed)
{
    if (changed) {
        if (!v->replaced)
            sk_image_store(v);
        v->dead = false;
        v->unchecked = v->stale = true;
    } else if (!v->replaced) {
        sk_image_load(v); /* MSRs and FPU registers went straight to the engine */
    }
    sk_release(v);
    pthread_mutex_unlock(&v->mutex);
    return 0;
}

/* kvm_regs lists rax rbx rcx rdx rsi rdi rsp rbp r8-r15; the engine uses the encoding order. */
static const uint8_t gpr_order[16] = {SK_RAX, SK_RBX, SK_RCX, SK_RDX, SK_RSI, SK_RDI, SK_RSP, SK_RBP, 8, 9, 10, 11, 12, 13, 14, 15};

int sk_vcpu_get_regs(struct sk_vcpu *v, struct kvm_regs *regs)
{
    uint64_t *gprs = (uint64_t *)regs;

    begin(v);
    for (unsigned i = 0; i < 16; i++)
        gprs[i] = image_gpr(&v->image, gpr_order[i]);
    regs->rip = image_u64(&v->image, v->image.at->eip);
    regs->rflags = sk_rflags(v);
    return end(v, false);
}

int sk_vcpu_set_regs(struct sk_vcpu *v, const struct kvm_regs *regs)
{
    const uint64_t *gprs = (const uint64_t *)regs;

    begin(v);
    if (v->in_hook && regs->rip != image_u64(&v->image, v->image.at->eip))
        v->replaced = true; /* it goes on elsewhere: the access that is under way is given up */
    for (unsigned i = 0; i < 16; i++)
        image_set_gpr(&v->image, gpr_order[i], gprs[i]);
    image_set_u64(&v->image, v->image.at->eip, regs->rip);
    image_set_rflags(&v->image, regs->rflags);
    image_update_hflags(&v->image);
    v->pending_exception = -1;
    return end(v, true);
}

/* ---- segments and control registers ---------------------------------------------------------- */

static struct kvm_segment to_kvm(struct sk_segment s)
{
    return (struct kvm_segment){
        .base = s.base, .limit = s.limit, .selector = (uint16_t)s.selector, .type = s.flags >> 8 & 15, .s = s.flags >> 12 & 1,
        .dpl = s.flags >> 13 & 3, .present = s.flags >> 15 & 1, .avl = s.flags >> 20 & 1, .l = s.flags >> 21 & 1,
        .db = s.flags >> 22 & 1, .g = s.flags >> 23 & 1, .unusable = !(s.flags >> 15 & 1)};
}

static struct sk_segment from_kvm(const struct kvm_segment *k)
{
    uint32_t flags = (k->type & 15u) << 8 | (k->s & 1u) << 12 | (k->dpl & 3u) << 13 | (k->present && !k->unusable) << 15 |
                     (k->avl & 1u) << 20 | (k->l & 1u) << 21 | (k->db & 1u) << 22 | (k->g & 1u) << 23;

    return (struct sk_segment){.selector = k->selector, .base = k->base, .limit = k->limit, .flags = flags};
}

int sk_vcpu_get_sregs(struct sk_vcpu *v, struct kvm_sregs *s)
{
    const struct sk_image *m = &v->image;
    struct sk_segment gdt, idt;

    memset(s, 0, sizeof *s);
    begin(v);
    s->es = to_kvm(image_segment(m, SK_ES));
    s->cs = to_kvm(image_segment(m, SK_CS));
    s->ss = to_kvm(image_segment(m, SK_SS));
    s->ds = to_kvm(image_segment(m, SK_DS));
    s->fs = to_kvm(image_segment(m, SK_FS));
    s->gs = to_kvm(image_segment(m, SK_GS));
    s->tr = to_kvm(image_segment_at(m, m->at->tr));
    s->tr.type |= s->tr.present << 1; /* LTR marks it busy in memory; the engine does not in its cache */
    s->ldt = to_kvm(image_segment_at(m, m->at->ldt));
    gdt = image_segment_at(m, m->at->gdt);
    idt = image_segment_at(m, m->at->idt);
    s->gdt.base = gdt.base;
    s->gdt.limit = (uint16_t)gdt.limit;
    s->idt.base = idt.base;
    s->idt.limit = (uint16_t)idt.limit;
    s->cr0 = image_cr(m, 0);
    s->cr2 = image_cr(m, 2);
    s->cr3 = image_cr(m, 3);
    s->cr4 = image_cr(m, 4);
    s->efer = image_u64(m, m->at->efer);
    s->apic_base = v->apic_base;
    s->cr8 = sk_get_cr8(v);
    memcpy(s->interrupt_bitmap, v->interrupt_bitmap, sizeof s->interrupt_bitmap);
    return end(v, false);
}

/* The combinations that KVM_SET_SREGS itself refuses. */
static bool coherent(const struct kvm_sregs *s)
{
    bool pg = s->cr0 & SK_CR0_PG, lme = s->efer & SK_EFER_LME, lma = s->efer & SK_EFER_LMA;

    if (pg && !(s->cr0 & SK_CR0_PE))
        return false;
    if (lme && pg && !((s->cr4 & SK_CR4_PAE) && lma))
        return false;
    if (lma && !(lme && pg))
        return false;
    if ((lma && s->cs.l && s->cs.db) || (s->apic_base & ~SK_APIC_BASE_VALID))
        return false;
    return !(s->cr4 >> 32) && !(s->cr0 >> 32) && !(s->cr3 >> SK_PHYS_BITS);
}

int sk_vcpu_set_sregs(struct sk_vcpu *v, const struct kvm_sregs *s)
{
    struct sk_image *m = &v->image;
    const struct kvm_segment *segments[6] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs};

    if (!coherent(s))
        return -EINVAL;
    begin(v);
    for (unsigned i = 0; i < 6; i++)
        image_set_segment(m, i, from_kvm(segments[i]));
    image_set_segment_at(m, m->at->tr, from_kvm(&s->tr));
    image_set_segment_at(m, m->at->ldt, from_kvm(&s->ldt));
    image_set_segment_at(m, m->at->gdt, (struct sk_segment){.base = s->gdt.base, .limit = s->gdt.limit});
    image_set_segment_at(m, m->at->idt, (struct sk_segment){.base = s->idt.base, .limit = s->idt.limit});
    image_set_u64(m, m->at->cr, s->cr0 | 0x10); /* ET is hardwired */
    image_set_u64(m, m->at->cr + 16, s->cr2);
    image_set_u64(m, m->at->cr + 24, s->cr3);
    image_set_u64(m, m->at->cr + 32, s->cr4);
    image_set_u64(m, m->at->efer, s->efer);
    image_update_hflags(m);
    sk_set_apic_base(v, s->apic_base);
    sk_set_cr8(v, s->cr8);
    for (unsigned i = 0; i < 256 && !v->vm->chip; i++)
        if (s->interrupt_bitmap[i / 64] >> i % 64 & 1)
            v->user_interrupt = (int)i;
    v->flush = true;
    return end(v, true);
}

/* SDM vol. 3 §26.3.1, the checks that a wrong boot state fails on hardware. */
const char *sk_refuses_entry(const struct sk_vcpu *v)
{
    const struct sk_image *m = &v->image;
    uint32_t tr = image_segment_at(m, m->at->tr).flags, cs = image_segment(m, SK_CS).flags, ss = image_segment(m, SK_SS).flags;
    bool long_mode = image_u64(m, m->at->efer) & SK_EFER_LMA, protected_mode = image_cr(m, 0) & SK_CR0_PE;
    unsigned tr_type = tr >> 8 & 31;
    uint64_t rip = image_u64(m, m->at->eip);

    if (!(tr & SK_DESC_P) || !(tr_type == 11 || (tr_type == 3 && !long_mode)))
        return "TR is not a busy TSS";
    if (!(cs & SK_DESC_P) || !(cs & SK_DESC_S) || !(cs & SK_DESC_A))
        return "CS is not a present, accessed segment";
    if (protected_mode && !(cs & SK_DESC_CODE) && (cs >> 8 & 15) != 3)
        return "CS is not code";
    if (protected_mode && (ss & SK_DESC_P) && (ss & SK_DESC_CODE))
        return "SS is code";
    if (long_mode && (cs & SK_DESC_L) ? (uint64_t)((int64_t)(rip << 16) >> 16) != rip : rip >> 32 != 0)
        return "RIP is out of range";
    return NULL;
}

/* ---- FPU and MSRs: through the engine's public registers -------------------------------------- */

int sk_vcpu_get_fpu(struct sk_vcpu *v, struct kvm_fpu *fpu)
{
    uint16_t tags = 0;

    memset(fpu, 0, sizeof *fpu);
    begin(v);
    for (unsigned i = 0; i < 8; i++)
        sk_uc.reg_read(v->vm->uc, ST0 + (int)i, fpu->fpr[i]);
    for (unsigned i = 0; i < 16; i++)
        sk_uc.reg_read(v->vm->uc, XMM0 + (int)i, fpu->xmm[i]);
    sk_uc.reg_read(v->vm->uc, FPCW, &fpu->fcw);
    sk_uc.reg_read(v->vm->uc, FPSW, &fpu->fsw);
    sk_uc.reg_read(v->vm->uc, FPTAG, &tags);
    for (unsigned i = 0; i < 8; i++) /* two bits a register (3 is empty) to FXSAVE's one */
        fpu->ftwx |= (uint8_t)((tags >> 2 * i & 3) != 3) << i;
    sk_uc.reg_read(v->vm->uc, MXCSR, &fpu->mxcsr);
    return end(v, false);
}

int sk_vcpu_set_fpu(struct sk_vcpu *v, const struct kvm_fpu *fpu)
{
    uint16_t tags = 0;

    begin(v);
    for (unsigned i = 0; i < 8; i++)
        tags |= (uint16_t)((fpu->ftwx >> i & 1 ? 0u : 3u) << 2 * i);
    sk_uc.reg_write(v->vm->uc, FPCW, &fpu->fcw);
    sk_uc.reg_write(v->vm->uc, FPSW, &fpu->fsw);
    for (unsigned i = 0; i < 8; i++)
        sk_uc.reg_write(v->vm->uc, ST0 + (int)i, fpu->fpr[i]);
    for (unsigned i = 0; i < 16; i++)
        sk_uc.reg_write(v->vm->uc, XMM0 + (int)i, fpu->xmm[i]);
    sk_uc.reg_write(v->vm->uc, FPTAG, &tags);
    sk_uc.reg_write(v->vm->uc, MXCSR, &fpu->mxcsr);
    return end(v, false);
}

enum { MSR_EFER = 0xc0000080 };

/* The caller has checked that there is such a register. */
int sk_vcpu_get_msr(struct sk_vcpu *v, uint32_t index, uint64_t *value)
{
    begin(v);
    if (!sk_msr_read(v, index, value))
        sk_msr_in_engine(v, index, value, false);
    return end(v, true);
}

int sk_vcpu_set_msr(struct sk_vcpu *v, uint32_t index, uint64_t value)
{
    begin(v);
    if (index == MSR_EFER) {
        image_set_u64(&v->image, v->image.at->efer, value);
        image_update_hflags(&v->image);
    } else if (!sk_msr_write(v, index, value)) {
        sk_msr_in_engine(v, index, &value, true);
    }
    return end(v, true);
}

int sk_vcpu_get_debug(struct sk_vcpu *v, unsigned n, uint64_t *value)
{
    begin(v);
    sk_uc.reg_read(v->vm->uc, DR0 + (int)n, value);
    return end(v, false);
}

int sk_vcpu_set_debug(struct sk_vcpu *v, unsigned n, uint64_t value)
{
    begin(v);
    sk_uc.reg_write(v->vm->uc, DR0 + (int)n, &value);
    return end(v, false);
}

int sk_vcpu_translate(struct sk_vcpu *v, struct kvm_translation *t)
{
    uint64_t gpa = UINT64_MAX;

    begin(v);
    t->valid = sk_translate(v, t->linear_address, (struct sk_access){0}, &gpa, NULL);
    t->physical_address = t->valid ? gpa : UINT64_MAX;
    t->writeable = 1;
    t->usermode = 0;
    return end(v, false);
}
