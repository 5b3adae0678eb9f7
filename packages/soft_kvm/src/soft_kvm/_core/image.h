/*
 * The engine's CPU state as one block of bytes (a saved uc_context) and where things are in it.
 *
 * The offsets are not known at compile time: layout.py finds them from public behaviour and checks
 * them, because the engine offers no public way to set the privilege level or a segment's hidden part.
 */
#ifndef SOFT_KVM_IMAGE_H
#define SOFT_KVM_IMAGE_H

#include <stdint.h>
#include <string.h>

/* Byte offsets from the start of a saved context.  layout.py fills this, in this order. */
struct sk_layout {
    uint32_t size; /* of the whole context */
    uint32_t regs; /* 16 GPRs, x86 encoding order: rax rcx rdx rbx rsp rbp rsi rdi r8.. */
    uint32_t eip;
    uint32_t eflags; /* without the arithmetic flags and DF */
    uint32_t cc_src;
    uint32_t cc_op;
    uint32_t df;
    uint32_t hflags;
    uint32_t segs; /* ES CS SS DS FS GS, then LDT TR GDT IDT follow at their own offsets */
    uint32_t seg_stride;
    uint32_t ldt;
    uint32_t tr;
    uint32_t gdt;
    uint32_t idt;
    uint32_t cr; /* cr0..cr4, 8 bytes each */
    uint32_t efer;
    uint32_t error_code;
    uint32_t is_int;
    uint32_t next_eip;
    uint32_t old_exception;
    uint32_t vm_vmcb;
    uint32_t intercept;
    uint32_t intercept_cr_read; /* 16 bits; those for writes follow */
    uint32_t star;
    uint32_t lstar;
    uint32_t cstar;
    uint32_t fmask;
    uint32_t sysenter_esp;
    uint32_t sysenter_eip;
    uint32_t tsc_aux; /* 32 bits */
};

enum sk_gpr { SK_RAX, SK_RCX, SK_RDX, SK_RBX, SK_RSP, SK_RBP, SK_RSI, SK_RDI, SK_R8, SK_R11 = 11 };
enum sk_seg { SK_ES, SK_CS, SK_SS, SK_DS, SK_FS, SK_GS };

/* Derived state ("hflags") that the engine keys its translations by. */
enum {
    SK_HF_CPL = 3,
    SK_HF_INHIBIT_IRQ = 1 << 3,
    SK_HF_CS32 = 1 << 4,
    SK_HF_SS32 = 1 << 5,
    SK_HF_ADDSEG = 1 << 6,
    SK_HF_PE = 1 << 7,
    SK_HF_TF = 1 << 8,
    SK_HF_MP_EM_TS = 7 << 9,
    SK_HF_IOPL = 3 << 12,
    SK_HF_LMA = 1 << 14,
    SK_HF_CS64 = 1 << 15,
    SK_HF_VM = 1 << 17,
    SK_HF_GUEST = 1 << 21,
    SK_HF_OSFXSR = 1 << 22,
    SK_HF_SMAP = 1 << 23,
};

/* Segment attributes in the layout of a descriptor's second word. */
enum {
    SK_DESC_A = 1 << 8,
    SK_DESC_RW = 1 << 9,
    SK_DESC_CONFORMING = 1 << 10,
    SK_DESC_CODE = 1 << 11,
    SK_DESC_S = 1 << 12,
    SK_DESC_DPL_SHIFT = 13,
    SK_DESC_P = 1 << 15,
    SK_DESC_AVL = 1 << 20,
    SK_DESC_L = 1 << 21,
    SK_DESC_B = 1 << 22,
    SK_DESC_G = 1 << 23,
};

