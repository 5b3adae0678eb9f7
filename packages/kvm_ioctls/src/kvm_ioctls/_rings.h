/* Reading the rings that the kernel fills, with the memory ordering that they ask for. */
#ifndef KVM_IOCTLS_RINGS_H
#define KVM_IOCTLS_RINGS_H

#include "_newer.h"

/* Takes up to `room` entries from `start` on; returns how many.  `start` is below `entries`. */
unsigned kvm_harvest(struct kvm_dirty_gfn *ring, unsigned entries, unsigned start,
                     struct kvm_dirty_gfn *out, unsigned room);

/* Takes all entries of the ring in `size` bytes; `out` has room for as many as fit into them. */
unsigned kvm_drain_coalesced(void *page, unsigned size, struct kvm_coalesced_mmio *out);

#endif
