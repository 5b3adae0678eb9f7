/* Derives the engine's mode word from architectural state.  Assumes a complete image. */
#include "image.h"

void image_update_hflags(struct sk_image *m)
{
    uint64_t cr0 = image_cr(m, 0), cr4 = image_cr(m, 4), efer = image_u64(m, m->at->efer), eflags = image_u64(m, m->at->eflags);
    uint32_t cs = image_segment(m, SK_CS).flags, ss = image_segment(m, SK_SS).flags;
    uint32_t known = SK_HF_CPL | SK_HF_CS32 | SK_HF_SS32 | SK_HF_ADDSEG | SK_HF_PE | SK_HF_TF | SK_HF_MP_EM_TS | SK_HF_IOPL |
                     SK_HF_LMA | SK_HF_CS64 | SK_HF_VM | SK_HF_OSFXSR | SK_HF_SMAP;
    uint32_t h = image_hflags(m) & ~known;

    if (cr0 & SK_CR0_PE)
        h |= SK_HF_PE | (eflags & SK_FL_VM ? 3 : ss >> SK_DESC_DPL_SHIFT & 3);
    h |= (uint32_t)(cr0 << 8) & SK_HF_MP_EM_TS; /* CR0 bits 1-3 */
    h |= (uint32_t)eflags & (SK_HF_TF | SK_HF_IOPL | SK_HF_VM);
    if (cr4 & SK_CR4_OSFXSR)
        h |= SK_HF_OSFXSR;
    if (cr4 & SK_CR4_SMAP)
        h |= SK_HF_SMAP;
    if (efer & SK_EFER_LMA)
        h |= SK_HF_LMA;
    if ((efer & SK_EFER_LMA) && (cs & SK_DESC_L)) {
        h |= SK_HF_CS32 | SK_HF_SS32 | SK_HF_CS64;
    } else {
        if (cs & SK_DESC_B)
            h |= SK_HF_CS32;
        if (ss & SK_DESC_B)
            h |= SK_HF_SS32;
        if (!(cr0 & SK_CR0_PE) || (eflags & SK_FL_VM) || !(h & SK_HF_CS32) ||
            (image_segment(m, SK_DS).base | image_segment(m, SK_ES).base | image_segment(m, SK_SS).base))
            h |= SK_HF_ADDSEG;
    }
    image_set_u32(m, m->at->hflags, h);
}
