/*
 * Page walks for the deliveries that the engine leaves to us (Intel SDM vol. 3 ch. 4).
 *
 * Assumes a loaded image.  Every table entry is read through sk_host(), so a table outside guest
 * memory is a missing page.  Accessed and dirty bits are set atomically, as the processor does.
 */
#include "machine.h"

enum { PTE_P = 1, PTE_W = 2, PTE_U = 4, PTE_A = 32, PTE_D = 64, PTE_PS = 128 };
#define PTE_NX (1ull << 63)
#define ADDRESS_MASK 0x000ffffffffff000ull

struct walk {
    struct sk_vcpu *v;
    struct sk_access access;
    uint64_t rights; /* AND of W and U over the levels, OR of NX */
};

static uint64_t read_entry(struct sk_vcpu *v, uint64_t gpa, unsigned size)
{
    uint64_t entry = 0;
    const uint8_t *host = sk_host(v->vm, gpa, size);

    if (host)
        memcpy(&entry, host, size);
    return entry;
}

static void set_bits(struct sk_vcpu *v, uint64_t gpa, uint8_t bits)
{
    uint8_t *host = sk_host(v->vm, gpa, 1);

    if (host && (*host & bits) != bits) {
        __atomic_fetch_or(host, bits, __ATOMIC_RELAXED);
        sk_dirty_mark(v->vm, gpa);
    }
}

static void fold(struct walk *w, uint64_t entry)
{
    w->rights = ((w->rights & entry) & (PTE_W | PTE_U)) | ((w->rights | entry) & PTE_NX);
}

static bool permitted(const struct walk *w)
{
    uint64_t cr0 = image_cr(&w->v->image, 0), cr4 = image_cr(&w->v->image, 4);
    bool user_page = w->rights & PTE_U;

    if (w->access.user && !user_page)
        return false;
    if (w->access.write && !(w->rights & PTE_W) && (w->access.user || (cr0 & SK_CR0_WP)))
        return false;
    if (w->access.fetch && (w->rights & PTE_NX))
        return false;
    if (!w->access.user && user_page && w->access.fetch && (cr4 & SK_CR4_SMEP))
        return false;
    return !(!w->access.user && user_page && !w->access.fetch && (cr4 & SK_CR4_SMAP) && w->access.implicit);
}

/* One walk in any of the three formats: `levels` of tables with `bits` index bits and entries of `size` bytes. */
static bool walk_tables(struct walk *w, uint64_t table, uint64_t linear, unsigned levels, unsigned bits, unsigned size, bool large,
                        uint64_t *gpa, bool *present)
{
    uint64_t nxe = image_u64(&w->v->image, w->v->image.at->efer) & SK_EFER_NXE;

    *present = true;
    for (unsigned level = levels; level-- > 0;) {
        unsigned shift = 12 + level * bits;
        uint64_t slot = table + (linear >> shift & ((1u << bits) - 1)) * size;
        uint64_t entry = read_entry(w->v, slot, size);
        bool leaf;

        if (!(entry & PTE_P)) {
            *present = false;
            return false;
        }
        if (!nxe || size == 4)
            entry &= ~PTE_NX;
        leaf = level == 0 || (level < levels - 1 && large && (entry & PTE_PS)) || (levels == 2 && level == 1 && large && (entry & PTE_PS));
        if (size == 8 && levels == 3 && level == 2) /* a PAE directory pointer carries no rights */
            entry |= PTE_W | PTE_U;
        else
            set_bits(w->v, slot, PTE_A);
        fold(w, entry);
        if (leaf) {
            uint64_t mask = (1ull << shift) - 1;

            if (!permitted(w))
                return false;
            if (w->access.write)
                set_bits(w->v, slot, PTE_D);
            if (size == 4 && level) /* PSE-36: bits 13-20 are address bits 32-39 */
                *gpa = (entry & 0xffc00000) | (entry >> 13 & 0xff) << 32 | (linear & mask);
            else
                *gpa = (entry & ADDRESS_MASK & ~mask) | (linear & mask);
            return true;
        }
        table = entry & (size == 4 ? 0xfffff000ull : ADDRESS_MASK);
    }
    return false;
}

bool sk_translate(struct sk_vcpu *v, uint64_t linear, struct sk_access access, uint64_t *gpa, struct sk_fault *fault)
{
    const struct sk_image *m = &v->image;
    uint64_t cr0 = image_cr(m, 0), cr3 = image_cr(m, 3), cr4 = image_cr(m, 4), efer = image_u64(m, m->at->efer);
    struct walk w = {v, access, PTE_W | PTE_U};
    bool present = true, found;

    if (!(efer & SK_EFER_LMA))
        linear &= 0xffffffff;
    if (!(cr0 & SK_CR0_PG)) {
        *gpa = linear;
        return true;
    }
    if (efer & SK_EFER_LMA) {
        found = (uint64_t)((int64_t)(linear << 16) >> 16) == linear; /* canonical */
        found = found && walk_tables(&w, cr3 & ADDRESS_MASK, linear, 4, 9, 8, true, gpa, &present);
    } else if (cr4 & SK_CR4_PAE) {
        found = walk_tables(&w, cr3 & 0xffffffe0, linear, 3, 9, 8, true, gpa, &present);
    } else {
        found = walk_tables(&w, cr3 & 0xfffff000, linear, 2, 10, 4, cr4 & SK_CR4_PSE, gpa, &present);
    }
    if (!found && fault) {
        fault->address = linear;
        fault->error = (uint32_t)(present | access.write << 1 | access.user << 2);
        if (access.fetch && ((efer & SK_EFER_NXE) || (cr4 & SK_CR4_SMEP)))
            fault->error |= 16;
    }
    return found;
}

/* Implicit supervisor accesses (descriptor tables, stacks of a new privilege level), page by page. */
static bool transfer(struct sk_vcpu *v, uint64_t linear, void *data, unsigned size, bool write, struct sk_fault *fault)
{
    struct sk_access access = {.write = write, .implicit = true};
    uint8_t *bytes = data;

    while (size) {
        unsigned chunk = (unsigned)(SK_PAGE - (linear & (SK_PAGE - 1)));
        uint64_t gpa;
        uint8_t *host;

        if (chunk > size)
            chunk = size;
        if (!sk_translate(v, linear, access, &gpa, fault))
            return false;
        host = sk_host(v->vm, gpa, chunk);
        if (!write && host)
            memcpy(bytes, host, chunk);
        else if (!write)
            memset(bytes, 0xff, chunk); /* nothing answers on the bus */
        else if (host) {
            memcpy(host, bytes, chunk);
            sk_dirty_mark(v->vm, gpa);
        }
        linear += chunk;
        bytes += chunk;
        size -= chunk;
    }
    return true;
}

bool sk_read_linear(struct sk_vcpu *v, uint64_t linear, void *data, unsigned size, struct sk_fault *fault)
{
    return transfer(v, linear, data, size, false, fault);
}

bool sk_write_linear(struct sk_vcpu *v, uint64_t linear, const void *data, unsigned size, struct sk_fault *fault)
{
    return transfer(v, linear, (void *)data, size, true, fault);
}
