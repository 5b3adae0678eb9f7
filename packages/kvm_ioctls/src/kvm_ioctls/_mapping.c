/*
 * Python's mmap() of a descriptor keeps a copy of it, so that a vCPU would cost two and KVM would
 * keep the machine until the mapping is gone, too.  So Python maps anonymous memory, and what is
 * wanted goes in its place: the mmap object unmaps whatever is there.
 *
 * The caller holds the object's buffer, so nobody unmaps it meanwhile.
 */
#define _GNU_SOURCE
#include "_mapping.h"

#include <errno.h>
#include <sys/mman.h>

int kvm_map(void *place, size_t size, int fd, uint64_t offset)
{
    void *mapped =
        mmap(place, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, (off_t)offset);
    return mapped == MAP_FAILED ? -errno : 0;
}
