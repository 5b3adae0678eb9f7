/*
 * Reading the rings of dirty pages that the kernel fills.
 *
 * The caller keeps the mapping alive and lets one thread at a time read a ring.
 */
#include "_rings.h"

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
