/* Mapping a descriptor where a mapping is already. */
#ifndef KVM_IOCTLS_MAPPING_H
#define KVM_IOCTLS_MAPPING_H

#include <stddef.h>
#include <stdint.h>

/* Maps `size` bytes of `fd` from `offset` on in place of those at `place`; 0 or -errno. */
int kvm_map(void *place, size_t size, int fd, uint64_t offset);

#endif
