/*
 * RDMSR, WRMSR and MOV CR8: instructions that the engine executes itself, without a hook, and wrongly
 * (unknown registers read zero, there is no task priority).
 *
 * The engine emulates AMD's SVM, though, and raises an intercepted instruction as exception
 * 0x100 + exit code.  So every vCPU runs "in guest mode" with a control block of ours that intercepts
 * just these (APM vol. 2 §15.10, §15.11, app. B and C).  The block and the MSR permission map lie in
 * the upper half of the engine's physical address space, of which the guest is told nothing; a guest
 * that maps it anyway changes nothing but what it itself is refused.
 */
#include "machine.h"

#include <stdlib.h>

enum {
    EXIT_READ_CR8 = 0x08,
    EXIT_WRITE_CR8 = 0x18,
    EXIT_MSR = 0x7c,
    INTERCEPT_MSR = 1 << (0x7c - 0x60), /* bit n of the control word is exit code 0x60 + n */
    VMCB_MSRPM_BASE = 0x48,
    PERMISSION_MAP = 0x1000, /* behind the control block; 2 bits an MSR */
    EMPTY_TABLES = 0x4000,   /* behind that */
    PRIVATE_SIZE = 0x5000,
};
#define PRIVATE (SK_EMPTY_TABLES - EMPTY_TABLES)

enum { READ = 1, WRITE = 2 };

/* What the engine does well enough itself; the rest is ours. */
static const struct { uint32_t first, last, native; } native_msrs[] = {
    {0xfe, 0xfe, READ},                      /* MTRRCAP */
    {0x174, 0x174, READ | WRITE},            /* SYSENTER_CS */
    {0x175, 0x176, READ},                    /* SYSENTER_ESP, _EIP: writes must be canonical */
    {0x200, 0x20f, READ | WRITE},            /* variable MTRRs */
    {0x250, 0x250, READ | WRITE},            /* fixed MTRRs */
    {0x258, 0x259, READ | WRITE},
    {0x268, 0x26f, READ | WRITE},
    {0x277, 0x277, READ | WRITE},            /* PAT */
    {0x2ff, 0x2ff, READ | WRITE},            /* MTRR_DEF_TYPE */
    {0xc0000080, 0xc0000081, READ | WRITE},  /* EFER, STAR */
    {0xc0000082, 0xc0000083, READ},          /* LSTAR, CSTAR */
    {0xc0000084, 0xc0000084, READ | WRITE},  /* FMASK */
    {0xc0000100, 0xc0000103, READ | WRITE},  /* FS_BASE, GS_BASE, KERNEL_GS_BASE, TSC_AUX */
};

static void permit(uint8_t *map, uint32_t msr, uint32_t how)
{
    uint32_t bit = (msr < 0x2000 ? msr : 0x2000 + (msr & 0x1fff)) * 2;

    map[bit / 8] &= (uint8_t) ~(how << bit % 8);
}

bool sk_intercept_install(struct sk_vm *vm)
{
    uint64_t map = PRIVATE + PERMISSION_MAP;

    if (posix_memalign((void **)&vm->private_memory, SK_PAGE, PRIVATE_SIZE))
        return false;
    memset(vm->private_memory, 0, PERMISSION_MAP);
    memset(vm->private_memory + PERMISSION_MAP, 0xff, EMPTY_TABLES - PERMISSION_MAP);
    memset(vm->private_memory + EMPTY_TABLES, 0, PRIVATE_SIZE - EMPTY_TABLES);
    memcpy(vm->private_memory + VMCB_MSRPM_BASE, &map, sizeof map);
    for (unsigned i = 0; i < sizeof native_msrs / sizeof *native_msrs; i++)
        for (uint32_t msr = native_msrs[i].first; msr <= native_msrs[i].last; msr++)
            permit(vm->private_memory + PERMISSION_MAP, msr, native_msrs[i].native);
    return sk_uc.mem_map_ptr(vm->uc, PRIVATE, PRIVATE_SIZE, UC_PROT_ALL, vm->private_memory) == UC_OK;
}

