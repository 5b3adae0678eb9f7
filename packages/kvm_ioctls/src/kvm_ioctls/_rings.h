/* Reading the rings of dirty pages, with the memory ordering that they ask for. */
#ifndef KVM_IOCTLS_RINGS_H
#define KVM_IOCTLS_RINGS_H

#include "_newer.h"

/* Takes up to `room` entries from `start` on; returns how many.  `start` is below `entries`. */
unsigned kvm_harvest(struct kvm_dirty_gfn *ring, unsigned entries, unsigned start,
                     struct kvm_dirty_gfn *out, unsigned room);

#endif