enum {
    SK_CR0_PE = 1, SK_CR0_WP = 1 << 16,
    SK_CR4_PSE = 1 << 4, SK_CR4_PAE = 1 << 5, SK_CR4_OSFXSR = 1 << 9, SK_CR4_SMEP = 1 << 20, SK_CR4_SMAP = 1 << 21,
    SK_EFER_SCE = 1, SK_EFER_LME = 1 << 8, SK_EFER_LMA = 1 << 10, SK_EFER_NXE = 1 << 11,
    SK_FL_CC = 0x8d5, SK_FL_TF = 1 << 8, SK_FL_IF = 1 << 9, SK_FL_DF = 1 << 10, SK_FL_IOPL = 3 << 12, SK_FL_NT = 1 << 14, SK_FL_RF = 1 << 16,
    SK_FL_VM = 1 << 17, SK_FL_AC = 1 << 18,
};
#define SK_CR0_PG (1u << 31)

/* One segment register as the engine keeps it; limit in bytes. */
struct sk_segment {
    uint32_t selector;
    uint32_t pad;
    uint64_t base;
    uint32_t limit;
    uint32_t flags;
};

struct sk_image {
    const struct sk_layout *at;
    uint8_t *bytes;
};

static inline uint32_t image_u32(const struct sk_image *m, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, m->bytes + offset, sizeof value);
    return value;
}

static inline uint64_t image_u64(const struct sk_image *m, uint32_t offset)
{
    uint64_t value;
    memcpy(&value, m->bytes + offset, sizeof value);
    return value;
}

static inline void image_set_u32(struct sk_image *m, uint32_t offset, uint32_t value)
{
    memcpy(m->bytes + offset, &value, sizeof value);
}

static inline void image_set_u64(struct sk_image *m, uint32_t offset, uint64_t value)
{
    memcpy(m->bytes + offset, &value, sizeof value);
}

static inline uint64_t image_gpr(const struct sk_image *m, unsigned n) { return image_u64(m, m->at->regs + 8 * n); }
static inline void image_set_gpr(struct sk_image *m, unsigned n, uint64_t v) { image_set_u64(m, m->at->regs + 8 * n, v); }
static inline uint64_t image_cr(const struct sk_image *m, unsigned n) { return image_u64(m, m->at->cr + 8 * n); }
static inline uint32_t image_hflags(const struct sk_image *m) { return image_u32(m, m->at->hflags); }
static inline unsigned image_cpl(const struct sk_image *m) { return image_hflags(m) & SK_HF_CPL; }

static inline struct sk_segment image_segment_at(const struct sk_image *m, uint32_t offset)
{
    struct sk_segment s;
    memcpy(&s, m->bytes + offset, sizeof s);
    return s;
}

static inline struct sk_segment image_segment(const struct sk_image *m, unsigned n)
{
    return image_segment_at(m, m->at->segs + n * m->at->seg_stride);
}

static inline void image_set_segment_at(struct sk_image *m, uint32_t offset, struct sk_segment s)
{
    memcpy(m->bytes + offset, &s, sizeof s);
}

static inline void image_set_segment(struct sk_image *m, unsigned n, struct sk_segment s)
{
    image_set_segment_at(m, m->at->segs + n * m->at->seg_stride, s);
}

/* Writes RFLAGS into the places where the engine keeps its parts. */
static inline void image_set_rflags(struct sk_image *m, uint64_t rflags)
{
    uint32_t mirrored = SK_HF_TF | SK_HF_IOPL | SK_HF_VM; /* same bit positions in hflags */

    image_set_u64(m, m->at->cc_src, rflags & SK_FL_CC);
    image_set_u32(m, m->at->cc_op, 1); /* "the flags are in cc_src" */
    image_set_u32(m, m->at->df, rflags & SK_FL_DF ? -1u : 1u);
    image_set_u64(m, m->at->eflags, (rflags & ~(uint64_t)(SK_FL_CC | SK_FL_DF)) | 2);
    image_set_u32(m, m->at->hflags, (image_hflags(m) & ~mirrored) | ((uint32_t)rflags & mirrored));
}

/* Recomputes hflags from segments, control registers and EFER (they follow from the SDM's mode rules). */
void image_update_hflags(struct sk_image *m);

#endif