void sk_intercept_reset(struct sk_vcpu *v)
{
    struct sk_image *m = &v->image;
    uint16_t cr8 = 1 << 8;

    image_set_u32(m, m->at->hflags, image_hflags(m) | SK_HF_GUEST);
    image_set_u64(m, m->at->vm_vmcb, PRIVATE);
    image_set_u64(m, m->at->intercept, INTERCEPT_MSR);
    memcpy(m->bytes + m->at->intercept_cr_read, &cr8, sizeof cr8);
    memcpy(m->bytes + m->at->intercept_cr_read + 2, &cr8, sizeof cr8); /* writes */
}

/* ---- the registers --------------------------------------------------------------------------- */

enum { TSC = 0x10, PLATFORM_ID = 0x17, APIC_BASE = 0x1b, TSC_ADJUST = 0x3b, UCODE_REV = 0x8b, SYSENTER_ESP = 0x175, SYSENTER_EIP, MISC_ENABLE = 0x1a0, LSTAR = 0xc0000082, CSTAR };

static bool canonical(uint64_t address) { return (uint64_t)((int64_t)(address << 16) >> 16) == address; }

void sk_set_apic_base(struct sk_vcpu *v, uint64_t value)
{
    v->apic_base = value;
    if (!v->vm->chip)
        return;
    pthread_mutex_lock(&v->vm->irq_lock);
    sk_irqchip_set_apic_enabled(v->vm->chip, v->id, value >> 11 & 1);
    pthread_mutex_unlock(&v->vm->irq_lock);
}

bool sk_msr_read(struct sk_vcpu *v, uint32_t index, uint64_t *value)
{
    switch (index) {
    case TSC:
        *value = sk_now() - v->vm->tsc_origin;
        return true;
    case APIC_BASE:
        *value = v->apic_base;
        return true;
    case MISC_ENABLE: /* never fast strings, see msrs.py */
        *value = v->misc_enable;
        return true;
    case PLATFORM_ID:
    case UCODE_REV:
        *value = 0;
        return true;
    case TSC_ADJUST:
        *value = v->tsc_adjust;
        return true;
    }
    return false;
}

bool sk_msr_write(struct sk_vcpu *v, uint32_t index, uint64_t value)
{
    struct sk_image *m = &v->image;

    switch (index) {
    case TSC:
        v->vm->tsc_origin = sk_now() - value;
        return true;
    case TSC_ADJUST: /* SDM vol. 3 §17.17.3: the counter moves with it */
        v->vm->tsc_origin -= value - v->tsc_adjust;
        v->tsc_adjust = value;
        return true;
    case APIC_BASE:
        if (value & ~SK_APIC_BASE_VALID)
            return false;
        sk_set_apic_base(v, value);
        return true;
    case MISC_ENABLE:
        v->misc_enable = value & ~1ull;
        return true;
    case UCODE_REV: /* written with 0 before it is read (SDM vol. 3 §9.11.7) */
        return true;
    case SYSENTER_ESP:
    case SYSENTER_EIP:
    case LSTAR:
    case CSTAR:
        if (!canonical(value))
            return false;
        image_set_u64(m, index == LSTAR ? m->at->lstar : index == CSTAR ? m->at->cstar : index == SYSENTER_ESP ? m->at->sysenter_esp : m->at->sysenter_eip, value);
        return true;
    }
    return false;
}

/* A register that the engine keeps.  Not in guest mode: an intercepted access from here would jump into nowhere. */
void sk_msr_in_engine(struct sk_vcpu *v, uint32_t index, uint64_t *value, bool write)
{
    uc_x86_msr msr = {index, *value};
    struct sk_image *m = &v->image;

    image_set_u32(m, m->at->hflags, image_hflags(m) & ~(uint32_t)SK_HF_GUEST);
    sk_image_store(v);
    if (write)
        sk_uc.reg_write(v->vm->uc, UC_X86_REG_MSR, &msr);
    else
        sk_uc.reg_read(v->vm->uc, UC_X86_REG_MSR, &msr);
    *value = msr.value;
    sk_image_load(v);
    image_set_u32(m, m->at->hflags, image_hflags(m) | SK_HF_GUEST);
}

