/*
 * Reading the rings that the kernel fills.
 *
 * The caller keeps the mappings alive and lets one thread at a time read a ring.  The kernel writes
 * them, not the guest; indices are still checked before they are used.
 */
#include "_rings.h"

#include <string.h>

/*
 * api.rst, section 8.29: an entry is whole once its flag says DIRTY (acquire), and is given back by
 * saying RESET (release); entries are taken in order, none left out.
 */
unsigned kvm_harvest(struct kvm_dirty_gfn *ring, unsigned entries, unsigned start,
                     struct kvm_dirty_gfn *out, unsigned room)
{
    unsigned count = 0;

    while (count < room && count < entries) {
        struct kvm_dirty_gfn *entry = &ring[(start + count) % entries];
        if (__atomic_load_n(&entry->flags, __ATOMIC_ACQUIRE) != KVM_DIRTY_GFN_F_DIRTY)
            break;
        out[count].slot = entry->slot;
        out[count].offset = entry->offset;
        __atomic_store_n(&entry->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        count++;
    }
    return count;
}

/* The kernel moves `last` after it has written an entry, and reads `first` before it writes one. */
unsigned kvm_drain_coalesced(void *page, unsigned size, struct kvm_coalesced_mmio *out)
{
    struct kvm_coalesced_mmio_ring *ring = page;
    const struct kvm_coalesced_mmio *writes = (const void *)(ring + 1);
    unsigned entries = (size - sizeof *ring) / sizeof *out;
    unsigned last = __atomic_load_n(&ring->last, __ATOMIC_ACQUIRE) % entries;
    unsigned first = ring->first % entries;
    unsigned count = 0;

    for (; first != last; first = (first + 1) % entries)
        memcpy(&out[count++], &writes[first], sizeof *out);
    __atomic_store_n(&ring->first, first, __ATOMIC_RELEASE);
    return count;
}