uint64_t sk_get_cr8(struct sk_vcpu *v)
{
    uint64_t tpr = v->cr8 << 4;

    if (v->vm->chip) {
        pthread_mutex_lock(&v->vm->irq_lock);
        sk_irqchip_mmio_read(v->vm->chip, v->id, 0xfee00080, 4, &tpr, sk_now());
        pthread_mutex_unlock(&v->vm->irq_lock);
    }
    return tpr >> 4 & 15;
}

void sk_set_cr8(struct sk_vcpu *v, uint64_t value)
{
    v->cr8 = value & 15;
    if (!v->vm->chip)
        return;
    pthread_mutex_lock(&v->vm->irq_lock);
    sk_irqchip_mmio_write(v->vm->chip, v->id, 0xfee00080, 4, v->cr8 << 4, sk_now());
    pthread_mutex_unlock(&v->vm->irq_lock);
}

/* ---- the instructions ------------------------------------------------------------------------ */

/* Reads the intercepted instruction: its length, and ModRM.rm with REX.B for MOV CR8. */
static bool decode(struct sk_vcpu *v, unsigned *length, unsigned *gpr)
{
    const struct sk_image *m = &v->image;
    uint64_t rip = image_u64(m, m->at->eip) + (image_hflags(m) & SK_HF_CS64 ? 0 : image_segment(m, SK_CS).base);
    uint8_t byte, rex = 0;

    for (unsigned i = 0; i < 13; i++) {
        if (!sk_read_linear(v, rip + i, &byte, 1, NULL))
            return false;
        if (byte != 0x0f) {
            rex = byte;
            continue;
        }
        if (!sk_read_linear(v, rip + i + 1, &byte, 1, NULL))
            return false;
        *length = i + 2;
        if ((byte & 0xfd) == 0x20) { /* MOV r, CRn and MOV CRn, r: a ModRM byte follows */
            if (!sk_read_linear(v, rip + i + 2, &byte, 1, NULL))
                return false;
            *length = i + 3;
            *gpr = (byte & 7u) | ((rex & 0xf1) == 0x41 ? 8 : 0);
        }
        return true;
    }
    return false;
}

static bool execute_msr(struct sk_vcpu *v, bool write)
{
    struct sk_image *m = &v->image;
    uint32_t index = (uint32_t)image_gpr(m, SK_RCX);
    uint64_t value = (image_gpr(m, SK_RAX) & 0xffffffff) | image_gpr(m, SK_RDX) << 32;

    if (write)
        return sk_msr_write(v, index, value);
    if (!sk_msr_read(v, index, &value))
        return false;
    image_set_gpr(m, SK_RAX, value & 0xffffffff);
    image_set_gpr(m, SK_RDX, value >> 32);
    return true;
}

/* Executes an intercepted instruction on the loaded image.  False: it raises #GP(0). */
bool sk_intercepted(struct sk_vcpu *v, uint32_t exit_code)
{
    struct sk_image *m = &v->image;
    unsigned length = 0, gpr = 0;
    bool done = decode(v, &length, &gpr);

    if (done && exit_code == EXIT_MSR)
        done = execute_msr(v, image_u32(m, m->at->error_code) & 1);
    else if (done && exit_code == EXIT_READ_CR8)
        image_set_gpr(m, gpr, sk_get_cr8(v));
    else if (done && exit_code == EXIT_WRITE_CR8 && (done = !(image_gpr(m, gpr) & ~15ull)))
        sk_set_cr8(v, image_gpr(m, gpr));
    if (done)
        image_set_u64(m, m->at->eip, image_u64(m, m->at->eip) + length);
    return done;
}
